//! What the relay promises of far sides that are broken or mean it ill: each ends as a deferral or a failure whose text
//! names the cause, in bounded time and memory, and none makes it believe that a message was taken.

use std::time::Duration;

use bytes::Bytes;
use oncemail::mail::{AttemptReply, Progress, RecipientState};
use oncemail::relay::options::{Auth, Options, Secret, TlsPolicy};

use crate::common::certificates::{Authority, Presented};
use crate::common::far_side::{Act, FarSide, FarSideBuilder, Log, Tls, say};
use crate::common::relay_rig::{
    DELIVERED, FAILED, Rig, changed, hurried, message, named, patient, replies, to_hosts,
};

/// More than both sides' buffers hold.
const LARGE: usize = 12 << 20;
const GIGABYTE: u64 = 1 << 30;
/// What the system takes of a flood on one connection although nobody reads it: the buffers of both sides, 4 and 6 MiB at
/// most on Linux (tcp_wmem, tcp_rmem).
const BUFFERS: u64 = 12 << 20;
/// Nobody is asked more often in one attempt.
const MAX_CONNECTIONS: usize = 3;

/// The end of one attempt at this far side, and what the far side saw of it. However it ends, it took few connections, read
/// no more than a reply may have, and kept no more than the record has room for.
async fn attempt(far: FarSideBuilder, text: &str) -> (Progress, Log) {
    attempt_with(far, text, |far| hurried(to_hosts(&[far.address]))).await
}

async fn attempt_with(
    far: FarSideBuilder,
    text: &str,
    options: impl FnOnce(&FarSide) -> Options,
) -> (Progress, Log) {
    let far = far.start_narrow();
    let rig = Rig::start_with(options(&far), patient());
    let id = rig.send(&["b@x.example"], text).await;
    let progress = rig.store.saved(id, 1).await;
    // Nobody is listened to any longer than that.
    let log = far.wait(|log| log.open == 0).await;
    assert!((1..=MAX_CONNECTIONS).contains(&log.connections), "{} connections", log.connections);
    assert!(log.flooded <= log.connections as u64 * BUFFERS, "{} octets were taken", log.flooded);
    let replies = replies(&progress);
    assert!(replies.len() == 1 && replies[0].len() <= AttemptReply::MAX_TEXT, "{replies:?}");
    assert_eq!(progress.attempts, 1);
    (progress, log)
}

