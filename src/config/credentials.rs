//! What a `[[route]]` proves itself with: a password, or tokens that an OAuth 2 server gives out.
//!
//! A secret never goes over a network in plain text, and is never quoted in a problem.

use std::net::IpAddr;

use hyper::Uri;

use super::presets::Known;
use super::section::Section;
use super::smtp::is_loopback;
use crate::relay::options::{Auth, Host, OAuth2, Secret, TlsPolicy};

const PASSWORD_KEYS: [&str; 2] = ["password", "password_file"];
const OAUTH2_KEYS: [&str; 5] = [
    "oauth2_token_url",
    "oauth2_client_id",
    "oauth2_client_secret",
    "oauth2_client_secret_file",
    "oauth2_scope",
];

/// `auth`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Password,
    XOAuth2,
}

/// The credentials of a route, if it has any.
pub(super) fn auth(section: &Section<'_>, tls: TlsPolicy, hosts: &[Host], known: &Known) -> Option<Auth> {
    let kind =
        section.choice("auth", Kind::Password, &[("password", Kind::Password), ("xoauth2", Kind::XOAuth2)]);
    let (foreign, wanted): (&[&str], _) = match kind {
        Kind::Password => (&OAUTH2_KEYS, "xoauth2"),
        Kind::XOAuth2 => (&PASSWORD_KEYS, "password"),
    };
    for key in foreign.iter().filter(|key| section.has(key)) {
        let hint = format!("leave it out, or say auth = \"{wanted}\"");
        section.problem(key, format!("`{key}` belongs to auth = \"{wanted}\""), hint);
    }
    let own: &[&str] = match kind {
        Kind::Password => &PASSWORD_KEYS,
        Kind::XOAuth2 => &OAUTH2_KEYS,
    };
    if !section.has("username") {
        if let Some(key) = own.iter().find(|key| section.has(key)) {
            section.problem(key, format!("`{key}` without `username`"), "username = \"apikey\"");
        } else if section.has("auth") {
            section.problem("auth", "`auth` without `username`", "leave it out where there is no AUTH");
        }
        return None;
    }
    refuse_plain_text(section, tls, hosts);
    let username = section.name("username");
    let with = match kind {
        Kind::Password => password(section),
        Kind::XOAuth2 => oauth2(section, known).map(Secret::OAuth2),
    };
    Some(Auth { username: username?, with: with? })
}

/// Only what is verified before AUTH counts: opportunistic TLS and DANE may end in plain text, or with a stranger.
fn refuse_plain_text(section: &Section<'_>, tls: TlsPolicy, hosts: &[Host]) {
    let why = match tls {
        TlsPolicy::Required | TlsPolicy::Implicit => return,
        TlsPolicy::None => "the password would go to",
        TlsPolicy::Opportunistic | TlsPolicy::Dane => "the password could go to",
    };
    if let Some(host) = hosts.iter().find(|host| !is_loopback(host)) {
        let what = format!("{why} {host} in plain text");
        section.problem("tls", what, "say tls = \"required\" or \"implicit\"");
    }
}

fn password(section: &Section<'_>) -> Option<Secret> {
    if !PASSWORD_KEYS.iter().any(|key| section.has(key)) {
        let hint = "password_file = \"/run/secrets/provider\", or ONCEMAIL_SMARTHOST_PASSWORD_FILE";
        section.problem("username", "`username` without a password", hint);
    }
    section.secret("password").map(|text| Secret::Password(text.into()))
}

fn oauth2(section: &Section<'_>, known: &Known) -> Option<OAuth2> {
    let examples = [
        ("oauth2_token_url", "\"https://login.microsoftonline.com/TENANT/oauth2/v2.0/token\""),
        ("oauth2_client_id", "the application's id at the provider"),
        ("oauth2_client_secret", "oauth2_client_secret_file = \"/run/secrets/oauth2\""),
    ];
    for (key, example) in examples {
        if !section.has(key) && !section.has(&format!("{key}_file")) {
            section.problem(key, format!("auth = \"xoauth2\" without `{key}`"), example);
        }
    }
    let token_url = section.parsed("oauth2_token_url", token_url);
    let client_id = section.name("oauth2_client_id");
    let client_secret = section.secret("oauth2_client_secret");
    let scope = section.name("oauth2_scope").or_else(|| known.oauth2_scope.map(str::to_owned));
    Some(OAuth2 { token_url: token_url?, client_id: client_id?, client_secret: client_secret?, scope })
}

/// The client's secret goes there: over HTTPS, or not off this machine.
fn token_url(text: &str) -> Result<String, String> {
    let wanted = || "an https:// URL (http:// only to this machine), without a user in it".to_owned();
    let url = text.parse::<Uri>().map_err(|_| wanted())?;
    let host = url.host().unwrap_or_default();
    let is_here = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_safe = match url.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_here,
        _ => false,
    };
    let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if is_safe && !has_user { Ok(text.to_owned()) } else { Err(wanted()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_url_is_https_or_on_this_machine() {
        for good in [
            "https://login.microsoftonline.com/tenant/oauth2/v2.0/token",
            "http://127.0.0.1:8080/token",
            "http://[::1]/token",
            "http://localhost/token",
        ] {
            assert_eq!(token_url(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "login.example/token",
            "/token",
            "ftp://a/b",
            "http://login.example/token",
            "https://u:p@a/t",
            "https://",
        ] {
            assert!(token_url(bad).is_err(), "{bad}");
        }
    }
}
