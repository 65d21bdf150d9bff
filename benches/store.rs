//! The embedded store alone: rates with and without remembered keys, the longest stall of a mass fill, memory, and the
//! time of a start. Run by hand; `docs/store.md` has the commands and the figures.
//!
//! `cargo bench --bench store -- [--dir DIR] [--keys MILLIONS] [--seconds N] [--queued N] [--size BYTES]`
//! A million queued messages: `--seconds 1 --queued 1000000 --size 200` (2 GB of room).
//! `cargo bench --bench store -- fill DIR MILLIONS` leaves a directory with that many keys, for `benches/keys.sh`.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a program run by hand, and its report"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use oncemail::clock::Clock;
use oncemail::mail::{
    Address, Body, Envelope, Fingerprint, FingerprintMode, Handling, KeyKind, Message, Origin, Progress,
    QueueId, Recipient, RecipientState, ReversePath, Scope, ScopedKey,
};
use oncemail::store::embedded::Options;
use oncemail::store::files::RealFiles;
use oncemail::store::{Acceptance, Arrivals, EmbeddedStore, KeyClaim, Store};
use tokio::time::Instant;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Writers of the mass fill.
const FILLERS: usize = 512;
/// Rounds of a comparison, for each side.
const ROUNDS: usize = 6;

struct Asked {
    dir: PathBuf,
    keys: u64,
    queued: u64,
    /// Content of a queued message, bytes.
    size: usize,
    seconds: u64,
}

struct Nobody;

impl Arrivals for Nobody {
    fn arrived(&self, _messages: Vec<Arc<Message>>) {}
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mut asked = Asked {
        dir: std::env::temp_dir().join("oncemail-bench"),
        keys: 0,
        queued: 0,
        size: 2048,
        seconds: 5,
    };
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_default();
        match arg.as_str() {
            "open" => return open_only(Path::new(&value)),
            "fill" => return fill_only(Path::new(&value), &args.next().unwrap_or_default()),
            "--dir" => asked.dir = value.into(),
            "--keys" => asked.keys = (value.parse::<f64>().unwrap() * 1e6) as u64,
            "--queued" => asked.queued = value.parse().unwrap(),
            "--size" => asked.size = value.parse().unwrap(),
            "--seconds" => asked.seconds = value.parse().unwrap(),
            other => return println!("unknown: {other}"),
        }
    }
    if asked.dir.exists() {
        return println!("{} is there already; give an empty place", asked.dir.display());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&asked));
    std::fs::remove_dir_all(&asked.dir).unwrap();
}

fn open(dir: &Path) -> (Arc<EmbeddedStore>, String) {
    let (store, recovery) =
        EmbeddedStore::open(Options::new(dir), Arc::new(RealFiles), Clock::system(), Arc::new(Nobody))
            .unwrap();
    (Arc::new(store), recovery.to_string())
}

/// In a process of its own, so that its memory is a start's and nobody else's.
fn open_only(dir: &Path) {
    let started = Instant::now();
    let (store, recovery) = open(dir);
    let took = started.elapsed();
    println!("  open: {took:?}, resident {} MB, at most {} MB; {recovery}", resident_mb(), peak_mb());
    std::thread::sleep(Duration::from_secs(5));
    println!("  5 s later: resident {} MB", resident_mb());
    drop(store);
}

fn fill_only(dir: &Path, millions: &str) {
    let keys = (millions.parse::<f64>().unwrap() * 1e6) as u64;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (store, _) = open(dir);
        fill(&store, keys).await;
        store.close().await.unwrap();
    });
}

async fn run(asked: &Asked) {
    let (store, _) = open(&asked.dir);
    println!("resident, empty: {} MB", resident_mb());
    rates(&store, asked.seconds).await;
    if asked.keys > 0 {
        fill(&store, asked.keys).await;
        rates(&store, asked.seconds).await;
        compare(&store, &asked.dir.with_extension("empty"), asked.seconds).await;
        println!("resident with {} keys: {} MB", asked.keys, resident_mb());
    }
    if asked.queued > 0 {
        queue(&store, asked.queued, asked.size).await;
        println!("resident with {} queued messages: {} MB", asked.queued, resident_mb());
        store.settle().await.unwrap();
        println!("  and after a checkpoint: {} MB, at most {} MB so far", resident_mb(), peak_mb());
    }
    drop(store);
    println!("after a crash of the program:");
    Command::new(std::env::current_exe().unwrap()).arg("open").arg(&asked.dir).status().unwrap();
    let (store, _) = open(&asked.dir);
    store.close().await.unwrap();
    drop(store);
    println!("after a clean end ({} MB on the disk):", megabytes(&asked.dir));
    Command::new(std::env::current_exe().unwrap()).arg("open").arg(&asked.dir).status().unwrap();
}

async fn rates(store: &Arc<EmbeddedStore>, seconds: u64) {
    for (writers, size, keyed) in [(1, 2048, true), (10, 2048, true), (64, 2048, true), (64, 2048, false)] {
        let until = Instant::now() + Duration::from_secs(seconds);
        let go_on = Arc::new(move || Instant::now() < until);
        let started = Instant::now();
        let times = write(store, writers, size, keyed, true, go_on).await;
        report(&format!("{writers} writers, {size} bytes, key: {keyed}"), &times, started.elapsed());
    }
}

