//! What it costs to be watched, and what those who watch wait for.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::http::{self, Watchers};
use super::measure::{Bench, CALM, MANY, SMALL, generate};
use super::relay::{Relay, Ways};
use super::table::{Goal, Section};
use crate::generate::{Finished, Load};
use crate::message::Destinations;

/// Loads that each relay gets, by turns with the other: a machine's speed drifts over seconds, by more than what is
/// looked for.
const TURNS: usize = 160;
/// One of them is this part of the scenario's messages.
const PART: u64 = 30;
/// Domains that many queued messages are for.
const DOMAINS: u32 = 1_000;
/// Each question is asked so often, and the slowest answer counts.
const ASKED: usize = 5;
/// Reading what a start has found may take so long.
const READ_LIMIT: Duration = Duration::from_secs(600);

/// What is asked of a long queue, and how long the answer may take, in milliseconds.
const QUESTIONS: [(&str, &str, f64); 8] = [
    ("list, everything", "/api/v1/messages", 200.0),
    ("list, a domain", "/api/v1/messages?to_domain=d17.load.invalid", 200.0),
    ("list, domains under one", "/api/v1/messages?to_domain=*.load.invalid", 200.0),
    ("list, a sender, an age", "/api/v1/messages?from=@load.invalid&older=1s", 200.0),
    ("list, a route", "/api/v1/messages?route=sink", 200.0),
    ("list, a user who has none", "/api/v1/messages?user=nobody", 200.0),
    ("/metrics", "/metrics", 20.0),
    ("dashboard, its page", "/", 300.0),
];

/// Where the API may be served, and the configuration that serves it there.
fn administration() -> Result<(SocketAddr, String)> {
    // The port is free a moment before it is used; nothing else on a machine that measures takes ports.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    Ok((address, format!("\n[admin]\naddress = \"{address}\"\n")))
}

impl Bench<'_> {
    /// The same loads, by turns, through a relay that remembers nothing and that nobody watches, and through another.
    pub fn observed(&self, binary: &Path, directory: &Path, section: &mut Section<'_>) -> Result<()> {
        let way = || Ways::Sink(self.sink.address);
        let unseen = Relay::start_with(binary, directory, way(), "\n[history]\nretention = \"off\"\n")?;
        let (address, served) = administration()?;
        let seen = Relay::start_with(binary, directory, way(), &served)?;
        let (mut alone, mut observed, mut answers) = (Vec::new(), Vec::new(), 0);
        let mut loads = Vec::new();
        // The first turn warms both up, and does not count.
        for turn in 0..=TURNS {
            // Whatever grows slower or faster must not always do so for the same one.
            for is_seen in [turn % 2 == 0, turn % 2 != 0] {
                let relay = if is_seen { &seen } else { &unseen };
                let watchers = is_seen.then(|| Watchers::start(address));
                let through = self.through(relay, section);
                if let Some(watchers) = watchers {
                    answers += watchers.stop().with_context(|| relay.log_tail())?;
                }
                let (measured, load) = through?;
                if is_seen { &mut observed } else { &mut alone }.push(measured);
                loads.push(load);
            }
        }
        self.prove_all(&loads, section);
        ensure!(answers > 3 * TURNS as u64, "the watchers saw only {answers} answers and events");
        section.add("answers and events meanwhile", answers as f64, "", None);
        say(alone.get(1..).unwrap_or_default(), observed.get(1..).unwrap_or_default(), section);
        Ok(())
    }

    /// Accepted and relayed messages per second, and the relay's CPU seconds for each; and the load, to be proved.
    fn through(&self, relay: &Relay, section: &mut Section<'_>) -> Result<((f64, f64), Sent)> {
        let load = self.load(Load::new(relay.address, MANY, (self.messages / PART).max(1), SMALL));
        let before = relay.cpu()?.unwrap_or_default();
        let (finished, report) = generate(&load)?;
        section.add_troubles(&report);
        self.wait(&load, &finished);
        let cpu = relay.cpu()?.unwrap_or_default().saturating_sub(before).as_secs_f64();
        let (_, last) = self.sink.tally.times(load.shape.run).context("nothing was relayed")?;
        let rate = report.accepted as f64 / (last - finished.began).as_secs_f64();
        Ok(((rate, cpu / report.accepted.max(1) as f64), (load, finished)))
    }

    /// How long answers take with a long queue, also while it is read after a crash.
    pub fn steered(
        &self,
        binary: &Path,
        directory: &Path,
        queued: u64,
        section: &mut Section<'_>,
    ) -> Result<()> {
        let (address, served) = administration()?;
        let mut relay = Relay::start_with(binary, directory, Ways::Sink(self.sink.address), &served)?;
        let mut load = Load::new(relay.address, MANY, queued, SMALL);
        load.shape.destinations = Destinations::Domains(DOMAINS);
        load.duration = Duration::from_secs(1_800);
        self.sink.hold();
        let asked = self.ask_about(&mut relay, address, load, section);
        self.sink.release();
        asked.with_context(|| relay.log_tail())
    }

    fn ask_about(
        &self,
        relay: &mut Relay,
        address: SocketAddr,
        load: Load,
        section: &mut Section<'_>,
    ) -> Result<()> {
        let (_, report) = generate(&self.load(load))?;
        section.add_troubles(&report);
        section.add("queued", report.accepted as f64, "messages", None);
        thread::sleep(CALM);
        for (name, target, most) in QUESTIONS {
            let slowest = slowest(address, target)?;
            section.add(format!("{name}, slowest of {ASKED}"), slowest, "ms", Some(Goal::Below(most)));
        }
        let killed = relay.crash(|| {})?;
        relay.wait_until_it_greets()?;
        while unread(address)? > 0 {
            ensure!(killed.elapsed() < READ_LIMIT, "what the start has found is not read");
            thread::sleep(Duration::from_millis(100));
        }
        section.add("kill -9 until filters find everything", killed.elapsed().as_secs_f64(), "s", None);
        let slowest = slowest(address, "/api/v1/messages?to_domain=d17.load.invalid")?;
        section.add("list, a domain, after the restart", slowest, "ms", Some(Goal::Below(200.0)));
        Ok(())
    }
}

