//! A lease of which nothing is in memory but its id: for what waits long, and by the hundred thousand, for its destination.
//!
//! It is as good as the lease that it was (D6): dropped, the message goes back to the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{DROPPED_WAIT, Lease};
use crate::clock::Timestamp;
use crate::mail::QueueId;
use crate::queue::Queue;
use crate::queue::schedule::Ready;

/// See the module.
pub struct Parked {
    /// Taken when the lease is taken up again.
    queue: Option<Arc<Queue>>,
    /// As bytes, which need no alignment.
    id: [u8; 16],
    /// As in the lease.
    due_at_ms: u64,
    was_warned: bool,
    priority: i8,
}

impl Parked {
    /// Folds a lease that nobody else has, that is whole, and of which nothing is in memory.
    ///
    /// # Errors
    /// Gives any other lease back as it is.
    pub fn fold(mut lease: Arc<Lease>) -> Result<Self, Arc<Lease>> {
        let Some(own) = Arc::get_mut(&mut lease) else { return Err(lease) };
        let current = own.progress.get_mut();
        let is_unread = current.progress.is_none() && !current.tried && !current.unsaved;
        if !is_unread || !own.is_whole() || own.is_fresh() || own.closed.load(Ordering::SeqCst) {
            return Err(lease);
        }
        own.closed.store(true, Ordering::SeqCst);
        Ok(Self {
            queue: Some(own.queue.clone()),
            id: own.id.to_bytes(),
            due_at_ms: own.due_at_ms.load(Ordering::SeqCst),
            was_warned: own.was_warned.load(Ordering::SeqCst),
            priority: own.priority,
        })
    }

    /// Takes it up again.
    pub fn unfold(mut self) -> Option<Lease> {
        let queue = self.queue.take()?;
        let lease = Lease::new(queue, Ready::Stored(self.id()), self.priority);
        lease.due_at_ms.store(self.due_at_ms, Ordering::SeqCst);
        lease.was_warned.store(self.was_warned, Ordering::SeqCst);
        Some(lease)
    }

    /// As [`Lease::is_expired`].
    pub fn is_expired(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| self.has_waited(queue, queue.options().expire_after))
    }

    /// As [`Lease::is_late`].
    pub fn is_late(&self) -> bool {
        let is_late = |queue: &Arc<Queue>| {
            queue.options().warn_after.is_some_and(|after| self.has_waited(queue, after))
        };
        !self.was_warned && self.queue.as_ref().is_some_and(is_late)
    }

    fn has_waited(&self, queue: &Queue, time: Duration) -> bool {
        queue.clock.settled() >= Timestamp::from_millis(self.due_at_ms).plus(time)
    }

    /// Back to the queue, to be handed out at once; an operator's order comes first.
    pub fn give_back(mut self) {
        if let Some(queue) = self.queue.take() {
            queue.put_back(self.id(), self.priority, Duration::ZERO);
        }
    }

    /// Its id.
    pub fn id(&self) -> QueueId {
        QueueId::from_bytes(self.id)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.put_back(self.id(), self.priority, DROPPED_WAIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::queue::Options;

    fn queue() -> Arc<Queue> {
        Queue::new(Options::default(), Clock::manual(Timestamp::from_millis(1)))
    }

    fn stored(queue: &Arc<Queue>) -> Arc<Lease> {
        Arc::new(Lease::new(queue.clone(), Ready::Stored(QueueId::new(Timestamp::from_millis(1))), 7))
    }

    fn scheduled(queue: &Queue) -> bool {
        queue.state().schedule.next_due().is_some()
    }

    #[test]
    fn d6_a_parked_lease_is_taken_up_again_or_goes_back_to_the_queue() {
        let queue = queue();
        let lease = stored(&queue);
        let id = lease.id();
        let parked = Parked::fold(lease).unwrap_or_else(|_| panic!("not folded"));
        assert!(!scheduled(&queue), "it is not in two places");
        let lease = parked.unfold().unwrap();
        assert!(lease.id() == id && lease.priority() == 7 && !scheduled(&queue));
        drop(Parked::fold(Arc::new(lease)));
        assert!(scheduled(&queue));
    }

    #[test]
    fn a_lease_that_others_have_or_that_is_split_stays_as_it_is() {
        let queue = queue();
        let shared = stored(&queue);
        let other = shared.clone();
        assert!(Parked::fold(shared).is_err());
        other.split(2);
        assert!(Parked::fold(other).is_err());
    }

    #[test]
    fn s2_a_parked_lease_takes_few_bytes() {
        assert!(size_of::<Parked>() <= 40, "{}", size_of::<Parked>());
    }
}
