//! Which message is due, who works on it, and when it is tried again.
//!
//! The queue keeps ids and times; contents only of fresh messages, as far as `fresh_bytes` allows (S2): everything
//! else is read back from the store when it is due. It must never lose a message: one that is neither settled nor
//! saved is either leased or scheduled (D6). When the store cannot save an outcome, the message stays away from every
//! further attempt of this process, because a second attempt could send it twice; a restart decides. And while outcomes
//! cannot be saved, nothing is handed out: everything that was sent then would be sent again. What senders are told is
//! saved with the outcome that it tells of (D2), and then it is a message like any other.

mod closing;
mod doubt;
mod events;
mod lease;
mod notices;
pub mod options;
mod orders;
mod outcome;
mod register;
mod retry;
mod schedule;

pub use doubt::IN_DOUBT;
pub use events::{Announcer, EventCounts, EventKind, Replayed};
pub use lease::{Lease, OpenError, Parked, Settled};
pub use options::{Jitter, OnFailure, Options};
pub use orders::{Action, Effect, Order};
pub use outcome::{End, Outcome};
pub use register::{Found, Kind, Look, Routes, Standing, Wanted};

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::clock::Clock;
use crate::mail::{Handling, Message, Progress, QueueId};
use crate::store::suppression::Suppressions;
use crate::store::{Arrivals, Recovered, Status, Store, StoreError};
use events::Events;
use schedule::{Ready, Schedule};

/// The first wait before an outcome is saved again that found the disk full; doubled each time …
const FULL_DISK_WAIT: Duration = Duration::from_millis(250);
/// … up to this.
const FULL_DISK_WAIT_MOST: Duration = Duration::from_secs(30);
/// No timer is set for longer: a time that far ahead can only be a mistake, and is looked at again then.
const LONGEST_TIMER: Duration = Duration::from_secs(400 * 86_400);

/// All messages that wait for an attempt, or are being tried.
pub struct Queue {
    options: Options,
    clock: Clock,
    store: OnceLock<Arc<dyn Store>>,
    /// Waits are measured from here, with a clock that nobody can set back.
    origin: OnceLock<Instant>,
    state: Mutex<State>,
    wake: Notify,
    /// Outcomes that wait until the disk has room for them.
    unsaved: AtomicUsize,
    /// Where addresses are noted that were refused for good.
    suppressions: OnceLock<Arc<Suppressions>>,
    /// Who is told of outcomes.
    events: Events,
}

/// One outcome that waits for room on the disk.
struct Unsaved<'a>(&'a Queue);

#[derive(Default)]
struct State {
    schedule: Schedule,
    /// Bytes of fresh messages that are kept in memory.
    fresh_bytes: usize,
    depth: Depth,
    /// Messages of `depth` that are events.
    events: usize,
}

/// How many messages there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Depth {
    /// A recipient waits for an attempt, or is being tried.
    pub queued: usize,
    /// Nothing is queued, and a recipient is held.
    pub held: usize,
}

/// What becomes of a message after an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// It is tried again after this wait.
    Again(Duration),
    /// It is kept, but not tried.
    Held,
    /// Nothing is left to do.
    Finished,
}

