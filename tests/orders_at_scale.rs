//! What an operator's order for everything costs: run by hand, with
//! `cargo test --test promises orders_at_scale -- --ignored --nocapture`. `docs/performance.md` has the figures.

#![expect(clippy::print_stdout, reason = "run by hand, and its report")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use oncemail::clock::Clock;
use oncemail::mail::QueueId;
use oncemail::queue::{Action, Effect, Queue, Wanted};
use oncemail::relay::options::Breaker;
use oncemail::store::embedded::Options;
use oncemail::store::files::RealFiles;
use oncemail::store::{EmbeddedStore, Store};
use tokio::time::Instant;

use crate::common::eventually::eventually_so;
use crate::common::relay_rig::{Rig, message, nobody, patient, to_hosts};
use crate::orders::order;

const MESSAGES: usize = 100_000;
/// Accepted at a time.
const BURST: usize = 500;
/// On a busy machine, without optimisation.
const LONGEST: Duration = Duration::from_secs(60);

async fn accept(store: &Arc<dyn Store>, clock: &Clock, messages: usize) -> Vec<QueueId> {
    let mut ids = Vec::with_capacity(messages);
    while ids.len() < messages {
        let burst: Vec<_> = (0..BURST).map(|_| Arc::new(message(clock, &["b@x.example"], "x"))).collect();
        ids.extend(burst.iter().map(|message| message.id));
        for accepted in join_all(burst.into_iter().map(|message| store.accept(message, None))).await {
            accepted.unwrap();
        }
    }
    ids
}

async fn done_in_seconds(queue: &Arc<Queue>, ids: &[QueueId], action: Action) {
    let begun = Instant::now();
    let effects = queue.order_all(ids.to_vec(), order(action), Wanted::default()).await;
    let took = begun.elapsed();
    println!("{action:?} of {} messages: {took:?}", ids.len());
    assert!(effects.iter().all(|(_, effect)| *effect == Effect::Done));
    assert!(took < LONGEST, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn everything_on_the_disk_is_held_released_and_discarded_in_seconds_while_mail_arrives() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let queue = Queue::new(patient(), clock.clone());
    let options = Options { min_free: 0, ..Options::new(dir.path()) };
    let (store, _) = EmbeddedStore::open(options, Arc::new(RealFiles), clock.clone(), queue.clone()).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    queue.start(store.clone(), Vec::new());
    let begun = Instant::now();
    let ids = accept(&store, &clock, MESSAGES).await;
    println!("accepted in {:?}", begun.elapsed());
    let is_over = Arc::new(AtomicBool::new(false));
    let arriving = {
        let (store, is_over) = (store.clone(), is_over.clone());
        tokio::spawn(async move {
            let (mut arrived, mut longest) = (0, Duration::ZERO);
            while !is_over.load(Ordering::SeqCst) {
                let begun = Instant::now();
                arrived += accept(&store, &clock, BURST).await.len();
                longest = longest.max(begun.elapsed());
            }
            (arrived, longest)
        })
    };
    for action in [Action::Hold, Action::Release, Action::Discard] {
        done_in_seconds(&queue, &ids, action).await;
    }
    is_over.store(true, Ordering::SeqCst);
    let (arrived, longest) = arriving.await.unwrap();
    println!("meanwhile {arrived} arrived, {BURST} at a time, in {longest:?} at the longest");
    assert_eq!(queue.depth().queued, arrived);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute"]
async fn everything_that_waits_behind_an_open_breaker_is_handed_back_in_seconds() {
    let mut options = to_hosts(&[nobody().await]);
    options.breaker = Breaker { failures: 1, open_for: Duration::from_secs(3600), ..Breaker::default() };
    let rig = Rig::start_with(options, patient());
    let first = rig.send(&["a@x.example"], "first").await;
    rig.store.saved(first, 1).await;
    let store: Arc<dyn Store> = rig.store.clone();
    let ids = accept(&store, &rig.clock, MESSAGES).await;
    let waiting = || rig.relay.destinations(1).0.first().map_or(0, |lane| lane.waiting);
    eventually_so("all of them wait", || waiting() == MESSAGES).await;
    for action in [Action::Hold, Action::Release] {
        done_in_seconds(&rig.queue, &ids, action).await;
    }
    eventually_so("all of them wait again", || waiting() == MESSAGES).await;
    done_in_seconds(&rig.queue, &ids, Action::Discard).await;
    assert_eq!((rig.queue.depth().queued, waiting()), (1, 0));
}
