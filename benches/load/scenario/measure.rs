//! What each scenario does, and which figures it takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Scenario;
use super::relay::Relay;
use super::table::{Goal, Section};
use crate::disk;
use crate::generate::{self, Finished, Load};
use crate::message::Keys;
use crate::report::Report;
use crate::sink::Sink;
use crate::tally::Verdict;

pub const SMALL: usize = 2 * 1024;
const LARGE: usize = 50 * 1024;
/// Content of a message that only leaves its key behind.
const TINY: usize = 512;
/// Connections of the scenarios that do not say otherwise.
pub const MANY: usize = 50;
const FEW: usize = 10;
/// Large messages are fewer, so that a scenario writes about as much as with small ones.
const LARGE_SHARE: u64 = 4;
/// After the last message, a copy too many may still come.
const SETTLE: Duration = Duration::from_millis(500);
/// A relay that has started finishes what it does at start within this.
pub const CALM: Duration = Duration::from_secs(3);
/// Messages per second below which filling up is given up.
const SLOWEST_PREFILL: u64 = 500;
const DISK_TIME: Duration = Duration::from_secs(3);

/// The means of every scenario.
pub struct Bench<'a> {
    /// Where the relay under test sends.
    pub sink: &'a Sink,
    /// Messages of a scenario.
    pub messages: u64,
    /// Threads of the generator.
    pub threads: usize,
    /// How long a queue may take to empty.
    pub drain: Duration,
}

/// Commits per second of one writer.
///
/// # Errors
/// When the directory cannot be written.
pub fn disk(directory: &PathBuf, section: &mut Section<'_>) -> Result<()> {
    for size in [SMALL, LARGE] {
        let measured = disk::measure(directory, size, DISK_TIME)?;
        section.add(
            format!("write and fdatasync, {size} bytes"),
            measured.commits_per_second,
            "commits/s",
            None,
        );
    }
    Ok(())
}

