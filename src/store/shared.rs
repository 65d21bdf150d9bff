//! What the store's callers and its two threads share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::codec::accepted_body;
use super::embedded::Options;
use super::files::{Files, is_full};
use super::index::{Index, is_damage};
use super::journal::segment_name;
use super::keys::{KeyHash, Overlay};
use super::ledger::Ledger;
use super::metrics::StoreMetrics;
use super::record::{Kind, Mark, Place, read_record};
use super::{Figures, KeyRecord, LeftInPlace, StoreError};
use crate::clock::Clock;
use crate::mail::QueueId;

/// Free space is asked for at most this often while there is enough, milliseconds.
const SPACE_INTERVAL: u64 = 1000;

/// See the module.
pub struct Shared {
    pub options: Options,
    pub files: Arc<dyn Files>,
    pub clock: Clock,
    pub mark: Mark,
    pub index: Index,
    pub state: Mutex<State>,
    /// The commit thread need not wait for the index thread any more.
    pub room: Condvar,
    pub metrics: StoreMetrics,
    /// The index found the disk full: keys would pile up in memory, so new mail is refused.
    pub index_is_full: AtomicBool,
    pub closed: AtomicBool,
    latch: OnceLock<String>,
    min_free: AtomicU64,
    free: AtomicU64,
    free_asked_at: AtomicU64,
}

/// What is durable and visible.
#[derive(Default)]
pub struct State {
    pub ledger: Ledger,
    pub overlay: Overlay,
    /// Everything before it is in `ledger` and in `overlay` or the index: segment and offset.
    pub position: (u32, u64),
    /// What the start had no room to set aside, and nobody has had since. As long as there is any, no checkpoint is made:
    /// the next start would not look for it, and its segment could go (D4).
    pub left_in_place: Vec<LeftInPlace>,
    /// The index thread waits for the commit thread, which must not wait for it then.
    pub asking: bool,
}

impl State {
    /// Whether a key counts: until its expiry, and as long as its message lives (I3), unless it was forgotten.
    pub fn is_alive(&self, record: &KeyRecord, clock: &Clock) -> bool {
        (clock.settled() < record.expires_at || self.ledger.live.contains_key(&record.id))
            && !self.ledger.forgotten.contains_key(&record.id)
    }
}

/// The first answer to "who has this key".
pub enum Lookup {
    /// It has been decided.
    Decided(Option<KeyRecord>),
    /// The index has to be read.
    ReadIndex,
}

impl Shared {
    pub fn new(
        options: Options,
        files: Arc<dyn Files>,
        clock: Clock,
        mark: Mark,
        index: Index,
        state: State,
    ) -> Self {
        Self {
            min_free: AtomicU64::new(options.min_free),
            options,
            files,
            clock,
            mark,
            index,
            state: Mutex::new(state),
            room: Condvar::new(),
            metrics: StoreMetrics::default(),
            index_is_full: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            latch: OnceLock::new(),
            free: AtomicU64::new(u64::MAX),
            free_asked_at: AtomicU64::new(0),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn journal_dir(&self) -> PathBuf {
        self.options.data_dir.join("journal")
    }

    /// D3: nothing is written from now on.
    pub fn latch(&self, reason: String) -> StoreError {
        tracing::error!(%reason, "the store has stopped writing; a restart recovers");
        let reason = self.latch.get_or_init(|| reason);
        self.room.notify_all();
        StoreError::Latched(reason.clone())
    }

    pub fn latched(&self) -> Option<StoreError> {
        self.latch.get().map(|reason| StoreError::Latched(reason.clone()))
    }

    /// Whether anything may be written.
    pub fn check_open(&self) -> Result<(), StoreError> {
        match self.latched() {
            Some(error) => Err(error),
            None if self.closed.load(Ordering::SeqCst) => Err(StoreError::Closed),
            None => Ok(()),
        }
    }

    /// `limits.min_free`, as it is now.
    fn min_free(&self) -> u64 {
        self.min_free.load(Ordering::Relaxed)
    }

    pub fn set_min_free(&self, bytes: u64) {
        self.min_free.store(bytes, Ordering::Relaxed);
        // The next question is answered by a look at the disk.
        self.free_asked_at.store(0, Ordering::Relaxed);
    }

    /// The free bytes, when they are too few for new mail. While they are, each call asks again, so that acceptance
    /// resumes by itself.
    pub fn low_disk(&self) -> Option<u64> {
        let now = self.clock.now().as_millis();
        let (asked_at, free) =
            (self.free_asked_at.load(Ordering::Relaxed), self.free.load(Ordering::Relaxed));
        if free < self.min_free() || now.abs_diff(asked_at) >= SPACE_INTERVAL {
            self.ask_free_space();
        }
        let is_full = self.index_is_full.load(Ordering::Relaxed);
        Some(self.free.load(Ordering::Relaxed)).filter(|free| *free < self.min_free() || is_full)
    }

    pub fn ask_free_space(&self) {
        let free = self.files.free_space(&self.options.data_dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "free disk space is unknown");
            u64::MAX
        });
        self.free.store(free, Ordering::Relaxed);
        self.free_asked_at.store(self.clock.now().as_millis(), Ordering::Relaxed);
    }

