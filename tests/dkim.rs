//! What is promised about DKIM on the wire. Whether a signature is right is asked of mail-auth beside the code, and of
//! dkimpy in `tests/clients/`.

use bytes::Bytes;
use oncemail::mail::Message;
use oncemail::queue::{self, OnFailure};
use oncemail::relay::Relay;
use oncemail::relay::options::{DkimKey, Options};

use crate::common::far_side::{FarSide, say};
use crate::common::relay_rig::{Rig, dns, message, queue_options, to_hosts};

const RSA: &str = include_str!("fixtures/dkim/rsa.pem");
const ED25519: &str = include_str!("fixtures/dkim/ed25519.pem");

const CONTENT: &str = "Received: from c\r\nFrom: Shop <a@shop.example>\r\nTo: b@c.example\r\nSubject: gr\u{fc}n\r\n\
                       \r\n.\r\n..dots\r\nspace at the end \r\n \r\n\r\n";

fn key(selector: &str, pem: &str) -> DkimKey {
    let key = zeroize::Zeroizing::new(pem.as_bytes().to_vec());
    DkimKey { domain: "shop.example".into(), selector: selector.into(), key }
}

fn signing(far: &FarSide) -> Options {
    Options { dkim: vec![key("rsa", RSA), key("ed", ED25519)], ..to_hosts(&[far.address]) }
}

fn mail(rig: &Rig, content: &str) -> Message {
    let content = Bytes::copy_from_slice(content.as_bytes());
    Message { content, ..message(&rig.clock, &["b@c.example"], "") }
}

/// What came over the wire without the final dot and the dots in front of dots.
fn unstuffed(wire: &[u8]) -> String {
    let text = String::from_utf8(wire.to_vec()).unwrap();
    let text = text.strip_suffix(".\r\n").unwrap();
    text.split_inclusive("\r\n").map(|line| line.strip_prefix('.').unwrap_or(line)).collect()
}

#[tokio::test]
async fn signatures_go_in_front_and_every_attempt_sends_the_same_octets() {
    let far = FarSide::new().on_times(1, ".", say("451 4.3.0 later")).start().await;
    let rig = Rig::start(signing(&far));
    rig.submit(mail(&rig, CONTENT)).await;
    let log = far.wait(|log| log.taken.len() == 1).await;
    let [first, second] = log.wire.as_slice() else { panic!("{log:?}") };
    assert_eq!(first, second);
    let whole = unstuffed(second);
    let fields = whole.strip_suffix(CONTENT).unwrap();
    let starts: Vec<_> = fields.lines().filter(|line| !line.starts_with('\t')).collect();
    assert_eq!(
        starts,
        [
            "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;",
            "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;"
        ]
    );
}

#[tokio::test]
async fn a_message_of_a_domain_without_a_key_goes_as_it_is() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(signing(&far));
    let mut message = mail(&rig, "From: a@other.example\r\n\r\nx\r\n");
    message.envelope.reverse_path = oncemail::mail::ReversePath::Null;
    rig.submit(message).await;
    let log = far.wait(|log| log.taken.len() == 1).await;
    assert_eq!(unstuffed(&log.wire[0]), "From: a@other.example\r\n\r\nx\r\n");
}

#[tokio::test]
async fn a_key_that_cannot_be_used_stops_the_start_with_its_name() {
    let far = FarSide::new().start().await;
    let options = Options { dkim: vec![key("s1", "no key")], ..to_hosts(&[far.address]) };
    let clock = oncemail::clock::Clock::system();
    let queue = queue::Queue::new(queue_options(), clock.clone());
    let problem = Relay::new(options, dns(), queue, clock).err().unwrap();
    assert_eq!(
        problem.to_string(),
        "dkim: the key s1 of shop.example is no private key in PEM (PKCS#8, or PKCS#1 for RSA)"
    );
}

#[tokio::test]
async fn a_forwarded_key_stands_above_the_signature_which_does_not_cover_it() {
    let (with, without) = (FarSide::new().start().await, FarSide::new().start().await);
    let mut options = signing(&with);
    options.routes[0].forward_key_as = Some("Resend-Idempotency-Key".into());
    let rig = Rig::start(options);
    let message = mail(&rig, CONTENT);
    let id = rig.submit(message.clone()).await;
    let log = with.wait(|log| log.taken.len() == 1).await;
    let whole = unstuffed(&log.wire[0]);
    let signed = whole.strip_prefix(&format!("Resend-Idempotency-Key: oncemail-{id}\r\n")).unwrap();
    Rig::start(signing(&without)).submit(message).await;
    let log = without.wait(|log| log.taken.len() == 1).await;
    assert_eq!(unstuffed(&log.wire[0]), signed);
}

#[tokio::test]
async fn a_bounce_is_signed_with_the_key_of_our_own_name() {
    let far = FarSide::new().on("RCPT TO:<b@", say("550 5.1.1 unknown")).start().await;
    let mut options = signing(&far);
    options.dkim.push(DkimKey { domain: "relay.example".into(), ..key("own", ED25519) });
    let hostname = "relay.example".to_owned();
    let told = queue::Options { on_failure: OnFailure::Bounce, hostname, ..queue_options() };
    let rig = Rig::start_with(options, told);
    rig.submit(mail(&rig, CONTENT)).await;
    let log = far.wait(|log| log.taken.len() == 1).await;
    assert!(log.taken[0].mail.starts_with("MAIL FROM:<>"), "{log:?}");
    let bounce = unstuffed(log.wire.last().unwrap());
    assert!(bounce.starts_with("DKIM-Signature: v=1; a=ed25519-sha256;"), "{bounce}");
    assert_eq!(bounce.matches("\td=relay.example; s=own;").count(), 1, "{bounce}");
}

#[tokio::test]
async fn mail_that_waits_is_signed_with_the_keys_of_the_attempt() {
    let (busy, far) = (FarSide::new().on(".", say("451 4.3.0 later")), FarSide::new());
    let (busy, far) = (busy.start().await, far.start().await);
    let rig = Rig::start(Options { dkim: vec![key("old", RSA)], ..signing(&busy) });
    let id = rig.submit(mail(&rig, CONTENT)).await;
    rig.store.saved(id, 1).await;
    let store = rig.stop().await;
    let options = Options { dkim: vec![key("new", ED25519)], ..signing(&far) };
    let _rig = Rig::restart(options, queue_options(), store);
    let log = far.wait(|log| log.taken.len() == 1).await;
    for (wire, selector) in [(&busy.log().wire[0], "old"), (&log.wire[0], "new")] {
        let text = unstuffed(wire);
        assert!(text.contains(&format!("\td=shop.example; s={selector};")), "{text}");
        assert!(text.ends_with(CONTENT));
    }
}