impl Bench<'_> {
    /// Generator straight into the sink.
    pub fn yardstick(&self, section: &mut Section<'_>) -> Result<()> {
        let load = self.load(Load::new(self.sink.address, MANY, self.messages, SMALL));
        let (finished, report) = generate(&load)?;
        section.add("generator into sink, 50 connections", report.accepted_per_second, "messages/s", None);
        section.add_troubles(&report);
        self.prove(&load, &finished, section);
        let mut load = Load::new(self.sink.address, MANY, self.messages / LARGE_SHARE, SMALL);
        load.per_connection = Some(1);
        let (_, report) = generate(&self.load(load))?;
        section.add("the same, one message a connection", report.accepted_per_second, "messages/s", None);
        Ok(())
    }

    /// The scenarios that are only a load and whether the sink is held meanwhile.
    pub fn rates(&self, scenario: Scenario, relay: &Relay, section: &mut Section<'_>) -> Result<()> {
        let small = |connections| Load::new(relay.address, connections, self.messages, SMALL);
        match scenario {
            Scenario::Accept10 => self.accept(small(FEW), relay, None, Some(Goal::Below(5.0)), section),
            Scenario::Accept50 => {
                self.accept(small(MANY), relay, Some(Goal::AtLeast(10_000.0)), None, section)
            }
            Scenario::Reconnect => {
                let load = Load { per_connection: Some(1), ..small(MANY) };
                self.accept(load, relay, Some(Goal::AtLeast(4000.0)), None, section)
            }
            Scenario::Large => {
                let load = Load::new(relay.address, MANY, self.messages.div_ceil(LARGE_SHARE), LARGE);
                self.accept(load, relay, Some(Goal::AtLeast(3000.0)), None, section)
            }
            Scenario::Relay10 => self.relay(small(FEW), relay, None, section),
            _ => self.relay(small(MANY), relay, Some(Goal::AtLeast(5000.0)), section),
        }
    }

    /// Accepting with the sink held, then letting go and emptying the queue.
    fn accept(
        &self,
        load: Load,
        relay: &Relay,
        rate: Option<Goal>,
        p99: Option<Goal>,
        section: &mut Section<'_>,
    ) -> Result<()> {
        let load = self.load(load);
        self.sink.hold();
        let before = relay.cpu()?;
        let measured = generate(&load);
        let after = relay.cpu()?;
        self.sink.release();
        let (finished, report) = measured?;
        add_rates(&report, rate, p99, section);
        add_cpu(before, after, report.accepted, None, section);
        self.prove(&load, &finished, section);
        if let Some((first, last)) = self.sink.tally.times(load.shape.run) {
            let seconds = (last - first).as_secs_f64();
            section.add("relayed afterwards", report.accepted as f64 / seconds, "messages/s", None);
        }
        Ok(())
    }

    /// Accepting and relaying at once; the time runs until the sink has everything.
    fn relay(&self, load: Load, relay: &Relay, rate: Option<Goal>, section: &mut Section<'_>) -> Result<()> {
        let load = self.load(load);
        let before = relay.cpu()?;
        let (finished, report) = generate(&load)?;
        add_rates(&report, None, None, section);
        self.wait(&load, &finished);
        let after = relay.cpu()?;
        if let Some((_, last)) = self.sink.tally.times(load.shape.run) {
            let seconds = (last - finished.began).as_secs_f64();
            section.add("accepted and relayed", report.accepted as f64 / seconds, "messages/s", rate);
        }
        add_cpu(before, after, report.accepted, Some(Goal::Below(0.25)), section);
        self.prove(&load, &finished, section);
        Ok(())
    }

    /// Half of the submissions repeat an earlier one; the sink must have each message once.
    pub fn replay(&self, relay: &Relay, section: &mut Section<'_>) -> Result<()> {
        let load = Load::new(relay.address, MANY, self.messages, SMALL);
        let load = self.load(Load { keys: Keys::Duplicates, ratio: 0.5, ..load });
        let (finished, report) = generate(&load)?;
        add_rates(&report, None, None, section);
        for (text, count) in &report.replies {
            section.add(format!("reply: {text}"), *count as f64, "replies", None);
        }
        self.prove(&load, &finished, section);
        Ok(())
    }

    /// Memory with nothing to do.
    pub fn idle(&self, relay: &Relay, section: &mut Section<'_>) -> Result<()> {
        thread::sleep(CALM);
        section.add("resident memory", mebibytes(relay.resident_bytes()?), "MiB", Some(Goal::Below(20.0)));
        Ok(())
    }

    /// A full queue, a crash, and the first message after it.
    pub fn queued(&self, relay: &mut Relay, queued: u64, section: &mut Section<'_>) -> Result<()> {
        let load = self.load(Load::new(relay.address, MANY, queued, SMALL));
        self.sink.hold();
        let (finished, report) = generate(&load)?;
        section.add_troubles(&report);
        section.add("queued", report.accepted as f64, "messages", None);
        thread::sleep(CALM);
        section.add("resident memory", mebibytes(relay.resident_bytes()?), "MiB", Some(Goal::Below(150.0)));
        let killed = relay.crash(|| self.sink.release())?;
        relay.wait_until_it_greets()?;
        section.add("kill -9 to greeting", killed.elapsed().as_secs_f64(), "s", None);
        self.sink.tally.wait_for(load.shape.run, 1, self.drain);
        let (first, _) =
            self.sink.tally.times(load.shape.run).context("nothing was delivered after the restart")?;
        let seconds = (first - killed).as_secs_f64();
        section.add("kill -9 to first delivery", seconds, "s", Some(Goal::Below(2.0)));
        self.prove(&load, &finished, section);
        section.add("resident memory, queue emptied", mebibytes(relay.resident_bytes()?), "MiB", None);
        Ok(())
    }

    /// The rate before and after the relay has many keys to remember.
    pub fn keys(&self, relay: &Relay, keys: u64, section: &mut Section<'_>) -> Result<()> {
        let small = || Load::new(relay.address, MANY, self.messages, SMALL);
        section.add("keys remembered", 0.0, "keys", None);
        let empty = self.paused_rate(small(), section)?;
        let prefill = self.load(Load {
            // Many keys take their time; the generator must not stop before they are all there.
            duration: Duration::from_secs(600 + keys / SLOWEST_PREFILL),
            ..Load::new(relay.address, MANY, keys, TINY)
        });
        let (finished, report) = generate(&prefill)?;
        section.add_troubles(&report);
        self.prove(&prefill, &finished, section);
        section.add("keys remembered", (report.accepted + self.messages) as f64, "keys", None);
        section.add("resident memory", mebibytes(relay.resident_bytes()?), "MiB", None);
        let full = self.paused_rate(small(), section)?;
        section.add("part of the rate that is left", full / empty, "", Some(Goal::AtLeast(0.85)));
        Ok(())
    }

    fn paused_rate(&self, load: Load, section: &mut Section<'_>) -> Result<f64> {
        let load = self.load(load);
        self.sink.hold();
        let measured = generate(&load);
        self.sink.release();
        let (finished, report) = measured?;
        add_rates(&report, None, None, section);
        self.prove(&load, &finished, section);
        Ok(report.accepted_per_second)
    }

    /// The load with our number of threads.
    pub fn load(&self, load: Load) -> Arc<Load> {
        Arc::new(Load { threads: self.threads, ..load })
    }

    /// Waits until the sink has all that was acknowledged, or the limit passed.
    pub fn wait(&self, load: &Load, finished: &Finished) {
        let mut ids = finished.measured.accepted.clone();
        ids.sort_unstable();
        ids.dedup();
        self.sink.tally.wait_for(load.shape.run, ids.len() as u64, self.drain);
    }

    /// Waits for the sink, then counts what is missing or there twice.
    pub fn prove(&self, load: &Load, finished: &Finished, section: &mut Section<'_>) {
        self.wait(load, finished);
        thread::sleep(SETTLE);
        section.add_verdict(&self.verdict(load, finished));
    }

    /// The same of many loads, in one verdict.
    pub fn prove_all(&self, loads: &[(Arc<Load>, Finished)], section: &mut Section<'_>) {
        thread::sleep(SETTLE);
        section.add_verdict(&loads.iter().map(|(load, finished)| self.verdict(load, finished)).sum());
    }

    fn verdict(&self, load: &Load, finished: &Finished) -> Verdict {
        self.sink.tally.verify(load.shape.run, &finished.measured.accepted, load.shape.recipients)
    }
}

/// Sends a load, and sums up what was answered.
pub fn generate(load: &Arc<Load>) -> Result<(Finished, Report)> {
    let finished = generate::run(load)?;
    let report = finished.measured.report(load.shape.run, finished.elapsed);
    Ok((finished, report))
}

fn add_rates(report: &Report, rate: Option<Goal>, p99: Option<Goal>, section: &mut Section<'_>) {
    section.add("accepted", report.accepted_per_second, "messages/s", rate);
    section.add("final dot to reply, p50", report.p50_ms, "ms", None);
    section.add("final dot to reply, p99", report.p99_ms, "ms", p99);
    section.add("final dot to reply, max", report.max_ms, "ms", None);
    section.add_troubles(report);
}

fn add_cpu(
    before: Option<Duration>,
    after: Option<Duration>,
    messages: u64,
    goal: Option<Goal>,
    section: &mut Section<'_>,
) {
    if let (Some(before), Some(after), 1..) = (before, after, messages) {
        let seconds = after.saturating_sub(before).as_secs_f64();
        section.add("relay's CPU per 1,000 messages", seconds * 1000.0 / messages as f64, "s", goal);
    }
}

/// For the table.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
