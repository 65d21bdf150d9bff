//! The process as a whole: whether it is well, its metrics, its configuration, how things are and were.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::access::Caller;
use super::model::{Overview, Reloaded, Series};
use super::parameters::Parameters;
use super::refusal::Refusal;
use super::request::{Nothing, Operator};
use super::sampler::Range;
use super::server::Shared;

/// `GET /healthz`: the process answers. Nothing else is asked: what restarts a process must not do so because a
/// smarthost is down.
pub(super) async fn healthz() -> Json<serde_json::Value> {
    Json(json!({ "ok": true }))
}

/// `GET /readyz`: 200 when mail is taken and relayed, 503 with the reasons when not.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let readiness = shared.process.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": readiness.ready, "reasons": readiness.reasons }))).into_response()
}

/// `GET /metrics`, for Prometheus: it sends a token with `authorization: { credentials_file: … }`.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>, _: Caller) -> Result<Response, Refusal> {
    let process = shared.process.clone();
    let (text, kind) = shared.scans.block(move || process.metrics()).await?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response())
}

/// `GET /api/v1/config`: what is in force, without secrets.
pub(super) async fn config(
    State(shared): State<Arc<Shared>>,
    _: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<serde_json::Value>, Refusal> {
    Parameters::read(query.as_deref(), &[])?;
    Ok(Json(shared.process.config()))
}

/// `POST /api/v1/reload`: all of the configuration, or nothing.
pub(super) async fn reload(
    State(shared): State<Arc<Shared>>,
    Operator(caller): Operator,
    _: Nothing,
) -> Result<Json<Reloaded>, Refusal> {
    let process = shared.process.clone();
    // Of its own: a client that goes away must not leave it half done, nor unsaid.
    let work = tokio::spawn(async move {
        let reloaded = process.reload(&caller.name).await;
        super::audit(&caller, "reload", &"", if reloaded.is_ok() { "done" } else { "refused" });
        reloaded
    });
    let reloaded = work.await.map_err(|error| Refusal::broken("the reload failed", &error))?;
    reloaded.map(Json).map_err(Refusal::configuration)
}

/// `GET /api/v1/overview`.
pub(super) async fn overview(
    State(shared): State<Arc<Shared>>,
    _: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Overview>, Refusal> {
    Parameters::read(query.as_deref(), &[])?;
    Ok(Json(shared.overview()))
}

/// `GET /api/v1/series`.
pub(super) async fn series(
    State(shared): State<Arc<Shared>>,
    _: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Series>, Refusal> {
    let query = Parameters::read(query.as_deref(), &["range"])?;
    let range = query.choice("range", Range::Hour, &[("1h", Range::Hour), ("24h", Range::Day)])?;
    Ok(Json(shared.sampler().series(range)))
}

/// `GET /api/v1/openapi.json`: this API, for programs.
pub(super) async fn openapi(_: Caller) -> Response {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}
