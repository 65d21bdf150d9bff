//! kill -9 soak: the real program under load from many applications, before far sides that make trouble, killed at
//! random moments for minutes or hours; then an exact account of both sides.
//!
//! Promised: what was acknowledged is delivered, queued, held or bounced (D1, D6); a key has one queue id for ever and
//! is queued once (I1, I2); whoever is sent a second copy was in doubt when the process died or the far side broke off,
//! and on a route that holds nobody is (R1); nobody is told twice of a failure (D2); kills damage nothing (D4).
//!
//! `cargo test --test soak` runs the short form; `tests/soak/run.sh MINUTES SEED` the long one. The seed decides what is
//! tried; what meets what is up to the machine. It fails with exit code 1, and says which command tries the same again.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a program that tests another one: it prints, writes scratch files, and fails on JSON that is not as it must be"
)]

mod accounts;
mod api;
mod application;
mod book;
mod chaos;
mod client;
#[path = "../common/command.rs"]
mod command;
mod events;
mod far_side;
mod message;
mod operator;
mod process;
mod report;
mod round;
mod samples;
mod settings;
mod trap;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::Instant;

use api::Api;
use application::Application;
use book::Book;
use far_side::Weather;
use message::Route;
use process::Starter;
use report::{Report, Total};
use round::Bed;
use samples::{Sampler, Samples};

/// What `cargo test` does with it.
const SHORT: Duration = Duration::from_secs(8);
const SHORT_LIFE: Duration = Duration::from_millis(1_000);
/// How long the relay lives at most, mostly, in the long form.
const LIFE: Duration = Duration::from_millis(3_000);
/// The long form reckons up as often as this.
const ROUND: Duration = Duration::from_secs(180);

/// Bounds that have nothing to do with how long a run is, but for the disk: a key takes 131 octets, twice.
const MOST_DESCRIPTORS: u64 = 400;
const MOST_RESIDENT: u64 = 512 << 20;
const MOST_DISK: u64 = 512 << 20;
const DISK_PER_KEY: u64 = 300;

/// Kills oncemail while it works, and counts what is left.
#[derive(Parser)]
#[command(name = "soak", bin_name = "cargo test --test soak -- run")]
struct Cli {
    /// Minutes of load; fractions are fine.
    #[arg(long)]
    minutes: Option<f64>,
    /// What is tried.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Applications at a time.
    #[arg(long, default_value_t = 16)]
    applications: u64,
    /// Between two messages of an application, on average, in milliseconds.
    #[arg(long, default_value_t = 60)]
    pace: u64,
    /// The program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_oncemail"))]
    program: PathBuf,
    /// Keeps the data directory.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let Some(cli) = asked() else { return ExitCode::SUCCESS };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("soak: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(soak(&cli));
    let minutes = cli.minutes.map_or(String::new(), |minutes| format!("{minutes} "));
    let again = if cli.minutes.is_some() {
        format!("tests/soak/run.sh {minutes}{}", cli.seed)
    } else {
        "cargo test --test soak".to_owned()
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(faults) => {
            eprintln!("soak: {faults} faults; once more: {again}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("soak: {error:#}; once more: {again}");
            ExitCode::FAILURE
        }
    }
}

/// `run …` comes from a person. Everything else is from a `cargo test` that asks all tests at once: names to choose by,
/// and options that mean nothing here.
fn asked() -> Option<Cli> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "run") {
        return Some(Cli::parse_from(arguments));
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("soak: test");
        return None;
    }
    let mut names = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    let is_meant = names.peek().is_none() || names.any(|name| "soak".contains(name.as_str()));
    is_meant.then(|| Cli::parse_from(["run"]))
}

