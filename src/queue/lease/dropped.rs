//! A lease that was dropped: after its end, or without one (a panic, a shutdown). Then the message goes back to where it was
//! (D6).

use std::sync::atomic::Ordering;

use super::{DROPPED_WAIT, Holder, Lease};
use crate::mail::Progress;
use crate::queue::{Next, notices};

impl Drop for Lease {
    fn drop(&mut self) {
        self.queue.leased.take(1);
        if let Some(message) = self.fresh().take() {
            self.queue.release(message.footprint());
        }
        let current = self.progress.get_mut();
        if current.unsaved {
            return self.queue.strand(self.id);
        }
        if self.closed.load(Ordering::SeqCst) {
            return;
        }
        if let Holder::Order { was_held } = self.holder {
            return self.queue.give_back(self.id, self.priority, was_held);
        }
        if current.doubts.recipients().next().is_some() {
            self.queue.refuse_orders(self.id);
        }
        // R1: who is in doubt is held already, and must not be offered again. But those of whom nobody was told are queued
        // in the store, and are told of next time.
        let is_held = |progress: &Progress| {
            current.doubts.are_all_of(progress) && !notices::has_failed(progress, &self.queue.options())
        };
        if current.progress.as_ref().is_some_and(is_held) {
            tracing::warn!(target: "oncemail::queue", queue_id = %self.id,
                "an attempt broke off in doubt: the message may have been delivered, and is held");
            return self.queue.conclude(self.id, self.priority, Next::Held);
        }
        self.queue.put_back(self.id, self.priority, DROPPED_WAIT);
    }
}
