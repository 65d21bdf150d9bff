//! OAuth 2 access tokens with client credentials (RFC 6749 §4.4): fetched when needed, kept until shortly before they
//! expire, one fetch at a time for all connections of a route.
//!
//! A token that cannot be had is trouble of ours (R2). Neither the secret nor a token is ever part of a sentence.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::https::{self, Request, Response};
use super::options::OAuth2;
use super::tls::Trust;
use crate::dns::Dns;

/// An access token; never printed.
pub(super) type Token = Arc<Zeroizing<String>>;

/// Octets of an answer; a token of Microsoft's has about 2,000.
const MAX_ANSWER: usize = 64 << 10;
/// Octets of a token: with it AUTH stays below the 12,288 octets of RFC 4954 §4.
const MAX_TOKEN: usize = 8 << 10;
/// The whole fetch.
const FETCH_LIMIT: Duration = Duration::from_secs(30);
/// A token without `expires_in` is used for this long (RFC 6749 §5.1 leaves it open).
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);
/// No token is used for longer.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A token is not used this close to its end, or in its last tenth.
const MARGIN: Duration = Duration::from_secs(60);
/// Connections that wait for the same token share its failure for this long, instead of asking one after the other.
const FAILURE_LIFE: Duration = Duration::from_secs(1);
/// Of what the server says about an error.
const MAX_WORDS: usize = 200;
/// RFC 6749 appendix B, by way of RFC 3986 §2.3.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The tokens of one route.
pub(super) struct Tokens {
    options: OAuth2,
    trust: Trust,
    dns: Arc<Dns>,
    /// Locked while a token is fetched: who comes then waits for it.
    held: Mutex<Option<Held>>,
}

struct Held {
    token: Result<Token, String>,
    until: Instant,
}

/// RFC 6749 §5.1 and §5.2.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<serde_json::Value>,
    error: Option<String>,
    error_description: Option<String>,
}

/// Where tokens are.
struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Tokens {
    pub(super) fn new(options: OAuth2, trust: Trust, dns: Arc<Dns>) -> Self {
        Self { options, trust, dns, held: Mutex::new(None) }
    }

    /// A token that has not expired, and whether it was fetched just now.
    ///
    /// # Errors
    /// A sentence that names the server and what it said.
    ///
    /// # Cancel safety
    /// The next caller fetches.
    pub(super) async fn token(&self) -> Result<(Token, bool), String> {
        let mut held = self.held.lock().await;
        if let Some(kept) = held.as_ref().filter(|kept| kept.until > Instant::now()) {
            return kept.token.clone().map(|token| (token, false));
        }
        let fetched = Box::pin(self.fetch()).await;
        let life = fetched.as_ref().map_or(FAILURE_LIFE, |(_, life)| *life);
        let token = fetched.map(|(token, _)| token);
        *held = Some(Held { token: token.clone(), until: Instant::now() + life });
        token.map(|token| (token, true))
    }

    /// The far side has refused this token: it is not used again.
    pub(super) async fn refused(&self, token: &Token) {
        let mut held = self.held.lock().await;
        let is_held = |held: &Held| held.token.as_ref().is_ok_and(|kept| Arc::ptr_eq(kept, token));
        held.take_if(|held| is_held(held));
    }

    async fn fetch(&self) -> Result<(Token, Duration), String> {
        let endpoint = endpoint(&self.options.token_url)?;
        let request = Request {
            tls: endpoint.tls,
            host: &endpoint.host,
            is_configured: true,
            port: endpoint.port,
            path: &endpoint.path,
            body: Some(("application/x-www-form-urlencoded", self.form().into_bytes())),
            most: MAX_ANSWER,
            limit: FETCH_LIMIT,
        };
        let response = https::fetch(&self.trust, &self.dns, request).await?;
        let told = read(&response).map_err(|reason| {
            let reason = self.without_secret(&reason);
            format!("{}:{}: {reason}", endpoint.host, endpoint.port)
        });
        told.map(|(token, life)| (Arc::new(token), life))
    }

    fn form(&self) -> String {
        let OAuth2 { client_id, client_secret, scope, .. } = &self.options;
        let mut form = "grant_type=client_credentials".to_owned();
        let fields = [
            ("client_id", Some(client_id.as_str())),
            ("client_secret", Some(client_secret.as_str())),
            ("scope", scope.as_deref()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                // Writing to a string does not fail.
                let _ = write!(form, "&{name}={}", utf8_percent_encode(value, FORM));
            }
        }
        form
    }

    /// A server may quote what it was sent.
    fn without_secret(&self, text: &str) -> String {
        let secret = self.options.client_secret.as_str();
        let encoded = utf8_percent_encode(secret, FORM).to_string();
        if secret.is_empty() { text.to_owned() } else { text.replace(secret, "***").replace(&encoded, "***") }
    }
}

