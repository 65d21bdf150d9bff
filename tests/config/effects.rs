//! No key is taken and then forgotten: each changes what the parts are told.

use std::collections::BTreeSet;

use oncemail::config::Config;
use oncemail::relay::options::{Secret, Transport};

use super::{Files, HASH, every_key};

/// Each key, and a value that is not the one of [`base`].
const OTHERS: &[(&str, &str)] = &[
    ("hostname", "other.example"),
    ("data_dir", "/elsewhere"),
    ("shutdown_grace", "7s"),
    ("listener.name", "other"),
    ("listener.address", "127.0.0.1:9"),
    ("listener.tls", "implicit"),
    ("listener.auth", "optional"),
    ("listener.allow", "10.0.0.0/8"),
    ("tls.certificate_file", "{other}"),
    ("tls.key_file", "{other_key}"),
    ("tls.min_version", "1.3"),
    ("user.name", "other"),
    ("user.password_hash", "{other_hash}"),
    ("user.senders", "<>"),
    ("user.scope", "other"),
    ("user.rate", "7/h"),
    ("limits.message_size", "7KB"),
    ("limits.recipients", "7"),
    ("limits.messages_per_connection", "7"),
    ("limits.connections", "7"),
    ("limits.connections_per_ip", "7"),
    ("limits.receive_memory", "77MB"),
    ("limits.queue_memory", "7MB"),
    ("limits.auth_failures", "7/h"),
    ("limits.command_timeout", "7s"),
    ("limits.data_timeout", "7s"),
    ("limits.min_free", "7MB"),
    ("idempotency.header", "X-Other"),
    ("idempotency.ttl", "7s"),
    ("idempotency.fingerprint", "exact"),
    ("idempotency.ignore_headers", "X-Other"),
    ("idempotency.fallback_key", "content"),
    ("idempotency.observe", "true"),
    ("header.drop_bcc", "true"),
    ("retry.base", "7s"),
    ("retry.cap", "7m"),
    ("retry.jitter", "none"),
    ("retry.expire_after", "7d"),
    ("breaker.failures", "7"),
    ("breaker.window", "7s"),
    ("breaker.open_for", "7s"),
    ("breaker.probes", "7"),
    ("breaker.successes", "7"),
    ("route.name", "other"),
    ("route.recipient_domains", "other.example"),
    ("route.sender_domains", "other.example"),
    ("route.users", "shop"),
    ("route.listeners", "in"),
    ("route.hosts", "other.example"),
    ("route.tls", "implicit"),
    ("route.ca_file", "{other}"),
    ("route.username", "other"),
    ("route.password_file", "{other}"),
    ("route.connections", "7"),
    ("route.messages_per_connection", "7"),
    ("route.recipients_per_transaction", "7"),
    ("route.idle_timeout", "7s"),
    ("route.rate", "7/h"),
    ("route.path", "/elsewhere"),
    ("log.format", "text"),
    ("log.level", "warn"),
];

/// Keys of which this version understands one value only, and `transport`, of which the base has both.
const FIXED: &[&str] =
    &["store.backend", "retry.on_failure", "route.transport", "route.in_doubt", "log.addresses"];

fn base(certificate: &str, key: &str) -> String {
    format!(
        "hostname = \"relay.example\"\n[idempotency]\nfallback_key = \"message-id\"\n\
         [tls]\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n\
         [[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\n\
         [[user]]\nname = \"shop\"\npassword_hash = \"{HASH}\"\n\
         [[route]]\nname = \"out\"\ntransport = \"smarthost\"\nhosts = [\"smtp.example.com\"]\n\
         recipient_domains = [\"corp.example\"]\nusername = \"u\"\npassword = \"p\"\n\
         [[route]]\nname = \"files\"\ntransport = \"directory\"\npath = \"./mail\"\n"
    )
}

/// All that the parts are told, secrets included.
fn told(config: &Config) -> String {
    let users = config.submission.users.iter();
    let users: Vec<_> = users.map(|user| (&user.password_hash, &user.senders, user.rate)).collect();
    let passwords: Vec<_> = config
        .relay
        .routes
        .iter()
        .filter_map(|route| match &route.transport {
            Transport::Smtp(smarthost) => smarthost.auth.as_ref(),
            Transport::Directory(_) | Transport::Discard => None,
        })
        .filter_map(|auth| match &auth.with {
            Secret::Password(password) => Some(password.as_str()),
            Secret::OAuth2(_) => None,
        })
        .collect();
    format!("{config:?}{users:?}{passwords:?}")
}

#[test]
fn every_key_changes_what_the_parts_are_told() {
    let files = Files::new();
    let (certificate, key) = files.certificate("one");
    let (other, other_key) = files.certificate("other");
    let text = base(&certificate.display().to_string(), &key.display().to_string());
    let before = told(&files.load(&text, &[]).unwrap_or_else(|errors| panic!("{errors}")));
    for (name, value) in OTHERS {
        let value = value
            .replace("{other}", &other.display().to_string())
            .replace("{other_key}", &other_key.display().to_string())
            .replace("{other_hash}", &HASH.replace("t=2", "t=3"));
        let variable = |name: &str| {
            let index = if name == "route.path" { "__1__" } else { "__0__" };
            let separator = match name.split('.').next() {
                Some("listener" | "user" | "route") => index,
                _ => "__",
            };
            format!("ONCEMAIL__{}", name.replace('.', separator).to_uppercase())
        };
        let mut environment = vec![(variable(name), value)];
        // A certificate and its key change together; then the other one alone must not be what made the difference.
        match *name {
            "tls.certificate_file" => {
                environment.push((variable("tls.key_file"), other_key.display().to_string()));
            }
            "tls.key_file" => {
                environment.push((variable("tls.certificate_file"), other.display().to_string()));
            }
            _ => {}
        }
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let after =
            told(&files.load(&text, &environment).unwrap_or_else(|errors| panic!("{name}: {errors}")));
        assert_ne!(before, after, "{name} has no effect");
    }
}

#[test]
fn the_table_has_every_key_of_the_annotated_configuration() {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in every_key().lines() {
        match line.split_once(" = ") {
            None => section = format!("{}.", line.trim_matches(['[', ']'])),
            Some((key, _)) => {
                keys.insert(format!("{section}{key}"));
            }
        }
    }
    let table: BTreeSet<_> =
        OTHERS.iter().map(|(name, _)| *name).chain(FIXED.iter().copied()).map(str::to_owned).collect();
    assert_eq!(keys, table);
}
