//! The real embedded store, one call at a time: each takes some simulated time before and after, and happens at once in
//! between, whatever threads the store does it with. So a run can be repeated. That calls share commits is proved
//! elsewhere.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{Message, Progress, QueueId, ScopedKey};
use oncemail::queue::Queue;
use oncemail::store::files::Files;
use oncemail::store::{
    Acceptance, Arrivals, EmbeddedStore, Forgotten, KeyClaim, KeyRecord, Recovered, Status, Store,
    StoreError, StoreFuture, embedded,
};
use tokio::sync::Mutex as Turns;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::ledger::{Call, Ledger};
use super::net::Net;
use super::process::Machine;
use super::world::World;

/// See the module. Clones share it.
#[derive(Clone)]
pub struct SimStore(Arc<Inner>);

struct Inner {
    world: Arc<World>,
    disk: Disk,
    ledger: Arc<Ledger>,
    net: Arc<Net>,
    life: u64,
    /// Gone when the process has died: what still asks then is a ghost.
    store: Mutex<Option<EmbeddedStore>>,
    /// What the commit thread tells is told on.
    arrivals: Arc<Buffer>,
    queue: Arc<Queue>,
    /// The parts' clock, and the store's own, which other threads can read.
    clock: Clock,
    own_clock: Clock,
    /// When the store's own clock was looked at.
    looked_at: Mutex<Instant>,
    turns: Turns<()>,
    died: CancellationToken,
    is_closed: AtomicBool,
}

#[derive(Default)]
struct Buffer(Mutex<Vec<Arc<Message>>>);

impl Arrivals for Buffer {
    fn arrived(&self, messages: Vec<Arc<Message>>) {
        self.0.lock().unwrap().extend(messages);
    }
}

/// What was found: messages for the queue, or the power has gone meanwhile.
pub enum Opened {
    Store(SimStore, Vec<Recovered>),
    Died,
}

/// Waits on this thread, so that no simulated time goes by.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    // The store's channels must not run out of tokio's budget here: nobody would give them more.
    let mut future = pin!(tokio::task::unconstrained(future));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}

impl SimStore {
    /// Opens what is on the disk, and compares it with the ledger.
    pub fn open(machine: &Machine, life: u64, queue: &Arc<Queue>) -> Opened {
        let Machine { world, disk, ledger, clock, net, .. } = machine;
        let own_clock = Clock::manual(clock.now());
        ledger.time_was(clock.settled());
        ledger.lives(life);
        let options = embedded::Options {
            min_free: 1 << 20,
            segment_bytes: 24 << 10,
            // Upkeep is asked for.
            upkeep_every: Duration::from_secs(86_400),
            ..embedded::Options::new("/simulated")
        };
        let arrivals = Arc::new(Buffer::default());
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        let opened = EmbeddedStore::open(options, files, own_clock.clone(), arrivals.clone());
        let (store, recovery) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let is_known = disk.is_dead() || disk.has_failed() || disk.is_full();
                world.check(is_known, || format!("the store does not open: {error}"));
                return Opened::Died;
            }
        };
        // A torn commit of several records may look like damage; what it costs is checked below. No file goes.
        world.check(recovery.missing_segments.is_empty(), || format!("D4: {recovery}"));
        world.note(format!("{recovery}"));
        let inner = Inner {
            world: world.clone(),
            disk: disk.clone(),
            ledger: ledger.clone(),
            net: net.clone(),
            life,
            store: Mutex::new(Some(store)),
            arrivals,
            queue: queue.clone(),
            clock: clock.clone(),
            own_clock,
            looked_at: Mutex::new(Instant::now()),
            turns: Turns::default(),
            died: CancellationToken::new(),
            is_closed: AtomicBool::new(false),
        };
        let store = Self(Arc::new(inner));
        store.compare(&recovery.messages);
        if disk.is_dead() {
            return Opened::Died;
        }
        Opened::Store(store, recovery.messages)
    }

    /// D4, I1: everything is as it was confirmed.
    fn compare(&self, recovered: &[Recovered]) {
        let inner = &self.0;
        let mut found = BTreeMap::new();
        for Recovered { id, next_attempt, .. } in recovered {
            match inner.with(|store| now(store.load(*id))) {
                Ok(Some((message, progress))) => {
                    let is_due = next_attempt.is_some() == progress.is_queued();
                    inner
                        .world
                        .check(is_due, || format!("{id} is scheduled as {next_attempt:?}: {progress:?}"));
                    found.insert(*id, (message, progress));
                }
                other => inner.world.wrong(format!("D4: {id} cannot be read after a start: {other:?}")),
            }
        }
        inner.ledger.recovered(&found);
        for (message, expires_at) in inner.ledger.living_keys() {
            let key = message.key.clone().expect("it has one");
            let owner =
                inner.with(|store| now(store.find_key(&key))).map(|record| record.map(|record| record.id));
            inner.world.check(owner == Ok(Some(message.id)), || {
                format!(
                    "I1: {} has the key {} until {expires_at}, and a start finds {owner:?}",
                    message.id, key.key
                )
            });
        }
    }

    /// Cancelled when the process is to be dead: the power has gone in the middle of something.
    pub fn died(&self) -> CancellationToken {
        self.0.died.clone()
    }

    /// The process ends here; nothing is done any more.
    pub fn kill(&self) {
        self.0.disk.kill();
        self.0.died.cancel();
        let store = self.0.store.lock().unwrap().take();
        // Its threads find a dead disk.
        drop(store);
    }

    /// What the index thread does now and then; false when there will never be anything to do again.
    pub fn upkeep(&self) -> bool {
        if self.0.is_closed.load(Ordering::SeqCst) || self.0.died.is_cancelled() {
            return false;
        }
        let settled = self.0.with(|store| now(store.settle()));
        if let Err(error) = settled {
            self.0.world.note(format!("upkeep: {error}"));
        }
        self.0.after();
        true
    }

    pub fn is_latched(&self) -> bool {
        matches!(self.status(), Status::Latched { .. })
    }

    /// A call that changes something.
    async fn change<T: Send + 'static>(
        &self,
        call: Option<Call>,
        work: impl FnOnce(&EmbeddedStore) -> Result<T, StoreError> + Send + 'static,
        has_happened: impl FnOnce(&T) -> bool + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.0.clone();
        // It happens whether or not its caller is still there.
        let task = tokio::spawn(async move {
            let turn = inner.turns.lock().await;
            inner.wait(1, 60).await;
            if let Some(call) = call {
                inner.ledger.begin(call);
            }
            let result = inner.with(work);
            let is_dead = inner.disk.is_dead();
            inner.ledger.end(match &result {
                _ if is_dead => None,
                Ok(done) => Some(has_happened(done)),
                Err(StoreError::Latched(_)) => None,
                Err(_) => Some(false),
            });
            inner.after();
            drop(turn);
            inner.wait(1, 60).await;
            result
        });
        match task.await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        }
    }

    async fn read<T>(
        &self,
        work: impl FnOnce(&EmbeddedStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.0.wait(1, 20).await;
        let result = self.0.with(work);
        self.0.after();
        self.0.wait(1, 20).await;
        result
    }
}

