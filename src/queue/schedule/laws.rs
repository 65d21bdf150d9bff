//! The order against a list that is searched from its start each time.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Ready(i8),
    Insert(u64, i8),
    Remove(usize),
    Pop(u64),
}

fn step() -> impl Strategy<Value = Step> {
    // Few different values, so that many are equal.
    let priority = || prop_oneof![Just(0i8), -9..=9i8, Just(i8::MIN), Just(i8::MAX)];
    prop_oneof![
        2 => priority().prop_map(Step::Ready),
        3 => (0..12u64, priority()).prop_map(|(due, priority)| Step::Insert(due, priority)),
        1 => any::<usize>().prop_map(Step::Remove),
        4 => (0..12u64).prop_map(Step::Pop),
    ]
}

/// All that there is, in the order in which it came.
#[derive(Default)]
struct Model {
    entries: Vec<Entry>,
    last_was_waiting: HashMap<i8, bool>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Entry {
    /// `None`: due since it arrived.
    due_ms: Option<u64>,
    id: QueueId,
    priority: i8,
}

impl Model {
    fn pop(&mut self, now_ms: u64) -> Option<Entry> {
        let is_due = |entry: &&Entry| entry.due_ms.is_none_or(|due| due <= now_ms);
        let priority = self.entries.iter().filter(is_due).map(|entry| entry.priority).max();
        // Where nothing is due nobody has to be let past, and no turn is remembered.
        self.last_was_waiting.retain(|level, _| priority.is_some_and(|priority| *level <= priority));
        let priority = priority?;
        let due: Vec<_> = self.entries.iter().filter(is_due).filter(|e| e.priority == priority).collect();
        let ready = due.iter().find(|entry| entry.due_ms.is_none());
        let waited = due.iter().filter(|e| e.due_ms.is_some()).min_by_key(|e| (e.due_ms, e.id));
        // They take turns, as long as there are both.
        let last_was_waiting = self.last_was_waiting.entry(priority).or_default();
        let next = match (ready, waited) {
            (Some(ready), Some(waited)) => {
                if *last_was_waiting {
                    ready
                } else {
                    waited
                }
            }
            (one, other) => one.or(other)?,
        };
        let next = **next;
        *last_was_waiting = next.due_ms.is_some();
        self.entries.retain(|entry| *entry != next);
        Some(next)
    }

    fn next_due(&self) -> Option<u64> {
        self.entries.iter().map(|entry| entry.due_ms.unwrap_or(0)).min()
    }
}

proptest! {
    #[test]
    fn it_hands_out_what_a_search_through_all_would(steps in prop::collection::vec(step(), 0..80)) {
        let (mut schedule, mut model) = (Schedule::default(), Model::default());
        for (number, step) in steps.into_iter().enumerate() {
            // Later ones have lower ids: an order by id alone would be seen.
            let id = QueueId::from_bytes((u128::MAX - number as u128).to_be_bytes());
            match step {
                Step::Ready(priority) => {
                    schedule.push_ready(Ready::Stored(id), priority);
                    model.entries.push(Entry { due_ms: None, id, priority });
                }
                Step::Insert(due, priority) => {
                    schedule.insert(due, id, priority);
                    model.entries.push(Entry { due_ms: Some(due), id, priority });
                }
                Step::Remove(n) => {
                    let waiting: Vec<_> = model.entries.iter().filter(|e| e.due_ms.is_some()).copied().collect();
                    let Some(gone) = waiting.get(n % waiting.len().max(1)) else { continue };
                    schedule.remove(gone.due_ms.unwrap(), gone.id, gone.priority);
                    model.entries.retain(|entry| entry != gone);
                }
                Step::Pop(now) => {
                    let popped = schedule.pop(now).map(|(ready, priority)| match ready {
                        Ready::Stored(id) => (id, priority, false),
                        Ready::Waited(id) => (id, priority, true),
                        Ready::Fresh(_) => unreachable!("none was put in"),
                    });
                    let expected = model.pop(now).map(|e| (e.id, e.priority, e.due_ms.is_some()));
                    prop_assert_eq!(popped, expected);
                }
            }
            prop_assert_eq!(schedule.next_due(), model.next_due());
        }
        // D6: nothing stays behind.
        let left = std::iter::from_fn(|| schedule.pop(u64::MAX)).count();
        prop_assert_eq!(left, model.entries.len());
    }
}
