//! Messages: a page of them, the story of one, its content.

use std::fmt::Display;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};

use super::access::Caller;
use super::filter::{self, Meant};
use super::model::{Messages, Story, Summary};
use super::parameters::Parameters;
use super::refusal::Refusal;
use super::request::Id;
use super::server::Shared;
use super::story;
use crate::mail::QueueId;
use crate::queue::{Found, Wanted};
use crate::store::history::{Past, PastPage, PastWanted};

/// Messages on a page …
const PAGE: usize = 50;
/// … and at most.
const MAX_PAGE: usize = 500;
/// Messages that are read from the store at once: each may be as long as `limits.message_size` (S2).
const READS: usize = 4;
/// A page of the history may be empty; so many are read for one request.
const PAST_CALLS: usize = 4;

/// From the end of a message to the record of it.
const BETWEEN: Duration = Duration::from_millis(50);

/// Where a page begins.
enum After {
    Queue(Option<QueueId>),
    Past(Option<String>),
}

/// `GET /api/v1/messages`.
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    _: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Messages>, Refusal> {
    let query = Parameters::read(query.as_deref(), filter::LIST)?;
    let limit = query.number("limit", PAGE, &(1..=MAX_PAGE))?;
    let meant = Meant::new(&filter::from_query(&query)?, shared.clock.now())?;
    let after = after(query.text("after"))?;
    let mut page = Messages::default();
    let past_after = match (after, &meant.queue) {
        (After::Queue(after), Some(wanted)) => {
            let found = find(&shared, wanted.clone(), after, limit).await?;
            page.messages = summaries(&shared, wanted, &found).await?;
            (page.matched, page.unread) = (found.matched, found.unread);
            page.next = found.next.map(|id| format!("q:{id}"));
            None
        }
        (After::Queue(_), None) => None,
        (After::Past(after), _) => after,
    };
    let Some(wanted) = meant.past.as_ref().filter(|_| page.next.is_none()) else { return Ok(Json(page)) };
    if page.messages.len() >= limit {
        page.next = Some("h:".to_owned());
        return Ok(Json(page));
    }
    let room = limit - page.messages.len();
    let (past, next) = past(&shared, wanted, past_after, room, &meant).await?;
    page.messages.extend(past);
    page.next = next.map(|next| format!("h:{next}"));
    Ok(Json(page))
}

/// `GET /api/v1/messages/{id}`.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<Json<Story>, Refusal> {
    Parameters::read(query.as_deref(), &[])?;
    find_story(&shared, id, caller.contents).await?.map(Json).ok_or_else(|| unknown(id))
}

/// `GET /api/v1/messages/{id}/content`: as it is relayed.
pub(super) async fn content(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    Parameters::read(query.as_deref(), &[])?;
    if !caller.contents {
        let detail =
            "contents may be read only over the unix socket, or with a token that has contents = true";
        return Err(Refusal::forbidden(detail));
    }
    let _place = shared.reads.enter().await?;
    let look = shared.queue.look(id).await?.ok_or_else(|| {
        Refusal::not_found(format!(
            "{id} is not in the queue (any more), and contents are not kept for longer"
        ))
    })?;
    super::audit(&caller, "content", &id, "read");
    let headers = [
        (CONTENT_TYPE, "message/rfc822".to_owned()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.eml\"")),
    ];
    Ok((headers, look.message.content.clone()).into_response())
}

/// The story of a message, from the queue or from the history.
pub(super) async fn find_story(
    shared: &Arc<Shared>,
    id: QueueId,
    contents: bool,
) -> Result<Option<Story>, Refusal> {
    let look = {
        let _place = shared.reads.enter().await?;
        shared.queue.look(id).await?
    };
    let mut past = remembered(shared, id).await?;
    if look.is_none() && past.is_none() && shared.history.is_some() {
        // What has ended at this very moment is gone from the store, and not yet in the history.
        tokio::time::sleep(BETWEEN).await;
        past = remembered(shared, id).await?;
    }
    let now = shared.clock.now();
    let story = match (look, &past) {
        (Some(look), past) => {
            let mut story = story::story(&look, past.as_ref(), contents, now, &*shared.outbound);
            let lifetime = shared.process.expire_after();
            let due_at = look.message.envelope.due_at(look.message.accepted_at);
            let due_at = look.progress.released_at.unwrap_or(due_at);
            story.expires_at = lifetime.and_then(|lifetime| story::told(due_at.plus(lifetime)));
            Some(story)
        }
        (None, Some(past)) => {
            past.ended.as_ref().map(|ended| story::past_story(&id.to_string(), past, ended, now))
        }
        (None, None) => None,
    };
    Ok(story)
}

