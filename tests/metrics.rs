//! What is promised about metrics: each counts what it says, exactly.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::Quota;
use oncemail::queue::OnFailure;
use oncemail::relay::options::{Breaker, InDoubt, TlsPolicy, Transport};
use oncemail::store::{Status, StoreError};
use oncemail::submission::Recipients;
use oncemail::submission::options::{AuthMode, TlsMode};

use crate::common::client::{AUTH, Client};
use crate::common::dns_server::{DnsServer, Lie};
use crate::common::far_side::{Act, FarSide, Tls, say};
use crate::common::listener::{user, write, write_certificate};
use crate::common::openmetrics::Scrape;
use crate::common::relay_rig::{relay_options, route, smarthost, to};
use crate::common::whole::Plan;

/// Everything is thrown away.
pub fn discarding() -> Plan {
    Plan::new(relay_options(vec![route("nowhere", Transport::Discard)]))
}

/// What moves by itself, and where it depends on how long something took.
fn is_restless(name: &str) -> bool {
    ["process_", "oncemail_disk_"].iter().any(|prefix| name.starts_with(prefix))
        || name.contains("_bucket")
        || name.ends_with("_sum")
        || name.contains("_sum{")
}

/// The figures that differ from those of `earlier`.
fn changed(now: &Scrape, earlier: &Scrape) -> Vec<(String, u64)> {
    let by = now.since(earlier, is_restless).into_iter();
    by.map(|(name, by)| (name.trim_start_matches("oncemail_").to_owned(), by as u64)).collect()
}

fn expected(figures: &[(&str, u64)]) -> Vec<(String, u64)> {
    let sorted: BTreeMap<_, _> = figures.iter().map(|(name, by)| ((*name).to_owned(), *by)).collect();
    sorted.into_iter().collect()
}

/// Submits a message, and gives back the reply to its final dot.
pub async fn submit(client: &mut Client, to: &str, key: &str, text: &str) -> String {
    client.send(format!("MAIL FROM:<a@example.com>\r\nRCPT TO:<{to}>\r\nDATA\r\n")).await;
    for _ in 0..3 {
        client.reply().await;
    }
    let key = if key.is_empty() { String::new() } else { format!("X-Idempotency-Key: {key}\r\n") };
    client.send(format!("{key}From: a@example.com\r\nSubject: x\r\n\r\n{text}\r\n.\r\n")).await;
    client.reply().await
}

#[tokio::test]
async fn every_submission_is_counted_once_by_what_became_of_it() {
    let mut plan = discarding();
    plan.submission.limits.message_size = 500;
    let whole = plan.start().await;
    let before = whole.scrape();
    let mut client = Client::greeted(whole.addresses[0]).await.0;
    assert!(submit(&mut client, "b@x.example", "one", "text").await.starts_with("250"));
    assert!(submit(&mut client, "b@x.example", "one", "text").await.starts_with("250"));
    assert!(submit(&mut client, "b@x.example", "one", "other").await.starts_with("554"));
    assert!(submit(&mut client, "c@x.example", "one", "text").await.starts_with("554"));
    assert!(submit(&mut client, "b@x.example", &"k".repeat(300), "text").await.starts_with("554"));
    assert!(submit(&mut client, "b@x.example", "", &"x".repeat(600)).await.starts_with("552"));
    // It fails behind the go-ahead.
    for (failure, code) in [(StoreError::Closed, "451"), (StoreError::LowDisk { free_bytes: 1 }, "452")] {
        client.begin().await;
        whole.store.fail_with(Some(failure));
        assert!(client.ask("Subject: x\r\n\r\ntext\r\n.").await.starts_with(code));
        whole.store.fail_with(None);
    }
    assert!(client.ask("NONSENSE").await.starts_with("500"));
    let after = whole.until(|now| now.value("oncemail_queue_messages{state=\"queued\"}") == 0.0).await;
    let bytes = "X-Idempotency-Key: one\r\nFrom: a@example.com\r\nSubject: x\r\n\r\ntext\r\n".len() as u64;
    let found: Vec<_> = changed(&after, &before)
        .into_iter()
        .filter(|(name, _)| ["submission", "rejections", "accepted"].iter().any(|of| name.starts_with(of)))
        .collect();
    let figures = [
        ("submissions_total{result=\"accepted\"}", 1),
        ("submissions_total{result=\"replayed\"}", 1),
        ("submissions_total{result=\"mismatch\"}", 2),
        ("submissions_total{result=\"invalid_key\"}", 1),
        ("submissions_total{result=\"refused\"}", 1),
        ("submissions_total{result=\"store_failed\"}", 1),
        ("submissions_total{result=\"low_disk\"}", 1),
        // What was refused before came to no decision.
        ("submission_seconds_count", 7),
        ("accepted_bytes_total", bytes),
        ("accepted_recipients_total", 1),
        ("rejections_total{code=\"554\"}", 3),
        ("rejections_total{code=\"552\"}", 1),
        ("rejections_total{code=\"451\"}", 1),
        ("rejections_total{code=\"452\"}", 1),
        ("rejections_total{code=\"500\"}", 1),
    ];
    assert_eq!(found, expected(&figures));
    let totals = whole.metrics.totals();
    assert_eq!((totals.accepted, totals.replayed, totals.refused), (1, 1, 6));
    assert_eq!(totals.accept_latency.last().map(|(_, count)| *count), Some(7));
}

