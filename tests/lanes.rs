//! What the relay promises of its lanes: one for each destination, for as long as it has mail; as many connections as the
//! destination takes; and nobody waits for somebody else's destination.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use governor::Quota;
use oncemail::mail::{QueueId, RecipientState};
use oncemail::queue;
use oncemail::relay::options::{Auth, Breaker, Host, Hosts, Options, Preset, Secret, Smtp, Transport};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::common::eventually::eventually_so;
use crate::common::far_side::{Act, FarSide, FarSideBuilder, say};
use crate::common::relay_rig::{
    DELIVERED, FAILED, Rig, changed, hurried, mail_hosts, message, queue_options, relay_options, replies,
    route, to,
};

/// Two far sides at one port of 127.0.0.1 and 127.0.0.2: two domains of an MX route.
async fn neighbours(one: FarSideBuilder, two: FarSideBuilder) -> (FarSide, FarSide) {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.2", port)).await {
            return (one.start_on(first), two.start_on(second));
        }
    }
    panic!("no port is free on both addresses");
}

/// All mail to the hosts of its recipients' domains.
fn by_domain(port: u16, change: impl FnOnce(&mut Smtp)) -> Options {
    let mut smtp = mail_hosts(port);
    smtp.idle_timeout = Duration::from_millis(20);
    change(&mut smtp);
    relay_options(vec![route("mx", Transport::Smtp(smtp))])
}

/// Waits until there are so many lanes: they have no event of their own.
async fn lanes(rig: &Rig, expected: u64) {
    eventually_so(&format!("there are {expected} lanes"), || rig.counters.counts().lanes == expected).await;
}

async fn send_with_priority(rig: &Rig, priority: i8, text: &str) -> QueueId {
    let mut sent = message(&rig.clock, &["b@x.example"], text);
    sent.envelope.handling.priority = priority;
    rig.submit(sent).await
}

#[tokio::test]
async fn every_domain_has_a_lane_while_it_has_mail() {
    let (one, two) = neighbours(FarSide::new(), FarSide::new()).await;
    let rig = Rig::start(by_domain(one.address.port(), |_| {}));
    let recipients = ["a@[127.0.0.1]", "b@[127.0.0.2]", "c@[127.0.0.1]"];
    rig.send(&recipients, "split").await;
    let first = one.wait(|log| log.taken.len() == 1).await;
    let second = two.wait(|log| log.taken.len() == 1).await;
    assert_eq!(first.taken[0].rcpts, ["RCPT TO:<a@[127.0.0.1]>", "RCPT TO:<c@[127.0.0.1]>"]);
    assert_eq!(second.taken[0].rcpts, ["RCPT TO:<b@[127.0.0.2]>"]);
    let done = |p: &oncemail::mail::Progress| p.is_finished();
    rig.store.wait(|seen| seen.saves.last().is_some_and(|(_, p)| done(p))).await;
    lanes(&rig, 0).await;
    // And again, from nothing.
    let id = rig.send(&recipients, "again").await;
    rig.store.wait(|seen| seen.saves.iter().any(|(i, p)| *i == id && done(p))).await;
    assert_eq!(rig.counters.counts().delivered, 6);
    lanes(&rig, 0).await;
}

#[tokio::test]
async fn domains_are_one_destination_whatever_their_case() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(by_domain(far.address.port(), |_| {}));
    let id = rig.send(&["a@[127.0.0.1]", "b@[127.0.0.1]"], "x").await;
    assert!(rig.store.saved(id, 1).await.is_finished());
    let log = far.log();
    assert_eq!((log.taken.len(), log.taken[0].rcpts.len()), (1, 2));
}

#[tokio::test]
async fn a_postmaster_without_a_domain_is_deferred_where_domains_decide_and_holds_up_nobody() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(by_domain(far.address.port(), |_| {}));
    let id = rig.send(&["postmaster", "b@[127.0.0.1]"], "x").await;
    let seen =
        rig.store.wait(|seen| seen.saves.iter().any(|(_, p)| p.recipients[1].state == DELIVERED)).await;
    rig.store.wait(|seen| seen.saves.iter().any(|(_, p)| p.recipients[0].attempts > 0)).await;
    assert!(seen.saves.iter().all(|(i, p)| *i == id && p.recipients[0].state == RecipientState::Queued));
    let texts = replies(&rig.store.seen().saves.last().unwrap().1);
    assert!(texts[0].contains("without a domain"), "{texts:?}");
}

