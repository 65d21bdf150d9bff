//! What a configuration says, key by key: to compare two of them, and to show one without its secrets.
//!
//! What files hold that it names is compared too, so that a new password in an old file is a change. Nothing in here is
//! ever printed but through [`Said::shown`], which hides what may be a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::files;
use super::keys;
use super::tree::{Node, Table, Value};

/// Stands for a secret.
const HIDDEN: &str = "…";

/// See the module.
#[derive(Clone, Default)]
pub struct Said {
    parts: BTreeMap<At, Part>,
    /// The names in each repeated section, in their order.
    order: BTreeMap<String, Vec<String>>,
}

/// Where a key stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    /// Empty for what stands before the first section.
    section: String,
    /// Which of a repeated section.
    name: Option<String>,
    key: String,
}

#[derive(Clone)]
struct Part {
    /// Of the value, and of what the file holds that it names.
    digest: blake3::Hash,
    shown: Json,
}

/// What is different in a new configuration, by name: `limits.message_size`, `route "provider"`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// What can be brought into force while everything runs.
    pub changed: Vec<String>,
    /// What only a restart brings into force.
    pub needs_restart: Vec<String>,
}

impl Said {
    /// What `root` says.
    pub(super) fn of(root: &Table) -> Self {
        let mut said = Self::default();
        for (name, _, node) in root.iter() {
            match &node.value {
                Value::Table(table) => said.add(name, None, table),
                Value::List(items) if keys::shape(name).is_none_or(|shape| shape.repeated) => {
                    for (number, item) in items.iter().enumerate() {
                        let Value::Table(table) = &item.value else { continue };
                        let own = name_of(name, number, table);
                        said.order.entry(name.to_owned()).or_default().push(own.clone());
                        said.add(name, Some(own), table);
                    }
                }
                _ => said.note("", None, name, node),
            }
        }
        said
    }

    fn add(&mut self, section: &str, name: Option<String>, table: &Table) {
        for (key, _, node) in table.iter() {
            self.note(section, name.clone(), key, node);
        }
    }

    fn note(&mut self, section: &str, name: Option<String>, key: &str, node: &Node) {
        let at = At { section: section.to_owned(), name, key: key.to_owned() };
        self.parts.insert(at, Part { digest: digest(key, &node.value), shown: shown(key, &node.value) });
    }

    /// What is in force when everything has been taken over from `next` that can be without a restart, and what has become
    /// different by it. What has not been taken over stays different, and is named again the next time.
    pub fn followed_by(&self, next: &Self) -> (Self, Difference) {
        let (mut changed, mut needs_restart) = (BTreeSet::new(), BTreeSet::new());
        let mut in_force = Self { parts: next.parts.clone(), order: next.order.clone() };
        let places: BTreeSet<&At> = self.parts.keys().chain(next.parts.keys()).collect();
        for at in places {
            let (before, after) = (self.parts.get(at), next.parts.get(at));
            let is_same = before.map(|part| part.digest) == after.map(|part| part.digest);
            if self.is_live(next, at) {
                if !is_same {
                    changed.insert(at.label());
                }
                continue;
            }
            if !is_same {
                needs_restart.insert(self.restart_label(next, at));
            }
            match before {
                Some(part) => in_force.parts.insert(at.clone(), part.clone()),
                None => in_force.parts.remove(at),
            };
        }
        if self.common_order(next) != next.common_order(self) {
            changed.insert("the order of [[route]]".to_owned());
        }
        in_force.complete_order(self);
        let list = |names: BTreeSet<String>| names.into_iter().collect();
        (in_force, Difference { changed: list(changed), needs_restart: list(needs_restart) })
    }

    /// Whether a key can be brought into force while everything runs. Whoever builds a part that can be told anew adds its
    /// section.
    fn is_live(&self, next: &Self, at: &At) -> bool {
        match (at.section.as_str(), at.key.as_str()) {
            ("", "shutdown_grace") | ("suppression", "ttl") | ("log", "level") => true,
            ("admin", "token" | "token_file") => true,
            (
                "limits" | "idempotency" | "header" | "retry" | "breaker" | "route" | "dkim" | "user"
                | "verify" | "dns" | "tls" | "history" | "webhook" | "events" | "admin_token",
                _,
            ) => true,
            ("listener", _) => self.has_same_address(next, at),
            _ => false,
        }
    }

