//! Every key there is, as data: what this version understands, and what it only knows of.
//!
//! A key is never ignored. Whoever builds a planned one deletes its line in [`PLANNED`] (and adds the key to
//! [`SECTIONS`] when it stands for itself), then reads it where its section is read.

use super::errors::{Place, Problems, nearest};
use super::tree::{Node, Table, Value};

/// One section and the keys in it that this version understands.
pub(super) struct Shape {
    /// Its name; empty for what stands before the first section.
    pub name: &'static str,
    /// Whether it is written `[[name]]` and may be there several times.
    pub repeated: bool,
    pub keys: &'static [&'static str],
}

const fn once(name: &'static str, keys: &'static [&'static str]) -> Shape {
    Shape { name, repeated: false, keys }
}

const fn repeated(name: &'static str, keys: &'static [&'static str]) -> Shape {
    Shape { name, repeated: true, keys }
}

/// What this version understands. `password` and other secrets also stand for themselves with `_file`.
pub(super) const SECTIONS: &[Shape] = &[
    once("", &["hostname", "data_dir", "shutdown_grace"]),
    repeated("listener", &["name", "address", "tls", "auth", "allow", "proxy_protocol", "trusted_proxies"]),
    once("tls", &["certificate_file", "key_file", "min_version"]),
    repeated("user", &["name", "password_hash", "password_hash_file", "senders", "scope", "rate"]),
    once(
        "limits",
        &[
            "message_size",
            "recipients",
            "messages_per_connection",
            "connections",
            "connections_per_ip",
            "receive_memory",
            "queue_memory",
            "auth_failures",
            "command_timeout",
            "data_timeout",
            "min_free",
        ],
    ),
    once("idempotency", &["header", "ttl", "fingerprint", "ignore_headers", "fallback_key", "observe"]),
    once("header", &["drop_bcc"]),
    once("store", &["backend"]),
    once("retry", &["base", "cap", "jitter", "expire_after", "warn_after", "on_failure"]),
    once("breaker", &["failures", "window", "open_for", "probes", "successes"]),
    repeated(
        "route",
        &[
            "name",
            "recipient_domains",
            "sender_domains",
            "users",
            "listeners",
            "transport",
            "path",
            "hosts",
            "weights",
            "preset",
            "port",
            "allow_private_addresses",
            "mta_sts",
            "address_family",
            "tls",
            "ca_file",
            "client_certificate_file",
            "client_key_file",
            "auth",
            "username",
            "password",
            "password_file",
            "oauth2_token_url",
            "oauth2_client_id",
            "oauth2_client_secret",
            "oauth2_client_secret_file",
            "oauth2_scope",
            "connections",
            "messages_per_connection",
            "connection_lifetime",
            "recipients_per_transaction",
            "idle_timeout",
            "rate",
            "source_addresses",
            "in_doubt",
            "forward_key_as",
        ],
    ),
    repeated("dkim", &["domain", "selector", "key_file"]),
    once("suppression", &["on_hard_bounce", "ttl"]),
    once("history", &["retention", "size"]),
    once("verify", &["syntax", "mx", "disposable_file"]),
    once("dns", &["servers", "timeout", "dnssec", "trust_anchor_file"]),
    repeated(
        "webhook",
        &["name", "url", "secret", "secret_file", "events", "ca_file", "timeout", "allow_http"],
    ),
    once("events", &["file", "file_size", "file_count", "events", "queue_limit"]),
    once("admin", &["address", "token", "token_file"]),
    repeated("admin_token", &["name", "token", "token_file", "role", "contents"]),
    once("log", &["format", "level", "addresses"]),
];

/// Which values of a planned key are not there yet.
pub(super) enum Values {
    /// The whole section.
    Section,
    /// The key, whatever it says.
    Any,
    /// Only these; the others are understood.
    Only(&'static [&'static str]),
}

/// Something that the reference configuration has and this version has not.
pub(super) struct Planned {
    pub section: &'static str,
    /// Empty for a whole section.
    pub key: &'static str,
    pub values: Values,
    /// What it would do: the subject of "… is not built in this version".
    pub what: &'static str,
}

const fn section(section: &'static str, what: &'static str) -> Planned {
    Planned { section, key: "", values: Values::Section, what }
}

const fn key(section: &'static str, key: &'static str, values: Values, what: &'static str) -> Planned {
    Planned { section, key, values, what }
}

/// What this version only knows of.
pub(super) const PLANNED: &[Planned] = &[
    section("http", "submission over HTTP"),
    key("store", "backend", Values::Only(&["postgres"]), "the PostgreSQL store"),
    key("store", "url", Values::Any, "the PostgreSQL store"),
    key("store", "url_file", Values::Any, "the PostgreSQL store"),
    key("store", "node", Values::Any, "the PostgreSQL store"),
    key("store", "lease", Values::Any, "the PostgreSQL store"),
];

/// The shape of a section that this version understands.
pub(super) fn shape(name: &str) -> Option<&'static Shape> {
    SECTIONS.iter().find(|shape| shape.name == name)
}

