//! Wall-clock time, passed in wherever it is needed.
//!
//! This is the only file that may ask the system for the time (clippy forbids it elsewhere), so that a test decides
//! what time it is. It must never be used to measure how long something took on the wire: timeouts use tokio's timer.
//!
//! A clock may also be set wrong, and put right again. What cannot be undone (keys, messages that expire, history that is
//! deleted) goes by [`Clock::settled`], which does not follow a clock that is set forward before a day has gone by.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A clock that was set forward is believed after this.
const DOUBT: Duration = Duration::from_secs(86_400);
/// By this much a clock may be ahead at once and be believed: it is corrected by seconds all the time, and a machine that
/// slept for a moment has not been set.
const SLACK_MILLIS: u64 = 60_000;

/// A point in time: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest time that can be told; "never" in a schedule.
    pub const MAX: Self = Self(u64::MAX);

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This time moved on by `duration`; stops at [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// How long after `earlier` this is; zero when it is not after it (a clock may be set back).
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, seconds: `2026-11-22T10:30:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = i64::try_from(self.as_secs()).unwrap_or(i64::MAX);
        f.write_str(&mail_parser::DateTime::from_timestamp(secs).to_rfc3339())
    }
}

/// Where a module gets the time from. Clones share it.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
    belief: Arc<Mutex<Belief>>,
}

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<Hands>),
    /// Milliseconds at the origin.
    Paced(Instant, Arc<AtomicU64>),
}

/// Of a manual clock, in milliseconds.
#[derive(Debug)]
struct Hands {
    wall: AtomicU64,
    /// What has gone by, which nobody can set.
    steady: AtomicU64,
}

/// What is believed of a clock.
#[derive(Debug, Default)]
struct Belief {
    /// What it showed, and what the steady clock did at that moment; `None` before the first look.
    at: Option<(u64, u64)>,
    /// Since when, by the steady clock, it has been ahead of what is believed.
    ahead_since: Option<u64>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::new(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`] or [`Clock::set`]; clones share it.
    pub fn manual(start: Timestamp) -> Self {
        Self::new(Source::Manual(Arc::new(Hands { wall: start.0.into(), steady: 0.into() })))
    }

    fn new(source: Source) -> Self {
        let clock = Self { source, belief: Arc::default() };
        // From here on it is noticed when somebody sets it.
        clock.settled();
        clock
    }

    /// A clock that goes with tokio's timer, also where that is paused, and that [`Clock::set`] sets all the same: what a
    /// simulation gives to the parts on its own thread. Other threads have no such timer.
    pub fn paced(start: Timestamp) -> Self {
        Self::new(Source::Paced(Instant::now(), Arc::new(AtomicU64::new(start.0))))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        match &self.source {
            Source::System => system_now(),
            Source::Manual(hands) => Timestamp(hands.wall.load(Ordering::SeqCst)),
            Source::Paced(origin, millis) => Timestamp(millis.load(Ordering::SeqCst)).plus(origin.elapsed()),
        }
    }

    /// The time by which things may be deleted or given up for good. It is the time now, but for a clock that was set
    /// forward by more than a minute: then it goes on as before until the clock has been ahead for a day without a break. A
    /// clock that is set back is followed at once. What it showed when the program started is believed.
    pub fn settled(&self) -> Timestamp {
        let (wall, steady) = (self.now().0, self.steady_millis());
        let mut belief = self.belief.lock().unwrap_or_else(PoisonError::into_inner);
        let believed =
            belief.at.map_or(wall, |(wall, since)| wall.saturating_add(steady.saturating_sub(since)));
        if wall > believed.saturating_add(SLACK_MILLIS) {
            let since = *belief.ahead_since.get_or_insert(steady);
            if Duration::from_millis(steady.saturating_sub(since)) < DOUBT {
                return Timestamp(believed);
            }
        }
        *belief = Belief { at: Some((wall, steady)), ahead_since: None };
        Timestamp(wall)
    }

    /// Milliseconds of a clock that nobody can set.
    fn steady_millis(&self) -> u64 {
        match &self.source {
            Source::System => monotonic_micros() / 1_000,
            Source::Manual(hands) => hands.steady.load(Ordering::SeqCst),
            Source::Paced(origin, _) => u64::try_from(origin.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Lets time go by on a manual clock; does nothing to the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(hands) = &self.source {
            let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            hands.steady.fetch_add(millis, Ordering::SeqCst);
            hands.wall.store(self.now().plus(by).0, Ordering::SeqCst);
        }
    }

    /// Sets a manual or paced clock, also backwards, as an operator would: no time goes by. Does nothing to the system's
    /// clock.
    pub fn set(&self, to: Timestamp) {
        match &self.source {
            Source::System => {}
            Source::Manual(hands) => hands.wall.store(to.0, Ordering::SeqCst),
            Source::Paced(origin, millis) => {
                let at_origin = to.since(Timestamp::default().plus(origin.elapsed()));
                millis.store(Timestamp::default().plus(at_origin).0, Ordering::SeqCst);
            }
        }
    }
}

/// Microseconds of the system's steady clock, for those who compare with it (sd_notify(3), `MONOTONIC_USEC`).
pub fn monotonic_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or_default().saturating_mul(1_000_000).saturating_add(nanos.unwrap_or_default() / 1_000)
}