#[tokio::test]
async fn mail_that_has_to_be_read_to_be_routed_holds_up_none_that_has_not() {
    let (slow, live) = neighbours(FarSide::new(), FarSide::new()).await;
    let rig = Rig::start_with(
        by_domain(live.address.port(), |_| {}),
        queue::Options { fresh_bytes: 2_000, ..queue_options() },
    );
    // The disk gives nothing back.
    let closed = rig.store.reads.forget_permits(Semaphore::MAX_PERMITS);
    for _ in 0..20 {
        let mut large = message(&rig.clock, &["a@[127.0.0.1]"], "");
        large.content = Bytes::from(format!("Subject: large\r\n\r\n{}\r\n", "x".repeat(5_000)));
        rig.submit(large).await;
    }
    rig.store.wait(|seen| seen.loads > 0).await;
    rig.send(&["b@[127.0.0.2]"], "fresh").await;
    live.wait(|log| log.copies("fresh") == 1).await;
    assert!(slow.log().taken.is_empty() && rig.store.seen().loads < 20);
    rig.store.reads.add_permits(closed);
    slow.wait(|log| log.taken.len() == 20).await;
}

#[tokio::test]
async fn a_dead_domain_with_much_mail_does_not_hold_back_another() {
    let (dead, live) = neighbours(FarSide::new().on("CONNECT", Act::Silence), FarSide::new()).await;
    let rig = Rig::start(by_domain(live.address.port(), |_| {}));
    for n in 0..20_000 {
        rig.send(&["x@[127.0.0.1]"], &format!("dead {n}")).await;
    }
    dead.wait(|log| log.connections == 2).await;
    for n in 0..100 {
        rig.send(&["x@[127.0.0.2]"], &format!("live {n}")).await;
    }
    live.wait(|log| log.taken.len() == 100).await;
    rig.store.wait(|seen| seen.saves.len() == 100).await;
    assert_eq!(dead.log().connections, 2);
}

#[tokio::test]
async fn connections_start_few_and_grow_with_success() {
    let gate = Arc::new(Semaphore::new(0));
    let far = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let rig = Rig::start(changed(&[far.address], |smtp| smtp.connections = 20));
    for n in 0..120 {
        rig.send(&["b@x.example"], &format!("n {n}")).await;
    }
    let log = far.wait(|log| log.taken.len() == 4).await;
    assert_eq!(log.connections, 4);
    gate.add_permits(1);
    assert_eq!(far.wait(|log| log.taken.len() == 6).await.connections, 5);
    gate.add_permits(1_000);
    let log = far.wait(|log| log.taken.len() == 120).await;
    assert_eq!(log.connections, 20);
}

#[tokio::test]
async fn connections_are_halved_when_the_far_side_has_too_many() {
    let gate = Arc::new(Semaphore::new(0));
    let far = FarSide::new()
        .on_times(1, "MAIL", Act::SayThenClose("421 4.7.0 too many connections".into()))
        .on(".", Act::Gate(gate.clone()))
        .start()
        .await;
    let rig = Rig::start(changed(&[far.address], |smtp| smtp.connections = 8));
    for n in 0..20 {
        rig.send(&["b@x.example"], &format!("n {n}")).await;
    }
    far.wait(|log| log.connections == 4 && log.open == 3 && log.taken.len() == 3).await;
    // Of four two are left: the one that was refused goes, and the next that is free.
    gate.add_permits(1);
    let log = far.wait(|log| log.said("QUIT") == 1 && log.open == 2).await;
    assert_eq!((log.connections, log.taken.len()), (4, 3));
    gate.add_permits(1_000);
    far.wait(|log| log.taken.len() == 20).await;
}

#[tokio::test]
async fn a_432_costs_no_attempt_and_opens_no_breaker() {
    let gate = Arc::new(Semaphore::new(0));
    let far = FarSide::new()
        .on_times(1, "MAIL", say("250 2.1.0 ok"))
        .on_times(1, "MAIL", Act::SayThenClose("432 4.3.2 Concurrent connections limit exceeded".into()))
        .on(".", Act::Gate(gate.clone()))
        .start()
        .await;
    let mut options = changed(&[far.address], |smtp| smtp.connections = 3);
    options.breaker = Breaker { failures: 1, ..Breaker::default() };
    let rig = Rig::start(options);
    rig.send(&["b@x.example"], "first").await;
    far.wait(|log| log.taken.len() == 1).await;
    let second = rig.send(&["b@x.example"], "second").await;
    far.wait(|log| log.said("MAIL") == 2 && log.open == 1).await;
    gate.add_permits(2);
    let progress = rig.store.saved(second, 1).await;
    assert_eq!((progress.is_finished(), progress.attempts, replies(&progress).len()), (true, 1, 1));
    assert_eq!((far.log().connections, rig.counters.counts().breaker_opened), (2, 0));
}

