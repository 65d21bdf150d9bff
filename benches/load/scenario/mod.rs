//! Scenarios: a relay between generator and sink, each from an empty data directory, and one table at the end.
//!
//! A scenario measures and then proves: every acknowledged message must have reached the sink exactly once, without
//! its key. A proof that fails ends the run with an error, whatever the rates.

mod besieged;
mod disk_full;
mod http;
mod measure;
mod observed;
mod outbound;
mod overload;
mod relay;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use self::measure::Bench;
use self::relay::{Relay, Ways};
use self::table::Table;
use crate::attack::Attack;
use crate::sink::Sink;
use crate::target;

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Scenario {
    /// Commits per second of the disk, to read the others against.
    Disk,
    /// Generator straight into the sink: the limit of the tools themselves.
    Yardstick,
    /// Accepting at 10 connections that stay open, relaying paused.
    Accept10,
    /// The same at 50 connections.
    Accept50,
    /// Accepting and relaying at 10 connections.
    Relay10,
    /// The same at 50 connections.
    Relay50,
    /// One message per connection, 50 at a time, relaying paused.
    Reconnect,
    /// 50 KB messages, relaying paused.
    Large,
    /// A next hop that answers after 50 ms, 20 connections.
    Far,
    /// Live messages beside a destination with a long queue that answers nothing.
    Beside,
    /// Memory with a long queue for a thousand destinations; kill -9, restart, greeting.
    Destinations,
    /// Half of the submissions are repetitions with their key; relaying.
    Replay,
    /// Memory of a relay that has nothing to do.
    Idle,
    /// Memory with a full queue; kill -9, restart, first delivery.
    Queued,
    /// The rate with many remembered keys, against the rate with none.
    Keys,
    /// The rate with a history while somebody scrapes, lists and follows, against the rate without all that.
    Observed,
    /// How long operators wait for answers about a long queue.
    Steered,
    /// Twice as much mail as can be carried, at a fixed rate.
    Overload,
    /// Honest mail while the relay is attacked, attack by attack.
    Besieged,
    /// A small disk that fills up; only when it is asked for, with --directory on such a disk.
    Diskfull,
}

