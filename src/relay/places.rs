//! The connections to hosts that recipients' domains name: so many for all such destinations together (S2), because
//! anybody can name as many domains as they like. A destination that finds none free waits in line, without a task; the
//! one with the message of the highest priority is the first (RFC 6710 §4).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lane::Lane;

/// See the module.
pub(super) struct Places(Mutex<State>);

struct State {
    free: usize,
    /// Each lane once.
    line: BTreeMap<Ticket, Arc<Lane>>,
    /// Tickets so far.
    tickets: u64,
}

/// A place in line: by priority, then in order of arrival.
pub(super) type Ticket = (Reverse<i8>, u64);

impl Places {
    pub(super) fn new(free: usize) -> Self {
        Self(Mutex::new(State { free, line: BTreeMap::new(), tickets: 0 }))
    }

    /// Takes a place, or puts the lane in line unless it `waits` there already with such a `priority`.
    pub(super) fn take(&self, lane: &Arc<Lane>, priority: i8, waits: &mut Option<Ticket>) -> bool {
        let mut state = self.state();
        if state.free > 0 {
            state.free -= 1;
            return true;
        }
        if waits.is_some_and(|(Reverse(known), _)| known >= priority) {
            return false;
        }
        if let Some(lower) = waits.take() {
            state.line.remove(&lower);
        }
        state.tickets += 1;
        let ticket = (Reverse(priority), state.tickets);
        state.line.insert(ticket, lane.clone());
        *waits = Some(ticket);
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
        if state.free == 0 { None } else { state.line.pop_first().map(|(_, lane)| lane) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::dns::{self, Dns, Family};
    use crate::mail::QueueId;
    use crate::queue::{self, Queue};
    use crate::relay::dkim::Signers;
    use crate::relay::lane::{Leg, Share};
    use crate::relay::options::{
        Breaker, Hosts, InDoubt, Matches, Mx, Options, Route, Smtp, Timeouts, Transport,
    };
    use crate::relay::routing::Makeup;
    use crate::relay::smarthost::Smarthost;
    use crate::relay::surroundings::Surroundings;
    use crate::relay::tls::Trust;
    use crate::relay::way::{self, Way};
    use crate::store::Recovered;
    use crate::store::memory::MemoryStore;
    use arc_swap::ArcSwap;

    fn options() -> (Route, Options) {
        let route = Route {
            name: "r".to_owned(),
            matches: Matches::default(),
            transport: Transport::Discard,
            in_doubt: InDoubt::Resend,
            forward_key_as: None,
        };
        let options = Options {
            hostname: "relay.example".to_owned(),
            routes: Vec::new(),
            breaker: Breaker::default(),
            timeouts: Timeouts::default(),
            dkim: Vec::new(),
            own_addresses: Vec::new(),
            sinks: Vec::new(),
        };
        (route, options)
    }

    fn way(
        surroundings: Surroundings,
        transport: impl FnOnce(&Options, &Arc<Dns>, &Surroundings) -> way::Transport,
    ) -> Arc<Way> {
        let signers = Arc::new(ArcSwap::from_pointee(Signers::new(&[]).unwrap()));
        let (route, options) = options();
        let dns = Arc::new(Dns::new(dns::Options::default()));
        let transport = transport(&options, &dns, &surroundings);
        Way::new(Makeup::new(&route, &options, &dns), &signers, transport, surroundings)
    }

    fn lane(name: &str) -> Arc<Lane> {
        let surroundings = Surroundings::new(Clock::manual(Timestamp::from_millis(1)));
        Lane::new(way(surroundings, |_, _, _| way::Transport::Discard), name.into())
    }

    #[tokio::test]
    async fn s2_a_lane_whose_mail_an_order_has_taken_while_it_was_in_line_is_forgotten() {
        let clock = Clock::manual(Timestamp::from_millis(1));
        let mut none = Surroundings::new(clock.clone());
        none.places = Arc::new(Places::new(0));
        let way = way(none, |options, dns, surroundings| {
            let mx =
                Mx { port: 25, allow_private: true, mta_sts: false, mta_sts_port: 443, family: Family::Any };
            let (smtp, trust) = (Smtp::new(Hosts::Mx(mx)), Trust::system(Arc::default()));
            let smarthost = Smarthost::new("r".into(), smtp, options, trust, dns.clone(), surroundings);
            way::Transport::Smarthost(Box::new(smarthost))
        });
        let queue = Queue::new(queue::Options::default(), clock.clone());
        let id = QueueId::new(clock.now());
        let found = Recovered { id, next_attempt: Some(clock.now()), priority: 0, held_back: false };
        queue.start(Arc::new(MemoryStore::new(clock, None)), vec![found]);
        let lease = Arc::new(queue.next(1).await.remove(0));
        way.push("x.example", Leg { lease, share: Share::All });
        assert!(way.surroundings.places.are_wanted() && way.all_lanes().len() == 1);
        way.recall(&HashSet::from([QueueId::new(Timestamp::from_millis(1))]));
        assert_eq!(way.all_lanes().len(), 1);
        way.recall(&HashSet::from([id]));
        assert_eq!(way.all_lanes().len(), 0);
    }

    #[test]
    fn s2_who_finds_no_place_stands_in_line_once_and_leaves_it_when_one_is_free() {
        let places = Places::new(1);
        let (first, second) = (lane("first"), lane("second"));
        let (mut first_waits, mut second_waits) = (None, None);
        assert!(places.take(&first, 0, &mut first_waits) && !places.are_wanted());
        for _ in 0..3 {
            assert!(!places.take(&second, 0, &mut second_waits));
        }
        assert!(second_waits.is_some() && first_waits.is_none() && places.state().line.len() == 1);
        // It has no mail any more, and leaves the place to others.
        places.give_back();
        assert!(!places.are_wanted() && places.take(&first, 0, &mut first_waits));
    }

    #[test]
    fn the_highest_priority_is_first_in_line_and_equals_in_their_order() {
        let places = Places::new(0);
        let lanes = ["low", "first", "second", "urgent"].map(lane);
        let mut waits = [None; 4];
        for (n, priority) in [(0, -4), (1, 0), (2, 0), (3, -9), (3, 6), (3, 0)] {
            assert!(!places.take(&lanes[n], priority, &mut waits[n]));
        }
        places.state().free = 1;
        let next = || places.next().map(|lane| lane.destination().to_owned());
        let order: Vec<_> = std::iter::from_fn(next).collect();
        assert_eq!(order, ["urgent", "first", "second", "low"]);
    }
}
