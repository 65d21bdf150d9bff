//! The seam between the relay and its durable memory.
//!
//! Nothing above this module knows which store runs. A store promises D1 to D6 and I1, I3, I4 of `lib.rs`; it never
//! answers "done" for something that a power cut could take back, and once a write or sync has failed it never tries
//! to write again (D3): it says so in [`Store::status`] until the process is restarted.

mod checkpoint;
mod codec;
mod commit;
mod damage;
mod describe;
pub mod embedded;
pub mod files;
mod filter;
pub mod history;
mod index;
#[cfg(test)]
mod index_tests;
mod journal;
mod keys;
mod ledger;
pub mod memory;
pub mod metrics;
mod reclaim;
mod record;
mod recovery;
mod replay;
mod request;
mod reserve;
mod run;
mod shared;
pub mod suppression;
mod unit;
mod upkeep;

pub use damage::LeftInPlace;
pub use describe::Described;
pub use embedded::{EmbeddedStore, OpenError};
pub use recovery::Recovery;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::mail::{Fingerprint, Message, Progress, QueueId, ScopedKey};

/// What every call of a store gives back.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Durable messages, their progress, and the keys they came under.
///
/// # Cancel safety
/// A write that was handed over happens (or fails) whether or not its future is still there; a dropped future loses
/// only the answer.
pub trait Store: Send + Sync {
    /// What `key` remembers, if it is remembered and alive at this moment. A key is alive until its expiry, and
    /// beyond it as long as its message is in the queue (I3).
    ///
    /// # Errors
    /// [`StoreError::Latched`] or [`StoreError::Read`].
    fn find_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Option<KeyRecord>>;

    /// Makes a message, its envelope and its key durable in one commit (D1, D2), with every recipient queued and due
    /// from the envelope's [`due_at`](crate::mail::Envelope::due_at) on. `claim` is present exactly when `message.key` is.
    ///
    /// # Errors
    /// After any error nothing of the message or its key is left (I4).
    fn accept(&self, message: Arc<Message>, claim: Option<KeyClaim>) -> StoreFuture<'_, Acceptance>;

    /// Makes the outcome of an attempt durable. A finished progress forgets the message, but not its key.
    /// Later calls for one message win over earlier ones.
    ///
    /// # Errors
    /// After an error the message stands as it was before.
    fn save(&self, id: QueueId, progress: Progress) -> StoreFuture<'_, ()> {
        self.save_with(id, progress, Vec::new())
    }

    /// The same, and makes `notices` (bounces, delay notices) durable and due in the same commit (D2): all of it is there
    /// after a crash, or nothing. Notices have ids of their own and no key. When there is no such message any more,
    /// nothing happens, and no notice is queued either.
    ///
    /// # Errors
    /// After an error the message stands as it was before, and no notice is queued.
    fn save_with(&self, id: QueueId, progress: Progress, notices: Vec<Arc<Message>>) -> StoreFuture<'_, ()>;

    /// Reads a message that is not finished; `None` when there is no such message.
    ///
    /// # Errors
    /// [`StoreError::Read`] when its record cannot be read back whole.
    fn load(&self, id: QueueId) -> StoreFuture<'_, Option<(Arc<Message>, Progress)>>;

    /// Forgets a key, durably, also while its message is in the queue: what is submitted under it from then on is a new
    /// message. An operator's decision against I1 and I3 for this one key. A submission that is being decided about at
    /// this moment comes before it or after it, as a whole.
    ///
    /// # Errors
    /// After an error the key means what it meant before.
    fn forget_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Forgotten>;

    /// Says what messages are, without their contents, for lists. Those that are not there, or cannot be read, are left
    /// out; the order is the store's own. At most a few hundred at a time.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    fn describe(&self, ids: Vec<QueueId>) -> StoreFuture<'_, Vec<Described>> {
        Box::pin(async move {
            let mut all = Vec::with_capacity(ids.len());
            for id in ids {
                match self.load(id).await {
                    Ok(Some((message, progress))) => all.push(Described {
                        id,
                        envelope: message.envelope.clone(),
                        origin: message.origin.clone(),
                        progress,
                    }),
                    Err(StoreError::Closed) => return Err(StoreError::Closed),
                    Ok(None) | Err(_) => {}
                }
            }
            Ok(all)
        })
    }

    /// Whether new mail can be taken. Cheap; asked before a message is received and by readiness checks.
    fn status(&self) -> Status;

    /// Figures about the store. Cheap: under a millisecond, from memory. A store that has none says nothing.
    fn figures(&self) -> Figures {
        Figures::default()
    }

    /// How long commits take at present; zero when that is not known. Cheap.
    fn commit_time(&self) -> Duration {
        Duration::ZERO
    }

    /// Waits for everything that was handed over, makes a clean end, and refuses what comes after.
    ///
    /// # Errors
    /// [`StoreError::Latched`] when the end could not be made durable; a restart recovers.
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// Told by the store, right after each commit, what has become durable: so that fresh messages reach the queue from
/// memory, without a read.
pub trait Arrivals: Send + Sync {
    /// `messages` are durable and due, each from its envelope's [`due_at`](crate::mail::Envelope::due_at) on. Called on the store's own thread: must be quick and must not block.
    fn arrived(&self, messages: Vec<Arc<Message>>);
}