    /// Whether a listener stays where it is. One that moves keeps all that it says: it may be too little elsewhere.
    fn has_same_address(&self, next: &Self, at: &At) -> bool {
        let address = At { key: "address".to_owned(), ..at.clone() };
        let digest = |said: &Self| said.parts.get(&address).map(|part| part.digest);
        digest(self).is_some() && digest(self) == digest(next)
    }

    fn restart_label(&self, next: &Self, at: &At) -> String {
        let is_there = |said: &Self| {
            let names = said.order.get(&at.section);
            names.is_some_and(|names| at.name.as_ref().is_some_and(|name| names.contains(name)))
        };
        match at.section.as_str() {
            "listener" if is_there(self) && is_there(next) => format!("{}.{}", at.label(), at.key),
            _ => at.label(),
        }
    }

    /// The routes that `other` has too: the first match wins.
    fn common_order(&self, other: &Self) -> Vec<&String> {
        let names = |said: &Self| said.order.get("route").cloned().unwrap_or_default();
        let others = names(other);
        let own = self.order.get("route").map(Vec::as_slice).unwrap_or_default();
        own.iter().filter(|name| others.contains(name)).collect()
    }

    /// The names of what is left, with those that only `before` has at the end.
    fn complete_order(&mut self, before: &Self) {
        for (section, names) in &before.order {
            let own = self.order.entry(section.clone()).or_default();
            let missing: Vec<_> = names.iter().filter(|name| !own.contains(name)).cloned().collect();
            own.extend(missing);
        }
        for (section, names) in &mut self.order {
            let has = |name: &String| {
                self.parts.keys().any(|at| at.section == *section && at.name.as_ref() == Some(name))
            };
            names.retain(has);
        }
    }

    /// As JSON, in the shape of the file, with `…` in the place of what may be a secret.
    pub fn shown(&self) -> Json {
        let mut root = Map::new();
        for (at, part) in self.parts.iter().filter(|(at, _)| at.name.is_none()) {
            if at.section.is_empty() {
                root.insert(at.key.clone(), part.shown.clone());
                continue;
            }
            let section = root.entry(at.section.clone()).or_insert_with(|| Json::Object(Map::new()));
            if let Json::Object(section) = section {
                section.insert(at.key.clone(), part.shown.clone());
            }
        }
        for (section, names) in &self.order {
            let one = |name: &String| {
                let own = self.parts.iter();
                let own = own.filter(|(at, _)| at.section == *section && at.name.as_ref() == Some(name));
                own.map(|(at, part)| (at.key.clone(), part.shown.clone())).collect::<Map<_, _>>().into()
            };
            root.insert(section.clone(), names.iter().map(one).collect::<Vec<Json>>().into());
        }
        root.into()
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Said").finish_non_exhaustive()
    }
}

impl At {
    /// `limits.message_size`, `route "provider"`.
    fn label(&self) -> String {
        let Self { section, name, key } = self;
        match name {
            Some(name) => format!("{section} {name:?}"),
            None if section.is_empty() => key.clone(),
            None => format!("{section}.{key}"),
        }
    }
}

/// Which of a repeated section this is: by its name, or by its place.
fn name_of(section: &str, number: usize, table: &Table) -> String {
    let text = |key: &str| match table.get(key).map(|node| &node.value) {
        Some(Value::Text(text) | Value::Loose(text)) => Some(text.as_str()),
        _ => None,
    };
    match (section, text("name"), text("selector"), text("domain")) {
        (_, Some(name), _, _) => name.to_owned(),
        ("dkim", _, Some(selector), Some(domain)) => format!("{selector}._domainkey.{domain}"),
        _ => (number + 1).to_string(),
    }
}

fn digest(key: &str, value: &Value) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    feed(&mut hasher, value);
    if let Value::Text(path) | Value::Loose(path) = value
        && key.ends_with("_file")
        && let Ok(octets) = files::bytes(Path::new(path))
    {
        hasher.update(&octets);
    }
    hasher.finalize()
}

