//! The way out: destinations, what would happen to a message, how TLS went.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use tokio::time::timeout;

use super::access::Caller;
use super::filter;
use super::model::{Destinations, Explanation, ResetRequest, ResetResult};
use super::parameters::Parameters;
use super::ports::ExplainQuestion;
use super::refusal::Refusal;
use super::request::{Body, Operator};
use super::server::Shared;

/// Destinations that are told of at most.
const MOST: usize = 1000;
/// DNS has its own time-outs; this bounds their sum.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// `GET /api/v1/destinations`.
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    _: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Destinations>, Refusal> {
    Parameters::read(query.as_deref(), &[])?;
    let outbound = shared.outbound.clone();
    shared.scans.block(move || outbound.destinations(MOST)).await.map(Json)
}

/// `POST /api/v1/destinations/reset`.
pub(super) async fn reset(
    State(shared): State<Arc<Shared>>,
    Operator(caller): Operator,
    Body(request): Body<ResetRequest>,
) -> Result<Json<ResetResult>, Refusal> {
    let ResetRequest { route, destination } = request;
    let result = shared.outbound.reset(&route, destination.as_deref()).ok_or_else(|| match &destination {
        Some(destination) => {
            Refusal::not_found(format!("no mail has gone to {destination:?} by the route {route:?}"))
        }
        None => Refusal::not_found(format!("there is no route {route:?} that mail has gone by")),
    })?;
    let what = format!("{route} {}", destination.unwrap_or_default());
    super::audit(
        &caller,
        "reset",
        &what.trim_end(),
        &format!("{} breakers, {} destinations", result.breakers, result.destinations),
    );
    Ok(Json(result))
}

/// `GET /api/v1/explain`.
pub(super) async fn explain(
    State(shared): State<Arc<Shared>>,
    _: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Explanation>, Refusal> {
    let query = Parameters::read(query.as_deref(), &["address", "from", "user", "listener"])?;
    let address = query.required("address")?;
    filter::address("address", address)?;
    let from = query.text("from").filter(|from| *from != "<>");
    if let Some(from) = from {
        filter::address("from", from)?;
    }
    let text = |name| query.text(name).map(str::to_owned);
    let question = ExplainQuestion {
        address: address.to_owned(),
        // Nothing said: some other sender; `<>`: the null sender, which is the empty one.
        from: if query.text("from") == Some("<>") { Some(String::new()) } else { from.map(str::to_owned) },
        user: text("user"),
        listener: text("listener"),
    };
    let _place = shared.explains.enter().await?;
    let explained = timeout(EXPLAIN_TIMEOUT, shared.outbound.explain(&question)).await;
    explained.map(Json).map_err(|_| Refusal::busy("the DNS has not answered in time"))
}

/// `GET /api/v1/tls-report`.
pub(super) async fn tls_report(
    State(shared): State<Arc<Shared>>,
    _: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<serde_json::Value>, Refusal> {
    Parameters::read(query.as_deref(), &[])?;
    Ok(Json(shared.outbound.tls_report()))
}
