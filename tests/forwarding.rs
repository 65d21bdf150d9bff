//! What goes on to the next hop beside the message: the key under a name that it knows, and the wishes of the sender that
//! it can honour.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use oncemail::mail::{Handling, KeyKind, Message, RecipientState, Scope, ScopedKey};
use oncemail::relay::options::{Options, TlsPolicy, Transport};
use tokio::sync::Semaphore;

use crate::common::far_side::{Act, FarSide, Log, Tls, say};
use crate::common::relay_rig::{
    DELIVERED, FAILED, Rig, changed, message, relay_options, replies, route, smarthost, to, to_hosts,
};

const NAME: &str = "Resend-Idempotency-Key";

fn forwarding(mut options: Options) -> Options {
    for route in &mut options.routes {
        route.forward_key_as = Some(NAME.into());
    }
    options
}

fn keyed(rig: &Rig, recipients: &[&str], key: &str) -> Message {
    let key = ScopedKey { scope: Scope::anonymous(), kind: KeyKind::Header, key: key.into() };
    Message { key: Some(key), ..message(&rig.clock, recipients, "text") }
}

/// The forwarded key of each message that was taken, with its recipients.
fn keys(log: &Log) -> Vec<(String, Vec<String>)> {
    log.taken
        .iter()
        .map(|taken| {
            let content = String::from_utf8(taken.content.clone()).unwrap();
            let first = content.lines().next().unwrap();
            let key = first.strip_prefix(NAME).and_then(|rest| rest.strip_prefix(": "));
            (key.expect("the key is the first field").to_owned(), taken.rcpts.clone())
        })
        .collect()
}

async fn far_and_rig(far: FarSide, options: impl FnOnce(SocketAddr) -> Options) -> (FarSide, Rig) {
    let rig = Rig::start(forwarding(options(far.address)));
    (far, rig)
}

#[tokio::test]
async fn the_key_stands_in_front_of_the_message_and_counts_in_its_size() {
    let (far, rig) = far_and_rig(FarSide::new().start().await, |far| to_hosts(&[far])).await;
    let id = rig.submit(keyed(&rig, &["b@x.example"], "order-1001")).await;
    assert!(rig.store.saved(id, 1).await.is_finished());
    let expected = "Resend-Idempotency-Key: order-1001\r\nSubject: test\r\n\r\ntext\r\n";
    let log = far.log();
    assert_eq!(log.wire[0], format!("{expected}.\r\n").as_bytes());
    assert_eq!(log.taken[0].mail, format!("MAIL FROM:<a@shop.example> SIZE={}", expected.len()));
    // The next message has none of its own.
    let id = rig.send(&["b@x.example"], "x").await;
    assert!(rig.store.saved(id, 1).await.is_finished());
    assert_eq!(keys(&far.log())[1].0, format!("oncemail-{id}"));
}

#[tokio::test]
async fn r1_what_is_sent_again_has_the_same_key() {
    let far = FarSide::new().on_times(2, ".", Act::Close).start().await;
    let (far, rig) = far_and_rig(far, |far| to_hosts(&[far])).await;
    let id = rig.submit(keyed(&rig, &["b@x.example"], "k")).await;
    assert!(rig.store.saved(id, 3).await.is_finished());
    let keys: Vec<_> = keys(&far.log()).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["k", "k", "k"]);
}

/// The key of each recipient, by the letter its address begins with; the same each time, if there were several.
fn by_recipient(log: &Log) -> BTreeMap<char, String> {
    let mut all = BTreeMap::new();
    for (key, rcpts) in keys(log) {
        assert_eq!(rcpts.len(), 1, "{key} stands for {rcpts:?}");
        let whom = rcpts[0].chars().nth("RCPT TO:<".len()).unwrap();
        assert_eq!(all.entry(whom).or_insert_with(|| key.clone()), &key);
    }
    all
}

