//! One message that is being worked on.
//!
//! A message may be split into several *legs*, one per destination, which end at different times; its progress is
//! saved at the end of each, and the message is scheduled again when all have ended. Then, once per attempt, the sender
//! is told of all recipients that have failed in it. A lease that is dropped unsettled (a panic, a shutdown) goes back
//! to the queue.

mod dropped;
mod parked;

pub use parked::Parked;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::doubt::Doubts;
use super::events::Known;
use super::notices::{self, Notices};
use super::outcome::{End, Outcome};
use super::schedule::Ready;
use super::{Next, Queue, retry};
use crate::bounce::Mention;
use crate::clock::Timestamp;
use crate::mail::{Handling, Message, Progress, QueueId, RecipientState};
use crate::store::StoreError;

/// How long a message waits whose attempt was dropped: whatever broke should not break again at once.
const DROPPED_WAIT: Duration = Duration::from_secs(60);

/// See the module.
pub struct Lease {
    pub(super) queue: Arc<Queue>,
    pub(super) id: QueueId,
    pub(super) priority: i8,
    /// Its age counts from here, in milliseconds since the Unix epoch. Of what was never read only the time of acceptance is
    /// known, which is not later.
    due_at_ms: AtomicU64,
    /// In memory while it is fresh.
    fresh: Mutex<Option<Arc<Message>>>,
    /// As it was read last, as long as somebody else keeps it.
    read: Mutex<Weak<Message>>,
    pub(super) progress: tokio::sync::Mutex<Current>,
    /// Legs that have not ended.
    legs: AtomicUsize,
    was_split: AtomicBool,
    /// It was looked whether its sender has to be told that it takes long.
    was_warned: AtomicBool,
    /// Whom the lease is for.
    holder: Holder,
    /// Nothing is left to do when the lease is dropped.
    pub(super) closed: AtomicBool,
}

/// Who has a lease, and so where the message goes when it is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// Somebody who makes attempts.
    Relay,
    /// An operator's order.
    Order {
        /// Nothing of the message was queued.
        was_held: bool,
    },
}

/// What is known of the message's progress during the lease.
#[derive(Default)]
pub(super) struct Current {
    /// As saved, and what has been found out since; `None` until it is read.
    pub(super) progress: Option<Progress>,
    /// The sender wants to know of success.
    wants_success: bool,
    /// What has to be told once it is saved; mostly nothing, and many leases wait at a time.
    pub(super) found: Option<Box<Found>>,
    /// R1: what the store has as held in doubt instead.
    pub(super) doubts: Doubts,
    /// Something was found out about a recipient.
    pub(super) tried: bool,
    /// The longest wait that a leg asked for which was not tried.
    pub(super) untried: Duration,
    /// Recipients that an outcome of this lease has left held, by number.
    pub(super) newly_held: Vec<usize>,
    /// A save failed.
    pub(super) unsaved: bool,
    /// What others were told of last; `None` when nobody wants to know.
    pub(super) known: Option<Known>,
}

/// See [`Current::found`].
#[derive(Default)]
pub(super) struct Found {
    /// Deliveries that nobody further on tells of.
    pub(super) passed_on: Vec<Mention>,
    /// Addresses that were refused for good, by recipient's number, and with what words.
    pub(super) refused: Vec<(usize, String)>,
}

/// A message cannot be worked on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The store has no such message (any more).
    #[error("the store has no such message")]
    Gone,
    /// The store cannot read it.
    #[error("{0}")]
    Store(StoreError),
}

/// What a settled leg has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The progress as it was saved.
    pub progress: Progress,
    /// Whether it is durable; when not, this process does not try the message again.
    pub saved: Result<(), StoreError>,
    /// Recipients that are not tried again because `expire_after` went by, by number.
    pub expired: Vec<usize>,
    /// Recipients that were bounced or discarded with this save, by number: also those that failed in an earlier leg, and
    /// of whom nobody had been told.
    pub ended: Vec<usize>,
}