/// The whole section `name` as something planned.
pub(super) fn planned_section(name: &str) -> Option<&'static Planned> {
    PLANNED.iter().find(|planned| planned.section == name && planned.key.is_empty())
}

/// `value` of a key that has other values which are understood.
pub(super) fn planned_value(section: &str, key: &str, value: &str) -> Option<&'static Planned> {
    PLANNED.iter().find(|planned| {
        (planned.section, planned.key) == (section, key)
            && matches!(planned.values, Values::Only(values) if values.contains(&value))
    })
}

/// A key of which no value is understood.
fn planned_key(section: &str, key: &str) -> Option<&'static Planned> {
    PLANNED.iter().find(|planned| {
        (planned.section, planned.key) == (section, key) && !matches!(planned.values, Values::Only(_))
    })
}

/// Every key of a section, built or planned.
pub(super) fn keys_of(shape: &'static Shape) -> impl Iterator<Item = &'static str> {
    let planned = PLANNED.iter().filter(|planned| planned.section == shape.name && !planned.key.is_empty());
    shape.keys.iter().copied().chain(planned.map(|planned| planned.key))
}

/// Every section's name, built or planned.
pub(super) fn section_names() -> impl Iterator<Item = &'static str> {
    let planned = PLANNED.iter().filter(|planned| planned.key.is_empty()).map(|planned| planned.section);
    SECTIONS.iter().map(|shape| shape.name).filter(|name| !name.is_empty()).chain(planned)
}

/// Notes everything in the tree that no section would read: unknown names, wrong shapes, what is not built.
pub(super) fn check(root: &Table, problems: &Problems) {
    for (name, place, node) in root.iter() {
        if let Some(shape) = shape(name).filter(|_| !name.is_empty()) {
            check_section(shape, place, node, problems);
        } else if let Some(planned) = planned_section(name) {
            not_built(planned, &format!("`[{name}]`"), place, problems);
        } else if let Some(top) = shape("") {
            check_key(top, name, place, problems);
        }
    }
}

fn check_section(shape: &'static Shape, place: &Place, node: &Node, problems: &Problems) {
    let name = shape.name;
    match (&node.value, shape.repeated) {
        (Value::Table(table), false) => check_table(shape, table, problems),
        (Value::List(items), true) => {
            for item in items {
                match &item.value {
                    Value::Table(table) => check_table(shape, table, problems),
                    other => {
                        problems.add(&item.place, format!("`{name}` is {}, not a section", other.kind()))
                    }
                }
            }
        }
        (other, is_repeated) => {
            let header = if is_repeated { format!("[[{name}]]") } else { format!("[{name}]") };
            let what = format!("`{name}` is {} here", other.kind());
            problems.hint(place, what, format!("it is written as a section `{header}`"));
        }
    }
}

fn check_table(shape: &'static Shape, table: &Table, problems: &Problems) {
    for (key, place, _) in table.iter() {
        check_key(shape, key, place, problems);
    }
}

fn check_key(shape: &'static Shape, key: &str, place: &Place, problems: &Problems) {
    if shape.keys.contains(&key) {
        return;
    }
    if let Some(planned) = planned_key(shape.name, key) {
        not_built(planned, &format!("`{key}`"), place, problems);
        return;
    }
    let is_top = shape.name.is_empty();
    let place_name = match (is_top, shape.repeated) {
        (true, _) => String::new(),
        (false, true) => format!(" in [[{}]]", shape.name),
        (false, false) => format!(" in [{}]", shape.name),
    };
    let known: Vec<_> = keys_of(shape).chain(section_names().filter(|_| is_top)).collect();
    let hint = nearest(key, known.iter().copied())
        .map(|near| format!("did you mean `{near}`?"))
        .or_else(|| elsewhere(key))
        .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
    problems.hint(place, format!("unknown key `{key}`{place_name}"), hint);
}