#[tokio::test]
async fn other_recipients_of_one_message_never_have_its_key_in_common() {
    let far = FarSide::new().on_times(1, "RCPT TO:<b@", say("451 4.2.1 later")).start().await;
    let (far, rig) = far_and_rig(far, |far| to_hosts(&[far])).await;
    let id = rig.submit(keyed(&rig, &["a@x.example", "b@x.example", "c@x.example"], "k")).await;
    rig.store.wait(|seen| seen.saves.last().is_some_and(|(i, p)| *i == id && p.is_finished())).await;
    let keys = by_recipient(&far.log());
    let numbers: Vec<_> = keys.values().map(|key| key.split('.').next().unwrap()).collect();
    assert_eq!(numbers, ["k:0", "k:1", "k:2"]);
}

#[tokio::test]
async fn r1_a_recipient_has_the_same_key_whoever_else_is_accepted_and_whatever_a_crash_has_forgotten() {
    // a goes alone, because b is deferred, and what became of it is lost with the process. Then both would be taken.
    let far = FarSide::new().on_times(1, "RCPT TO:<b@", say("451 4.2.1 later")).start().await;
    let (far, rig) = far_and_rig(far, |far| to_hosts(&[far])).await;
    let sent = keyed(&rig, &["a@x.example", "b@x.example"], "k");
    rig.store.gate_saves(Arc::new(Semaphore::new(0)));
    rig.submit(sent.clone()).await;
    far.wait(|log| !log.taken.is_empty()).await;
    rig.running.abort();
    let rig = Rig::start(forwarding(to_hosts(&[far.address])));
    let id = rig.submit(sent).await;
    rig.store.wait(|seen| seen.saves.last().is_some_and(|(i, p)| *i == id && p.is_finished())).await;
    let log = far.log();
    assert!(log.taken.len() > 2, "a is sent twice: {log:?}");
    assert_eq!(by_recipient(&log).len(), 2);
}

#[tokio::test]
async fn parts_of_a_long_list_and_other_routes_have_keys_of_their_own() {
    let (far, other) = (FarSide::new().start().await, FarSide::new().start().await);
    let mut first = smarthost(&[far.address]);
    first.recipients_per_transaction = 2;
    let rig = Rig::start(forwarding(relay_options(vec![
        to(&["x.example"], route("x", Transport::Smtp(first))),
        route("rest", Transport::Smtp(smarthost(&[other.address]))),
    ])));
    let recipients = ["a@x.example", "b@x.example", "c@x.example", "d@y.example"];
    let id = rig.submit(keyed(&rig, &recipients, "k")).await;
    rig.store.wait(|seen| seen.saves.last().is_some_and(|(i, p)| *i == id && p.is_finished())).await;
    let mut all: Vec<_> =
        keys(&far.log()).into_iter().chain(keys(&other.log())).map(|(key, _)| key).collect();
    all.sort();
    all.dedup();
    let numbers: Vec<_> = all.iter().map(|key| key.split('.').next().unwrap()).collect();
    assert_eq!(numbers, ["k:0", "k:1", "k:2", "k:3"]);
}

#[tokio::test]
async fn no_key_can_add_a_line_or_a_second_field() {
    let (far, rig) = far_and_rig(FarSide::new().start().await, |far| to_hosts(&[far])).await;
    for key in ["a\r\nBcc: c@x.example", "a\nb", "schlüssel", &"long".repeat(64), " ", "a  b"] {
        let id = rig.submit(keyed(&rig, &["b@x.example"], key)).await;
        assert!(rig.store.saved(id, 1).await.is_finished(), "{key}");
    }
    let log = far.log();
    let keys = keys(&log);
    assert!(keys.iter().all(|(key, _)| key.starts_with("oncemail-key-") && key.len() == 45), "{keys:?}");
    let has_its_shape = |content: &[u8]| content.split(|byte| *byte == b'\n').count() == 5;
    assert!(log.taken.iter().all(|taken| has_its_shape(&taken.content)), "{log:?}");
}

