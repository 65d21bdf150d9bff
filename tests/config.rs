//! A configuration is taken whole, or refused with everything that is wrong with it.

mod effects;
mod environment;
mod outbound;
mod proxies;

use std::fs;
use std::path::{Path, PathBuf};

use oncemail::config::{Config, Errors, data_dir, load};
use oncemail::relay::options::{Host, Hosts, Secret, Smtp, TlsPolicy, Transport};
use oncemail::submission::options::{AuthMode, TlsMode};
use proptest::prelude::*;
use tempfile::TempDir;

const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";
const LISTENER: &str =
    "[[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n";
const ROUTE: &str = "[[route]]\nname = \"out\"\ntransport = \"directory\"\npath = \"./mail\"\n";
const SMARTHOST: &str =
    "[[route]]\nname = \"out\"\ntransport = \"smarthost\"\nhosts = [\"smtp.example.com\"]\n";

/// A directory with a configuration in it.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own files")]
    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// PEM files of a fresh certificate and its key.
    fn certificate(&self, name: &str) -> (PathBuf, PathBuf) {
        let issued = rcgen::generate_simple_self_signed(vec!["relay.example".to_owned()]).unwrap();
        (
            self.write(&format!("{name}.pem"), &issued.cert.pem()),
            self.write(&format!("{name}.key"), &issued.signing_key.serialize_pem()),
        )
    }

    /// The PEM file of a fresh Ed25519 key.
    fn signing_key(&self, name: &str) -> PathBuf {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        self.write(&format!("{name}-signing.pem"), &key.serialize_pem())
    }

    /// A key of the root to start validation from.
    fn trust_anchor(&self, name: &str) -> PathBuf {
        self.write(name, ". IN DNSKEY 257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=\n")
    }

    fn load(&self, text: &str, env: &[(&str, &str)]) -> Result<Config, Errors> {
        let path = self.write("oncemail.toml", text);
        load(Some(&path), variables(env))
    }
}

fn variables(env: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>().into_iter()
}

/// The problems as `line: what | hint`.
fn problems(result: Result<Config, Errors>) -> Vec<String> {
    let errors = result.expect_err("a configuration with problems");
    errors
        .problems()
        .iter()
        .map(|problem| {
            let line = problem.place.line().map_or_else(|| "-".to_owned(), |line| line.to_string());
            format!("{line}: {} | {}", problem.what, problem.hint.as_deref().unwrap_or_default())
        })
        .collect()
}

/// Whether there is exactly one problem, on `line`, and it speaks of all `words`.
#[track_caller]
fn one_problem(text: &str, line: usize, words: &[&str]) {
    let found = problems(Files::new().load(text, &[]));
    let is_it = |problem: &String| {
        problem.starts_with(&format!("{line}: ")) && words.iter().all(|word| problem.contains(word))
    };
    assert!(found.len() == 1 && is_it(&found[0]), "wanted line {line} with {words:?}, found {found:#?}");
}

fn smarthost(config: &Config) -> &Smtp {
    match &config.relay.routes[0].transport {
        Transport::Smtp(smarthost) => smarthost,
        other => panic!("{other:?}"),
    }
}

fn hosts(smarthost: &Smtp) -> &[Host] {
    match &smarthost.hosts {
        Hosts::Fixed { hosts, .. } => hosts,
        Hosts::Mx(mx) => panic!("{mx:?}"),
    }
}

fn password(smarthost: &Smtp) -> &str {
    match &smarthost.auth.as_ref().unwrap().with {
        Secret::Password(password) => password,
        Secret::OAuth2(_) => panic!("no password"),
    }
}

