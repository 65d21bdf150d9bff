//! The JSON of an event. `docs/events.md` has its schema: a field that is not known, or means nothing here, is left out.

use std::time::Duration;

use serde::Serialize;

use super::{Change, EventKind};
use crate::clock::Timestamp;
use crate::mail::{HoldCause, Message, QueueId, RecipientState, Replay, trace};

/// Raised when a field goes or changes its meaning; a new one does not raise it.
const VERSION: u8 = 1;

/// One event.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    version: u8,
    /// Queue id of the event itself: the same in every attempt.
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    at: String,
    message: About<'a>,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Debug, Serialize, Default)]
struct What<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
}

/// The message that it is about.
#[derive(Clone, Debug, Serialize)]
pub(super) struct About<'a> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    accepted_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

impl<'a> About<'a> {
    pub(super) fn of(message: &'a Message) -> Self {
        Self {
            id: message.id.to_string(),
            key: message.key.as_ref().map(|key| key.key.as_str()),
            key_scope: message.key.as_ref().and_then(|key| key.scope.name()),
            message_id: Some(message.message_id.as_str()).filter(|id| !id.is_empty()),
            from: message.envelope.reverse_path.as_str(),
            user: message.origin.user.as_deref(),
            accepted_at: message.accepted_at.to_string(),
            traceparent: trace::traceparent(&message.content),
        }
    }

    fn of_replay(replay: &Replay<'a>) -> Self {
        Self {
            id: replay.first.to_string(),
            key: replay.key,
            key_scope: replay.key.and_then(|_| replay.scope.name()),
            message_id: replay.message_id,
            from: replay.reverse_path.as_str(),
            user: replay.user,
            accepted_at: replay.first.accepted_at().to_string(),
            traceparent: replay.traceparent.map(str::to_owned),
        }
    }
}

/// What became of the recipient `number`.
pub(super) fn of_change<'a>(
    id: QueueId,
    kind: EventKind,
    number: usize,
    change: &Change<'a>,
    about: &About<'a>,
    expire_after: Duration,
) -> Option<Document<'a>> {
    let recipient = change.message.envelope.recipients.get(number)?;
    let progress = change.after.recipients.get(number)?;
    // What an operator has said is told where it is what became of it.
    let last = match progress.state {
        RecipientState::Held(HoldCause::Operator) => progress.replies.last(),
        _ => progress.last_answer(),
    };
    let (outcome, reason) = match progress.state {
        RecipientState::Queued | RecipientState::Delivered => (None, None),
        RecipientState::Held(cause) => (None, Some(word(cause))),
        RecipientState::Bounced => (Some("bounced"), Some(why_over(number, change, expire_after))),
        RecipientState::Discarded => (Some("discarded"), Some(why_over(number, change, expire_after))),
    };
    // While other recipients are being tried the next attempt is not set.
    let is_set = progress.state == RecipientState::Queued && change.after.next_attempt > change.now;
    let what = What {
        recipient: Some(recipient.forward_path.as_str()),
        outcome,
        reason,
        route: last.map(|last| last.route.as_str()).filter(|route| !route.is_empty()),
        host: last.map(|last| last.host.as_str()).filter(|host| !host.is_empty()),
        code: last.map(|last| last.code).filter(|code| *code != 0),
        reply: last.map(|last| last.text.as_str()),
        tls: last.map(|last| last.tls.as_str()).filter(|tls| !tls.is_empty()),
        attempts: Some(progress.attempts),
        next_attempt: is_set.then(|| change.after.next_attempt.to_string()),
        client: None,
    };
    Some(new(id, kind, change.now, about.clone(), what))
}

/// A retry was answered with the first queue id.
pub(super) fn of_replay<'a>(id: QueueId, replay: &Replay<'a>) -> Document<'a> {
    let what = What { client: replay.client.map(|client| client.to_string()), ..What::default() };
    new(id, EventKind::Replayed, replay.at, About::of_replay(replay), what)
}

fn new<'a>(id: QueueId, kind: EventKind, at: Timestamp, message: About<'a>, what: What<'a>) -> Document<'a> {
    Document { version: VERSION, id: id.to_string(), kind: kind.as_str(), at: at.to_string(), message, what }
}

fn word(cause: HoldCause) -> &'static str {
    match cause {
        HoldCause::Failed => "failed",
        HoldCause::Expired => "expired",
        HoldCause::InDoubt => "in_doubt",
        HoldCause::Operator => "operator",
    }
}

/// Why a recipient is over that was not delivered: its state says only that it is.
fn why_over(number: usize, change: &Change<'_>, expire_after: Duration) -> &'static str {
    let due_at = change.message.envelope.due_at(change.message.accepted_at);
    let attempts = change.after.recipients.get(number).map(|r| r.attempts);
    let was_tried = change.before.0.get(number).map(|(_, attempts)| *attempts) != attempts;
    let is_over_time = !was_tried && change.now >= due_at.plus(expire_after);
    if change.by_operator.contains(&number) {
        "operator"
    } else if is_over_time || change.expired.contains(&number) {
        "expired"
    } else {
        "failed"
    }
}
