//! The breaker against its rules written down once more, as a table of what each event does in each state.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Event {
    Wait(u64),
    Ask,
    /// The attempt with this number, of those that are out, ends.
    End(usize, How),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum How {
    Well,
    Badly,
    Unsaid,
}

/// Times are in seconds from the start.
#[derive(Debug)]
enum Table {
    /// How long ago each failure was, leaving out the time in which nothing but vain attempts was going on.
    Closed {
        ages: Vec<u64>,
        last_at: u64,
        has_worked: bool,
    },
    Open {
        until: u64,
    },
    /// `out` of the probes of this round have not ended.
    HalfOpen {
        round: u32,
        out: u32,
        well: u32,
    },
}

struct Model {
    options: Options,
    table: Table,
    rounds: u32,
}

/// An attempt that is out.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    admission: Admission,
    begun: u64,
    /// The round that it probes.
    round: Option<u32>,
}

impl Model {
    fn closed() -> Table {
        Table::Closed { ages: Vec::new(), last_at: 0, has_worked: false }
    }

    /// `Ok` with the round for a probe; `Err` when it is refused, with the time if it is known.
    fn ask(&mut self, now: u64) -> Result<Option<u32>, Option<u64>> {
        match &mut self.table {
            Table::Closed { .. } => Ok(None),
            Table::Open { until } if now < *until => Err(Some(*until)),
            Table::Open { .. } => {
                self.rounds += 1;
                self.table = Table::HalfOpen { round: self.rounds, out: 1, well: 0 };
                Ok(Some(self.rounds))
            }
            Table::HalfOpen { out, .. } if *out >= self.options.probes => Err(None),
            Table::HalfOpen { round, out, .. } => {
                *out += 1;
                Ok(Some(*round))
            }
        }
    }

    fn end(&mut self, attempt: Attempt, how: How, now: u64) -> Option<Transition> {
        let is_of = |round: u32| attempt.round == Some(round);
        let open = Table::Open { until: now + self.options.open_for.as_secs() };
        match (&mut self.table, how) {
            (Table::HalfOpen { round, .. }, _) if !is_of(*round) => None,
            (Table::HalfOpen { out, well, .. }, How::Well) => {
                (*out, *well) = (*out - 1, *well + 1);
                (*well == self.options.successes).then(|| {
                    self.table = Self::closed();
                    Transition::Closed
                })
            }
            (Table::HalfOpen { out, .. }, How::Unsaid) => {
                *out -= 1;
                None
            }
            (Table::HalfOpen { .. }, How::Badly) => {
                self.table = open;
                Some(Transition::Opened)
            }
            (Table::Closed { has_worked, .. }, How::Well) => {
                *has_worked = true;
                None
            }
            (Table::Closed { ages, last_at, has_worked }, How::Badly) => {
                let until = if *has_worked { now } else { attempt.begun.max(*last_at) };
                let window = self.options.window.as_secs();
                ages.iter_mut().for_each(|age| *age += until - *last_at);
                ages.retain(|age| *age < window);
                ages.push(0);
                (*last_at, *has_worked) = (now, false);
                (ages.len() >= self.options.failures as usize).then(|| {
                    self.table = open;
                    Transition::Opened
                })
            }
            (Table::Open { .. }, _) | (Table::Closed { .. }, How::Unsaid) => None,
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let how = prop_oneof![3 => Just(How::Badly), 2 => Just(How::Well), 1 => Just(How::Unsaid)];
    prop_oneof![
        2 => prop_oneof![0..20u64, 50..70u64, Just(100_000)].prop_map(Event::Wait),
        4 => Just(Event::Ask),
        4 => (any::<usize>(), how).prop_map(|(n, how)| Event::End(n, how)),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    (1..6u32, 1..90u64, 1..90u64, 1..4u32, 1..5u32).prop_map(|(failures, window, open, probes, successes)| {
        let (window, open_for) = (Duration::from_secs(window), Duration::from_secs(open));
        Options { failures, window, open_for, probes, successes }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_table_says(options in options(), events in prop::collection::vec(event(), 0..80)) {
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let (mut breaker, mut now) = (Breaker::new(options), 0);
        let mut model = Model { options, table: Model::closed(), rounds: 0 };
        let mut out: Vec<Attempt> = Vec::new();
        for event in events {
            match event {
                // Rounds that begin at the same moment could not be told apart; a breaker is open for a while.
                Event::Wait(secs) => now += secs,
                Event::Ask => {
                    let peeked = breaker.peek(at(now));
                    let (admission, _) = breaker.admit(at(now));
                    prop_assert_eq!(peeked, admission, "a look says something else");
                    match (admission, model.ask(now)) {
                        (Admission::Pass, Ok(round @ None)) | (Admission::Probe(_), Ok(round @ Some(_))) => {
                            out.push(Attempt { admission, begun: now, round });
                        }
                        (Admission::Refused(until), Err(expected)) => {
                            prop_assert_eq!(until, expected.map(at));
                        }
                        (said, expected) => prop_assert!(false, "{said:?} instead of {expected:?}"),
                    }
                }
                Event::End(n, how) => {
                    if out.is_empty() {
                        continue;
                    }
                    let attempt = out.remove(n % out.len());
                    let changed = match how {
                        How::Well => breaker.succeeded(attempt.admission),
                        How::Badly => breaker.failed(attempt.admission, at(attempt.begun), at(now)),
                        How::Unsaid => {
                            breaker.abandoned(attempt.admission);
                            None
                        }
                    };
                    prop_assert_eq!(changed, model.end(attempt, how, now));
                }
            }
            let phase = match &model.table {
                Table::Closed { .. } => (Phase::Closed, None),
                Table::Open { until } => (Phase::Open, Some(at(*until))),
                Table::HalfOpen { .. } => (Phase::HalfOpen, None),
            };
            prop_assert_eq!(breaker.phase(), phase);
            // As many as are said, and not one that is left over from an earlier round.
            if let Table::HalfOpen { round, .. } = model.table {
                let probes = out.iter().filter(|attempt| attempt.round == Some(round)).count();
                prop_assert!(probes <= options.probes as usize, "{probes} probes are out");
            }
        }
    }
}

#[test]
fn a_probe_that_outlives_its_round_says_nothing_about_the_next() {
    let options = Options { failures: 1, probes: 2, successes: 2, ..Options::default() };
    let (mut breaker, start) = (Breaker::new(options), Instant::now());
    assert_eq!(breaker.failed(Admission::Pass, start, start), Some(Transition::Opened));
    let first = start + options.open_for;
    let (slow, quick) = (breaker.admit(first).0, breaker.admit(first).0);
    assert_eq!(breaker.failed(quick, first, first), Some(Transition::Opened));
    let second = first + options.open_for;
    let _probes = [breaker.admit(second).0, breaker.admit(second).0];
    breaker.abandoned(slow);
    assert_eq!(breaker.admit(second).0, Admission::Refused(None), "a third probe beside two");
    assert_eq!(breaker.failed(slow, first, second), None, "its failure is an old one");
}
