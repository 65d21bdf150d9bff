//! Every address of the API, and who answers there. `openapi.json` says the same; a test compares them.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};

use super::guard::guard;
use super::refusal::Refusal;
use super::server::Shared;
use super::{actions, keys, live, messages, outward, session, suppressions, system};

/// All of it.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let api = Router::new()
        .route("/messages", get(messages::list))
        .route("/messages/actions", post(actions::bulk))
        .route("/messages/{id}", get(messages::show))
        .route("/messages/{id}/content", get(messages::content))
        .route("/messages/{id}/actions", post(actions::one))
        .route("/keys", get(keys::show).merge(delete(keys::forget)))
        .route("/destinations", get(outward::list))
        .route("/destinations/reset", post(outward::reset))
        .route(
            "/suppressions",
            get(suppressions::list).merge(post(suppressions::add)).merge(delete(suppressions::remove)),
        )
        .route("/explain", get(outward::explain))
        .route("/tls-report", get(outward::tls_report))
        .route("/config", get(system::config))
        .route("/reload", post(system::reload))
        .route("/overview", get(system::overview))
        .route("/series", get(system::series))
        .route("/stream", get(live::stream))
        .route("/openapi.json", get(system::openapi));
    Router::new()
        .nest("/api/v1", api)
        .route("/healthz", get(system::healthz))
        .route("/readyz", get(system::readyz))
        .route("/metrics", get(system::metrics))
        .merge(super::dashboard::router())
        .route("/session", get(session::show).merge(post(session::open)).merge(delete(session::close)))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

async fn nothing_here() -> Refusal {
    Refusal::not_found("there is nothing here: GET /api/v1/openapi.json says what there is")
}

async fn wrong_method(request: Request) -> Refusal {
    let detail = format!("{} is not for this address; `Allow` says what is", request.method());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}
