//! What the relay promises: every recipient ends as the far side said, in doubt is never guessed, and what is our
//! fault fails nobody's mail.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncemail::clock::Clock;
use oncemail::mail::{Address, Notify, Progress, RecipientState, Ret, ReversePath};
use oncemail::queue::{self, Jitter, Queue};
use oncemail::relay::Relay;
use oncemail::relay::options::Breaker;
use oncemail::store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::common::far_side::{Act, FarSide, PATIENCE, say};
use crate::common::relay_rig::{
    DELIVERED, FAILED, Rig, changed, dns, hurried, message, queue_options, replies, to_hosts,
};
use crate::common::watched_store::WatchedStore;

#[tokio::test]
async fn a_message_reaches_the_smarthost_as_it_was_accepted() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["b@x.example", "c@x.example"], ".dot\r\n..\r\ntext").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.is_finished() && progress.attempts == 1);
    assert_eq!(progress.recipients[1].replies[0].text, "2.0.0 taken");
    let taken = far.log().taken.remove(0);
    assert_eq!(taken.content, b"Subject: test\r\n\r\n.dot\r\n..\r\ntext\r\n");
    assert_eq!(taken.rcpts, ["RCPT TO:<b@x.example>", "RCPT TO:<c@x.example>"]);
    assert_eq!(taken.mail, "MAIL FROM:<a@shop.example> SIZE=33");
    assert_eq!((rig.queue.depth().queued, rig.queue.depth().held), (0, 0));
}

#[tokio::test]
async fn each_recipient_keeps_its_own_reply() {
    let far = FarSide::new()
        .on("RCPT TO:<bad@", say("550-5.1.1 no such\r\n550 5.1.1 user"))
        .on_times(1, "RCPT TO:<busy@", say("450 4.2.1 greylisted"))
        .start()
        .await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["good@x.example", "bad@x.example", "busy@x.example"], "x").await;
    let progress = rig.store.saved(id, 2).await;
    let states: Vec<_> = progress.recipients.iter().map(|r| (r.state, r.attempts)).collect();
    assert_eq!(states, [(RecipientState::Delivered, 1), (FAILED, 1), (RecipientState::Delivered, 2)]);
    assert_eq!(progress.recipients[1].replies[0].text, "5.1.1 no such; user");
    assert_eq!((progress.recipients[1].replies[0].code, progress.attempts), (550, 2));
    assert_eq!(progress.recipients[2].replies[0].text, "4.2.1 greylisted");
    // Who has it, is not offered it again.
    assert_eq!(far.log().said("RCPT TO:<good@"), 1);
    assert_eq!((rig.queue.depth().queued, rig.queue.depth().held), (0, 1));
}

#[tokio::test]
async fn r1_a_connection_lost_after_the_final_dot_is_in_doubt_and_sent_again() {
    let far = FarSide::new().on_times(1, ".", Act::Close).start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["b@x.example"], "doubtful").await;
    let progress = rig.store.saved(id, 2).await;
    assert!(progress.recipients[0].replies[0].text.starts_with("in doubt"), "{progress:?}");
    assert_eq!((progress.attempts, far.log().copies("doubtful")), (2, 2));
}

#[tokio::test]
async fn r1_a_far_side_that_keeps_silent_after_the_final_dot_leaves_it_in_doubt() {
    let far = FarSide::new().on_times(1, ".", Act::Silence).start().await;
    let rig = Rig::start(hurried(to_hosts(&[far.address])));
    let id = rig.send(&["b@x.example"], "silence").await;
    let progress = rig.store.saved(id, 2).await;
    assert!(replies(&progress)[0].starts_with("in doubt"), "{progress:?}");
    assert_eq!(progress.recipients[0].state, DELIVERED);
}

#[tokio::test]
async fn r1_garbage_instead_of_the_reply_to_the_final_dot_is_in_doubt() {
    for garbage in [&b"hello\r\n"[..], b"354 go on\r\n", b"250 bare\n"] {
        let far = FarSide::new().on_times(1, ".", Act::Bytes(garbage.to_vec())).start().await;
        let rig = Rig::start(to_hosts(&[far.address]));
        let id = rig.send(&["b@x.example"], "x").await;
        let progress = rig.store.saved(id, 2).await;
        assert!(replies(&progress)[0].starts_with("in doubt"), "{progress:?}");
        assert_eq!(progress.recipients[0].state, DELIVERED);
    }
}

