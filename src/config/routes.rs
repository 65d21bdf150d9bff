//! `[[route]]`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::errors::{Problems, nearest};
use super::section::Section;
use super::tree::Table;
use super::{files, units};
use crate::relay::options::{Auth, Host, Hosts, InDoubt, Matches, Route, Secret, Smtp, TlsPolicy, Transport};
use crate::submission;

/// Submission (RFC 6409 §3.1), and submission over implicit TLS (RFC 8314 §3.3).
const SUBMISSION_PORT: u16 = 587;
const SUBMISSIONS_PORT: u16 = 465;

/// The keys that only one transport reads.
const SMARTHOST_KEYS: [&str; 13] = [
    "hosts",
    "tls",
    "ca_file",
    "username",
    "password",
    "password_file",
    "connections",
    "messages_per_connection",
    "recipients_per_transaction",
    "idle_timeout",
    "rate",
    "in_doubt",
    "forward_key_as",
];
const DIRECTORY_KEYS: [&str; 1] = ["path"];

#[derive(Clone, Copy)]
enum Kind {
    Smarthost,
    Directory,
}

/// Reads every route, in order.
pub(super) fn routes(
    root: &Table,
    problems: &Problems,
    submission: &submission::options::Options,
) -> Vec<Route> {
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
        let Some(route) = route(section, submission) else { continue };
        if let Some(first) = names.insert(route.name.clone(), section.place("name")) {
            let what = format!("there are two routes named {:?}", route.name);
            section.problem("name", what, format!("the first is at {first}"));
        }
        if let Some(first) = &catch_all {
            let what =
                format!("the route {:?} is never reached: {first:?} before it takes everything", route.name);
            section.problem("name", what, "the first match wins: put the route that takes everything last");
        } else if is_catch_all(&route.matches) {
            catch_all = Some(route.name.clone());
        }
        routes.push(route);
    }
    routes
}

fn is_catch_all(matches: &Matches) -> bool {
    matches.recipient_domains.is_empty()
        && matches.sender_domains.is_empty()
        && matches.users.is_empty()
        && matches.listeners.is_empty()
}

fn route(section: &Section<'_>, submission: &submission::options::Options) -> Option<Route> {
    let name = section.name("name");
    if !section.has("name") {
        section.problem("name", "a [[route]] without `name`", "name = \"provider\"");
    }
    let matches = matches(section, submission);
    if !section.has("transport") {
        let hint = "transport = \"smarthost\" or \"directory\"";
        section.problem("transport", "a [[route]] without `transport`", hint);
    }
    let choices = [("smarthost", Some(Kind::Smarthost)), ("directory", Some(Kind::Directory))];
    let transport = match section.choice("transport", None, &choices)? {
        Kind::Smarthost => {
            refuse_keys(section, &DIRECTORY_KEYS, "directory");
            smarthost(section).map(Transport::Smtp)
        }
        Kind::Directory => {
            refuse_keys(section, &SMARTHOST_KEYS, "smarthost");
            directory(section).map(Transport::Directory)
        }
    };
    let in_doubt =
        section.choice("in_doubt", InDoubt::Resend, &[("resend", InDoubt::Resend), ("hold", InDoubt::Hold)]);
    let forward_key_as = section.has("forward_key_as").then(|| section.name("forward_key_as")).flatten();
    Some(Route { name: name?, matches, transport: transport?, in_doubt, forward_key_as })
}

fn refuse_keys(section: &Section<'_>, keys: &[&str], transport: &str) {
    for key in keys.iter().filter(|key| section.has(key)) {
        section.problem(key, format!("`{key}` belongs to transport = \"{transport}\""), "leave it out");
    }
}

fn matches(section: &Section<'_>, submission: &submission::options::Options) -> Matches {
    let users: Vec<_> = submission.users.iter().map(|user| user.name.as_str()).collect();
    let listeners: Vec<_> = submission.listeners.iter().map(|listener| listener.name.as_str()).collect();
    for key in ["recipient_domains", "sender_domains", "users", "listeners"] {
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

fn smarthost(section: &Section<'_>) -> Option<Smtp> {
    let tls = section.choice(
        "tls",
        TlsPolicy::Required,
        &[("required", TlsPolicy::Required), ("implicit", TlsPolicy::Implicit), ("none", TlsPolicy::None)],
    );
    let hosts = hosts(section, tls);
    let ca_file = section.path("ca_file");
    if let Some(Err(error)) = ca_file.as_deref().map(files::certificates) {
        section.problems.add(section.place("ca_file"), format!("`ca_file`: {error}"));
    }
    let auth = auth(section, tls, &hosts);
    (!hosts.is_empty()).then(|| Smtp {
        tls,
        ca_file,
        auth,
        connections: usize::from(section.number::<u16>("connections", 20, &(1..=10_000))),
        messages_per_connection: section.number("messages_per_connection", 100, &(1..=1_000_000)),
        idle_timeout: section.duration(
            "idle_timeout",
            Duration::from_secs(30),
            &(Duration::from_secs(1)..=Duration::from_secs(3_600)),
        ),
        rate: section.rate("rate"),
        recipients_per_transaction: usize::from(section.number::<u16>(
            "recipients_per_transaction",
            100,
            &(1..=10_000),
        )),
        ..Smtp::new(Hosts::in_order(hosts))
    })
}

fn hosts(section: &Section<'_>, tls: TlsPolicy) -> Vec<Host> {
    let port = if tls == TlsPolicy::Implicit { SUBMISSIONS_PORT } else { SUBMISSION_PORT };
    let hosts = section.parsed_list("hosts", |text| units::host(text, port)).unwrap_or_default();
    if section.list_is_empty("hosts") || !section.has("hosts") {
        let what = "a route with transport = \"smarthost\" without `hosts`";
        section.problem("hosts", what, "hosts = [\"smtp.example.com:587\"]");
    }
    hosts
}

fn auth(section: &Section<'_>, tls: TlsPolicy, hosts: &[Host]) -> Option<Auth> {
    let has_password = section.has("password") || section.has("password_file");
    if !section.has("username") {
        if has_password {
            section.problem("password", "a password without `username`", "username = \"apikey\"");
        }
        return None;
    }
    if !has_password {
        let hint = "password_file = \"/run/secrets/provider\", or ONCEMAIL_SMARTHOST_PASSWORD_FILE";
        section.problem("username", "`username` without a password", hint);
    }
    let stranger = hosts.iter().find(|host| !is_loopback(host)).filter(|_| tls == TlsPolicy::None);
    if let Some(host) = stranger {
        let what = format!("the password would go to {host} in plain text");
        section.problem("tls", what, "say tls = \"required\" or \"implicit\"");
    }
    let username = section.name("username");
    let password = section.secret("password")?;
    Some(Auth { username: username?, with: Secret::Password(password) })
}

fn is_loopback(host: &Host) -> bool {
    host.name == "localhost" || host.name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