impl Lease {
    pub(super) fn new(queue: Arc<Queue>, ready: Ready, priority: i8) -> Self {
        let (id, due_at, fresh) = match ready {
            Ready::Fresh(message) => {
                (message.id, message.envelope.due_at(message.accepted_at), Some(message))
            }
            Ready::Stored(id) | Ready::Waited(id) => (id, id.accepted_at(), None),
        };
        queue.leased.add_one();
        Self {
            queue,
            id,
            priority,
            due_at_ms: AtomicU64::new(due_at.as_millis()),
            fresh: Mutex::new(fresh),
            read: Mutex::default(),
            progress: tokio::sync::Mutex::default(),
            legs: AtomicUsize::new(1),
            was_split: AtomicBool::new(false),
            was_warned: AtomicBool::new(false),
            holder: Holder::Relay,
            closed: AtomicBool::new(false),
        }
    }

    /// The lease of a message on which an operator's order is carried out.
    pub(super) fn for_orders(queue: Arc<Queue>, id: QueueId, priority: i8, was_held: bool) -> Self {
        let mut lease = Self::new(queue, Ready::Stored(id), priority);
        lease.holder = Holder::Order { was_held };
        lease
    }

    /// Whether an operator wants something of the message, so that nothing is to be begun with it.
    pub fn is_ordered(&self) -> bool {
        self.queue.is_ordered(self.id)
    }

    /// Whether an outcome has to be saved, for which a full disk is waited for.
    pub(super) fn is_for_attempts(&self) -> bool {
        self.holder == Holder::Relay
    }

    /// Ends the lease.
    pub(super) fn end(&self, next: Next) {
        self.closed.store(true, Ordering::SeqCst);
        self.queue.conclude(self.id, self.priority, next);
    }

    /// Its id.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Whether it is in memory, so that opening it takes no time.
    pub fn is_fresh(&self) -> bool {
        self.fresh().is_some()
    }

    /// Its MT-PRIORITY (RFC 6710).
    pub fn priority(&self) -> i8 {
        self.priority
    }

    /// Whether it is an event for a webhook or the event file: no mail can have its priority.
    pub fn is_event(&self) -> bool {
        self.priority == Handling::EVENT_PRIORITY
    }

    /// Says into how many legs the message is split; one unless said, and before any of them is settled.
    pub fn split(&self, legs: usize) {
        self.legs.store(legs, Ordering::SeqCst);
        self.was_split.store(legs != 1, Ordering::SeqCst);
    }

    /// Whether this is the only leg, and always was: then its waiting holds up no other recipient.
    pub fn is_whole(&self) -> bool {
        !self.was_split.load(Ordering::SeqCst)
    }

    /// The message: from memory while it is fresh, from the store otherwise.
    ///
    /// # Errors
    /// The message cannot be worked on now.
    pub async fn open(&self) -> Result<Arc<Message>, OpenError> {
        let fresh = self.fresh().clone();
        let mut current = self.progress.lock().await;
        let message = match fresh {
            Some(message) => {
                current.progress.get_or_insert_with(|| {
                    Progress::fresh(message.envelope.recipients.len(), message.accepted_at)
                });
                message
            }
            None => {
                let (message, progress) = self.load().await?;
                // What another leg has found out is newer than what the store says, if saving it failed.
                current.progress.get_or_insert(progress);
                message
            }
        };
        current.wants_success = notices::wants_success(&message.envelope);
        if current.known.is_none() && !self.is_event() && self.queue.announces() {
            current.known = current.progress.as_ref().map(Known::of);
        }
        if let Some(progress) = &current.progress {
            self.note(&message, progress);
        }
        Ok(message)
    }

    pub(super) async fn load(&self) -> Result<(Arc<Message>, Progress), OpenError> {
        let store = self.queue.store().ok_or(OpenError::Gone)?;
        store.load(self.id).await.map_err(OpenError::Store)?.ok_or(OpenError::Gone)
    }

    /// The message, for what is told of it: from the disk only when nobody has it.
    pub(super) async fn message(&self) -> Result<Arc<Message>, OpenError> {
        let known = self.fresh().clone().or_else(|| self.read().upgrade());
        match known {
            Some(message) => Ok(message),
            None => Ok(self.load().await?.0),
        }
    }

    /// The recipients that wait for an attempt, by number; empty before [`Lease::open`].
    pub async fn queued(&self) -> Vec<usize> {
        let current = self.progress.lock().await;
        current.progress.as_ref().map(numbers_queued).unwrap_or_default()
    }