#[tokio::test]
async fn a_connection_is_closed_when_its_lifetime_is_over() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(changed(&[far.address], |smtp| {
        smtp.connections = 1;
        smtp.connection_lifetime = Duration::ZERO;
    }));
    for _ in 0..3 {
        let id = rig.send(&["b@x.example"], "x").await;
        rig.store.saved(id, 1).await;
    }
    let log = far.wait(|log| log.open == 0).await;
    assert_eq!((log.connections, log.said("QUIT"), log.taken.len()), (3, 3, 3));
}

#[tokio::test]
async fn each_destination_has_its_own_rate() {
    let (one, two) = neighbours(FarSide::new(), FarSide::new()).await;
    let rate = Some(Quota::per_hour(NonZeroU32::new(2).unwrap()));
    let rig = Rig::start(by_domain(one.address.port(), |smtp| smtp.rate = rate));
    for n in 0..4 {
        rig.send(&["b@[127.0.0.1]"], &n.to_string()).await;
    }
    one.wait(|log| log.taken.len() == 2).await;
    for n in 0..4 {
        rig.send(&["b@[127.0.0.2]"], &n.to_string()).await;
    }
    two.wait(|log| log.taken.len() == 2).await;
    rig.stop().await;
    assert_eq!((one.log().taken.len(), two.log().taken.len()), (2, 2));
}

#[tokio::test]
async fn high_priorities_go_first_in_a_lane_and_equals_in_their_order() {
    let gate = Arc::new(Semaphore::new(0));
    let far = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let other = FarSide::new().start().await;
    let marker = to(&["marker.example"], route("marker", Transport::Smtp(mail_hosts(0))));
    let mut options = changed(&[far.address], |smtp| smtp.connections = 1);
    options.routes.insert(0, marker);
    if let Transport::Smtp(smtp) = &mut options.routes[0].transport {
        let host = |address: SocketAddr| Host { name: address.ip().to_string(), port: address.port() };
        smtp.hosts = Hosts::in_order(vec![host(other.address)]);
    }
    let rig = Rig::start(options);
    rig.send(&["b@x.example"], "busy").await;
    far.wait(|log| log.taken.len() == 1).await;
    for (priority, text) in [(0, "one"), (4, "two"), (-3, "three"), (4, "four"), (0, "five")] {
        send_with_priority(&rig, priority, text).await;
    }
    // What is due is dispatched in order: when this one has arrived, the others are in their lane.
    let mut last = message(&rig.clock, &["m@marker.example"], "marker");
    last.envelope.handling.priority = -9;
    rig.submit(last).await;
    other.wait(|log| log.taken.len() == 1).await;
    gate.add_permits(10);
    let log = far.wait(|log| log.taken.len() == 6).await;
    let texts: Vec<_> = log.taken.iter().map(|taken| String::from_utf8_lossy(&taken.content)).collect();
    let order: Vec<_> = texts.iter().filter_map(|text| text.split("\r\n").nth(2)).collect();
    assert_eq!(order, ["busy", "two", "four", "one", "five", "three"]);
}

#[tokio::test]
async fn weights_share_out_connections_and_a_dead_host_leaves_its_share_to_the_other() {
    let (one, two) = (FarSide::new().start().await, FarSide::new().start().await);
    let weighted = |addresses: &[SocketAddr], shares: [u32; 2]| {
        changed(addresses, |smtp| {
            smtp.messages_per_connection = 1;
            if let Hosts::Fixed { weights, .. } = &mut smtp.hosts {
                *weights = shares.to_vec();
            }
        })
    };
    let rig = Rig::start(weighted(&[one.address, two.address], [1, 1]));
    for n in 0..60 {
        rig.send(&["b@x.example"], &n.to_string()).await;
    }
    rig.store.wait(|seen| seen.saves.len() == 60).await;
    let shares = (one.log().taken.len(), two.log().taken.len());
    // That all go one way happens once in 2^59 runs.
    assert!(shares.0 > 0 && shares.1 > 0 && shares.0 + shares.1 == 60, "{shares:?}");
    let dead = crate::common::relay_rig::nobody().await;
    let rig = Rig::start(weighted(&[dead, two.address], [u32::MAX, 1]));
    let id = rig.send(&["b@x.example"], "failover").await;
    let progress = rig.store.saved(id, 1).await;
    assert_eq!((progress.is_finished(), progress.attempts, two.log().copies("failover")), (true, 1, 1));
}

