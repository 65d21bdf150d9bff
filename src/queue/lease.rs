//! One message that is being worked on.
//!
//! A message may be split into several *legs*, one per destination, which end at different times; its progress is
//! saved at the end of each, and the message is scheduled again when all have ended. A lease that is dropped unsettled
//! (a panic, a shutdown) goes back to the queue.

mod parked;

pub use parked::Parked;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::outcome::Outcome;
use super::schedule::Ready;
use super::{Next, Queue, retry};
use crate::clock::Timestamp;
use crate::mail::{HoldCause, Message, Progress, QueueId, RecipientState};
use crate::store::StoreError;

/// How long a message waits whose attempt was dropped: whatever broke should not break again at once.
const DROPPED_WAIT: Duration = Duration::from_secs(60);

/// See the module.
pub struct Lease {
    queue: Arc<Queue>,
    id: QueueId,
    /// In memory while it is fresh.
    fresh: Mutex<Option<Arc<Message>>>,
    progress: tokio::sync::Mutex<Current>,
    /// Legs that have not ended.
    legs: AtomicUsize,
    was_split: AtomicBool,
    /// Nothing is left to do when the lease is dropped.
    closed: AtomicBool,
}

/// What is known of the message's progress during the lease.
#[derive(Default)]
struct Current {
    /// As saved, and what has been found out since; `None` until it is read.
    progress: Option<Progress>,
    /// When the message was accepted; `None` until it is read.
    accepted_at: Option<Timestamp>,
    /// Something was found out about a recipient.
    tried: bool,
    /// The longest wait that a leg asked for which was not tried.
    untried: Duration,
    /// A save failed.
    unsaved: bool,
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
    /// Recipients that are held from now on because `expire_after` went by, by number.
    pub expired: Vec<usize>,
}

impl Lease {
    pub(super) fn new(queue: Arc<Queue>, ready: Ready) -> Self {
        let (id, fresh) = match ready {
            Ready::Fresh(message) => (message.id, Some(message)),
            Ready::Stored(id) => (id, None),
        };
        Self {
            queue,
            id,
            fresh: Mutex::new(fresh),
            progress: tokio::sync::Mutex::default(),
            legs: AtomicUsize::new(1),
            was_split: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
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
        self.fresh().as_ref().map_or(0, |message| message.envelope.handling.priority)
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
        if let Some(message) = fresh {
            current.accepted_at = Some(message.accepted_at);
            current.progress.get_or_insert_with(|| {
                Progress::fresh(message.envelope.recipients.len(), message.accepted_at)
            });
            return Ok(message);
        }
        let store = self.queue.store().ok_or(OpenError::Gone)?;
        let (message, progress) =
            store.load(self.id).await.map_err(OpenError::Store)?.ok_or(OpenError::Gone)?;
        // What another leg has found out is newer than what the store says, if saving it failed.
        current.progress.get_or_insert(progress);
        current.accepted_at = Some(message.accepted_at);
        Ok(message)
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

    /// Makes outcomes durable while the leg goes on (a list so long that it takes several transactions).
    pub async fn record(&self, outcomes: &[Outcome]) -> Option<Settled> {
        let mut current = self.current(outcomes).await;
        let settled = current.save(self, Vec::new()).await;
        drop(current);
        settled
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
            return if outcomes.is_empty() { None } else { current.save(self, Vec::new()).await };
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
        self.forget_if_stored();
    }

    /// Lets go of what was read from the store, unless something was found out since.
    pub fn forget_if_stored(&self) {
        if self.fresh().is_none()
            && let Ok(mut current) = self.progress.try_lock()
            && !current.tried
        {
            current.progress = None;
        }
    }

    /// Whether nothing has been found out, and no other leg is under way.
    pub fn is_untouched(&self) -> bool {
        self.is_whole() && self.progress.try_lock().is_ok_and(|current| !current.tried)
    }

    /// Ends the whole lease because `expire_after` went by while it waited: what is queued of it is held.
    pub async fn expire(&self) -> Option<Settled> {
        self.open().await.ok()?;
        let mut current = self.progress.lock().await;
        let expired = current.progress.as_ref().map(numbers_queued).unwrap_or_default();
        if let Some(progress) = &mut current.progress {
            retry::expire(progress);
        }
        let settled = self.close(&mut current).await?;
        Some(Settled { expired, ..settled })
    }

    /// Whether `expire_after` has gone by since the message was accepted.
    pub fn is_expired(&self) -> bool {
        self.queue.clock.now() >= self.id.accepted_at().plus(self.queue.options.expire_after)
    }

    /// Ends the lease of a message that cannot be opened.
    pub fn give_up(&self, error: &OpenError) {
        self.closed.store(true, Ordering::SeqCst);
        match error {
            OpenError::Gone => self.queue.conclude(self.id, Next::Finished),
            // D6: it stays queued, and is tried when reading may work again.
            OpenError::Store(_) => self.queue.put_back(self.id, self.queue.options.cap),
        }
    }

    /// The last leg has ended: saves, and schedules, holds or forgets the message.
    async fn close(&self, current: &mut Current) -> Option<Settled> {
        let now = self.queue.clock.now();
        let untried = (!current.tried).then_some(current.untried);
        let Some(progress) = &mut current.progress else {
            self.closed.store(true, Ordering::SeqCst);
            // Never opened, so nothing has changed.
            if !current.unsaved {
                self.queue.put_back(self.id, current.untried);
            }
            return None;
        };
        let was_queued = numbers_queued(progress);
        let accepted_at = current.accepted_at.unwrap_or_else(|| self.id.accepted_at());
        let next = retry::close(progress, accepted_at, now, &self.queue.options, untried);
        let expired = now_expired(&was_queued, progress);
        if let (Next::Again(wait), Some(_)) = (next, untried) {
            self.closed.store(true, Ordering::SeqCst);
            self.queue.put_back(self.id, wait);
            return None;
        }
        let settled = current.save(self, expired).await;
        self.closed.store(true, Ordering::SeqCst);
        if !current.unsaved {
            self.queue.conclude(self.id, next);
        }
        settled
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

    fn fresh(&self) -> MutexGuard<'_, Option<Arc<Message>>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn apply(&mut self, outcomes: &[Outcome]) {
        self.tried |= !outcomes.is_empty();
        let Some(progress) = &mut self.progress else { return };
        outcomes.iter().for_each(|outcome| outcome.apply(progress));
    }

    async fn save(&mut self, lease: &Lease, expired: Vec<usize>) -> Option<Settled> {
        let progress = self.progress.clone()?;
        let saved = lease.queue.save(lease.id, &progress).await;
        self.unsaved |= saved.is_err();
        Some(Settled { progress, saved, expired })
    }
}

fn numbers_queued(progress: &Progress) -> Vec<usize> {
    let recipients = progress.recipients.iter().enumerate();
    recipients.filter(|(_, r)| r.state == RecipientState::Queued).map(|(number, _)| number).collect()
}

/// Those of `was_queued` that have expired since.
fn now_expired(was_queued: &[usize], progress: &Progress) -> Vec<usize> {
    let is_expired = |number: &&usize| {
        let recipient = progress.recipients.get(**number);
        recipient.is_some_and(|r| r.state == RecipientState::Held(HoldCause::Expired))
    };
    was_queued.iter().filter(is_expired).copied().collect()
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(message) = self.fresh().take() {
            self.queue.release(message.footprint());
        }
        if !self.closed.load(Ordering::SeqCst) && !self.progress.get_mut().unsaved {
            self.queue.put_back(self.id, DROPPED_WAIT);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).finish_non_exhaustive()
    }
}