#[tokio::test]
async fn r1_a_shutdown_waits_for_the_reply_to_the_final_dot() {
    let gate = Arc::new(Semaphore::new(0));
    let far = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["b@x.example"], "slow").await;
    far.wait(|log| log.copies("slow") == 1).await;
    rig.shutdown.cancel();
    assert!(!rig.running.is_finished() && rig.store.seen().saves.is_empty());
    gate.add_permits(1);
    let store = rig.stop().await;
    // Its outcome is saved when `run` returns, and the far side was told goodbye.
    assert_eq!(store.seen().saves.last().map(|(i, p)| (*i, p.is_finished())), Some((id, true)));
    far.wait(|log| log.open == 0 && log.said("QUIT") == 1).await;
}

#[tokio::test]
async fn r1_a_connection_that_dies_before_the_final_dot_costs_no_attempt() {
    for prefix in ["MAIL", "RCPT", "DATA"] {
        let far = FarSide::new().on_times(2, prefix, Act::Close).start().await;
        let rig = Rig::start(to_hosts(&[far.address]));
        let id = rig.send(&["b@x.example"], "x").await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!((progress.attempts, progress.recipients[0].state), (1, DELIVERED), "{prefix}");
        assert_eq!((replies(&progress).len(), far.log().connections), (1, 3), "{prefix}");
    }
}

#[tokio::test]
async fn a_far_side_that_always_closes_is_a_deferral_after_three_tries() {
    let far = FarSide::new().on_times(3, "DATA", Act::Close).start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 2).await;
    assert_eq!((progress.attempts, far.log().connections), (2, 4));
    assert!(replies(&progress)[0].contains("closed"), "{progress:?}");
}

#[tokio::test]
async fn r2_what_is_about_us_never_fails_mail() {
    let sender = "550 5.7.60 not allowed to send as this sender";
    for (prefix, reply) in [
        ("CONNECT", "554 5.7.1 you are blocked"),
        ("EHLO", "550 5.7.1 no"),
        ("MAIL", sender),
        ("MAIL", "530 5.7.0 authenticate first"),
        ("RCPT", "530 5.7.0 authenticate first"),
        ("CONNECT", "421 4.3.2 closing"),
        ("MAIL", "421 4.3.2 closing"),
        (".", "421 4.3.2 closing"),
    ] {
        let far = FarSide::new().on_times(1, prefix, Act::SayThenClose(reply.into())).start().await;
        let rig = Rig::start(to_hosts(&[far.address]));
        let id = rig.send(&["b@x.example"], "x").await;
        let progress = rig.store.saved(id, 2).await;
        let said = &progress.recipients[0].replies[0];
        assert_eq!(said.code.to_string(), reply[..3], "{prefix} {reply}: {said:?}");
        assert!(said.text.contains(&reply[4..]), "{prefix} {reply}: {said:?}");
        assert_eq!(progress.recipients[0].state, DELIVERED, "{prefix} {reply}");
    }
}

#[tokio::test]
async fn s1_a_body_cannot_end_data() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let body = "one\r\n.\r\nMAIL FROM:<evil@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n\r\nsmuggled\r\n.";
    let id = rig.send(&["b@x.example"], body).await;
    assert!(rig.store.saved(id, 1).await.is_finished());
    let log = far.log();
    assert_eq!((log.taken.len(), log.said("MAIL")), (1, 1));
    assert_eq!(log.taken[0].content, format!("Subject: test\r\n\r\n{body}\r\n").as_bytes());
}

#[tokio::test]
async fn s1_a_message_with_bare_line_ends_is_held_and_never_sent() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    for bare in ["a\n.\r\nb", "a\r.\r\nb", "a\n.\nb"] {
        let id = rig.send(&["b@x.example"], bare).await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!(progress.recipients[0].state, FAILED);
        assert!(replies(&progress)[0].starts_with("5.6.11 "), "{progress:?}");
    }
    assert_eq!((far.log().said("MAIL"), far.log().said("DATA")), (0, 0));
}

#[tokio::test]
async fn s2_garbage_ends_as_a_deferral_and_is_bounded() {
    let endless_line = vec![b'2'; 1 << 20];
    let endless_lines = b"220-more and more\r\n".repeat(100_000);
    for (prefix, garbage) in [
        ("CONNECT", endless_line.clone()),
        ("CONNECT", endless_lines.clone()),
        ("EHLO", endless_lines),
        ("MAIL", b"\x00\xff\r\n".to_vec()),
        ("RCPT", b"250 ok\n".to_vec()),
        ("DATA", endless_line),
        ("DATA", b"354 go\r\n250 too early\r\n".to_vec()),
        ("DATA", b"250 no\r\n".to_vec()),
    ] {
        // Three tries are one attempt.
        let far = FarSide::new().on_times(3, prefix, Act::Bytes(garbage)).start().await;
        let rig = Rig::start(to_hosts(&[far.address]));
        let id = rig.send(&["b@x.example"], "x").await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!(
            (progress.recipients[0].state, progress.attempts),
            (RecipientState::Queued, 1),
            "{prefix}"
        );
        assert_eq!(far.log().copies("x"), 0, "{prefix}: {progress:?}");
    }
}

