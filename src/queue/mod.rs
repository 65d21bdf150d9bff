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
mod metrics;
mod notices;
pub mod options;
mod orders;
mod outcome;
mod register;
mod retry;
mod schedule;

pub use doubt::IN_DOUBT;
pub use events::{Announcer, EventCounts, EventKind};
pub use lease::{Lease, OpenError, Parked, Settled};
pub use options::{Jitter, OnFailure, Options};
pub use orders::{Action, Effect, Order, Recall};
pub use outcome::{End, Outcome};
pub use register::{Found, Kind, Look, Routes, Standing, Wanted};

use std::hash::RandomState;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::clock::Clock;
use crate::mail::{Handling, Message, Progress, QueueId};
use crate::metrics::Count;
use crate::store::history::History;
use crate::store::suppression::Suppressions;
use crate::store::{Arrivals, Recovered, Status, Store, StoreError};
use events::Events;
use orders::Line;
use register::{AT_ONCE, Facts, Register};
use schedule::{Ready, Schedule};

/// The first wait before an outcome is saved again that found the disk full; doubled each time …
const FULL_DISK_WAIT: Duration = Duration::from_millis(250);
/// … up to this.
const FULL_DISK_WAIT_MOST: Duration = Duration::from_secs(30);
/// No timer is set for longer: a time that far ahead can only be a mistake, and is looked at again then.
const LONGEST_TIMER: Duration = Duration::from_secs(400 * 86_400);

/// All messages that wait for an attempt, or are being tried.
pub struct Queue {
    options: ArcSwap<Options>,
    clock: Clock,
    store: OnceLock<Arc<dyn Store>>,
    /// Waits are measured from here, with a clock that nobody can set back.
    origin: OnceLock<Instant>,
    state: Mutex<State>,
    wake: Notify,
    /// Outcomes that wait until the disk has room for them.
    unsaved: AtomicUsize,
    /// Messages that are leased.
    leased: Count,
    /// Where addresses are noted that were refused for good.
    suppressions: OnceLock<Arc<Suppressions>>,
    /// Where messages are remembered that have ended.
    history: OnceLock<Arc<History>>,
    /// What addresses are told apart by in the register; another one in each process, so that nobody can choose two that
    /// look alike.
    hashing: RandomState,
    /// One look through the register at a time.
    looking: Mutex<()>,
    /// Messages that orders stand in line for.
    ordered: AtomicUsize,
    recall: Mutex<Option<Recall>>,
    /// Who is told of outcomes.
    events: Events,
}

/// One outcome that waits for room on the disk.
struct Unsaved<'a>(&'a Queue);

#[derive(Default)]
struct State {
    schedule: Schedule,
    register: Register,
    /// Orders that wait for the end of a lease.
    line: Line,
    /// Bytes of fresh messages that are kept in memory.
    fresh_bytes: usize,
}

