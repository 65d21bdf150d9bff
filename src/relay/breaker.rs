//! A circuit breaker: after some failures in a row of time a destination is left alone for a while, then probed.
//!
//! Pure: it is told the time. An open breaker must cost no message an attempt, so it is asked before anything of a
//! message is counted.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::options::Breaker as Options;

/// A host that nobody has wanted for this long since its breaker could have been probed is taken for a new one; no attempt
/// to be told of takes longer.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The state of one destination.
#[derive(Debug)]
pub(super) struct Breaker {
    options: Options,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Everything passes.
    Closed(Recent),
    /// Nothing passes.
    Open { until: Instant },
    /// A few probes pass.
    HalfOpen { since: Instant, probing: u32, successes: u32 },
}

/// The failures within the window, which moves on only while nobody is being tried in vain: a host that says nothing
/// at all takes half a minute or more for each failure, and no window would ever see enough of them.
#[derive(Debug, Default)]
struct Recent {
    failures: VecDeque<Instant>,
    /// It has worked since the last failure.
    has_worked: bool,
    /// When it was asked last, if nothing good has come of it yet.
    asked_at: Option<Instant>,
}

/// Whether an attempt may be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// Yes.
    Pass,
    /// Yes, as a probe of the round that began then: its end has to be told. One that outlives its round, because a
    /// failure beside it has opened the breaker again, says nothing about the next, and takes up no place in it.
    Probe(Instant),
    /// No; `None` while the probes are out.
    Refused(Option<Instant>),
}

/// What a breaker does, for whoever looks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Everything passes.
    Closed,
    /// A few probes pass.
    HalfOpen,
    /// Nothing passes.
    Open,
}

/// A change of state that is worth a line in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transition {
    /// Attempts stop.
    Opened,
    /// Probes are let through.
    HalfOpened,
    /// Attempts go on.
    Closed,
}

impl Breaker {
    /// A closed one.
    pub(super) fn new(options: Options) -> Self {
        Self { options, state: State::Closed(Recent::default()) }
    }

    /// Asks for one attempt.
    pub(super) fn admit(&mut self, now: Instant) -> (Admission, Option<Transition>) {
        let admission = self.peek(now);
        let changed = match &mut self.state {
            State::Closed(recent) => {
                recent.asked_at = Some(now);
                None
            }
            State::Open { .. } if matches!(admission, Admission::Probe(_)) => {
                self.state = State::HalfOpen { since: now, probing: 1, successes: 0 };
                Some(Transition::HalfOpened)
            }
            State::HalfOpen { probing, .. } if matches!(admission, Admission::Probe(_)) => {
                *probing += 1;
                None
            }
            _ => None,
        };
        (admission, changed)
    }

    /// What [`Breaker::admit`] would say; changes nothing.
    pub(super) fn peek(&self, now: Instant) -> Admission {
        match &self.state {
            State::Closed(_) => Admission::Pass,
            State::Open { until } if now < *until => Admission::Refused(Some(*until)),
            State::Open { .. } => Admission::Probe(now),
            State::HalfOpen { since, probing, .. } if *probing < self.options.probes => {
                Admission::Probe(*since)
            }
            State::HalfOpen { .. } => Admission::Refused(None),
        }
    }

    /// What it does, and until when nothing passes.
    pub(super) fn phase(&self) -> (Phase, Option<Instant>) {
        match &self.state {
            State::Closed(_) => (Phase::Closed, None),
            State::HalfOpen { .. } => (Phase::HalfOpen, None),
            State::Open { until } => (Phase::Open, Some(*until)),
        }
    }

    /// Whether it differs from a new one in anything that still matters.
    pub(super) fn remembers(&self, now: Instant) -> bool {
        let is_recent = |at: Instant, within| now.saturating_duration_since(at) < within;
        match &self.state {
            State::Closed(Recent { failures, asked_at, .. }) => {
                failures.back().is_some_and(|last| is_recent(*last, self.options.window))
                    || asked_at.is_some_and(|at| is_recent(at, FORGOTTEN_AFTER))
            }
            State::Open { until } => is_recent(*until, FORGOTTEN_AFTER),
            State::HalfOpen { since, probing, .. } => *probing > 0 || is_recent(*since, FORGOTTEN_AFTER),
        }
    }

    /// The destination has answered as it should.
    pub(super) fn succeeded(&mut self, admission: Admission) -> Option<Transition> {
        let (since, probing, successes) = match &mut self.state {
            State::HalfOpen { since, probing, successes } => (*since, probing, successes),
            State::Closed(recent) => {
                (recent.has_worked, recent.asked_at) = (true, None);
                return None;
            }
            State::Open { .. } => return None,
        };
        if admission != Admission::Probe(since) {
            return None;
        }
        *probing = probing.saturating_sub(1);
        *successes += 1;
        if *successes < self.options.successes {
            return None;
        }
        self.state = State::Closed(Recent::default());
        Some(Transition::Closed)
    }