#[tokio::test]
async fn silence_anywhere_is_a_deferral() {
    for prefix in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"] {
        let far = FarSide::new().on(prefix, Act::Silence).start().await;
        let rig = Rig::start(hurried(to_hosts(&[far.address])));
        let id = rig.send(&["b@x.example"], "x").await;
        let progress = rig.store.saved(id, 1).await;
        assert!(replies(&progress)[0].contains("no answer within"), "{prefix}: {progress:?}");
        assert!(progress.is_queued());
    }
}

#[tokio::test]
async fn nobody_is_sent_data_when_all_are_refused() {
    let far = FarSide::new().on("RCPT", say("550 5.1.1 no")).start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["b@x.example", "c@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.recipients.iter().all(|r| r.state == FAILED));
    assert!(far.log().wire.is_empty());
}

#[tokio::test]
async fn a_354_after_all_were_refused_gets_the_lone_dot() {
    let far = FarSide::new().on_times(2, "RCPT", say("550 5.1.1 no")).on("DATA", say("354 go")).start().await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.connections = 1));
    let id = rig.send(&["b@x.example", "c@x.example"], "never").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.recipients.iter().all(|r| r.state == FAILED));
    let next = rig.send(&["b@x.example"], "next").await;
    assert!(rig.store.saved(next, 1).await.is_finished());
    let log = far.log();
    assert_eq!((log.wire[0].as_slice(), log.copies("never"), log.connections), (&b".\r\n"[..], 0, 1));
}

#[tokio::test]
async fn refused_data_ends_as_it_was_refused() {
    for (prefix, reply, state) in [
        ("DATA", "554 5.6.0 no", FAILED),
        ("DATA", "451 4.3.0 later", DELIVERED),
        (".", "554 5.7.1 spam", FAILED),
        (".", "451 4.3.0 later", DELIVERED),
        (".", "552 5.2.2 mailbox full", DELIVERED),
    ] {
        for capabilities in [&["PIPELINING"][..], &[]] {
            let far = FarSide::new().offers(capabilities).on_times(1, prefix, say(reply)).start().await;
            let rig = Rig::start(to_hosts(&[far.address]));
            let id = rig.send(&["b@x.example"], "x").await;
            let times = if state == FAILED { 1 } else { 2 };
            let progress = rig.store.saved(id, times).await;
            assert_eq!(progress.recipients[0].state, state, "{prefix} {reply}");
            assert_eq!(replies(&progress)[0], reply[4..], "{prefix} {reply}");
        }
    }
}

#[tokio::test]
async fn a_refusal_and_a_goodbye_after_mail_is_a_refusal() {
    let far = FarSide::new().on("MAIL", Act::SayThenClose("550 5.1.8 no such domain".into())).start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    assert_eq!((progress.recipients[0].state, progress.attempts), (FAILED, 1));
}

#[tokio::test]
async fn a_message_that_the_far_side_cannot_carry_fails_without_harm() {
    let far = FarSide::new().offers(&["PIPELINING", "SIZE 1000"]).start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let large = rig.send(&["b@x.example"], &"x".repeat(2000)).await;
    let eight_bit = rig.send(&["b@x.example"], "déjà vu").await;
    let address = rig.send(&["bé@x.example"], "x").await;
    let mut with_header = message(&rig.clock, &["b@x.example"], "x");
    with_header.envelope.smtputf8 = true;
    with_header.content = Bytes::from("Subject: déjà vu\r\n\r\nx\r\n");
    let header = rig.submit(with_header).await;
    for (id, code) in [(large, "5.3.4 "), (eight_bit, "5.6.3 "), (address, "5.6.7 "), (header, "5.6.3 ")] {
        let progress = rig.store.saved(id, 1).await;
        assert_eq!(progress.recipients[0].state, FAILED);
        assert!(replies(&progress)[0].starts_with(code), "{progress:?}");
    }
    assert_eq!(far.log().said("MAIL"), 0);
}

