//! `[[route]]`: when each applies and where it leads. How it gets there over SMTP is read in `smtp.rs`.

use std::collections::HashMap;
use std::path::PathBuf;

use super::errors::{Problems, nearest};
use super::section::Section;
use super::settings::forwarded_field_name;
use super::tree::Table;
use super::{smtp, units};
use crate::relay::options::{InDoubt, Matches, Route, Transport};
use crate::submission;

/// When a route applies.
const CONDITIONS: [&str; 4] = ["recipient_domains", "sender_domains", "users", "listeners"];
/// The keys of SMTP to whatever host.
const SMTP_KEYS: &[&str] = &[
    "tls",
    "ca_file",
    "client_certificate_file",
    "client_key_file",
    "connections",
    "messages_per_connection",
    "connection_lifetime",
    "recipients_per_transaction",
    "idle_timeout",
    "rate",
    "source_addresses",
    "in_doubt",
    "forward_key_as",
];
/// The keys of SMTP to hosts that the route names.
const SMARTHOST_KEYS: &[&str] = &[
    "hosts",
    "weights",
    "preset",
    "auth",
    "username",
    "password",
    "password_file",
    "oauth2_token_url",
    "oauth2_client_id",
    "oauth2_client_secret",
    "oauth2_client_secret_file",
    "oauth2_scope",
];
/// The keys of SMTP to hosts that the recipient's domain names.
const MX_KEYS: &[&str] = &["port", "allow_private_addresses", "mta_sts", "address_family"];
const DIRECTORY_KEYS: &[&str] = &["path"];
/// How the keys of [`SMARTHOST_KEYS`] begin that prove who we are.
const CREDENTIALS: [&str; 4] = ["auth", "username", "password", "oauth2"];

/// Whose keys they are, as a sentence says it.
const OWNERS: [(&str, &[&str], &[Kind]); 4] = [
    ("transport = \"smarthost\" or \"mx\"", SMTP_KEYS, &[Kind::Smarthost, Kind::Mx]),
    ("transport = \"smarthost\"", SMARTHOST_KEYS, &[Kind::Smarthost]),
    ("transport = \"mx\"", MX_KEYS, &[Kind::Mx]),
    ("transport = \"directory\"", DIRECTORY_KEYS, &[Kind::Directory]),
];

/// `transport`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Smarthost,
    Mx,
    Directory,
    Discard,
}

/// What a route must know of the rest of the configuration.
pub(super) struct Around<'a> {
    /// Names of users and listeners, and where we listen ourselves.
    pub submission: &'a submission::options::Options,
    /// `dns.dnssec`.
    pub dnssec: bool,
}

/// Reads every route, in order.
pub(super) fn routes(root: &Table, problems: &Problems, around: &Around<'_>) -> Vec<Route> {
    let sections = Section::repeated(root, "route", problems);
    if sections.is_empty() && !root.contains("route") {
        let hint = "[[route]] with name, transport = \"smarthost\" and hosts = [\"smtp.example.com:587\"], \
                    or set ONCEMAIL_SMARTHOST";
        problems.hint(&root.place, "there is no [[route]]: mail would have nowhere to go", hint);
    }
    let mut names = HashMap::new();
    let mut catch_all: Option<String> = None;
    let mut routes = Vec::new();
    for section in &sections {
        let Some(route) = route(section, around) else { continue };
        if let Some(first) = names.insert(route.name.clone(), section.place("name")) {
            let what = format!("there are two routes named {:?}", route.name);
            section.problem("name", what, format!("the first is at {first}"));
        }
        if let Some(first) = &catch_all {
            let what =
                format!("the route {:?} is never reached: {first:?} before it takes everything", route.name);
            section.problem("name", what, "the first match wins: put the route that takes everything last");
        } else if is_catch_all(section) {
            catch_all = Some(route.name.clone());
        }
        routes.push(route);
    }
    if let [_, .., last] = sections.as_slice()
        && !sections.iter().any(is_catch_all)
    {
        let what = "no route takes everything: mail that none of them matches would wait until it expires";
        let hint = "put one last without recipient_domains, sender_domains, users and listeners; \
                    transport = \"discard\" is one too";
        last.problem("name", what, hint);
    }
    routes
}

/// A condition that is written but wrong is still a condition.
fn is_catch_all(section: &Section<'_>) -> bool {
    !CONDITIONS.into_iter().any(|key| section.has(key))
}

