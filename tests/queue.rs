//! What the queue promises: no message is lost between a commit and its last outcome, none is tried when it must not
//! be, and memory is bounded.

use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{HoldCause, RecipientState};
use oncemail::queue::{End, Jitter, Lease, Options, Outcome, Queue};
use oncemail::relay::options::Breaker;
use oncemail::store::{Store, StoreError};

use crate::common::eventually::eventually_so;
use crate::common::far_side::{Act, FarSide, PATIENCE, say};
use crate::common::outcomes;
use crate::common::relay_rig::{Rig, changed, message, queue_options, to_hosts};
use crate::common::watched_store::WatchedStore;

fn patient() -> Options {
    let hour = Duration::from_secs(3600);
    Options { base: hour, cap: hour, jitter: Jitter::None, ..queue_options() }
}

fn queue(options: Options, clock: &Clock) -> (Arc<Queue>, Arc<WatchedStore>) {
    let queue = Queue::new(options, clock.clone());
    let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
    queue.start(store.clone(), Vec::new());
    (queue, store)
}

async fn next(queue: &Arc<Queue>) -> Lease {
    tokio::time::timeout(PATIENCE, queue.next(1)).await.unwrap().remove(0)
}

fn outcome(recipient: usize, end: End) -> Outcome {
    Outcome { end, ..outcomes::outcome(recipient, End::Delivered) }
}

#[tokio::test]
async fn d6_what_is_queued_is_tried_after_a_restart_and_what_is_held_is_not() {
    let deferring = FarSide::new()
        .on("RCPT TO:<b@", say("451 4.3.0 later"))
        .on("RCPT TO:<c@", say("550 5.1.1 no"))
        .start()
        .await;
    let rig = Rig::start_with(to_hosts(&[deferring.address]), patient());
    let later = rig.send(&["a@x.example", "b@x.example"], "later").await;
    let held = rig.send(&["c@x.example"], "held").await;
    let (progress, _) = (rig.store.saved(later, 1).await, rig.store.saved(held, 1).await);
    // The wait is in the store before anybody waits.
    assert!(progress.next_attempt > Clock::system().now().plus(Duration::from_secs(3500)));
    let store = rig.stop().await;
    let good = FarSide::new().start().await;
    let rig = Rig::restart(to_hosts(&[good.address]), queue_options(), store);
    assert_eq!((rig.queue.depth().queued, rig.queue.depth().held), (1, 1));
    let progress = rig.store.saved(later, 2).await;
    assert!(progress.is_finished() && progress.attempts == 2);
    assert_eq!(good.log().taken[0].rcpts, ["RCPT TO:<b@x.example>"]);
}

#[tokio::test]
async fn d6_a_lease_that_is_dropped_goes_back_to_the_queue() {
    let clock = Clock::system();
    let (queue, store) = queue(queue_options(), &clock);
    store.accept(Arc::new(message(&clock, &["b@x.example"], "x")), None).await.unwrap();
    drop(next(&queue).await);
    assert_eq!((queue.depth().queued, store.messages().len()), (1, 1));
}

#[tokio::test]
async fn d6_when_outcomes_cannot_be_saved_the_message_is_not_tried_again_by_this_process() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["b@x.example"], "once").await;
    rig.store.saved(id, 1).await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let slow = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let rig = Rig::start(to_hosts(&[slow.address]));
    rig.send(&["b@x.example"], "unsaved").await;
    slow.wait(|log| log.copies("unsaved") == 1).await;
    rig.store.fail_with(Some(StoreError::Latched("test".into())));
    gate.add_permits(10);
    rig.store.wait(|seen| seen.failed_saves == 1).await;
    // It is neither lost nor sent again; a restart decides.
    let queued = rig.queue.clone();
    let store = rig.stop().await;
    assert_eq!((queued.depth().queued, slow.log().copies("unsaved"), store.seen().failed_saves), (1, 1, 1));
    assert!(store.messages()[0].1.is_queued());
}

#[tokio::test]
async fn d6_outcomes_of_a_split_message_are_saved_as_they_come() {
    let clock = Clock::system();
    let (queue, store) = queue(patient(), &clock);
    let sent = message(&clock, &["a@x.example", "b@x.example"], "x");
    let id = sent.id;
    store.accept(Arc::new(sent), None).await.unwrap();
    let lease = next(&queue).await;
    lease.open().await.unwrap();
    lease.split(2);
    lease.settle(&[outcome(0, End::Delivered)], None).await.unwrap();
    let progress = store.saved(id, 1).await;
    assert_eq!(
        [progress.recipients[0].state, progress.recipients[1].state],
        [RecipientState::Delivered, RecipientState::Queued]
    );
    lease.settle(&[outcome(1, End::Failed)], None).await.unwrap();
    let progress = store.saved(id, 2).await;
    assert_eq!(progress.recipients[1].state, RecipientState::Held(HoldCause::Failed));
    assert_eq!((queue.depth().queued, queue.depth().held), (0, 1));
}