/// What to remember with a message's key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyClaim {
    /// What a retry is compared with.
    pub fingerprint: Fingerprint,
    /// When the key ends, unless its message is still queued then (I3).
    pub expires_at: Timestamp,
}

impl KeyClaim {
    /// What the key remembers once `message` is durable.
    pub(crate) fn record(&self, message: &Message) -> KeyRecord {
        KeyRecord {
            id: message.id,
            fingerprint: self.fingerprint,
            accepted_at: message.accepted_at,
            expires_at: self.expires_at,
        }
    }
}

/// What a key remembers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRecord {
    /// The first submission's queue id (I1).
    pub id: QueueId,
    /// What a retry is compared with.
    pub fingerprint: Fingerprint,
    /// When the message was accepted.
    pub accepted_at: Timestamp,
    /// When the key ends, unless its message is still queued then.
    pub expires_at: Timestamp,
}

/// The answer to [`Store::accept`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Acceptance {
    /// Durable and queued under its own id.
    Queued,
    /// The key was there already, taken by another submission a moment ago (I2); nothing was queued.
    Existing(KeyRecord),
}

/// The answer to [`Store::forget_key`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Forgotten {
    /// Durably; this is what it remembered.
    Key(KeyRecord),
    /// There was no such key.
    Unknown,
    /// So many keys were forgotten before their time that no more are taken note of, until some have expired (S2).
    TooMany,
}

/// See [`Store::figures`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Bytes written to the journal's segments.
    pub journal_bytes: u64,
    /// Bytes of them that are still needed.
    pub needed_bytes: u64,
    /// Segments of the journal.
    pub segments: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Files of the index.
    pub index_runs: u64,
    /// Keys, approximately: one that was taken again counts twice for a while, and so do those that have just expired.
    pub keys: u64,
    /// The same keys by the end of the four hours in which they expire, earliest first.
    pub keys_by_expiry: Vec<(Timestamp, u64)>,
    /// Keys that were forgotten before their time, until that has come.
    pub forgotten_keys: u64,
    /// Free bytes on the disk when last looked; `None`: unknown.
    pub free_bytes: Option<u64>,
    /// Messages that are not finished.
    pub messages: u64,
}

/// A message that a start found in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Its id.
    pub id: QueueId,
    /// When it is due, or `None` when no recipient of it is queued (all that is left of it is held).
    pub next_attempt: Option<Timestamp>,
    /// MT-PRIORITY (RFC 6710): those with a higher one are handed out first.
    pub priority: i8,
    /// The wait is the sender's wish (RFC 4865), not a backoff.
    pub held_back: bool,
}

/// Whether new mail can be taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// Yes.
    Ready,
    /// Free space is under `limits.min_free`: `452 4.3.1` until it is not.
    LowDisk {
        /// Free bytes when last looked.
        free_bytes: u64,
    },
    /// D3: a write or sync failed, `451 4.3.0` until the process is restarted.
    Latched {
        /// Which operation, on which file, and the system's words.
        reason: String,
    },
    /// [`Store::close`] was called.
    Closed,
}

/// Why a store did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// D3: a write or sync failed now or earlier.
    #[error("the store has stopped writing: {0}")]
    Latched(String),
    /// Free space is under the limit; new messages are refused, outcomes are still taken.
    #[error("the disk is nearly full: {free_bytes} bytes free")]
    LowDisk {
        /// Free bytes when last looked.
        free_bytes: u64,
    },
    /// A record could not be read back whole; it is named in the log.
    #[error("a record could not be read: {0}")]
    Read(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