/// How many messages there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Depth {
    /// A recipient waits for an attempt, or is being tried.
    pub queued: usize,
    /// Nothing is queued, and a recipient is held.
    pub held: usize,
    /// Events, which are no mail, in whatever state.
    pub events: usize,
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
            options: ArcSwap::from_pointee(options),
            clock,
            store: OnceLock::new(),
            origin: OnceLock::new(),
            state: Mutex::default(),
            wake: Notify::new(),
            unsaved: AtomicUsize::new(0),
            leased: Count::default(),
            suppressions: OnceLock::new(),
            history: OnceLock::new(),
            hashing: RandomState::new(),
            looking: Mutex::default(),
            ordered: AtomicUsize::new(0),
            recall: Mutex::default(),
            events: Events::default(),
        })
    }

    /// Has other options in force from now on. What is scheduled keeps its time; the next wait follows the new ones.
    pub fn change(&self, options: Options) {
        self.options.store(Arc::new(options));
    }

    /// Those in force.
    fn options(&self) -> Guard<Arc<Options>> {
        self.options.load()
    }

    /// Notes addresses that are refused for good in `list`, once the outcome is durable. A second call does nothing.
    pub fn suppress_into(&self, list: Arc<Suppressions>) {
        let _ = self.suppressions.set(list);
    }

    /// Remembers in `history` what became of each message, once that is durable. A second call does nothing.
    pub fn remember_into(&self, history: Arc<History>) {
        let _ = self.history.set(history);
    }

    /// Where ends are remembered, if they are.
    fn past(&self) -> Option<&Arc<History>> {
        self.history.get().filter(|history| history.is_on())
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
            let Some(next_attempt) = message.next_attempt else {
                state.register.add_unread(message.id, Standing::Held, AT_ONCE, message.priority);
                continue;
            };
            // A clock that was set back since must not keep mail waiting longer than any backoff does, or than its
            // sender wanted.
            let longest = if message.held_back {
                next_attempt.since(message.id.accepted_at())
            } else {
                self.options().cap
            };
            let wait = next_attempt.since(now).min(longest);
            let due_ms = now_ms.saturating_add(millis(wait));
            state.register.add_unread(message.id, Standing::Queued, due_ms, message.priority);
            state.schedule.insert(due_ms, message.id, message.priority);
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
                    biased;
                    () = woken => {}
                    () = tokio::time::sleep_until(due_at) => {}
                },
            }
        }
    }

    /// When the first attempts of a message are made at the latest, from when it is due: at most `most`; and when it expires.
    pub fn attempts_at_the_latest(&self, most: usize) -> (Vec<Duration>, Duration) {
        let options = self.options.load();
        (retry::latest(&options, most), options.expire_after)
    }

    /// How many messages there are.
    pub fn depth(&self) -> Depth {
        self.state().register.depth()
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
            if state.hand_out(&ready) {
                leases.push(Lease::new(self.clone(), ready, priority));
            }
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
        let first = self.save_at_once(id, progress, notices).await;
        let Err(StoreError::LowDisk { free_bytes }) = first else { return first };
        tracing::error!(target: "oncemail::queue", queue_id = %id, free_bytes,
            "the disk is full: an outcome cannot be saved, and relaying waits until it can");
        let _unsaved = Unsaved::new(self);
        let mut wait = FULL_DISK_WAIT;
        loop {
            sleep(wait).await;
            // The same notices under the same ids: there must be one of each.
            let saved = self.save_at_once(id, progress, notices).await;
            if !matches!(saved, Err(StoreError::LowDisk { .. })) {
                return saved;
            }
            wait = wait.saturating_mul(2).min(FULL_DISK_WAIT_MOST);
        }
    }

    /// The same for what can be refused: a full disk is an error.
    async fn save_at_once(
        &self,
        id: QueueId,
        progress: &Progress,
        notices: &[Arc<Message>],
    ) -> Result<(), StoreError> {
        let store = self.store().ok_or(StoreError::Closed)?;
        store.save_with(id, progress.clone(), notices.to_vec()).await
    }

    /// The end of a lease whose outcome is durable.
    fn conclude(self: &Arc<Self>, id: QueueId, priority: i8, next: Next) {
        match next {
            Next::Again(wait) => self.put_back(id, priority, wait),
            Next::Held => self.rest(id, |register| {
                register.change(id, |entry| entry.standing = Standing::Held);
            }),
            Next::Finished => self.rest(id, |register| register.remove(id)),
        }
    }

    /// Nothing is left to do for a message, for now or for good. Orders that stand in line look again.
    fn rest(&self, id: QueueId, change: impl FnOnce(&mut Register)) {
        let mut state = self.state();
        change(&mut state.register);
        let _look_again = state.line.take(id);
        self.ordered.store(state.line.len(), Ordering::SeqCst);
    }

    /// An outcome of it could not be saved: it stays away from every further attempt, and from orders.
    fn strand(&self, id: QueueId) {
        self.rest(id, |register| {
            register.change(id, |entry| entry.is_stranded = true);
        });
    }

    /// Schedules a leased message again.
    fn put_back(self: &Arc<Self>, id: QueueId, priority: i8, wait: Duration) {
        self.put_back_at(id, priority, self.now_ms().saturating_add(millis(wait)));
    }

    /// An order has changed nothing: the message is where it was.
    fn give_back(self: &Arc<Self>, id: QueueId, priority: i8, was_held: bool) {
        if was_held {
            return self.conclude(id, priority, Next::Held);
        }
        let due_ms = self.state().register.get(id).map(|entry| entry.due_ms);
        let due_ms = due_ms.filter(|due_ms| *due_ms != AT_ONCE).unwrap_or_else(|| self.now_ms());
        self.put_back_at(id, priority, due_ms);
    }

    /// Schedules a leased message for `due_ms`. If an order stands in line for it, it gets the lease instead: an attempt
    /// that came in between would have to be waited for again.
    fn put_back_at(self: &Arc<Self>, id: QueueId, priority: i8, due_ms: u64) {
        let mut state = self.state();
        if state.register.get(id).is_none() {
            state.register.add_unread(id, Standing::Active, due_ms, priority);
        }
        let next = state.line.pop(id);
        self.ordered.store(state.line.len(), Ordering::SeqCst);
        let standing = if next.is_some() { Standing::Active } else { Standing::Queued };
        state.register.change(id, |entry| {
            entry.due_ms = due_ms;
            entry.standing = standing;
        });
        if next.is_none() {
            state.schedule.insert(due_ms, id, priority);
        }
        drop(state);
        match next {
            Some(order) => order.hand_over(Lease::for_orders(self.clone(), id, priority, false)),
            None => self.wake.notify_one(),
        }
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

impl State {
    /// Notes that a message is leased. False when it is elsewhere: an order had taken it out of the order of arrival, and
    /// it has waited, been held or ended since.
    fn hand_out(&mut self, ready: &Ready) -> bool {
        let (id, has_waited) = match ready {
            Ready::Fresh(message) => (message.id, false),
            Ready::Stored(id) => (*id, false),
            // Whoever takes one of these takes it out.
            Ready::Waited(id) => (*id, true),
        };
        let is_here = self.register.change(id, |entry| {
            let is_here = has_waited || (entry.standing == Standing::Queued && entry.due_ms == AT_ONCE);
            if is_here {
                entry.standing = Standing::Active;
            }
            is_here
        });
        let is_here = is_here.unwrap_or(has_waited);
        if let Ready::Fresh(message) = ready
            && !is_here
        {
            self.fresh_bytes = self.fresh_bytes.saturating_sub(message.footprint());
        }
        is_here
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
        let most_fresh = self.options().fresh_bytes;
        let facts: Vec<_> = messages
            .iter()
            .map(|message| Facts::new(&message.envelope, &message.origin, None, &self.hashing))
            .collect();
        let mut state = self.state();
        for (message, facts) in messages.iter().zip(&facts) {
            let message = message.clone();
            let priority = message.envelope.handling.priority;
            let is_event = priority == Handling::EVENT_PRIORITY;
            let wait = message.envelope.due_at(message.accepted_at).since(now);
            if message.envelope.handling.release_at.is_some() && !wait.is_zero() {
                // S2: it may be held back for a month, so its content is not kept.
                let due_ms = now_ms.saturating_add(millis(wait));
                state.register.add(message.id, facts, due_ms, priority);
                state.schedule.insert(due_ms, message.id, priority);
                continue;
            }
            state.register.add(message.id, facts, AT_ONCE, priority);
            let with_this = state.fresh_bytes.saturating_add(message.footprint());
            // Events must not take what saves mail from being read back.
            let limit = if is_event { most_fresh / 4 } else { most_fresh };
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
