//! The whole relay in a simulated world, repeatable by its seed: clients, store, queue, relay, next hops, DNS, power cuts,
//! crashes, clocks. What is simulated is only the world: sockets, disk, DNS, time and chance.
//!
//! A run is a storm of an hour or so and then a calm of up to some days, in about a tenth of a second. All the time, and at
//! the end, `ledger.rs` checks what is promised. A seed that fails prints how to run it again, with all that happened.
//!
//! | | |
//! |---|---|
//! | `world.rs`, `settings.rs`, `run.rs` | chance, trace; how the relay is configured; one run |
//! | `process.rs`, `store.rs`, `disk.rs`, `net.rs` | the relay's process, and what it stands on |
//! | `client.rs`, `far.rs`, `town.rs` | who sends, who receives, and the names between |
//! | `ledger.rs`, `takes.rs` | what must be true |

#![expect(clippy::print_stdout, reason = "a seed that fails, and reports of runs by hand")]

mod client;
mod disk;
mod far;
mod ledger;
mod net;
mod process;
mod restarts;
mod run;
mod settings;
mod store;
mod takes;
mod town;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use run::{Figures, Report, simulate};

/// What CI runs.
const SEEDS: u64 = 200;
/// Runs at a time.
const THREADS: u64 = 2;

fn run_seed(seed: u64) -> Report {
    let run = || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(simulate(seed))
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Report {
        wrong: vec!["something panicked: see above".to_owned()],
        ..Report::default()
    })
}

/// Runs all seeds, and fails with those that break a promise.
fn run_all(seeds: std::ops::Range<u64>) -> Figures {
    let (next, sum, failed) =
        (AtomicU64::new(seeds.start), Mutex::new(Figures::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end || failed.lock().unwrap().len() >= 10 {
                        return;
                    }
                    let report = run_seed(seed);
                    sum.lock().unwrap().add(&report.figures);
                    if !report.wrong.is_empty() {
                        println!("seed {seed} fails: {}", report.wrong[0]);
                        failed.lock().unwrap().push((seed, report.wrong));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let words: Vec<_> = failed
        .iter()
        .map(|(seed, wrong)| {
            format!(
                "seed {seed}: {}\n  ONCEMAIL_SEED={seed} cargo test --test promises simulation::one_seed -- --ignored --nocapture",
                wrong.join("\n  ")
            )
        })
        .collect();
    assert!(
        words.is_empty(),
        "{} of {} seeds fail:\n{}",
        words.len(),
        seeds.end - seeds.start,
        words.join("\n")
    );
    sum.into_inner().unwrap()
}

impl Figures {
    fn add(&mut self, other: &Self) {
        let Self { messages, acknowledged, replays, delivered, twice, bounced, held, lives, days } = other;
        self.messages += messages;
        self.acknowledged += acknowledged;
        self.replays += replays;
        self.delivered += delivered;
        self.twice += twice;
        self.bounced += bounced;
        self.held += held;
        self.lives += lives;
        self.days += days;
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn d1_d2_d4_d6_i1_i2_i4_r1_r2_every_storm_ends_well() {
    let figures = run_all(0..SEEDS);
    // Something has happened in them.
    assert!(figures.acknowledged > SEEDS && figures.replays > 20 && figures.lives > 2 * SEEDS, "{figures:?}");
    assert!(figures.delivered > SEEDS && figures.bounced > SEEDS && figures.held > 20, "{figures:?}");
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in [1, 2, 3] {
        let (one, other) = (run_seed(seed), run_seed(seed));
        let differ = one.trace.iter().zip(&other.trace).position(|(one, other)| one != other);
        if let Some(at) = differ {
            let around = at.saturating_sub(5)..at + 1;
            panic!(
                "seed {seed}:\n{}\nand\n{}",
                one.trace[around.clone()].join("\n"),
                other.trace[around].join("\n")
            );
        }
        assert_eq!(one.digest, other.digest, "seed {seed}");
    }
}

/// `ONCEMAIL_SEEDS=10000 cargo test --release --test promises simulation::many -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes to hours: ONCEMAIL_SEEDS says how many, ONCEMAIL_FIRST_SEED from where"]
fn many_storms_end_well() {
    let first = variable("ONCEMAIL_FIRST_SEED").unwrap_or(0);
    let seeds = variable("ONCEMAIL_SEEDS").unwrap_or(10_000);
    let figures = run_all(first..first + seeds);
    println!("{seeds} seeds from {first}: {figures:?}");
}

#[test]
#[ignore = "ONCEMAIL_SEED says which; prints all that happens"]
fn one_seed() {
    let seed = variable("ONCEMAIL_SEED").expect("ONCEMAIL_SEED says which");
    world::PRINTS.store(true, Ordering::Relaxed);
    let report = run_seed(seed);
    println!("{:?}", report.figures);
    assert!(report.wrong.is_empty(), "seed {seed}:\n{}", report.wrong.join("\n"));
}
