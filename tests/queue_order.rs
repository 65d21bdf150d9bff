//! When a message is handed out: by priority, in order within one, and not before the time that its sender wanted.

use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{Message, QueueId};
use oncemail::queue::{End, Jitter, Lease, Options, Outcome, Queue};
use oncemail::store::{Recovered, Store};

use crate::common::far_side::PATIENCE;
use crate::common::outcomes::outcome;
use crate::common::relay_rig::{message, queue_options};
use crate::common::watched_store::WatchedStore;

const DAY: Duration = Duration::from_secs(86_400);
const SOON: Duration = Duration::from_secs(1);

struct Bed {
    queue: Arc<Queue>,
    store: Arc<WatchedStore>,
    clock: Clock,
}

impl Bed {
    fn new(clock: Clock, options: Options) -> Self {
        let queue = Queue::new(options, clock.clone());
        let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
        queue.start(store.clone(), Vec::new());
        Self { queue, store, clock }
    }

    async fn accept(&self, change: impl FnOnce(&mut Message)) -> QueueId {
        let mut message = message(&self.clock, &["b@x.example"], "x");
        change(&mut message);
        let id = message.id;
        self.store.accept(Arc::new(message), None).await.unwrap();
        id
    }

    async fn prioritised(&self, priority: i8) -> QueueId {
        self.accept(|message| message.envelope.handling.priority = priority).await
    }

    async fn next(&self, most: usize) -> Vec<Lease> {
        tokio::time::timeout(PATIENCE, self.queue.next(most)).await.unwrap()
    }

    /// A new process that has found this in the store.
    fn restart(self, recovered: Recovered) -> Self {
        let queue = Queue::new(queue_options(), self.clock.clone());
        queue.start(self.store.clone(), vec![recovered]);
        Self { queue, ..self }
    }
}

fn at_once() -> Options {
    Options { base: Duration::ZERO, jitter: Jitter::None, ..queue_options() }
}

fn ids(leases: &[Lease]) -> Vec<QueueId> {
    leases.iter().map(Lease::id).collect()
}

fn later() -> Outcome {
    outcome(0, End::Deferred)
}

#[tokio::test]
async fn the_highest_priority_is_handed_out_first_and_arrivals_of_one_keep_their_order() {
    let bed = Bed::new(Clock::system(), at_once());
    let mut sent = Vec::new();
    for priority in [0, -4, 9, 0, 9] {
        sent.push(bed.prioritised(priority).await);
    }
    let leases = bed.next(10).await;
    assert_eq!(ids(&leases), [2, 4, 0, 3, 1].map(|n: usize| sent[n]));
    assert_eq!(leases.iter().map(Lease::priority).collect::<Vec<_>>(), [9, 9, 0, 0, -4]);
}

#[tokio::test]
async fn a_deferred_message_keeps_its_priority() {
    let bed = Bed::new(Clock::system(), at_once());
    let (low, high) = (bed.prioritised(1).await, bed.prioritised(3).await);
    for lease in bed.next(10).await {
        lease.open().await.unwrap();
        lease.settle(&[later()], None).await.unwrap();
    }
    let leases = bed.next(1).await;
    assert_eq!((ids(&leases), leases[0].priority()), (vec![high], 3));
    assert_eq!(ids(&bed.next(1).await), [low]);
}

#[tokio::test]
async fn a_start_knows_the_priority_of_what_it_has_found() {
    let bed = Bed::new(Clock::system(), at_once());
    let (low, high) = (bed.prioritised(0).await, bed.prioritised(2).await);
    let queue = Queue::new(at_once(), bed.clock.clone());
    let found = [(low, 0), (high, 2)];
    let due = Some(Timestamp::from_millis(1));
    let recovered =
        found.map(|(id, priority)| Recovered { id, next_attempt: due, priority, held_back: false });
    queue.start(bed.store.clone(), recovered.to_vec());
    let leases = Bed { queue, ..bed }.next(2).await;
    assert_eq!(ids(&leases), [high, low]);
    assert_eq!(leases[0].priority(), 2);
}

