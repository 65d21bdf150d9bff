//! A memory store that a test can wait on: every save is an event.

use std::sync::{Arc, Mutex};

use oncemail::clock::Clock;
use oncemail::mail::{Message, Progress, QueueId, ScopedKey};
use oncemail::store::memory::MemoryStore;
use oncemail::store::{
    Acceptance, Arrivals, Forgotten, KeyClaim, KeyRecord, Status, Store, StoreError, StoreFuture,
};
use tokio::sync::{Semaphore, watch};

use super::far_side::PATIENCE;

pub struct WatchedStore {
    inner: MemoryStore,
    /// What was saved, in order, and how often something was read.
    seen: watch::Sender<Seen>,
    /// Each save waits for a permit.
    gate: Mutex<Option<Arc<Semaphore>>>,
    /// One permit lets one message be read; as many as are wanted, unless a test closes the gate.
    pub reads: Semaphore,
}

#[derive(Clone, Default, Debug)]
pub struct Seen {
    pub saves: Vec<(QueueId, Progress)>,
    pub failed_saves: usize,
    /// Saves that were begun.
    pub begun_saves: usize,
    pub loads: usize,
}

impl WatchedStore {
    pub fn new(clock: Clock, arrivals: Option<Arc<dyn Arrivals>>) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(clock, arrivals),
            seen: watch::Sender::default(),
            gate: Mutex::default(),
            reads: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    pub fn fail_with(&self, failure: Option<StoreError>) {
        self.inner.fail_with(failure);
    }

    /// Lets each later save wait for a permit.
    pub fn gate_saves(&self, gate: Arc<Semaphore>) {
        *self.gate.lock().unwrap() = Some(gate);
    }

    pub fn messages(&self) -> Vec<(Arc<Message>, Progress)> {
        self.inner.messages()
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until `happened`.
    pub async fn wait(&self, happened: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.subscribe();
        match tokio::time::timeout(PATIENCE, seen.wait_for(happened)).await {
            Ok(seen) => seen.expect("the store lives").clone(),
            Err(_) => panic!("it did not happen; the store saw {:#?}", self.seen()),
        }
    }

    /// Waits until a message was saved `times` times; gives back the last.
    pub async fn saved(&self, id: QueueId, times: usize) -> Progress {
        let of = |seen: &Seen| {
            seen.saves.iter().filter(|(i, _)| *i == id).map(|(_, p)| p.clone()).collect::<Vec<_>>()
        };
        let seen = self.wait(|seen| of(seen).len() >= times).await;
        of(&seen).pop().unwrap()
    }
}

impl Store for WatchedStore {
    fn find_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Option<KeyRecord>> {
        self.inner.find_key(key)
    }

    fn accept(&self, message: Arc<Message>, claim: Option<KeyClaim>) -> StoreFuture<'_, Acceptance> {
        self.inner.accept(message, claim)
    }

    fn save_with(&self, id: QueueId, progress: Progress, notices: Vec<Arc<Message>>) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.seen.send_modify(|seen| seen.begun_saves += 1);
            let gate = self.gate.lock().unwrap().clone();
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            let saved = self.inner.save_with(id, progress.clone(), notices).await;
            self.seen.send_modify(|seen| match saved {
                Ok(()) => seen.saves.push((id, progress)),
                Err(_) => seen.failed_saves += 1,
            });
            saved
        })
    }

    fn load(&self, id: QueueId) -> StoreFuture<'_, Option<(Arc<Message>, Progress)>> {
        self.seen.send_modify(|seen| seen.loads += 1);
        Box::pin(async move {
            self.reads.acquire().await.expect("the gate is never taken away").forget();
            self.inner.load(id).await
        })
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
