//! No key is taken and then forgotten: each changes what the parts are told.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use oncemail::config::Config;
use oncemail::relay::options::{OAuth2, Secret, SinkTransport, Transport};

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
    ("listener.trusted_proxies", "192.0.2.7"),
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
    ("retry.warn_after", "never"),
    ("retry.on_failure", "discard"),
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
    ("route.weights", "7"),
    ("route.preset", "ses"),
    ("route.tls", "implicit"),
    ("route.ca_file", "{other}"),
    ("route.client_certificate_file", "{other}"),
    ("route.client_key_file", "{other_key}"),
    ("route.username", "other"),
    ("route.password_file", "{other}"),
    ("route.oauth2_token_url", "https://other.example/token"),
    ("route.oauth2_client_id", "other"),
    ("route.oauth2_client_secret_file", "{other}"),
    ("route.oauth2_scope", "other"),
    ("route.connections", "7"),
    ("route.messages_per_connection", "7"),
    ("route.connection_lifetime", "7s"),
    ("route.recipients_per_transaction", "7"),
    ("route.idle_timeout", "7s"),
    ("route.rate", "7/h"),
    ("route.source_addresses", "192.0.2.7"),
    ("route.in_doubt", "hold"),
    ("route.forward_key_as", "X-Other"),
    ("route.port", "7"),
    ("route.allow_private_addresses", "true"),
    ("route.mta_sts", "false"),
    ("route.address_family", "ipv6"),
    ("route.path", "/elsewhere"),
    ("dkim.domain", "other.example"),
    ("dkim.selector", "other"),
    ("dkim.key_file", "{other_signing_key}"),
    ("suppression.on_hard_bounce", "false"),
    ("suppression.ttl", "7d"),
    ("history.retention", "off"),
    ("history.size", "64MB"),
    ("verify.syntax", "true"),
    ("verify.mx", "true"),
    ("verify.disposable_file", "{other}"),
    ("dns.servers", "192.0.2.7"),
    ("dns.timeout", "7s"),
    ("dns.dnssec", "false"),
    ("dns.trust_anchor_file", "{anchor}"),
    ("webhook.name", "other"),
    ("webhook.url", "https://other.example/"),
    ("webhook.secret_file", "{other}"),
    ("webhook.events", "held"),
    ("webhook.ca_file", "{other}"),
    ("webhook.timeout", "7s"),
    ("webhook.allow_http", "true"),
    ("events.file", "/elsewhere/events"),
    ("events.file_size", "7MB"),
    ("events.file_count", "7"),
    ("events.events", "held"),
    ("events.queue_limit", "7"),
    ("admin.address", "127.0.0.1:7"),
    ("admin.token_file", "{token}"),
    ("admin_token.name", "other"),
    ("admin_token.token_file", "{token}"),
    ("admin_token.role", "operate"),
    ("admin_token.contents", "true"),
    ("log.format", "text"),
    ("log.level", "warn"),
    ("log.addresses", "hashed"),
];

/// Keys of which this version understands one value only, those of which the base has every value, and one that goes only
/// together with another (`proxy_protocol_and_trusted_proxies_go_together`).
const FIXED: &[&str] = &["store.backend", "route.transport", "route.auth", "listener.proxy_protocol"];

/// Which [[route]] of [`base`] a key is tried on.
fn route_of(key: &str) -> usize {
    match key.strip_prefix("route.") {
        Some(key) if key.starts_with("oauth2_") => 1,
        Some("port" | "allow_private_addresses" | "mta_sts" | "address_family") => 2,
        Some("path") => 3,
        _ => 0,
    }
}