/// Where a far side may misbehave before the message.
const STEPS: [&str; 7] = ["CONNECT", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA"];

/// A far side that does `act` at this step must lead to a deferral with a text that has `cause` in it.
async fn is_deferred_at(step: &str, capabilities: &[&'static str], act: Act, cause: &str, about: &str) {
    let mut offered = capabilities.to_vec();
    offered.extend((step == "AUTH").then_some("AUTH PLAIN"));
    let tls = if step == "STARTTLS" { Tls::Upgrade } else { Tls::None };
    // One ClientHello in hundreds holds the end of a line, and would be answered as one.
    let far = FarSide::new().offers(&offered).tls(tls).on(step, act).on("\u{16}", Act::Silence);
    let options = |far: &FarSide| {
        hurried(changed(&[far.address], |smarthost| {
            if step == "STARTTLS" {
                (smarthost.tls, smarthost.ca_file) = (TlsPolicy::Required, Some(far.ca_file.clone()));
            }
            let with = Secret::Password("s".to_owned().into());
            smarthost.auth = (step == "AUTH").then(|| Auth { username: "u".into(), with });
        }))
    };
    is_deferral(&attempt_with(far, "x", options).await, cause, &format!("{step} {about}"));
}

/// It must be deferred with a text that has `cause` in it, and not have gone out.
async fn is_deferred(far: FarSideBuilder, cause: &str, about: &str) {
    is_deferral(&attempt(far, "x").await, cause, about);
}

fn is_deferral((progress, log): &(Progress, Log), cause: &str, about: &str) {
    assert_eq!(progress.recipients[0].state, RecipientState::Queued, "{about}: {progress:?}");
    assert!(log.taken.is_empty(), "{about}: {:?}", log.taken);
    assert!(replies(progress)[0].contains(cause), "{about}: {progress:?}");
}

#[tokio::test]
async fn s2_a_gigabyte_of_reply_is_read_no_further_than_it_is_a_reply() {
    let long_line = Box::leak(format!("220-{}\r\n", "x".repeat(4000)).into_boxed_str());
    for step in STEPS {
        for (text, cause) in [
            ("220-welcome, and more\r\n", "a reply of more than 100 lines"),
            ("220 welcome and more ", "a reply line longer than 4096 octets"),
            (&*long_line, "a reply of more than 65536 octets"),
            ("\x00", "a reply line longer than 4096 octets"),
        ] {
            let flood = Act::Flood(text, GIGABYTE);
            is_deferred_at(step, &["PIPELINING"], flood, cause, &text[..20.min(text.len())]).await;
        }
    }
}

#[tokio::test]
async fn r1_s2_a_gigabyte_of_reply_to_the_final_dot_is_in_doubt() {
    let (progress, _) = attempt(FarSide::new().on(".", Act::Flood("250-taken\r\n", GIGABYTE)), "x").await;
    assert_eq!(progress.recipients[0].state, RecipientState::Queued);
    let said = &replies(&progress)[0];
    assert!(said.starts_with("in doubt") && said.contains("more than 100 lines"), "{said}");
}

#[tokio::test]
async fn half_a_line_for_ever_is_silence() {
    for step in STEPS {
        for half in ["220 half a li", "250-one\r\n250", "2", "354 go ahead\r"] {
            // Without pipelining, so that no other reply completes it.
            is_deferred_at(step, &[], Act::Bytes(half.into()), "no answer within 0.15 s", half).await;
        }
    }
}

#[tokio::test]
async fn a_reply_has_its_time_as_a_whole_however_often_an_octet_comes() {
    for step in STEPS {
        let act = Act::Trickle("250-slowly\r\n", Duration::from_millis(4));
        is_deferred_at(step, &["PIPELINING"], act, "no answer within 0.15 s", "").await;
    }
    // Nor has a handshake that never comes more of it.
    let act = say("220 2.0.0 go ahead, and I go on reading lines");
    is_deferred_at("STARTTLS", &[], act, ": no answer in time", "no handshake").await;
}

#[tokio::test]
async fn what_is_no_reply_is_named_as_that() {
    for step in STEPS {
        for (garbage, cause) in [
            ("HTTP/1.1 400 Bad Request\r\n", "something that is no SMTP reply"),
            ("2 50 ok\r\n", "something that is no SMTP reply"),
            ("25O ok\r\n", "something that is no SMTP reply"),
            ("999 ok\r\n", "something that is no SMTP reply"),
            ("\x00250 ok\r\n", "something that is no SMTP reply"),
            ("\r\n", "something that is no SMTP reply"),
            ("250 ok\n", "a bare CR or LF"),
            ("250 ok\r250 ok\r\n", "a bare CR or LF"),
            ("250-one\r\n251 two\r\n", "different codes"),
        ] {
            is_deferred_at(step, &["PIPELINING"], Act::Bytes(garbage.into()), cause, garbage).await;
        }
    }
}

#[tokio::test]
async fn a_far_side_that_says_250_to_everything_has_taken_nothing() {
    let yes = || say("250 2.0.0 ok");
    is_deferred(FarSide::new().on("CONNECT", yes()), "2.0.0 ok (in reply to greeting)", "greeting").await;
    is_deferred(FarSide::new().on("DATA", yes()), "2.0.0 ok (in reply to DATA)", "DATA").await;
    let and_closes = || Act::SayThenClose("250 2.0.0 ok".into());
    for step in ["EHLO", "MAIL", "RCPT"] {
        is_deferred(FarSide::new().on(step, and_closes()), "closed the connection", step).await;
    }
    is_deferred(FarSide::new().on("DATA", and_closes()), "2.0.0 ok (in reply to DATA)", "DATA, closing")
        .await;
    // Before the final dot has come.
    let far = FarSide::new().offers(&["PIPELINING"]).on("CONTENT", and_closes());
    is_deferral(&attempt(far, &"x".repeat(LARGE)).await, "sending the message: ", "CONTENT");
    // And after it, which is as good as any other reply to it.
    let (progress, log) = attempt(FarSide::new().on(".", and_closes()), "x").await;
    assert_eq!((progress.recipients[0].state, log.taken.len(), log.connections), (DELIVERED, 1, 1));
}

#[tokio::test]
async fn a_wrong_certificate_is_asked_for_once_and_told_in_a_sentence() {
    for (tls, policy) in [(Tls::Upgrade, TlsPolicy::Required), (Tls::Implicit, TlsPolicy::Implicit)] {
        for (presented, cause) in [
            (Presented::self_signed(&["127.0.0.1"]), "the certificate is self-signed"),
            (Presented::self_signed(&["other.example"]), "the certificate is "),
            (Authority::new("stranger").signs(&["127.0.0.1"]), "an authority that is not trusted"),
        ] {
            let far = FarSide::new().tls(tls).presents(presented.server());
            let options = |far: &FarSide| changed(&[far.address], |smarthost| smarthost.tls = policy);
            let ended = attempt_with(far, "x", options).await;
            is_deferral(&ended, cause, cause);
            assert_eq!((ended.1.connections, ended.1.said("MAIL")), (1, 0), "{cause}");
        }
    }
}

#[tokio::test]
async fn replies_out_of_turn_are_noticed_before_they_are_taken_for_others() {
    for capabilities in [&["PIPELINING"][..], &[]] {
        for (step, replies) in [
            ("CONNECT", "220 one\r\n220 two\r\n"),
            ("EHLO", "250-far\r\n250 PIPELINING\r\n250 and again\r\n"),
            ("MAIL", "250 mail\r\n250 rcpt\r\n354 data\r\n250 taken\r\n"),
            ("RCPT", "250 rcpt\r\n354 data\r\n250 taken\r\n"),
            ("DATA", "354 go\r\n250 taken\r\n"),
        ] {
            let far = FarSide::new().offers(capabilities).on(step, Act::Bytes(replies.into()));
            is_deferred(far, "that was not asked for", &format!("{step} {capabilities:?}")).await;
        }
    }
    // A 354 where a 250 should be, and the other way round.
    for (step, early) in [("MAIL", "354 go"), ("RCPT", "354 go"), ("DATA", "220 go")] {
        is_deferred(FarSide::new().on(step, say(early)), &format!("(in reply to {step})"), step).await;
    }
}

#[tokio::test]
async fn a_second_reply_to_the_final_dot_is_not_the_reply_to_the_next_message() {
    let twice = Act::Bytes(b"250 2.0.0 taken\r\n550 5.1.1 not taken\r\n".to_vec());
    let far = FarSide::new().on_times(1, ".", twice).start().await;
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.connections = 1));
    for text in ["first", "second"] {
        let id = rig.send(&["b@x.example"], text).await;
        assert_eq!(rig.store.saved(id, 1).await.recipients[0].state, DELIVERED, "{text}");
    }
    assert_eq!(far.log().connections, 2);
}