fn route(section: &Section<'_>, around: &Around<'_>) -> Option<Route> {
    let name = section.name("name");
    if !section.has("name") {
        section.problem("name", "a [[route]] without `name`", "name = \"provider\"");
    }
    let matches = matches(section, around.submission);
    if !section.has("transport") {
        let hint = "transport = \"smarthost\", \"mx\", \"directory\" or \"discard\"";
        section.problem("transport", "a [[route]] without `transport`", hint);
    }
    let choices = [
        ("smarthost", Some(Kind::Smarthost)),
        ("mx", Some(Kind::Mx)),
        ("directory", Some(Kind::Directory)),
        ("discard", Some(Kind::Discard)),
    ];
    let kind = section.choice("transport", None, &choices)?;
    refuse_foreign_keys(section, kind);
    let transport = match kind {
        Kind::Smarthost => smtp::smarthost(section, around).map(Transport::Smtp),
        Kind::Mx => smtp::mx(section, around).map(Transport::Smtp),
        Kind::Directory => directory(section).map(Transport::Directory),
        Kind::Discard => Some(Transport::Discard),
    };
    let (in_doubt, forward_key_as) = match kind {
        Kind::Smarthost | Kind::Mx => (in_doubt(section), forward_key_as(section)),
        Kind::Directory | Kind::Discard => (InDoubt::Resend, None),
    };
    Some(Route { name: name?, matches, transport: transport?, in_doubt, forward_key_as })
}

fn in_doubt(section: &Section<'_>) -> InDoubt {
    let choices = [("resend", InDoubt::Resend), ("hold", InDoubt::Hold)];
    section.choice("in_doubt", InDoubt::Resend, &choices)
}

/// The field's name; an empty one is none.
fn forward_key_as(section: &Section<'_>) -> Option<String> {
    let name = |text: &str| match text {
        "" => Ok(None),
        name => forwarded_field_name(name).map(Some),
    };
    section.parsed("forward_key_as", name).flatten()
}

/// A key that says nothing for this transport would be ignored: it is refused.
fn refuse_foreign_keys(section: &Section<'_>, kind: Kind) {
    for (owner, keys, _) in OWNERS.iter().filter(|(_, _, kinds)| !kinds.contains(&kind)) {
        for key in keys.iter().filter(|key| section.has(key)) {
            let hint = if kind == Kind::Mx && CREDENTIALS.iter().any(|start| key.starts_with(start)) {
                "leave it out: the hosts of a recipient's domain are told no credentials"
            } else {
                "leave it out"
            };
            section.problem(key, format!("`{key}` belongs to {owner}"), hint);
        }
    }
}

fn matches(section: &Section<'_>, submission: &submission::options::Options) -> Matches {
    let users: Vec<_> = submission.users.iter().map(|user| user.name.as_str()).collect();
    let listeners: Vec<_> = submission.listeners.iter().map(|listener| listener.name.as_str()).collect();
    for key in CONDITIONS {
        // An empty list matches everything: whoever wrote it may have meant "nothing".
        if section.list_is_empty(key) {
            section.problem(key, format!("`{key}` is empty"), "leave it out to match everything");
        }
    }
    Matches {
        recipient_domains: section
            .parsed_list("recipient_domains", units::domain_pattern)
            .unwrap_or_default(),
        sender_domains: section.parsed_list("sender_domains", units::domain_pattern).unwrap_or_default(),
        users: section.parsed_list("users", |name| known(name, &users, "[[user]]")).unwrap_or_default(),
        listeners: section
            .parsed_list("listeners", |name| known(name, &listeners, "[[listener]]"))
            .unwrap_or_default(),
    }
}

fn known(name: &str, names: &[&str], what: &str) -> Result<String, String> {
    if names.contains(&name) {
        return Ok(name.to_owned());
    }
    match nearest(name, names.iter().copied()) {
        Some(near) => Err(format!("the name of a {what}: did you mean {near:?}?")),
        None => Err(format!("the name of a {what}")),
    }
}

fn directory(section: &Section<'_>) -> Option<PathBuf> {
    if !section.has("path") {
        let what = "a route with transport = \"directory\" without `path`";
        section.problem("path", what, "path = \"./mail\": one .eml file a message is put there");
    }
    let path = section.path("path")?;
    if path.exists() && !path.is_dir() {
        let what = format!("`path`: {} is not a directory", path.display());
        section.problem("path", what, "it is made when it is not there");
        return None;
    }
    Some(path)
}
