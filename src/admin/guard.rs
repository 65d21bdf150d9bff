//! What every request passes before anything is done for it.
//!
//! A browser that visits a hostile page must not be made to act here. Three things see to that. Without a token the
//! `Host` field must name this machine, so that a name that was rebound to 127.0.0.1 reaches nothing. A request that
//! changes something must say that it is JSON, which no form can, and must come from our own pages if it says where it
//! comes from. And the API is closed to other sites' pages altogether, as far as their browser says so.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::access::Peer;
use super::refusal::Refusal;
use super::server::Shared;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// For answers that are no page of ours.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'";

/// The outermost layer.
pub(super) async fn guard(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let mut response = match admit(&shared, &mut request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    shared.counts.note(response.status());
    protect(response.headers_mut());
    response
}

fn admit(shared: &Shared, request: &mut Request) -> Result<(), Refusal> {
    let peer = request.extensions().get::<Peer>().copied();
    let peer = peer.ok_or_else(|| Refusal::forbidden("where the request comes from is not known"))?;
    let (headers, path) = (request.headers(), request.uri().path());
    if peer != Peer::Local && shared.access.is_open() && !names_this_machine(headers, request.uri()) {
        return Err(Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "without a token only localhost and loopback addresses are answered: set [admin] token",
        ));
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes {
        same_origin(headers)?;
    }
    if !is_open(path) {
        same_site(headers)?;
        let caller =
            shared.access.identify(peer, headers).inspect_err(|refusal| shared.counts.refused(refusal))?;
        request.extensions_mut().insert(caller);
    }
    Ok(())
}

/// What is answered without a token: whether we are well, the dashboard's files (which hold nothing), and the login.
fn is_open(path: &str) -> bool {
    !(path == "/metrics" || path == "/api" || path.starts_with("/api/"))
}

/// The name or address that the request is for is this machine's.
fn names_this_machine(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(HOST).into_iter();
    let host = match (uri.host(), hosts.next(), hosts.next()) {
        // RFC 9112 §3.2.2: a target in absolute form is the one that counts.
        (Some(host), _, _) => host,
        (None, Some(host), None) => without_port(host.to_str().unwrap_or_default()),
        _ => return false,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// A request that changes something comes from our own page, or from no page.
fn same_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    same_site(headers)?;
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let authority = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let is_ours =
        matches!((authority, host), (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host));
    is_ours
        .then_some(())
        .ok_or_else(|| Refusal::forbidden("the request comes from another site's page (Origin)"))
}

/// What a browser says of where a request was started (Fetch Metadata).
fn same_site(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(Refusal::forbidden("the request comes from another site's page (Sec-Fetch-Site)")),
    }
}

fn protect(headers: &mut HeaderMap) {
    let always = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (RESOURCE_POLICY, "same-origin"),
    ];
    for (name, value) in always {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // A page says itself what it needs, and how long it may be kept.
    for (name, value) in [(CACHE_CONTROL, "no-store"), (CONTENT_SECURITY_POLICY, NOTHING)] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_names_of_this_machine_pass_without_a_token() {
        let target = Uri::from_static("/api/v1/messages");
        for host in ["localhost", "LOCALHOST:8025", "127.0.0.1:8025", "127.9.9.9", "[::1]:8025", "[::1]"] {
            assert!(names_this_machine(&headers(&[("host", host)]), &target), "{host}");
        }
        for host in ["evil.example:8025", "127.0.0.1.evil.example", "localhost.evil.example", "192.0.2.1", ""]
        {
            assert!(!names_this_machine(&headers(&[("host", host)]), &target), "{host}");
        }
        assert!(!names_this_machine(&HeaderMap::new(), &target));
        let absolute = Uri::from_static("http://evil.example/api");
        assert!(!names_this_machine(&headers(&[("host", "localhost")]), &absolute));
    }

    #[test]
    fn a_change_comes_from_our_own_page_or_from_none() {
        let host = ("host", "relay.example:8025");
        for ours in [
            vec![host],
            vec![host, ("origin", "http://relay.example:8025")],
            vec![host, ("origin", "https://RELAY.example:8025"), ("sec-fetch-site", "same-origin")],
        ] {
            assert_eq!(same_origin(&headers(&ours)), Ok(()), "{ours:?}");
        }
        for theirs in [
            vec![host, ("origin", "http://evil.example")],
            vec![host, ("origin", "http://relay.example:9999")],
            vec![host, ("origin", "null")],
            vec![host, ("sec-fetch-site", "cross-site")],
            vec![host, ("sec-fetch-site", "same-site")],
            vec![("origin", "http://relay.example:8025")],
        ] {
            assert!(same_origin(&headers(&theirs)).is_err(), "{theirs:?}");
        }
    }

    #[test]
    fn what_is_open_holds_nothing() {
        for open in ["/", "/healthz", "/readyz", "/session", "/assets/app.js"] {
            assert!(is_open(open));
        }
        for closed in ["/metrics", "/api", "/api/v1/messages", "/api/v1/openapi.json"] {
            assert!(!is_open(closed));
        }
    }
}