#[tokio::test]
async fn a_message_is_not_handed_out_before_its_release_and_does_not_wait_in_memory() {
    let bed = Bed::new(Clock::system(), at_once());
    let release_at = bed.clock.now().plus(SOON);
    let held_back = bed
        .accept(|message| {
            message.envelope.handling.release_at = Some(release_at);
            message.envelope.handling.priority = 9;
        })
        .await;
    let other = bed.accept(|_| {}).await;
    assert_eq!(ids(&bed.next(10).await), [other]);
    let leases = bed.next(10).await;
    assert_eq!((ids(&leases), leases[0].priority()), (vec![held_back], 9));
    assert!(bed.clock.now() >= release_at);
    leases[0].open().await.unwrap();
    assert_eq!(bed.store.seen().loads, 1);
}

#[tokio::test]
async fn a_start_does_not_shorten_the_wait_that_a_sender_wanted_but_does_shorten_a_backoff() {
    let bed = Bed::new(Clock::system(), at_once());
    let release_at = bed.clock.now().plus(SOON);
    let id = bed.accept(|message| message.envelope.handling.release_at = Some(release_at)).await;
    // The longest backoff is a millisecond here.
    let bed = bed.restart(Recovered { id, next_attempt: Some(release_at), priority: 0, held_back: true });
    assert_eq!(ids(&bed.next(1).await), [id]);
    assert!(bed.clock.now() >= release_at);
    let far_off = Some(bed.clock.now().plus(30 * DAY));
    let bed = bed.restart(Recovered { id, next_attempt: far_off, priority: 0, held_back: false });
    assert_eq!(ids(&bed.next(1).await), [id]);
}

#[tokio::test]
async fn a_clock_that_was_set_back_holds_no_message_longer_than_its_sender_wanted() {
    let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
    let bed = Bed::new(clock.clone(), at_once());
    let release_at = clock.now().plus(SOON);
    let id = bed.accept(|message| message.envelope.handling.release_at = Some(release_at)).await;
    clock.set(Timestamp::from_millis(1_000));
    let bed = bed.restart(Recovered { id, next_attempt: Some(release_at), priority: 0, held_back: true });
    assert_eq!(ids(&bed.next(1).await), [id]);
}

#[tokio::test]
async fn age_counts_from_the_release_also_of_a_message_that_has_to_be_read_to_know() {
    let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
    let bed =
        Bed::new(clock.clone(), Options { base: DAY, cap: DAY, jitter: Jitter::None, ..queue_options() });
    let release_at = clock.now().plus(10 * DAY);
    let mut sent = message(&clock, &["b@x.example"], "x");
    sent.envelope.handling.release_at = Some(release_at);
    let id = sent.id;
    clock.advance(release_at.since(clock.now()));
    bed.store.accept(Arc::new(sent), None).await.unwrap();
    let lease = bed.next(1).await.remove(0);
    assert!(!lease.is_expired());
    lease.open().await.unwrap();
    let settled = lease.settle(&[later()], None).await.unwrap();
    assert!(settled.progress.is_queued() && settled.expired.is_empty());
    // As after a restart: only the time of acceptance is known.
    let bed = bed.restart(Recovered { id, next_attempt: Some(clock.now()), priority: 0, held_back: false });
    let lease = bed.next(1).await.remove(0);
    assert!(lease.is_expired());
    assert_eq!(lease.expire().await, None);
    assert!(!lease.is_expired());
    drop(lease);
    assert_eq!((bed.queue.depth().queued, bed.queue.depth().held), (1, 0));
    assert!(bed.store.messages()[0].1.is_queued());
    clock.advance(5 * DAY);
    let lease = bed.next(1).await.remove(0);
    assert_eq!(lease.expire().await.unwrap().expired, [0]);
}
