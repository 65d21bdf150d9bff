//! Records on their way to the history's thread: put down by whoever has one, and taken all at once.
//!
//! Whoever puts one down never waits for anything but the others who do. What was taken in is never lost before the
//! thread has it: it takes what is there once more after it has seen the end.

use std::sync::PoisonError;
use std::time::Duration;

use super::sync::{Condvar, Mutex, MutexGuard};

/// See the module.
pub(super) struct Waiting {
    state: Mutex<State>,
    wake: Condvar,
    /// The thread is woken for so many bytes.
    many: usize,
    /// While more bytes than this wait, nothing is put down (S2).
    most: usize,
}

#[derive(Default)]
struct State {
    records: Vec<u8>,
    is_closed: bool,
}

impl Waiting {
    /// Nothing yet.
    pub(super) fn new(many: usize, most: usize) -> Self {
        Self { state: Mutex::new(State::default()), wake: Condvar::new(), many, most }
    }

    /// Lets `write` put one record down, which says whether it did; not when too many wait, or nothing is taken any more.
    /// Nothing is set aside for a record, and none is copied: that would cost more than all the rest.
    #[must_use]
    pub(super) fn add(&self, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let mut state = self.state();
        let before = state.records.len();
        let is_added = !state.is_closed && before <= self.most && write(&mut state.records);
        let after = state.records.len();
        drop(state);
        // Once is enough, and a wake is dear, too.
        if before < self.many && after >= self.many {
            self.wake.notify_one();
        }
        is_added
    }

    /// Waits until there is much to take, or the end, or for about this long; whether it is the end.
    pub(super) fn wait(&self, longest: Duration) -> bool {
        let mut state = self.state();
        while !state.is_closed && state.records.len() < self.many {
            let waited = self.wake.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if waited.1.timed_out() {
                break;
            }
        }
        state.is_closed
    }

    /// All that was put down; what comes next is put into `spare`, which is empty.
    pub(super) fn take(&self, spare: Vec<u8>) -> Vec<u8> {
        std::mem::replace(&mut self.state().records, spare)
    }

    /// Nothing is put down from now on.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.wake.notify_one();
    }

    /// How many bytes wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.state().records.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
