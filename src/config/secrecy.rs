//! Every key that may hold a secret, and every mistake that may be made with one: the secret is shown nowhere.

use std::path::Path;

use super::keys::SECTIONS;
use super::{Config, load, said};

/// Part of every secret below.
const CANARY: &str = "C4n4ry";
/// And the same as the octets that a derived `Debug` of bytes would print.
const CANARY_OCTETS: &str = "67, 52, 110, 52, 114, 121";
/// A hash is none, but may be guessed from.
const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";

/// Says every key that may hold a secret.
const TEXT: &str = r#"
hostname = "relay.example"
data_dir = "/nowhere"
[[listener]]
name = "in"
address = "127.0.0.1:2525"
tls = "none"
auth = "optional"
[[user]]
name = "shop"
password_hash = "HASH"
[[route]]
name = "password"
recipient_domains = ["one.example"]
transport = "smarthost"
hosts = ["smtp.example"]
username = "u"
password = "C4n4ry-password"
[[route]]
name = "tokens"
transport = "smarthost"
hosts = ["smtp.example"]
auth = "xoauth2"
username = "u"
oauth2_token_url = "https://login.example/token"
oauth2_client_id = "id"
oauth2_client_secret = "C4n4ry-client"
[[webhook]]
url = "https://app.example/C4n4ry-path"
secret = "C4n4ry-webhook"
[admin]
address = "127.0.0.1:8025"
token = "C4n4ry-0123456789"
[[admin_token]]
name = "grafana"
token = "C4n4ry-abcdefghij"
[[dkim]]
domain = "shop.example"
selector = "s"
key_file = "KEY"
"#;

#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// The configuration `text`, and a piece of its DKIM key; or what was said about it.
fn read(text: &str) -> (Result<Config, String>, String) {
    let directory = tempfile::tempdir().unwrap();
    let (file, key) = (directory.path().join("oncemail.toml"), directory.path().join("key.pem"));
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    write(&key, &pem);
    write(&file, &text.replace("HASH", HASH).replace("KEY", &key.display().to_string()));
    let config = load(Some(&file), std::iter::empty()).map_err(|errors| format!("{errors}\n{errors:?}"));
    (config, pem.lines().nth(1).unwrap_or_default()[30..50].to_owned())
}

fn is_shown(text: &str) -> bool {
    text.contains(CANARY) || text.contains(CANARY_OCTETS) || text.contains("MDEyMzQ1")
}

#[test]
fn no_secret_is_shown_when_a_configuration_is_printed() {
    let (config, key) = read(TEXT);
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    for shown in [format!("{config:?}"), format!("{config:#?}")] {
        assert!(shown.contains("relay.example") && !is_shown(&shown), "{shown}");
        let octets: Vec<_> = key.bytes().map(|octet| octet.to_string()).collect();
        assert!(!shown.contains(&key) && !shown.contains(&octets.join(", ")), "the key of DKIM");
    }
    // Whoever adds such a key to the program adds it above.
    for section in SECTIONS {
        for key in section.keys.iter().filter(|key| said::is_secret(key)) {
            assert!(TEXT.contains(&format!("\n{key} = ")), "{} {key} is not in this test", section.name);
        }
    }
}

#[test]
fn no_secret_is_shown_when_something_is_wrong_with_it() {
    let wrong: [(&str, &str); 15] = [
        ("\"C4n4ry-password\"", "[\"C4n4ry-password\"]"),
        ("\"C4n4ry-password\"", "\"C4n4ry-password"),
        ("\"C4n4ry-password\"", "C4n4ry-password"),
        ("password = \"C", "pasword = \"C"),
        ("username = \"u\"\npassword", "password"),
        ("https://app.example/C4n4ry-path", "https://u:C4n4ry@app.example/"),
        ("https://app.example/C4n4ry-path", "https:/app.example/C4n4ry"),
        ("https://login.example/token", "ftp://login.example/token?key=C4n4ry"),
        ("\"HASH\"", "\"C4n4ry, not a hash\""),
        ("\"HASH\"", "\"HASHC4n4ry\""),
        ("C4n4ry-0123456789", "C4n4ry"),
        ("C4n4ry-0123456789", "C4n4ry 0123456789 \\u0001"),
        ("C4n4ry-abcdefghij", "C4n4ry-0123456789"),
        ("secret = \"C4n4ry-webhook\"", "secret = { is = \"C4n4ry-webhook\" }"),
        (
            "oauth2_client_secret = \"C4n4ry-client\"",
            "oauth2_client_secret = \"C4n4ry-client\"\noauth2_client_secret_file = \"C4n4ry\"",
        ),
    ];
    for (right, replacement) in wrong {
        assert!(TEXT.contains(right), "{right}");
        let (config, _) = read(&TEXT.replacen(right, replacement, 1));
        let said = config.err().unwrap_or_else(|| panic!("{replacement} was taken"));
        assert!(!is_shown(&said), "{replacement}: {said}");
    }
}
