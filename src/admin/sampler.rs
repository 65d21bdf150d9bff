//! How things were: what the process has counted, looked at each second and kept as rates.
//!
//! Counters only grow, so a rate is a difference; a percentile is one of the differences between the buckets of a
//! histogram. What is kept is bounded: an hour in steps of 5 seconds, a day in steps of 2 minutes (S2).

use std::collections::VecDeque;

use super::model::Series;
use super::ports::Totals;

/// Seconds over which percentiles are taken.
const WINDOW: u64 = 60;

/// Which series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Range {
    /// The last hour.
    Hour,
    /// The last 24 hours.
    Day,
}

/// What is looked at each second.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Sample {
    /// Seconds since the Unix epoch.
    pub at: u64,
    /// What has been counted by then.
    pub totals: Totals,
    /// Messages in the queue.
    pub queued: u64,
    /// Messages held.
    pub held: u64,
}

/// Percentiles over the last minute, seconds.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Latency {
    pub accept_p50: f64,
    pub accept_p99: f64,
    pub deliver_p50: f64,
    pub deliver_p99: f64,
}

/// See the module.
pub(super) struct Sampler {
    /// The last minute, oldest first.
    recent: VecDeque<Sample>,
    hour: Ring,
    day: Ring,
}

impl Sampler {
    /// Nothing has been looked at yet.
    pub fn new() -> Self {
        Self { recent: VecDeque::new(), hour: Ring::new(5, 720), day: Ring::new(120, 720) }
    }

    /// Takes a look. One that is not later than the last (the clock was set back) begins anew.
    pub fn look(&mut self, sample: Sample) {
        if self.recent.back().is_some_and(|last| last.at > sample.at) {
            self.recent.clear();
        }
        self.hour.look(&sample);
        self.day.look(&sample);
        while self.recent.front().is_some_and(|first| first.at + WINDOW < sample.at) {
            self.recent.pop_front();
        }
        // A clock that stands still must not fill the memory.
        if self.recent.back().is_none_or(|last| last.at < sample.at) {
            self.recent.push_back(sample);
        }
    }

    /// Percentiles over the last minute, as far as it has been looked at, up to `now`.
    pub fn latency(&self, now: &Totals) -> Latency {
        let none = Totals::default();
        let then = self.recent.front().map_or(&none, |sample| &sample.totals);
        let of = |now: &[(f64, u64)], then: &[(f64, u64)], share| percentile(now, then, share);
        Latency {
            accept_p50: of(&now.accept_latency, &then.accept_latency, 0.5),
            accept_p99: of(&now.accept_latency, &then.accept_latency, 0.99),
            deliver_p50: of(&now.deliver_latency, &then.deliver_latency, 0.5),
            deliver_p99: of(&now.deliver_latency, &then.deliver_latency, 0.99),
        }
    }

    /// One of the series.
    pub fn series(&self, range: Range) -> Series {
        match range {
            Range::Hour => self.hour.series(),
            Range::Day => self.day.series(),
        }
    }
}

/// One series.
struct Ring {
    /// Seconds between two points.
    step: u64,
    most: usize,
    points: VecDeque<Point>,
    /// Where the next point begins.
    last: Option<Sample>,
}

struct Point {
    at: u64,
    /// A second: accepted, replayed, refused, delivered, deferred, failed.
    rates: [f64; 6],
    queued: u64,
    held: u64,
    accept_p99: f64,
    deliver_p99: f64,
}

impl Ring {
    fn new(step: u64, most: usize) -> Self {
        Self { step, most, points: VecDeque::new(), last: None }
    }

    fn look(&mut self, sample: &Sample) {
        let Some(last) = &self.last else {
            self.last = Some(sample.clone());
            return;
        };
        if sample.at < last.at {
            self.points.clear();
            self.last = Some(sample.clone());
            return;
        }
        let seconds = sample.at - last.at;
        if seconds < self.step {
            return;
        }
        if self.points.len() >= self.most {
            self.points.pop_front();
        }
        self.points.push_back(Point::between(last, sample, seconds));
        self.last = Some(sample.clone());
    }

