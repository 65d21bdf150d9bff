//! What the system says of this process, by the names that every program uses for it. Where there is no `/proc` it is
//! left out.

use std::fmt;
use std::fs::{read_dir, read_to_string};

use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;
use rustix::process::{Resource, getrlimit};

use crate::clock::Timestamp;
use crate::metrics::{Collector, DescriptorEncoder, one_gauge};

/// The unit of times in `/proc/PID/stat` (proc(5)); the kernel's interface has this one, whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// See the module.
#[derive(Debug)]
pub(super) struct Process {
    started_at: Timestamp,
}

impl Process {
    pub(super) fn new(started_at: Timestamp) -> Self {
        Self { started_at }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let started = self.started_at.as_millis() as f64 / 1000.0;
        let about = ("process_start_time_seconds", "When the process started, in seconds since 1970.");
        one_gauge(encoder, about, started)?;
        if let Some(bytes) = resident_bytes() {
            one_gauge(encoder, ("process_resident_memory_bytes", "Memory that is in use."), bytes)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let about = "Time that processors have spent on this process.";
            let mut family =
                encoder.encode_descriptor("process_cpu_seconds", about, None, MetricType::Counter)?;
            family.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?;
        }
        if let Ok(open) = read_dir("/proc/self/fd") {
            // One of them is the directory itself.
            let open = open.count().saturating_sub(1) as f64;
            one_gauge(encoder, ("process_open_fds", "Open file descriptors."), open)?;
        }
        match getrlimit(Resource::Nofile).current {
            Some(most) => one_gauge(encoder, ("process_max_fds", "The most that there may be."), most as f64),
            None => Ok(()),
        }
    }
}

/// `VmRSS` of proc(5).
fn resident_bytes() -> Option<f64> {
    let status = read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// `utime` and `stime` of proc(5), the 14th and 15th fields; the second is a name in parentheses that may hold anything.
fn cpu_seconds() -> Option<f64> {
    let stat = read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks: f64 = ticks.collect::<Result<Vec<_>, _>>().ok()?.iter().sum();
    Some(ticks / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_system_says_is_understood() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1e6));
        assert!(cpu_seconds().is_some_and(|seconds| seconds >= 0.0));
    }
}
