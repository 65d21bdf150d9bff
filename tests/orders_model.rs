//! Orders, attempts and restarts in any order, against what each recipient's state should be.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::{HoldCause, Message, QueueId, RecipientState};
use oncemail::queue::{Action, Effect, End, Jitter, Lease, Options, Queue};
use oncemail::store::memory::MemoryStore;
use oncemail::store::{Arrivals, Store, StoreError};
use proptest::prelude::*;

use crate::common::relay_rig::{message, queue_options};
use crate::orders::{BY_OPERATOR, START, outcome, recovered, within_no_time};

/// One step of the model.
#[derive(Clone, Debug)]
enum Step {
    Accept(u8),
    Lease,
    /// Ends the nth lease, with these ends for its queued recipients.
    Settle(usize, Vec<u8>),
    Drop(usize),
    Order(usize, u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..4u8).prop_map(Step::Accept),
        5 => Just(Step::Lease),
        4 => (0..8usize, prop::collection::vec(0..4u8, 0..3)).prop_map(|(n, ends)| Step::Settle(n, ends)),
        1 => (0..8usize).prop_map(Step::Drop),
        6 => (0..40usize, 0..5u8).prop_map(|(n, action)| Step::Order(n, action)),
        1 => Just(Step::Restart),
    ]
}

/// Arrivals go to the process that runs.
struct Door(Mutex<Option<Arc<Queue>>>);

impl Arrivals for Door {
    fn arrived(&self, messages: Vec<Arc<Message>>) {
        if let Some(queue) = self.0.lock().unwrap().as_ref() {
            queue.arrived(messages);
        }
    }
}

/// What a message should be like.
struct Expected {
    id: QueueId,
    states: Vec<RecipientState>,
    is_leased: bool,
    line: Vec<Action>,
}

impl Expected {
    fn has(&self, is_it: impl Fn(RecipientState) -> bool) -> bool {
        self.states.iter().any(|state| is_it(*state))
    }

    /// Applies an order; false when nobody is concerned.
    fn obey(&mut self, action: Action, spared: &[usize]) -> bool {
        let mut any = false;
        for (number, state) in self.states.iter_mut().enumerate() {
            let in_doubt_now = *state == RecipientState::Held(HoldCause::InDoubt) && spared.contains(&number);
            let (queued, held) = (*state == RecipientState::Queued, matches!(state, RecipientState::Held(_)));
            let new = match action {
                Action::Retry if queued => RecipientState::Queued,
                Action::Hold if queued => BY_OPERATOR,
                Action::Release if held && !spared.contains(&number) => RecipientState::Queued,
                Action::Bounce if (queued || held) && !in_doubt_now => RecipientState::Bounced,
                Action::Discard if (queued || held) && !in_doubt_now => RecipientState::Discarded,
                _ => continue,
            };
            *state = new;
            any = true;
        }
        any
    }
}

async fn tasks_run() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