    /// The destination could not be used, or would not talk to us, in an attempt that began at `begun`.
    pub(super) fn failed(
        &mut self,
        admission: Admission,
        begun: Instant,
        now: Instant,
    ) -> Option<Transition> {
        let opens = match &mut self.state {
            State::Open { .. } => false,
            // What was admitted before the breaker opened says nothing about now.
            State::HalfOpen { since, .. } => admission == Admission::Probe(*since),
            State::Closed(recent) => recent.failed(begun, now, &self.options),
        };
        opens.then(|| {
            self.state = State::Open { until: now + self.options.open_for };
            Transition::Opened
        })
    }

    /// The attempt ended without saying anything about the destination.
    pub(super) fn abandoned(&mut self, admission: Admission) {
        if let State::HalfOpen { since, probing, .. } = &mut self.state
            && admission == Admission::Probe(*since)
        {
            *probing = probing.saturating_sub(1);
        }
    }
}

impl Recent {
    /// Whether it was one too many.
    fn failed(&mut self, begun: Instant, now: Instant, options: &Options) -> bool {
        let failures = &mut self.failures;
        if let Some(last) = failures.back().copied().filter(|_| !self.has_worked) {
            let tried_for = now.saturating_duration_since(begun.max(last));
            failures.iter_mut().for_each(|at| *at += tried_for);
        }
        self.has_worked = false;
        while failures.front().is_some_and(|at| now.saturating_duration_since(*at) >= options.window) {
            failures.pop_front();
        }
        failures.push_back(now);
        failures.len() >= usize::try_from(options.failures).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(Options::default());
        for n in 1..=5 {
            let expected = (n == 5).then_some(Transition::Opened);
            assert_eq!(breaker.failed(Admission::Pass, now, now), expected);
        }
        breaker
    }

    #[test]
    fn five_failures_within_the_window_open_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.admit(now + 59 * SECOND).0, Admission::Refused(Some(now + 60 * SECOND)));
        assert_eq!(
            breaker.admit(now + 60 * SECOND),
            (Admission::Probe(now + 60 * SECOND), Some(Transition::HalfOpened))
        );
    }

    #[test]
    fn failures_that_are_far_apart_do_not_open_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(Options::default());
        for n in 0..50 {
            assert_eq!(breaker.failed(Admission::Pass, now + n * 15 * SECOND, now + n * 15 * SECOND), None);
            assert_eq!(breaker.admit(now + n * 15 * SECOND).0, Admission::Pass);
        }
    }

    #[test]
    fn a_host_that_says_nothing_opens_it_however_long_each_failure_takes() {
        let start = Instant::now();
        for took in [30, 120, 590] {
            let mut breaker = Breaker::new(Options::default());
            let mut now = start;
            for n in 1..=5 {
                assert_eq!(breaker.admit(now).0, Admission::Pass);
                let begun = now;
                now += took * SECOND;
                // Between two looks for what can be forgotten.
                assert!(n == 1 || breaker.remembers(now), "{took} s");
                let expected = (n == 5).then_some(Transition::Opened);
                assert_eq!(breaker.failed(Admission::Pass, begun, now), expected, "{took} s, {n}");
            }
        }
    }

    #[test]
    fn a_few_slow_failures_among_successes_do_not_open_it() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(Options::default());
        for _ in 0..50 {
            assert_eq!(breaker.failed(Admission::Pass, now, now + 30 * SECOND), None);
            now += 30 * SECOND;
            assert_eq!(breaker.succeeded(Admission::Pass), None);
        }
    }

    #[test]
    fn two_good_probes_close_it_and_only_three_are_out_at_a_time() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + 60 * SECOND;
        let admissions = [0; 4].map(|_| breaker.admit(later).0);
        assert_eq!(admissions[..3], [Admission::Probe(later); 3]);
        assert_eq!(admissions[3], Admission::Refused(None));
        breaker.abandoned(Admission::Probe(later));
        assert_eq!(breaker.admit(later).0, Admission::Probe(later));
        assert_eq!(breaker.succeeded(Admission::Probe(later)), None);
        assert_eq!(breaker.succeeded(Admission::Pass), None);
        assert_eq!(breaker.succeeded(Admission::Probe(later)), Some(Transition::Closed));
        assert_eq!(breaker.admit(later).0, Admission::Pass);
    }

    #[test]
    fn a_bad_probe_opens_it_again() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + 61 * SECOND;
        assert_eq!(breaker.admit(later).0, Admission::Probe(later));
        assert_eq!(breaker.failed(Admission::Pass, later, later), None);
        assert_eq!(breaker.failed(Admission::Probe(later), later, later), Some(Transition::Opened));
        assert_eq!(breaker.admit(later + 59 * SECOND).0, Admission::Refused(Some(later + 60 * SECOND)));
    }
}