/// The store with its keys and an empty one in turn, so that what else the machine does falls on both.
async fn compare(full: &Arc<EmbeddedStore>, dir: &Path, seconds: u64) {
    let (empty, _) = open(dir);
    for writers in [10, 64] {
        let mut sums = [0, 0];
        for round in 0..ROUNDS * 2 {
            let which = round % 2;
            let store = if which == 0 { &empty } else { full };
            let until = Instant::now() + Duration::from_secs(seconds);
            let times =
                write(store, writers, 2048, true, true, Arc::new(move || Instant::now() < until)).await;
            sums[which] += times.len();
        }
        let [empty, full] = sums.map(|sum| sum / (ROUNDS as u64 * seconds));
        println!("{writers} writers in turn: {empty}/s without keys, {full}/s with: {}%", full * 100 / empty);
    }
    drop(empty);
    std::fs::remove_dir_all(dir).unwrap();
}

/// Small messages, each finished at once: what is left is its key.
async fn fill(store: &Arc<EmbeddedStore>, keys: u64) {
    let part = (keys / 5).max(1);
    let mut done = 0;
    while done < keys {
        let left = Arc::new(AtomicU64::new(part));
        let started = Instant::now();
        let go_on = Arc::new(move || {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
        });
        let times = write(store, FILLERS, 16, true, true, go_on).await;
        done += part;
        report(&format!("fill up to {done} keys"), &times, started.elapsed());
        println!("  resident {} MB", resident_mb());
    }
}

async fn queue(store: &Arc<EmbeddedStore>, messages: u64, size: usize) {
    let left = Arc::new(AtomicU64::new(messages));
    let started = Instant::now();
    let go_on = Arc::new(move || {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
    });
    let times = write(store, FILLERS, size, true, false, go_on).await;
    report("queue", &times, started.elapsed());
}

/// Writers that each accept (and finish) one message after the other; the times of `accept` in microseconds.
async fn write(
    store: &Arc<EmbeddedStore>,
    writers: usize,
    size: usize,
    keyed: bool,
    finish: bool,
    go_on: Arc<impl Fn() -> bool + Send + Sync + 'static>,
) -> Histogram<u64> {
    let content = Bytes::from(vec![b'x'; size]);
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (store, content, go_on) = (store.clone(), content.clone(), go_on.clone());
            tokio::spawn(async move {
                let mut times = Histogram::new(3).unwrap();
                while go_on() {
                    let message = message(&content, keyed);
                    let claim = message.key.as_ref().map(|_| claim(&message));
                    let asked = Instant::now();
                    let answer = store.accept(message.clone(), claim).await.unwrap();
                    times.record(asked.elapsed().as_micros() as u64).unwrap();
                    assert_eq!(answer, Acceptance::Queued);
                    if finish {
                        let mut progress = Progress::fresh(1, message.accepted_at);
                        progress.recipients.iter_mut().for_each(|r| r.state = RecipientState::Delivered);
                        store.save(message.id, progress).await.unwrap();
                    }
                }
                times
            })
        })
        .collect();
    let mut all = Histogram::new(3).unwrap();
    for task in tasks {
        all.add(task.await.unwrap()).unwrap();
    }
    all
}

fn message(content: &Bytes, keyed: bool) -> Arc<Message> {
    let now = Clock::system().now();
    let id = QueueId::new(now);
    let forward_path = Address::parse("someone@example.net").unwrap();
    let key = ScopedKey { scope: Scope::named("app"), kind: KeyKind::Header, key: id.to_string() };
    Arc::new(Message {
        id,
        accepted_at: now,
        envelope: Envelope {
            reverse_path: ReversePath::Mailbox(Address::parse("app@example.org").unwrap()),
            recipients: vec![Recipient { forward_path, notify: None, orcpt: None, unverified: false }],
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
        },
        origin: Origin { listener: "main".into(), user: Some("app".into()), client: None },
        key: keyed.then_some(key),
        message_id: format!("<{id}@example.org>"),
        content: content.clone(),
    })
}

fn claim(message: &Message) -> KeyClaim {
    let mode = FingerprintMode::Content;
    let fingerprint = Fingerprint { version: 1, mode, envelope: [1; 32], content: [2; 32] };
    KeyClaim { fingerprint, expires_at: message.accepted_at.plus(DAY) }
}

fn report(what: &str, times: &Histogram<u64>, took: Duration) {
    let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "{what}: {:.0}/s; accept p50 {:.2} p99 {:.2} p99.9 {:.2} max {:.1} ms",
        times.len() as f64 / took.as_secs_f64(),
        ms(0.5),
        ms(0.99),
        ms(0.999),
        times.max() as f64 / 1000.0,
    );
}

fn resident_mb() -> u64 {
    status_mb("VmRSS:")
}

fn peak_mb() -> u64 {
    status_mb("VmHWM:")
}

fn status_mb(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn megabytes(dir: &Path) -> u64 {
    fn bytes(dir: &Path) -> u64 {
        let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        entries.map(|e| if e.path().is_dir() { bytes(&e.path()) } else { e.metadata().unwrap().len() }).sum()
    }
    bytes(dir) >> 20
}