async fn compare(steps: Vec<Step>) {
    let options = || Options { jitter: Jitter::None, ..queue_options() };
    let clock = Clock::manual(START);
    let door = Arc::new(Door(Mutex::default()));
    let store = Arc::new(MemoryStore::new(clock.clone(), Some(door.clone())));
    let start = || {
        let queue = Queue::new(options(), clock.clone());
        queue.start(store.clone(), store.messages().iter().map(recovered).collect());
        *door.0.lock().unwrap() = Some(queue.clone());
        queue
    };
    let mut queue = start();
    let mut model: Vec<Expected> = Vec::new();
    let mut leases: Vec<Lease> = Vec::new();
    let is_queued = |state| state == RecipientState::Queued;
    for step in steps {
        match step {
            Step::Accept(recipients) => {
                let addresses: Vec<_> = (0..recipients).map(|n| format!("r{n}@x.example")).collect();
                let sent = message(&clock, &addresses.iter().map(String::as_str).collect::<Vec<_>>(), "x");
                let states = vec![RecipientState::Queued; recipients.into()];
                model.push(Expected { id: sent.id, states, is_leased: false, line: Vec::new() });
                store.accept(Arc::new(sent), None).await.unwrap();
            }
            Step::Lease => {
                while let Ok(found) = tokio::time::timeout(Duration::from_millis(3), queue.next(1)).await {
                    let lease = found.into_iter().next().unwrap();
                    lease.open().await.unwrap();
                    let Some(expected) = model.iter_mut().find(|expected| expected.id == lease.id()) else {
                        // A report to a sender.
                        lease.settle(&[outcome(0, End::Delivered)], None).await.unwrap();
                        continue;
                    };
                    assert!(!expected.is_leased, "{} is leased twice", expected.id);
                    let queued = expected.states.iter().enumerate().filter(|(_, s)| is_queued(**s));
                    assert_eq!(lease.queued().await, queued.map(|(n, _)| n).collect::<Vec<_>>());
                    expected.is_leased = true;
                    leases.push(lease);
                    break;
                }
            }
            Step::Settle(n, ends) if !leases.is_empty() => {
                let lease = leases.remove(n % leases.len());
                let expected = model.iter_mut().find(|expected| expected.id == lease.id()).unwrap();
                let mut outcomes = Vec::new();
                let mut newly_held = Vec::new();
                for (number, end) in lease.queued().await.into_iter().zip(ends) {
                    let (end, state) = match end {
                        0 => (End::Delivered, RecipientState::Delivered),
                        1 => (End::Deferred, RecipientState::Queued),
                        2 => (End::Failed, RecipientState::Held(HoldCause::Failed)),
                        _ => (End::InDoubt, RecipientState::Held(HoldCause::InDoubt)),
                    };
                    expected.states[number] = state;
                    newly_held.extend(matches!(state, RecipientState::Held(_)).then_some(number));
                    outcomes.push(outcome(number, end));
                }
                let untried = outcomes.is_empty().then_some(Duration::ZERO);
                lease.settle(&outcomes, untried).await;
                drop(lease);
                for action in std::mem::take(&mut expected.line) {
                    expected.obey(action, &newly_held);
                }
                expected.is_leased = false;
            }
            Step::Drop(n) if !leases.is_empty() => {
                let lease = leases.remove(n % leases.len());
                let expected = model.iter_mut().find(|expected| expected.id == lease.id()).unwrap();
                drop(lease);
                for action in std::mem::take(&mut expected.line) {
                    expected.obey(action, &[]);
                }
                expected.is_leased = false;
            }
            Step::Order(n, action) if !model.is_empty() => {
                let n = n % model.len();
                let expected = &mut model[n];
                let action = [Action::Retry, Action::Hold, Action::Release, Action::Bounce, Action::Discard]
                    [usize::from(action)];
                let effect = within_no_time(&queue, expected.id, action).await;
                let is_open = expected.has(|s| is_queued(s) || matches!(s, RecipientState::Held(_)));
                if !is_open {
                    assert_eq!(effect, Effect::Gone);
                } else if expected.is_leased && action == Action::Retry {
                    assert!(matches!(effect, Effect::Unchanged(_)), "{effect:?}");
                } else if expected.is_leased {
                    assert_eq!(effect, Effect::Pending);
                    expected.line.push(action);
                } else if expected.obey(action, &[]) {
                    assert_eq!(effect, Effect::Done);
                } else {
                    assert!(matches!(effect, Effect::Unchanged(_)), "{effect:?}");
                }
            }
            Step::Restart => {
                store.fail_with(Some(StoreError::Closed));
                leases.clear();
                tasks_run().await;
                store.fail_with(None);
                queue = start();
                for expected in &mut model {
                    expected.is_leased = false;
                    expected.line.clear();
                }
            }
            Step::Settle(..) | Step::Drop(_) | Step::Order(..) => {}
        }
        tasks_run().await;
        check(&queue, &store, &model);
    }
}

/// D6: every recipient is in exactly the state that it should be in, and the queue counts what there is.
fn check(queue: &Queue, store: &MemoryStore, model: &[Expected]) {
    let messages = store.messages();
    for expected in model {
        let found = messages.iter().find(|(message, _)| message.id == expected.id);
        let states = found.map(|(_, p)| p.recipients.iter().map(|r| r.state).collect::<Vec<_>>());
        let is_open = expected.has(|s| matches!(s, RecipientState::Queued | RecipientState::Held(_)));
        assert_eq!(states, is_open.then(|| expected.states.clone()), "{}", expected.id);
    }
    let queued = messages.iter().filter(|(_, progress)| progress.is_queued()).count();
    let depth = queue.depth();
    assert_eq!((depth.queued, depth.held), (queued, messages.len() - queued));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn d6_orders_attempts_and_restarts_in_any_order_lose_nobody_and_offer_nobody_who_is_held(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(compare(steps));
    }
}
