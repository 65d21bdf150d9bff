//! What became of messages that are gone from the queue, and which retries were answered: remembered for a while, so
//! that "what happened to order 123?" has an answer.
//!
//! Like the suppression list it is a memory aid and not a promise: nobody waits for it, and a power cut may take the
//! last half minute of it, which the system has not written out by itself (a kill takes a second at most): a sync of it
//! would make the journal's wait. It must never hold up mail: when its thread does not keep up, records are dropped and
//! counted.
//!
//! Records stand in segments in the directory `history`, written by a thread of its own about every second; whole
//! segments go when their time is up or too many are there. A damaged record costs itself, a torn end is cut off. When
//! the disk is full or fails, nothing is remembered for a minute, and the log says so.

#[cfg(test)]
mod laws;
mod log;
mod record;
mod search;
mod segment;
#[cfg(test)]
mod tests;
mod waiting;
#[cfg(test)]
mod waiting_model;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
// `waiting` finds it as `super::sync`, and its model puts another in its place.
use std::sync::{self, Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::log::{Counts, Log};
use self::waiting::Waiting;
use super::OpenError;
use super::files::Files;
use crate::clock::{Clock, Timestamp};
use crate::mail::trace::traceparent;
use crate::mail::{Message, Progress, QueueId, RecipientProgress, ReversePath, ScopedKey};

/// Records are written out at least this often …
const TICK: Duration = Duration::from_secs(1);
/// … and once this many bytes wait.
const MANY_BYTES: usize = 512 << 10;
/// While more bytes than this wait, what comes is dropped and counted (S2). A record is 4 MiB at most.
const MOST_BYTES: usize = 8 << 20;
/// What was dropped is said at most this often.
const SAID: Duration = Duration::from_secs(60);

/// `[history]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Records are kept for this long; zero: nothing is, and what was goes …
    pub retention: Duration,
    /// … and the oldest go earlier when all take more than this, in bytes.
    pub max_bytes: u64,
    /// Nothing is written while fewer bytes than this are free on the disk.
    pub min_free: u64,
}

impl Options {
    /// Whether anything is remembered.
    pub fn is_on(&self) -> bool {
        !self.retention.is_zero()
    }
}

/// Figures of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Records written since the start.
    pub records: u64,
    /// Records that were not written, since the start.
    pub dropped: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Segments on the disk.
    pub segments: u64,
    /// When the oldest record was made.
    pub oldest: Option<Timestamp>,
}

/// A message that is gone from the queue, or what is remembered of one that is still there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Past {
    /// Its id; says when it was accepted, too.
    pub id: QueueId,
    /// Its end, if it is over.
    pub ended: Option<Ended>,
    /// Retries that were answered with its id, oldest first, the last 100.
    pub replays: Vec<(Timestamp, Option<IpAddr>)>,
    /// How many there were in all.
    pub replay_count: u64,
}

/// The end of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// When nothing was left to do.
    pub at: Timestamp,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Who it was from.
    pub reverse_path: ReversePath,
    /// Who it was for, and what became of that.
    pub recipients: Vec<(String, RecipientProgress)>,
    /// Name of the listener; empty for what was made here.
    pub listener: String,
    /// Who submitted it.
    pub user: Option<String>,
    /// From where.
    pub client: Option<IpAddr>,
    /// The key that it came under.
    pub key: Option<ScopedKey>,
    /// Message-ID with its angle brackets.
    pub message_id: String,
    /// The W3C trace context that it came with.
    pub traceparent: Option<String>,
    /// Octets.
    pub size: u64,
    /// Attempts that counted.
    pub attempts: u32,
    /// The sender was told that it took long.
    pub warned: bool,
    /// MT-PRIORITY.
    pub priority: i8,
}

/// Which ended messages; all conditions that are there have to hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PastWanted {
    /// A recipient that ended in one of these ways (delivered, bounced, discarded); empty: any.
    pub states: Vec<crate::mail::RecipientState>,
    /// As in the queue's filter.
    pub to: Option<String>,
    /// As in the queue's filter.
    pub to_domain: Option<String>,
    /// As in the queue's filter.
    pub from: Option<String>,
    /// As in the queue's filter.
    pub user: Option<String>,
    /// The route that its last reply came over.
    pub route: Option<String>,
    /// Accepted before this time.
    pub accepted_before: Option<Timestamp>,
    /// Accepted at this time or after it.
    pub accepted_from: Option<Timestamp>,
}

/// Some of the past, those that ended last first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PastPage {
    /// What was found.
    pub messages: Vec<(QueueId, Ended)>,
    /// Where to go on; opaque. There may be a next page though this one is empty: a call reads no more than so much.
    pub next: Option<String>,
}

/// See the module.
pub struct History {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    files: Arc<dyn Files>,
    dir: PathBuf,
    clock: Clock,
    is_on: AtomicBool,
    counts: Arc<Counts>,
    /// Locked before what `waiting` has, and never by those who only add.
    log: Mutex<Log>,
    waiting: Waiting,
    /// Held while somebody looks through all: where the records of a segment stand takes megabytes (S2).
    looking: Mutex<()>,
}

