//! How long something takes: a histogram that is written without a lock and can be read back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, seconds. From what a fast disk needs for a sync to what a slow far side needs for a
/// message; percentiles between two of them are guesses.
const BOUNDS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0, 600.0, 3600.0,
];

/// See the module. Two atomic adds for each observation.
#[derive(Debug, Default)]
pub struct Latency {
    /// One for each bound; the last takes what lies beyond all of them.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Latency {
    /// Takes note of one.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Upper bounds in seconds, and how many were at most that. What took longer than the longest bound is counted with
    /// it, so that the last count is that of all.
    pub fn snapshot(&self) -> Vec<(f64, u64)> {
        let mut counts = self.counts();
        let beyond = counts.pop().unwrap_or_default();
        if let Some(last) = counts.last_mut() {
            *last += beyond;
        }
        let mut so_far = 0;
        let cumulative = counts.into_iter().map(|count| {
            so_far += count;
            so_far
        });
        BOUNDS.into_iter().zip(cumulative).collect()
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// For the text: each bucket alone with its upper bound, and the sum in seconds.
    pub(super) fn buckets(&self) -> (Vec<(f64, u64)>, f64) {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let sum = Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        (bounds.zip(self.counts()).collect(), sum)
    }

    fn counts(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_observation_is_in_the_first_bucket_that_holds_it_and_in_all_after_it() {
        let latency = Latency::default();
        for millis in [0, 1, 2, 1_000, 86_400_000] {
            latency.observe(Duration::from_millis(millis));
        }
        let at_most =
            |bound| latency.snapshot().iter().find(|(known, _)| *known == bound).map(|(_, count)| *count);
        assert_eq!(at_most(0.0005), Some(1));
        // A bound belongs to its bucket.
        assert_eq!(at_most(0.001), Some(2));
        assert_eq!(at_most(0.0025), Some(3));
        assert_eq!(at_most(1.0), Some(4));
        assert_eq!(at_most(600.0), Some(4));
        assert_eq!(at_most(3600.0), Some(5));
        assert_eq!(latency.count(), 5);
        let (buckets, sum) = latency.buckets();
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1)));
        assert!((sum - 86_401.003).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn bounds_only_rise() {
        assert!(BOUNDS.is_sorted_by(|one, next| one < next));
    }
}