#[tokio::test]
async fn parameters_are_used_as_the_far_side_offers() {
    let far = FarSide::new().offers(&["8BITMIME", "SMTPUTF8", "SIZE", "DSN"]).start().await;
    let plain = FarSide::new().offers(&["8BITMIME", "SMTPUTF8"]).start().await;
    for (far, mail, rcpt) in [
        (
            &far,
            "MAIL FROM:<é@shop.example> SIZE=30 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e+2B1",
            "RCPT TO:<b@x.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;b@x.example",
        ),
        (&plain, "MAIL FROM:<é@shop.example> BODY=8BITMIME SMTPUTF8", "RCPT TO:<b@x.example>"),
    ] {
        let rig = Rig::start(to_hosts(&[far.address]));
        let mut message = message(&rig.clock, &["b@x.example"], "");
        message.content = Bytes::from("Subject: é\r\n\r\n0123456789abc\r\n");
        message.envelope.reverse_path = ReversePath::Mailbox(Address::parse("é@shop.example").unwrap());
        message.envelope.ret = Some(Ret::Headers);
        message.envelope.envid = Some("e+2B1".into());
        message.envelope.recipients[0].notify = Some(Notify { success: false, failure: true, delay: true });
        message.envelope.recipients[0].orcpt = Some("rfc822;b@x.example".into());
        let id = rig.submit(message).await;
        assert!(rig.store.saved(id, 1).await.is_finished());
        let taken = far.log().taken.remove(0);
        assert_eq!((taken.mail.as_str(), taken.rcpts[0].as_str()), (mail, rcpt));
    }
}

#[tokio::test]
async fn a_long_list_goes_out_in_parts_of_which_none_is_lost() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.recipients_per_transaction = 100));
    let addresses: Vec<_> = (0..250).map(|n| format!("r{n}@x.example")).collect();
    let id = rig.send(&addresses.iter().map(String::as_str).collect::<Vec<_>>(), "list").await;
    let progress = rig.store.saved(id, 3).await;
    assert_eq!((progress.is_finished(), progress.attempts), (true, 1));
    let sizes: Vec<_> = far.log().taken.iter().map(|taken| taken.rcpts.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
}

#[tokio::test]
async fn more_recipients_than_fit_one_write_are_pipelined_in_groups() {
    let far = FarSide::new().on("RCPT TO:<r207@", say("550 5.1.1 no")).start().await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.recipients_per_transaction = 1000));
    let addresses: Vec<_> = (0..250).map(|n| format!("r{n}@x.example")).collect();
    let id = rig.send(&addresses.iter().map(String::as_str).collect::<Vec<_>>(), "list").await;
    let progress = rig.store.saved(id, 1).await;
    let failed: Vec<_> = (0..250).filter(|n| progress.recipients[*n].state != DELIVERED).collect();
    assert_eq!((failed, far.log().taken[0].rcpts.len()), (vec![207], 249));
}

#[tokio::test]
async fn r1_a_shutdown_waits_for_an_attempt_in_doubt_no_longer_than_its_grace() {
    let far = FarSide::new().on(".", Act::Silence).start().await;
    let clock = Clock::system();
    let queue = Queue::new(queue_options(), clock.clone());
    let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
    queue.start(store.clone(), Vec::new());
    let shutdown = CancellationToken::new();
    let relay = Relay::new(to_hosts(&[far.address]), dns(), queue, clock.clone()).unwrap();
    let running = tokio::spawn(relay.run(shutdown.clone(), Duration::from_millis(50)));
    store.accept(Arc::new(message(&clock, &["b@x.example"], "x")), None).await.unwrap();
    far.wait(|log| log.copies("x") == 1).await;
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    // Nothing was guessed: the store has it as queued, and the next start sends it again.
    assert!(store.seen().saves.is_empty() && store.messages()[0].1.is_queued());
}

#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_outcome_is_one_line_in_the_log() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
    // Everything runs on this thread.
    let _logging = tracing::subscriber::set_default(subscriber);
    let far =
        FarSide::new().on("RCPT TO:<bad@", say("550 5.1.1 no")).on_times(1, ".", Act::Close).start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["good@x.example", "bad@x.example"], "secret content").await;
    rig.store.saved(id, 2).await;
    rig.stop().await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains("secret content"));
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = events
        .iter()
        .filter(|event| event["message"] == "delivery" && event["queue_id"] == id.to_string())
        .map(|event| {
            [&event["recipient"], &event["outcome"], &event["attempts"], &event["in_doubt"]]
                .map(ToString::to_string)
        })
        .collect();
    let good = "\"good@x.example\"";
    assert_eq!(told[0], [good, "\"deferred\"", "1", "true"]);
    assert_eq!(told[1], ["\"bad@x.example\"", "\"held\"", "1", "null"]);
    assert_eq!((told.len(), &told[2]), (3, &[good, "\"delivered\"", "2", "null"].map(str::to_owned)));
    let last = events.iter().rfind(|event| event["outcome"] == "delivered").unwrap();
    assert_eq!((last["route"].as_str(), last["reply"].as_str()), (Some("hosts"), Some("250 2.0.0 taken")));
    assert_eq!(last["host"], far.address.to_string());
}

