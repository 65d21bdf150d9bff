//! A lease of which nothing is in memory but its id: for what waits long, and by the hundred thousand, for its destination.
//!
//! It is as good as the lease that it was (D6): dropped, the message goes back to the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{DROPPED_WAIT, Lease};
use crate::mail::QueueId;
use crate::queue::Queue;
use crate::queue::schedule::Ready;

/// See the module.
pub struct Parked {
    /// Taken when the lease is taken up again.
    queue: Option<Arc<Queue>>,
    /// As bytes, which need no alignment.
    id: [u8; 16],
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
        Ok(Self { queue: Some(own.queue.clone()), id: own.id.to_bytes() })
    }

    /// Takes it up again.
    pub fn unfold(mut self) -> Option<Lease> {
        let queue = self.queue.take()?;
        Some(Lease::new(queue, Ready::Stored(self.id())))
    }

    /// Whether `expire_after` has gone by since the message was accepted.
    pub fn is_expired(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| {
            queue.clock.now() >= self.id().accepted_at().plus(queue.options.expire_after)
        })
    }

    fn id(&self) -> QueueId {
        QueueId::from_bytes(self.id)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.put_back(self.id(), DROPPED_WAIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::queue::Options;

    fn queue() -> Arc<Queue> {
        Queue::new(Options::default(), Clock::manual(Timestamp::from_millis(1)))
    }

    fn stored(queue: &Arc<Queue>) -> Arc<Lease> {
        Arc::new(Lease::new(queue.clone(), Ready::Stored(QueueId::new(Timestamp::from_millis(1)))))
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
        assert!(lease.id() == id && !scheduled(&queue));
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
        assert!(size_of::<Parked>() <= 24, "{}", size_of::<Parked>());
    }
}
