//! What is promised when somebody sets the clock a day forward or back while the program runs: nothing is lost early,
//! nothing is stuck for a day.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use oncemail::clock::{Clock, Timestamp};
use oncemail::queue::{Options, Queue};
use oncemail::relay::options::Breaker;
use oncemail::store::{Recovered, Store};
use tokio::time::timeout;

use crate::common::far_side::{FarSide, PATIENCE, say};
use crate::common::history::{TTL, key};
use crate::common::relay_rig::{Rig, message, patient, queue_options, to_hosts};
use crate::common::store_bed::Bed;
use crate::common::watched_store::WatchedStore;

const DAY: Duration = Duration::from_secs(86_400);
const NOON: u64 = 1_795_343_400_000;

/// Sets the clock so far back.
fn back(clock: &Clock, by: Duration) {
    let millis = clock.now().as_millis() - u64::try_from(by.as_millis()).unwrap();
    clock.set(Timestamp::from_millis(millis));
}

#[tokio::test]
async fn i1_no_key_is_lost_while_the_clock_is_a_day_ahead() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let first = bed.queue(&store, Some("k")).await;
    bed.finish(&store, first.id).await;
    let found = async || store.find_key(&key("k")).await.unwrap().map(|record| record.id);
    bed.clock.set(bed.clock.now().plus(2 * DAY));
    // Everything that forgets keys has its chance.
    store.settle().await.unwrap();
    assert_eq!(found().await, Some(first.id));
    back(&bed.clock, 2 * DAY);
    store.settle().await.unwrap();
    assert_eq!(found().await, Some(first.id));
    bed.clock.advance(TTL);
    assert_eq!(found().await, None, "its time has come");
}

#[tokio::test]
async fn i1_a_key_goes_on_with_its_journal_while_the_clock_is_a_day_ahead() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let first = bed.queue(&store, Some("k")).await;
    bed.finish(&store, first.id).await;
    bed.clock.set(bed.clock.now().plus(2 * DAY));
    // Enough of others that its segment goes.
    let mut n = 0;
    while bed.segment().exists() {
        let other = bed.queue(&store, None).await;
        bed.finish(&store, other.id).await;
        store.settle().await.unwrap();
        n += 1;
        assert!(n < 500, "the segment does not go");
    }
    back(&bed.clock, 2 * DAY);
    store.close().await.unwrap();
    drop(store);
    std::fs::remove_dir_all(bed.dir.path().join("index")).unwrap();
    let (store, _) = bed.open();
    let found = store.find_key(&key("k")).await.unwrap();
    assert_eq!(found.map(|record| record.id), Some(first.id));
}

#[tokio::test]
async fn i1_no_key_is_lost_when_a_clock_that_was_a_day_behind_is_put_right() {
    let bed = Bed::new();
    back(&bed.clock, DAY);
    let (store, _) = bed.open();
    let first = bed.queue(&store, Some("k")).await;
    bed.finish(&store, first.id).await;
    store.settle().await.unwrap();
    bed.clock.set(bed.clock.now().plus(DAY + Duration::from_secs(60)));
    store.settle().await.unwrap();
    assert_eq!(store.find_key(&key("k")).await.unwrap().unwrap().id, first.id);
    // By then it is believed.
    bed.clock.advance(TTL);
    assert_eq!(store.find_key(&key("k")).await.unwrap(), None);
}

#[tokio::test]
async fn d6_no_message_expires_because_the_clock_is_days_ahead() {
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let queue = Queue::new(Options { warn_after: Some(DAY), ..patient() }, clock.clone());
    let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
    let far = FarSide::new().on("RCPT", say("451 4.3.0 later")).start().await;
    let rig = Rig::run(to_hosts(&[far.address]), queue.clone(), store, clock.clone(), Vec::new());
    let old = message(&clock, &["b@x.example"], "x");
    clock.set(clock.now().plus(6 * DAY));
    let id = rig.submit(old).await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.is_queued(), "{progress:?}");
    assert_eq!(rig.store.messages().len(), 1, "its sender is told nothing");
    // And it is not tried again and again until it does.
    let believed = Timestamp::from_millis(NOON);
    assert_eq!(progress.next_attempt, believed.plus(patient().base));
    assert!(rig.queue.next(1).now_or_never().is_none());
    assert_eq!((rig.queue.depth().queued, rig.store.seen().saves.len()), (1, 1));
}

#[tokio::test]
async fn no_schedule_waits_a_day_because_the_clock_is_a_day_behind() {
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let store = WatchedStore::new(clock.clone(), None);
    let waiting = message(&clock, &["b@x.example"], "x");
    let id = waiting.id;
    store.accept(Arc::new(waiting), None).await.unwrap();
    let next_attempt = Some(clock.now());
    back(&clock, DAY);
    let queue = Queue::new(Options { cap: Duration::from_millis(1), ..queue_options() }, clock.clone());
    queue.start(store, vec![Recovered { id, next_attempt, priority: 0, held_back: false }]);
    assert_eq!(timeout(PATIENCE, queue.next(1)).await.expect("it is due").len(), 1);
}

#[tokio::test]
async fn no_breaker_stays_open_because_the_clock_was_set_back() {
    let far = FarSide::new().on_times(1, "CONNECT", say("421 4.3.2 not now")).start().await;
    let clock = Clock::manual(Timestamp::from_millis(NOON));
    let queue = Queue::new(queue_options(), clock.clone());
    let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
    let mut options = to_hosts(&[far.address]);
    options.breaker = Breaker { failures: 1, open_for: Duration::from_millis(50), ..Breaker::default() };
    let rig = Rig::run(options, queue, store, clock.clone(), Vec::new());
    let id = rig.send(&["b@x.example"], "x").await;
    rig.store.saved(id, 1).await;
    back(&clock, DAY);
    far.wait(|log| log.taken.len() == 1).await;
    clock.set(clock.now().plus(3 * DAY));
    rig.send(&["b@x.example"], "y").await;
    far.wait(|log| log.taken.len() == 2).await;
}
