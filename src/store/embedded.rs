//! The store of a single node: journal, index, two threads. What each part does when is told in `docs/store.md`.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::codec;
use super::commit::Committer;
use super::describe;
use super::files::Files;
use super::keys;
use super::metrics::StoreMetrics;
use super::reclaim::encode_finished;
use super::record::{Encoded, Kind, MAX_RECORD};
use super::recovery::{self, Opened, Recovery};
use super::request::{Claimed, Outcome, Request};
use super::shared::{Lookup, Shared};
use super::upkeep::{Nudge, Upkeep};
use super::{
    Acceptance, Arrivals, Described, Figures, Forgotten, KeyClaim, KeyRecord, Status, Store, StoreError,
    StoreFuture,
};
use crate::clock::{Clock, Timestamp};
use crate::mail::{Message, Progress, QueueId, ScopedKey};

/// Requests that wait for the commit thread; callers wait beyond it.
const WAITING_REQUESTS: usize = 4096;
/// Wakes of the index thread that wait.
const WAITING_NUDGES: usize = 16;
/// Tries to read a message that moves while it is read.
const READ_TRIES: usize = 3;

/// What the embedded store can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept; made if it is not there.
    pub data_dir: PathBuf,
    /// New mail is refused when fewer bytes are free.
    pub min_free: u64,
    /// Size of a segment file, bytes; a longer record makes a longer segment.
    pub segment_bytes: u64,
    /// How long to wait for the lock of a process that is just ending (D5).
    pub lock_wait: Duration,
    /// How often it is looked whether there is upkeep to do, when nothing else asks for it.
    pub upkeep_every: Duration,
}

impl Options {
    /// The tunables as they should be.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), ..Self::default() }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("var"),
            min_free: 256 << 20,
            segment_bytes: 64 << 20,
            lock_wait: Duration::from_secs(5),
            upkeep_every: Duration::from_secs(1),
        }
    }
}

/// A data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// D5.
    #[error("{} is in use by another process (pid {pid})", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What it says of its holder.
        pid: String,
    },
    /// The disk is full, and more keys have to go into the index than fit in memory.
    #[error(
        "{}: the disk has no room for the index ({keys} keys so far). Nothing is lost: make room on the disk of data_dir, or \
         move data_dir to a larger one, and start again",
        path.display()
    )]
    NoRoomForIndex {
        /// Of the index.
        path: PathBuf,
        /// Keys that the journal has, as far as it has been read.
        keys: u64,
    },
    /// A file operation failed.
    #[error("{}: {error}", path.display())]
    File {
        /// On what.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
}

impl OpenError {
    pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::File { path: path.to_owned(), error }
    }
}

/// See the module.
pub struct EmbeddedStore {
    // Dropped in this order: the lock goes last.
    shared: Arc<Shared>,
    senders: Mutex<Option<Senders>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn Any + Send + Sync>>>,
}

#[derive(Clone)]
struct Senders {
    requests: mpsc::Sender<Request>,
    nudges: SyncSender<Nudge>,
}

impl EmbeddedStore {
    /// From now on new mail is refused while fewer bytes are free.
    pub fn set_min_free(&self, bytes: u64) {
        self.shared.set_min_free(bytes);
    }

