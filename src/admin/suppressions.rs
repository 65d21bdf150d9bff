//! Addresses that no mail is taken for.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;

use super::access::Caller;
use super::model::{Suppression, SuppressionList, SuppressionRequest};
use super::parameters::Parameters;
use super::refusal::Refusal;
use super::request::{Body, Operator};
use super::server::Shared;
use crate::mail::Address;
use crate::store::suppression::{Suppressed, Suppressions};

const PAGE: usize = 100;
const MAX_PAGE: usize = 500;
/// Longer reasons are refused, bytes.
const MAX_REASON: usize = 200;

/// `GET /api/v1/suppressions`.
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    _: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<SuppressionList>, Refusal> {
    let query = Parameters::read(query.as_deref(), &["limit", "after"])?;
    let limit = query.number("limit", PAGE, &(1..=MAX_PAGE))?;
    let after = query.text("after").map(str::to_owned);
    let list = configured(&shared)?;
    // One walk at a time: the list may have a million addresses.
    let page = shared.scans.block(move || page(list.entries(), after.as_deref(), limit)).await?;
    Ok(Json(page))
}

/// `POST /api/v1/suppressions`.
pub(super) async fn add(
    State(shared): State<Arc<Shared>>,
    Operator(caller): Operator,
    Body(wanted): Body<SuppressionRequest>,
) -> Result<Json<Suppression>, Refusal> {
    let list = configured(&shared)?;
    let address = parse(&wanted.address).map_err(Refusal::into_unfit)?;
    if wanted.reason.len() > MAX_REASON || wanted.reason.chars().any(char::is_control) {
        return Err(Refusal::unfit(format!(
            "`reason` has at most {MAX_REASON} bytes, and no control characters"
        )));
    }
    let reason = match wanted.reason.as_str() {
        "" => format!("added by {}", caller.name),
        reason => reason.to_owned(),
    };
    list.add(&address, &reason);
    super::audit(&caller, "suppress", &address, &reason);
    let added = list.find(&address).unwrap_or(Suppressed { since: shared.clock.now(), reason });
    Ok(Json(shown(address.canonical(), added)))
}

/// `DELETE /api/v1/suppressions`.
pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    Operator(caller): Operator,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Refusal> {
    let query = Parameters::read(query.as_deref(), &["address"])?;
    let list = configured(&shared)?;
    let address = parse(query.required("address")?)?;
    if !list.remove(&address) {
        return Err(Refusal::not_found(format!("{address} is not suppressed")));
    }
    super::audit(&caller, "unsuppress", &address, "done");
    Ok(StatusCode::NO_CONTENT)
}

fn configured(shared: &Shared) -> Result<Arc<Suppressions>, Refusal> {
    shared.suppressions.clone().ok_or_else(|| {
        Refusal::not_found("no addresses are remembered: [suppression] on_hard_bounce = true turns that on")
    })
}

fn parse(text: &str) -> Result<Address, Refusal> {
    Address::parse(text).map_err(|error| Refusal::bad(format!("`address` is no address: {error}")))
}

fn page(mut entries: Vec<(String, Suppressed)>, after: Option<&str>, limit: usize) -> SuppressionList {
    let total = entries.len() as u64;
    entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let from = after.map_or(0, |after| entries.partition_point(|(address, _)| address.as_str() <= after));
    let is_last = entries.len() - from <= limit;
    let suppressions: Vec<_> =
        entries.into_iter().skip(from).take(limit).map(|(address, entry)| shown(address, entry)).collect();
    let next = suppressions.last().filter(|_| !is_last).map(|last| last.address.clone());
    SuppressionList { suppressions, next, total }
}

fn shown(address: String, entry: Suppressed) -> Suppression {
    Suppression { address, since: Some(entry.since.to_string()), reason: entry.reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn pages_follow_each_other_by_address() {
        let entry = |name: &str| {
            (
                format!("{name}@x.example"),
                Suppressed { since: Timestamp::from_millis(0), reason: String::new() },
            )
        };
        let all = || vec![entry("c"), entry("a"), entry("b")];
        let first = page(all(), None, 2);
        assert_eq!(
            first.suppressions.iter().map(|s| &*s.address).collect::<Vec<_>>(),
            ["a@x.example", "b@x.example"]
        );
        let second = page(all(), first.next.as_deref(), 2);
        assert_eq!(
            (second.suppressions[0].address.as_str(), second.next, second.total),
            ("c@x.example", None, 3)
        );
        assert_eq!(page(all(), None, 3).next, None);
    }
}
