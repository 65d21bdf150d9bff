//! What an operator does with messages: with one, or with all that match.
//!
//! An order is carried out to its end, and logged, also when the client is gone meanwhile: half an order would be nobody's
//! wish. What is done is durable before the answer says so.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use futures_util::stream::{self, StreamExt};

use super::access::Caller;
use super::filter::{self, Meant};
use super::messages::{find, summaries};
use super::model::{Action, ActionRequest, ActionResult, BulkRequest, BulkResult, Effect};
use super::refusal::Refusal;
use super::request::{Body, Id, Operator};
use super::server::Shared;
use crate::mail::QueueId;
use crate::queue::{self, Look, Order, Wanted};

/// Longer reasons are refused, characters.
const MAX_REASON: usize = 200;
/// Messages that are looked for at once: a look goes through the whole queue.
const PAGE: usize = 20_000;
/// Messages that are shown.
const SAMPLE: usize = 20;
/// Messages that are read from the store at once to see whether they are meant.
const READS: usize = 4;

/// `POST /api/v1/messages/{id}/actions`.
pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    Operator(caller): Operator,
    Id(id): Id,
    Body(request): Body<ActionRequest>,
) -> Result<Json<ActionResult>, Refusal> {
    let order = order(request.action, request.reason, &caller)?;
    let queue = shared.queue.clone();
    let ordered = tokio::spawn(async move {
        let action = order.action.as_str();
        let effect = queue.order(id, order).await;
        super::audit(&caller, action, &id, &format!("{effect:?}"));
        effect
    });
    let effect = ordered.await.map_err(|error| Refusal::broken("the order failed", &error))?;
    let (effect, detail) = match effect {
        queue::Effect::Done => (Effect::Done, None),
        queue::Effect::Pending => (
            Effect::Pending,
            Some("an attempt is under way: it happens with that attempt's outcome".to_owned()),
        ),
        queue::Effect::Unchanged(why) => (Effect::Unchanged, Some(why.to_owned())),
        queue::Effect::Gone => {
            return Err(Refusal::not_found(format!("{id} is not in the queue (any more)")));
        }
        queue::Effect::Failed(error) => {
            return Err(Refusal::broken(
                "it could not be made durable, and the message stands as it was",
                &error,
            ));
        }
    };
    Ok(Json(ActionResult { id: id.to_string(), effect, detail }))
}

/// `POST /api/v1/messages/actions`.
pub(super) async fn bulk(
    State(shared): State<Arc<Shared>>,
    Operator(caller): Operator,
    Body(mut request): Body<BulkRequest>,
) -> Result<Json<BulkResult>, Refusal> {
    let order = order(request.action, request.reason.take(), &caller)?;
    if request.filter.state.is_empty() {
        request.filter.state = order.action.applies_to().iter().copied().map(filter::state).collect();
    }
    let meant = Meant::new(&request.filter, shared.clock.now()).map_err(Refusal::into_unfit)?;
    if meant.past.is_some() {
        let detail = "`state`: what is delivered, bounced or discarded is over: queued, active and held can be ordered";
        return Err(Refusal::unfit(detail));
    }
    let Some(wanted) = meant.queue else { return Ok(Json(BulkResult::default())) };
    let mut first = find(&shared, wanted.clone(), None, SAMPLE).await?;
    first.messages.truncate(SAMPLE);
    let sample = summaries(&shared, &wanted, &first).await?;
    let mut result = BulkResult {
        dry_run: request.dry_run,
        matched: first.matched,
        unread: first.unread,
        sample,
        ..BulkResult::default()
    };
    if request.dry_run {
        if needs_a_look(&wanted) {
            let _place = shared.reads.enter().await?;
            result.matched = meant_ids(&shared, &wanted).await?.len() as u64;
        }
        return Ok(Json(result));
    }
    let work = tokio::spawn(async move {
        let action = order.action.as_str();
        let done = carry_out(shared, wanted, order, result).await?;
        let what = serde_json::to_string(&request.filter).unwrap_or_default();
        let effect = format!(
            "matched {}, done {}, pending {}, unchanged {}, failed {}",
            done.matched, done.done, done.pending, done.unchanged, done.failed
        );
        super::audit(&caller, action, &what, &effect);
        Ok(Json(done))
    });
    work.await.map_err(|error| Refusal::broken("the order failed", &error))?
}

/// Orders everything that is meant. The messages are known before the first of them is changed, so that what a change
/// makes of a message cannot make it match again.
async fn carry_out(
    shared: Arc<Shared>,
    wanted: Wanted,
    order: Order,
    mut result: BulkResult,
) -> Result<BulkResult, Refusal> {
    let _place = shared.bulk.enter_now()?;
    let ids = meant_ids(&shared, &wanted).await?;
    result.matched = ids.len() as u64;
    // All at once: the queue makes batches of its own, and waits once for what is being sent.
    for (_, effect) in shared.queue.order_all(ids, order, wanted).await {
        let count = match effect {
            queue::Effect::Done => &mut result.done,
            queue::Effect::Pending => &mut result.pending,
            queue::Effect::Unchanged(_) | queue::Effect::Gone => &mut result.unchanged,
            queue::Effect::Failed(_) => &mut result.failed,
        };
        *count += 1;
    }
    Ok(result)
}

/// The ids of all that are meant, newest first. 16 bytes each: a million take 16 MB.
async fn meant_ids(shared: &Arc<Shared>, wanted: &Wanted) -> Result<Vec<QueueId>, Refusal> {
    let mut ids = Vec::new();
    let mut after = None;
    loop {
        let found = find(shared, wanted.clone(), after, PAGE).await?;
        let page: Vec<_> = found.messages.iter().map(|(id, _)| *id).collect();
        ids.extend(if needs_a_look(wanted) { looked_at(shared, wanted, page).await? } else { page });
        match found.next {
            Some(next) if Some(next) != after => after = Some(next),
            _ => return Ok(ids),
        }
    }
}

/// Whether the queue's answer rests on hashes of addresses.
fn needs_a_look(wanted: &Wanted) -> bool {
    wanted.to.is_some() || wanted.from.is_some()
}

async fn looked_at(
    shared: &Arc<Shared>,
    wanted: &Wanted,
    ids: Vec<QueueId>,
) -> Result<Vec<QueueId>, Refusal> {
    let mut looks = stream::iter(ids.into_iter().map(|id| shared.queue.look(id))).buffered(READS);
    let mut meant = Vec::new();
    while let Some(look) = looks.next().await {
        let is_met = |look: &Look| wanted.is_met_by(&look.message.envelope, &look.message.origin);
        meant.extend(look?.filter(is_met).map(|look| look.message.id));
    }
    Ok(meant)
}

fn order(action: Action, reason: Option<String>, caller: &Caller) -> Result<Order, Refusal> {
    let is_fit =
        |reason: &String| reason.chars().count() <= MAX_REASON && !reason.chars().any(char::is_control);
    if !reason.as_ref().is_none_or(is_fit) {
        return Err(Refusal::unfit(format!(
            "`reason` has at most {MAX_REASON} characters, and no control characters"
        )));
    }
    let action = match action {
        Action::Retry => queue::Action::Retry,
        Action::Hold => queue::Action::Hold,
        Action::Release => queue::Action::Release,
        Action::Bounce => queue::Action::Bounce,
        Action::Discard => queue::Action::Discard,
    };
    Ok(Order { action, by: caller.name.to_string(), reason: reason.filter(|reason| !reason.is_empty()) })
}
