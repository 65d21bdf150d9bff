//! Events are made with the outcome that they tell of, one for each recipient, and never in the way of mail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::{Clock, Timestamp};
use oncemail::intake::{Decision, Replays};
use oncemail::mail::{Handling, KeyKind, Message, Origin, QueueId, Replay, Scope, ScopedKey};
use oncemail::queue::{
    Action, Announcer, Effect, End, EventKind, Jitter, Lease, OnFailure, Options, Order, Outcome, Queue,
    Wanted,
};
use oncemail::store::{Recovered, Store, StoreError};
use serde_json::Value;

use crate::common::far_side::PATIENCE;
use crate::common::intake::{Bench, keyed, options};
use crate::common::outcomes;
use crate::common::relay_rig::{message, queue_options};
use crate::common::watched_store::WatchedStore;

const HOUR: Duration = Duration::from_secs(3600);
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A queue over a memory store, and somebody who wants to know everything.
struct Bed {
    queue: Arc<Queue>,
    store: Arc<WatchedStore>,
    clock: Clock,
}

fn announcer(limit: usize) -> Announcer {
    let mut announcer = Announcer::new(limit);
    assert!(announcer.add("app", &EventKind::ALL));
    announcer
}

fn hourly(on_failure: OnFailure) -> Options {
    Options { base: HOUR, cap: HOUR, jitter: Jitter::None, on_failure, ..queue_options() }
}

fn outcome(recipient: usize, end: End) -> Outcome {
    let mut outcome = outcomes::outcome(recipient, end);
    outcome.reply.tls = "TLSv1.3".into();
    outcome
}

impl Bed {
    fn new(options: Options, limit: usize) -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
        let queue = Queue::new(options, clock.clone());
        let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
        queue.start(store.clone(), Vec::new());
        queue.announce_to(Some(announcer(limit)));
        Self { queue, store, clock }
    }

    async fn accept(&self, change: impl FnOnce(&mut Message)) -> QueueId {
        let mut message = message(&self.clock, &["b@x.example", "c@y.example"], "the body");
        change(&mut message);
        let id = message.id;
        self.store.accept(Arc::new(message), None).await.unwrap();
        id
    }

    async fn next(&self) -> Lease {
        let lease = tokio::time::timeout(PATIENCE, self.queue.next(1)).await.unwrap().remove(0);
        lease.open().await.unwrap();
        lease
    }

    /// One attempt at the message that is due, with these ends for its recipients.
    async fn attempt(&self, ends: &[End]) {
        let outcomes: Vec<_> = ends.iter().enumerate().map(|(n, end)| outcome(n, *end)).collect();
        self.next().await.settle(&outcomes, None).await.unwrap();
    }

    fn stored_events(&self) -> Vec<Arc<Message>> {
        let all = self.store.messages().into_iter().map(|(message, _)| message);
        all.filter(|message| message.origin.is_event()).collect()
    }

    /// Those that were made since the last call, in any order; they are taken by their sink.
    async fn take(&self) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        for event in self.stored_events() {
            let found: Value = serde_json::from_slice(&event.content).unwrap();
            assert_eq!((&found["version"], &found["id"]), (&1.into(), &event.id.to_string().into()));
            let text = |key: &str| found[key].as_str().unwrap_or("-").to_owned();
            let words = ["type", "recipient", "outcome", "reason", "reply"].map(text);
            seen.insert(words.join(" "));
        }
        for _ in 0..self.stored_events().len() {
            let lease = self.next().await;
            assert!(lease.is_event());
            lease.settle(&[outcome(0, End::Delivered)], None).await.unwrap();
        }
        assert_eq!(self.stored_events(), []);
        seen
    }
}

fn words(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|words| (*words).to_owned()).collect()
}