    /// Whether it may be sent now: not while its outcome could not be saved.
    pub fn may_be_tried(&self) -> bool {
        self.queue.takes_outcomes()
    }

    /// Whether fresh messages take half of the memory that they may take.
    pub fn memory_is_short(&self) -> bool {
        self.queue.state().fresh_bytes > self.queue.options().fresh_bytes / 2
    }

    /// Makes outcomes durable while the leg goes on (a list so long that it takes several transactions).
    pub async fn record(&self, outcomes: &[Outcome]) -> Option<Settled> {
        let mut current = self.current(outcomes).await;
        current.save_so_far(self).await
    }

    /// Ends a leg. Recipients of it without an outcome were not tried: they cost no attempt, and wait for `untried`.
    ///
    /// # Cancel safety
    /// Must not be dropped: the outcomes would be lost, and the message tried again.
    pub async fn settle(&self, outcomes: &[Outcome], untried: Option<Duration>) -> Option<Settled> {
        let mut current = self.current(outcomes).await;
        current.untried = current.untried.max(untried.unwrap_or_default());
        let is_last = self.legs.fetch_sub(1, Ordering::SeqCst) <= 1;
        if !is_last {
            if outcomes.is_empty() {
                return None;
            }
            return current.save_so_far(self).await;
        }
        if current.progress.is_none() && self.is_expired() {
            // Turned away everywhere, unread: it must be read to be held.
            drop(current);
            let _ = self.open().await;
            current = self.progress.lock().await;
        }
        self.close(&mut current).await
    }

    /// Lets go of what can be read again, because the message has to wait for its destination (S2).
    ///
    /// Only for a leg that nobody carries: an outcome needs the progress that it changes.
    pub fn park(&self) {
        if !self.is_whole() {
            return;
        }
        if let Some(message) = self.fresh().take() {
            self.queue.release(message.footprint());
        }
        *self.read() = Weak::new();
        self.forget_if_stored();
    }

    /// Lets go of what was read from the store, unless something was found out since.
    pub fn forget_if_stored(&self) {
        if self.fresh().is_none()
            && let Ok(mut current) = self.progress.try_lock()
            && !current.tried
        {
            current.progress = None;
            current.known = None;
        }
    }

    /// Whether nothing has been found out, and no other leg is under way.
    pub fn is_untouched(&self) -> bool {
        self.is_whole() && self.progress.try_lock().is_ok_and(|current| !current.tried)
    }

    /// Ends the whole lease because `expire_after` went by while it waited: what is queued of it has failed. A message that
    /// turns out to be younger, now that it is read, goes back to the queue. Of a message that is split only this leg ends,
    /// untried: the others may be under way.
    pub async fn expire(&self) -> Option<Settled> {
        if !self.is_whole() {
            return self.settle(&[], Some(self.queue.options().base)).await;
        }
        self.open().await.ok()?;
        let mut current = self.progress.lock().await;
        if !self.is_expired() {
            self.closed.store(true, Ordering::SeqCst);
            if !current.unsaved {
                self.queue.put_back(self.id, self.priority, self.queue.options().base);
            }
            return None;
        }
        let mut expired = Vec::new();
        if let Current { progress: Some(progress), doubts, .. } = &mut *current {
            doubts.mark(progress);
            expired = numbers_queued(progress);
            retry::expire(progress);
        }
        let settled = self.close(&mut current).await?;
        Some(Settled { expired, ..settled })
    }

    /// Whether `expire_after` has gone by since the message was due. Before [`Lease::open`] it may be that only its
    /// acceptance was so long ago.
    pub fn is_expired(&self) -> bool {
        self.queue.clock.settled() >= self.due_at().plus(self.queue.options().expire_after)
    }

    /// Whether the sender may have to be told that it takes long ([`Lease::warn`]).
    pub fn is_late(&self) -> bool {
        !self.was_warned.load(Ordering::SeqCst) && self.has_waited_for_warning()
    }

    fn has_waited_for_warning(&self) -> bool {
        let is_late = |warn_after| self.queue.clock.settled() >= self.due_at().plus(warn_after);
        self.queue.options().warn_after.is_some_and(is_late)
    }

