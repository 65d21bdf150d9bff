//! Submissions under the same keys, whose lookups and commits are let on one by one in any order, whose clients go away
//! and whose store fails: the intake's decisions are those that one submission after the other would have got (I2), and
//! nothing keeps a key that it did not queue a message under (I4).
//!
//! One thread, and every step of the store waits until it is chosen: a failing order comes again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use oncemail::clock::Clock;
use oncemail::intake::Decision;
use oncemail::mail::{Message, Progress, QueueId, ScopedKey};
use oncemail::store::memory::MemoryStore;
use oncemail::store::{Acceptance, Forgotten, KeyClaim, KeyRecord, Status, Store, StoreError, StoreFuture};
use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::common::intake::{Bench, START, keyed, options};

const KEYS: u8 = 2;
/// Looks in a row at which nothing has happened: then everybody waits for their turn.
const QUIET: usize = 16;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A client sends one of two bodies under a key.
    Send { key: u8, body: bool },
    /// A client goes away.
    Leave(usize),
    /// One of the steps that wait is done …
    Go(usize),
    /// … or fails.
    Fail(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..KEYS, prop::bool::weighted(0.2)).prop_map(|(key, body)| Event::Send { key, body }),
        1 => any::<usize>().prop_map(Event::Leave),
        8 => any::<usize>().prop_map(Event::Go),
        1 => any::<usize>().prop_map(Event::Fail),
    ]
}

/// A store each of whose steps waits for its turn, and that relies on claims: a message under a key that is taken would
/// be a duplicate.
struct Stepwise {
    inner: Arc<MemoryStore>,
    waiting: Mutex<Vec<oneshot::Sender<bool>>>,
    happened: AtomicUsize,
    collisions: AtomicUsize,
}

impl Stepwise {
    /// Waits for the turn of a step.
    async fn turn(&self) -> Result<(), StoreError> {
        let (go, turn) = oneshot::channel();
        self.waiting.lock().unwrap().push(go);
        self.happened.fetch_add(1, Ordering::SeqCst);
        let goes_well = turn.await.unwrap_or(true);
        self.happened.fetch_add(1, Ordering::SeqCst);
        if goes_well { Ok(()) } else { Err(StoreError::LowDisk { free_bytes: 1 }) }
    }

    /// Lets one of the steps on that still wait; whether there was one.
    fn let_on(&self, which: usize, goes_well: bool) -> bool {
        let mut waiting = self.waiting.lock().unwrap();
        // Of clients that have gone.
        waiting.retain(|turn| !turn.is_closed());
        if waiting.is_empty() {
            return false;
        }
        let which = which % waiting.len();
        waiting.remove(which).send(goes_well).is_ok()
    }
}

impl Store for Stepwise {
    fn find_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Option<KeyRecord>> {
        Box::pin(async move {
            self.turn().await?;
            let found = self.inner.find_key(key).await;
            // The answer takes its time.
            let _ = self.turn().await;
            found
        })
    }

