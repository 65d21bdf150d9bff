//! A line that respects priorities (RFC 6710 §4), and within one the order of arrival. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// A line with priorities. There are few different ones, so that every step takes constant time.
pub(super) struct Waiting<T> {
    by_priority: BTreeMap<Reverse<i8>, VecDeque<T>>,
    len: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { by_priority: BTreeMap::new(), len: 0 }
    }
}

impl<T> Waiting<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// That of the first.
    pub(super) fn priority(&self) -> Option<i8> {
        self.by_priority.first_key_value().map(|(Reverse(priority), _)| *priority)
    }

    /// Adds behind all of the same priority.
    pub(super) fn push_back(&mut self, priority: i8, one: T) {
        self.by_priority.entry(Reverse(priority)).or_default().push_back(one);
        self.len += 1;
    }

    /// Puts back what was first.
    pub(super) fn push_front(&mut self, priority: i8, one: T) {
        self.by_priority.entry(Reverse(priority)).or_default().push_front(one);
        self.len += 1;
    }

    /// Takes the first.
    pub(super) fn pop(&mut self) -> Option<T> {
        let mut first = self.by_priority.first_entry()?;
        let one = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        self.len -= usize::from(one.is_some());
        one
    }

    /// Changes all where they stand.
    pub(super) fn change(&mut self, mut change: impl FnMut(T) -> T) {
        for line in self.by_priority.values_mut() {
            *line = std::mem::take(line).into_iter().map(&mut change).collect();
        }
    }

    /// Takes out all that `is_wanted`; the others keep their order.
    pub(super) fn take(&mut self, mut is_wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for line in self.by_priority.values_mut() {
            if line.iter().any(&mut is_wanted) {
                let (wanted, others): (VecDeque<T>, _) =
                    std::mem::take(line).into_iter().partition(&mut is_wanted);
                *line = others;
                taken.extend(wanted);
            }
        }
        self.by_priority.retain(|_, line| !line.is_empty());
        self.len -= taken.len();
        taken
    }
}

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use super::*;

    fn all(waiting: &mut Waiting<u32>) -> Vec<u32> {
        std::iter::from_fn(|| waiting.pop()).collect()
    }

    #[test]
    fn high_priorities_come_first_and_equals_in_their_order() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.priority(), None);
        for (priority, one) in [(0, 1), (9, 2), (0, 3), (-9, 4), (9, 5), (0, 6)] {
            waiting.push_back(priority, one);
        }
        assert_eq!((waiting.priority(), waiting.pop(), waiting.len()), (Some(9), Some(2), 5));
        waiting.push_front(9, 2);
        assert_eq!(all(&mut waiting), [2, 5, 1, 3, 6, 4]);
        assert!(waiting.is_empty() && waiting.by_priority.is_empty());
    }

    #[test]
    fn what_is_taken_out_leaves_the_others_in_their_order() {
        let mut waiting = Waiting::default();
        for one in 0..10 {
            waiting.push_back(i8::from(one == 8), one);
        }
        assert_eq!(waiting.take(|one| one % 2 == 0), [8, 0, 2, 4, 6]);
        waiting.change(|one| one * 10);
        assert_eq!((waiting.len(), all(&mut waiting)), (5, vec![10, 30, 50, 70, 90]));
    }
}
