//! What handlers take from a request: the caller, an id, a body.

use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::access::Caller;
use super::options::Role;
use super::parameters::Parameters;
use super::refusal::Refusal;
use crate::mail::QueueId;

/// No body is longer, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// A body that has not come by then does not come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        // The guard has put it there for everything that is not open.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Refusal::unknown_caller("a token is needed"))
    }
}

/// A caller that may act.
pub(super) struct Operator(pub Caller);

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let caller = Caller::from_request_parts(parts, state).await?;
        if caller.role >= Role::Operate {
            return Ok(Self(caller));
        }
        Err(Refusal::forbidden(format!(
            "the token {:?} may only read: this needs role = \"operate\"",
            caller.name
        )))
    }
}

/// The queue id in the path.
pub(super) struct Id(pub QueueId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let text = text.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
        queue_id(&text).map(Self)
    }
}

/// A text as a queue id.
///
/// # Errors
/// 400 with what one looks like.
pub(super) fn queue_id(text: &str) -> Result<QueueId, Refusal> {
    let id = text.parse::<QueueId>().map_err(|error| Refusal::bad(format!("`id`: {error}")))?;
    // 26 characters hold two bits more than an id has.
    let is_whole = id.to_string().eq_ignore_ascii_case(text);
    is_whole.then_some(id).ok_or_else(|| Refusal::bad("`id`: a queue id begins with 0 to 7"))
}

/// A body in JSON.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let bytes = read(request).await?;
        let parsed = Json::<T>::from_bytes(&bytes);
        parsed
            .map(|Json(value)| Self(value))
            .map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))
    }
}

/// A body that says nothing: none at all, or `{}`.
pub(super) struct Nothing;

impl<S: Sync> FromRequest<S> for Nothing {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let bytes = read(request).await?;
        let said: String =
            bytes.iter().map(|b| char::from(*b)).filter(|c| !c.is_ascii_whitespace()).collect();
        match said.as_str() {
            "" | "{}" => Ok(Self),
            _ => Err(Refusal::unfit("this takes no body, or {}")),
        }
    }
}

async fn read(request: Request) -> Result<Bytes, Refusal> {
    // Whoever says `?dry_run=true` here must not be taken to have said nothing.
    Parameters::read(request.uri().query(), &[])?;
    let too_long =
        || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {MAX_BODY} bytes"));
    if !is_json(request.headers()) {
        let detail = "the body must be JSON, and say so: `Content-Type: application/json`";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let said =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_long());
    }
    let read = timeout(BODY_TIMEOUT, to_bytes(request.into_body(), MAX_BODY)).await;
    let read =
        read.map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))?;
    read.map_err(|error| {
        let error = error.into_inner();
        match error.downcast_ref::<http_body_util::LengthLimitError>() {
            Some(_) => too_long(),
            None => Refusal::bad("the body broke off"),
        }
    })
}

/// `application/json`, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(kind)) = headers.get(CONTENT_TYPE).map(|kind| kind.to_str()) else { return false };
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}
