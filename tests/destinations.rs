//! What the relay promises of its destinations: hosts in order, TLS and AUTH as required, connections that are reused,
//! breakers, and routes that do not hold back each other.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::RecipientState;
use oncemail::queue::{self, Queue};
use oncemail::relay::Relay;
use oncemail::relay::options::{Auth, Breaker, Host, Hosts, Secret, TlsPolicy, Transport};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::common::far_side::{Act, FarSide, Tls, say};
use crate::common::relay_rig::{
    DELIVERED, FAILED, Rig, changed, directory, dns, message, nobody, queue_options, relay_options, replies,
    route, smarthost, to, to_hosts,
};

#[tokio::test]
async fn the_directory_gets_the_exact_octets_and_the_envelope() {
    let directory_path = tempfile::tempdir().unwrap();
    let path = directory_path.path().join("mail");
    let rig = Rig::start(relay_options(vec![directory("dir", &path)]));
    let id = rig.send(&["b@x.example", "c@y.example"], ".dot").await;
    assert!(rig.store.saved(id, 1).await.is_finished());
    assert_eq!(std::fs::read(path.join(format!("{id}.eml"))).unwrap(), b"Subject: test\r\n\r\n.dot\r\n");
    let envelope = std::fs::read(path.join(format!("{id}.json"))).unwrap();
    let envelope: serde_json::Value = serde_json::from_slice(&envelope).unwrap();
    assert_eq!(envelope["recipients"], serde_json::json!(["b@x.example", "c@y.example"]));
    assert_eq!(envelope["reverse_path"], "a@shop.example");
    // Nothing half-made is left.
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 2);
}

#[tokio::test]
async fn r2_refusals_about_us_open_the_breaker_and_then_cost_no_attempts() {
    let far = FarSide::new().on_times(5, "MAIL", say("550 5.7.1 not you")).start().await;
    let mut options = changed(&[far.address], |smarthost| smarthost.connections = 1);
    options.breaker = Breaker { open_for: Duration::from_millis(300), ..Breaker::default() };
    let rig = Rig::start(options);
    let first = rig.send(&["b@x.example"], "first").await;
    rig.store.saved(first, 5).await;
    // The breaker is open: a new message waits, and so does the first.
    let second = rig.send(&["b@x.example"], "second").await;
    let (first, second) = (rig.store.saved(first, 6).await, rig.store.saved(second, 1).await);
    assert_eq!((first.attempts, second.attempts), (6, 1));
    assert_eq!((far.log().copies("first"), far.log().copies("second")), (1, 1));
}

#[tokio::test]
async fn r2_refused_auth_is_a_deferral_with_the_far_sides_words() {
    let far = FarSide::new()
        .offers(&["PIPELINING", "AUTH PLAIN LOGIN"])
        .on_times(1, "AUTH", say("535 5.7.8 wrong password"))
        .start()
        .await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.auth = Some(credentials())));
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 2).await;
    let said = &progress.recipients[0].replies[0];
    assert_eq!((said.code, said.text.as_str()), (535, "5.7.8 wrong password (in reply to AUTH)"));
    assert_eq!(progress.recipients[0].state, DELIVERED);
    assert_eq!(far.log().said("AUTH PLAIN AHUAcw=="), 2);
}

fn credentials() -> Auth {
    Auth { username: "u".into(), with: Secret::Password("s".to_owned().into()) }
}

#[tokio::test]
async fn auth_login_is_spoken_where_plain_is_not_offered() {
    let far = FarSide::new()
        .offers(&["AUTH LOGIN"])
        .on("dQ==", say("334 UGFzc3dvcmQ6"))
        .on("cw==", say("235 2.7.0 ok"))
        .start()
        .await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.auth = Some(credentials())));
    let id = rig.send(&["b@x.example"], "x").await;
    assert!(rig.store.saved(id, 1).await.is_finished());
    assert_eq!(far.log().said("AUTH LOGIN"), 1);
}