#[tokio::test]
async fn connections_handshakes_and_logins_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let mut plan = discarding();
    let options = &mut plan.submission;
    options.listeners[0].tls = TlsMode::StartTls;
    options.listeners[0].auth = AuthMode::Optional;
    let mut closed = options.listeners[0].clone();
    (closed.name, closed.allow) = ("closed".to_owned(), vec!["192.0.2.0/24".parse().unwrap()]);
    options.listeners.push(closed);
    options.tls = Some(tls);
    options.users = vec![user("ann")];
    options.limits.connections_per_ip = 2;
    options.limits.auth_failures = Quota::per_hour(NonZeroU32::MIN);
    let whole = plan.start().await;
    let before = whole.scrape();
    assert!(before.value("oncemail_tls_certificate_not_after_seconds") > 1.8e9);
    let mut client = Client::greeted(whole.addresses[0]).await.0;
    assert!(client.ask("STARTTLS").await.starts_with("220"));
    let mut client = client.encrypt(&root).await.unwrap();
    client.ask("EHLO client.example").await;
    assert!(client.ask(AUTH).await.starts_with("235"));
    // No handshake at all, and the connection is over.
    let mut broken = Client::greeted(whole.addresses[0]).await.0;
    assert!(broken.ask("STARTTLS").await.starts_with("220"));
    // The third from here.
    let mut third = Client::connect(whole.addresses[0]).await;
    assert!(third.reply().await.starts_with("421"));
    broken.send("EHLO injected.example\r\n").await;
    while broken.line().await.is_some() {}
    whole.until(|now| now.value("oncemail_connections_open{listener=\"test\"}") == 1.0).await;
    let mut stranger = Client::connect(whole.addresses[1]).await;
    assert!(stranger.reply().await.starts_with("554"));
    let mut guesser = Client::greeted(whole.addresses[0]).await.0;
    assert!(guesser.ask("AUTH PLAIN AGFubgB3cm9uZw==").await.starts_with("535"));
    assert!(guesser.ask("AUTH PLAIN AGFubgB3cm9uZw==").await.starts_with("421"));
    drop(guesser);
    let after = whole.until(|now| now.value("oncemail_connections_open{listener=\"test\"}") == 1.0).await;
    let figures = [
        ("connections_total{listener=\"test\"}", 3),
        ("connections_open{listener=\"test\"}", 1),
        ("connections_refused_total{reason=\"per_ip\"}", 1),
        ("connections_refused_total{reason=\"network\"}", 1),
        ("tls_handshakes_total{version=\"TLSv1.3\"}", 1),
        ("tls_handshakes_total{version=\"failed\"}", 1),
        ("auth_total{result=\"succeeded\"}", 1),
        ("auth_total{result=\"failed\"}", 1),
        ("auth_total{result=\"blocked\"}", 1),
        ("rejections_total{code=\"421\"}", 2),
        ("rejections_total{code=\"535\"}", 1),
        ("rejections_total{code=\"554\"}", 1),
    ];
    assert_eq!(changed(&after, &before), expected(&figures));
    assert_eq!(whole.metrics.totals().clients, 1);
    drop(client);
    whole.until(|now| now.value("oncemail_connections_open{listener=\"test\"}") == 0.0).await;
}

