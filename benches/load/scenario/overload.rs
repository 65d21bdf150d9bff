//! Twice as much as can be carried: what is accepted is answered nearly as fast as ever, and the rest is told at once to
//! come later.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempPath;

use super::measure::{Bench, CALM, MANY, SMALL, generate, mebibytes};
use super::relay::{Relay, Ways};
use super::table::{Goal, Section};
use crate::client::{Encryption, Greeting};
use crate::generate::{self, Load};
use crate::message::{KEY, Shape};
use crate::open_loop::{Going, Offer, Taken};

/// How much is offered, in parts of what a closed loop carries.
const QUIET: f64 = 0.25;
const TWICE: f64 = 2.0;
/// What must still be carried of the capacity when twice as much comes: refusing costs something, too.
const CARRIED: f64 = 0.4;
/// The 99th percentile of what is accepted, in milliseconds.
const P99: f64 = 100.0;

impl Bench<'_> {
    /// See the module.
    pub fn overload(
        &self,
        binary: &Path,
        directory: &Path,
        time: Duration,
        section: &mut Section<'_>,
    ) -> Result<()> {
        let aside = apart(binary, directory)?;
        let relay = Relay::start(&aside, directory, Ways::Sink(self.sink.address))?;
        self.overloaded(&relay, time, section).with_context(|| relay.log_tail())
    }

    fn overloaded(&self, relay: &Relay, time: Duration, section: &mut Section<'_>) -> Result<()> {
        let load = self.load(Load { duration: time, ..Load::new(relay.address, MANY, u64::MAX, SMALL) });
        let (finished, report) = generate(&load)?;
        self.prove(&load, &finished, section);
        let capacity = report.accepted_per_second;
        section.add("capacity: 50 connections, closed loop", capacity, "messages/s", None);
        section.add("capacity: final dot to reply, p99", report.p99_ms, "ms", None);
        for (name, part) in [("a quarter", QUIET), ("twice", TWICE), ("a quarter again", QUIET)] {
            std::thread::sleep(CALM);
            let goals =
                (part == TWICE).then_some((Goal::AtLeast((capacity * CARRIED).round()), Goal::Below(P99)));
            self.offered(relay, name, capacity * part, time, goals, section)?;
        }
        Ok(())
    }

    /// One open loop at this rate.
    fn offered(
        &self,
        relay: &Relay,
        name: &str,
        rate: f64,
        time: Duration,
        goals: Option<(Goal, Goal)>,
        section: &mut Section<'_>,
    ) -> Result<()> {
        let shape = Shape::new(generate::new_run(), SMALL, 1, Some(KEY.to_owned()));
        let going = Going::start(honest(relay, shape.clone(), rate, time));
        let mut memory = 0;
        let began = std::time::Instant::now();
        while began.elapsed() < time {
            std::thread::sleep(Duration::from_millis(100));
            memory = memory.max(relay.resident_bytes()?);
        }
        let taken = going.wait(false)?;
        section.add(
            format!("{name}: offered"),
            taken.offered as f64 / time.as_secs_f64(),
            "messages/s",
            None,
        );
        section.add(format!("{name}: accepted"), taken.rate(), "messages/s", goals.map(|(rate, _)| rate));
        section.add(format!("{name}: final dot to 250, p50"), taken.after_dot(0.5), "ms", None);
        section.add(
            format!("{name}: final dot to 250, p99"),
            taken.after_dot(0.99),
            "ms",
            goals.map(|(_, p99)| p99),
        );
        section.add(format!("{name}: due to 250, p99"), taken.after_due(0.99), "ms", None);
        section.add(format!("{name}: the generator was late, p99"), taken.lateness(0.99), "ms", None);
        section.add(format!("{name}: resident memory, most"), mebibytes(memory), "MiB", None);
        add_refusals(name, &taken, section);
        self.sink.tally.wait_for(shape.run, taken.accepted.len() as u64, self.drain);
        section.add_verdict(&self.sink.tally.verify(shape.run, &taken.accepted, 1));
        Ok(())
    }
}

/// The program with one processor to itself, and us with another: a generator that has to fight for a processor with what
/// it overloads offers less, and measures its own wait.
fn apart(binary: &Path, directory: &Path) -> Result<TempPath> {
    let mut script = tempfile::Builder::new().suffix(".sh").tempfile_in(directory)?;
    writeln!(script, "#!/bin/sh\nexec taskset -c 0 '{}' \"$@\"", binary.display())?;
    script.as_file().set_permissions(Permissions::from_mode(0o700))?;
    let moved = Command::new("taskset").args(["-acp", "1", &std::process::id().to_string()]).output();
    ensure!(moved.context("taskset (util-linux) is needed")?.status.success(), "this needs two processors");
    Ok(script.into_temp_path())
}

/// Messages of an honest client, at this rate.
pub fn honest(relay: &Relay, shape: Shape, rate: f64, duration: Duration) -> Offer {
    let greeting = Greeting { address: relay.address, tls: Encryption::None, login: None };
    Offer { greeting, shape, rate, duration, first: 0 }
}

/// What was not accepted, and what it heard.
pub fn add_refusals(name: &str, taken: &Taken, section: &mut Section<'_>) {
    if taken.refused > 0 {
        section.add(format!("{name}: told to come later"), taken.refused as f64, "messages", None);
        section.add(format!("{name}: due to that word, p99"), taken.to_refusal(0.99), "ms", None);
    }
    if taken.failed > 0 {
        section.add(format!("{name}: failed"), taken.failed as f64, "messages", None);
    }
    if taken.skipped > 0 {
        section.add(format!("{name}: not even offered"), taken.skipped as f64, "messages", None);
    }
    for (words, count) in &taken.words {
        section.add(format!("{name}: {words}"), *count as f64, "times", None);
    }
}