#[tokio::test]
async fn tls_is_required_and_verified() {
    for (kind, policy) in [(Tls::Upgrade, TlsPolicy::Required), (Tls::Implicit, TlsPolicy::Implicit)] {
        let far = FarSide::new().tls(kind).offers_in_tls(&["PIPELINING", "AUTH PLAIN"]).start().await;
        let options = changed(&[far.address], |smarthost| {
            smarthost.tls = policy;
            smarthost.ca_file = Some(far.ca_file.clone());
            smarthost.hosts =
                Hosts::in_order(vec![Host { name: "localhost".into(), port: far.address.port() }]);
        });
        let rig = Rig::start(options);
        let id = rig.send(&["b@x.example"], "secret").await;
        assert!(rig.store.saved(id, 1).await.is_finished());
        assert!(far.log().taken[0].encrypted);
    }
}

#[tokio::test]
async fn r2_a_failed_tls_defers_and_never_falls_back_to_plain_text() {
    let trusted = FarSide::new().tls(Tls::Upgrade).start().await;
    let stranger = FarSide::new().tls(Tls::Upgrade).start().await;
    let without = FarSide::new().start().await;
    let refusing = FarSide::new().tls(Tls::Upgrade).on("STARTTLS", say("454 4.7.0 not now")).start().await;
    for (far, cause) in [(&stranger, "certificate"), (&without, "does not offer"), (&refusing, "not now")] {
        let options = changed(&[far.address], |smarthost| {
            smarthost.tls = TlsPolicy::Required;
            smarthost.ca_file = Some(trusted.ca_file.clone());
        });
        let rig = Rig::start(options);
        let id = rig.send(&["b@x.example"], "secret").await;
        let progress = rig.store.saved(id, 1).await;
        assert!(replies(&progress)[0].contains(cause), "{cause}: {progress:?}");
        assert!(progress.is_queued() && far.log().said("MAIL") == 0);
    }
}

#[tokio::test]
async fn s1_nothing_that_came_before_the_handshake_is_read_after_it() {
    let far =
        FarSide::new().tls(Tls::Upgrade).injects(b"250-far.example\r\n250 AUTH PLAIN\r\n").start().await;
    let options = changed(&[far.address], |smarthost| {
        smarthost.tls = TlsPolicy::Required;
        smarthost.ca_file = Some(far.ca_file.clone());
    });
    let rig = Rig::start(options);
    let id = rig.send(&["b@x.example"], "secret").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.is_queued() && far.log().taken.is_empty(), "{progress:?}");
}

#[tokio::test]
async fn the_next_host_is_asked_while_none_has_accepted() {
    let refusing = FarSide::new().on("CONNECT", say("554 5.7.1 go away")).start().await;
    let closing = FarSide::new().on("DATA", Act::Close).start().await;
    let good = FarSide::new().start().await;
    let rig = Rig::start(to_hosts(&[nobody().await, refusing.address, closing.address, good.address]));
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    assert_eq!((progress.attempts, progress.is_finished()), (1, true));
    assert_eq!(progress.recipients[0].replies[0].host, good.address.to_string());
}

#[tokio::test]
async fn the_next_host_is_not_asked_when_one_may_have_the_message() {
    let doubtful = FarSide::new().on_times(1, ".", Act::Close).start().await;
    let other = FarSide::new().start().await;
    let rig = Rig::start(to_hosts(&[doubtful.address, other.address]));
    let id = rig.send(&["b@x.example"], "x").await;
    assert!(rig.store.saved(id, 2).await.is_finished());
    assert_eq!((doubtful.log().copies("x"), other.log().connections), (2, 0));
}

#[tokio::test]
async fn connections_are_reused_and_replaced_in_time() {
    let far = FarSide::new().start().await;
    let options = changed(&[far.address], |smarthost| {
        smarthost.connections = 1;
        smarthost.messages_per_connection = 3;
    });
    let rig = Rig::start(options);
    for _ in 0..7 {
        let id = rig.send(&["b@x.example"], "x").await;
        rig.store.saved(id, 1).await;
    }
    let log = far.log();
    let connections: Vec<_> = log.taken.iter().map(|taken| taken.connection).collect();
    assert_eq!(connections, [1, 1, 1, 2, 2, 2, 3]);
    assert_eq!((log.said("RSET"), log.said("EHLO"), log.said("QUIT")), (0, 3, 2));
}

