//! Wall-clock time, passed in wherever it is needed.
//!
//! This is the only file that may ask the system for the time (clippy forbids it elsewhere), so that a test decides
//! what time it is. It must never be used to measure how long something took on the wire: timeouts use tokio's timer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

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

/// Where a module gets the time from.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<AtomicU64>),
    /// Milliseconds at the origin.
    Paced(Instant, Arc<AtomicU64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`] or [`Clock::set`]; clones share it.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(start.0))))
    }

    /// A clock that goes with tokio's timer, also where that is paused, and that [`Clock::set`] sets all the same: what a
    /// simulation gives to the parts on its own thread. Other threads have no such timer.
    pub fn paced(start: Timestamp) -> Self {
        Self(Source::Paced(Instant::now(), Arc::new(AtomicU64::new(start.0))))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => system_now(),
            Source::Manual(millis) => Timestamp(millis.load(Ordering::SeqCst)),
            Source::Paced(origin, millis) => Timestamp(millis.load(Ordering::SeqCst)).plus(origin.elapsed()),
        }
    }

    /// Moves a manual or paced clock on; does nothing to the system's clock.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }

    /// Sets a manual or paced clock, also backwards; does nothing to the system's clock.
    pub fn set(&self, to: Timestamp) {
        match &self.0 {
            Source::System => {}
            Source::Manual(millis) => millis.store(to.0, Ordering::SeqCst),
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
    fn times_print_as_rfc_3339() {
        assert_eq!(Timestamp::from_millis(1_795_343_400_000).to_string(), "2026-11-22T10:30:00Z");
    }
}
