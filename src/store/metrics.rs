//! What the store measures of itself: each commit as it happens, and its figures when somebody asks.
//!
//! Measuring must cost a commit next to nothing, and a scrape must not touch the disk.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::history::History;
use super::{Figures, Store};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Registry;

/// Upper bounds for commits, seconds: a sync takes from 50 µs to seconds.
const COMMIT_SECONDS: [f64; 13] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
/// Upper bounds for the records of one commit.
const COMMIT_RECORDS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0];
const HOUR: f64 = 3600.0;
/// Upper bounds for the age of keys, seconds.
const KEY_AGE: [f64; 9] = [
    4.0 * HOUR,
    8.0 * HOUR,
    24.0 * HOUR,
    48.0 * HOUR,
    72.0 * HOUR,
    96.0 * HOUR,
    120.0 * HOUR,
    168.0 * HOUR,
    336.0 * HOUR,
];

/// What is measured of commits. Clones share it.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    /// From the first byte written to the end of the sync.
    pub commit_seconds: Histogram,
    /// Records that went into one commit.
    pub commit_records: Histogram,
    /// How long commits take at present, microseconds: each counts for an eighth of what came before.
    pace_micros: Arc<AtomicU64>,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            commit_seconds: Histogram::new(COMMIT_SECONDS),
            commit_records: Histogram::new(COMMIT_RECORDS),
            pace_micros: Arc::default(),
        }
    }
}

impl StoreMetrics {
    pub(super) fn committed(&self, took: Duration, records: usize) {
        self.commit_seconds.observe(took.as_secs_f64());
        self.commit_records.observe(u32::try_from(records).unwrap_or(u32::MAX).into());
        // One thread commits, so nothing is lost in between.
        let (before, micros) =
            (self.pace_micros.load(Ordering::Relaxed), u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.pace_micros.store((before / 8).saturating_mul(7).saturating_add(micros / 8), Ordering::Relaxed);
    }

    /// How long commits take at present.
    pub(super) fn commit_time(&self) -> Duration {
        Duration::from_micros(self.pace_micros.load(Ordering::Relaxed))
    }

    /// Adds the measures of commits.
    pub fn register(&self, registry: &mut Registry) {
        let (seconds, records) = (self.commit_seconds.clone(), self.commit_records.clone());
        registry.register_with_unit("store_commit", "Time of one write and sync", Unit::Seconds, seconds);
        registry.register("store_commit_records", "Records written with one sync", records);
    }
}

/// Adds the figures of a store, and of a history where there is one: asked for at each scrape. `ttl` is how long keys are
/// kept (`idempotency.ttl`), from which their age is known.
pub fn register_figures(
    registry: &mut Registry,
    store: Arc<dyn Store>,
    history: Option<Arc<History>>,
    ttl: Duration,
    clock: Clock,
) {
    registry.register_collector(Box::new(Asked { store, history, ttl, clock }));
}

struct Asked {
    store: Arc<dyn Store>,
    history: Option<Arc<History>>,
    ttl: Duration,
    clock: Clock,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the figures of the store")
    }
}

impl Collector for Asked {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = self.store.figures();
        let history = self.history.as_ref().map(|history| history.figures());
        let mut bytes = vec![
            ("journal", figures.journal_bytes),
            ("needed", figures.needed_bytes),
            ("index", figures.index_bytes),
        ];
        bytes.extend(history.map(|history| ("history", history.bytes)));
        bytes.extend(figures.free_bytes.map(|free| ("free", free)));
        encode_bytes(&mut encoder, &bytes)?;
        for (name, help, value) in [
            ("store_messages", "Messages in the store that are not finished.", figures.messages),
            ("store_segments", "Segments of the journal.", figures.segments),
            ("keys", "Idempotency keys, approximately.", figures.keys),
        ] {
            let gauge = ConstGauge::new(signed(value));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let (sum, count, buckets) = ages(&figures, self.ttl, self.clock.now());
        encoder
            .encode_descriptor(
                "key_age",
                "Age of the idempotency keys.",
                Some(&Unit::Seconds),
                MetricType::Histogram,
            )?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        let Some(history) = history else { return Ok(()) };
        for (name, help, value) in [
            ("history_records", "Records of the history written.", history.records),
            ("history_dropped_records", "Records that the history could not take.", history.dropped),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

fn encode_bytes(encoder: &mut DescriptorEncoder<'_>, bytes: &[(&str, u64)]) -> fmt::Result {
    let help = "Bytes on the disk, by what they are for.";
    let mut metric = encoder.encode_descriptor("store", help, Some(&Unit::Bytes), MetricType::Gauge)?;
    for (kind, value) in bytes {
        let labels = [("kind", *kind)];
        ConstGauge::new(signed(*value)).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Sum, count and buckets of the keys' ages, which are known to the four hours that they expire in. A key that is kept
/// beyond its time, as its message is still queued, counts as one of `ttl`.
fn ages(figures: &Figures, ttl: Duration, now: Timestamp) -> (f64, u64, Vec<(f64, u64)>) {
    let (mut sum, mut counts) = (0.0, vec![0; KEY_AGE.len() + 1]);
    for (expires_at, count) in &figures.keys_by_expiry {
        let age = ttl.saturating_sub(expires_at.since(now)).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a sum of ages need not be exact")]
        let many = *count as f64;
        sum += age * many;
        if let Some(slot) = counts.get_mut(KEY_AGE.partition_point(|bound| *bound < age)) {
            *slot += count;
        }
    }
    let bounds = KEY_AGE.into_iter().chain([f64::INFINITY]);
    (sum, figures.keys, bounds.zip(counts).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn ages_are_told_from_when_keys_expire() {
        let now = Timestamp::from_millis(1_795_343_400_000);
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let keys_by_expiry = vec![(now, 1), (now.plus(hours(20)), 5), (now.plus(hours(24)), 7)];
        let figures = Figures { keys: 13, keys_by_expiry, ..Figures::default() };
        let (sum, count, buckets) = ages(&figures, hours(24), now);
        assert_eq!((sum, count), ((24 + 5 * 4) as f64 * 3600.0, 13));
        let counts: Vec<_> = buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [12, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_scrape_tells_figures_and_commits() {
        let clock = Clock::manual(Timestamp::from_millis(1));
        let (mut registry, measures) = (Registry::with_prefix("oncemail"), StoreMetrics::default());
        measures.register(&mut registry);
        measures.committed(Duration::from_millis(2), 3);
        let store = Arc::new(MemoryStore::new(clock.clone(), None));
        register_figures(&mut registry, store, None, Duration::from_secs(60), clock);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "oncemail_store_commit_seconds_bucket{le=\"0.0025\"} 1\n",
            "oncemail_store_commit_records_sum 3.0\n",
            "oncemail_store_bytes{kind=\"journal\"} 0\n",
            "oncemail_keys 0\n",
            "oncemail_key_age_seconds_count 0\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
