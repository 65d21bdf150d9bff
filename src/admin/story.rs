//! What is told of a message: in a list, and as its whole story. Pure, but for the question where it would go now.

use super::filter;
use super::model::{Kind, RecipientStory, Replay, Reply, State, Story, Summary};
use super::ports::Outbound;
use crate::clock::Timestamp;
use crate::mail::{
    AttemptReply, HoldCause, Message, Origin, Progress, RecipientProgress, RecipientState, ReversePath,
    domain, header,
};
use crate::queue::{Look, Standing};
use crate::store::history::{Ended, Past};

/// Recipients that a list names.
const FEW: usize = 3;
/// Longer subjects are cut, characters.
const MAX_SUBJECT: usize = 500;
/// The last second that RFC 3339 can tell: the end of the year 9999. What is later is "never".
const LAST_TOLD: u64 = 253_402_300_799;

/// A time as the API tells it; `None` for "never".
pub(super) fn told(at: Timestamp) -> Option<String> {
    (at.as_secs() <= LAST_TOLD).then(|| at.to_string())
}

/// A message of the queue in a list.
pub(super) fn summary(look: &Look, now: Timestamp, outbound: &dyn Outbound) -> Summary {
    let (message, progress) = (&*look.message, &look.progress);
    let open = message.envelope.recipients.iter().zip(&progress.recipients).find(|(_, at)| is_open(at.state));
    Summary {
        id: message.id.to_string(),
        state: filter::state(look.standing),
        kind: kind(&message.origin.listener),
        accepted_at: message.accepted_at.to_string(),
        age_seconds: now.since(message.accepted_at).as_secs(),
        from: message.envelope.reverse_path.as_str().to_owned(),
        to: message
            .envelope
            .recipients
            .iter()
            .take(FEW)
            .map(|to| to.forward_path.as_str().to_owned())
            .collect(),
        recipients: count(message.envelope.recipients.len()),
        user: message.origin.user.clone(),
        listener: some(&message.origin.listener),
        key: message.key.as_ref().map(|key| key.key.clone()),
        route: open.and_then(|(to, _)| way(outbound, message, to.forward_path.domain())),
        size: message.content.len() as u64,
        attempts: progress.attempts,
        next_attempt: next_attempt(look),
        last_reply: last_reply(progress.recipients.iter()),
    }
}

/// The whole story of a message of the queue, with what the history adds to it.
pub(super) fn story(
    look: &Look,
    past: Option<&Past>,
    contents: bool,
    now: Timestamp,
    outbound: &dyn Outbound,
) -> Story {
    let (message, progress) = (&*look.message, &look.progress);
    let recipient = |(to, at): (&crate::mail::Recipient, &RecipientProgress)| {
        let route = is_open(at.state).then(|| way(outbound, message, to.forward_path.domain()));
        recipient_story(to.forward_path.as_str(), at, route.flatten())
    };
    Story {
        summary: summary(look, now, outbound),
        message_id: message.message_id.clone(),
        subject: if contents { subject(&message.content) } else { None },
        client: message.origin.client.map(|client| client.to_string()),
        key_scope: message.key.as_ref().and_then(|key| key.scope.name().map(str::to_owned)),
        traceparent: crate::mail::trace::traceparent(&message.content),
        priority: message.envelope.handling.priority,
        release_at: message.envelope.handling.release_at.and_then(told),
        expires_at: None,
        finished_at: None,
        warned: progress.warned,
        recipient_stories: message
            .envelope
            .recipients
            .iter()
            .zip(&progress.recipients)
            .map(recipient)
            .collect(),
        replays: past.map(replays).unwrap_or_default(),
        replay_count: past.map_or(0, |past| past.replay_count),
    }
}

/// A message that is over, in a list.
pub(super) fn past_summary(id: &str, ended: &Ended, now: Timestamp) -> Summary {
    let recipients = || ended.recipients.iter().map(|(_, progress)| progress);
    let is_any = |state| recipients().any(|recipient| recipient.state == state);
    Summary {
        id: id.to_owned(),
        state: match () {
            () if is_any(RecipientState::Bounced) => State::Bounced,
            () if is_any(RecipientState::Discarded) => State::Discarded,
            () => State::Delivered,
        },
        kind: kind(&ended.listener),
        accepted_at: ended.accepted_at.to_string(),
        age_seconds: now.since(ended.accepted_at).as_secs(),
        from: ended.reverse_path.as_str().to_owned(),
        to: ended.recipients.iter().take(FEW).map(|(to, _)| to.clone()).collect(),
        recipients: count(ended.recipients.len()),
        user: ended.user.clone(),
        listener: some(&ended.listener),
        key: ended.key.as_ref().map(|key| key.key.clone()),
        route: newest(recipients()).and_then(|reply| some(&reply.route)),
        size: ended.size,
        attempts: ended.attempts,
        next_attempt: None,
        last_reply: last_reply(recipients()),
    }
}

