//! What the disk can do: a relay that syncs before its 250 cannot commit more often than this.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

/// A minute, in microseconds: beyond it the disk is broken, not slow.
const MAX_LATENCY_MICROS: u64 = 60_000_000;

/// `load disk`.
#[derive(Args)]
pub struct Cli {
    /// Where the relay's data would be.
    #[arg(default_value = env!("CARGO_TARGET_TMPDIR"))]
    directory: PathBuf,
    /// Octets of one commit.
    #[arg(long, short, default_value_t = 2048)]
    size: usize,
    /// How long to measure.
    #[arg(long = "for", default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// One JSON object instead of a line.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Serialize, Debug)]
pub struct Measured {
    /// Octets of one commit.
    pub size: usize,
    /// Appended and synced, one after the other.
    pub commits_per_second: f64,
    /// Of one commit.
    pub p50_ms: f64,
    /// Of one commit.
    pub p99_ms: f64,
}

/// Runs `load disk`.
///
/// # Errors
/// When the directory cannot be written.
pub fn main(cli: &Cli) -> Result<()> {
    let measured = measure(&cli.directory, cli.size, cli.duration)?;
    if cli.json {
        println!("{}", serde_json::to_string(&measured)?);
    } else {
        let Measured { size, commits_per_second, p50_ms, p99_ms } = measured;
        println!(
            "{commits_per_second:.0} commits of {size} bytes per second, p50 {p50_ms:.3} ms, p99 {p99_ms:.3} ms"
        );
    }
    Ok(())
}

/// Appends and syncs, again and again, in a scratch file that is gone afterwards.
///
/// # Errors
/// When the directory cannot be written.
pub fn measure(directory: &PathBuf, size: usize, duration: Duration) -> Result<Measured> {
    let scratch = tempfile::tempdir_in(directory).with_context(|| directory.display().to_string())?;
    let mut file = File::create(scratch.path().join("commits"))?;
    let content = vec![b'x'; size];
    let mut latency = Histogram::<u64>::new_with_max(MAX_LATENCY_MICROS, 3)?;
    let began = Instant::now();
    while began.elapsed() < duration {
        let commit = Instant::now();
        file.write_all(&content)?;
        file.sync_data()?;
        latency.saturating_record(u64::try_from(commit.elapsed().as_micros())?);
    }
    let milliseconds = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Measured {
        size,
        commits_per_second: latency.len() as f64 / began.elapsed().as_secs_f64(),
        p50_ms: milliseconds(0.50),
        p99_ms: milliseconds(0.99),
    })
}
