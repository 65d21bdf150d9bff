//! The contract: what a client hears after the final dot, and what is queued then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oncemail::intake::{Decision, Fallback, KeyFault, Options};
use oncemail::mail::{Body, FingerprintMode, KeyKind, Progress, RecipientState, Scope, ScopedKey};
use oncemail::store::{Store, StoreError};
use tokio::sync::Semaphore;

use crate::common::eventually::eventually;
use crate::common::gated::Gated;
use crate::common::intake::{Bench, START, TTL, envelope, keyed, options, submission};

#[tokio::test]
async fn the_whole_contract_word_for_word() {
    let bench = Bench::new(options());
    let first = bench.send(keyed("order-1", "hello")).await;
    let id = first.decision.queue_id().unwrap();
    assert_eq!(first.decision.reply().to_string(), format!("250 2.0.0 OK Message queued as {id}"));

    let mut other_envelope = keyed("order-1", "hello");
    other_envelope.envelope = envelope("shop@app.example", &["two@dest.example"]);
    let too_long = "x".repeat(257);
    for (submission, reply) in [
        (
            keyed("order-1", "hello"),
            format!("250 2.0.0 OK Message already queued as {id} (idempotent replay)"),
        ),
        (keyed("order-1", "other"), "554 5.5.0 X-Idempotency-Key reused with different body".to_owned()),
        (other_envelope, "554 5.5.0 X-Idempotency-Key reused with different envelope".to_owned()),
        (keyed(&too_long, "x"), "554 5.5.0 Invalid X-Idempotency-Key (length)".to_owned()),
        (keyed("a\u{7f}", "x"), "554 5.5.0 Invalid X-Idempotency-Key (characters)".to_owned()),
        (keyed("a\nX-Idempotency-Key: b", "x"), "554 5.5.0 Invalid X-Idempotency-Key (repeated)".to_owned()),
    ] {
        assert_eq!(bench.reply(submission).await, reply);
    }
    assert_eq!(bench.queued().len(), 1);

    // A mismatch leaves the first record as it was.
    assert_eq!(bench.decide(keyed("order-1", "hello")).await, Decision::Replayed(id));

    // Without a key nothing is remembered.
    for _ in 0..2 {
        assert!(matches!(bench.decide(keyed("", "hello")).await, Decision::Queued(_)));
        assert!(matches!(bench.decide(submission("Subject: s\n\nhello\n")).await, Decision::Queued(_)));
    }
    assert_eq!(bench.queued().len(), 5);
    assert_eq!(bench.queued().iter().filter(|message| message.key.is_some()).count(), 1);

    // The same value twice is one key.
    let twice = bench.send(keyed("twice\nX-Idempotency-Key: twice", "x")).await;
    assert_eq!(twice.key.as_deref(), Some("twice"));

    bench.store.fail_with(Some(StoreError::Latched("write".to_owned())));
    assert!(bench.reply(keyed("order-2", "x")).await.starts_with("451 4.3.0 "));
    bench.store.fail_with(Some(StoreError::LowDisk { free_bytes: 1 }));
    assert!(bench.reply(keyed("order-2", "x")).await.starts_with("452 4.3.1 "));
    bench.store.fail_with(None);
    assert!(bench.reply(keyed("order-2", "x")).await.starts_with("250 2.0.0 OK Message queued as "));
}

#[tokio::test]
async fn replies_call_the_field_by_its_configured_name() {
    let bench = Bench::new(Options { header: "Idempotency-Key".to_owned(), ..options() });
    let send = |fields: &str, body: &str| bench.reply(submission(&format!("{fields}Subject: s\n\n{body}\n")));
    assert!(send("Idempotency-Key: k\n", "x").await.starts_with("250 2.0.0 OK Message queued as "));
    assert!(send("Idempotency-Key: k\n", "x").await.ends_with("(idempotent replay)"));
    assert_eq!(
        send("Idempotency-Key: k\n", "y").await,
        "554 5.5.0 Idempotency-Key reused with different body"
    );
    let long = format!("Idempotency-Key: {}\n", "x".repeat(257));
    assert_eq!(send(&long, "y").await, "554 5.5.0 Invalid Idempotency-Key (length)");
    // The usual name is a field like any other then.
    assert!(send("X-Idempotency-Key: k\n", "z").await.starts_with("250 2.0.0 OK Message queued as "));
}

