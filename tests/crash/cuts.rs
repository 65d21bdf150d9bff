//! The power goes, or the process, after every single operation of many workloads, and again within the start that
//! follows.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "figures, and how to see a failure again")]

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use oncemail::clock::Clock;
use oncemail::store::files::Files as _;
use oncemail::store::{EmbeddedStore, Store as _};
use tokio::runtime::{Builder, Runtime};

use super::oracle::{Belief, still};
use super::workload::{Run, Shape, open_disk, root, run};
use crate::common::history::start;
use crate::common::memory_disk::{MemoryDisk, Trouble};
use crate::common::platter::{Chance, Cut, Op, Platter};

const CUTS: [Cut; 8] = [
    Cut::Lost,
    Cut::Kept,
    Cut::Killed,
    Cut::Torn(512),
    Cut::Torn(4096),
    Cut::Torn(512),
    Cut::Hollow(512),
    Cut::Hollow(4096),
];

/// What was done, for whoever reads the figures.
#[derive(Default)]
pub struct Figures {
    pub workloads: AtomicU64,
    pub operations: AtomicU64,
    pub disks: AtomicU64,
    pub nested: AtomicU64,
    /// Removals that failed and were made later.
    pub waited: AtomicU64,
}

impl Figures {
    pub fn count(&self, workloads: u64, operations: usize) {
        self.workloads.fetch_add(workloads, Ordering::Relaxed);
        self.operations.fetch_add(operations as u64, Ordering::Relaxed);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [workloads, operations, disks, nested] =
            [&self.workloads, &self.operations, &self.disks, &self.nested].map(|n| n.load(Ordering::Relaxed));
        write!(
            f,
            "{workloads} workloads, {operations} operations, {disks} disks rebuilt and opened, {nested} of "
        )?;
        f.write_str("them after a crash within a start")
    }
}

/// Says, when a check fails, how to see it again.
pub struct Replay {
    pub test: &'static str,
    pub shape: Shape,
    pub what: String,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Shape { seed, steps, .. } = self.shape;
            eprintln!(
                "failed: {}\nagain: ONCEMAIL_SEED={seed} ONCEMAIL_STEPS={steps} \
                 cargo test --test promises {} -- --ignored --nocapture",
                self.what, self.test
            );
        }
    }
}

pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).build().unwrap()
}

/// Cuts at every operation of a workload; with `every` above 1, each cut is made by chance once in so many times.
fn cut_everywhere(runtime: &Runtime, shape: Shape, every: usize, figures: &Figures) {
    let mut replay = Replay { test: "crash::cuts::one_seed", shape, what: "the workload".into() };
    let Run { disk, noted, store, .. } = run(runtime, shape);
    drop(store);
    let (mut platter, log) = disk.recording();
    figures.count(1, log.len());
    for at in 0..=log.len() {
        if at > 0 {
            platter.apply(&log[at - 1]);
        }
        let belief = Belief::new(&noted, at, start());
        for (number, cut) in CUTS.into_iter().enumerate() {
            // The same for each cut, whichever are left out.
            let mut chance = Chance(shape.seed << 32 ^ (at * CUTS.len() + number) as u64);
            if chance.below(every) > 0 {
                continue;
            }
            let before = at.checked_sub(1).map(|last| &log[last]);
            replay.what = format!("{cut:?} after operation {at} of {}, {}", log.len(), name(before));
            let mut after = platter.after(cut, chance.next());
            // The journal alone has all of it.
            let index_stays = !chance.one_in(4);
            if !index_stays {
                replay.what.push_str(", without the index");
                after.lose(&root().join("index"));
            }
            let sound = !matches!(cut, Cut::Torn(_) | Cut::Hollow(_));
            let expected = Expected { sound, index_stays };
            check(runtime, &belief, &after, expected, &mut chance, figures);
        }
    }
}

fn name(op: Option<&Op>) -> String {
    format!("{op:?}").chars().take(120).collect()
}

/// What a start may have to say.
#[derive(Clone, Copy)]
pub struct Expected {
    /// Nothing on the disk is damaged.
    pub sound: bool,
    /// An index that a checkpoint names is as it was written.
    pub index_stays: bool,
}

/// Opens what a crash has left, checks it, works with it, and loses the power again.
pub fn check(
    runtime: &Runtime,
    belief: &Belief<'_>,
    platter: &Platter,
    expected: Expected,
    chance: &mut Chance,
    figures: &Figures,
) {
    let clock = Clock::manual(belief.now());
    let disk = MemoryDisk::from(platter.clone());
    let had_checkpoint = disk.len(&root().join("checkpoint")).is_some();
    let (store, recovery) = open_disk(&disk, &clock).unwrap();
    figures.disks.fetch_add(1, Ordering::Relaxed);
    if expected.index_stays {
        assert!(!(had_checkpoint && recovery.index_rebuilt), "a checkpoint names synced runs only");
    }
    if expected.sound {
        assert!(recovery.set_aside.is_empty(), "nothing was damaged: {recovery}");
    }
    assert!(
        recovery.set_aside.iter().all(|path| disk.len(path).is_some()),
        "D4: what was set aside is there"
    );
    leaves_nothing_behind(&disk, &store);
    let mut seen = runtime.block_on(belief.check(&store, &recovery));
    let (start, log) = disk.recording();
    runtime.block_on(belief.go_on(&store, &clock, &mut seen));
    if chance.one_in(4) {
        runtime.block_on(store.settle()).unwrap();
    }
    drop(store);
    // What it has found, and what it was told, is there after the next cut.
    let mut after = disk.platter().after(Cut::Lost, 1);
    // The journal alone has all of it, whatever the start before has copied forward and given back.
    let journal_alone = chance.one_in(3);
    if journal_alone {
        after.lose(&root().join("checkpoint"));
        after.lose(&root().join("index"));
    }
    let again = MemoryDisk::from(after);
    let found = recovery.set_aside;
    let (store, recovery) = open_disk(&again, &clock).unwrap();
    figures.disks.fetch_add(1, Ordering::Relaxed);
    let is_new = recovery.set_aside.iter().any(|path| !found.contains(path));
    assert!(!is_new, "D4: a torn tail is cut off, and not found again as damage: {recovery}");
    runtime.block_on(still(&seen, &store, &recovery));
    drop(store);
    if chance.one_in(3) {
        nested(runtime, belief, start.clone(), &log, chance, figures);
    }
    if chance.one_in(3) {
        failing_start(runtime, belief, &start, log.len(), chance, figures);
    }
}

