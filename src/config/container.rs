//! A container runs from the environment alone.
//!
//! | Variable | What it stands for |
//! |---|---|
//! | `ONCEMAIL_SMARTHOST` | a route named "smarthost" that takes everything: `smtp+starttls://user@host:587`, `smtps://` for TLS from the first byte, `smtp://` for none |
//! | `ONCEMAIL_SMARTHOST_PASSWORD_FILE`, `ONCEMAIL_SMARTHOST_PASSWORD` | its password |
//! | `ONCEMAIL_USERS_FILE` | a file with a user on each line, `name:hash`; `#` starts a comment |
//!
//! Without a file there is one listener, on 0.0.0.0:587. With users it requires AUTH and offers STARTTLS, so
//! `ONCEMAIL__TLS__CERTIFICATE_FILE` and `ONCEMAIL__TLS__KEY_FILE` must be there too. Without users it takes mail from
//! loopback only (a pod's other containers), until `ONCEMAIL__LISTENER__0__ALLOW` names networks: what a published port
//! makes of the clients' addresses differs between container engines, so no private network is trusted by default.
//! Every default can be said anew by an override, such as `ONCEMAIL__LISTENER__0__ADDRESS` or
//! `ONCEMAIL__ROUTE__0__RATE`.

use std::path::Path;

use percent_encoding::percent_decode_str;

use super::environment::Variables;
use super::errors::{Place, Problems};
use super::files;
use super::tree::{Node, Table, Value};

const SMARTHOST: &str = "ONCEMAIL_SMARTHOST";
const PASSWORD: &str = "ONCEMAIL_SMARTHOST_PASSWORD";
const PASSWORD_FILE: &str = "ONCEMAIL_SMARTHOST_PASSWORD_FILE";
const USERS_FILE: &str = "ONCEMAIL_USERS_FILE";

/// Every variable that is understood in here.
pub(super) const SHORT_VARIABLES: [&str; 4] = [SMARTHOST, PASSWORD, PASSWORD_FILE, USERS_FILE];

/// The listener of a start without a file.
const DEFAULT_ADDRESS: &str = "0.0.0.0:587";

/// Writes what the short variables stand for into the tree.
pub(super) fn apply(root: &mut Table, variables: &Variables, has_file: bool, problems: &Problems) {
    if let Some(path) = variables.get(USERS_FILE) {
        add_users(root, Path::new(path), problems);
    }
    if let Some(url) = variables.get(SMARTHOST) {
        add_smarthost(root, url, variables, problems);
    } else if let Some(name) =
        [PASSWORD, PASSWORD_FILE].into_iter().find(|name| variables.get(name).is_some())
    {
        let hint = format!("set {SMARTHOST} too, for example smtp+starttls://user@smtp.example.com:587");
        problems.hint(&Place::whole(name), "a password, but no smarthost", hint);
    }
    if !has_file {
        add_listener(root, variables);
    }
}

fn text(text: impl Into<String>) -> Value {
    Value::text(text)
}

fn add_listener(root: &mut Table, variables: &Variables) {
    let has_users = variables.get(USERS_FILE).is_some() || variables.any("ONCEMAIL__USER__");
    let has_tls = variables.any("ONCEMAIL__TLS__");
    let place =
        Place::whole(format!("listener {DEFAULT_ADDRESS} (the default without a configuration file)"));
    let mut listener = Table::new(place.clone());
    listener.set("name", &place, text("submission"));
    listener.set("address", &place, text(DEFAULT_ADDRESS));
    listener.set("tls", &place, text(if has_users || has_tls { "starttls" } else { "none" }));
    listener.set("auth", &place, text(if has_users { "required" } else { "none" }));
    push(root, "listener", listener);
}

fn push(root: &mut Table, section: &str, table: Table) {
    let place = table.place.clone();
    if let Some(list) = root.list_mut(section, &place) {
        list.push(Node { place, value: Value::Table(table) });
    }
}