#[tokio::test]
async fn i1_a_retry_that_a_library_built_anew_is_replayed() {
    let bench = Bench::new(options());
    let built = |n: u8| {
        let content = match n {
            1 => include_str!("fixtures/retries/symfony-1.eml"),
            _ => include_str!("fixtures/retries/symfony-2.eml"),
        };
        submission(content)
    };
    let first = bench.send(built(1)).await;
    let second = bench.send(built(2)).await;
    assert_eq!(first.key.as_deref(), Some("order-42"));
    assert_eq!(second.decision, Decision::Replayed(first.decision.queue_id().unwrap()));
    // The log names the Message-ID of each try.
    assert_ne!(first.message_id, second.message_id);
}

#[tokio::test]
async fn i1_envelope_parameters_and_the_connection_do_not_count() {
    let bench = Bench::new(options());
    let mut first = keyed("k", "x");
    first.envelope = envelope("shop@App.example", &["one@dest.example", "two@dest.example"]);
    let id = bench.decide(first).await.queue_id().unwrap();
    let mut retry = keyed("k", "x");
    retry.envelope =
        envelope("shop@app.example", &["two@DEST.example", "one@dest.example", "two@dest.example"]);
    retry.envelope.body = Body::EightBitMime;
    retry.envelope.smtputf8 = true;
    retry.trace.helo = "other.example".to_owned();
    retry.origin.client = None;
    assert_eq!(bench.decide(retry).await, Decision::Replayed(id));
}

#[tokio::test]
async fn i1_a_key_is_replayed_while_it_lives_and_new_afterwards() {
    let bench = Bench::new(options());
    let id = bench.decide(keyed("k", "x")).await.queue_id().unwrap();
    let mut done = Progress::fresh(1, START);
    done.recipients[0].state = RecipientState::Delivered;
    bench.store.save(id, done).await.unwrap();
    bench.clock.advance(TTL - Duration::from_millis(1));
    assert_eq!(bench.decide(keyed("k", "x")).await, Decision::Replayed(id));
    bench.clock.advance(Duration::from_millis(1));
    let again = bench.decide(keyed("k", "other")).await;
    assert!(matches!(again, Decision::Queued(new) if new != id), "{again:?}");
}

#[tokio::test]
async fn i3_a_key_outlives_its_time_while_its_message_is_queued() {
    let bench = Bench::new(options());
    let id = bench.decide(keyed("k", "x")).await.queue_id().unwrap();
    bench.clock.advance(TTL * 3);
    assert_eq!(bench.decide(keyed("k", "x")).await, Decision::Replayed(id));
    assert_eq!(bench.decide(keyed("k", "y")).await, Decision::DifferentBody);
}

#[tokio::test]
async fn keys_of_different_scopes_are_different_keys() {
    let bench = Bench::new(options());
    for scope in [Scope::named("a"), Scope::named("b"), Scope::anonymous(), Scope::named("")] {
        let mut one = keyed("k", scope.name().unwrap_or("anonymous"));
        one.scope = scope;
        assert!(matches!(bench.decide(one.clone()).await, Decision::Queued(_)));
        assert!(matches!(bench.decide(one).await, Decision::Replayed(_)));
    }
}

#[tokio::test]
async fn a_key_within_the_content_is_no_key_and_the_real_one_is_never_relayed() {
    let bench = Bench::new(options());
    let nested =
        "Content-Type: message/rfc822\n\nX-Idempotency-Key: inner\nSubject: s\n\nX-Idempotency-Key: body\n";
    let receipt = bench.send(submission(nested)).await;
    assert_eq!(receipt.key, None);
    let content = bench.queued()[0].content.clone();
    assert!(memchr::memmem::find(&content, b"X-Idempotency-Key: inner").is_some());

    let receipt = bench.send(keyed("secret-key", "x")).await;
    assert_eq!(receipt.key.as_deref(), Some("secret-key"));
    let relayed = bench.queued().iter().find(|message| message.key.is_some()).unwrap().content.clone();
    assert!(memchr::memmem::find(&relayed, b"secret-key").is_none());
}