    fn series(&self) -> Series {
        let mut series = Series { step_seconds: self.step, ..Series::default() };
        for point in &self.points {
            let [accepted, replayed, refused, delivered, deferred, failed] = point.rates;
            series.at.push(point.at);
            series.accepted.push(accepted);
            series.replayed.push(replayed);
            series.refused.push(refused);
            series.delivered.push(delivered);
            series.deferred.push(deferred);
            series.failed.push(failed);
            series.queued.push(point.queued);
            series.held.push(point.held);
            series.accept_p99.push(point.accept_p99);
            series.deliver_p99.push(point.deliver_p99);
        }
        series
    }
}

impl Point {
    fn between(then: &Sample, now: &Sample, seconds: u64) -> Self {
        let counters = |totals: &Totals| {
            [
                totals.accepted,
                totals.replayed,
                totals.refused,
                totals.delivered,
                totals.deferred,
                totals.failed,
            ]
        };
        let mut rates = [0.0; 6];
        for (rate, (now, then)) in
            rates.iter_mut().zip(counters(&now.totals).into_iter().zip(counters(&then.totals)))
        {
            *rate = now.saturating_sub(then) as f64 / seconds as f64;
        }
        Self {
            at: now.at,
            rates,
            queued: now.queued,
            held: now.held,
            accept_p99: percentile(&now.totals.accept_latency, &then.totals.accept_latency, 0.99),
            deliver_p99: percentile(&now.totals.deliver_latency, &then.totals.deliver_latency, 0.99),
        }
    }
}

/// The value that a share of what happened between `then` and `now` did not exceed; within a bucket they are taken to
/// lie evenly. Zero when nothing happened.
fn percentile(now: &[(f64, u64)], then: &[(f64, u64)], share: f64) -> f64 {
    let before = |index: usize| then.get(index).map_or(0, |(_, count)| *count);
    let buckets: Vec<(f64, u64)> = now
        .iter()
        .enumerate()
        .map(|(index, (bound, count))| (*bound, count.saturating_sub(before(index))))
        .collect();
    let Some(all) = buckets.last().map(|(_, count)| *count).filter(|all| *all > 0) else { return 0.0 };
    let wanted = all as f64 * share;
    let (mut low, mut below) = (0.0, 0);
    for (bound, count) in buckets {
        if count as f64 >= wanted {
            let within = count.saturating_sub(below);
            // What is over the last bound can only be said to be over it.
            if !bound.is_finite() || within == 0 {
                return low;
            }
            return low + (bound - low) * ((wanted - below as f64) / within as f64).clamp(0.0, 1.0);
        }
        if bound.is_finite() {
            low = bound;
        }
        below = count;
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, accepted: u64) -> Sample {
        Sample { at, totals: Totals { accepted, ..Totals::default() }, queued: accepted, held: 0 }
    }

    #[test]
    fn a_rate_is_what_was_counted_in_a_step() {
        let mut sampler = Sampler::new();
        (0..=10).for_each(|second| sampler.look(sample(1_000 + second, second * 20)));
        let series = sampler.series(Range::Hour);
        assert_eq!(
            (series.at, series.accepted, series.queued),
            (vec![1_005, 1_010], vec![20.0, 20.0], vec![100, 200])
        );
        assert!(sampler.series(Range::Day).at.is_empty());
    }

    #[test]
    fn s2_what_is_kept_is_bounded_whatever_the_clock_does() {
        let mut sampler = Sampler::new();
        (0..200_000).for_each(|second| sampler.look(sample(second, second)));
        assert_eq!(sampler.series(Range::Hour).at.len(), 720);
        assert_eq!(sampler.series(Range::Day).at.len(), 720);
        (0..100).for_each(|_| sampler.look(sample(200_000, 200_000)));
        assert!(sampler.recent.len() <= 61);
        sampler.look(sample(5, 1));
        assert_eq!(sampler.series(Range::Hour).at.len(), 0);
    }

    #[test]
    fn percentiles_are_of_what_happened_since() {
        let then = [(0.01, 100), (0.1, 100), (f64::INFINITY, 100)];
        let now = [(0.01, 150), (0.1, 200), (f64::INFINITY, 200)];
        assert!((percentile(&now, &then, 0.5) - 0.01).abs() < 1e-9);
        assert!((percentile(&now, &then, 0.75) - 0.055).abs() < 1e-9);
        assert_eq!(percentile(&now, &now, 0.5), 0.0);
        assert_eq!(percentile(&[], &[], 0.5), 0.0);
        let all_slow = [(0.01, 0), (0.1, 0), (f64::INFINITY, 7)];
        assert_eq!(percentile(&all_slow, &[], 0.99), 0.1);
    }
}
