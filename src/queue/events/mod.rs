//! What others are told of what becomes of mail: an event is a message of the queue, and so has all that mail has: it is
//! durable in the commit of the outcome that it tells of (D2), it is tried again, it expires, and it survives a restart.
//!
//! Each webhook, and the event file, is a *sink*, and a recipient of the events that it wants. Events come after all mail
//! and never take more than a quarter of the memory for fresh messages. It must never make an event of an event, nor
//! more of them than are allowed to wait: what is over that is dropped, counted and said (S2).

mod document;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::time::Instant;

use super::Queue;
use crate::clock::Timestamp;
use crate::mail::{
    Address, Body, Envelope, Handling, HoldCause, Message, Notify, Origin, Progress, QueueId, Recipient,
    RecipientProgress, RecipientState, Replay, ReversePath,
};
use document::{About, Document};

/// That events are dropped is said no more often than this.
const SAY_DROPPED: Duration = Duration::from_secs(60);

/// What can become of mail that others may want to know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EventKind {
    /// The next hop has taken it for a recipient.
    Delivered,
    /// An attempt for a recipient has ended in "later".
    Deferred,
    /// A recipient has failed: its sender was told, or nobody was.
    Bounced,
    /// A recipient is kept and not tried.
    Held,
    /// A retry was answered with the first queue id.
    Replayed,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Delivered, Self::Deferred, Self::Bounced, Self::Held, Self::Replayed];

    /// Its name in configuration and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Bounced => "bounced",
            Self::Held => "held",
            Self::Replayed => "replayed",
        }
    }
}

/// Who is told of what.
#[derive(Clone, Debug)]
pub struct Announcer {
    sinks: Vec<Sink>,
    limit: usize,
}

#[derive(Clone, Debug)]
struct Sink {
    address: Address,
    kinds: Vec<EventKind>,
}

/// How many events there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventCounts {
    /// They wait for their sinks.
    pub queued: usize,
    /// Never queued since the start, because too many were.
    pub dropped: u64,
}

/// The queue's own part of it.
#[derive(Default)]
pub(super) struct Events {
    announcer: ArcSwapOption<Announcer>,
    dropped: AtomicU64,
    said: Mutex<Option<Instant>>,
}

/// What was known of each recipient when its outcomes were announced last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Known(Box<[(RecipientState, u32)]>);

/// A save of which others may be told.
pub(super) struct Change<'a> {
    pub(super) message: &'a Message,
    pub(super) before: &'a Known,
    pub(super) after: &'a Progress,
    /// As much of `after` as can be told now.
    pub(super) announced: &'a Known,
    /// Recipients whose time was up, by number.
    pub(super) expired: &'a [usize],
    /// Recipients that an operator has ended, by number.
    pub(super) by_operator: &'a [usize],
    pub(super) now: Timestamp,
}

impl Announcer {
    /// No sinks yet; at most `limit` events wait at a time.
    pub fn new(limit: usize) -> Self {
        Self { sinks: Vec::new(), limit }
    }

    /// Adds a sink that wants `kinds`; false when `name` cannot be one: 1 to 64 letters, digits, `-` and `_`.
    pub fn add(&mut self, name: &str, kinds: &[EventKind]) -> bool {
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let address = Address::parse(&format!("{name}@events.invalid")).ok();
        let Some(address) = address.filter(|_| is_name && (1..=64).contains(&name.len())) else {
            return false;
        };
        self.sinks.push(Sink { address, kinds: kinds.to_vec() });
        true
    }

    fn wanting(&self, kind: EventKind) -> impl Iterator<Item = &Sink> {
        self.sinks.iter().filter(move |sink| sink.kinds.contains(&kind))
    }

    fn wants(&self, kind: EventKind) -> bool {
        self.wanting(kind).next().is_some()
    }

    /// The event as it is queued.
    fn message(
        &self,
        kind: EventKind,
        document: &Document<'_>,
        at: Timestamp,
        id: QueueId,
    ) -> Option<Message> {
        let recipient = |sink: &Sink| Recipient {
            forward_path: sink.address.clone(),
            notify: Some(Notify::default()),
            orcpt: None,
            unverified: false,
        };
        let recipients: Vec<_> = self.wanting(kind).map(recipient).collect();
        let content = Bytes::from(serde_json::to_vec(document).ok()?);
        let body = if content.is_ascii() { Body::SevenBit } else { Body::EightBitMime };
        Some(Message {
            id,
            accepted_at: at,
            envelope: Envelope {
                reverse_path: ReversePath::Null,
                recipients,
                body,
                smtputf8: false,
                ret: None,
                envid: None,
                handling: Handling { priority: Handling::EVENT_PRIORITY, ..Handling::default() },
            },
            origin: Origin::event(),
            key: None,
            message_id: String::new(),
            content,
        })
    }
}