#[tokio::test]
async fn the_queued_message_says_what_it_is() {
    let bench = Bench::new(options());
    let mut submission = submission("X-Idempotency-Key: k\nSubject: s\n\né\n");
    submission.envelope.body = Body::SevenBit;
    let receipt = bench.send(submission).await;
    let message = bench.queued()[0].clone();
    let id = message.id;
    assert_eq!(receipt.decision, Decision::Queued(id));
    assert_eq!(message.accepted_at, START);
    assert_eq!(message.envelope.body, Body::EightBitMime);
    assert_eq!(message.message_id, format!("<{id}@relay.example>"));
    assert_eq!(receipt.message_id, message.message_id);
    let key = ScopedKey { scope: Scope::named("shop"), kind: KeyKind::Header, key: "k".to_owned() };
    assert_eq!(message.key, Some(key));
    let expected = format!(
        "Received: from app.example ([192.0.2.1]) (authenticated as shop) by\r\n\
         \trelay.example with ESMTPSA id {id}\r\n\
         \tfor <one@dest.example>; Sun, 22 Nov 2026 10:30:00 +0000\r\n\
         Message-ID: <{id}@relay.example>\r\n\
         Date: Sun, 22 Nov 2026 10:30:00 +0000\r\n\
         Subject: s\r\n\r\né\r\n"
    );
    assert_eq!(String::from_utf8_lossy(&message.content), expected);
}

#[tokio::test]
async fn several_recipients_are_not_told_of_each_other() {
    let bench = Bench::new(options());
    let mut submission = keyed("k", "x");
    submission.envelope = envelope("shop@app.example", &["one@dest.example", "two@dest.example"]);
    bench.send(submission).await;
    let content = bench.queued()[0].content.clone();
    assert!(memchr::memmem::find(&content, b"dest.example").is_none());
}

#[tokio::test]
async fn more_than_a_hundred_received_fields_are_a_loop() {
    let bench = Bench::new(options());
    let message = |n: usize| submission(&format!("{}\n", "Received: x\n".repeat(n)));
    assert!(matches!(bench.decide(message(100)).await, Decision::Queued(_)));
    assert!(bench.reply(message(101)).await.starts_with("554 5.4.6 "));
    assert_eq!(bench.queued().len(), 1);
}

#[tokio::test]
async fn a_broken_key_is_named_even_when_the_store_is_broken() {
    let bench = Bench::new(options());
    bench.store.fail_with(Some(StoreError::Closed));
    assert_eq!(bench.decide(keyed("a\tb", "x")).await, Decision::InvalidKey(KeyFault::Characters));
}

#[tokio::test]
async fn i1_a_store_that_cannot_write_still_replays() {
    let bench = Bench::new(options());
    let id = bench.decide(keyed("k", "x")).await.queue_id().unwrap();
    for failure in [StoreError::Latched("sync".to_owned()), StoreError::LowDisk { free_bytes: 0 }] {
        bench.store.fail_with(Some(failure));
        assert_eq!(bench.decide(keyed("k", "x")).await, Decision::Replayed(id));
        assert_eq!(bench.decide(keyed("k", "y")).await, Decision::DifferentBody);
    }
}