/// Gives back how many faults there are.
async fn soak(cli: &Cli) -> Result<u64> {
    let began = Instant::now();
    // Removed at a good end only: what went wrong can be looked at.
    let directory = tempfile::Builder::new().prefix("soak-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?.keep();
    println!("soak: in {}", directory.display());
    let mut bed = set_up(cli, &directory).await?;
    let book = bed.starter.book.clone();
    let mut left = cli.minutes.map_or(SHORT, |minutes| Duration::from_secs_f64(minutes * 60.0));
    let mut total = Total::default();
    while !left.is_zero() {
        let time = left.min(ROUND);
        left -= time;
        total.add(bed.round(time).await?);
        if !left.is_zero() {
            let (kills, a) = (bed.starter.started, &total.account);
            println!(
                "{:>6} s: {} messages, {kills} starts, {} faults",
                began.elapsed().as_secs(),
                a.messages,
                book.lock().fault_count
            );
        }
    }
    let data_dir = process::data_dir(&bed.starter.config);
    look_for_damage(&bed.starter.program, &bed.starter.config, &data_dir, &book)?;
    let samples = bed.sampler.all();
    check_bounds(&samples, total.account.keys, &book);
    let report = Report {
        seed: cli.seed,
        took: began.elapsed(),
        starts: bed.starter.started,
        total: &total,
        pages: &book.lock(),
        samples: &samples,
    };
    report.print();
    println!("{}", report.json());
    let faults = report.pages.fault_count;
    if !cli.keep && faults == 0 {
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(faults)
}

async fn set_up(cli: &Cli, directory: &Path) -> Result<Bed> {
    let (book, weather) = (Arc::new(Book::default()), Arc::new(Weather::default()));
    let mut far_sides = Vec::new();
    for route in Route::ALL {
        far_sides.push((route, far_side::start(route, weather.clone(), book.clone(), cli.seed).await?));
    }
    let config = settings::write(directory, &far_sides)?;
    let (door, _) = watch::channel(None);
    let (pid, pids) = watch::channel(None);
    let data_dir = process::data_dir(&config);
    let applications = (0..cli.applications)
        .map(|n| {
            let pace = Duration::from_millis(cli.pace);
            Application::new(n, cli.seed.wrapping_mul(1000), pace, door.subscribe(), book.clone())
        })
        .collect();
    Ok(Bed {
        api: Arc::new(Api::new(&data_dir)),
        sampler: Sampler::start(data_dir, pids),
        weather,
        applications,
        rng: StdRng::seed_from_u64(cli.seed),
        life: if cli.minutes.is_some() { LIFE } else { SHORT_LIFE },
        starter: Starter {
            program: cli.program.clone(),
            stderr: directory.join("stderr"),
            config,
            book,
            door,
            pid,
            started: 0,
            logs: Vec::new(),
        },
    })
}

/// D4: what was killed is torn at its end, and nowhere else.
fn look_for_damage(program: &Path, config: &Path, data_dir: &Path, book: &Book) -> Result<()> {
    for path in samples::set_aside(data_dir) {
        book.fault(format!("set aside as damaged: {}", path.display()));
    }
    let doctor = Command::new(program)
        .args(["doctor", "--offline", "--json", "--config"])
        .arg(config)
        .output()
        .context("oncemail doctor")?;
    let said: serde_json::Value = serde_json::from_slice(&doctor.stdout)
        .with_context(|| format!("oncemail doctor: {}", String::from_utf8_lossy(&doctor.stderr)))?;
    let checks = said["checks"].as_array().context("oncemail doctor names no checks")?;
    ensure!(!checks.is_empty(), "oncemail doctor has looked at nothing");
    for check in checks.iter().filter(|check| check["status"] == "fail") {
        book.fault(format!("oncemail doctor: {check}"));
    }
    let stderr = std::fs::read_to_string(config.with_file_name("stderr"))?;
    if !stderr.is_empty() {
        book.fault(format!("on the relay's standard error: {stderr}"));
    }
    Ok(())
}

/// S2, for as far as a run can see it.
fn check_bounds(samples: &Samples, keys: u64, book: &Book) {
    let most_disk = MOST_DISK + DISK_PER_KEY * keys;
    for (what, value, most) in [
        ("descriptors", samples.descriptors_most, MOST_DESCRIPTORS),
        ("resident memory", samples.resident_most, MOST_RESIDENT),
        ("octets on the disk", samples.disk_most, most_disk),
    ] {
        if value > most {
            book.fault(format!("{what}: {value}, more than {most} (S2)"));
        }
    }
}
