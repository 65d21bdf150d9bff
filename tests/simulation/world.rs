//! What everything in a simulation shares: one source of chance, the trace, and what was found wrong.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

/// More lines of the trace than this are counted, and not kept.
const MOST_LINES: usize = 200_000;

/// Whether lines of the trace are printed as they come: a run that hangs has no other end.
pub static PRINTS: AtomicBool = AtomicBool::new(false);

/// See the module.
pub struct World {
    began: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    chance: StdRng,
    trace: Vec<String>,
    digest: blake3::Hasher,
    wrong: Vec<String>,
    storm: bool,
    /// Domains of which the DNS has said that there is nothing.
    denied: BTreeSet<String>,
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        let inner = Inner {
            chance: StdRng::seed_from_u64(seed),
            trace: Vec::new(),
            digest: blake3::Hasher::new(),
            wrong: Vec::new(),
            storm: true,
            denied: ["null.example", "nowhere.example"].map(str::to_owned).into(),
        };
        Arc::new(Self { began: Instant::now(), inner: Mutex::new(inner) })
    }

    /// Simulated milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    /// True so many times out of a hundred.
    pub fn percent(&self, percent: u64) -> bool {
        self.inner().chance.random_range(0..100) < percent
    }

    /// True so many times out of a hundred while faults are made, and never after.
    pub fn fault(&self, percent: u64) -> bool {
        // Drawn in any case, so that the calm does not shift what comes after it.
        let drawn = self.percent(percent);
        drawn && self.inner().storm
    }

    /// From `low` to `high`, both included.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.inner().chance.random_range(low..=high)
    }

    /// As [`World::between`], but small ones as often as large ones.
    pub fn scaled(&self, low: u64, high: u64) -> u64 {
        let (low, high) = ((low.max(1) as f64).ln(), (high.max(1) as f64).ln());
        let drawn = self.inner().chance.random_range(low..=high);
        drawn.exp() as u64
    }

    pub fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        let last = u64::try_from(of.len() - 1).unwrap();
        &of[usize::try_from(self.between(0, last)).unwrap()]
    }

    pub async fn pause(&self, low_ms: u64, high_ms: u64) {
        let wait = self.scaled(low_ms, high_ms);
        sleep(Duration::from_millis(wait)).await;
    }

    pub fn is_stormy(&self) -> bool {
        self.inner().storm
    }

    pub fn calm(&self) {
        self.note("calm");
        self.inner().storm = false;
    }

    /// The DNS says that there is nothing of this domain.
    pub fn deny(&self, domain: &str) {
        self.inner().denied.insert(domain.to_owned());
    }

    pub fn is_denied(&self, address: &str) -> bool {
        let domain = address.rsplit('@').next().unwrap_or_default();
        self.inner().denied.contains(domain)
    }

    /// Adds a line to the trace.
    pub fn note(&self, line: impl AsRef<str>) {
        let at = self.now_ms();
        let line = format!("{at:>10} {}", line.as_ref());
        if PRINTS.load(Ordering::Relaxed) {
            println!("{line}");
        }
        let mut inner = self.inner();
        inner.digest.update(line.as_bytes());
        inner.digest.update(b"\n");
        if inner.trace.len() < MOST_LINES {
            inner.trace.push(line);
        }
    }

    /// A promise is broken.
    pub fn wrong(&self, what: impl AsRef<str>) {
        self.note(format!("WRONG: {}", what.as_ref()));
        self.inner().wrong.push(what.as_ref().to_owned());
    }

    pub fn check(&self, is_right: bool, what: impl FnOnce() -> String) {
        if !is_right {
            self.wrong(what());
        }
    }

    pub fn is_wrong(&self) -> bool {
        !self.inner().wrong.is_empty()
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.inner().wrong.clone()
    }

    pub fn trace(&self) -> Vec<String> {
        self.inner().trace.clone()
    }

    /// What is the same for two runs that were the same.
    pub fn digest(&self) -> String {
        self.inner().digest.finalize().to_hex().to_string()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}
