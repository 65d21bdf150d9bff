//! Seeded workloads: what a relay asks of its store, in any order, with a clock that jumps, a disk that fills up,
//! upkeep that stands still in the middle, and restarts. Each answer is noted with the operations of the disk before
//! and after it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{Fingerprint, FingerprintMode, Handling, Message, Progress, QueueId, RecipientState};
use oncemail::store::embedded::Options;
use oncemail::store::{
    Acceptance, EmbeddedStore, Forgotten, KeyClaim, OpenError, Recovery, Status, Store, StoreError,
};
use tokio::runtime::Runtime;

use crate::common::history::{
    NoArrivals, TTL, deferred, finished, held, key, message, notice, options, start,
};
use crate::common::memory_disk::{MemoryDisk, Trouble};
use crate::common::platter::Chance;

/// Keys that submissions come under.
pub const KEYS: usize = 6;
/// Bytes: a disk is low before it is full.
const MIN_FREE: u64 = 500;

/// Where the store is on the disk in memory.
pub fn root() -> PathBuf {
    PathBuf::from("/var/oncemail")
}

/// What was asked for.
#[derive(Clone)]
pub enum Call {
    Accept(Arc<Message>),
    Save(QueueId, Progress, Vec<Arc<Message>>),
    Forget(usize),
    /// Nothing: the clock was set.
    Clock,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is durable.
    Done,
    /// The key has another message.
    Existing(QueueId),
    /// It was refused: nothing of it is left.
    Refused,
    /// The store latched on it: it may be there or not, as a whole.
    Unknown,
}

/// One call and its answer.
#[derive(Clone)]
pub struct Noted {
    pub call: Call,
    pub answer: Answer,
    /// The clock then.
    pub at: Timestamp,
    /// Operations of the disk when it was asked and when it was answered.
    pub issued: usize,
    pub done: usize,
}

/// A workload and its disk.
pub struct Run {
    pub disk: MemoryDisk,
    pub clock: Clock,
    pub noted: Vec<Noted>,
    /// The store, unless it could not be opened.
    pub store: Option<Arc<EmbeddedStore>>,
    /// The disk had failed before the store was opened for the last time.
    pub is_past_trouble: bool,
}

/// What kind of workload.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub seed: u64,
    pub steps: usize,
    pub trouble: Option<Trouble>,
}

/// What a key remembers of a message: its own fingerprint, so that no two are taken for one another.
pub fn claim(message: &Message) -> KeyClaim {
    let mut content = [0; 32];
    content[..16].copy_from_slice(&message.id.to_bytes());
    let fingerprint = Fingerprint { version: 1, mode: FingerprintMode::Content, envelope: [1; 32], content };
    KeyClaim { fingerprint, expires_at: message.accepted_at.plus(TTL) }
}

pub fn key_text(number: usize) -> String {
    format!("key {number}")
}

/// Nothing happens in the background but what is asked for: a run can be repeated on a slow machine too.
pub fn open_disk(disk: &MemoryDisk, clock: &Clock) -> Result<(EmbeddedStore, Recovery), OpenError> {
    let options =
        Options { upkeep_every: Duration::from_secs(86_400), min_free: MIN_FREE, ..options(&root()) };
    EmbeddedStore::open(options, Arc::new(disk.clone()), clock.clone(), Arc::new(NoArrivals))
}

struct Driver<'a> {
    runtime: &'a Runtime,
    run: Run,
    chance: Chance,
    /// Messages that are not finished.
    live: Vec<QueueId>,
    ended: Vec<QueueId>,
    attempts: u32,
    /// The upkeep that has been begun, and whether it has ended.
    upkeep: Option<Arc<AtomicBool>>,
}

type Calling<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Runs a workload until its end, or until the store has latched.
pub fn run(runtime: &Runtime, shape: Shape) -> Run {
    let mut chance = Chance(shape.seed);
    let disk = MemoryDisk::new(Path::new("/var"));
    disk.set_can_allocate(!chance.one_in(4));
    if let Some(trouble) = shape.trouble {
        disk.set_trouble(trouble);
    }
    let run =
        Run { disk, clock: Clock::manual(start()), noted: Vec::new(), store: None, is_past_trouble: false };
    let mut driver =
        Driver { runtime, run, chance, live: Vec::new(), ended: Vec::new(), attempts: 0, upkeep: None };
    driver.open();
    for _ in 0..shape.steps {
        if driver.has_stopped() {
            break;
        }
        driver.step();
    }
    driver.finish_upkeep();
    driver.run.disk.release_index();
    driver.run
}