#[tokio::test]
async fn a_connection_is_reset_after_a_transaction_that_was_left_open() {
    for capabilities in [&["PIPELINING"][..], &[]] {
        let far = FarSide::new().offers(capabilities).on_times(1, "RCPT", say("550 5.1.1 no")).start().await;
        let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.connections = 1));
        let bad = rig.send(&["bad@x.example"], "bad").await;
        assert_eq!(rig.store.saved(bad, 1).await.recipients[0].state, FAILED);
        let good = rig.send(&["b@x.example"], "good").await;
        assert!(rig.store.saved(good, 1).await.is_finished());
        let log = far.log();
        assert_eq!((log.connections, log.said("RSET"), log.taken.len()), (1, 1, 1));
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_nothing() {
    let far = FarSide::new().on_times(1, ".", Act::SayThenClose("250 2.0.0 taken, bye".into())).start().await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.connections = 1));
    let first = rig.send(&["b@x.example"], "first").await;
    rig.store.saved(first, 1).await;
    far.wait(|log| log.open == 0).await;
    let second = rig.send(&["b@x.example"], "second").await;
    let progress = rig.store.saved(second, 1).await;
    assert_eq!((progress.attempts, replies(&progress).len(), far.log().connections), (1, 1, 2));
}

#[tokio::test]
async fn idle_connections_are_closed_politely() {
    let far = FarSide::new().start().await;
    let rig =
        Rig::start(changed(&[far.address], |smarthost| smarthost.idle_timeout = Duration::from_millis(20)));
    rig.send(&["b@x.example"], "x").await;
    let log = far.wait(|log| log.connections == 1 && log.open == 0).await;
    assert_eq!(log.said("QUIT"), 1);
}

#[tokio::test]
async fn a_message_is_split_by_route_and_each_part_fares_for_itself() {
    let (good, bad) =
        (FarSide::new().start().await, FarSide::new().on("RCPT", say("550 5.1.1 no")).start().await);
    let files = tempfile::tempdir().unwrap();
    let options = relay_options(vec![
        to(&["good.example"], route("good", Transport::Smtp(smarthost(&[good.address])))),
        to(&["*.bad.example"], route("bad", Transport::Smtp(smarthost(&[bad.address])))),
        to(&["dir.example", "dir2.example"], directory("dir", files.path())),
    ]);
    let rig = Rig::start(options);
    let recipients =
        ["a@good.example", "b@x.bad.example", "c@dir2.example", "d@nowhere.example", "e@good.example"];
    let id = rig.send(&recipients, "split").await;
    let seen = rig
        .store
        .wait(|seen| {
            seen.saves.last().is_some_and(|(_, p)| {
                p.recipients.iter().filter(|r| r.state == DELIVERED).count() == 3
                    && p.recipients[1].state == FAILED
            })
        })
        .await;
    let progress = &seen.saves.last().unwrap().1;
    let routes: Vec<_> = progress
        .recipients
        .iter()
        .map(|r| r.replies.first().map_or("", |reply| reply.route.as_str()))
        .collect();
    assert_eq!(routes, ["good", "bad", "dir", "", "good"]);
    assert_eq!(progress.recipients[3].state, RecipientState::Queued);
    let taken = good.log().taken;
    assert_eq!((taken.len(), taken[0].rcpts.len()), (1, 2));
    assert!(files.path().join(format!("{id}.eml")).exists());
    // Without a route a recipient is deferred, with a sentence.
    let unrouted = rig.store.wait(|seen| seen.saves.iter().any(|(_, p)| p.recipients[3].attempts > 1)).await;
    assert!(unrouted.saves.last().unwrap().1.recipients[3].replies[0].text.contains("no route"));
}

#[tokio::test]
async fn a_dead_destination_does_not_hold_back_another() {
    let dead = FarSide::new().on("CONNECT", Act::Silence).start().await;
    let live = FarSide::new().start().await;
    let rig = Rig::start(relay_options(vec![
        to(&["dead.example"], route("dead", Transport::Smtp(smarthost(&[dead.address])))),
        route("live", Transport::Smtp(smarthost(&[live.address]))),
    ]));
    for n in 0..500 {
        rig.send(&["x@dead.example"], &format!("dead {n}")).await;
    }
    dead.wait(|log| log.connections == 2).await;
    for n in 0..100 {
        rig.send(&["x@live.example"], &format!("live {n}")).await;
    }
    live.wait(|log| log.taken.len() == 100).await;
    rig.store.wait(|seen| seen.saves.len() == 100).await;
    assert_eq!(dead.log().connections, 2);
}

