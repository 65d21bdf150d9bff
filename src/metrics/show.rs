//! Puts figures into the text: a family at a time, with its sentence, whether or not anything was counted.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::Latency;

/// One figure with its labels.
pub type Sample<'a, const N: usize> = ([(&'static str, &'a str); N], u64);

/// A family of counters; `name` without `_total`.
///
/// # Errors
/// The text cannot be written.
pub fn counters<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    samples: impl IntoIterator<Item = Sample<'a, N>>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    samples.into_iter().try_for_each(|(labels, value)| counter(family.encode_family(&labels)?, value))
}

/// A counter without labels; `name` without `_total`.
///
/// # Errors
/// The text cannot be written.
pub fn one_counter(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    value: u64,
) -> fmt::Result {
    counter(encoder.encode_descriptor(name, help, None, MetricType::Counter)?, value)
}

/// A family of gauges.
///
/// # Errors
/// The text cannot be written.
pub fn gauges<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    samples: impl IntoIterator<Item = ([(&'static str, &'a str); N], f64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    samples.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
}

/// A gauge without labels.
///
/// # Errors
/// The text cannot be written.
pub fn one_gauge(encoder: &mut DescriptorEncoder<'_>, (name, help): (&str, &str), value: f64) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

/// A family of histograms; `name` with `_seconds`.
///
/// # Errors
/// The text cannot be written.
pub fn latencies<'a, 'b, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    samples: impl IntoIterator<Item = ([(&'static str, &'a str); N], &'b Latency)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    samples.into_iter().try_for_each(|(labels, latency)| histogram(family.encode_family(&labels)?, latency))
}

/// A histogram without labels; `name` with `_seconds`.
///
/// # Errors
/// The text cannot be written.
pub fn one_latency(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    latency: &Latency,
) -> fmt::Result {
    histogram(encoder.encode_descriptor(name, help, None, MetricType::Histogram)?, latency)
}

fn counter(mut encoder: MetricEncoder<'_>, value: u64) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

fn histogram(mut encoder: MetricEncoder<'_>, latency: &Latency) -> fmt::Result {
    let (buckets, sum) = latency.buckets();
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}