/// One-to-one: each value with its kind and its length in front.
fn feed(hasher: &mut blake3::Hasher, value: &Value) {
    let mut octets = |kind: u8, octets: &[u8]| {
        hasher.update(&[kind]);
        hasher.update(&(octets.len() as u64).to_le_bytes());
        hasher.update(octets);
    };
    match value {
        Value::Text(text) | Value::Loose(text) => octets(0, text.as_bytes()),
        Value::Integer(number) => octets(1, &number.unwrap_or_default().to_le_bytes()),
        Value::Boolean(value) => octets(2, &[u8::from(*value)]),
        Value::Other(kind) => octets(3, kind.as_bytes()),
        Value::List(items) => {
            octets(4, &(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| feed(hasher, &item.value));
        }
        Value::Table(table) => {
            octets(5, &(table.iter().count() as u64).to_le_bytes());
            for (key, _, node) in table.iter() {
                feed(hasher, &Value::text(key));
                feed(hasher, &node.value);
            }
        }
    }
}

fn shown(key: &str, value: &Value) -> Json {
    match value {
        _ if is_secret(key) => HIDDEN.into(),
        Value::Text(text) | Value::Loose(text) => shown_text(key, text).into(),
        Value::Integer(number) => (*number).into(),
        Value::Boolean(value) => (*value).into(),
        Value::Other(_) => Json::Null,
        Value::List(items) => items.iter().map(|item| shown(key, &item.value)).collect::<Vec<_>>().into(),
        Value::Table(table) => {
            table.iter().map(|(key, _, node)| (key.to_owned(), shown(key, &node.value))).collect()
        }
    }
}

/// A path to a secret is none.
pub(super) fn is_secret(key: &str) -> bool {
    let may_hold_one = ["password", "secret", "token"].iter().any(|word| key.contains(word));
    may_hold_one && !key.ends_with("_file") && !key.ends_with("_url")
}

/// What a key says, for a sentence about a mistake: whole, but for URLs, also those that are none.
pub(super) fn quoted(key: &str, text: &str) -> String {
    let is_url = key == "url" || key.ends_with("_url");
    match text.contains("://") {
        _ if !is_url => format!("{text:?}"),
        true => format!("{:?}", shown_text("url", text)),
        false => "no URL".to_owned(),
    }
}

/// A URL without what may prove who asks: a user, a query, and the path of one that is called to be told something.
fn shown_text(key: &str, text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{HIDDEN}@{host}"),
        None => authority.to_owned(),
    };
    let path = match path.split_once(['?', '#']) {
        _ if key == "url" && path.len() > 1 => format!("/{HIDDEN}"),
        Some((path, _)) => format!("{path}?{HIDDEN}"),
        None => path.to_owned(),
    };
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tree;
    use super::*;

    fn said(text: &str) -> Said {
        Said::of(&tree::parse(text, &Arc::from("f")).unwrap_or_else(|problem| panic!("{problem}")))
    }

    fn difference(before: &str, after: &str) -> (Vec<String>, Vec<String>) {
        let (_, Difference { changed, needs_restart }) = said(before).followed_by(&said(after));
        (changed, needs_restart)
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_difference_is_named_by_section_and_key_or_by_name() {
        let before = "hostname = \"a\"\n[limits]\nrecipients = 1\n[store]\nbackend = \"embedded\"\n\
                      [[route]]\nname = \"r\"\ntls = \"none\"\n[[route]]\nname = \"gone\"\n[[user]]\nname = \"u\"\npassword_hash = \"x\"\n\
                      [[dkim]]\ndomain = \"d.example\"\nselector = \"s\"\n";
        let after = "hostname = \"b\"\nshutdown_grace = \"1s\"\n[limits]\nrecipients = 2\n\
                     [[route]]\nname = \"r\"\n[[user]]\nname = \"u\"\npassword_hash = \"y\"\n[[user]]\nname = \"v\"\n[log]\nlevel = \"debug\"\nformat = \"json\"\n";
        let changed = [
            "dkim \"s._domainkey.d.example\"",
            "limits.recipients",
            "log.level",
            "route \"gone\"",
            "route \"r\"",
            "shutdown_grace",
            "user \"u\"",
            "user \"v\"",
        ];
        let restart = ["hostname", "log.format", "store.backend"];
        assert_eq!(difference(before, after), (strings(&changed), strings(&restart)));
        assert_eq!(difference(before, before), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_needs_a_restart_is_named_until_there_is_one_and_does_not_count_as_in_force() {
        let before = said("hostname = \"a\"\n[[listener]]\nname = \"in\"\naddress = \"127.0.0.1:1\"\n");
        let next = said(
            "hostname = \"b\"\n[[listener]]\nname = \"in\"\naddress = \"127.0.0.1:2\"\n[[listener]]\nname = \"new\"\naddress = \"127.0.0.1:3\"\n",
        );
        let (in_force, first) = before.followed_by(&next);
        let expected = strings(&["hostname", "listener \"in\".address", "listener \"new\""]);
        assert_eq!((first.changed, &first.needs_restart), (Vec::new(), &expected));
        assert_eq!(in_force.shown(), before.shown());
        assert_eq!(in_force.followed_by(&next).1.needs_restart, expected);
        assert_eq!(in_force.followed_by(&before).1, Difference::default());
    }

    #[test]
    fn a_listener_that_stays_where_it_is_is_told_anew_and_one_that_moves_is_not() {
        let one = |address: &str, auth: &str| {
            format!("[[listener]]\nname = \"in\"\naddress = \"127.0.0.1:{address}\"\nauth = \"{auth}\"\n")
        };
        let changed = strings(&["listener \"in\""]);
        assert_eq!(difference(&one("1", "none"), &one("1", "required")), (changed, Vec::new()));
        let restart = strings(&["listener \"in\".address", "listener \"in\".auth"]);
        assert_eq!(difference(&one("1", "none"), &one("2", "required")), (Vec::new(), restart));
    }

    #[test]
    fn the_order_of_routes_counts() {
        let (a, b) = ("[[route]]\nname = \"a\"\n", "[[route]]\nname = \"b\"\n");
        let order = strings(&["the order of [[route]]"]);
        assert_eq!(difference(&format!("{a}{b}"), &format!("{b}{a}")), (order, Vec::new()));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    fn what_a_named_file_holds_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        let text = format!("[[route]]\nname = \"r\"\npassword_file = {:?}\n", file.display().to_string());
        std::fs::write(&file, "one").unwrap();
        let before = said(&text);
        assert_eq!(before.followed_by(&said(&text)).1, Difference::default());
        std::fs::write(&file, "two").unwrap();
        assert_eq!(before.followed_by(&said(&text)).1.changed, strings(&["route \"r\""]));
    }

    #[test]
    fn no_secret_is_shown() {
        let text = "data_dir = \"/d\"\n[admin]\ntoken = \"S1\"\n[[user]]\nname = \"u\"\npassword_hash = \"S2\"\n\
                    [[route]]\nname = \"r\"\npassword = \"S3\"\noauth2_client_secret = \"S4\"\npassword_file = \"/p\"\noauth2_token_url = \"https://S5:S6@h/t?S7\"\n\
                    weights = [1, 2]\n[[webhook]]\nurl = \"https://S8@h.example/S9/S10?S11\"\nsecret = \"S12\"\nevents = [\"held\"]\n[store]\nurl = \"postgres://u:S13@db/S14\"\n";
        let shown = said(text).shown();
        assert!(!shown.to_string().contains('S'), "{shown}");
        let expected = serde_json::json!({
            "data_dir": "/d",
            "admin": { "token": "…" },
            "user": [{ "name": "u", "password_hash": "…" }],
            "route": [{ "name": "r", "password": "…", "oauth2_client_secret": "…", "password_file": "/p",
                        "oauth2_token_url": "https://…@h/t?…", "weights": [1, 2] }],
            "webhook": [{ "url": "https://…@h.example/…", "secret": "…", "events": ["held"] }],
            "store": { "url": "postgres://…@db/…" },
        });
        assert_eq!(shown, expected);
        assert!(!format!("{:?}", said(text)).contains('1'));
    }
}