#[tokio::test]
async fn a_refused_password_is_tried_once_and_never_in_clear_off_loopback() {
    let far = FarSide::new().offers(&["AUTH PLAIN"]).on("AUTH", say("535 5.7.8 no")).start().await;
    let rig = Rig::start_with(
        changed(&[far.address], |smarthost| {
            smarthost.auth = Some(credentials());
            smarthost.hosts =
                Hosts::in_order(vec![Host { name: "localhost".into(), port: far.address.port() }]);
        }),
        queue::Options { base: Duration::from_secs(600), cap: Duration::from_secs(600), ..queue_options() },
    );
    let id = rig.send(&["b@x.example"], "x").await;
    rig.store.saved(id, 1).await;
    assert_eq!(far.log().said("AUTH"), 1);
}

#[tokio::test]
async fn a_split_message_does_not_wait_for_a_destination_that_is_away() {
    let busy = FarSide::new().on_times(3, "RCPT", say("451 4.3.0 later")).start().await;
    let away = nobody().await;
    let mut options = relay_options(vec![
        to(&["away.example"], route("away", Transport::Smtp(smarthost(&[away])))),
        route("busy", Transport::Smtp(smarthost(&[busy.address]))),
    ]);
    options.breaker = Breaker { failures: 1, open_for: Duration::from_secs(600), ..Breaker::default() };
    let rig = Rig::start(options);
    let id = rig.send(&["a@away.example", "b@busy.example"], "split").await;
    let seen =
        rig.store.wait(|seen| seen.saves.iter().any(|(_, p)| p.recipients[1].state == DELIVERED)).await;
    let (_, progress) = seen.saves.iter().rfind(|(i, _)| *i == id).unwrap();
    assert_eq!((progress.recipients[0].state, progress.recipients[0].attempts), (RecipientState::Queued, 1));
}

#[tokio::test]
async fn a_ca_file_that_is_none_stops_the_start_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (missing, empty) = (directory.path().join("missing.pem"), directory.path().join("empty.pem"));
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(&empty, "no certificate").unwrap();
    for file in [missing, empty] {
        let options = changed(&[nobody().await], |smarthost| smarthost.ca_file = Some(file.clone()));
        let clock = Clock::system();
        let error = Relay::new(options, dns(), Queue::new(queue_options(), clock.clone()), clock)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.starts_with("route hosts: ca_file: ") && error.contains(file.to_str().unwrap()),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_outcome_is_saved_before_the_goodbye_is_answered() {
    let far = FarSide::new().on("QUIT", Act::Silence).start().await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.messages_per_connection = 1));
    rig.send(&["b@x.example"], "x").await;
    far.wait(|log| log.said("QUIT") == 1).await;
    assert_eq!(rig.store.seen().saves.len(), 1);
}