/// A load that was sent, and what was answered.
type Sent = (Arc<Load>, Finished);

/// What each turn has measured, rates first, set against the other's of the same turn.
fn say(alone: &[(f64, f64)], observed: &[(f64, f64)], section: &mut Section<'_>) {
    let rate = |turn: &(f64, f64)| turn.0;
    let cpu = |turn: &(f64, f64)| turn.1;
    let ratios = |of: fn(&(f64, f64)) -> f64, over: &[(f64, f64)], under: &[(f64, f64)]| {
        sorted(over.iter().zip(under).map(|(over, under)| of(over) / of(under)))
    };
    let rates = ratios(rate, observed, alone);
    section.add("alone, median", at(&sorted(alone.iter().map(rate)), 0.5), "messages/s", None);
    section.add("observed, median", at(&sorted(observed.iter().map(rate)), 0.5), "messages/s", None);
    section.add("observed / alone, rate, median turn", at(&rates, 0.5), "", Some(Goal::AtLeast(0.97)));
    section.add("observed / alone, rate, quarter of the turns below", at(&rates, 0.25), "", None);
    section.add("observed / alone, rate, quarter of the turns above", at(&rates, 0.75), "", None);
    section.add("observed / alone, CPU, median turn", at(&ratios(cpu, observed, alone), 0.5), "", None);
    // One and the same relay against itself, a turn later: what the machine alone does to such a figure.
    let later = alone.get(1..).unwrap_or_default();
    section.add("alone / alone a turn before, rate, median", at(&ratios(rate, later, alone), 0.5), "", None);
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value that this part of all stand before.
fn at(sorted: &[f64], part: f64) -> f64 {
    sorted.get((sorted.len() as f64 * part) as usize).copied().unwrap_or_default()
}

/// Milliseconds.
fn slowest(address: SocketAddr, target: &str) -> Result<f64> {
    let mut slowest = Duration::ZERO;
    for _ in 0..ASKED {
        slowest = slowest.max(http::get(address, target)?.1);
    }
    Ok(slowest.as_secs_f64() * 1000.0)
}

/// Messages that filters do not find yet. The API is served a moment after the greeting.
fn unread(address: SocketAddr) -> Result<u64> {
    let began = Instant::now();
    let (answer, _) = loop {
        match http::get(address, "/api/v1/messages?user=nobody") {
            Err(_) if began.elapsed() < CALM => thread::sleep(Duration::from_millis(20)),
            answered => break answered?,
        }
    };
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).context("an answer without a body")?;
    let page: serde_json::Value = serde_json::from_str(body)?;
    page.get("unread").and_then(serde_json::Value::as_u64).context("a page without `unread`")
}