fn project_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The annotated configuration without its prose: every key, also those that are commented out there.
fn every_key() -> String {
    let is_key = |line: &str| {
        let end = line.find(" = ").unwrap_or(0);
        line.starts_with('[')
            || (end > 0
                && line[..end].chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
    };
    let text = include_str!("../config/oncemail.toml");
    let lines = text.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    let lines = lines.filter(|line| is_key(line) && !line.starts_with("password_hash_file"));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_newcomers_configuration_listens_on_loopback_and_writes_files() {
    let config = load(Some(&project_file("config/local.toml")), variables(&[])).unwrap();
    let listener = &config.submission.listeners[0];
    assert_eq!(listener.address.to_string(), "127.0.0.1:2525");
    assert_eq!((listener.tls, listener.auth), (TlsMode::None, AuthMode::None));
    assert!(listener.allow.iter().all(|net| net.addr().is_loopback()));
    assert_eq!(config.data_dir, Path::new("./var"));
    assert!(
        matches!(&config.relay.routes[0].transport, Transport::Directory(path) if path == Path::new("./mail/"))
    );
}

#[test]
fn the_annotated_configuration_states_the_defaults_as_they_are() {
    let annotated = load(Some(&project_file("config/oncemail.toml")), variables(&[])).unwrap();
    let bare = "[[listener]]\nname = \"submission\"\naddress = \"127.0.0.1:2525\"\ntls = \"none\"\nauth = \"none\"\n\
                [[route]]\nname = \"files\"\ntransport = \"directory\"\npath = \"./mail/\"\n";
    let defaults = Files::new().load(bare, &[]).unwrap();
    assert_eq!(format!("{annotated:#?}"), format!("{defaults:#?}"));
}

#[test]
fn the_annotated_configuration_is_right_in_every_line_that_is_commented_out() {
    let files = Files::new();
    let (certificate, key) = files.certificate("tls");
    let secret = files.write("secret", "secret\n");
    let token = |name: &str| files.write(name, &format!("{name}-0123456789abcdef\n"));
    let uncommented = every_key()
        .replace("/etc/oncemail/tls/fullchain.pem", &certificate.display().to_string())
        .replace("/etc/oncemail/tls/key.pem", &key.display().to_string())
        .replace("/etc/oncemail/corp-ca.pem", &certificate.display().to_string())
        .replace("/etc/oncemail/client.pem", &certificate.display().to_string())
        .replace("/etc/oncemail/client.key", &key.display().to_string())
        .replace("/etc/oncemail/dkim/s1.pem", &files.signing_key("s1").display().to_string())
        .replace("/etc/oncemail/disposable-domains.txt", &secret.display().to_string())
        .replace("/etc/oncemail/root.key", &files.trust_anchor("root.key").display().to_string())
        .replace("/etc/oncemail/app-ca.pem", &certificate.display().to_string())
        .replace("/run/secrets/webhook", &secret.display().to_string())
        .replace("/run/secrets/oncemail-admin", &token("admin").display().to_string())
        .replace("/run/secrets/oncemail-prometheus", &token("prometheus").display().to_string())
        .replace("/run/secrets/oauth2", &secret.display().to_string())
        .replace("/run/secrets/provider", &secret.display().to_string())
        .replace("dnssec = false", "dnssec = true");
    let config = files.load(&uncommented, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    let internal = smarthost(&config);
    assert_eq!(hosts(internal)[1].to_string(), "mx2.corp.example:25");
    assert_eq!(
        (internal.tls, internal.connections, internal.messages_per_connection),
        (TlsPolicy::Required, 20, 100)
    );
    assert_eq!(config.submission.users[0].senders, ["@shop.example", "ceo@example.com", "<>"]);
    let leads: Vec<_> = config.relay.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(leads, ["internal", "office365", "world", "nowhere", "files"]);
    assert_eq!(config.relay.dkim[0].selector, "s1");
}

#[test]
fn every_problem_is_told_at_once_with_its_line_and_a_hint() {
    let text = "hostnam = \"a\"\n[[listener]]\nname = \"in\"\nadress = \"127.0.0.1:25\"\nauth = \"sometimes\"\n\
                [limits]\nmessage_size = \"25\"\nconnections = 0\n[retry]\nbase = 30\n[brekaer]\n";
    let found = problems(Files::new().load(text, &[]));
    for expected in [
        "1: unknown key `hostnam` | did you mean `hostname`?",
        "2: a [[listener]] without `address`",
        "2: this listener offers TLS, but there is no [tls]",
        "4: unknown key `adress` in [[listener]] | did you mean `address`?",
        "5: `auth` is \"sometimes\" | it can be \"required\", \"optional\", \"none\"",
        "7: `message_size` is \"25\" | it is a number with a unit: \"25MB\"",
        "8: `connections` is 0, which is out of range | from 1 to 1000000",
        "10: `base` is a number | it is a number with a unit: \"500ms\", \"30s\"",
        "11: unknown key `brekaer` | did you mean `breaker`?",
        "-: there is no [[route]]",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{expected} is not in {found:#?}");
    }
}

#[test]
fn what_is_not_toml_is_one_problem_with_its_line() {
    one_problem("hostname = \"a\"\ndata_dir = = \"b\"\n[[x\n", 2, &["not valid TOML"]);
    one_problem("[limits]\nrecipients = 1\nrecipients = 2\n", 3, &["duplicate key"]);
}

#[test]
fn what_is_planned_but_not_built_is_refused_and_never_ignored() {
    for (line, text) in [
        (10, format!("{LISTENER}{ROUTE}[http]\n")),
        (10, format!("{LISTENER}{ROUTE}[http]\nsubmission = true\n")),
        (11, format!("{LISTENER}{ROUTE}[store]\nbackend = \"postgres\"\n")),
    ] {
        one_problem(&text, line, &["this version does not have it yet"]);
    }
    // What says no more than what this version does anyway is fine.
    let neutral = format!(
        "{LISTENER}proxy_protocol = false\ntrusted_proxies = []\n\
         {SMARTHOST}preset = \"none\"\nforward_key_as = \"\"\nsource_addresses = []\nin_doubt = \"resend\"\n\
         [retry]\nwarn_after = \"never\"\non_failure = \"hold\"\n[store]\nbackend = \"embedded\"\n"
    );
    Files::new().load(&neutral, &[]).unwrap();
}

#[test]
fn a_webhook_that_nobody_could_trust_is_refused() {
    let webhook = |rest: &str| format!("{LISTENER}{ROUTE}[[webhook]]\n{rest}");
    let secret = "secret = \"s\"\n";
    one_problem(&webhook(secret), 10, &["a [[webhook]] without `url`"]);
    one_problem(&webhook("url = \"https://a.example/\"\n"), 10, &["without `secret`", "secret_file"]);
    let plain = webhook(&format!("{secret}url = \"http://a.example/\"\n"));
    one_problem(&plain, 12, &["in plain text", "allow_http"]);
    Files::new().load(&format!("{plain}allow_http = true\n"), &[]).unwrap();
    let good = format!("{secret}url = \"http://127.0.0.1:8080/events\"\n");
    one_problem(&webhook(&format!("{good}events = [\"lost\"]\n")), 13, &["one of delivered"]);
    one_problem(&webhook(&format!("{good}events = []\n")), 13, &["`events` is empty"]);
    one_problem(&webhook(&format!("{good}name = \"a b\"\n")), 13, &["letters, digits"]);
    one_problem(&webhook(&format!("{good}name = \"event-file\"\n")), 13, &["name of its own"]);
    let twice = format!("{}[[webhook]]\n{good}name = \"webhook-1\"\n", webhook(&good));
    one_problem(&twice, 16, &["two webhooks"]);
    one_problem(&format!("{LISTENER}{ROUTE}[events]\nfile_count = 2\n"), 11, &["without `file`"]);
    // What oncemail makes itself must not be taken for what came in.
    let listener = LISTENER.replace("name = \"in\"", "name = \"oncemail:events\"");
    assert_ne!(listener, LISTENER);
    one_problem(&format!("{listener}{ROUTE}"), 2, &["oncemail:"]);
}

#[test]
fn a_listener_that_would_leak_passwords_or_be_an_open_relay_is_refused() {
    let user = format!("[[user]]\nname = \"u\"\npassword_hash = \"{HASH}\"\n");
    let listener =
        |rest: &str| format!("[[listener]]\nname = \"in\"\naddress = \"0.0.0.0:25\"\n{rest}{user}{ROUTE}");
    one_problem(&listener("tls = \"none\"\n"), 1, &["in plain text", "tls = "]);
    one_problem(&listener("tls = \"none\"\nauth = \"optional\"\n"), 5, &["in plain text"]);
    one_problem(
        &listener("tls = \"none\"\nauth = \"none\"\nallow = [\"0.0.0.0/0\"]\n"),
        6,
        &["open relay", "auth = \"required\""],
    );
    let config = Files::new().load(&listener("tls = \"none\"\nauth = \"none\"\n"), &[]).unwrap();
    assert!(config.submission.listeners[0].allow.iter().all(|net| net.addr().is_loopback()));
    let config = Files::new()
        .load(&listener("tls = \"none\"\nauth = \"none\"\nallow = [\"10.0.0.0/8\", \"192.0.2.7\"]\n"), &[])
        .unwrap();
    assert_eq!(config.submission.listeners[0].allow[1].to_string(), "192.0.2.7/32");
}

#[test]
fn auth_needs_users_and_tls_needs_a_certificate() {
    let listener =
        "[[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"required\"\n";
    one_problem(&format!("{listener}{ROUTE}"), 5, &["no [[user]]"]);
    let listener = LISTENER.replace("tls = \"none\"", "tls = \"starttls\"");
    one_problem(&format!("{listener}{ROUTE}"), 4, &["no [tls]"]);
}

#[test]
fn certificate_and_key_are_read_and_must_belong_together() {
    let files = Files::new();
    let (certificate, key) = files.certificate("one");
    let (_, other_key) = files.certificate("two");
    let with = |certificate: &Path, key: &Path| {
        let (certificate, key) = (certificate.display(), key.display());
        let tls = format!("[tls]\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n");
        let listener = LISTENER.replace("tls = \"none\"", "tls = \"implicit\"");
        files.load(&format!("{listener}{ROUTE}{tls}"), &[])
    };
    assert!(!with(&certificate, &key).unwrap().submission.tls.unwrap().only_tls13);
    assert!(
        problems(with(&certificate, &other_key))[0]
            .starts_with("12: `key_file`: the private key does not belong")
    );
    assert!(problems(with(&key, &key))[0].contains("contains no certificate"));
    assert!(problems(with(&certificate, &certificate))[0].contains("no unencrypted private key"));
    assert!(problems(with(Path::new("/nowhere/a.pem"), &key))[0].contains("cannot read /nowhere/a.pem"));
}

#[test]
fn names_are_given_once_and_every_route_can_be_reached() {
    one_problem(&format!("{LISTENER}{LISTENER}{ROUTE}"), 7, &["two listeners named \"in\"", ":2:8"]);
    let reserved = LISTENER.replace("\"in\"", "\"oncemail:events\"");
    one_problem(&format!("{reserved}{ROUTE}"), 2, &["`name` begins with \"oncemail:\""]);
    one_problem(
        &format!("{LISTENER}{ROUTE}{}", ROUTE.replace("\"out\"", "\"late\"")),
        11,
        &["\"late\" is never reached", "\"out\""],
    );
    let first = format!("{ROUTE}recipient_domains = [\"*.Corp.example\"]\n");
    one_problem(&format!("{LISTENER}{first}{ROUTE}"), 12, &["two routes named \"out\""]);
    let config = Files::new()
        .load(&format!("{LISTENER}{first}{}", ROUTE.replace("\"out\"", "\"rest\"")), &[])
        .unwrap();
    assert_eq!(config.relay.routes[0].matches.recipient_domains, ["*.corp.example"]);
    // Of a single route the operator has said all there is to say; of several one must be for the rest.
    let second = first.replace("\"out\"", "\"late\"");
    one_problem(&format!("{LISTENER}{first}{second}"), 12, &["no route takes everything"]);
    let user = format!("[[user]]\nname = \"u\"\npassword_hash = \"{HASH}\"\n");
    one_problem(&format!("{LISTENER}{ROUTE}{user}{user}"), 14, &["two users named \"u\""]);
}

#[test]
fn a_route_names_users_and_listeners_that_exist() {
    one_problem(
        &format!("{LISTENER}{ROUTE}listeners = [\"inn\"]\n"),
        10,
        &["\"inn\"", "did you mean \"in\"?"],
    );
    one_problem(&format!("{LISTENER}{ROUTE}users = []\n"), 10, &["`users` is empty"]);
}

#[test]
fn keys_of_the_other_transport_are_refused() {
    one_problem(
        &format!("{LISTENER}{ROUTE}hosts = [\"a\"]\n"),
        10,
        &["`hosts` belongs to transport = \"smarthost\""],
    );
    one_problem(
        &format!("{LISTENER}{SMARTHOST}path = \"x\"\n"),
        10,
        &["`path` belongs to transport = \"directory\""],
    );
}

#[test]
fn a_password_never_goes_over_the_network_in_plain_text() {
    let auth = "username = \"u\"\npassword = \"p\"\ntls = \"none\"\n";
    one_problem(&format!("{LISTENER}{SMARTHOST}{auth}"), 12, &["smtp.example.com:587 in plain text"]);
    let local = SMARTHOST.replace("smtp.example.com", "127.0.0.1:1025");
    Files::new().load(&format!("{LISTENER}{local}{auth}"), &[]).unwrap();
}

#[test]
fn secrets_come_from_one_place_and_are_never_printed() {
    let files = Files::new();
    let secret = files.write("secret", "s3cret-word \r\n");
    let from_file =
        format!("{LISTENER}{SMARTHOST}username = \"u\"\npassword_file = \"{}\"\n", secret.display());
    let config = files.load(&from_file, &[]).unwrap();
    assert_eq!(password(smarthost(&config)), "s3cret-word ");
    assert!(!format!("{config:?}").contains("s3cret"));
    let both = problems(files.load(&format!("{from_file}password = \"x\"\n"), &[]));
    assert!(both[0].contains("both `password` and `password_file`"), "{both:?}");
    // The environment's secret replaces the file's.
    let config = files.load(&from_file, &[("ONCEMAIL__ROUTE__0__PASSWORD", "other")]).unwrap();
    assert_eq!(password(smarthost(&config)), "other");
}

#[test]
fn a_plain_password_in_place_of_a_hash_is_refused_and_not_repeated() {
    let text = format!("{LISTENER}{ROUTE}[[user]]\nname = \"u\"\npassword_hash = \"hunter2-word\"\n");
    one_problem(&text, 12, &["not a hash", "oncemail hash-password"]);
    assert!(!Files::new().load(&text, &[]).unwrap_err().to_string().contains("hunter2"));
    let config = Files::new().load(&text.replace("hunter2-word", HASH), &[]).unwrap();
    assert!(!format!("{config:?}").contains("argon2id"));
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let with = |rest: &str| format!("{LISTENER}{ROUTE}{rest}");
    one_problem(&with("[retry]\nbase = \"2h\"\ncap = \"1h\"\n"), 12, &["`cap` is shorter than `base`"]);
    one_problem(&with("[limits]\nreceive_memory = \"1MB\"\n"), 11, &["smaller than `message_size`"]);
    one_problem(&with("[idempotency]\nobserve = true\n"), 11, &["observes nothing"]);
    one_problem(&with("[idempotency]\nttl = \"0s\"\n"), 11, &["out of range", "from 1s"]);
    one_problem(&with("[idempotency]\nheader = \"a b\"\n"), 11, &["header field's name"]);
    for name in ["Message-ID", "subject", "Content-Type"] {
        let text = with(&format!("[idempotency]\nheader = \"{name}\"\n"));
        one_problem(&text, 11, &[name, "never relayed", "message-id"]);
    }
    one_problem(&with("[log]\nlevel = \"inof\"\n"), 11, &["did you mean \"info\"?"]);
    one_problem(&with("[limits]\nrecipients = \"many\"\n"), 11, &["a whole number without quotes"]);
    one_problem(&with("[header]\ndrop_bcc = \"yes\"\n"), 11, &["true or false, without quotes"]);
}

#[test]
fn the_data_directory_is_known_even_when_the_rest_is_wrong() {
    let files = Files::new();
    let path = files.write("oncemail.toml", "data_dir = \"/srv/mail\"\nnonsense = 1\n");
    assert_eq!(data_dir(Some(&path), variables(&[])).unwrap(), Path::new("/srv/mail"));
    assert_eq!(
        data_dir(Some(&path), variables(&[("ONCEMAIL__DATA_DIR", "/other")])).unwrap(),
        Path::new("/other")
    );
}

#[test]
fn names_of_machines_are_ascii() {
    one_problem(&format!("hostname = \"bücher.example\"\n{LISTENER}{ROUTE}"), 1, &["xn--"]);
    let foreign = SMARTHOST.replace("smtp.example.com", "smtp.bücher.example");
    one_problem(&format!("{LISTENER}{foreign}"), 9, &["smtp.bücher.example"]);
    let domains = format!("{ROUTE}recipient_domains = [\"Bücher.example\"]\n");
    let config = Files::new().load(&format!("{LISTENER}{domains}"), &[]).unwrap();
    assert_eq!(config.relay.routes[0].matches.recipient_domains, ["bücher.example"]);
}

#[test]
fn a_file_of_nothing_but_brackets_is_refused_like_any_other() {
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(problems(Files::new().load(&deep, &[]))[0].contains("not valid TOML"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_loading_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..8_usize, "[ -~é\n]{0,6}"), 0..6),
        value in "[ -~é]{0,20}",
        name in "ONCEMAIL_{1,2}[A-Z_]{0,12}(__[0-9]{1,2}__)?[A-Z_]{0,12}",
    ) {
        let mut text: Vec<char> = every_key().chars().collect();
        for (at, len, new) in edits {
            let start = at.index(text.len());
            let end = (start + len).min(text.len());
            text.splice(start..end, new.chars());
        }
        let env = [(name.as_str(), value.as_str()), ("ONCEMAIL__ROUTE__0__HOSTS", value.as_str())];
        if let Err(errors) = Files::new().load(&text.into_iter().collect::<String>(), &env) {
            prop_assert!(!errors.problems().is_empty());
        }
    }
}