    /// Opens a data directory and recovers what is in it. Blocks while it reads: not for a tokio worker.
    ///
    /// # Errors
    /// When another process has the directory (D5), or the disk does not do what it must.
    pub fn open(
        options: Options,
        files: Arc<dyn Files>,
        clock: Clock,
        arrivals: Arc<dyn Arrivals>,
    ) -> Result<(Self, Recovery), OpenError> {
        let Opened { shared, journal, recovery, checkpointed, lock } = recovery::open(options, files, clock)?;
        let shared = Arc::new(shared);
        let (requests, waiting) = mpsc::channel(WAITING_REQUESTS);
        let (nudges, nudged) = sync_channel(WAITING_NUDGES);
        let committer = Committer {
            shared: shared.clone(),
            journal,
            requests: waiting,
            arrivals,
            upkeep: nudges.clone(),
        };
        // After a complete rebuild a checkpoint is due at once.
        let checkpointed_at = if recovery.index_rebuilt { Timestamp::default() } else { shared.clock.now() };
        let upkeep = Upkeep {
            shared: shared.clone(),
            requests: requests.downgrade(),
            nudges: nudged,
            checkpointed,
            checkpointed_at,
        };
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(body);
            thread.map_err(OpenError::at(Path::new(name)))
        };
        let threads = vec![
            spawn("oncemail-commit", Box::new(move || committer.run()))?,
            spawn("oncemail-index", Box::new(move || upkeep.run()))?,
        ];
        let store = Self {
            shared,
            senders: Mutex::new(Some(Senders { requests, nudges })),
            threads: Mutex::new(threads),
            lock: Mutex::new(Some(lock)),
        };
        Ok((store, recovery))
    }

    /// What it measures of its commits; clones share it.
    pub fn metrics(&self) -> StoreMetrics {
        self.shared.metrics.clone()
    }

    /// Does at once what is done now and then in the background: moves keys into the index, makes a checkpoint, forgets
    /// expired keys, gives back disk space.
    ///
    /// # Errors
    /// When one of these failed.
    pub async fn settle(&self) -> Result<(), StoreError> {
        let senders = self.senders()?;
        let (reply, answer) = oneshot::channel();
        nudge(senders.nudges, Nudge::Settle(reply)).await?;
        answer.await.map_err(|_| self.gone())?
    }

    fn senders(&self) -> Result<Senders, StoreError> {
        self.shared.check_open()?;
        let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        senders.clone().ok_or(StoreError::Closed)
    }

    /// Why a thread does not answer any more.
    fn gone(&self) -> StoreError {
        self.shared.latched().unwrap_or_else(|| match self.shared.closed.load(Ordering::SeqCst) {
            true => StoreError::Closed,
            // It is panicking at this moment, and has not got as far as the latch.
            false => StoreError::Latched("a thread of the store has ended".into()),
        })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let senders = self.senders()?;
        let (reply, answer) = oneshot::channel();
        senders.requests.send(request(reply)).await.map_err(|_| self.gone())?;
        drop(senders);
        answer.await.map_err(|_| self.gone())?
    }

    /// Who has a key, and the overlay's number of moves before it was asked.
    async fn look_up(&self, hash: keys::KeyHash) -> Result<(Option<KeyRecord>, u64), StoreError> {
        match self.shared.look_up(&hash) {
            (Lookup::Decided(record), moved) => Ok((record, moved)),
            (Lookup::ReadIndex, moved) => {
                let shared = self.shared.clone();
                Ok((blocking(move || shared.look_up_index(&hash)).await?, moved))
            }
        }
    }

    async fn accept_message(
        &self,
        message: Arc<Message>,
        claim: Option<KeyClaim>,
    ) -> Result<Acceptance, StoreError> {
        self.shared.check_open()?;
        if let Some(free_bytes) = self.shared.low_disk() {
            return Err(StoreError::LowDisk { free_bytes });
        }
        let mut claimed = None;
        if let (Some(key), Some(claim)) = (&message.key, &claim) {
            let hash = keys::hash(key);
            let (found, seen) = self.look_up(hash).await?;
            if let Some(record) = found {
                return Ok(Acceptance::Existing(record));
            }
            let record = claim.record(&message);
            claimed = Some(Claimed { hash, record, seen });
        }
        let head = codec::encode_accepted(Encoded::start(Kind::Accepted, 512), &message, claim.as_ref());
        let record = message_record(head, &message)?;
        self.ask(|reply| Request::Accept { message, record, key: claimed, reply }).await
    }

    async fn save_progress(
        &self,
        id: QueueId,
        progress: Progress,
        notices: Vec<Arc<Message>>,
    ) -> Result<(), StoreError> {
        let count = u32::try_from(notices.len()).unwrap_or(u32::MAX);
        let encoded = notices.into_iter().map(|notice| {
            let head = codec::encode_notice(Encoded::start(Kind::Notice, 512), id, &notice);
            let record = message_record(head, &notice)?;
            Ok((notice, record))
        });
        let notices = encoded.collect::<Result<Vec<_>, StoreError>>()?;
        let (record, outcome) = if progress.is_finished() {
            (encode_finished(id, count), Outcome::Finished)
        } else {
            let body = codec::encode_attempted(Encoded::start(Kind::Attempted, 256), id, &progress, count);
            let outcome = Outcome::Open { queued: progress.is_queued(), next_attempt: progress.next_attempt };
            (Encoded::new(body, Bytes::new()), outcome)
        };
        self.ask(|reply| Request::Save { id, notices, record, outcome, reply }).await
    }

    async fn close_down(&self) -> Result<(), StoreError> {
        if self.shared.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner).take();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(senders) = senders else { return Ok(()) };
        // Everything that was handed over before stands before this in the channel.
        let _ = senders.requests.send(Request::Close).await;
        senders.requests.closed().await;
        let (reply, answer) = oneshot::channel();
        nudge(senders.nudges, Nudge::Close(reply)).await?;
        answer.await.map_err(|_| self.gone())??;
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
            drop(lock);
            Ok(())
        })
        .await
    }
}

