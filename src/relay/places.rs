//! The connections to hosts that recipients' domains name: so many for all such destinations together (S2), because
//! anybody can name as many domains as they like. A destination that finds none free waits in line, without a task.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lane::Lane;

/// See the module.
pub(super) struct Places(Mutex<State>);

struct State {
    free: usize,
    /// Each lane once.
    line: VecDeque<Arc<Lane>>,
}

impl Places {
    pub(super) fn new(free: usize) -> Self {
        Self(Mutex::new(State { free, line: VecDeque::new() }))
    }

    /// Takes a place, or puts the lane in line unless it `waits` there already.
    pub(super) fn take(&self, lane: &Arc<Lane>, waits: &mut bool) -> bool {
        let mut state = self.state();
        if state.free > 0 {
            state.free -= 1;
            return true;
        }
        if !std::mem::replace(waits, true) {
            state.line.push_back(lane.clone());
        }
        false
    }

    /// Gives a place back, and tells those in line.
    pub(super) fn give_back(&self) {
        self.state().free += 1;
        // One that has no use for a place any more leaves it to the next.
        while let Some(lane) = self.next() {
            lane.place_is_free();
        }
    }

    /// Whether anybody waits.
    pub(super) fn are_wanted(&self) -> bool {
        !self.state().line.is_empty()
    }

    /// Lets go of all that wait, at the end.
    pub(super) fn close(&self) {
        let line = std::mem::take(&mut self.state().line);
        drop(line);
    }

    fn next(&self) -> Option<Arc<Lane>> {
        let mut state = self.state();
        if state.free == 0 { None } else { state.line.pop_front() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::relay::dkim::Signers;
    use crate::relay::options::{InDoubt, Matches, Route, Transport};
    use crate::relay::surroundings::Surroundings;
    use crate::relay::way::{self, Way};

    fn lane(name: &str) -> Arc<Lane> {
        let route = Route {
            name: "r".to_owned(),
            matches: Matches::default(),
            transport: Transport::Discard,
            in_doubt: InDoubt::Resend,
            forward_key_as: None,
        };
        let signers = Arc::new(Signers::new(&[]).unwrap());
        let surroundings = Surroundings::new(Clock::manual(Timestamp::from_millis(1)));
        Lane::new(Way::new(&route, &signers, way::Transport::Discard, surroundings), name.into())
    }

    #[test]
    fn s2_who_finds_no_place_stands_in_line_once_and_leaves_it_when_one_is_free() {
        let places = Places::new(1);
        let (first, second) = (lane("first"), lane("second"));
        let (mut first_waits, mut second_waits) = (false, false);
        assert!(places.take(&first, &mut first_waits) && !places.are_wanted());
        for _ in 0..3 {
            assert!(!places.take(&second, &mut second_waits));
        }
        assert!(second_waits && !first_waits && places.state().line.len() == 1);
        // It has no mail any more, and leaves the place to others.
        places.give_back();
        assert!(!places.are_wanted() && places.take(&first, &mut first_waits));
    }
}