#[tokio::test]
async fn an_expired_message_gets_a_last_attempt_and_is_held() {
    let far = FarSide::new().on("RCPT", say("451 4.3.0 later")).start().await;
    let options = Options { expire_after: Duration::from_millis(1), ..queue_options() };
    let rig = Rig::start_with(to_hosts(&[far.address]), options);
    let mut old = message(&rig.clock, &["b@x.example"], "old");
    old.accepted_at = Timestamp::from_millis(1);
    let id = rig.submit(old).await;
    let progress = rig.store.saved(id, 1).await;
    assert_eq!(progress.recipients[0].state, RecipientState::Held(HoldCause::Expired));
    assert_eq!((progress.recipients[0].replies[0].text.as_str(), rig.queue.depth().held), ("4.3.0 later", 1));
}

#[tokio::test]
async fn what_waits_behind_an_open_breaker_costs_no_attempt_and_expires_all_the_same() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut options = to_hosts(&[nobody]);
    options.breaker = Breaker { failures: 1, open_for: Duration::from_millis(50), ..Breaker::default() };
    let rig = Rig::start_with(options, Options { expire_after: Duration::from_millis(500), ..patient() });
    let ids = [rig.send(&["a@x.example"], "a").await, rig.send(&["b@x.example"], "b").await];
    for id in ids {
        let seen = rig.store.wait(|seen| seen.saves.iter().any(|(i, p)| *i == id && p.is_held())).await;
        let (_, progress) = seen.saves.iter().rfind(|(i, _)| *i == id).unwrap();
        assert_eq!(progress.recipients[0].state, RecipientState::Held(HoldCause::Expired));
    }
}

#[tokio::test]
async fn s2_fresh_contents_stay_in_memory_only_up_to_the_bound() {
    let clock = Clock::system();
    let size = message(&clock, &["b@x.example"], "x").footprint();
    let (queue, store) = queue(Options { fresh_bytes: 3 * size, ..patient() }, &clock);
    for _ in 0..10 {
        store.accept(Arc::new(message(&clock, &["b@x.example"], "x")), None).await.unwrap();
    }
    for loads in [0, 0, 0, 1, 2, 3, 4, 5, 6, 7] {
        let lease = next(&queue).await;
        lease.open().await.unwrap();
        lease.settle(&[outcome(0, End::Delivered)], None).await.unwrap();
        assert_eq!(store.seen().loads, loads);
    }
    // What was let go makes room for what comes.
    store.accept(Arc::new(message(&clock, &["b@x.example"], "x")), None).await.unwrap();
    next(&queue).await.open().await.unwrap();
    assert_eq!((store.seen().loads, queue.depth().queued), (7, 1));
}