#[tokio::test]
async fn replies_that_come_octet_by_octet_are_replies() {
    for tls in [Tls::None, Tls::Upgrade] {
        let far = FarSide::new().tls(tls).splits_replies().start().await;
        let rig = Rig::start(changed(&[far.address], |smarthost| {
            smarthost.tls = if tls == Tls::None { TlsPolicy::None } else { TlsPolicy::Required };
            smarthost.ca_file = (tls != Tls::None).then(|| far.ca_file.clone());
        }));
        let id = rig.send(&["b@x.example"], "x").await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!(
            (progress.recipients[0].state, replies(&progress)),
            (DELIVERED, vec!["2.0.0 taken".into()])
        );
    }
}

#[tokio::test]
async fn what_a_terminal_would_obey_is_not_kept_of_a_reply() {
    let rude = Act::Bytes(b"550 5.1.1 caf\xe9 \x1b[31m\x00\x07 na\xc3\xafve\t!\r\n".to_vec());
    let far = FarSide::new().on("RCPT", rude).start().await;
    let rig = Rig::start(to_hosts(&[far.address]));
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    assert_eq!(progress.recipients[0].state, FAILED);
    assert_eq!(replies(&progress), ["5.1.1 caf\u{fffd} ?[31m?? naïve !"]);
}

#[tokio::test]
async fn only_what_is_offered_inside_tls_counts() {
    let tls = |far: &FarSide, auth: bool| {
        changed(&[far.address], |smarthost| {
            smarthost.tls = TlsPolicy::Required;
            smarthost.ca_file = Some(far.ca_file.clone());
            smarthost.hosts = named("localhost", far.address);
            let with = Secret::Password("s".to_owned().into());
            smarthost.auth = auth.then(|| Auth { username: "u".into(), with });
        })
    };
    let offered = ["PIPELINING", "8BITMIME", "SIZE 100", "AUTH PLAIN LOGIN"];
    let far = FarSide::new().tls(Tls::Upgrade).offers(&offered).offers_in_tls(&["SIZE"]).start().await;
    let rig = Rig::start_with(tls(&far, true), patient());
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.is_queued() && replies(&progress)[0].starts_with("AUTH: "), "{progress:?}");

    let rig = Rig::start_with(tls(&far, false), patient());
    let mut eight_bit = message(&rig.clock, &["b@x.example"], "");
    eight_bit.content = Bytes::from("Subject: x\r\n\r\ncafé\r\n");
    let id = rig.submit(eight_bit).await;
    let progress = rig.store.saved(id, 1).await;
    assert!(
        progress.recipients[0].state == FAILED && replies(&progress)[0].starts_with("5.6.3 "),
        "{progress:?}"
    );
    // No limit of 100 octets, and no pipelining.
    let id = rig.send(&["b@x.example"], &"x".repeat(200)).await;
    assert_eq!(rig.store.saved(id, 1).await.recipients[0].state, DELIVERED);
}
