//! A browser's session: the token once, then a cookie that no script can read and no other site can send.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use zeroize::Zeroizing;

use super::access::{COOKIE_NAME, Caller, LIFETIME, Peer};
use super::model::{Session, SessionRequest};
use super::refusal::Refusal;
use super::request::Body;
use super::server::Shared;

/// `GET /session`: who the caller is.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    axum::Extension(peer): axum::Extension<Peer>,
    headers: HeaderMap,
) -> Result<Json<Session>, Refusal> {
    let caller =
        shared.access.identify(peer, &headers).inspect_err(|refusal| shared.counts.refused(refusal))?;
    Ok(Json(told(&caller)))
}

/// `POST /session`: a token for a cookie.
pub(super) async fn open(
    State(shared): State<Arc<Shared>>,
    axum::Extension(peer): axum::Extension<Peer>,
    headers: HeaderMap,
    Body(request): Body<SessionRequest>,
) -> Result<Response, Refusal> {
    let secret = Zeroizing::new(request.token);
    if shared.access.is_open() || peer == Peer::Local {
        // Nobody needs one here.
        return show(State(shared), axum::Extension(peer), headers).await.map(IntoResponse::into_response);
    }
    let opened = shared.access.open_session(peer, &secret);
    let (cookie, caller) = opened.inspect_err(|refusal| shared.counts.refused(refusal))?;
    super::audit(&caller, "session", &"", "opened");
    // Behind a proxy that speaks TLS the cookie must not leave in plain text either.
    let is_tls = headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    let cookie = set_cookie(&cookie, LIFETIME.as_secs(), is_tls);
    Ok(([(SET_COOKIE, cookie)], Json(told(&caller))).into_response())
}

/// `DELETE /session`: the end of it. Always done.
pub(super) async fn close(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    shared.access.close_session(&headers);
    (StatusCode::NO_CONTENT, [(SET_COOKIE, set_cookie("", 0, false))]).into_response()
}

fn set_cookie(value: &str, seconds: u64, is_tls: bool) -> String {
    let secure = if is_tls { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}")
}

fn told(caller: &Caller) -> Session {
    Session {
        name: caller.name.to_string(),
        role: caller.role.as_str().to_owned(),
        contents: caller.contents,
    }
}