/// The whole story of a message that is over.
pub(super) fn past_story(id: &str, past: &Past, ended: &Ended, now: Timestamp) -> Story {
    Story {
        summary: past_summary(id, ended, now),
        message_id: ended.message_id.clone(),
        subject: None,
        client: ended.client.map(|client| client.to_string()),
        key_scope: ended.key.as_ref().and_then(|key| key.scope.name().map(str::to_owned)),
        traceparent: ended.traceparent.clone(),
        priority: ended.priority,
        release_at: None,
        expires_at: None,
        finished_at: told(ended.at),
        warned: ended.warned,
        recipient_stories: ended.recipients.iter().map(|(to, at)| recipient_story(to, at, None)).collect(),
        replays: replays(past),
        replay_count: past.replay_count,
    }
}

/// What a message is, by the listener that it came through.
fn kind(listener: &str) -> Kind {
    match listener {
        "" => Kind::Notice,
        Origin::EVENTS => Kind::Event,
        _ => Kind::Mail,
    }
}

/// The route that a recipient would take now.
fn way(outbound: &dyn Outbound, message: &Message, recipient_domain: Option<&str>) -> Option<String> {
    let Origin { listener, user, .. } = &message.origin;
    let sender_domain = match &message.envelope.reverse_path {
        ReversePath::Null => None,
        ReversePath::Mailbox(mailbox) => mailbox.domain().map(domain::canonical),
    };
    let recipient_domain = recipient_domain.map(domain::canonical);
    let route =
        outbound.route(recipient_domain.as_deref(), sender_domain.as_deref(), user.as_deref(), listener);
    route.map(|route| route.to_string())
}

fn is_open(state: RecipientState) -> bool {
    matches!(state, RecipientState::Queued | RecipientState::Held(_))
}

fn recipient_story(address: &str, progress: &RecipientProgress, route: Option<String>) -> RecipientStory {
    let (state, hold_cause) = match progress.state {
        RecipientState::Queued => (State::Queued, None),
        RecipientState::Delivered => (State::Delivered, None),
        RecipientState::Held(cause) => (State::Held, Some(cause)),
        RecipientState::Bounced => (State::Bounced, None),
        RecipientState::Discarded => (State::Discarded, None),
    };
    let hold_cause = hold_cause.map(|cause| match cause {
        HoldCause::Failed => "failed",
        HoldCause::Expired => "expired",
        HoldCause::InDoubt => "in_doubt",
        HoldCause::Operator => "operator",
    });
    RecipientStory {
        address: address.to_owned(),
        state,
        hold_cause: hold_cause.map(str::to_owned),
        attempts: progress.attempts,
        route,
        replies: progress.replies.iter().map(reply).collect(),
    }
}

fn reply(reply: &AttemptReply) -> Reply {
    Reply {
        at: reply.at.to_string(),
        times: reply.times,
        route: reply.route.clone(),
        host: reply.host.clone(),
        code: reply.code,
        text: reply.text.clone(),
        tls: reply.tls.clone(),
    }
}

fn replays(past: &Past) -> Vec<Replay> {
    let replay = |(at, client): &(Timestamp, Option<std::net::IpAddr>)| Replay {
        at: at.to_string(),
        client: client.map(|client| client.to_string()),
    };
    past.replays.iter().map(replay).collect()
}

fn next_attempt(look: &Look) -> Option<String> {
    let Progress { next_attempt, .. } = look.progress;
    let waits = look.standing == Standing::Queued && look.progress.is_queued();
    if waits { told(next_attempt) } else { None }
}

fn newest<'a>(recipients: impl Iterator<Item = &'a RecipientProgress>) -> Option<&'a AttemptReply> {
    recipients.filter_map(|recipient| recipient.replies.last()).max_by_key(|reply| reply.at)
}

fn last_reply<'a>(recipients: impl Iterator<Item = &'a RecipientProgress>) -> Option<String> {
    newest(recipients).map(|reply| match reply.code {
        0 => reply.text.clone(),
        code => format!("{code} {}", reply.text),
    })
}

/// The subject as its reader would see it.
fn subject(content: &[u8]) -> Option<String> {
    let header = header::Header::split(content);
    let bytes = content.get(..header.len())?;
    let parsed = mail_parser::MessageParser::default().parse_headers(bytes)?;
    Some(parsed.subject()?.chars().take(MAX_SUBJECT).collect())
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