/// `load scenario`.
#[derive(Args)]
pub struct Cli {
    /// Which, and none for all of them.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// The relay that is started for each scenario.
    #[arg(long, env = "ONCEMAIL_BINARY", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/oncemail"))]
    binary: PathBuf,
    /// Where the data directories are made; must be on the disk that is to be measured.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    directory: PathBuf,
    /// Messages of a scenario.
    #[arg(long, short, default_value_t = 100_000)]
    messages: u64,
    /// Messages in the queue of "queued".
    #[arg(long, default_value_t = 100_000)]
    queued: u64,
    /// Messages in the queue of "destinations" and "steered".
    #[arg(long, default_value_t = 1_000_000)]
    queued_widely: u64,
    /// Remembered keys of "keys".
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// How long the queue may take to empty after a scenario.
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    drain: Duration,
    /// Also measures a relay that runs already and sends everything to `--sink-port`.
    #[arg(long, value_parser = target::parse_loopback, requires = "sink_port")]
    compare: Option<SocketAddr>,
    /// Its name in the table.
    #[arg(long, default_value = "other")]
    compare_name: String,
    /// Its first process, for CPU time of it and its children.
    #[arg(long)]
    compare_pid: Option<u32>,
    /// Messages of a scenario for the relay that is compared.
    #[arg(long, default_value_t = 10_000)]
    compare_messages: u64,
    /// Leaves out oncemail.
    #[arg(long, requires = "compare")]
    only_compare: bool,
    /// Where the sink listens; 0 lets the system choose.
    #[arg(long, default_value_t = 0)]
    sink_port: u16,
    /// How long "overload" offers, an attack of "besieged" lasts, and a full disk stays full.
    #[arg(long = "for", default_value = "10s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// The attacks of "besieged", and none for all of them.
    #[arg(long, value_enum)]
    attack: Vec<Attack>,
    /// Connections of the largest attack.
    #[arg(long, default_value_t = 4_000)]
    attackers: u32,
    /// One JSON array instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs `load scenario`.
///
/// # Errors
/// When a relay does not start or breaks, or when a proof failed; the table is printed all the same.
pub fn main(cli: &Cli) -> Result<()> {
    let mut scenarios = cli.scenarios.clone();
    if scenarios.is_empty() {
        scenarios.extend_from_slice(Scenario::value_variants());
        scenarios.retain(|scenario| *scenario != Scenario::Diskfull);
    }
    scenarios.sort_unstable();
    scenarios.dedup();
    let sink = Sink::start(cli.sink_port, 1, Duration::ZERO)?;
    let mut table = Table::default();
    let measured = scenarios.iter().try_for_each(|scenario| measure(cli, *scenario, &sink, &mut table));
    if cli.json {
        println!("{}", serde_json::to_string(&table.rows)?);
    } else {
        table.print();
    }
    measured?;
    ensure!(table.is_clean(), "a proof failed: see the rows marked BROKEN");
    Ok(())
}

fn measure(cli: &Cli, scenario: Scenario, sink: &Sink, table: &mut Table) -> Result<()> {
    let name = scenario.to_possible_value().context("every scenario has a name")?.get_name().to_owned();
    match scenario {
        Scenario::Disk => return measure::disk(&cli.directory, &mut table.section("disk", &name)),
        Scenario::Yardstick => {
            let bench = Bench { sink, messages: cli.messages, threads: cli.threads.into(), drain: cli.drain };
            return bench.yardstick(&mut table.section("sink", &name));
        }
        _ if scenario.starts_its_own() && cli.only_compare => return Ok(()),
        _ if scenario.starts_its_own() => {
            eprintln!("load: oncemail, {name}");
            let bench = Bench { sink, messages: cli.messages, threads: cli.threads.into(), drain: cli.drain };
            let mut section = table.section("oncemail", &name);
            return match scenario {
                Scenario::Observed => bench.observed(&cli.binary, &cli.directory, &mut section),
                Scenario::Overload => bench.overload(&cli.binary, &cli.directory, cli.time, &mut section),
                Scenario::Diskfull => bench.disk_full(&cli.binary, &cli.directory, cli.time, &mut section),
                Scenario::Besieged => {
                    let (attacks, most) = (&cli.attack, cli.attackers);
                    bench.besieged(&cli.binary, &cli.directory, attacks, most, cli.time, &mut section)
                }
                _ => bench.steered(&cli.binary, &cli.directory, cli.queued_widely, &mut section),
            };
        }
        _ => {}
    }
    if !cli.only_compare {
        eprintln!("load: oncemail, {name}");
        let dead = Sink::start(0, 1, Duration::ZERO)?;
        dead.hold();
        let ways = match scenario {
            Scenario::Beside => Ways::Beside(sink.address, dead.address),
            Scenario::Destinations => Ways::Hosts(outbound::closed_port()?),
            _ => Ways::Sink(sink.address),
        };
        let mut relay = Relay::start(&cli.binary, &cli.directory, ways)?;
        let bench = Bench { sink, messages: cli.messages, threads: cli.threads.into(), drain: cli.drain };
        let mut section = table.section("oncemail", &name);
        let ended = match scenario {
            Scenario::Idle => bench.idle(&relay, &mut section),
            Scenario::Queued => bench.queued(&mut relay, cli.queued, &mut section),
            Scenario::Far => bench.far(&relay, &mut section),
            Scenario::Beside => bench.beside(&relay, &mut section),
            Scenario::Destinations => bench.destinations(&mut relay, cli.queued_widely, &mut section),
            Scenario::Keys => bench.keys(&relay, cli.keys, &mut section),
            Scenario::Replay => bench.replay(&relay, &mut section),
            _ => bench.rates(scenario, &relay, &mut section),
        };
        if ended.is_err() || !table.is_clean() {
            eprintln!("load: the end of its log:\n{}", relay.log_tail());
        }
        ended.with_context(|| format!("oncemail, {name}"))?;
    }
    if let Some(address) = cli.compare
        && scenario.suits_any_relay()
    {
        eprintln!("load: {}, {name}", cli.compare_name);
        let relay = Relay::running(address, cli.compare_pid);
        let bench =
            Bench { sink, messages: cli.compare_messages, threads: cli.threads.into(), drain: cli.drain };
        bench
            .rates(scenario, &relay, &mut table.section(&cli.compare_name, &name))
            .with_context(|| format!("{}, {name}", cli.compare_name))?;
    }
    Ok(())
}

impl Scenario {
    /// Whether it starts relays by itself, as it needs them.
    fn starts_its_own(self) -> bool {
        matches!(self, Self::Observed | Self::Steered | Self::Overload | Self::Besieged | Self::Diskfull)
    }

    /// Whether it needs nothing but SMTP: no restart, no keys, no single process whose memory could be asked for.
    fn suits_any_relay(self) -> bool {
        matches!(
            self,
            Self::Accept10 | Self::Accept50 | Self::Relay10 | Self::Relay50 | Self::Reconnect | Self::Large
        )
    }
}