#[tokio::test]
async fn what_expires_behind_a_breaker_is_one_line_in_the_log_and_nothing_is_told_twice() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let far = FarSide::new()
        .on("RCPT TO:<bad@", say("550 5.1.1 no"))
        .on("RCPT TO:<busy@", say("451 4.3.0 later"))
        .on_times(1, "MAIL", say("250 2.1.0 ok"))
        .on("MAIL", say("421 4.3.2 closing"))
        .start()
        .await;
    let mut options = to_hosts(&[far.address]);
    options.breaker = Breaker { failures: 1, open_for: Duration::from_millis(400), ..Breaker::default() };
    let clock = Clock::manual(Clock::system().now());
    let wait = Duration::from_millis(100);
    let queue_options = queue::Options { base: wait, cap: wait, jitter: Jitter::None, ..queue_options() };
    let queue = Queue::new(queue_options, clock.clone());
    let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
    let rig = Rig::run(options, queue, store, clock.clone(), Vec::new());
    let id = rig.send(&["bad@x.example", "busy@x.example"], "x").await;
    rig.store.saved(id, 1).await;
    // Another message opens the breaker; the first comes back, finds it open, and its time is up.
    rig.send(&["b@x.example"], "x").await;
    clock.advance(Duration::from_secs(6 * 86_400));
    let expired = |p: &Progress| p.recipients.iter().all(|r| matches!(r.state, RecipientState::Held(_)));
    rig.store.wait(|seen| seen.saves.iter().any(|(i, p)| *i == id && expired(p))).await;
    rig.stop().await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let held = |recipient: &str| {
        let events = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events.filter(|e| e["recipient"] == recipient && e["outcome"] == "held").count()
    };
    assert_eq!((held("bad@x.example"), held("busy@x.example")), (1, 1), "{text}");
}

#[tokio::test]
async fn a_421_amid_pipelined_commands_is_believed_at_once() {
    for (prefix, act) in [
        ("RCPT TO:<b@", Act::SayThenClose("421 4.7.0 too many".into())),
        ("RCPT TO:<b@", say("421 4.7.0 too many")),
        ("MAIL", say("421 4.7.0 too many")),
        ("DATA", Act::SayThenClose("421 4.7.0 too many".into())),
    ] {
        let far = FarSide::new().on(prefix, act).on("RCPT TO:<c@", Act::Silence).start().await;
        let hour = Duration::from_secs(3600);
        let rig = Rig::start_with(
            to_hosts(&[far.address]),
            queue::Options { base: hour, cap: hour, ..queue_options() },
        );
        let recipients = ["a@x.example", "b@x.example", "c@x.example"];
        let sent = if prefix == "DATA" { &recipients[..2] } else { &recipients[..] };
        let id = rig.send(sent, "x").await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!((progress.attempts, far.log().connections), (1, 1), "{prefix}");
        assert!(replies(&progress)[0].contains("4.7.0 too many"), "{prefix}: {progress:?}");
    }
}

#[tokio::test]
async fn a_recipient_that_needs_smtputf8_does_not_take_the_others_with_it() {
    let far = FarSide::new().offers(&["PIPELINING"]).on("RCPT TO:<bad@", say("550 5.1.1 no")).start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["a@x.example", "bé@x.example", "bad@x.example", "d@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    let states: Vec<_> = progress.recipients.iter().map(|r| r.state).collect();
    assert_eq!(states, [DELIVERED, FAILED, FAILED, DELIVERED]);
    assert!(progress.recipients[1].replies[0].text.starts_with("5.6.7 "), "{progress:?}");
    assert!(progress.recipients[2].replies[0].text.starts_with("5.1.1 "), "{progress:?}");
    assert_eq!(far.log().taken[0].rcpts, ["RCPT TO:<a@x.example>", "RCPT TO:<d@x.example>"]);
}

#[tokio::test]
async fn a_data_that_was_not_understood_fails_nobodys_mail() {
    let far = FarSide::new().on_times(1, "DATA", say("503 5.5.1 bad sequence")).start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["b@x.example"], "x").await;
    assert_eq!(rig.store.saved(id, 2).await.recipients[0].state, DELIVERED);
}
