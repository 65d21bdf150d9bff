//! Why a request is not done, as a problem document (RFC 9457). A refused request has changed nothing.

use std::fmt::Display;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::model::Problem;
use crate::store::StoreError;

/// The type of a problem that has no type of its own (RFC 9457 §4.2.1).
const BLANK: &str = "about:blank";

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    errors: Vec<String>,
    /// Seconds.
    retry_after: Option<u64>,
}

impl Refusal {
    /// With a sentence that says what is wrong.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, kind: BLANK, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// 400: something in the path or the query means nothing.
    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 422: the body is JSON, and says something that cannot be.
    pub fn unfit(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// The same about a body instead of a query.
    pub fn into_unfit(self) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, ..self }
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 401: says how to come in (RFC 6750 §3).
    pub fn unknown_caller(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// 403.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// 429: `seconds` later it may be tried again.
    pub fn too_many(seconds: u64, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, detail).after(seconds)
    }

    /// 503: it is not the request's fault, and worth another try.
    pub fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).after(1)
    }

    /// 503: something here does not work.
    pub fn broken(what: &str, error: &dyn Display) -> Self {
        tracing::warn!(target: "oncemail::admin", %error, "{what}");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{what}: {error}")).after(10)
    }

    /// 422 with everything that is wrong with a configuration.
    pub fn configuration(errors: Vec<String>) -> Self {
        let detail = "the configuration was not taken, and nothing has changed";
        Self { kind: "urn:oncemail:configuration", errors, ..Self::unfit(detail) }
    }

    fn after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds.max(1)), ..self }
    }

    /// What a client is told.
    pub fn problem(&self) -> Problem {
        Problem {
            kind: self.kind.to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: Some(self.detail.clone()),
            errors: self.errors.clone(),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::broken("the store cannot answer", &error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.problem())).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"oncemail\""));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