#[expect(clippy::disallowed_methods, reason = "the one place that asks the system for the time")]
fn system_now() -> Timestamp {
    // A system clock before 1970 reads as 1970: schedules then fire at once, which loses nothing.
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp::from_millis(1_000));
        let other = clock.clone();
        clock.advance(Duration::from_secs(2));
        assert_eq!(other.now(), Timestamp::from_millis(3_000));
        clock.set(Timestamp::from_millis(5));
        assert_eq!(other.now().since(Timestamp::from_millis(9)), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paced_clock_goes_with_the_timer_and_can_be_set() {
        let clock = Clock::paced(Timestamp::from_millis(10_000));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(clock.now(), Timestamp::from_millis(12_000));
        clock.set(Timestamp::from_millis(5_000));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.clone().now(), Timestamp::from_millis(6_000));
    }

    #[test]
    fn a_clock_that_is_set_forward_is_not_believed_for_a_day() {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000_000));
        let (start, day) = (clock.now(), DOUBT);
        clock.set(start.plus(day));
        assert_eq!(clock.settled(), start);
        clock.advance(day - Duration::from_millis(1));
        assert_eq!(
            (clock.settled(), clock.now()),
            (Timestamp(clock.now().0 - 86_400_000), Timestamp(start.0 + 2 * 86_400_000 - 1))
        );
        clock.advance(Duration::from_millis(1));
        assert_eq!(clock.settled(), clock.now());
        // Put right in between, it begins anew.
        let start = clock.now();
        clock.set(start.plus(day));
        assert_eq!(clock.settled(), start);
        clock.set(start);
        clock.advance(day);
        assert_eq!(clock.settled(), start.plus(day));
        clock.set(start.plus(3 * day));
        assert_eq!(clock.settled(), start.plus(day));
    }

    #[test]
    fn a_clock_that_is_set_back_is_followed_at_once_and_one_that_is_put_right_is_waited_for() {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000_000));
        let start = clock.now();
        let wrong = Timestamp::from_millis(1_000_000_000 - 86_400_000);
        clock.set(wrong);
        assert_eq!(clock.settled(), wrong);
        clock.set(start);
        assert_eq!(clock.settled(), wrong);
        clock.advance(DOUBT);
        assert_eq!(clock.settled(), start.plus(DOUBT));
        // Small corrections are followed both ways.
        clock.set(clock.now().plus(Duration::from_secs(50)));
        assert_eq!(clock.settled(), clock.now());
    }

    #[test]
    fn times_print_as_rfc_3339() {
        assert_eq!(Timestamp::from_millis(1_795_343_400_000).to_string(), "2026-11-22T10:30:00Z");
    }
}
