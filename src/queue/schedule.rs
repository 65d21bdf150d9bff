//! The order in which messages are due: what is ready now, and what waits for its time.
//!
//! Pure: time comes in as milliseconds. One entry takes a few dozen bytes, so that a million queued messages fit.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::mail::{Message, QueueId};

/// Messages by the time at which they are due.
#[derive(Default)]
pub(super) struct Schedule {
    /// Due since they arrived, in order of arrival.
    ready: VecDeque<Ready>,
    /// (milliseconds, id).
    waiting: BTreeSet<(u64, QueueId)>,
    /// Whether the last one came from `waiting`: the two take turns, so that neither starves the other.
    last_was_waiting: bool,
}

/// A message whose turn it is.
#[derive(Debug)]
pub(super) enum Ready {
    /// With its content, which counts against `fresh_bytes`.
    Fresh(Arc<Message>),
    /// To be read from the store.
    Stored(QueueId),
}

impl Schedule {
    /// Adds one that is due at once.
    pub(super) fn push_ready(&mut self, ready: Ready) {
        self.ready.push_back(ready);
    }

    /// Adds one that is due at `due_ms`.
    pub(super) fn insert(&mut self, due_ms: u64, id: QueueId) {
        self.waiting.insert((due_ms, id));
    }

    /// Takes one that is due at `now_ms`.
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<Ready> {
        let waited = self.waiting.first().is_some_and(|(due_ms, _)| *due_ms <= now_ms);
        self.last_was_waiting = waited && (self.ready.is_empty() || !self.last_was_waiting);
        if self.last_was_waiting {
            return self.waiting.pop_first().map(|(_, id)| Ready::Stored(id));
        }
        self.ready.pop_front()
    }

    /// When the next one is due; `None` when nothing waits.
    pub(super) fn next_due(&self) -> Option<u64> {
        if self.ready.is_empty() { self.waiting.first().map(|(due_ms, _)| *due_ms) } else { Some(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn id(n: u64) -> QueueId {
        QueueId::new(Timestamp::from_millis(n))
    }

    fn popped(schedule: &mut Schedule, now_ms: u64) -> Option<QueueId> {
        schedule.pop(now_ms).map(|ready| match ready {
            Ready::Fresh(message) => message.id,
            Ready::Stored(id) => id,
        })
    }

    #[test]
    fn the_earliest_is_first_and_nothing_comes_before_its_time() {
        let (early, late) = (id(1), id(2));
        let mut schedule = Schedule::default();
        schedule.insert(20, late);
        schedule.insert(10, early);
        assert_eq!((popped(&mut schedule, 9), schedule.next_due()), (None, Some(10)));
        assert_eq!((popped(&mut schedule, 10), schedule.next_due()), (Some(early), Some(20)));
        assert_eq!(popped(&mut schedule, 10), None);
        assert_eq!((popped(&mut schedule, 20), schedule.next_due()), (Some(late), None));
    }

    #[test]
    fn arrivals_and_retries_take_turns() {
        let mut schedule = Schedule::default();
        let (arrivals, retries) = ([id(1), id(2), id(3)], [id(4), id(5)]);
        arrivals.iter().for_each(|id| schedule.push_ready(Ready::Stored(*id)));
        retries.iter().for_each(|id| schedule.insert(0, *id));
        let order: Vec<_> = std::iter::from_fn(|| popped(&mut schedule, 0)).collect();
        let is_retry: Vec<_> = order.iter().map(|id| retries.contains(id)).collect();
        assert_eq!(is_retry, [true, false, true, false, false]);
    }
}
