//! A store that a test can stop in the middle of a commit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::intake::Options;
use oncemail::mail::{Message, Progress, QueueId, ScopedKey};
use oncemail::store::memory::MemoryStore;
use oncemail::store::{Acceptance, Forgotten, KeyClaim, KeyRecord, Status, Store, StoreFuture};
use tokio::sync::Semaphore;

use super::intake::{Bench, START};

/// A store whose commits wait, or panic, as a test says.
pub struct Gated {
    pub inner: Arc<MemoryStore>,
    /// One permit lets one commit through.
    pub gate: Semaphore,
    /// A commit waits at the gate, or a lookup.
    waiting: Semaphore,
    /// The next lookup of a key waits for a permit of `lookups`.
    pub next_lookup_waits: AtomicBool,
    pub lookups: Semaphore,
    /// Commits panic.
    pub panics: AtomicBool,
    /// What another node has just made of the key.
    pub other_node: Mutex<Option<KeyRecord>>,
}

impl Gated {
    pub fn bench(options: Options) -> (Arc<Self>, Bench) {
        let clock = Clock::manual(START);
        let inner = Arc::new(MemoryStore::new(clock.clone(), None));
        let gated = Arc::new(Self {
            inner: inner.clone(),
            gate: Semaphore::new(0),
            waiting: Semaphore::new(0),
            next_lookup_waits: AtomicBool::new(false),
            lookups: Semaphore::new(0),
            panics: AtomicBool::new(false),
            other_node: Mutex::default(),
        });
        (gated.clone(), Bench::over(gated, inner, clock, options))
    }

    pub async fn commit_waits(&self) {
        tokio::time::timeout(Duration::from_secs(10), self.waiting.acquire())
            .await
            .unwrap()
            .unwrap()
            .forget();
    }
}

impl Store for Gated {
    fn find_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Option<KeyRecord>> {
        Box::pin(async move {
            if self.next_lookup_waits.swap(false, Ordering::SeqCst) {
                self.waiting.add_permits(1);
                self.lookups.acquire().await.unwrap().forget();
            }
            self.inner.find_key(key).await
        })
    }

    fn accept(&self, message: Arc<Message>, claim: Option<KeyClaim>) -> StoreFuture<'_, Acceptance> {
        Box::pin(async move {
            self.waiting.add_permits(1);
            self.gate.acquire().await.unwrap().forget();
            assert!(!self.panics.load(Ordering::SeqCst), "as intended");
            if let (Some(record), Some(_)) = (self.other_node.lock().unwrap().clone(), &claim) {
                return Ok(Acceptance::Existing(record));
            }
            self.inner.accept(message, claim).await
        })
    }

    fn save_with(&self, id: QueueId, progress: Progress, notices: Vec<Arc<Message>>) -> StoreFuture<'_, ()> {
        self.inner.save_with(id, progress, notices)
    }

    fn load(&self, id: QueueId) -> StoreFuture<'_, Option<(Arc<Message>, Progress)>> {
        self.inner.load(id)
    }

    fn forget_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Forgotten> {
        self.inner.forget_key(key)
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.inner.close()
    }
}