impl History {
    /// Opens the history of a data directory that is there already, and locked. Blocks while it reads: not for a tokio
    /// worker.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn open(
        files: Arc<dyn Files>,
        data_dir: &Path,
        options: Options,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        let dir = data_dir.join("history");
        let counts = Arc::new(Counts::default());
        let is_on = AtomicBool::new(options.is_on());
        let log = Log::open(files.clone(), dir.clone(), options, clock.clone(), counts.clone());
        let (log, looking) = (Mutex::new(log), Mutex::default());
        let waiting = Waiting::new(MANY_BYTES, MOST_BYTES);
        let inner = Arc::new(Inner { files, dir, clock, is_on, counts, log, waiting, looking });
        let worker = inner.clone();
        let thread = std::thread::Builder::new().name("oncemail-past".into()).spawn(move || worker.run());
        let thread = thread.map_err(OpenError::at(Path::new("oncemail-past")))?;
        Ok(Arc::new(Self { inner, thread: Mutex::new(Some(thread)) }))
    }

    /// Whether anything is remembered.
    pub fn is_on(&self) -> bool {
        self.inner.is_on.load(Ordering::Relaxed)
    }

    /// Changes how much is kept, and for how long. Removes files: not for a tokio worker.
    pub fn set_options(&self, options: Options) {
        let mut log = self.inner.catch_up();
        self.inner.is_on.store(options.is_on(), Ordering::Relaxed);
        log.set_options(options);
    }

    /// Remembers the end of a message; that of an event is not. Never waits.
    pub fn ended(&self, message: &Arc<Message>, progress: &Progress) {
        if !self.is_on() || message.origin.is_event() {
            return;
        }
        let (at, traceparent) = (self.inner.clock.now(), traceparent(&message.content));
        self.inner.add(|records| record::add_ended(records, message, progress, traceparent.as_deref(), at));
    }

    /// Remembers that a retry was answered with `first`. Never waits.
    pub fn replayed(&self, first: QueueId, client: Option<IpAddr>) {
        if self.is_on() {
            let at = self.inner.clock.now();
            self.inner.add(|records| {
                record::add_replayed(records, first, client, at);
                true
            });
        }
    }

    /// What is remembered of a message. Reads files: not for a tokio worker.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn find(&self, id: QueueId) -> io::Result<Option<Past>> {
        let view = self.inner.catch_up().view_of(id);
        search::find(&*self.inner.files, &self.inner.dir, view, id)
    }

    /// Looks through what has ended, from `after` on backwards in time, for at most `most`. What is asked about a
    /// recipient has to hold for one and the same. Reads files, up to 32 MiB, and waits for others that do: not for a
    /// tokio worker.
    ///
    /// # Errors
    /// When a file cannot be read, or (`InvalidInput`) `after` is nothing that a page has said.
    pub fn search(&self, wanted: &PastWanted, after: Option<&str>, most: usize) -> io::Result<PastPage> {
        let _alone = self.inner.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.inner.catch_up().view(|entry| entry.is_end());
        search::search(&*self.inner.files, &self.inner.dir, &view, wanted, after, most)
    }

    /// Figures, as they were when something was written last. Cheap.
    pub fn figures(&self) -> Figures {
        let counts = &self.inner.counts;
        let oldest = counts.oldest.load(Ordering::Relaxed);
        Figures {
            records: counts.records.load(Ordering::Relaxed),
            dropped: counts.dropped.load(Ordering::Relaxed),
            bytes: counts.bytes.load(Ordering::Relaxed),
            segments: counts.segments.load(Ordering::Relaxed),
            oldest: (oldest != u64::MAX).then(|| Timestamp::from_millis(oldest)),
        }
    }

    /// Writes what waits, durably, and ends; what comes later is dropped. Blocks: not for a tokio worker. A second call
    /// does nothing.
    pub fn close(&self) {
        self.inner.is_on.store(false, Ordering::Relaxed);
        self.inner.waiting.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn run(&self) {
        let (mut dropped, mut said_at) = (0, None::<Timestamp>);
        loop {
            let is_closed = self.waiting.wait(TICK);
            let mut log = self.catch_up();
            if is_closed {
                return log.close();
            }
            log.go_on();
            drop(log);
            let (all, now) = (self.counts.dropped.load(Ordering::Relaxed), self.clock.now());
            if all > dropped && said_at.is_none_or(|at| now.since(at) >= SAID) {
                tracing::warn!(records = all - dropped, "the history has not taken everything");
                (dropped, said_at) = (all, Some(now));
            }
        }
    }

    /// Writes what waits.
    fn catch_up(&self) -> MutexGuard<'_, Log> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = std::mem::take(&mut log.spare);
        let mut records = self.waiting.take(spare);
        log.append(&records);
        records.clear();
        // What a flood has made it grow to is given back.
        records.shrink_to(2 * MANY_BYTES);
        log.spare = records;
        log
    }

    /// Lets `write` add one record to those that wait; it says whether it did.
    fn add(&self, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        if !self.waiting.add(write) {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