impl Inner {
    fn with<T>(&self, work: impl FnOnce(&EmbeddedStore) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.time_goes_by();
        let store = self.store.lock().unwrap();
        let before = self.disk.segments();
        let result = work(store.as_ref().ok_or(StoreError::Closed)?);
        // A new segment wakes the index thread; it is waited for, so that it is done at a known time.
        let (mut seen, mut rounds) = (before, 0);
        while self.disk.segments() != seen && rounds < 8 && !self.is_closed.load(Ordering::SeqCst) {
            (seen, rounds) = (self.disk.segments(), rounds + 1);
            if let Some(store) = store.as_ref() {
                let _ = now(store.settle());
            }
        }
        result
    }

    /// The store's own clock has gone by as much as the timer, and shows what the parts' shows.
    fn time_goes_by(&self) {
        let mut looked_at = self.looked_at.lock().unwrap();
        self.own_clock.advance(looked_at.elapsed());
        *looked_at = Instant::now();
        self.own_clock.set(self.clock.now());
        // Each has its own doubts.
        self.ledger.time_was(self.clock.settled());
        self.ledger.time_was(self.own_clock.settled());
    }

    /// What the store's threads have told, or that they are no more.
    fn after(&self) {
        if self.disk.is_dead() {
            // Nothing it has begun goes on.
            self.net.orphan(self.life);
            self.died.cancel();
            return;
        }
        let arrived = std::mem::take(&mut *self.arrivals.0.lock().unwrap());
        if !arrived.is_empty() {
            self.queue.arrived(arrived);
        }
    }

    /// Some simulated time; for ever when the process has died.
    async fn wait(&self, low_ms: u64, high_ms: u64) {
        let wait = if self.world.fault(2) {
            self.world.scaled(100, 30_000)
        } else {
            self.world.scaled(low_ms, high_ms)
        };
        sleep(Duration::from_millis(wait)).await;
        if self.died.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}

impl Store for SimStore {
    fn find_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Option<KeyRecord>> {
        Box::pin(self.read(|store| now(store.find_key(key))))
    }

    fn accept(&self, message: Arc<Message>, claim: Option<KeyClaim>) -> StoreFuture<'_, Acceptance> {
        let call = Call::Accept(message.clone(), claim.clone());
        Box::pin(self.change(
            Some(call),
            move |store| now(store.accept(message, claim)),
            |done| *done == Acceptance::Queued,
        ))
    }

    fn save_with(&self, id: QueueId, progress: Progress, notices: Vec<Arc<Message>>) -> StoreFuture<'_, ()> {
        let call = Call::Save(id, progress.clone(), notices.clone());
        Box::pin(self.change(Some(call), move |store| now(store.save_with(id, progress, notices)), |()| true))
    }

    fn load(&self, id: QueueId) -> StoreFuture<'_, Option<(Arc<Message>, Progress)>> {
        Box::pin(self.read(move |store| now(store.load(id))))
    }

    fn forget_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Forgotten> {
        let key = key.clone();
        Box::pin(self.change(None, move |store| now(store.forget_key(&key)), |_| true))
    }

    fn status(&self) -> Status {
        if self.0.died.is_cancelled() || self.0.is_closed.load(Ordering::SeqCst) {
            return Status::Closed;
        }
        self.0.time_goes_by();
        self.0.store.lock().unwrap().as_ref().map_or(Status::Closed, Store::status)
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let _turn = self.0.turns.lock().await;
            self.0.is_closed.store(true, Ordering::SeqCst);
            let result = self.0.with(|store| now(store.close()));
            self.0.after();
            result
        })
    }
}

/// The time that everything begins at.
pub fn beginning() -> Timestamp {
    Timestamp::from_millis(1_795_343_400_000)
}