/// What is no part of the store any more takes no room.
pub fn leaves_nothing_behind(disk: &MemoryDisk, store: &EmbeddedStore) {
    let count = |dir: &str, end: &str| {
        let names = disk.list(&root().join(dir)).unwrap();
        names.iter().filter(|name| name.ends_with(end)).count() as u64
    };
    let figures = store.figures();
    assert_eq!(count("index", ".run"), figures.index_runs, "a run that nobody uses was left behind");
    assert_eq!(count("journal", ".seg"), figures.segments, "a segment that nobody knows was left behind");
}

/// A file operation of the start fails; the next start finds everything all the same.
fn failing_start(
    runtime: &Runtime,
    belief: &Belief<'_>,
    platter: &Platter,
    operations: usize,
    chance: &mut Chance,
    figures: &Figures,
) {
    let disk = MemoryDisk::from(platter.clone());
    let trouble = match chance.below(4) {
        0 => Trouble::Fails(chance.below(operations), io::ErrorKind::Other),
        1 => Trouble::BreaksOff(chance.below(operations), io::ErrorKind::Other, chance.next()),
        2 => Trouble::BreaksOff(chance.below(operations), io::ErrorKind::StorageFull, chance.next()),
        _ => Trouble::Unreadable(chance.below(operations)),
    };
    disk.set_trouble(trouble);
    let clock = Clock::manual(belief.now());
    // It says so, or can do without.
    drop(open_disk(&disk, &clock));
    let cut = [Cut::Killed, Cut::Lost, Cut::Torn(512)][chance.below(3)];
    let disk = MemoryDisk::from(disk.platter().after(cut, chance.next()));
    let (store, recovery) = open_disk(&disk, &clock)
        .unwrap_or_else(|error| panic!("{cut:?} after {trouble:?} in the start: {error}"));
    runtime.block_on(belief.check(&store, &recovery));
    figures.disks.fetch_add(1, Ordering::Relaxed);
    figures.nested.fetch_add(1, Ordering::Relaxed);
}

/// The power goes within the start.
fn nested(
    runtime: &Runtime,
    belief: &Belief<'_>,
    mut platter: Platter,
    log: &[Op],
    chance: &mut Chance,
    figures: &Figures,
) {
    let at = chance.below(log.len() + 1);
    log[..at].iter().for_each(|op| platter.apply(op));
    let cut = CUTS[chance.below(CUTS.len())];
    let disk = MemoryDisk::from(platter.after(cut, chance.next()));
    let clock = Clock::manual(belief.now());
    let (store, recovery) = open_disk(&disk, &clock)
        .unwrap_or_else(|error| panic!("{cut:?} after operation {at} of the start: {error}"));
    runtime.block_on(belief.check(&store, &recovery));
    figures.disks.fetch_add(1, Ordering::Relaxed);
    figures.nested.fetch_add(1, Ordering::Relaxed);
}

/// A number from the environment.
pub fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Does `one` for each seed, on so many threads as there are processors.
pub fn each_seed(seeds: std::ops::Range<u64>, one: impl Fn(&Runtime, u64) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let runtime = runtime();
                loop {
                    let seed = seeds.start + next.fetch_add(1, Ordering::SeqCst) as u64;
                    if seed >= seeds.end {
                        return;
                    }
                    one(&runtime, seed);
                }
            });
        }
    });
}

#[test]
fn d1_d2_d4_d6_i1_i4_a_cut_after_every_operation_of_seeded_workloads() {
    let figures = Figures::default();
    each_seed(0..12, |runtime, seed| {
        let shape = Shape { seed, steps: 12, trouble: None };
        cut_everywhere(runtime, shape, 6, &figures);
    });
    assert!(figures.disks.load(Ordering::Relaxed) > 500);
    println!("{figures}");
}

#[test]
#[ignore = "the long form: ONCEMAIL_SEEDS says how many, ONCEMAIL_FROM the first"]
fn every_seed() {
    let (from, seeds) = (asked("ONCEMAIL_FROM", 1000), asked("ONCEMAIL_SEEDS", 100));
    let figures = Figures::default();
    each_seed(from..from + seeds, |runtime, seed| {
        // Short ones are cut at every operation in every way, each eighth is long and cut by chance.
        let (steps, every) = if seed % 8 == 0 { (90, 12) } else { (14, 1) };
        cut_everywhere(runtime, Shape { seed, steps, trouble: None }, every, &figures);
    });
    println!("cuts: {figures}");
}

#[test]
#[ignore = "for a failing seed: ONCEMAIL_SEED and ONCEMAIL_STEPS say which"]
fn one_seed() {
    let (seed, steps) = (asked("ONCEMAIL_SEED", 0), asked("ONCEMAIL_STEPS", 12));
    let shape = Shape { seed, steps: usize::try_from(steps).unwrap(), trouble: None };
    cut_everywhere(&runtime(), shape, 1, &Figures::default());
}
