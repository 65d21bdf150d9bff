//! The order in which messages are due: what is ready now, and what waits for its time.
//!
//! What is due is handed out by priority, the highest first (RFC 6710 §4.1: a lower one waits as long as a higher one
//! is due); within a priority, arrivals and retries take turns, each in their order. Pure: time comes in as
//! milliseconds. One entry takes a few dozen bytes, so that a million queued messages fit, and every call takes
//! logarithmic time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::mail::{Message, QueueId};

/// Messages by priority, and by the time at which they are due.
#[derive(Default)]
pub(super) struct Schedule {
    /// One entry per priority that was ever seen: RFC 6710 knows 19.
    levels: BTreeMap<Reverse<i8>, Level>,
}

/// The messages of one priority.
#[derive(Default)]
struct Level {
    /// Due since they arrived, in order of arrival.
    ready: VecDeque<Ready>,
    /// What has to wait for its time.
    waiting: BTreeSet<Waiting>,
    /// Whether the last one came from `waiting`: the two take turns, so that neither starves the other.
    last_was_waiting: bool,
}

/// (milliseconds, queue id): the id as bytes, which takes a quarter less than a number that has to be aligned.
type Waiting = (u64, [u8; 16]);

/// A message whose turn it is.
#[derive(Debug)]
pub(super) enum Ready {
    /// With its content, which counts against `fresh_bytes`.
    Fresh(Arc<Message>),
    /// To be read from the store.
    Stored(QueueId),
    /// The same, and it has waited for its time.
    Waited(QueueId),
}

impl Schedule {
    /// Adds one that is due at once.
    pub(super) fn push_ready(&mut self, ready: Ready, priority: i8) {
        self.level(priority).ready.push_back(ready);
    }

    /// Adds one that is due at `due_ms`.
    pub(super) fn insert(&mut self, due_ms: u64, id: QueueId, priority: i8) {
        self.level(priority).waiting.insert((due_ms, id.to_bytes()));
    }

    /// Takes out one that waits for `due_ms`.
    pub(super) fn remove(&mut self, due_ms: u64, id: QueueId, priority: i8) {
        if let Some(level) = self.levels.get_mut(&Reverse(priority)) {
            level.waiting.remove(&(due_ms, id.to_bytes()));
        }
    }

    /// Takes one that is due at `now_ms`, with its priority.
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<(Ready, i8)> {
        self.levels
            .iter_mut()
            .find_map(|(Reverse(priority), level)| level.pop(now_ms).map(|ready| (ready, *priority)))
    }

    /// When the next one is due; `None` when nothing waits.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.levels.values().filter_map(Level::next_due).min()
    }

    fn level(&mut self, priority: i8) -> &mut Level {
        self.levels.entry(Reverse(priority)).or_default()
    }
}

impl Level {
    fn pop(&mut self, now_ms: u64) -> Option<Ready> {
        let waited = self.waiting.first().is_some_and(|(due_ms, _)| *due_ms <= now_ms);
        self.last_was_waiting = waited && (self.ready.is_empty() || !self.last_was_waiting);
        if self.last_was_waiting {
            return self.waiting.pop_first().map(|(_, id)| Ready::Waited(QueueId::from_bytes(id)));
        }
        self.ready.pop_front()
    }

    fn next_due(&self) -> Option<u64> {
        if self.ready.is_empty() { self.waiting.first().map(|(due_ms, _)| *due_ms) } else { Some(0) }
    }
}

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn id(n: u64) -> QueueId {
        QueueId::new(Timestamp::from_millis(n))
    }

    fn popped(schedule: &mut Schedule, now_ms: u64) -> Option<QueueId> {
        schedule.pop(now_ms).map(|(ready, _)| match ready {
            Ready::Fresh(message) => message.id,
            Ready::Stored(id) | Ready::Waited(id) => id,
        })
    }

    #[test]
    fn the_earliest_is_first_and_nothing_comes_before_its_time() {
        let (early, late) = (id(1), id(2));
        let mut schedule = Schedule::default();
        schedule.insert(20, late, 0);
        schedule.insert(10, early, 0);
        assert_eq!((popped(&mut schedule, 9), schedule.next_due()), (None, Some(10)));
        assert_eq!((popped(&mut schedule, 10), schedule.next_due()), (Some(early), Some(20)));
        assert_eq!(popped(&mut schedule, 10), None);
        assert_eq!((popped(&mut schedule, 20), schedule.next_due()), (Some(late), None));
    }

    #[test]
    fn arrivals_and_retries_take_turns() {
        let mut schedule = Schedule::default();
        let (arrivals, retries) = ([id(1), id(2), id(3)], [id(4), id(5)]);
        arrivals.iter().for_each(|id| schedule.push_ready(Ready::Stored(*id), 0));
        retries.iter().for_each(|id| schedule.insert(0, *id, 0));
        let order: Vec<_> = std::iter::from_fn(|| popped(&mut schedule, 0)).collect();
        let is_retry: Vec<_> = order.iter().map(|id| retries.contains(id)).collect();
        assert_eq!(is_retry, [true, false, true, false, false]);
    }

    #[test]
    fn a_higher_priority_goes_first_and_within_one_the_order_is_kept() {
        let mut schedule = Schedule::default();
        let ids: Vec<_> = (1..=6).map(id).collect();
        for (n, priority) in [(0, 0), (1, -9), (2, 4), (3, 0), (4, 4)] {
            schedule.push_ready(Ready::Stored(ids[n]), priority);
        }
        schedule.insert(10, ids[5], 9);
        let first: Vec<_> = (0..2).map(|_| popped(&mut schedule, 0)).collect();
        assert_eq!(first, [Some(ids[2]), Some(ids[4])]);
        // What has become due since overtakes what is lower.
        assert_eq!(schedule.pop(10).map(|(_, priority)| priority), Some(9));
        let rest: Vec<_> = std::iter::from_fn(|| popped(&mut schedule, 10)).collect();
        assert_eq!(rest, [ids[0], ids[3], ids[1]]);
    }

    #[test]
    fn the_next_time_is_the_earliest_of_all_priorities() {
        let mut schedule = Schedule::default();
        schedule.insert(30, id(1), 9);
        schedule.insert(20, id(2), -9);
        assert_eq!(schedule.next_due(), Some(20));
        assert!(schedule.pop(19).is_none());
    }

    #[test]
    fn s2_an_entry_that_waits_is_small() {
        assert_eq!(size_of::<Waiting>(), 24);
    }
}
