//! Whether more messages come than can be made durable in good time, and what to do about it: the next ones are refused
//! early, at the greeting or at MAIL, so that those that are accepted are answered nearly as fast as ever.
//!
//! What is measured is the wait between the final dot and its decision, in which every bottleneck shows: disk, commits and
//! processor. The rule is TCP's. So many messages may be waiting at a time; while they wait longer than they should, fewer
//! may; while they do not and there are as many, more may. A few always may, so that a disk that is merely slow refuses
//! nobody. It must never refuse when nobody waits, and it loses nothing: a client that is refused has been told to retry.
//!
//! Refusing takes more than a third of what accepting takes of a processor. So a client that comes again at once with its next
//! message, as a pool of connections makes applications do, is asked to wait for a moment ([`Rebuffed`]) instead of being
//! refused once more: otherwise saying no to everybody would be what those wait for who are in.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many messages may always wait: what shares one or two commits is no crowd, and clients that wait for one reply
/// before they send the next message, as nearly all do, are never refused when there are no more of them than this.
const FEWEST: usize = 128;
/// So many at first: a burst that comes to an idle relay had better be taken, and what nobody has measured yet not be trusted
/// with more than that.
const FIRST: usize = 512;
/// And never more than this.
const MOST: usize = 2_048;
/// A wait is too long beyond this and [`COMMITS`] commits. What a client feels is about twice that: it is measured from
/// when the final dot is found, and on a processor that is taken that is found as late as its decision is.
const TARGET: Duration = Duration::from_millis(20);
/// A message that comes waits for the commit that is under way and for its own.
const COMMITS: u32 = 2;
/// A larger message takes its time by itself.
const MEASURED_OCTETS: usize = 64 * 1024;
/// Between two refusals of one connection.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pressure(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Messages between the final dot and their decision.
    deciding: AtomicUsize,
    /// So many of them may be.
    most: AtomicUsize,
    pace: Mutex<Pace>,
}

#[derive(Debug, Default)]
struct Pace {
    /// Messages decided in good time since `most` was last raised.
    in_time: usize,
    /// Waits that began before have been answered for.
    cut_at: Option<Instant>,
}

/// When a connection was last told that too many wait.
#[derive(Debug, Default)]
pub(super) struct Rebuffed(Option<Instant>);

/// A message that waits for its decision.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    pressure: &'a Pressure,
    began: Instant,
    is_measured: bool,
}

impl Default for Inner {
    fn default() -> Self {
        Self { deciding: 0.into(), most: FIRST.into(), pace: Mutex::default() }
    }
}

impl Pressure {
    /// Whether another message, or another client, had better come later.
    pub(super) fn is_too_high(&self) -> bool {
        self.0.deciding.load(Ordering::Relaxed) >= self.0.most.load(Ordering::Relaxed)
    }

    /// Counts a message of so many octets at its final dot. `None`: of those that were let in at the same moment too many
    /// have come; this one is refused after all.
    pub(super) fn enter(&self, octets: usize) -> Option<Waiting<'_>> {
        let most = self.0.most.load(Ordering::Relaxed).saturating_mul(2);
        let enter = |deciding: usize| (deciding < most).then_some(deciding + 1);
        self.0.deciding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok()?;
        let is_measured = octets <= MEASURED_OCTETS;
        Some(Waiting { pressure: self, began: Instant::now(), is_measured })
    }

    /// Takes note of how long a message waited that came at `began`; `commit`: how long commits take.
    fn learn(&self, began: Instant, now: Instant, commit: Duration) {
        let is_late = now.duration_since(began) > TARGET + commit * COMMITS;
        let mut pace = self.0.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.0.most.load(Ordering::Relaxed);
        let next = if is_late {
            // Those that came before the last cut know nothing of it.
            if pace.cut_at.is_some_and(|at| began < at) {
                return;
            }
            *pace = Pace { in_time: 0, cut_at: Some(now) };
            let deciding = self.0.deciding.load(Ordering::Relaxed);
            most.min(deciding.saturating_mul(2)) * 3 / 4
        } else {
            pace.in_time += 1;
            // Nobody needs more as long as half of it is free.
            let is_needed = self.0.deciding.load(Ordering::Relaxed) * 2 >= most;
            if !is_needed || pace.in_time < most / 8 {
                return;
            }
            pace.in_time = 0;
            most + 1
        };
        self.0.most.store(next.clamp(FEWEST, MOST), Ordering::Relaxed);
    }
}

impl Rebuffed {
    /// It is told now.
    pub(super) fn note(&mut self) {
        self.0 = Some(Instant::now());
    }

    /// Until when it had better not be told again, if that is not over.
    pub(super) fn pause(&self) -> Option<Instant> {
        self.0.map(|at| at + PAUSE).filter(|end| *end > Instant::now())
    }
}

impl Waiting<'_> {
    /// It has been decided about; `commit`: how long commits take at present.
    pub(super) fn decided(self, commit: Duration) {
        if self.is_measured {
            self.pressure.learn(self.began, Instant::now(), commit);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pressure.0.deciding.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(1);

    fn most(pressure: &Pressure) -> usize {
        pressure.0.most.load(Ordering::Relaxed)
    }

    /// A crowd that comes at `began`, as many as may, and waits for so long; when it has been decided about.
    fn crowd(pressure: &Pressure, most: usize, began: Instant, wait: Duration, commit: Duration) -> Instant {
        let crowd: Vec<_> = (0..most).map_while(|_| pressure.enter(1_000)).collect();
        for waiting in crowd {
            pressure.learn(began, began + wait, commit);
            drop(waiting);
        }
        began + wait
    }

    #[test]
    fn s2_messages_that_wait_too_long_let_fewer_in_and_those_that_do_not_let_more_in() {
        let (pressure, mut now) = (Pressure::default(), Instant::now());
        for _ in 0..20 {
            now = crowd(&pressure, 100, now, TARGET + QUICK * COMMITS + QUICK, QUICK);
        }
        assert_eq!(most(&pressure), FEWEST);
        let waiting: Vec<_> = (0..FEWEST).map_while(|_| pressure.enter(1_000)).collect();
        assert!(pressure.is_too_high());
        // What had been let in already may come, and no more than that.
        let late: Vec<_> = (0..2 * FEWEST).map_while(|_| pressure.enter(1_000)).collect();
        assert_eq!(late.len(), FEWEST);
        drop((waiting, late));
        assert!(!pressure.is_too_high(), "nobody waits");
        for _ in 0..200 {
            now = crowd(&pressure, most(&pressure), now, TARGET, QUICK);
        }
        assert!(most(&pressure) > 300, "{}", most(&pressure));
    }

    #[test]
    fn one_crowd_that_waited_is_one_reason_to_let_fewer_in() {
        let (pressure, now) = (Pressure::default(), Instant::now());
        crowd(&pressure, 400, now, TARGET * 2, QUICK);
        assert_eq!(most(&pressure), FIRST * 3 / 4);
    }

    #[test]
    fn a_slow_disk_and_a_large_message_refuse_nobody() {
        let (pressure, mut now) = (Pressure::default(), Instant::now());
        let slow = Duration::from_millis(200);
        for _ in 0..20 {
            now = crowd(&pressure, 50, now, 2 * slow, slow);
        }
        assert_eq!(most(&pressure), FIRST);
        assert!(!pressure.enter(MEASURED_OCTETS + 1).unwrap().is_measured);
    }
}
