//! A disk that fills up: new mail is refused for now, what is queued goes on, and when there is room again so does all else.
//!
//! It wants a directory on a small file system of its own, which it fills to the last octet (`benches/diskfull.sh` makes one).

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::measure::Bench;
use super::overload::{add_refusals, honest};
use super::relay::{Relay, Ways};
use super::table::{Goal, Section};
use crate::generate;
use crate::message::{KEY, Shape};
use crate::open_loop::{Going, Taken};

/// Octets of a message, and how many come a second until the disk is full.
const LARGE: usize = 50 * 1024;
const FILLING_RATE: f64 = 200.0;
const RATE: f64 = 20.0;
/// The disk must be full by then.
const FULL_WITHIN: Duration = Duration::from_secs(300);
/// And mail be taken again by then.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// A file system that is larger is not one that is meant to be filled.
const SMALL_DISK: u64 = 1 << 30;

impl Bench<'_> {
    /// See the module. `directory` is on the file system that is filled.
    pub fn disk_full(
        &self,
        binary: &Path,
        directory: &Path,
        time: Duration,
        section: &mut Section<'_>,
    ) -> Result<()> {
        let free = free_space(directory)?;
        ensure!(free < SMALL_DISK, "{} has {free} free octets: too many to fill", directory.display());
        let keeps = [("ONCEMAIL__LIMITS__MIN_FREE", "8MB")];
        let relay = Relay::start_as(binary, directory, Ways::Sink(self.sink.address), "", &keeps)?;
        self.sink.hold();
        let filled = self.fill(&relay, directory, time, section);
        self.sink.release();
        filled.with_context(|| relay.log_tail())
    }

    fn fill(&self, relay: &Relay, directory: &Path, time: Duration, section: &mut Section<'_>) -> Result<()> {
        let shape = Shape::new(generate::new_run(), LARGE, 1, Some(KEY.to_owned()));
        let mut accepted = Vec::new();
        let began = Instant::now();
        let mut first = 0;
        loop {
            let mut offer = honest(relay, shape.clone(), FILLING_RATE, Duration::from_secs(1));
            offer.first = first;
            let taken = Going::start(offer).wait(false)?;
            first += taken.offered;
            accepted.extend_from_slice(&taken.accepted);
            if taken.refused > 0 {
                add_refusals("min_free", &taken, section);
                break;
            }
            ensure!(began.elapsed() < FULL_WITHIN, "the disk does not fill up");
        }
        section.add("queued until min_free", accepted.len() as f64, "messages", None);
        let ballast = directory.join("ballast");
        fill_up(&ballast)?;
        section.add("free when it is full", free_space(directory)? as f64, "octets", None);
        let taken = self.offer(relay, &shape, &mut first, time, &mut accepted)?;
        section.add_proof(
            "full: accepted",
            taken.accepted.len() as f64,
            "messages",
            !taken.accepted.is_empty(),
        );
        section.add_proof("full: failed, not refused", taken.failed as f64, "messages", taken.failed > 0);
        add_refusals("full", &taken, section);
        // What is queued goes on although there is no room.
        self.sink.release();
        let began = Instant::now();
        let all = self.sink.tally.wait_for(shape.run, accepted.len() as u64, self.drain);
        section.add("full: queue relayed after", began.elapsed().as_secs_f64(), "s", None);
        let left = accepted.len() as u64 - self.sink.tally.recipients(shape.run).min(accepted.len() as u64);
        section.add_proof("full: left in the queue", left as f64, "messages", !all);
        std::fs::remove_file(&ballast)?;
        let began = Instant::now();
        let goal = Some(Goal::Below(RECOVERED_WITHIN.as_secs_f64()));
        loop {
            let taken = self.offer(relay, &shape, &mut first, Duration::from_millis(500), &mut accepted)?;
            if taken.refused + taken.failed == 0 {
                break;
            }
            ensure!(
                began.elapsed() < RECOVERED_WITHIN,
                "there is room, and mail is refused: {:?}",
                taken.words
            );
        }
        section.add("room again: accepted after", began.elapsed().as_secs_f64(), "s", goal);
        self.sink.tally.wait_for(shape.run, accepted.len() as u64, self.drain);
        section.add_verdict(&self.sink.tally.verify(shape.run, &accepted, 1));
        Ok(())
    }

    fn offer(
        &self,
        relay: &Relay,
        shape: &Shape,
        first: &mut u64,
        time: Duration,
        accepted: &mut Vec<u64>,
    ) -> Result<Taken> {
        let mut offer = honest(relay, shape.clone(), RATE, time);
        offer.first = *first;
        let taken = Going::start(offer).wait(false)?;
        *first += taken.offered;
        accepted.extend_from_slice(&taken.accepted);
        Ok(taken)
    }
}

/// Writes until nothing fits any more, twice: what is freed meanwhile is taken, too.
fn fill_up(ballast: &Path) -> Result<()> {
    let mut file = File::create(ballast)?;
    for octets in [1 << 20, 4_096, 1] {
        let some = vec![0; octets];
        while file.write_all(&some).is_ok() {}
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn free_space(directory: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