#[tokio::test]
async fn each_end_of_an_attempt_is_one_event_for_its_recipient() {
    for (on_failure, end) in [
        (OnFailure::Bounce, "bounced b@x.example bounced failed 5.1.1 no such user"),
        (OnFailure::Discard, "bounced b@x.example discarded failed 5.1.1 no such user"),
        (OnFailure::Hold, "held b@x.example - failed 5.1.1 no such user"),
    ] {
        let at_once = Options { base: Duration::ZERO, ..hourly(on_failure) };
        let bed = Bed::new(at_once, 100);
        bed.accept(|_| ()).await;
        bed.attempt(&[End::Deferred, End::Delivered]).await;
        // What has not changed is not told of again.
        bed.attempt(&[End::Failed]).await;
        if on_failure == OnFailure::Bounce {
            let notice = bed.next().await;
            assert!(!notice.is_event());
            notice.settle(&[outcome(0, End::Delivered)], None).await.unwrap();
        }
        let mut expected =
            words(&["deferred b@x.example - - 4.3.0 later", "delivered c@y.example - - 2.0.0 ok"]);
        expected.insert(end.to_owned());
        if on_failure == OnFailure::Bounce {
            expected.insert("delivered a@shop.example - - 2.0.0 ok".to_owned());
        }
        assert_eq!(bed.take().await, expected);
    }
}

/// A new process over the same store, in which all is due.
fn restarted(bed: &Bed, on_failure: OnFailure) -> Bed {
    let queue = Queue::new(hourly(on_failure), bed.clock.clone());
    let recovered = bed.store.messages().into_iter().map(|(message, progress)| Recovered {
        id: message.id,
        next_attempt: progress.is_queued().then_some(bed.clock.now()),
        priority: message.envelope.handling.priority,
        held_back: false,
    });
    queue.announce_to(Some(announcer(100)));
    queue.start(bed.store.clone(), recovered.collect());
    Bed { queue, store: bed.store.clone(), clock: bed.clock.clone() }
}

#[tokio::test]
async fn a_recipient_whose_time_is_up_is_told_of_as_expired() {
    let options = Options { expire_after: HOUR, ..hourly(OnFailure::Discard) };
    let bed = Bed::new(options, 100);
    bed.accept(|_| ()).await;
    let lease = bed.next().await;
    bed.clock.advance(2 * HOUR);
    lease.expire().await.unwrap();
    let expired =
        ["b@x.example", "c@y.example"].map(|address| format!("bounced {address} discarded expired -"));
    assert_eq!(bed.take().await, BTreeSet::from(expired));
}

#[tokio::test]
async fn what_an_operator_ends_is_told_of_as_such_also_when_it_was_tried_or_its_time_was_up() {
    let bed = Bed::new(Options { expire_after: HOUR, ..hourly(OnFailure::Hold) }, 100);
    let order = |action| Order { action, by: "ops".into(), reason: None };
    let id = bed.accept(|_| ()).await;
    let lease = bed.next().await;
    // It stands in line until the attempt has ended.
    let (queue, discard) = (bed.queue.clone(), order(Action::Discard));
    let no_patience = Duration::from_millis(1);
    let effects = queue.order_within(no_patience, vec![id], discard, Wanted::default()).await;
    assert_eq!(effects, [(id, Effect::Pending)]);
    lease.settle(&[outcome(0, End::Deferred), outcome(1, End::Delivered)], None).await.unwrap();
    drop(lease);
    let ended = "bounced b@x.example discarded operator discarded by ops".to_owned();
    assert_eq!(
        bed.take().await,
        BTreeSet::from([ended.clone(), "delivered c@y.example - - 2.0.0 ok".to_owned()])
    );
    let late = bed.accept(|message| drop(message.envelope.recipients.pop())).await;
    let lease = bed.next().await;
    bed.clock.advance(2 * HOUR);
    lease.expire().await.unwrap();
    drop(lease);
    assert_eq!(bed.take().await, words(&["held b@x.example - expired -"]));
    assert_eq!(bed.queue.order(late, order(Action::Discard)).await, Effect::Done);
    assert_eq!(bed.take().await, BTreeSet::from([ended]));
}

