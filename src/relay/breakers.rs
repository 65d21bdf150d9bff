//! The breakers of one route's hosts, shared by all its lanes.
//!
//! A host without failures has no entry here, so that a route to the hosts of many domains remembers only the bad ones
//! (S2). Every change of state is one line in the log, and counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Admission, Breaker, Phase, Transition};
use super::counters::Counters;
use super::options::{self, Host};
use crate::clock::Clock;

/// How long to wait when all probes of a half-open breaker are out.
const PROBES_OUT_WAIT: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Breakers {
    route: String,
    options: options::Breaker,
    clock: Clock,
    counters: Arc<Counters>,
    of: Mutex<HashMap<Host, Breaker>>,
}

/// The right to ask a host once. Dropped without a word it tells the breaker nothing.
pub(super) struct Permit<'a> {
    breakers: &'a Breakers,
    host: Host,
    admission: Admission,
    begun: Instant,
    told: bool,
}

impl Breakers {
    pub(super) fn new(
        route: String,
        options: options::Breaker,
        clock: Clock,
        counters: Arc<Counters>,
    ) -> Self {
        Self { route, options, clock, counters, of: Mutex::default() }
    }

    /// Asks to try a host once.
    ///
    /// # Errors
    /// When to ask again.
    pub(super) fn admit(&self, host: &Host) -> Result<Permit<'_>, Instant> {
        let now = Instant::now();
        let mut known = self.known();
        let (admission, changed) = match known.get_mut(host) {
            Some(breaker) => breaker.admit(now),
            None => (Admission::Pass, None),
        };
        drop(known);
        self.tell(host, changed, "its time is up");
        match admission {
            Admission::Refused(until) => Err(until.unwrap_or(now + PROBES_OUT_WAIT)),
            admission => {
                Ok(Permit { breakers: self, host: host.clone(), admission, begun: now, told: false })
            }
        }
    }

    /// When a host may be asked again, if it may not be asked now. Changes nothing.
    pub(super) fn blocked_until(&self, host: &Host) -> Option<Instant> {
        let now = Instant::now();
        let refusal = self.known().get(host).map(|breaker| breaker.peek(now));
        match refusal {
            Some(Admission::Refused(until)) => Some(until.unwrap_or(now + PROBES_OUT_WAIT)),
            _ => None,
        }
    }

    /// The state of a host's breaker, and until when it stays as it is.
    pub(super) fn state(&self, host: &Host) -> (Phase, Option<Instant>) {
        self.known().get(host).map_or((Phase::Closed, None), Breaker::phase)
    }

    /// How many are not closed.
    pub(super) fn not_closed(&self) -> usize {
        self.known().values().filter(|breaker| breaker.phase().0 != Phase::Closed).count()
    }

    /// Forgets what is known of the hosts that `which` names, on an operator's word; gives back how many of their breakers
    /// were not closed.
    pub(super) fn reset(&self, which: impl Fn(&Host) -> bool) -> usize {
        let mut opened = Vec::new();
        self.known().retain(|host, breaker| {
            if which(host) && breaker.phase().0 != Phase::Closed {
                opened.push(host.clone());
            }
            !which(host)
        });
        opened.iter().for_each(|host| self.tell(host, Some(Transition::Closed), "an operator said so"));
        opened.len()
    }

    /// How many hosts are left alone now, and how many are probed or wait for a message to be probed with.
    pub(super) fn open(&self) -> (usize, usize) {
        let now = Instant::now();
        let known = self.known();
        let states = known.values().map(|breaker| match breaker.peek(now) {
            Admission::Pass => (0, 0),
            Admission::Refused(Some(_)) => (1, 0),
            Admission::Probe(_) | Admission::Refused(None) => (0, 1),
        });
        states.fold((0, 0), |(open, half), (more, more_half)| (open + more, half + more_half))
    }

    /// Forgets the hosts of which nothing bad is known any more.
    pub(super) fn sweep(&self) {
        self.sweep_at(Instant::now());
    }

    fn sweep_at(&self, now: Instant) {
        let mut known = self.known();
        known.retain(|_, breaker| breaker.remembers(now));
        known.shrink_to_fit();
    }

    fn tell(&self, host: &Host, changed: Option<Transition>, reason: &str) {
        let Some(changed) = changed else { return };
        self.counters.breaker(changed);
        let route = &self.route;
        match changed {
            Transition::Opened => {
                let until = self.clock.now().plus(self.options.open_for);
                tracing::warn!(target: "oncemail::relay", %route, %host, reason, %until,
                    "breaker opened: the host is left alone for a while");
            }
            Transition::HalfOpened => {
                tracing::info!(target: "oncemail::relay", %route, %host, reason,
                    "breaker half-open: the host is probed");
            }
            Transition::Closed => {
                tracing::info!(target: "oncemail::relay", %route, %host, reason,
                    "breaker closed: the host works again");
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Host, Breaker>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The host has answered as it should.
    pub(super) fn worked(mut self) {
        self.told = true;
        let mut known = self.breakers.known();
        let Some(breaker) = known.get_mut(&self.host) else { return };
        let changed = breaker.succeeded(self.admission);
        if !breaker.remembers(Instant::now()) {
            known.remove(&self.host);
        }
        drop(known);
        self.breakers.tell(&self.host, changed, "its probes went well");
    }

    /// The host could not be used, or would not talk to us.
    pub(super) fn failed(mut self, reason: &str) {
        self.told = true;
        let mut known = self.breakers.known();
        let options = self.breakers.options;
        let breaker = known.entry(self.host.clone()).or_insert_with(|| Breaker::new(options));
        let changed = breaker.failed(self.admission, self.begun, Instant::now());
        drop(known);
        self.breakers.tell(&self.host, changed, reason);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.told
            && let Some(breaker) = self.breakers.known().get_mut(&self.host)
        {
            breaker.abandoned(self.admission);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn host(name: &str) -> Host {
        Host { name: name.to_owned(), port: 25 }
    }

    fn breakers(open_for: Duration, counters: &Arc<Counters>) -> Breakers {
        let options = options::Breaker { failures: 2, successes: 1, open_for, ..options::Breaker::default() };
        let clock = Clock::manual(Timestamp::from_millis(1));
        Breakers::new("r".to_owned(), options, clock, counters.clone())
    }

    fn fail(breakers: &Breakers, name: &str) {
        if let Ok(permit) = breakers.admit(&host(name)) {
            permit.failed("no");
        }
    }

    #[test]
    fn hosts_open_one_by_one() {
        let breakers = breakers(Duration::from_secs(60), &Arc::default());
        (0..2).for_each(|_| fail(&breakers, "bad"));
        assert!(breakers.admit(&host("bad")).is_err() && breakers.admit(&host("good")).is_ok());
        assert!(breakers.blocked_until(&host("bad")).is_some());
        assert_eq!(breakers.blocked_until(&host("good")), None);
    }

    #[test]
    fn every_change_is_counted_and_a_look_changes_nothing() {
        let counters = Arc::<Counters>::default();
        let breakers = breakers(Duration::ZERO, &counters);
        (0..2).for_each(|_| fail(&breakers, "bad"));
        assert_eq!(breakers.blocked_until(&host("bad")), None);
        assert_eq!(counters.counts().breaker_half_opened, 0);
        breakers.admit(&host("bad")).ok().unwrap().worked();
        let counts = counters.counts();
        assert_eq!((counts.breaker_opened, counts.breaker_half_opened, counts.breaker_closed), (1, 1, 1));
        assert!(breakers.known().is_empty());
    }

    #[test]
    fn s2_only_hosts_that_failed_lately_are_remembered() {
        let breakers = breakers(Duration::from_secs(60), &Arc::default());
        for n in 0..1_000 {
            if let Ok(permit) = breakers.admit(&host(&n.to_string())) {
                permit.worked();
            }
        }
        assert!(breakers.known().is_empty());
        fail(&breakers, "once");
        (0..2).for_each(|_| fail(&breakers, "open"));
        let now = Instant::now();
        for (later, left) in [(0, 2), (61, 1), (3_600, 0)] {
            breakers.sweep_at(now + Duration::from_secs(later));
            assert_eq!(breakers.known().len(), left, "after {later} s");
        }
    }
}