#[tokio::test]
async fn s2_what_waits_for_a_destination_that_is_away_is_not_kept_in_memory() {
    let clock = Clock::system();
    let (queue, store) = queue(patient(), &clock);
    store.accept(Arc::new(message(&clock, &["b@x.example"], "x")), None).await.unwrap();
    let lease = next(&queue).await;
    lease.park();
    assert_eq!(lease.open().await.unwrap().envelope.recipients.len(), 1);
    assert_eq!(store.seen().loads, 1);
    // An outcome that comes after all the same is not lost.
    lease.park();
    assert!(lease.settle(&[outcome(0, End::Delivered)], None).await.unwrap().progress.is_finished());
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_stop_the_queue() {
    let far = FarSide::new().on_times(3, "RCPT", say("451 4.3.0 later")).start().await;
    let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
    let queue = Queue::new(queue_options(), clock.clone());
    let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
    let rig = Rig::run(to_hosts(&[far.address]), queue, store, clock.clone(), Vec::new());
    let id = rig.send(&["b@x.example"], "x").await;
    rig.store.saved(id, 1).await;
    clock.set(Timestamp::from_millis(1_000));
    assert!(rig.store.saved(id, 4).await.is_finished());
}

#[tokio::test]
async fn a_message_that_the_store_has_lost_is_let_go_and_holds_up_nothing() {
    let clock = Clock::system();
    let (queue, store) = queue(queue_options(), &clock);
    let gone = message(&clock, &["b@x.example"], "x");
    store.accept(Arc::new(gone.clone()), None).await.unwrap();
    let lease = next(&queue).await;
    lease.park();
    let mut finished = oncemail::mail::Progress::fresh(1, clock.now());
    finished.recipients[0].state = RecipientState::Delivered;
    store.save(gone.id, finished).await.unwrap();
    let error = lease.open().await.unwrap_err();
    lease.give_up(&error);
    drop(lease);
    assert_eq!(queue.depth().queued, 0);
}

#[tokio::test]
async fn s2_recipients_count_as_memory_too() {
    let clock = Clock::system();
    let (queue, store) = queue(Options { fresh_bytes: 4096, ..patient() }, &clock);
    let addresses: Vec<_> = (0..100).map(|n| format!("r{n}@x.example")).collect();
    let list = message(&clock, &addresses.iter().map(String::as_str).collect::<Vec<_>>(), "x");
    store.accept(Arc::new(list), None).await.unwrap();
    next(&queue).await.open().await.unwrap();
    assert_eq!(store.seen().loads, 1);
}

#[tokio::test]
async fn d6_an_outcome_that_finds_the_disk_full_is_saved_when_there_is_room() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let far = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.connections = 1));
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(rig.send(&["b@x.example"], &format!("message {n};")).await);
    }
    far.wait(|log| log.taken.len() == 1).await;
    rig.store.fail_with(Some(StoreError::LowDisk { free_bytes: 0 }));
    gate.add_permits(100);
    // What is under way ends; nothing else is sent that could not be noted.
    rig.store.wait(|seen| seen.failed_saves >= 3).await;
    assert!(far.log().taken.len() <= 3, "{} were sent", far.log().taken.len());
    rig.store.fail_with(None);
    for id in ids {
        assert!(rig.store.saved(id, 1).await.is_finished());
    }
    let log = far.log();
    assert!((0..20).all(|n| log.copies(&format!("message {n};")) == 1));
    assert_eq!((rig.queue.depth().queued, rig.queue.depth().held), (0, 0));
}

#[tokio::test]
async fn d6_nothing_is_sent_once_the_store_has_latched() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let far = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.connections = 1));
    for n in 0..20 {
        rig.send(&["b@x.example"], &n.to_string()).await;
    }
    far.wait(|log| log.taken.len() == 1).await;
    rig.store.fail_with(Some(StoreError::Latched("test".into())));
    gate.add_permits(100);
    rig.store.wait(|seen| seen.failed_saves == 1).await;
    // The connection has looked at the next message, and left it: after a restart all of it would be sent again.
    let is_paused = || rig.relay.destinations(1).0[0].paused_until.is_some();
    eventually_so("the lane pauses", is_paused).await;
    assert_eq!(rig.queue.depth().queued, 20);
    assert_eq!(rig.stop().await.seen().failed_saves, 1);
    assert_eq!(far.log().taken.len(), 1);
}

#[tokio::test]
async fn d6_a_list_goes_no_further_when_its_first_part_cannot_be_saved() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let far = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.recipients_per_transaction = 1));
    rig.send(&["a@x.example", "b@x.example", "c@x.example"], "list").await;
    far.wait(|log| log.taken.len() == 1).await;
    rig.store.fail_with(Some(StoreError::Latched("test".into())));
    gate.add_permits(100);
    rig.store.wait(|seen| seen.failed_saves == 2).await;
    assert_eq!(far.log().taken.len(), 1);
}

#[tokio::test]
async fn d6_a_split_message_that_is_turned_away_everywhere_expires_all_the_same() {
    let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
    let (queue, store) = queue(patient(), &clock);
    let sent = message(&clock, &["a@x.example", "b@y.example"], "x");
    let id = sent.id;
    store.accept(Arc::new(sent), None).await.unwrap();
    drop(next(&queue).await);
    // From the store, as after a restart.
    let queue = Queue::new(patient(), clock.clone());
    let recovered =
        oncemail::store::Recovered { id, next_attempt: Some(clock.now()), priority: 0, held_back: false };
    queue.start(store.clone(), vec![recovered]);
    let lease = next(&queue).await;
    lease.split(2);
    clock.advance(Duration::from_secs(6 * 86_400));
    assert_eq!(lease.settle(&[], Some(Duration::from_secs(60))).await, None);
    let settled = lease.settle(&[], Some(Duration::from_secs(60))).await.unwrap();
    assert_eq!(settled.expired, [0, 1]);
    assert_eq!(store.saved(id, 1).await.recipients[1].state, RecipientState::Held(HoldCause::Expired));
    assert_eq!((queue.depth().queued, queue.depth().held), (0, 1));
}