impl Queue {
    /// An empty queue; it takes arrivals at once, and hands them out after [`Queue::start`].
    pub fn new(options: Options, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            options,
            clock,
            store: OnceLock::new(),
            origin: OnceLock::new(),
            state: Mutex::default(),
            wake: Notify::new(),
            unsaved: AtomicUsize::new(0),
            suppressions: OnceLock::new(),
            events: Events::default(),
        })
    }

    /// Notes addresses that are refused for good in `list`, once the outcome is durable. A second call does nothing.
    pub fn suppress_into(&self, list: Arc<Suppressions>) {
        let _ = self.suppressions.set(list);
    }

    /// Schedules what a start has found in the store, and opens the queue. A second call does nothing.
    pub fn start(&self, store: Arc<dyn Store>, recovered: Vec<Recovered>) {
        if self.store.set(store).is_err() {
            return;
        }
        let now_ms = self.now_ms();
        let now = self.clock.now();
        let mut state = self.state();
        for message in recovered {
            state.events += usize::from(message.priority == Handling::EVENT_PRIORITY);
            let Some(next_attempt) = message.next_attempt else {
                state.depth.held += 1;
                continue;
            };
            // A clock that was set back since must not keep mail waiting longer than any backoff does, or than its
            // sender wanted.
            let longest = if message.held_back {
                next_attempt.since(message.id.accepted_at())
            } else {
                self.options.cap
            };
            let wait = next_attempt.since(now).min(longest);
            state.depth.queued += 1;
            state.schedule.insert(now_ms.saturating_add(millis(wait)), message.id, message.priority);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Waits until a message is due, and leases all that are, at most `most`. There must be one caller at a time.
    ///
    /// # Cancel safety
    /// A dropped future has leased nothing.
    pub async fn next(self: &Arc<Self>, most: usize) -> Vec<Lease> {
        loop {
            let due_at = match self.take_due(most) {
                Ok(leases) => return leases,
                Err(due_at) => due_at,
            };
            let woken = self.wake.notified();
            match due_at {
                None => woken.await,
                Some(due_at) => tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep_until(due_at) => {}
                },
            }
        }
    }

    /// How many messages there are.
    pub fn depth(&self) -> Depth {
        self.state().depth
    }

    /// Leases what is due, or says when something will be.
    fn take_due(self: &Arc<Self>, most: usize) -> Result<Vec<Lease>, Option<Instant>> {
        if !self.takes_outcomes() {
            return Err(None);
        }
        let now_ms = self.now_ms();
        let mut state = self.state();
        let mut leases = Vec::new();
        while leases.len() < most
            && let Some((ready, priority)) = state.schedule.pop(now_ms)
        {
            leases.push(Lease::new(self.clone(), ready, priority));
        }
        if leases.is_empty() {
            return Err(state.schedule.next_due().map(|due_ms| self.instant(due_ms)));
        }
        Ok(leases)
    }

    /// Whether an outcome could be saved now. While none can, nothing must be sent: it would be sent again.
    fn takes_outcomes(&self) -> bool {
        let Some(store) = self.store.get() else { return false };
        let works = !matches!(store.status(), Status::Latched { .. } | Status::Closed);
        works && self.unsaved.load(Ordering::SeqCst) == 0
    }

    /// Makes a progress durable, and in the same commit what the sender is told of it (D2). A full disk is waited for,
    /// and holds up all attempts meanwhile.
    async fn save(
        &self,
        id: QueueId,
        progress: &Progress,
        notices: &[Arc<Message>],
    ) -> Result<(), StoreError> {
        let store = self.store().ok_or(StoreError::Closed)?;
        let first = store.save_with(id, progress.clone(), notices.to_vec()).await;
        let Err(StoreError::LowDisk { free_bytes }) = first else { return first };
        tracing::error!(target: "oncemail::queue", queue_id = %id, free_bytes,
            "the disk is full: an outcome cannot be saved, and relaying waits until it can");
        let _unsaved = Unsaved::new(self);
        let mut wait = FULL_DISK_WAIT;
        loop {
            sleep(wait).await;
            // The same notices under the same ids: there must be one of each.
            let saved = store.save_with(id, progress.clone(), notices.to_vec()).await;
            if !matches!(saved, Err(StoreError::LowDisk { .. })) {
                return saved;
            }
            wait = wait.saturating_mul(2).min(FULL_DISK_WAIT_MOST);
        }
    }

    /// The end of a lease whose outcome is durable.
    fn conclude(&self, id: QueueId, priority: i8, next: Next) {
        if let Next::Again(wait) = next {
            return self.put_back(id, priority, wait);
        }
        let mut state = self.state();
        if priority == Handling::EVENT_PRIORITY {
            state.events = state.events.saturating_sub(1);
        }
        state.depth.queued = state.depth.queued.saturating_sub(1);
        if next == Next::Held {
            state.depth.held += 1;
        }
    }

    /// Schedules a leased message again.
    fn put_back(&self, id: QueueId, priority: i8, wait: Duration) {
        let due_ms = self.now_ms().saturating_add(millis(wait));
        self.state().schedule.insert(due_ms, id, priority);
        self.wake.notify_one();
    }

    /// Bytes that are no longer kept in memory.
    fn release(&self, bytes: usize) {
        let mut state = self.state();
        state.fresh_bytes = state.fresh_bytes.saturating_sub(bytes);
    }

    fn store(&self) -> Option<&Arc<dyn Store>> {
        self.store.get()
    }

    fn now_ms(&self) -> u64 {
        let origin = self.origin.get_or_init(Instant::now);
        millis(Instant::now().saturating_duration_since(*origin))
    }

    fn instant(&self, due_ms: u64) -> Instant {
        let latest = Instant::now() + LONGEST_TIMER;
        let due_at = self.origin.get_or_init(Instant::now).checked_add(Duration::from_millis(due_ms));
        due_at.map_or(latest, |due_at| due_at.min(latest))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Unsaved<'a> {
    fn new(queue: &'a Queue) -> Self {
        queue.unsaved.fetch_add(1, Ordering::SeqCst);
        Self(queue)
    }
}

impl Drop for Unsaved<'_> {
    fn drop(&mut self) {
        self.0.unsaved.fetch_sub(1, Ordering::SeqCst);
        self.0.wake.notify_one();
    }
}

impl Arrivals for Queue {
    fn arrived(&self, messages: Vec<Arc<Message>>) {
        let (now, now_ms) = (self.clock.now(), self.now_ms());
        let mut state = self.state();
        for message in messages {
            state.depth.queued += 1;
            let priority = message.envelope.handling.priority;
            let is_event = priority == Handling::EVENT_PRIORITY;
            state.events += usize::from(is_event);
            let wait = message.envelope.due_at(message.accepted_at).since(now);
            if message.envelope.handling.release_at.is_some() && !wait.is_zero() {
                // S2: it may be held back for a month, so its content is not kept.
                state.schedule.insert(now_ms.saturating_add(millis(wait)), message.id, priority);
                continue;
            }
            let with_this = state.fresh_bytes.saturating_add(message.footprint());
            // Events must not take what saves mail from being read back.
            let limit = if is_event { self.options.fresh_bytes / 4 } else { self.options.fresh_bytes };
            // S2: what does not fit is read back when its turn comes.
            let ready = if with_this <= limit {
                state.fresh_bytes = with_this;
                Ready::Fresh(message)
            } else {
                Ready::Stored(message.id)
            };
            state.schedule.push_ready(ready, priority);
        }
        drop(state);
        self.wake.notify_one();
    }
}

/// Whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