/// Every key below needs its neighbours, so they are there.
fn base(certificate: &str, key: &str, signing_key: &str) -> String {
    format!(
        "hostname = \"relay.example\"\n[idempotency]\nfallback_key = \"message-id\"\n\
         [tls]\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n\
         [[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\n\
         allow = [\"10.9.0.0/16\"]\nproxy_protocol = true\ntrusted_proxies = [\"192.0.2.1\"]\n\
         [[user]]\nname = \"shop\"\npassword_hash = \"{HASH}\"\n\
         [[route]]\nname = \"out\"\ntransport = \"smarthost\"\nhosts = [\"smtp.example.com\"]\n\
         recipient_domains = [\"corp.example\"]\nusername = \"u\"\npassword = \"p\"\n\
         client_certificate_file = \"{certificate}\"\nclient_key_file = \"{key}\"\n\
         [[route]]\nname = \"token\"\ntransport = \"smarthost\"\nhosts = [\"smtp.example.com\"]\n\
         recipient_domains = [\"token.example\"]\nusername = \"u\"\nauth = \"xoauth2\"\n\
         oauth2_token_url = \"https://login.example/token\"\noauth2_client_id = \"id\"\n\
         oauth2_client_secret = \"s\"\n\
         [[route]]\nname = \"world\"\ntransport = \"mx\"\nsender_domains = [\"shop.example\"]\n\
         [[route]]\nname = \"files\"\ntransport = \"directory\"\npath = \"./mail\"\n\
         [[dkim]]\ndomain = \"shop.example\"\nselector = \"s1\"\nkey_file = \"{signing_key}\"\n\
         [[webhook]]\nname = \"app\"\nurl = \"https://app.example/a\"\nsecret_file = \"{key}\"\n\
         [events]\nfile = \"./events.jsonl\"\n\
         [admin]\n[[admin_token]]\nname = \"eyes\"\ntoken = \"eyes-0123456789abcdef\"\n\
         [suppression]\non_hard_bounce = true\n[dns]\ndnssec = true\n"
    )
}

/// All that the parts are told, secrets included.
fn told(config: &Config) -> String {
    let users = config.submission.users.iter();
    let users: Vec<_> = users.map(|user| (&user.password_hash, &user.senders, user.rate)).collect();
    let secrets: Vec<_> = config
        .relay
        .routes
        .iter()
        .filter_map(|route| match &route.transport {
            Transport::Smtp(smarthost) => smarthost.auth.as_ref(),
            Transport::Directory(_) | Transport::Discard => None,
        })
        .map(|auth| match &auth.with {
            Secret::Password(password) => vec![password.as_str()],
            Secret::OAuth2(OAuth2 { token_url, client_id, client_secret, scope }) => {
                vec![
                    token_url.as_str(),
                    client_id.as_str(),
                    client_secret.as_str(),
                    scope.as_deref().unwrap_or_default(),
                ]
            }
        })
        .collect();
    let keys: Vec<_> = config.relay.dkim.iter().map(|key| key.key.as_slice()).collect();
    let webhooks: Vec<_> = config
        .relay
        .sinks
        .iter()
        .filter_map(|sink| match &sink.transport {
            SinkTransport::Webhook(webhook) => Some((webhook.path.as_str(), webhook.secret.as_str())),
            SinkTransport::File(_) => None,
        })
        .collect();
    let tokens: Vec<_> = config.admin.tokens.iter().map(|token| token.digest()).collect();
    format!("{config:?}{users:?}{secrets:?}{keys:?}{webhooks:?}{tokens:?}")
}

#[test]
fn every_key_changes_what_the_parts_are_told() {
    let files = Files::new();
    let (certificate, key) = files.certificate("one");
    // Copies: what belongs together still does when only one path changes.
    let copy = |path: &Path, name: &str| files.write(name, &fs::read_to_string(path).unwrap());
    let (other, other_key) = (copy(&certificate, "other.pem"), copy(&key, "other.key"));
    let anchor = files.trust_anchor("root.key").display().to_string();
    let token = files.write("token", "other-0123456789abcdef\n").display().to_string();
    let (signing_key, other_signing_key) = (files.signing_key("s1"), files.signing_key("s2"));
    let [certificate, key, signing_key] =
        [certificate, key, signing_key].map(|path| path.display().to_string());
    let text = base(&certificate, &key, &signing_key);
    let before = told(&files.load(&text, &[]).unwrap_or_else(|errors| panic!("{errors}")));
    for (name, value) in OTHERS {
        let value = value
            .replace("{other}", &other.display().to_string())
            .replace("{anchor}", &anchor)
            .replace("{token}", &token)
            .replace("{other_key}", &other_key.display().to_string())
            .replace("{other_signing_key}", &other_signing_key.display().to_string())
            .replace("{other_hash}", &HASH.replace("t=2", "t=3"));
        let variable = |name: &str| {
            let separator = match name.split('.').next() {
                Some("listener" | "user" | "dkim" | "webhook" | "admin_token") => "__0__".to_owned(),
                Some("route") => format!("__{}__", route_of(name)),
                _ => "__".to_owned(),
            };
            format!("ONCEMAIL__{}", name.replace('.', &separator).to_uppercase())
        };
        let environment = [(variable(name), value)];
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