#[tokio::test]
async fn a_message_with_its_key_must_fit_the_next_hop() {
    let far = FarSide::new().offers(&["PIPELINING", "SIZE 60"]).start().await;
    let (far, rig) = far_and_rig(far, |far| to_hosts(&[far])).await;
    let id = rig.submit(keyed(&rig, &["b@x.example"], "a-key-of-some-length")).await;
    let progress = rig.store.saved(id, 1).await;
    assert_eq!(progress.recipients[0].state, FAILED);
    assert!(replies(&progress)[0].contains("takes at most 60 octets, the message has 69"), "{progress:?}");
    assert_eq!(far.log().said("MAIL"), 0);
}

fn with(rig: &Rig, handling: Handling) -> Message {
    let mut message = message(&rig.clock, &["b@x.example"], "x");
    message.envelope.handling = handling;
    message
}

#[tokio::test]
async fn a_priority_goes_on_where_it_is_understood() {
    for (offered, priority, expected) in [
        (&["MT-PRIORITY MIXER"][..], 4, " MT-PRIORITY=4"),
        (&["MT-PRIORITY"], -9, " MT-PRIORITY=-9"),
        (&["MT-PRIORITY"], 0, ""),
        (&[], 4, ""),
    ] {
        let far = FarSide::new().offers(offered).start().await;
        let rig = Rig::start(to_hosts(&[far.address]));
        let id = rig.submit(with(&rig, Handling { priority, ..Handling::default() })).await;
        assert!(rig.store.saved(id, 1).await.is_finished());
        assert_eq!(far.log().taken[0].mail, format!("MAIL FROM:<a@shop.example>{expected}"));
    }
}

#[tokio::test]
async fn a_message_that_requires_tls_goes_only_where_the_same_is_promised() {
    let require_tls = Handling { require_tls: true, ..Handling::default() };
    for (kind, offered, state, words) in [
        (Tls::Upgrade, &["REQUIRETLS"][..], DELIVERED, ""),
        (Tls::Upgrade, &[], FAILED, "5.7.30 "),
        // R2: a route without TLS is our mistake, and may be mended.
        (Tls::None, &["REQUIRETLS"], RecipientState::Queued, "5.7.10 REQUIRETLS"),
    ] {
        let far = FarSide::new().tls(kind).offers(offered).start().await;
        let rig = Rig::start(changed(&[far.address], |smarthost| {
            smarthost.tls = if kind == Tls::None { TlsPolicy::None } else { TlsPolicy::Required };
            smarthost.ca_file = (kind != Tls::None).then(|| far.ca_file.clone());
        }));
        let id = rig.submit(with(&rig, require_tls)).await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!(progress.recipients[0].state, state, "{progress:?}");
        if state == RecipientState::Delivered {
            assert_eq!(far.log().taken[0].mail, "MAIL FROM:<a@shop.example> REQUIRETLS");
        } else {
            assert!(replies(&progress)[0].starts_with(words) && far.log().said("MAIL") == 0);
        }
    }
}

#[tokio::test]
async fn eight_bit_fields_of_the_content_are_announced_with_the_key_in_front() {
    let (far, rig) = far_and_rig(FarSide::new().start().await, |far| to_hosts(&[far])).await;
    let mut message = keyed(&rig, &["b@x.example"], "k");
    message.envelope.smtputf8 = true;
    message.content = Bytes::from("Subject: déjà vu\r\n\r\n.x\r\n");
    let id = rig.submit(message).await;
    assert!(rig.store.saved(id, 1).await.is_finished());
    let log = far.log();
    assert!(log.taken[0].mail.ends_with(" BODY=8BITMIME SMTPUTF8"), "{log:?}");
    assert_eq!(log.wire[0], format!("{NAME}: k\r\nSubject: déjà vu\r\n\r\n..x\r\n.\r\n").as_bytes());
}