impl Known {
    /// As it is now.
    pub(super) fn of(progress: &Progress) -> Self {
        Self(progress.recipients.iter().map(|r| (r.state, r.attempts)).collect())
    }

    /// As it is now, but for those who have failed and whose end is not decided yet: they count as queued.
    pub(super) fn undecided(progress: &Progress) -> Self {
        let known = |r: &RecipientProgress| match r.state {
            RecipientState::Held(HoldCause::Failed | HoldCause::Expired) => {
                (RecipientState::Queued, r.attempts.saturating_sub(1))
            }
            state => (state, r.attempts),
        };
        Self(progress.recipients.iter().map(known).collect())
    }
}

impl Queue {
    /// Tells these sinks from now on; `None` tells nobody.
    pub fn announce_to(&self, announcer: Option<Announcer>) {
        let announcer = announcer.filter(|announcer| !announcer.sinks.is_empty());
        self.events.announcer.store(announcer.map(Arc::new));
    }

    /// How many events there are.
    pub fn event_counts(&self) -> EventCounts {
        EventCounts { queued: self.depth().events, dropped: self.events.dropped.load(Ordering::Relaxed) }
    }

    /// The event of a replay, for whoever makes it durable; `None` when nobody wants it, or too many wait.
    pub fn replayed(&self, replay: &Replay<'_>) -> Option<Arc<Message>> {
        let announcer = self.events.announcer.load_full()?;
        if !announcer.wants(EventKind::Replayed) || self.room_for_events(&announcer, 1) == 0 {
            return None;
        }
        let id = QueueId::new(replay.at);
        let document = document::of_replay(id, replay);
        announcer.message(EventKind::Replayed, &document, replay.at, id).map(Arc::new)
    }

    /// Whether anybody wants to know of outcomes.
    pub(super) fn announces(&self) -> bool {
        self.events.announcer.load().is_some()
    }

    /// The events of a save, which are to be queued in its commit (D2).
    pub(super) fn events_of(&self, change: &Change<'_>) -> Vec<Arc<Message>> {
        let Some(announcer) = self.events.announcer.load_full().filter(|_| !change.message.origin.is_event())
        else {
            return Vec::new();
        };
        let changed = |number: usize| {
            let (before, after) = (change.before.0.get(number)?, change.announced.0.get(number)?);
            kind(*before, *after).filter(|kind| announcer.wants(*kind)).map(|kind| (number, kind))
        };
        let changed: Vec<_> = (0..change.after.recipients.len()).filter_map(changed).collect();
        if changed.is_empty() {
            return Vec::new();
        }
        let about = About::of(change.message);
        let room = self.room_for_events(&announcer, changed.len());
        let event = |(number, kind)| {
            let id = QueueId::new(change.now);
            let document =
                document::of_change(id, kind, number, change, &about, self.options().expire_after)?;
            announcer.message(kind, &document, change.now, id).map(Arc::new)
        };
        changed.into_iter().take(room).filter_map(event).collect()
    }

    /// How many of `wanted` events may be queued now; the others are counted as dropped.
    fn room_for_events(&self, announcer: &Announcer, wanted: usize) -> usize {
        let room = announcer.limit.saturating_sub(self.depth().events).min(wanted);
        let over = wanted - room;
        if over > 0 {
            let before =
                self.events.dropped.fetch_add(u64::try_from(over).unwrap_or(u64::MAX), Ordering::Relaxed);
            let mut said = self.events.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.is_none_or(|at| at.elapsed() >= SAY_DROPPED) {
                *said = Some(Instant::now());
                tracing::error!(target: "oncemail::events", limit = announcer.limit, dropped_before = before,
                    "events are dropped: events.queue_limit of them wait for their sinks");
            }
        }
        room
    }
}

/// What has become of a recipient since it was looked at last.
fn kind(
    (before, attempts): (RecipientState, u32),
    (now, attempts_now): (RecipientState, u32),
) -> Option<EventKind> {
    use RecipientState::{Bounced, Delivered, Discarded, Held, Queued};
    match (before, now) {
        (Queued, Queued) if attempts_now > attempts => Some(EventKind::Deferred),
        (Queued, Held(_)) => Some(EventKind::Held),
        (Queued | Held(_), Delivered) => Some(EventKind::Delivered),
        (Queued | Held(_), Bounced | Discarded) => Some(EventKind::Bounced),
        _ => None,
    }
}

/// Ends what has failed of an event: it is never kept, whatever becomes of mail. Says whether there was something.
pub(super) fn discard_failed(progress: &mut Progress) -> bool {
    let failed = progress
        .recipients
        .iter_mut()
        .filter(|r| matches!(r.state, RecipientState::Held(cause) if cause != HoldCause::Operator));
    failed.map(|recipient| recipient.state = RecipientState::Discarded).count() > 0
}