    /// Makes the error of an operation that can be tried again after a full disk, and of no other.
    pub fn full_or_latched(&self, what: &str, error: &std::io::Error) -> StoreError {
        if is_full(error) { self.low_disk_error() } else { self.latch(format!("{what}: {error}")) }
    }

    pub fn low_disk_error(&self) -> StoreError {
        self.ask_free_space();
        StoreError::LowDisk { free_bytes: self.free.load(Ordering::Relaxed) }
    }

    /// Figures, without a look at the disk.
    pub fn figures(&self) -> Figures {
        let now = self.clock.now();
        let mut keys = BTreeMap::new();
        let (index_bytes, index_runs) = self.index.count_into(&mut keys);
        let state = self.state();
        state.overlay.count_into(&mut keys);
        let (needed_bytes, journal_bytes) = state.ledger.totals(now);
        let free = self.free.load(Ordering::Relaxed);
        Figures {
            journal_bytes,
            needed_bytes,
            segments: state.ledger.segments.len() as u64,
            index_bytes,
            index_runs,
            keys: keys.values().sum(),
            keys_by_expiry: keys.into_iter().map(|(bucket, count)| (bucket.end(), count)).collect(),
            forgotten_keys: state.ledger.forgotten.len() as u64,
            free_bytes: (free != u64::MAX).then_some(free),
            messages: state.ledger.live.len() as u64,
        }
    }

    /// Who has a key, as far as memory tells, and the overlay's number of moves before it was asked.
    pub fn look_up(&self, hash: &KeyHash) -> (Lookup, u64) {
        let moved = {
            let state = self.state();
            if let Some(record) = state.overlay.get(hash) {
                let record = state.is_alive(record, &self.clock).then(|| record.clone());
                return (Lookup::Decided(record), state.overlay.moved());
            }
            state.overlay.moved()
        };
        let lookup = if self.index.may_contain(hash) { Lookup::ReadIndex } else { Lookup::Decided(None) };
        (lookup, moved)
    }

    /// Who has a key, by the index. Reads the disk: not for a tokio worker.
    pub fn look_up_index(&self, hash: &KeyHash) -> Result<Option<KeyRecord>, StoreError> {
        let mut found = self.index.read(hash).map_err(|error| match is_damage(&error) {
            true => self.latch(format!("index: {error}")),
            false => StoreError::Read(format!("index: {error}")),
        })?;
        let state = self.state();
        found.retain(|record| state.is_alive(record, &self.clock));
        Ok(found.into_iter().max_by_key(|record| (record.expires_at, record.accepted_at)))
    }

    /// Reads a record of the journal.
    pub fn read(&self, place: Place) -> std::io::Result<(Kind, bytes::Bytes)> {
        let file = self.files.open(&self.journal_dir().join(segment_name(place.segment)))?;
        read_record(&*file, self.mark, place)
    }

    /// Reads a message's record: its body as `Accepted` is laid out, also that of a notice.
    pub fn read_message(&self, place: Place) -> std::io::Result<bytes::Bytes> {
        let (kind, body) = self.read(place)?;
        accepted_body(kind, body).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    }

    /// Where the records of a message stand: `Accepted`, and the latest `Attempted` if there is one.
    pub fn places(&self, id: QueueId) -> Option<(Place, Option<Place>)> {
        let state = self.state();
        let entry = state.ledger.live.get(&id)?;
        Some((entry.accepted, Some(entry.attempted).filter(|place| place.segment != 0)))
    }
}