/// Takes one message, without any extension.
async fn take_one(stream: &mut TcpStream) {
    let mut input = BufReader::new(stream);
    input.write_all(b"220 far\r\n").await.unwrap();
    for reply in ["250 far", "250 ok", "250 ok", "354 go", "250 2.0.0 taken"] {
        let mut line = String::new();
        input.read_line(&mut line).await.unwrap();
        while reply.ends_with("taken") && line != ".\r\n" {
            line.clear();
            input.read_line(&mut line).await.unwrap();
        }
        input.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_far_side_says_to_an_idle_connection_is_no_reply_to_the_next_message() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let rig = Rig::start(changed(&[address], |smarthost| smarthost.connections = 1));
    let first = rig.send(&["b@x.example"], "first").await;
    let (mut idle, _) = listener.accept().await.unwrap();
    idle.set_nodelay(true).unwrap();
    take_one(&mut idle).await;
    rig.store.saved(first, 1).await;
    idle.write_all(b"550 4.4.2 you were idle for too long\r\n").await.unwrap();
    // A round of network events, so that the relay's side has been told.
    let (_connected, _accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let second = rig.send(&["b@x.example"], "second").await;
    let (mut fresh, _) = listener.accept().await.unwrap();
    take_one(&mut fresh).await;
    let progress = rig.store.saved(second, 1).await;
    assert_eq!((progress.is_finished(), replies(&progress).len()), (true, 1), "{progress:?}");
}

#[tokio::test]
async fn nobody_else_reads_what_is_delivered_into_a_directory() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("mail");
    let rig = Rig::start(relay_options(vec![directory("dir", &path)]));
    let id = rig.send(&["b@x.example"], "x").await;
    rig.store.saved(id, 1).await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let modes = [mode(&path), mode(&path.join(format!("{id}.eml"))), mode(&path.join(format!("{id}.json")))];
    assert_eq!(modes, [0o700, 0o600, 0o600]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_defers_and_leaves_nothing_half_made() {
    let root = tempfile::tempdir().unwrap();
    let rig = Rig::start(relay_options(vec![directory("dir", root.path())]));
    let sent = message(&rig.clock, &["b@x.example"], "x");
    let in_the_way = root.path().join(format!("{}.eml", sent.id));
    std::fs::create_dir(&in_the_way).unwrap();
    let id = rig.submit(sent).await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.is_queued() && replies(&progress)[0].starts_with("4.3.0 not saved: "), "{progress:?}");
    let names: Vec<_> = std::fs::read_dir(root.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    rig.stop().await;
    let unfinished = format!(".{id}.eml.tmp");
    assert!(!root.path().join(&unfinished).exists() && names.len() <= 3, "{names:?}");
}

#[tokio::test]
async fn two_names_of_one_directory_are_one_destination() {
    let root = tempfile::tempdir().unwrap();
    let (path, other) = (root.path().join("mail"), root.path().join("other"));
    std::fs::create_dir(&path).unwrap();
    std::os::unix::fs::symlink(&path, &other).unwrap();
    let rig = Rig::start(relay_options(vec![
        to(&["a.example"], directory("a", &path)),
        to(&["b.example"], directory("b", &other)),
    ]));
    let id = rig.send(&["x@a.example", "x@b.example"], "x").await;
    rig.store.wait(|seen| seen.saves.last().is_some_and(|(i, p)| *i == id && p.is_finished())).await;
    let envelope = std::fs::read(path.join(format!("{id}.json"))).unwrap();
    let envelope: serde_json::Value = serde_json::from_slice(&envelope).unwrap();
    assert_eq!(envelope["recipients"], serde_json::json!(["x@a.example", "x@b.example"]));
}

#[tokio::test]
async fn a_certificate_must_be_for_the_host_that_is_configured_an_address_included() {
    // The far side's certificate is for localhost and 127.0.0.1.
    for (host, is_good) in [("127.0.0.1", true), ("127.0.0.2", false)] {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let far = FarSide::new().tls(Tls::Upgrade).start_on(listener);
        let options = changed(&[far.address], |smarthost| {
            smarthost.tls = TlsPolicy::Required;
            smarthost.ca_file = Some(far.ca_file.clone());
        });
        let rig = Rig::start(options);
        let id = rig.send(&["b@x.example"], "x").await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!(
            (progress.is_finished(), far.log().taken.len()),
            (is_good, usize::from(is_good)),
            "{host}"
        );
        assert!(is_good || replies(&progress)[0].contains("not valid for name"), "{progress:?}");
    }
}

#[tokio::test]
async fn s2_a_long_line_for_a_dead_destination_leaves_others_the_memory_for_fresh_mail() {
    let dead = FarSide::new().on("CONNECT", Act::Silence).start().await;
    let live = FarSide::new().start().await;
    let options = relay_options(vec![
        to(&["dead.example"], route("dead", Transport::Smtp(smarthost(&[dead.address])))),
        route("live", Transport::Smtp(smarthost(&[live.address]))),
    ]);
    let rig = Rig::start_with(options, queue::Options { fresh_bytes: 200_000, ..queue_options() });
    for n in 0..600 {
        rig.send(&["x@dead.example"], &format!("dead {n}")).await;
        // The dispatcher has its turn, as it has beside a listener.
        tokio::task::yield_now().await;
    }
    dead.wait(|log| log.connections == 2).await;
    // From now on nothing can be read back: what arrives without content stays where it is.
    rig.store.reads.forget_permits(Semaphore::MAX_PERMITS);
    rig.send(&["x@live.example"], "live").await;
    live.wait(|log| log.copies("live") == 1).await;
}