#[tokio::test]
async fn i4_after_a_failed_commit_a_retry_is_a_first_submission() {
    let bench = Bench::new(options());
    for failure in [
        StoreError::Latched("write".to_owned()),
        StoreError::LowDisk { free_bytes: 0 },
        StoreError::Read("x".to_owned()),
        StoreError::Closed,
    ] {
        bench.store.fail_with(Some(failure));
        assert!(bench.decide(keyed("k", "other")).await.reply().is_transient());
    }
    assert!(bench.queued().is_empty());
    bench.store.fail_with(None);
    let id = bench.decide(keyed("k", "x")).await.queue_id().unwrap();
    assert_eq!(bench.decide(keyed("k", "x")).await, Decision::Replayed(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i2_many_submissions_with_one_key_create_one_message() {
    let bench = Arc::new(Bench::new(options()));
    let gate = Arc::new(Semaphore::new(0));
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let (bench, gate) = (bench.clone(), gate.clone());
            tokio::spawn(async move {
                let _open = gate.acquire().await.unwrap();
                bench.decide(keyed("k", "x")).await
            })
        })
        .collect();
    gate.add_permits(200);
    let mut first = None;
    let mut replayed = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Decision::Queued(id) => assert_eq!(first.replace(id), None),
            Decision::Replayed(id) => replayed.push(id),
            Decision::InFlight => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(replayed.iter().all(|id| Some(*id) == first));
    assert_eq!(bench.queued().len(), 1);
}

#[tokio::test]
async fn i2_a_key_in_flight_is_answered_with_451_even_after_its_connection_is_gone() {
    let (gated, bench) = Gated::bench(options());
    let intake = bench.intake.clone();
    let first = tokio::spawn(async move { intake.accept(keyed("k", "x")).await });
    gated.commit_waits().await;
    assert_eq!(bench.reply(keyed("k", "x")).await, "451 4.5.0 Idempotency in flight; retry");
    // The client goes away; the commit, and with it the claim, go on.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(bench.decide(keyed("k", "y")).await, Decision::InFlight);
    gated.gate.add_permits(1);
    let replay = settled(&bench, "k").await;
    assert_eq!(replay, Decision::Replayed(bench.queued()[0].id));
    assert_eq!(bench.queued().len(), 1);
}

#[tokio::test]
async fn i1_many_retries_of_a_known_key_at_once_are_all_replayed() {
    let (gated, bench) = Gated::bench(options());
    gated.gate.add_permits(1);
    let id = bench.decide(keyed("k", "x")).await.queue_id().unwrap();
    gated.commit_waits().await;
    // One retry is being decided about, and slowly: it is no "first submission" that the next one had to wait for.
    gated.next_lookup_waits.store(true, Ordering::SeqCst);
    let intake = bench.intake.clone();
    let slow = tokio::spawn(async move { intake.accept(keyed("k", "x")).await.decision });
    gated.commit_waits().await;
    assert_eq!(bench.decide(keyed("k", "x")).await, Decision::Replayed(id));
    assert_eq!(bench.decide(keyed("k", "y")).await, Decision::DifferentBody);
    gated.lookups.add_permits(1);
    assert_eq!(slow.await.unwrap(), Decision::Replayed(id));
}

/// The first decision on the key that is not "in flight".
async fn settled(bench: &Bench, key: &str) -> Decision {
    let decided = async || Some(bench.decide(keyed(key, "x")).await).filter(|d| *d != Decision::InFlight);
    eventually("the claim on the key ends", decided).await
}

#[tokio::test]
async fn i4_a_commit_that_panics_releases_the_claim() {
    let (gated, bench) = Gated::bench(options());
    gated.panics.store(true, Ordering::SeqCst);
    gated.gate.add_permits(1);
    assert_eq!(bench.decide(keyed("k", "x")).await, Decision::StoreFailed);
    gated.panics.store(false, Ordering::SeqCst);
    gated.gate.add_permits(1);
    assert!(matches!(bench.decide(keyed("k", "x")).await, Decision::Queued(_)));
}

#[tokio::test]
async fn i4_a_future_dropped_before_it_ran_leaves_nothing() {
    let bench = Bench::new(options());
    drop(bench.intake.accept(keyed("k", "x")));
    assert!(bench.queued().is_empty());
    assert!(matches!(bench.decide(keyed("k", "x")).await, Decision::Queued(_)));
}

#[tokio::test]
async fn i2_the_loser_between_two_nodes_is_judged_like_a_retry() {
    let (gated, bench) = Gated::bench(options());
    gated.gate.add_permits(100);
    let id = bench.decide(keyed("model", "x")).await.queue_id().unwrap();
    let key = bench.queued()[0].key.clone().unwrap();
    let record = gated.inner.find_key(&key).await.unwrap().unwrap();
    *gated.other_node.lock().unwrap() = Some(record);
    assert_eq!(bench.decide(keyed("raced", "x")).await, Decision::Replayed(id));
    assert_eq!(bench.decide(keyed("raced", "y")).await, Decision::DifferentBody);
    let mut other = keyed("raced", "x");
    other.envelope.recipients[0] = envelope("a@b", &["two@dest.example"]).recipients.remove(0);
    assert_eq!(bench.decide(other).await, Decision::DifferentEnvelope);
    assert_eq!(bench.queued().len(), 1);
}

#[tokio::test]
async fn i2_the_loser_between_two_nodes_comes_again_when_its_hashes_do_not_tell() {
    let (gated, bench) = Gated::bench(options());
    gated.gate.add_permits(100);
    bench.decide(keyed("model", "x")).await;
    let key = bench.queued()[0].key.clone().unwrap();
    let mut record = gated.inner.find_key(&key).await.unwrap().unwrap();
    record.fingerprint.mode = FingerprintMode::Exact;
    *gated.other_node.lock().unwrap() = Some(record);
    assert_eq!(bench.decide(keyed("raced", "x")).await, Decision::StoreFailed);
    assert_eq!(bench.queued().len(), 1);
}

#[tokio::test]
async fn a_record_of_unknown_rules_is_neither_replayed_nor_doubled() {
    let (gated, bench) = Gated::bench(options());
    gated.gate.add_permits(100);
    bench.decide(keyed("model", "x")).await;
    let key = bench.queued()[0].key.clone().unwrap();
    let mut record = gated.inner.find_key(&key).await.unwrap().unwrap();
    record.fingerprint.version += 1;
    *gated.other_node.lock().unwrap() = Some(record);
    assert_eq!(bench.decide(keyed("raced", "x")).await, Decision::StoreFailed);
}

#[tokio::test]
async fn i1_a_change_of_the_fingerprint_mode_keeps_old_keys_usable() {
    use FingerprintMode::{Content, Exact};
    for (before, after) in [(Content, Exact), (Exact, Content)] {
        let bench = Bench::new(Options { fingerprint: before, ..options() });
        let id = bench.decide(keyed("k", "x")).await.queue_id().unwrap();
        let options = Options { fingerprint: after, ..options() };
        let later = Bench::over(bench.store.clone(), bench.store.clone(), bench.clock.clone(), options);
        assert_eq!(later.decide(keyed("k", "x")).await, Decision::Replayed(id));
        assert_eq!(later.decide(keyed("k", "y")).await, Decision::DifferentBody);
    }
}

#[tokio::test]
async fn an_implicit_key_replays_but_never_refuses() {
    for fallback in [Fallback::MessageId, Fallback::Content] {
        let bench = Bench::new(Options { fallback, ..options() });
        let id = bench.decide(keyed("", "x")).await.queue_id().unwrap();
        let replay = bench.send(keyed("", "x")).await;
        assert_eq!((replay.decision, replay.key), (Decision::Replayed(id), None), "{fallback:?}");
        assert!(matches!(bench.decide(keyed("", "y")).await, Decision::Queued(_)), "{fallback:?}");
        let mut other = keyed("", "x");
        other.envelope = envelope("shop@app.example", &["two@dest.example"]);
        assert!(matches!(bench.decide(other).await, Decision::Queued(_)), "{fallback:?}");
        // A key of the client's own is another key.
        assert!(matches!(bench.decide(keyed("k", "x")).await, Decision::Queued(_)), "{fallback:?}");
        assert_eq!(bench.decide(keyed("", "x")).await, Decision::Replayed(id), "{fallback:?}");
        assert_eq!(bench.queued().len(), 4, "{fallback:?}");
    }
}

#[tokio::test]
async fn without_a_message_id_there_is_no_message_id_key() {
    let bench = Bench::new(Options { fallback: Fallback::MessageId, ..options() });
    for content in
        ["Subject: s\n\nx\n", "Message-ID:\nSubject: s\n\nx\n", "Message-ID: <1>\nMessage-ID: <1>\n\n"]
    {
        for _ in 0..2 {
            assert!(matches!(bench.decide(submission(content)).await, Decision::Queued(_)), "{content}");
        }
    }
    assert!(bench.queued().iter().all(|message| message.key.is_none()));
}

#[tokio::test]
async fn i2_implicit_keys_in_flight_are_answered_with_451() {
    let (gated, bench) = Gated::bench(Options { fallback: Fallback::Content, ..options() });
    let intake = bench.intake.clone();
    let first = tokio::spawn(async move { intake.accept(keyed("", "x")).await });
    gated.commit_waits().await;
    assert_eq!(bench.decide(keyed("", "x")).await, Decision::InFlight);
    gated.gate.add_permits(1);
    assert!(matches!(first.await.unwrap().decision, Decision::Queued(_)));
}

#[tokio::test]
async fn observe_counts_and_suppresses_nothing() {
    for fallback in [Fallback::MessageId, Fallback::Content] {
        let bench = Bench::new(Options { fallback, observe: true, ..options() });
        for _ in 0..3 {
            assert!(matches!(bench.decide(keyed("", "x")).await, Decision::Queued(_)), "{fallback:?}");
        }
        assert!(matches!(bench.decide(keyed("", "y")).await, Decision::Queued(_)), "{fallback:?}");
        assert_eq!((bench.queued().len(), bench.intake.observed()), (4, 2), "{fallback:?}");
        // The client's own key is not only observed.
        bench.decide(keyed("k", "x")).await;
        assert!(matches!(bench.decide(keyed("k", "x")).await, Decision::Replayed(_)));
        assert_eq!(bench.intake.observed(), 2);
    }
}

#[tokio::test]
async fn observe_lets_even_what_is_in_flight_through() {
    let (gated, bench) = Gated::bench(Options { fallback: Fallback::Content, observe: true, ..options() });
    let send = || {
        let intake = bench.intake.clone();
        tokio::spawn(async move { intake.accept(keyed("", "x")).await.decision })
    };
    let (first, second) = (send(), send());
    gated.commit_waits().await;
    gated.commit_waits().await;
    gated.gate.add_permits(2);
    assert!(matches!(first.await.unwrap(), Decision::Queued(_)));
    assert!(matches!(second.await.unwrap(), Decision::Queued(_)));
    assert_eq!(bench.intake.observed(), 1);
}

#[test]
fn s2_a_large_message_holds_up_nobody() {
    // The only blocking thread is busy: a message that is worked on there waits, and one that is not goes past it.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
    let (free, busy) = std::sync::mpsc::channel::<()>();
    runtime.spawn_blocking(move || busy.recv());
    runtime.block_on(async {
        let bench = Bench::new(options());
        let large = keyed("large", &"x".repeat(300 * 1024));
        let intake = bench.intake.clone();
        let waiting = tokio::spawn(async move { intake.accept(large).await.decision });
        tokio::task::yield_now().await;
        assert!(matches!(bench.decide(keyed("small", "x")).await, Decision::Queued(_)));
        assert!(!waiting.is_finished());
        free.send(()).unwrap();
        let id = waiting.await.unwrap().queue_id().unwrap();
        let message = bench.queued().into_iter().find(|message| message.id == id).unwrap();
        let body = [b"\r\n\r\n".as_slice(), "x".repeat(300 * 1024).as_bytes(), b"\r\n"].concat();
        assert!(message.content.ends_with(&body) && message.content.len() < body.len() + 1000);
        let retry = keyed("large", &"x".repeat(300 * 1024));
        assert_eq!(bench.decide(retry).await, Decision::Replayed(id));
    });
}

#[tokio::test]
async fn s2_forty_thousand_nested_parts_are_a_message_like_any_other() {
    let bench = Bench::new(options());
    let nested = || {
        let parts = "Content-Type: message/rfc822\n\n".repeat(40_000);
        submission(&format!("X-Idempotency-Key: deep\n{parts}"))
    };
    let id = bench.decide(nested()).await.queue_id().unwrap();
    assert_eq!(bench.decide(nested()).await, Decision::Replayed(id));
}