#[tokio::test]
async fn what_one_host_cannot_carry_goes_to_the_next_and_fails_when_none_can() {
    let seven = FarSide::new().offers(&["PIPELINING"]).start().await;
    let eight = FarSide::new().offers(&["PIPELINING", "8BITMIME"]).start().await;
    for (hosts, state) in [([&seven, &eight], DELIVERED), ([&seven, &seven], FAILED)] {
        let addresses = hosts.map(|host| host.address);
        let rig = Rig::start(changed(&addresses, |smtp| smtp.connections = 1));
        let id = rig.send(&["b@x.example"], "Grüße").await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!((progress.recipients[0].state, progress.attempts), (state, 1), "{progress:?}");
        // The connection that could not is still good for others.
        let plain = rig.send(&["b@x.example"], "plain").await;
        assert!(rig.store.saved(plain, 1).await.is_finished());
    }
    assert_eq!((seven.log().copies("Grüße"), eight.log().copies("Grüße")), (0, 1));
}

#[tokio::test]
async fn source_addresses_take_turns() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sources = ["127.0.0.3", "127.0.0.4", "2001:db8::1"].map(|source| source.parse().unwrap());
    let rig = Rig::start(changed(&[address], |smtp| {
        smtp.connections = 1;
        smtp.source_addresses = sources.to_vec();
    }));
    rig.send(&["b@x.example"], "x").await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        // Closed at once, so that the next comes.
        seen.push(listener.accept().await.unwrap().1.ip().to_string());
    }
    assert_eq!(seen, ["127.0.0.3", "127.0.0.4", "127.0.0.3", "127.0.0.4"]);
}

#[tokio::test]
async fn a_source_address_that_is_not_ours_defers_and_is_named() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(changed(&[far.address], |smtp| {
        smtp.source_addresses = vec!["192.0.2.77".parse().unwrap()];
    }));
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.is_queued() && replies(&progress)[0].contains("from our address 192.0.2.77"));
}

#[tokio::test]
async fn a_list_is_split_by_domain_and_by_recipients_per_transaction() {
    let (one, two) = neighbours(FarSide::new(), FarSide::new()).await;
    let rig = Rig::start(by_domain(one.address.port(), |smtp| smtp.recipients_per_transaction = 10));
    let counter = AtomicU32::new(0);
    let address = |domain: &str| format!("u{}@{domain}", counter.fetch_add(1, Ordering::Relaxed));
    let mut list: Vec<String> = (0..25).map(|_| address("[127.0.0.1]")).collect();
    list.extend((0..12).map(|_| address("[127.0.0.2]")));
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let id = rig.send(&list, "list").await;
    rig.store.wait(|seen| seen.saves.iter().any(|(i, p)| *i == id && p.is_finished())).await;
    let sizes = |far: &FarSide| far.log().taken.iter().map(|t| t.rcpts.len()).collect::<Vec<_>>();
    assert_eq!((sizes(&one), sizes(&two)), (vec![10, 10, 5], vec![10, 2]));
}

/// One message at a time to each destination, and the next only after this.
fn paced(period: Duration) -> Option<Quota> {
    Quota::with_period(period)
}

/// Longer than a connection waits with a message in hand.
const PACE: Duration = Duration::from_millis(1_100);

#[tokio::test]
async fn a_list_that_is_longer_than_its_rate_costs_one_attempt() {
    let far = FarSide::new().start().await;
    let options = changed(&[far.address], |smtp| {
        smtp.recipients_per_transaction = 1;
        smtp.rate = paced(PACE);
    });
    let hour = Duration::from_secs(3_600);
    let rig = Rig::start_with(options, queue::Options { base: hour, cap: hour, ..queue_options() });
    let id = rig.send(&["a@x.example", "b@x.example", "c@x.example"], "list").await;
    rig.store.wait(|seen| seen.saves.iter().any(|(i, p)| *i == id && p.is_finished())).await;
    assert_eq!(far.log().taken.len(), 3);
}