#[tokio::test]
async fn refused_recipients_are_counted_by_reason_and_questions_to_dns_by_type() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disposable");
    write(&file, "thrown.example\n");
    let dns = DnsServer::new()
        .ttl(60)
        .a("plain.example", "192.0.2.1")
        .mx("ok.example", 10, "mail.ok.example")
        .mx("null.example", 0, ".")
        .start()
        .await;
    dns.lie("sick.example", Lie::ServFail);
    let asked = dns.dns();
    let mut plan = discarding();
    plan.submission.verify.disposable_file = Some(file);
    plan.submission.verify.syntax = true;
    plan.submission.verify.mx = true;
    plan.recipients = Recipients { dns: asked.clone(), suppressions: None };
    plan.dns = asked;
    let whole = plan.start().await;
    let before = whole.scrape();
    let mut client = Client::greeted(whole.addresses[0]).await.0;
    client.ask("MAIL FROM:<a@example.com>").await;
    for (recipient, code) in [
        ("b@thrown.example", "550 5.7.1"),
        ("b@single", "553 5.1.3"),
        ("b@unheard.example", "550 5.1.2"),
        ("b@null.example", "556 5.1.10"),
        ("b@sick.example", "250 2.1.5"),
        ("b@plain.example", "250 2.1.5"),
        ("b@ok.example", "250 2.1.5"),
        ("c@ok.example", "250 2.1.5"),
    ] {
        let reply = client.ask(&format!("RCPT TO:<{recipient}>")).await;
        assert!(reply.starts_with(code), "{recipient}: {reply}");
    }
    let now = whole.scrape();
    for (reason, times) in
        [("disposable", 1.0), ("syntax", 1.0), ("no_mail_host", 1.0), ("null_mx", 1.0), ("suppressed", 0.0)]
    {
        assert_eq!(now.value(&format!("oncemail_recipients_refused_total{{reason=\"{reason}\"}}")), times);
    }
    assert_eq!(now.value("oncemail_recipients_unverified_total"), 1.0);
    assert_eq!(now.value("oncemail_dns_failures_total{type=\"MX\"}"), 1.0);
    assert_eq!(now.value("oncemail_dns_failures_total{type=\"A\"}"), 0.0);
    // Five domains; the last was known.
    assert_eq!(now.value("oncemail_dns_seconds_count{type=\"MX\"}"), 5.0);
    assert_eq!(now.value("oncemail_dns_seconds_count{type=\"A\"}"), 1.0);
    let known = "oncemail_dns_cache_hits_total";
    assert_eq!((before.value(known), now.value(known)), (0.0, 1.0));
}