async fn remembered(shared: &Shared, id: QueueId) -> Result<Option<Past>, Refusal> {
    let Some(history) = shared.history.clone() else { return Ok(None) };
    shared.reads.block(move || history.find(id)).await?.map_err(history_failed)
}

/// Looks through the queue.
pub(super) async fn find(
    shared: &Arc<Shared>,
    wanted: Wanted,
    after: Option<QueueId>,
    most: usize,
) -> Result<Found, Refusal> {
    let (queue, outbound) = (shared.queue.clone(), shared.outbound.clone());
    shared.scans.block(move || queue.find(&wanted, &*outbound, after, most)).await
}

/// What was found, as it is shown. What has left the queue since is left out.
pub(super) async fn summaries(
    shared: &Arc<Shared>,
    wanted: &Wanted,
    found: &Found,
) -> Result<Vec<Summary>, Refusal> {
    let _place = shared.reads.enter().await?;
    let now = shared.clock.now();
    let ids: Vec<_> = found.messages.iter().map(|(id, _)| *id).collect();
    let mut looks = stream::iter(ids.into_iter().map(|id| shared.queue.look(id))).buffered(READS);
    let mut summaries = Vec::with_capacity(found.messages.len());
    while let Some(look) = looks.next().await {
        let Some(look) = look? else { continue };
        if wanted.is_met_by(&look.message.envelope, &look.message.origin) {
            summaries.push(story::summary(&look, now, &*shared.outbound));
        }
    }
    Ok(summaries)
}

async fn past(
    shared: &Arc<Shared>,
    wanted: &PastWanted,
    mut after: Option<String>,
    room: usize,
    meant: &Meant,
) -> Result<(Vec<Summary>, Option<String>), Refusal> {
    let mut summaries = Vec::new();
    let Some(history) = shared.history.clone() else { return Ok((summaries, None)) };
    let now = shared.clock.now();
    for _ in 0..PAST_CALLS {
        let (history, wanted, from) = (history.clone(), wanted.clone(), after.take());
        let most = room - summaries.len();
        let found = shared.reads.block(move || history.search(&wanted, from.as_deref(), most)).await?;
        let PastPage { messages, next } = found.map_err(history_failed)?;
        let shown = messages.iter().map(|(id, ended)| story::past_summary(&id.to_string(), ended, now));
        summaries.extend(shown.filter(|summary| meant.kinds.contains(&summary.kind)));
        after = next;
        if after.is_none() || summaries.len() >= room {
            break;
        }
    }
    Ok((summaries, after))
}

fn after(text: Option<&str>) -> Result<After, Refusal> {
    let refusal = || Refusal::bad("`after` is what the page before has said as `next`");
    let Some(text) = text else { return Ok(After::Queue(None)) };
    match text.split_once(':').ok_or_else(refusal)? {
        ("q", id) => id.parse().map(|id| After::Queue(Some(id))).map_err(|_| refusal()),
        ("h", "") => Ok(After::Past(None)),
        ("h", after) => Ok(After::Past(Some(after.to_owned()))),
        _ => Err(refusal()),
    }
}

/// 404.
pub(super) fn unknown(id: impl Display) -> Refusal {
    Refusal::not_found(format!("{id} is neither in the queue nor remembered"))
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn history_failed(error: std::io::Error) -> Refusal {
    match error.kind() {
        ErrorKind::InvalidInput => Refusal::bad("`after` is what the page before has said as `next`"),
        _ => Refusal::broken("the history cannot be read", &error),
    }
}