    /// Tells the sender, unless that was done before, that the message takes long; for one that waits for its destination,
    /// unread, and goes on waiting. Looks only once in the life of a lease, but for messages that were held back.
    ///
    /// # Cancel safety
    /// Must not be dropped: what is under way may be saved all the same.
    pub async fn warn(&self) {
        // Held to the end, so that no attempt begins in between.
        let current = self.progress.lock().await;
        let is_carried = current.progress.is_some() || self.closed.load(Ordering::SeqCst);
        // Whoever carries it tells of it at the end of the attempt.
        if is_carried || self.was_warned.swap(true, Ordering::SeqCst) {
            return;
        }
        let Ok((message, progress)) = self.load().await else { return };
        self.note(&message, &progress);
        if !self.has_waited_for_warning() {
            // It was held back, and is younger than its id says.
            self.was_warned.store(false, Ordering::SeqCst);
            *self.read() = Weak::new();
            return;
        }
        // Nothing of it stays in memory (S2).
        let mut unread = Current { progress: Some(progress), ..Current::default() };
        let mut told = Notices::default();
        self.tell_close(&mut unread, self.queue.clock.now(), &mut told).await;
        if !told.messages.is_empty() {
            unread.save(self, told, Vec::new()).await;
        }
        *self.read() = Weak::new();
    }

    /// Remembers what is asked of a message while it is not there.
    pub(super) fn note(&self, message: &Arc<Message>, progress: &Progress) {
        let due_at = message.envelope.due_at(message.accepted_at);
        self.due_at_ms.store(due_at.as_millis(), Ordering::SeqCst);
        self.note_release(progress);
        *self.read() = Arc::downgrade(message);
    }

    /// What an operator has released is as old as that.
    pub(super) fn note_release(&self, progress: &Progress) {
        if let Some(released_at) = progress.released_at {
            self.due_at_ms.fetch_max(released_at.as_millis(), Ordering::SeqCst);
        }
    }

    pub(super) fn due_at(&self) -> Timestamp {
        Timestamp::from_millis(self.due_at_ms.load(Ordering::SeqCst))
    }

    /// Ends the lease of a message that cannot be opened.
    pub fn give_up(&self, error: &OpenError) {
        self.closed.store(true, Ordering::SeqCst);
        match error {
            OpenError::Gone => self.queue.conclude(self.id, self.priority, Next::Finished),
            // D6: it stays queued, and is tried when reading may work again.
            OpenError::Store(_) => self.queue.put_back(self.id, self.priority, self.queue.options().cap),
        }
    }

    /// The progress with `outcomes` in it. If it cannot be had, the message stays away from further attempts: what was
    /// found out must not be found out twice.
    async fn current(&self, outcomes: &[Outcome]) -> tokio::sync::MutexGuard<'_, Current> {
        let mut current = self.progress.lock().await;
        if current.progress.is_none() && !outcomes.is_empty() {
            drop(current);
            let opened = self.open().await;
            current = self.progress.lock().await;
            if let Err(error) = opened {
                tracing::error!(target: "oncemail::queue", queue_id = %self.id, %error, "an outcome was lost");
                current.unsaved = true;
            }
        }
        current.apply(outcomes);
        current
    }

    pub(super) fn fresh(&self) -> MutexGuard<'_, Option<Arc<Message>>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> MutexGuard<'_, Weak<Message>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    pub(super) fn apply(&mut self, outcomes: &[Outcome]) {
        self.tried |= !outcomes.is_empty();
        outcomes.iter().for_each(|outcome| self.doubts.resolve(outcome.recipient));
        let Some(progress) = &mut self.progress else { return };
        for outcome in outcomes {
            if outcome.apply(progress) {
                self.newly_held.push(outcome.recipient);
            }
        }
        for outcome in outcomes {
            if outcome.hard_bounce && outcome.end == End::Failed {
                let refused = (outcome.recipient, outcome.reply.text.clone());
                self.found.get_or_insert_default().refused.push(refused);
            }
            if let Some(mention) = notices::passed_on(outcome).filter(|_| self.wants_success) {
                self.found.get_or_insert_default().passed_on.push(mention);
            }
        }
    }
}

pub(super) fn numbers_queued(progress: &Progress) -> Vec<usize> {
    let recipients = progress.recipients.iter().enumerate();
    recipients.filter(|(_, r)| r.state == RecipientState::Queued).map(|(number, _)| number).collect()
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).finish_non_exhaustive()
    }
}