impl Store for EmbeddedStore {
    fn find_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Option<KeyRecord>> {
        Box::pin(async move { Ok(self.look_up(keys::hash(key)).await?.0) })
    }

    fn accept(&self, message: Arc<Message>, claim: Option<KeyClaim>) -> StoreFuture<'_, Acceptance> {
        Box::pin(self.accept_message(message, claim))
    }

    fn save_with(&self, id: QueueId, progress: Progress, notices: Vec<Arc<Message>>) -> StoreFuture<'_, ()> {
        Box::pin(self.save_progress(id, progress, notices))
    }

    fn load(&self, id: QueueId) -> StoreFuture<'_, Option<(Arc<Message>, Progress)>> {
        let shared = self.shared.clone();
        Box::pin(blocking(move || load(&shared, id)))
    }

    fn forget_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Forgotten> {
        Box::pin(self.ask(|reply| Request::Forget { hash: keys::hash(key), reply }))
    }

    fn describe(&self, ids: Vec<QueueId>) -> StoreFuture<'_, Vec<Described>> {
        let shared = self.shared.clone();
        Box::pin(blocking(move || {
            if shared.closed.load(Ordering::SeqCst) {
                return Err(StoreError::Closed);
            }
            Ok(describe::all(&shared, ids))
        }))
    }

    fn status(&self) -> Status {
        match self.shared.check_open() {
            Err(StoreError::Closed) => Status::Closed,
            Err(error) => Status::Latched { reason: error.to_string() },
            Ok(()) => match self.shared.low_disk() {
                Some(free_bytes) => Status::LowDisk { free_bytes },
                None => Status::Ready,
            },
        }
    }

    fn figures(&self) -> Figures {
        self.shared.figures()
    }

    fn commit_time(&self) -> Duration {
        self.shared.metrics.commit_time()
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.close_down())
    }
}

impl Drop for EmbeddedStore {
    /// As a crash would, but for what was handed over: that is still written.
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.senders.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}

/// Reads a message and its progress. It may be copied to another segment while it is read: then again.
fn load(shared: &Shared, id: QueueId) -> Result<Option<(Arc<Message>, Progress)>, StoreError> {
    let mut failure = String::new();
    for _ in 0..READ_TRIES {
        let Some(places) = shared.places(id) else { return Ok(None) };
        match read_message(shared, id, places) {
            Ok(found) => return Ok(Some(found)),
            Err(error) => failure = format!("{id} at {:?}: {error}", places.0),
        }
        if shared.places(id) == Some(places) {
            break;
        }
    }
    tracing::error!(queue_id = %id, %failure, "a message cannot be read");
    Err(StoreError::Read(failure))
}

fn read_message(
    shared: &Shared,
    id: QueueId,
    (accepted, attempted): (super::record::Place, Option<super::record::Place>),
) -> io::Result<(Arc<Message>, Progress)> {
    let malformed = |error: codec::Malformed| io::Error::new(io::ErrorKind::InvalidData, error);
    let (message, _) = codec::decode_accepted(&shared.read_message(accepted)?).map_err(malformed)?;
    let progress = match attempted {
        None => {
            let due_at = message.envelope.due_at(message.accepted_at);
            Progress::fresh(message.envelope.recipients.len(), due_at)
        }
        Some(place) => codec::decode_attempted(&shared.read(place)?.1).map_err(malformed)?.1,
    };
    if message.id != id || progress.recipients.len() != message.envelope.recipients.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the record is another message's"));
    }
    Ok((Arc::new(message), progress))
}

/// A message's record, its content behind `head`.
fn message_record(head: Vec<u8>, message: &Message) -> Result<Encoded, StoreError> {
    let record = Encoded::new(head, message.content.clone());
    if record.len() as u64 > u64::from(MAX_RECORD) {
        return Err(StoreError::Read("the message is longer than a record may be".into()));
    }
    Ok(record)
}

/// Wakes the index thread; a full channel is waited for off the worker.
async fn nudge(nudges: SyncSender<Nudge>, what: Nudge) -> Result<(), StoreError> {
    blocking(move || nudges.send(what).map_err(|_| StoreError::Closed)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Read(format!("reading was cut short: {error}"))))
}
