//! Scenarios of the way out: a far side that is far away, one that is dead, and very many of them.

use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::measure::{Bench, CALM, MANY, SMALL, generate, mebibytes};
use super::relay::Relay;
use super::table::{Goal, Section};
use crate::generate::Load;
use crate::message::Destinations;

/// What the far side takes to answer.
const FAR: Duration = Duration::from_millis(50);
/// Twenty connections, two round trips a message.
const FAR_LIMIT: f64 = 200.0;
const FAR_MESSAGES: u64 = 4_000;
/// Messages whose way is timed, one after the other.
const LIVE: usize = 1_000;
const LIVE_LIMIT: Duration = Duration::from_secs(60);
/// Messages that wait for the dead destination.
const WAITING: u64 = 50_000;
const DESTINATIONS: u32 = 1_000;

/// A port on which nothing listens.
///
/// # Errors
/// When the system has none.
pub fn closed_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

impl Bench<'_> {
    /// What is left of the rate that the round trips allow.
    pub fn far(&self, relay: &Relay, section: &mut Section<'_>) -> Result<()> {
        let load = self.load(Load::new(relay.address, MANY, FAR_MESSAGES, SMALL));
        self.sink.delay(FAR);
        let sent = generate(&load).inspect(|(finished, _)| self.wait(&load, finished));
        self.sink.delay(Duration::ZERO);
        let (finished, report) = sent?;
        section.add_troubles(&report);
        let (_, last) = self.sink.tally.times(load.shape.run).context("nothing was relayed")?;
        let rate = report.accepted as f64 / (last - finished.began).as_secs_f64();
        section.add("relayed at 50 ms, start included", rate, "messages/s", None);
        section.add("part of what the round trips allow", rate / FAR_LIMIT, "", Some(Goal::AtLeast(0.8)));
        self.prove(&load, &finished, section);
        Ok(())
    }

    /// The way of single messages, without and with a dead destination beside them.
    pub fn beside(&self, relay: &Relay, section: &mut Section<'_>) -> Result<()> {
        let alone = self.live(relay)?;
        let mut dead = Load::new(relay.address, MANY, WAITING, SMALL);
        dead.shape.destinations = Destinations::Dead;
        let (_, report) = generate(&self.load(dead))?;
        section.add_troubles(&report);
        section.add("waiting for the dead destination", report.accepted as f64, "messages", None);
        let beside = self.live(relay)?;
        for (name, times) in [("alone", &alone), ("beside", &beside)] {
            section.add(format!("submission to arrival, {name}, p50"), percentile(times, 50), "ms", None);
            section.add(format!("submission to arrival, {name}, p95"), percentile(times, 95), "ms", None);
        }
        let ratio = percentile(&beside, 50) / percentile(&alone, 50);
        section.add("beside / alone, p50", ratio, "", Some(Goal::Below(1.5)));
        Ok(())
    }

    /// Milliseconds from the first octet of a submission to its arrival, sorted.
    fn live(&self, relay: &Relay) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(LIVE);
        for _ in 0..LIVE {
            let load = self.load(Load::new(relay.address, 1, 1, SMALL));
            let (finished, _) = generate(&load)?;
            self.sink.tally.wait_for(load.shape.run, 1, LIVE_LIMIT);
            let (_, last) = self.sink.tally.times(load.shape.run).context("a live message did not arrive")?;
            times.push((last - finished.began).as_secs_f64() * 1000.0);
        }
        times.sort_unstable_by(f64::total_cmp);
        Ok(times)
    }

    /// Memory with many messages for many destinations, none of which answers; then a crash.
    pub fn destinations(&self, relay: &mut Relay, queued: u64, section: &mut Section<'_>) -> Result<()> {
        let mut load = Load::new(relay.address, MANY, queued, SMALL);
        load.shape.destinations = Destinations::Literals(DESTINATIONS);
        load.duration = Duration::from_secs(1_800);
        let (_, report) = generate(&self.load(load))?;
        section.add_troubles(&report);
        section.add("queued", report.accepted as f64, "messages", None);
        section.add("destinations", f64::from(DESTINATIONS), "", None);
        thread::sleep(CALM);
        let resident = mebibytes(relay.resident_bytes()?);
        section.add("resident memory", resident, "MiB", Some(Goal::Below(572.0)));
        let killed = relay.crash(|| {})?;
        relay.wait_until_it_greets()?;
        section.add("kill -9 to greeting", killed.elapsed().as_secs_f64(), "s", None);
        thread::sleep(CALM * 5);
        let resident = mebibytes(relay.resident_bytes()?);
        section.add("resident memory after the restart", resident, "MiB", Some(Goal::Below(572.0)));
        Ok(())
    }
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}