fn read(response: &Response) -> Result<(Zeroizing<String>, Duration), String> {
    let status = response.status;
    let Ok(answer) = serde_json::from_slice::<Answer>(&response.body) else {
        let kind = response.content_type.as_deref().unwrap_or("nothing known");
        return Err(format!(
            "HTTP status {status}, and the answer is no JSON of a token ({})",
            printable(kind)
        ));
    };
    if status != 200 || answer.error.is_some() {
        let error = printable(answer.error.as_deref().unwrap_or("no reason given"));
        let description = answer.error_description.as_deref().map(printable).unwrap_or_default();
        return Err(format!("HTTP status {status}, {error} {description}").trim_end().to_owned());
    }
    let is_bearer = answer.token_type.is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    // RFC 6750 §2.1, and nothing that could end the field or the line.
    let is_fit = |token: &str| {
        !token.is_empty() && token.len() <= MAX_TOKEN && token.bytes().all(|octet| octet.is_ascii_graphic())
    };
    match answer.access_token {
        Some(token) if is_bearer && is_fit(&token) => {
            Ok((Zeroizing::new(token), life(answer.expires_in.as_ref())))
        }
        Some(_) if is_bearer => Err("the token is empty, too long or has odd characters".to_owned()),
        Some(_) => Err("the token is no bearer token".to_owned()),
        None => Err("there is no token in the answer".to_owned()),
    }
}

/// How long a token is used, by its `expires_in`: seconds, which some servers send as a string.
fn life(expires_in: Option<&serde_json::Value>) -> Duration {
    let seconds = expires_in
        .and_then(|value| value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok())));
    let whole = seconds.map_or(UNKNOWN_LIFE, Duration::from_secs).min(LONGEST_LIFE);
    whole - MARGIN.min(whole / 10)
}

/// At most [`MAX_WORDS`] characters, without controls.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect()
}

fn endpoint(url: &str) -> Result<Endpoint, String> {
    let wrong = || format!("oauth2_token_url {url:?} is no http(s) URL");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let host = uri.host().ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok(Endpoint { tls, host, port, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<(String, u64), String> {
        let content_type = Some("application/json".to_owned());
        let response = Response { status, content_type, body: body.as_bytes().to_vec() };
        read(&response).map(|(token, life)| (token.to_string(), life.as_secs()))
    }

    #[test]
    fn tokens_are_used_until_shortly_before_they_expire() {
        for (expires_in, used) in [
            ("3600", 3540),
            ("\"3599\"", 3539),
            ("100", 90),
            ("0", 0),
            ("null", 270),
            ("\"soon\"", 270),
            ("1e99", 270),
            ("99999999999", 24 * 3600 - 60),
        ] {
            let body =
                format!("{{\"access_token\":\"t\",\"token_type\":\"Bearer\",\"expires_in\":{expires_in}}}");
            assert_eq!(answer(200, &body), Ok(("t".to_owned(), used)), "{expires_in}");
        }
    }

    #[test]
    fn what_is_no_token_is_named() {
        let long = format!("{{\"access_token\":\"{}\"}}", "x".repeat(MAX_TOKEN + 1));
        for (status, body, cause) in [
            (200, "<html>", "no JSON"),
            (502, "", "HTTP status 502"),
            (
                400,
                r#"{"error":"invalid_client","error_description":"AADSTS7000215\r\n secret"}"#,
                "invalid_client AADSTS7000215",
            ),
            (200, r#"{"error":"odd"}"#, "odd"),
            (401, r#"{"access_token":"t"}"#, "no reason given"),
            (200, "{}", "no token"),
            (200, r#"{"access_token":""}"#, "empty"),
            (200, r#"{"access_token":"a\u0001b"}"#, "odd characters"),
            (200, r#"{"access_token":"a b"}"#, "odd characters"),
            (200, r#"{"access_token":"t","token_type":"mac"}"#, "no bearer"),
            (200, long.as_str(), "too long"),
        ] {
            let error = answer(status, body).unwrap_err();
            assert!(error.contains(cause) && !error.contains(char::is_control), "{body}: {error}");
        }
    }

    #[test]
    fn urls_of_tokens_are_taken_apart() {
        let parts = |url| endpoint(url).map(|Endpoint { tls, host, port, path }| (tls, host, port, path));
        let text = str::to_owned;
        assert_eq!(
            parts("https://login.example/t/oauth2/v2.0/token?x=1"),
            Ok((true, text("login.example"), 443, text("/t/oauth2/v2.0/token?x=1")))
        );
        assert_eq!(parts("http://[::1]:8080"), Ok((false, text("::1"), 8080, text("/"))));
        for url in ["login.example/token", "ftp://login.example/", "https://", "", "/token"] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }
}
