//! What it costs to be watched, and what those who watch wait for.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::http::{self, Watchers};
use super::measure::{Bench, CALM, MANY, SMALL, generate};
use super::relay::{Relay, Ways};
use super::table::{Goal, Section};
use crate::generate::Load;
use crate::message::Destinations;

/// Relays that are measured of each kind, by turns.
const ROUNDS: usize = 7;
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
    /// The same load through relays that remember nothing and that nobody watches, and through others.
    pub fn observed(&self, binary: &Path, directory: &Path, section: &mut Section<'_>) -> Result<()> {
        let (mut alone, mut observed, mut ratios) = (Rates::default(), Rates::default(), Vec::new());
        for round in 0..ROUNDS {
            // A machine that grows slower or faster must not always do so for the same one.
            let (unseen, seen) = if round % 2 == 0 {
                let unseen = self.unseen(binary, directory, section)?;
                (unseen, self.seen(binary, directory, section)?)
            } else {
                let seen = self.seen(binary, directory, section)?;
                (self.unseen(binary, directory, section)?, seen)
            };
            alone.add(unseen);
            observed.add(seen);
            ratios.push(seen.0 / unseen.0);
        }
        ratios.sort_by(f64::total_cmp);
        let median = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
        section.add("alone, best of the rounds", alone.best, "messages/s", None);
        section.add("observed, best of the rounds", observed.best, "messages/s", None);
        section.add("observed / alone, rate, median round", median, "", Some(Goal::AtLeast(0.97)));
        section.add("observed / alone, CPU", observed.cpu / alone.cpu, "", None);
        Ok(())
    }

    /// One load through a relay that remembers nothing and that nobody watches.
    fn unseen(&self, binary: &Path, directory: &Path, section: &mut Section<'_>) -> Result<(f64, f64)> {
        let unseen = "\n[history]\nretention = \"off\"\n";
        let relay = Relay::start_with(binary, directory, Ways::Sink(self.sink.address), unseen)?;
        self.through(&relay, section)
    }

    /// One load through a relay with its history, while it is watched.
    fn seen(&self, binary: &Path, directory: &Path, section: &mut Section<'_>) -> Result<(f64, f64)> {
        let (address, served) = administration()?;
        let relay = Relay::start_with(binary, directory, Ways::Sink(self.sink.address), &served)?;
        let watchers = Watchers::start(address);
        let measured = self.through(&relay, section);
        let answers = watchers.stop().with_context(|| relay.log_tail())?;
        section.add("answers and events meanwhile", answers as f64, "", None);
        measured
    }

    /// Accepted and relayed messages per second, and the relay's CPU seconds for each.
    fn through(&self, relay: &Relay, section: &mut Section<'_>) -> Result<(f64, f64)> {
        let load = self.load(Load::new(relay.address, MANY, self.messages, SMALL));
        let before = relay.cpu()?.unwrap_or_default();
        let (finished, report) = generate(&load)?;
        section.add_troubles(&report);
        self.wait(&load, &finished);
        let cpu = relay.cpu()?.unwrap_or_default().saturating_sub(before).as_secs_f64();
        let (_, last) = self.sink.tally.times(load.shape.run).context("nothing was relayed")?;
        let rate = report.accepted as f64 / (last - finished.began).as_secs_f64();
        section.add("accepted and relayed", rate, "messages/s", None);
        self.prove(&load, &finished, section);
        Ok((rate, cpu / report.accepted.max(1) as f64))
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

/// Of several rounds.
#[derive(Default)]
struct Rates {
    best: f64,
    cpu: f64,
}

impl Rates {
    fn add(&mut self, (rate, cpu): (f64, f64)) {
        self.best = self.best.max(rate);
        self.cpu += cpu;
    }
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