impl Driver<'_> {
    fn store(&self) -> &EmbeddedStore {
        self.run.store.as_ref().unwrap()
    }

    fn has_stopped(&self) -> bool {
        self.run.store.as_ref().is_none_or(|store| matches!(store.status(), Status::Latched { .. }))
    }

    fn open(&mut self) {
        self.run.disk.release_index();
        self.run.is_past_trouble = self.run.disk.struck().is_some();
        let mut opened = open_disk(&self.run.disk, &self.run.clock);
        if opened.is_err() && self.run.disk.struck().is_none() {
            // With no room at all and none kept back it says so.
            let reserve = self.run.disk.len(&root().join("reserve"));
            assert_eq!(reserve, None, "a start needs more room than was kept back: {:?}", opened.err());
            self.run.disk.set_capacity(u64::MAX);
            opened = open_disk(&self.run.disk, &self.run.clock);
        }
        match opened {
            Ok((store, _)) => self.run.store = Some(Arc::new(store)),
            Err(error) => {
                assert!(self.run.disk.struck().is_some(), "opening fails only when told to: {error}")
            }
        }
        self.run.disk.hold_index();
    }

    fn step(&mut self) {
        match self.chance.below(30) {
            0..8 => {
                let call = self.accept();
                self.call(call);
            }
            8..12 => self.together(),
            12..19 => {
                let Some(id) = self.pick() else { return };
                let call = self.outcome(id);
                self.call(call);
            }
            19 => {
                let number = self.chance.below(KEYS);
                self.call(Call::Forget(number));
            }
            20 | 21 => {
                let minutes = [10, 200, 600, 1600][self.chance.below(4)];
                self.run.clock.advance(Duration::from_secs(60 * minutes));
                self.note(Call::Clock, Answer::Done, self.run.disk.operations());
            }
            22 => {
                let back = 60_000 * self.chance.below(180) as u64;
                let to = self.run.clock.now().as_millis() - back;
                self.run.clock.set(Timestamp::from_millis(to));
                self.note(Call::Clock, Answer::Done, self.run.disk.operations());
            }
            23 => match self.chance.below(3) {
                0 => self.run.disk.set_free([0, 100, 1000, 3000][self.chance.below(4)]),
                _ => self.run.disk.set_capacity(u64::MAX),
            },
            24..28 => {
                let operations = 1 + self.chance.below(12);
                self.upkeep(operations);
            }
            28 => self.finish_upkeep(),
            _ => self.restart(),
        }
    }

    fn accept(&mut self) -> Call {
        let number = self.chance.below(KEYS * 2);
        let text = key_text(number);
        let size = [10, 60, 300, 900, 2000, 6000][self.chance.below(6)];
        let mut new = Message::clone(&message(
            self.run.clock.now(),
            Some(text.as_str()).filter(|_| number < KEYS),
            size,
        ));
        if self.chance.one_in(6) {
            let release_at = Some(self.run.clock.now().plus(Duration::from_secs(7200)));
            new.envelope.handling = Handling { release_at, priority: 3, ..Handling::default() };
        }
        Call::Accept(Arc::new(new))
    }

    fn pick(&mut self) -> Option<QueueId> {
        let all = if self.chance.one_in(8) { &self.ended } else { &self.live };
        (!all.is_empty()).then(|| all[self.chance.below(all.len())])
    }

    /// A progress that no other one equals.
    fn outcome(&mut self, id: QueueId) -> Call {
        self.attempts += 1;
        let now = self.run.clock.now();
        let mut progress = match self.chance.below(5) {
            0 | 1 => finished(now),
            2 => held(now),
            _ => deferred(now, self.attempts),
        };
        progress.attempts = self.attempts;
        if self.chance.one_in(9) {
            // Released again.
            progress.recipients[1].state = RecipientState::Queued;
        }
        let count = [0, 0, 1, 2][self.chance.below(4)];
        let size = 50 + self.chance.below(900);
        Call::Save(id, progress, (0..count).map(|_| notice(now, size)).collect())
    }

    fn call(&mut self, call: Call) {
        let issued = self.run.disk.operations();
        let answer = self.runtime.block_on(calling(self.run.store.as_ref().unwrap(), &call));
        self.note(call, answer, issued);
    }

    fn note(&mut self, call: Call, answer: Answer, issued: usize) {
        let done = self.run.disk.operations();
        if answer == Answer::Done {
            match &call {
                Call::Accept(message) => self.live.push(message.id),
                Call::Save(id, progress, notices) if self.live.contains(id) => {
                    self.live.extend(notices.iter().map(|notice| notice.id));
                    if progress.is_finished() {
                        self.live.retain(|other| other != id);
                        self.ended.push(*id);
                    }
                }
                Call::Save(..) | Call::Forget(_) | Call::Clock => {}
            }
        }
        self.run.noted.push(Noted { call, answer, at: self.run.clock.now(), issued, done });
    }

    /// One call that the disk is busy with, and others that wait meanwhile and share the next commit.
    fn together(&mut self) {
        let busy = message(self.run.clock.now(), None, 300);
        let mut calls = vec![Call::Accept(busy)];
        for _ in 0..2 + self.chance.below(4) {
            let taken: Vec<_> = calls
                .iter()
                .filter_map(|call| if let Call::Save(id, ..) = call { Some(*id) } else { None })
                .collect();
            let save = self.pick().filter(|id| !taken.contains(id) && self.chance.one_in(2));
            calls.push(match save {
                Some(id) => self.outcome(id),
                None => self.accept(),
            });
        }
        let issued = self.run.disk.operations();
        let answers = {
            let (disk, store) = (self.run.disk.clone(), self.store());
            let mut waiting: Vec<Calling<'_>> = calls.iter().map(|call| calling(store, call)).collect();
            let mut answers: Vec<Option<Answer>> = vec![None; calls.len()];
            disk.hold_commits();
            self.runtime.block_on(std::future::poll_fn(|context| {
                let mut poll = |number: usize, context: &mut Context<'_>| {
                    if answers[number].is_none()
                        && let Poll::Ready(answer) = waiting[number].as_mut().poll(context)
                    {
                        answers[number] = Some(answer);
                    }
                    answers[number].is_some()
                };
                // It may be answered without the disk: the index thread can latch the store at any time.
                if !poll(0, context) && disk.holds_commits() && disk.poll_commit_waits(context).is_pending() {
                    return Poll::Pending;
                }
                for number in 1..calls.len() {
                    poll(number, context);
                }
                disk.release_commits();
                if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
            }));
            answers
        };
        for (call, answer) in calls.into_iter().zip(answers) {
            self.note(call, answer.unwrap(), issued);
        }
    }

    /// Begins the upkeep, or goes on with it, for so many operations.
    fn upkeep(&mut self, operations: usize) {
        let done = self.upkeep.take().unwrap_or_else(|| {
            let done = Arc::new(AtomicBool::new(false));
            let (ended, disk) = (done.clone(), self.run.disk.clone());
            let store = self.run.store.clone().unwrap();
            self.runtime.spawn(async move {
                // Low disk and a latch are told elsewhere.
                let _ = store.settle().await;
                drop(store);
                ended.store(true, Ordering::SeqCst);
                disk.look_again();
            });
            done
        });
        self.run.disk.grant(operations, &|| done.load(Ordering::SeqCst));
        self.upkeep = Some(done).filter(|done| !done.load(Ordering::SeqCst));
    }

    fn finish_upkeep(&mut self) {
        if let Some(done) = self.upkeep.take() {
            self.run.disk.grant(usize::MAX, &|| done.load(Ordering::SeqCst));
        }
    }

    fn restart(&mut self) {
        self.finish_upkeep();
        self.run.disk.release_index();
        let store = self.run.store.take().unwrap();
        if self.chance.one_in(2) {
            // A full disk or a latch is told; what was acknowledged stands all the same.
            let _ = self.runtime.block_on(store.close());
        }
        if matches!(store.status(), Status::Latched { .. }) {
            self.run.store = Some(store);
            return;
        }
        drop(store);
        self.open();
    }
}

fn calling<'a>(store: &'a EmbeddedStore, call: &Call) -> Calling<'a> {
    let call = call.clone();
    Box::pin(async move {
        let was_latched = matches!(store.status(), Status::Latched { .. });
        let answer = match call {
            Call::Accept(message) => {
                let claim = message.key.as_ref().map(|_| claim(&message));
                store.accept(message, claim).await.map(|answer| match answer {
                    Acceptance::Queued => Answer::Done,
                    Acceptance::Existing(record) => Answer::Existing(record.id),
                })
            }
            Call::Save(id, progress, notices) => {
                store.save_with(id, progress, notices).await.map(|()| Answer::Done)
            }
            Call::Clock => Ok(Answer::Done),
            Call::Forget(number) => {
                store.forget_key(&key(&key_text(number))).await.map(|answer| match answer {
                    Forgotten::Key(_) => Answer::Done,
                    Forgotten::Unknown | Forgotten::TooMany => Answer::Refused,
                })
            }
        };
        answer.unwrap_or_else(|error| match error {
            StoreError::Latched(_) if !was_latched => Answer::Unknown,
            _ => Answer::Refused,
        })
    })
}