    fn accept(&self, message: Arc<Message>, claim: Option<KeyClaim>) -> StoreFuture<'_, Acceptance> {
        Box::pin(async move {
            self.turn().await?;
            let answer = self.inner.accept(message, claim).await;
            self.collisions
                .fetch_add(usize::from(matches!(answer, Ok(Acceptance::Existing(_)))), Ordering::SeqCst);
            let _ = self.turn().await;
            answer
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

struct Client {
    key: u8,
    body: bool,
    task: JoinHandle<Decision>,
}

struct Run {
    store: Arc<Stepwise>,
    bench: Arc<Bench>,
    clients: Vec<Client>,
}

fn text(body: bool) -> &'static str {
    if body { "another body" } else { "the body" }
}

impl Run {
    fn new() -> Self {
        let clock = Clock::manual(START);
        let inner = Arc::new(MemoryStore::new(clock.clone(), None));
        let store = Arc::new(Stepwise {
            inner: inner.clone(),
            waiting: Mutex::default(),
            happened: AtomicUsize::new(0),
            collisions: AtomicUsize::new(0),
        });
        let bench = Arc::new(Bench::over(store.clone(), inner, clock, options()));
        Self { store, bench, clients: Vec::new() }
    }

    fn send(&mut self, key: u8, body: bool) {
        let (bench, store) = (self.bench.clone(), self.store.clone());
        let task = tokio::spawn(async move {
            let receipt = bench.intake.accept(keyed(&format!("key {key}"), text(body))).await;
            store.happened.fetch_add(1, Ordering::SeqCst);
            receipt.decision
        });
        self.clients.push(Client { key, body, task });
    }

    /// Until nothing happens by itself any more.
    async fn rest(&self) {
        let mut quiet = 0;
        let mut before = usize::MAX;
        while quiet < QUIET {
            tokio::task::yield_now().await;
            let now = self.store.happened.load(Ordering::SeqCst);
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
    }

    async fn finish(&self) {
        self.rest().await;
        while self.store.let_on(0, true) {
            self.rest().await;
        }
    }

    /// What was queued under each key: the id and which body.
    fn queued(&self) -> HashMap<String, (QueueId, bool)> {
        let mut queued = HashMap::new();
        for message in self.bench.queued() {
            let is_other = memchr::memmem::find(&message.content, text(true).as_bytes()).is_some();
            let key = message.key.clone().unwrap().key;
            assert!(queued.insert(key, (message.id, is_other)).is_none(), "I2: two messages under one key");
        }
        queued
    }
}

/// Whether a decision can be one about `body` when this is what the key has in the end.
fn fits(decision: &Decision, body: bool, queued: Option<&(QueueId, bool)>) -> bool {
    match decision {
        Decision::Queued(id) => queued == Some(&(*id, body)),
        Decision::Replayed(id) => queued == Some(&(*id, body)),
        Decision::DifferentBody => queued.is_some_and(|(_, first)| *first != body),
        Decision::InFlight | Decision::LowDisk => true,
        _ => false,
    }
}

async fn run(events: Vec<Event>) {
    let mut run = Run::new();
    for event in events {
        match event {
            Event::Send { key, body } => run.send(key, body),
            Event::Leave(n) if !run.clients.is_empty() => run.clients[n % run.clients.len()].task.abort(),
            Event::Leave(_) => {}
            Event::Go(n) => drop(run.store.let_on(n, true)),
            Event::Fail(n) => drop(run.store.let_on(n, false)),
        }
        run.rest().await;
        // D1: whoever has read 250 can rely on it at that moment.
        run.queued();
    }
    run.finish().await;
    let queued = run.queued();
    assert_eq!(run.store.collisions.load(Ordering::SeqCst), 0, "I2: two were committed under one claim");
    let mut firsts = HashMap::new();
    for client in std::mem::take(&mut run.clients) {
        let Ok(decision) = client.task.await else { continue };
        let has = queued.get(&format!("key {}", client.key));
        assert!(fits(&decision, client.body, has), "{decision:?}, and the key has {has:?}");
        if let Decision::Queued(_) = decision {
            *firsts.entry(client.key).or_insert(0) += 1;
        }
    }
    assert!(firsts.values().all(|count| *count == 1), "two clients were told that theirs is the first");
    // I4: whatever was left half done keeps no key.
    for key in 0..KEYS {
        run.send(key, false);
        run.finish().await;
        let decision = run.clients.pop().unwrap().task.await.unwrap();
        match queued.get(&format!("key {key}")) {
            None => assert!(matches!(decision, Decision::Queued(_)), "{decision:?}"),
            Some((first, false)) => assert_eq!(decision, Decision::Replayed(*first)),
            Some((_, true)) => assert_eq!(decision, Decision::DifferentBody),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i2_i4_decisions_are_those_of_one_submission_after_the_other(events in prop::collection::vec(event(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(events));
    }
}