#[tokio::test]
async fn an_event_says_which_message_it_is_about_and_what_was_said() {
    let bed = Bed::new(hourly(OnFailure::Hold), 100);
    let id = bed
        .accept(|message| {
            let (scope, kind) = (Scope::named("shop"), KeyKind::Header);
            message.key = Some(ScopedKey { scope, kind, key: "order-123".into() });
            message.origin.user = Some("ann".into());
            message.content = format!("traceparent: {TRACEPARENT}\r\n\r\nx\r\n").into();
        })
        .await;
    bed.attempt(&[End::Deferred]).await;
    let events = bed.stored_events();
    assert_eq!(events.len(), 1);
    let event: Value = serde_json::from_slice(&events[0].content).unwrap();
    let expected = serde_json::json!({
        "version": 1,
        "id": events[0].id.to_string(),
        "type": "deferred",
        "at": "2026-11-22T10:30:00Z",
        "message": {
            "id": id.to_string(),
            "key": "order-123",
            "key_scope": "shop",
            "message_id": "<m@shop.example>",
            "from": "a@shop.example",
            "user": "ann",
            "accepted_at": "2026-11-22T10:30:00Z",
            "traceparent": TRACEPARENT,
        },
        "recipient": "b@x.example",
        "route": "r",
        "host": "mx.x.example:25",
        "code": 451,
        "reply": "4.3.0 later",
        "tls": "TLSv1.3",
        "attempts": 1,
        "next_attempt": "2026-11-22T11:30:00Z",
    });
    assert_eq!(event, expected);
    let envelope = &events[0].envelope;
    assert_eq!(envelope.recipients[0].forward_path.as_str(), "app@events.invalid");
    assert!(envelope.reverse_path.mailbox().is_none() && events[0].key.is_none());
}

#[tokio::test]
async fn d2_an_event_is_there_exactly_when_its_outcome_is() {
    let bed = Bed::new(hourly(OnFailure::Hold), 100);
    bed.accept(|_| ()).await;
    let lease = bed.next().await;
    bed.store.fail_with(Some(StoreError::Latched("for the test".into())));
    let settled = lease.settle(&[outcome(0, End::Delivered)], None).await.unwrap();
    settled.saved.unwrap_err();
    assert_eq!((bed.store.messages().len(), bed.stored_events().len()), (1, 0));
    bed.store.fail_with(None);
    // The outcome was not durable, so it happens again; now both are, by one call.
    let again = restarted(&bed, OnFailure::Hold);
    again.attempt(&[End::Delivered]).await;
    assert_eq!(again.store.seen().saves.len(), 1);
    // The store tells the queue that it was made with.
    assert_eq!(bed.take().await, words(&["delivered b@x.example - - 2.0.0 ok"]));
}

#[tokio::test]
async fn a_long_list_is_told_of_as_it_goes_and_nobody_twice() {
    let bed = Bed::new(hourly(OnFailure::Bounce), 100);
    bed.accept(|_| ()).await;
    let lease = bed.next().await;
    // What has failed is told of when it is known what becomes of it.
    lease.record(&[outcome(0, End::Failed)]).await.unwrap();
    assert_eq!(bed.stored_events(), []);
    lease.record(&[outcome(1, End::Delivered)]).await.unwrap();
    assert_eq!(bed.stored_events().len(), 1);
    lease.settle(&[], None).await.unwrap();
    assert_eq!(bed.stored_events().len(), 2);
}

#[tokio::test]
async fn s2_no_more_events_wait_than_are_allowed() {
    let bed = Bed::new(hourly(OnFailure::Hold), 3);
    for _ in 0..3 {
        bed.accept(|_| ()).await;
        bed.attempt(&[End::Deferred, End::Deferred]).await;
    }
    let counts = bed.queue.event_counts();
    assert_eq!((counts.queued, counts.dropped, bed.stored_events().len()), (3, 3, 3));
    // A start counts those that it finds.
    assert_eq!(restarted(&bed, OnFailure::Hold).queue.event_counts().queued, 3);
    bed.take().await;
    assert_eq!(bed.queue.event_counts().queued, 0);
    bed.accept(|_| ()).await;
    bed.attempt(&[End::Delivered, End::Delivered]).await;
    assert_eq!(bed.queue.event_counts().queued, 2);
}

