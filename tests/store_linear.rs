//! Calls that several callers make at once are answered as if they had been made one after the other: for each key there
//! is an order, in which no call stands before one that was answered before it began.

mod search;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncemail::mail::QueueId;
use oncemail::store::{Acceptance, EmbeddedStore, Forgotten, Store};
use proptest::prelude::*;
use tokio::sync::Barrier;

use crate::common::history::{TTL, claim, finished, key, message};
use crate::common::store_bed::Bed;
use search::{Asked, Call, has_an_order};

/// Few keys, so that many calls meet.
const KEYS: u8 = 3;
const CALLERS: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    Accept(u8),
    /// The same, and its caller goes away after so many looks at the answer.
    AcceptAndLeave(u8, u8),
    Find(u8),
    Forget(u8),
    /// Of the message that this caller queued last.
    Finish,
    /// Keys move into the index, segments are copied and given back.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS;
    prop_oneof![
        6 => key.clone().prop_map(Step::Accept),
        2 => (key.clone(), 0..3u8).prop_map(|(key, looks)| Step::AcceptAndLeave(key, looks)),
        4 => key.clone().prop_map(Step::Find),
        3 => key.prop_map(Step::Forget),
        2 => Just(Step::Finish),
        2 => Just(Step::Settle),
    ]
}

/// One caller: its calls, by key.
struct Caller {
    store: Arc<EmbeddedStore>,
    bed: Arc<Bed>,
    clock: Arc<AtomicU64>,
    calls: Vec<(u8, Call)>,
    last: Option<QueueId>,
}

impl Caller {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    async fn run(mut self, steps: Vec<Step>, start: Arc<Barrier>) -> Vec<(u8, Call)> {
        start.wait().await;
        for step in steps {
            self.take(step).await;
        }
        self.calls
    }

    async fn take(&mut self, step: Step) {
        let begun = self.tick();
        let (number, asked) = match step {
            Step::Accept(number) => (number, self.accept(number, None).await),
            Step::AcceptAndLeave(number, looks) => (number, self.accept(number, Some(looks)).await),
            Step::Find(number) => {
                let found = self.store.find_key(&key_of(number)).await.unwrap();
                (number, Asked::Found(found.map(|record| record.id)))
            }
            Step::Forget(number) => match self.store.forget_key(&key_of(number)).await.unwrap() {
                Forgotten::Key(record) => (number, Asked::Forgot(Some(record.id))),
                Forgotten::Unknown => (number, Asked::Forgot(None)),
                Forgotten::TooMany => unreachable!("not of so few"),
            },
            Step::Finish => {
                if let Some(id) = self.last.take() {
                    self.store.save(id, finished(self.bed.clock.now())).await.unwrap();
                }
                return;
            }
            Step::Settle => return self.store.settle().await.unwrap(),
        };
        let ended = match asked {
            Asked::Unanswered(_) => u64::MAX,
            _ => self.tick(),
        };
        self.calls.push((number, Call { asked, begun, ended }));
    }

    async fn accept(&mut self, number: u8, looks: Option<u8>) -> Asked {
        let now = self.bed.clock.now();
        let message = message(now, Some(&key_of(number).key), 600);
        let answer = self.store.accept(message.clone(), Some(claim(now)));
        let patience = async {
            match looks {
                None => std::future::pending().await,
                Some(looks) => {
                    for _ in 0..looks {
                        tokio::task::yield_now().await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            answer = answer => match answer.unwrap() {
                Acceptance::Queued => {
                    self.last = Some(message.id);
                    Asked::Queued(message.id)
                }
                Acceptance::Existing(record) => Asked::Existing(record.id),
            },
            () = patience => Asked::Unanswered(message.id),
        }
    }
}

fn key_of(number: u8) -> oncemail::mail::ScopedKey {
    key(&format!("key {number}"))
}

/// The index has an expired record of every key, so that each lookup has to read it.
async fn with_old_keys(bed: &Bed, store: &EmbeddedStore) {
    for number in 0..KEYS {
        let message = bed.queue(store, Some(&key_of(number).key)).await;
        bed.finish(store, message.id).await;
    }
    store.settle().await.unwrap();
    bed.clock.advance(TTL + Duration::from_secs(1));
}

async fn compare(old_keys: bool, steps: Vec<Vec<Step>>) {
    let bed = Arc::new(Bed::new());
    let store = Arc::new(bed.open().0);
    if old_keys {
        with_old_keys(&bed, &store).await;
    }
    let (clock, start) = (Arc::<AtomicU64>::default(), Arc::new(Barrier::new(steps.len())));
    let callers: Vec<_> = steps
        .into_iter()
        .map(|steps| {
            let (store, bed, clock) = (store.clone(), bed.clone(), clock.clone());
            let caller = Caller { store, bed, clock, calls: Vec::new(), last: None };
            tokio::spawn(caller.run(steps, start.clone()))
        })
        .collect();
    let mut calls = Vec::new();
    for caller in callers {
        calls.extend(caller.await.unwrap());
    }
    // I1: and over a restart. What was handed over and not answered is done by then, or never.
    drop(Arc::into_inner(store).unwrap());
    let (store, recovery) = bed.open();
    for number in 0..KEYS {
        let begun = clock.fetch_add(1, Ordering::SeqCst);
        let found = store.find_key(&key_of(number)).await.unwrap().map(|record| record.id);
        let ended = clock.fetch_add(1, Ordering::SeqCst);
        calls.push((number, Call { asked: Asked::Found(found), begun, ended }));
        let of_key: Vec<_> = calls.iter().filter(|(n, _)| *n == number).map(|(_, call)| *call).collect();
        assert!(has_an_order(&of_key), "no order of {of_key:#?}");
        let is_made = |id: QueueId| {
            let made =
                |call: &Call| matches!(call.asked, Asked::Queued(by) | Asked::Unanswered(by) if by == id);
            of_key.iter().any(made)
        };
        let is_known = |call: &Call| !matches!(call.asked, Asked::Existing(id) if !is_made(id));
        assert!(of_key.iter().all(is_known), "a key of a message that nobody sent");
    }
    // I4: nothing of what got another answer.
    let known = |id: &QueueId| {
        calls.iter().any(
            |(_, call)| matches!(call.asked, Asked::Queued(made) | Asked::Unanswered(made) if made == *id),
        )
    };
    assert!(recovery.messages.iter().all(|message| known(&message.id)), "a message that was refused");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i1_i2_calls_that_overlap_are_answered_as_if_they_had_come_one_by_one(
        old_keys in any::<bool>(),
        steps in prop::collection::vec(prop::collection::vec(step(), 1..9), CALLERS),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(compare(old_keys, steps));
    }
}