#[tokio::test]
async fn every_outcome_is_counted_by_route_and_connections_by_their_encryption() {
    let far = FarSide::new()
        .on("RCPT TO:<later@", say("451 4.7.1 later"))
        .on("RCPT TO:<never@", say("550 5.1.1 never"))
        .on_times(1, ".", Act::Close)
        .start()
        .await;
    let secret = FarSide::new().tls(Tls::Upgrade).start().await;
    let one = |address| oncemail::relay::options::Smtp { connections: 1, ..smarthost(&[address]) };
    let mut encrypted = one(secret.address);
    encrypted.tls = TlsPolicy::Opportunistic;
    let mut in_clear = route("clear", Transport::Smtp(one(far.address)));
    in_clear.in_doubt = InDoubt::Hold;
    let routes = vec![
        to(&["clear.example"], in_clear),
        to(&["tls.example"], route("secret", Transport::Smtp(encrypted))),
        to(&["gone.example"], route("gone", Transport::Discard)),
    ];
    let whole = Plan::new(relay_options(routes)).start().await;
    let before = whole.scrape();
    let mut client = Client::greeted(whole.addresses[0]).await.0;
    for to in ["doubt@clear", "ok@clear", "later@clear", "never@clear", "x@tls", "x@gone", "x@nobody"] {
        let before = whole.store.seen().saves.len();
        assert!(submit(&mut client, &format!("{to}.example"), "", to).await.starts_with("250"));
        whole.store.wait(|seen| seen.saves.len() > before).await;
        if to.starts_with("doubt") {
            // Journalled before the final dot, and saved after it.
            whole.store.wait(|seen| seen.saves.len() > before + 1).await;
        }
    }
    let brought = |now: &Scrape| {
        now.samples
            .iter()
            .filter(|(name, _)| name.starts_with("oncemail_deliveries"))
            .map(|(_, n)| n)
            .sum::<f64>()
    };
    let after = whole.until(|now| brought(now) == 7.0).await;
    let found: Vec<_> = changed(&after, &before)
        .into_iter()
        .filter(|(name, _)| {
            ["deliver", "attempt", "outbound", "queue_messages", "destin"]
                .iter()
                .any(|of| name.starts_with(of))
        })
        .collect();
    let figures = [
        ("deliveries_total{route=\"clear\",outcome=\"in_doubt\"}", 1),
        ("deliveries_total{route=\"clear\",outcome=\"delivered\"}", 1),
        ("deliveries_total{route=\"clear\",outcome=\"deferred\"}", 1),
        ("deliveries_total{route=\"clear\",outcome=\"failed\"}", 1),
        ("deliveries_total{route=\"secret\",outcome=\"delivered\"}", 1),
        ("deliveries_total{route=\"gone\",outcome=\"delivered\"}", 1),
        ("deliveries_total{route=\"none\",outcome=\"deferred\"}", 1),
        ("attempts_total{route=\"clear\"}", 4),
        ("attempts_total{route=\"secret\"}", 1),
        ("attempts_total{route=\"gone\"}", 1),
        ("attempt_seconds_count{route=\"clear\"}", 4),
        ("attempt_seconds_count{route=\"secret\"}", 1),
        ("attempt_seconds_count{route=\"gone\"}", 1),
        ("delivery_seconds_count", 3),
        // The first was closed in doubt.
        ("outbound_connections_total{tls=\"none\"}", 2),
        ("outbound_connections_total{tls=\"TLSv1.3\"}", 1),
        ("outbound_connections_open", 2),
        ("destinations", 3),
        ("queue_messages{state=\"queued\"}", 2),
        ("queue_messages{state=\"held\"}", 2),
    ];
    assert_eq!(found, expected(&figures));
    let totals = whole.metrics.totals();
    assert_eq!((totals.delivered, totals.deferred, totals.failed, totals.connections), (3, 2, 1, 2));
    assert_eq!(totals.deliver_latency.last().map(|(_, count)| *count), Some(3));
}

#[tokio::test]
async fn what_expires_is_counted_and_what_is_being_tried_is_active() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let far =
        FarSide::new().on("DATA", Act::Gate(gate.clone())).on(".", say("451 4.7.1 later")).start().await;
    let mut plan = Plan::new(relay_options(vec![route("r", Transport::Smtp(smarthost(&[far.address])))]));
    plan.queue.expire_after = Duration::ZERO;
    plan.queue.on_failure = OnFailure::Discard;
    let whole = plan.start().await;
    let mut client = Client::greeted(whole.addresses[0]).await.0;
    assert!(submit(&mut client, "b@x.example", "", "text").await.starts_with("250"));
    far.wait(|log| log.said("DATA") == 1).await;
    let now = whole.scrape();
    assert_eq!(now.value("oncemail_queue_messages{state=\"active\"}"), 1.0);
    assert!(now.value("oncemail_queue_memory_bytes") > 0.0);
    gate.add_permits(10);
    let expired = "oncemail_deliveries_total{route=\"r\",outcome=\"expired\"}";
    let now = whole.until(|now| now.value(expired) == 1.0).await;
    assert_eq!(now.value("oncemail_deliveries_total{route=\"r\",outcome=\"deferred\"}"), 1.0);
    let now = whole.until(|now| now.value("oncemail_queue_memory_bytes") == 0.0).await;
    assert_eq!(now.value("oncemail_queue_messages{state=\"active\"}"), 0.0);
    assert_eq!(now.value("oncemail_delivery_seconds_count"), 0.0);
    assert_eq!(whole.metrics.totals().failed, 1);
}