#[tokio::test]
async fn s2_mail_goes_first_and_events_leave_it_the_memory() {
    let options = Options { fresh_bytes: 4 * 2600, ..hourly(OnFailure::Hold) };
    let bed = Bed::new(options, 100);
    bed.accept(|_| ()).await;
    bed.attempt(&[End::Deferred, End::Deferred]).await;
    // As low as a client can say, and later than the events.
    let low = bed.accept(|message| message.envelope.handling.priority = -9).await;
    assert_eq!(bed.queue.event_counts().queued, 2);
    let leases = bed.queue.next(3).await;
    assert_eq!(leases.iter().map(Lease::is_event).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(leases[0].id(), low);
    // One of them fits into a quarter.
    assert_eq!(leases.iter().map(Lease::is_fresh).collect::<Vec<_>>(), [true, true, false]);
}

#[tokio::test]
async fn an_event_makes_no_event_and_no_notice_and_is_never_kept() {
    for on_failure in [OnFailure::Hold, OnFailure::Bounce, OnFailure::Discard] {
        let bed = Bed::new(hourly(on_failure), 100);
        bed.accept(|_| ()).await;
        bed.attempt(&[End::Delivered, End::Delivered]).await;
        assert_eq!(bed.store.messages().len(), 2);
        // One is refused for good, the other is never taken.
        bed.attempt(&[End::Failed]).await;
        let lease = bed.next().await;
        bed.clock.advance(10 * 24 * HOUR);
        lease.settle(&[outcome(0, End::Deferred)], None).await.unwrap();
        assert_eq!(bed.store.messages(), []);
        assert_eq!((bed.queue.depth().queued, bed.queue.depth().held), (0, 0));
    }
}

struct Telling(Arc<Queue>);

impl Replays for Telling {
    fn event(&self, replay: &Replay<'_>) -> Option<Arc<Message>> {
        self.0.replayed(replay)
    }
}

#[tokio::test]
async fn a_replay_is_told_of_before_its_answer_and_never_changes_it() {
    let bench = Bench::new(options());
    let queue = Queue::new(queue_options(), bench.clock.clone());
    queue.announce_to(Some(announcer(100)));
    bench.intake.announce_to(Arc::new(Telling(queue.clone())));
    let Decision::Queued(first) = bench.decide(keyed("order-123", "text")).await else { panic!() };
    assert_eq!(bench.queued().len(), 1);
    assert_eq!(bench.decide(keyed("order-123", "text")).await, Decision::Replayed(first));
    let event = bench.queued().into_iter().find(|message| message.origin.is_event()).unwrap();
    let event: Value = serde_json::from_slice(&event.content).unwrap();
    assert_eq!((&event["type"], &event["client"]), (&"replayed".into(), &"192.0.2.1".into()));
    let about = &event["message"];
    let found = ["id", "key", "key_scope", "user"].map(|key| about[key].as_str().unwrap());
    assert_eq!(found, [first.to_string().as_str(), "order-123", "shop", "shop"]);
    // A mismatch is no replay, and a store that takes no event loses nobody's answer.
    assert_eq!(bench.decide(keyed("order-123", "other")).await, Decision::DifferentBody);
    bench.store.fail_with(Some(StoreError::LowDisk { free_bytes: 1 }));
    assert_eq!(bench.decide(keyed("order-123", "text")).await, Decision::Replayed(first));
    assert_eq!((bench.intake.untold(), bench.queued().len()), (1, 2));
}

#[test]
fn no_client_can_make_an_event() {
    assert!(Origin::event().is_event());
    // MT-PRIORITY is -9 to 9 (RFC 6710), so the priority alone tells an event from mail.
    const { assert!(Handling::EVENT_PRIORITY < -9) };
    let mut announcer = Announcer::new(1);
    for bad in ["", "a@b", "a b", "a.b", "\"a\"", &"x".repeat(65)] {
        assert!(!announcer.add(bad, &EventKind::ALL), "{bad}");
    }
}