fn add_smarthost(root: &mut Table, url: &str, variables: &Variables, problems: &Problems) {
    let place = Place::whole(SMARTHOST);
    if root.contains("route") {
        let hint = "use one of them; single keys of a route are said with ONCEMAIL__ROUTE__0__KEY";
        problems.hint(&place, "the configuration file has routes already", hint);
        return;
    }
    let mut route = Table::new(place.clone());
    match parse_url(url) {
        Ok(Smarthost { host, tls, username }) => {
            route.set("name", &place, text("smarthost"));
            route.set("transport", &place, text("smarthost"));
            route.set("hosts", &place, Value::loose(host));
            route.set("tls", &place, text(tls));
            if let Some(username) = username {
                route.set("username", &place, text(username));
            }
        }
        Err(what) => {
            problems.hint(&place, what, "for example smtp+starttls://user@smtp.example.com:587");
            // A route that is there but wrong: "there is no route" on top of that would mislead.
            root.list_mut("route", &place);
            return;
        }
    }
    for (variable, key) in [(PASSWORD, "password"), (PASSWORD_FILE, "password_file")] {
        if let Some(value) = variables.get(variable) {
            route.set(key, &Place::whole(variable), Value::loose(value));
        }
    }
    push(root, "route", route);
}

struct Smarthost {
    host: String,
    tls: &'static str,
    username: Option<String>,
}

/// Takes a URL apart. The user may be percent-encoded, and may contain an `@` as it stands. It is never quoted in an
/// error: it may contain a password.
fn parse_url(url: &str) -> Result<Smarthost, &'static str> {
    let (scheme, rest) = url.split_once("://").ok_or("this is no URL")?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "smtp+starttls" => "required",
        "smtps" => "implicit",
        "smtp" => "none",
        _ => return Err("the URL must start with smtp+starttls://, smtps:// or smtp://"),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (username, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
    if host.is_empty() || host.contains(['/', '?', '#', ',']) {
        return Err("the URL must end after its host and port");
    }
    let Some(username) = username else {
        return Ok(Smarthost { host: host.to_owned(), tls, username: None });
    };
    if username.contains(':') {
        return Err("the password does not belong into the URL: set ONCEMAIL_SMARTHOST_PASSWORD_FILE");
    }
    let username = percent_decode_str(username).decode_utf8().map_err(|_| "the user is not UTF-8 text")?;
    Ok(Smarthost { host: host.to_owned(), tls, username: Some(username.into_owned()) })
}

fn add_users(root: &mut Table, path: &Path, problems: &Problems) {
    let content = match files::text(path) {
        Ok(content) => content,
        Err(what) => {
            problems.add(&Place::whole(USERS_FILE), what);
            // Users are there but cannot be read: "there is no user" on top of that would mislead.
            root.list_mut("user", &Place::whole(USERS_FILE));
            return;
        }
    };
    let source = path.display().to_string();
    for (index, line) in content.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = Place::at(source.as_str(), index + 1, 1);
        let Some((name, hash)) = line.split_once(':') else {
            problems.hint(
                &place,
                "a line without a colon",
                "each line is name:hash, made by `oncemail hash-password`",
            );
            continue;
        };
        let mut user = Table::new(place.clone());
        user.set("name", &place, text(name.trim()));
        user.set("password_hash", &place, text(hash.trim()));
        push(root, "user", user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<(String, &'static str, Option<String>), &'static str> {
        parse_url(url).map(|smarthost| (smarthost.host, smarthost.tls, smarthost.username))
    }

    #[test]
    fn a_url_says_host_tls_and_user() {
        for (url, expected) in [
            ("smtp+starttls://user@host.example:587", ("host.example:587", "required", Some("user"))),
            ("smtps://host.example/", ("host.example", "implicit", None)),
            ("SMTP://[::1]:25", ("[::1]:25", "none", None)),
            ("smtps://me%40corp.example@host", ("host", "implicit", Some("me@corp.example"))),
            ("smtps://me@corp.example@host", ("host", "implicit", Some("me@corp.example"))),
        ] {
            let (host, tls, user) = expected;
            assert_eq!(parsed(url), Ok((host.to_owned(), tls, user.map(str::to_owned))), "{url}");
        }
        for url in ["host:25", "http://host", "smtp://", "smtp://a@", "smtp://host/path", "smtp://u:p@host"] {
            assert!(parsed(url).is_err(), "{url}");
        }
    }
}
