//! What the relay promises of its breakers: every change is seen, and one bad host costs the others nothing.

use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::dns::{self, Dns};
use oncemail::queue::{self, Queue};
use oncemail::relay::Relay;
use oncemail::relay::options::{Breaker, Options, Transport};
use oncemail::store::Store;
use tokio_util::sync::CancellationToken;

use crate::common::far_side::{FarSide, say};
use crate::common::log::Log;
use crate::common::relay_rig::{
    Rig, changed, mail_hosts, message, nobody, queue_options, relay_options, replies, route, to_hosts,
};
use crate::common::watched_store::WatchedStore;

fn touchy(mut options: Options, open_for: Duration) -> Options {
    options.breaker = Breaker { failures: 1, open_for, probes: 1, successes: 1, ..Breaker::default() };
    options
}

#[tokio::test]
async fn every_change_of_a_breaker_is_logged_and_counted() {
    let (log, _guard) = Log::start();
    let far = FarSide::new().on_times(1, "CONNECT", say("554 5.7.1 not you")).start().await;
    let rig = Rig::start(touchy(to_hosts(&[far.address]), Duration::from_millis(50)));
    let id = rig.send(&["b@x.example"], "x").await;
    assert!(rig.store.saved(id, 2).await.is_finished());
    let counters = rig.counters.clone();
    rig.stop().await;
    let counts = counters.counts();
    assert_eq!((counts.breaker_opened, counts.breaker_half_opened, counts.breaker_closed), (1, 1, 1));
    assert_eq!((counts.delivered, counts.deferred, counts.failed), (1, 1, 0));
    let events = log.events();
    let of = |what: &str| {
        let found = events.iter().find(|event| {
            event["fields"]["message"].as_str().is_some_and(|message| message.starts_with(what))
        });
        found.unwrap_or_else(|| panic!("{what}: {events:#?}"))["fields"].clone()
    };
    let opened = of("breaker opened");
    assert_eq!((&opened["route"], &opened["host"]), (&"hosts".into(), &far.address.to_string().into()));
    assert!(opened["reason"].as_str().unwrap().contains("not you") && opened["until"].is_string());
    for changed in ["breaker half-open", "breaker closed"] {
        assert_eq!(of(changed)["host"], far.address.to_string());
    }
}

#[tokio::test]
async fn a_host_that_is_left_alone_is_not_asked_while_another_works() {
    let bad = FarSide::new().on("CONNECT", say("554 5.7.1 not you")).start().await;
    let good = FarSide::new().start().await;
    let rig = Rig::start(touchy(to_hosts(&[bad.address, good.address]), Duration::from_secs(600)));
    for n in 0..20 {
        let id = rig.send(&["b@x.example"], &n.to_string()).await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!((progress.is_finished(), replies(&progress).len()), (true, 1));
    }
    assert_eq!((bad.log().connections, good.log().taken.len()), (1, 20));
    assert_eq!(rig.counters.counts().breaker_opened, 1);
}

#[tokio::test]
async fn a_domain_that_cannot_be_looked_up_is_left_alone_and_its_mail_waits() {
    let nowhere = dns::Options {
        servers: vec![nobody().await],
        timeout: Duration::from_millis(100),
        ..dns::Options::default()
    };
    let mut options = relay_options(vec![route("mx", Transport::Smtp(mail_hosts(25)))]);
    options.breaker = Breaker { failures: 2, open_for: Duration::from_secs(600), ..Breaker::default() };
    let clock = Clock::system();
    let queue = Queue::new(queue_options(), clock.clone());
    let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
    queue.start(store.clone(), Vec::new());
    let relay = Relay::new(options, Arc::new(Dns::new(nowhere)), queue, clock.clone()).unwrap();
    let (counters, shutdown) = (relay.counters(), CancellationToken::new());
    let running = tokio::spawn(relay.run(shutdown.clone(), Duration::from_secs(10)));
    let sent = message(&clock, &["b@unheard.example"], "x");
    let id = sent.id;
    store.accept(Arc::new(sent), None).await.unwrap();
    store.saved(id, 2).await;
    assert_eq!(counters.counts().breaker_opened, 1);
    shutdown.cancel();
    running.await.unwrap();
    let progress = store.saved(id, 2).await;
    assert_eq!((progress.attempts, progress.is_queued(), store.seen().saves.len()), (2, true, 2));
}

#[tokio::test]
async fn the_sender_of_what_waits_behind_a_breaker_is_told_and_the_message_goes_on_waiting() {
    let far = FarSide::new().on_times(1, "CONNECT", say("554 5.7.1 not you")).start().await;
    let hour = Duration::from_secs(3_600);
    let warn_after = Some(Duration::from_millis(200));
    let rig = Rig::start_with(
        touchy(changed(&[far.address], |smtp| smtp.connections = 1), Duration::from_millis(600)),
        queue::Options { base: hour, cap: hour, warn_after, ..queue_options() },
    );
    let first = rig.send(&["b@x.example"], "first").await;
    rig.store.saved(first, 1).await;
    let second = rig.send(&["b@x.example"], "second").await;
    assert!(rig.store.saved(second, 2).await.is_finished());
    let log = far.wait(|log| log.taken.len() == 2).await;
    let told = rig.store.seen().saves.into_iter().find(|(id, _)| *id == second).unwrap().1;
    assert_eq!((told.warned, told.attempts, told.is_queued()), (true, 0, true));
    let notices = log.taken.iter().filter(|taken| taken.mail.starts_with("MAIL FROM:<>"));
    assert_eq!((notices.count(), log.copies("second")), (1, 1));
}