#[tokio::test]
async fn breakers_are_shown_by_state_and_connections_that_were_not_made_are_counted() {
    let far = FarSide::new().on_times(1, "CONNECT", say("554 5.7.1 not you")).start().await;
    let mut options = relay_options(vec![route("r", Transport::Smtp(smarthost(&[far.address])))]);
    let open_for = Duration::from_millis(300);
    options.breaker = Breaker { failures: 1, open_for, probes: 1, successes: 1, ..Breaker::default() };
    let mut plan = Plan::new(options);
    (plan.queue.base, plan.queue.cap) = (Duration::from_millis(1), Duration::from_millis(1));
    let whole = plan.start().await;
    let mut client = Client::greeted(whole.addresses[0]).await.0;
    assert!(submit(&mut client, "b@x.example", "", "text").await.starts_with("250"));
    whole.until(|now| now.value("oncemail_breakers{state=\"open\"}") == 1.0).await;
    assert_eq!(whole.metrics.totals().open_breakers, 1);
    let delivered = "oncemail_deliveries_total{route=\"r\",outcome=\"delivered\"}";
    let now = whole.until(|now| now.value(delivered) == 1.0).await;
    for (name, times) in [
        ("oncemail_breaker_transitions_total{to=\"open\"}", 1.0),
        ("oncemail_breaker_transitions_total{to=\"half_open\"}", 1.0),
        ("oncemail_breaker_transitions_total{to=\"closed\"}", 1.0),
        ("oncemail_breakers{state=\"open\"}", 0.0),
        ("oncemail_breakers{state=\"half_open\"}", 0.0),
        ("oncemail_outbound_connection_failures_total", 1.0),
        // Not at the first attempt.
        ("oncemail_delivery_seconds_count", 0.0),
    ] {
        assert_eq!(now.value(name), times, "{name}");
    }
}

#[tokio::test]
async fn the_state_of_store_disk_and_process_is_shown() {
    let whole = discarding().start().await;
    let now = whole.scrape();
    assert_eq!(now.value(&format!("oncemail_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    assert_eq!(now.value("oncemail_ready"), 1.0);
    assert_eq!(now.value("oncemail_disk_min_free_bytes"), f64::from(1 << 20));
    let (free, size) = (now.value("oncemail_disk_free_bytes"), now.value("oncemail_disk_size_bytes"));
    assert!(free > 0.0 && size >= free);
    assert!(now.value("process_start_time_seconds") > 1.6e9);
    #[cfg(target_os = "linux")]
    {
        assert!(now.value("process_resident_memory_bytes") > 1e6 && now.value("process_open_fds") > 2.0);
        let _open: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(whole.scrape().value("process_open_fds") >= 50.0);
    }
    for (failure, state) in [
        (StoreError::LowDisk { free_bytes: 1 }, "low_disk"),
        (StoreError::Latched("gone".to_owned()), "latched"),
    ] {
        whole.store.fail_with(Some(failure));
        let now = whole.scrape();
        let is_ready = oncemail::store::Store::status(&*whole.store) == Status::Ready;
        assert_eq!(now.value("oncemail_ready"), f64::from(u8::from(is_ready)));
        assert_eq!(now.value(&format!("oncemail_store_status{{state=\"{state}\"}}")), 1.0);
        assert_eq!(now.value("oncemail_store_status{state=\"ready\"}"), 0.0);
    }
}

#[tokio::test]
async fn a_full_house_and_an_outcome_that_cannot_be_saved_are_shown() {
    let mut plan = discarding();
    plan.submission.limits.connections = 1;
    let whole = plan.start().await;
    let mut client = Client::greeted(whole.addresses[0]).await.0;
    let mut second = Client::connect(whole.addresses[0]).await;
    assert!(second.reply().await.starts_with("421"));
    assert_eq!(whole.scrape().value("oncemail_connections_refused_total{reason=\"full\"}"), 1.0);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    whole.store.gate_saves(gate.clone());
    assert!(submit(&mut client, "b@x.example", "", "text").await.starts_with("250"));
    whole.store.wait(|seen| seen.begun_saves == 1).await;
    whole.store.fail_with(Some(StoreError::LowDisk { free_bytes: 0 }));
    gate.add_permits(100);
    whole.until(|now| now.value("oncemail_queue_unsaved_outcomes") == 1.0).await;
    whole.store.fail_with(None);
    whole.until(|now| now.value("oncemail_queue_unsaved_outcomes") == 0.0).await;
}