#[tokio::test]
async fn a_split_message_keeps_its_place_where_only_the_rate_holds_it_up() {
    let (one, two) = neighbours(FarSide::new(), FarSide::new()).await;
    let rig = Rig::start(by_domain(one.address.port(), |smtp| smtp.rate = paced(PACE)));
    let send = async |texts: &[&str]| {
        for text in texts {
            rig.send(&["a@[127.0.0.1]"], text).await;
            rig.send(&["b@[127.0.0.2]"], text).await;
        }
    };
    send(&["first", "second"]).await;
    rig.send(&["a@[127.0.0.1]", "b@[127.0.0.2]"], "split").await;
    send(&["third", "fourth", "fifth"]).await;
    for far in [&one, &two] {
        let log = far.wait(|log| log.taken.len() == 4).await;
        assert_eq!(log.copies("split"), 1, "{:?}", log.taken);
    }
}

#[tokio::test]
async fn r2_a_password_that_is_refused_with_432_is_not_tried_over_and_over() {
    let far = FarSide::new()
        .offers(&["PIPELINING", "AUTH PLAIN"])
        .on("AUTH", say("432 4.7.12 A password transition is needed"))
        .start()
        .await;
    let mut options = changed(&[far.address], |smtp| {
        smtp.auth = Some(Auth { username: "u".into(), with: Secret::Password("s".to_owned().into()) });
    });
    options.breaker = Breaker { failures: 1, open_for: Duration::from_secs(600), ..Breaker::default() };
    let rig = Rig::start(options);
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.is_queued() && replies(&progress)[0].starts_with("4.7.12"), "{progress:?}");
    assert_eq!((far.log().said("AUTH"), rig.counters.counts().breaker_opened), (1, 1));
}

#[tokio::test]
async fn a_432_that_is_about_one_message_does_not_hold_up_the_others() {
    let busy = Act::Say("432 4.3.2 recipient thread limit exceeded".to_owned());
    let far = FarSide::new().on("RCPT TO:<busy@", busy).start().await;
    let rig = Rig::start(changed(&[far.address], |smtp| smtp.connections = 1));
    rig.send(&["busy@x.example"], "busy").await;
    for n in 0..3 {
        rig.send(&["b@x.example"], &n.to_string()).await;
    }
    far.wait(|log| log.taken.len() == 3).await;
}

#[tokio::test]
async fn r2_the_account_that_microsoft_365_stops_for_today_fails_nobodys_mail() {
    let quota =
        "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message";
    for (preset, state, opened) in
        [(Preset::Microsoft365, RecipientState::Queued, 1), (Preset::None, FAILED, 0)]
    {
        let far = FarSide::new().on(".", say(quota)).start().await;
        let mut options = changed(&[far.address], |smtp| smtp.preset = preset);
        options.breaker = Breaker { failures: 1, open_for: Duration::from_secs(600), ..Breaker::default() };
        let rig = Rig::start(options);
        let id = rig.send(&["b@x.example"], "x").await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!(progress.recipients[0].state, state, "{preset:?}");
        assert_eq!(rig.counters.counts().breaker_opened, opened, "{preset:?}");
    }
}

#[tokio::test]
async fn an_attempt_at_many_hosts_that_say_nothing_comes_to_an_end() {
    let far = FarSide::new().on("CONNECT", Act::Silence).start().await;
    let hosts: Vec<_> =
        (1..=30).map(|n| Host { name: format!("127.0.0.{n}"), port: far.address.port() }).collect();
    let listeners: Vec<_> = {
        let mut listeners = Vec::new();
        for host in hosts.iter().skip(1) {
            listeners.push(TcpListener::bind((host.name.as_str(), host.port)).await.unwrap());
        }
        listeners
    };
    let mut options = hurried(changed(&[far.address], |smtp| smtp.hosts = Hosts::in_order(hosts)));
    options.timeouts.connect = Duration::from_millis(50);
    let hour = Duration::from_secs(3_600);
    let rig = Rig::start_with(options, queue::Options { base: hour, cap: hour, ..queue_options() });
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.is_queued(), "{progress:?}");
    let mut asked = 0;
    for listener in &listeners {
        asked += usize::from(tokio::time::timeout(Duration::from_millis(1), listener.accept()).await.is_ok());
    }
    // A second for all, and no host takes less than 150 ms of it.
    assert!((1..=7).contains(&asked), "{asked}");
}