/// Where a key would be right that is wrong where it stands.
fn elsewhere(key: &str) -> Option<String> {
    let shape = SECTIONS.iter().find(|shape| shape.keys.contains(&key))?;
    match (shape.name, shape.repeated) {
        ("", _) => Some(format!("`{key}` stands before the first section")),
        (name, true) => Some(format!("`{key}` is a key of [[{name}]]")),
        (name, false) => Some(format!("`{key}` is a key of [{name}]")),
    }
}

/// Refuses a section or a key that this version only knows of.
fn not_built(planned: &Planned, said: &str, place: &Place, problems: &Problems) {
    problems.hint(place, not_built_yet(said, planned), "leave it out");
}

/// The sentence that refuses what this version only knows of.
pub(super) fn not_built_yet(said: &str, planned: &Planned) -> String {
    format!("{said}: this version does not have it yet: {}", planned.what)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{read_config, tree};
    use super::*;

    /// A section with the keys it cannot do without, but for `key`, and then `line`.
    fn section_with(name: &str, key: &str, line: &str) -> String {
        let needed: &[(&str, &str)] = match name {
            "listener" => &[("name", "in"), ("address", "127.0.0.1:0"), ("tls", "none"), ("auth", "none")],
            "route" => route_for(key),
            "user" => &[("name", "u")],
            _ => &[],
        };
        let value = |key: &str, value: &str| match key {
            "hosts" => format!("[\"{value}\"]"),
            _ => format!("\"{value}\""),
        };
        let others: String = needed
            .iter()
            .filter(|(other, _)| *other != key)
            .map(|(other, text)| format!("{other} = {}\n", value(other, text)))
            .collect();
        let header = match shape(name) {
            Some(Shape { name: "", .. }) => String::new(),
            Some(Shape { repeated: true, .. }) => format!("[[{name}]]\n"),
            _ => format!("[{name}]\n"),
        };
        format!("{header}{others}{line}\n")
    }

    /// A route on which `key` belongs.
    fn route_for(key: &str) -> &'static [(&'static str, &'static str)] {
        match key {
            "path" => &[("name", "out"), ("transport", "directory")],
            "port" | "allow_private_addresses" | "mta_sts" | "address_family" => {
                &[("name", "out"), ("transport", "mx")]
            }
            key if key.starts_with("oauth2") => &[
                ("name", "out"),
                ("transport", "smarthost"),
                ("hosts", "h.example"),
                ("username", "u"),
                ("auth", "xoauth2"),
            ],
            _ => &[("name", "out"), ("transport", "smarthost"), ("hosts", "h.example"), ("username", "u")],
        }
    }

    /// What is said about the last line of `text`.
    fn said_about_the_last_line(text: &str) -> Vec<String> {
        let root = tree::parse(text, &Arc::from("f")).unwrap_or_else(|problem| panic!("{problem}"));
        let problems = Problems::default();
        check(&root, &problems);
        let config = read_config(&root, &problems);
        let errors = problems.finish(config, &root.place).expect_err("a configuration with problems");
        let last = Some(text.lines().count());
        let about = errors.problems().iter().filter(|problem| problem.place.line() == last);
        about.map(|problem| problem.what.clone()).collect()
    }

    #[test]
    fn every_key_that_is_understood_is_read() {
        for shape in SECTIONS {
            for key in shape.keys {
                let text = section_with(shape.name, key, &format!("{key} = 2026-11-22"));
                assert!(!said_about_the_last_line(&text).is_empty(), "nobody reads `{key}`:\n{text}");
            }
        }
    }

    #[test]
    fn everything_that_is_planned_is_refused() {
        for planned in PLANNED {
            let lines: Vec<String> = match planned.values {
                Values::Section => vec![String::new()],
                Values::Any => vec![format!("{} = \"x\"", planned.key)],
                Values::Only(values) => {
                    values.iter().map(|value| format!("{} = \"{value}\"", planned.key)).collect()
                }
            };
            for line in lines {
                let text = section_with(planned.section, planned.key, &line);
                let said = said_about_the_last_line(text.trim_end());
                let is_refused = said.iter().any(|what| what.contains("this version does not have it yet"));
                assert!(is_refused, "{text}{said:?}");
            }
        }
    }

    #[test]
    fn the_tables_do_not_contradict_each_other() {
        for planned in PLANNED {
            let built = shape(planned.section).is_some_and(|shape| shape.keys.contains(&planned.key));
            let is_value = matches!(planned.values, Values::Only(_));
            assert_eq!(built, is_value, "[{}] {}", planned.section, planned.key);
            assert_eq!(planned.key.is_empty(), shape(planned.section).is_none(), "{}", planned.section);
        }
    }
}
