//! Every record comes back as it was written, and no bytes whatever make reading panic.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::mail::{
    Address, AttemptReply, Body, Envelope, Handling, HoldCause, KeyKind, Message, Notify, Origin, Progress,
    Recipient, RecipientProgress, RecipientState, Ret, ReversePath, Scope, ScopedKey,
};
use crate::store::KeyClaim;
use crate::store::record::Kind;

fn address() -> impl Strategy<Value = Address> {
    "[a-z\u{e9}]{1,20}@[a-z]{1,10}\\.example".prop_map(|text| Address::parse(&text).unwrap())
}

fn recipient() -> impl Strategy<Value = Recipient> {
    let notify = prop::option::of(any::<(bool, bool, bool)>());
    let parts = (address(), notify, prop::option::of("rfc822;[a-z]{0,20}"), any::<bool>());
    parts.prop_map(|(forward_path, notify, orcpt, unverified)| {
        let notify = notify.map(|(success, failure, delay)| Notify { success, failure, delay });
        Recipient { forward_path, notify, orcpt, unverified }
    })
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let recipients = prop::collection::vec(recipient(), 1..5);
    let ret = prop_oneof![Just(None), Just(Some(Ret::Full)), Just(Some(Ret::Headers))];
    let parts =
        (prop::option::of(address()), recipients, any::<(bool, bool)>(), ret, prop::option::of(".{0,30}"));
    let handling = any::<(bool, i8, Option<u64>)>().prop_map(|(require_tls, priority, release)| Handling {
        require_tls,
        priority,
        release_at: release.map(Timestamp::from_millis),
    });
    (parts, handling).prop_map(|((reverse, recipients, (eight, smtputf8), ret, envid), handling)| Envelope {
        reverse_path: reverse.map_or(ReversePath::Null, ReversePath::Mailbox),
        recipients,
        body: if eight { Body::EightBitMime } else { Body::SevenBit },
        smtputf8,
        ret,
        envid,
        handling,
    })
}

fn fingerprint() -> impl Strategy<Value = Fingerprint> {
    let mode = prop_oneof![Just(FingerprintMode::Content), Just(FingerprintMode::Exact)];
    (any::<u8>(), mode, any::<([u8; 32], [u8; 32])>())
        .prop_map(|(version, mode, (envelope, content))| Fingerprint { version, mode, envelope, content })
}

fn key() -> impl Strategy<Value = (ScopedKey, KeyClaim)> {
    let kind = prop_oneof![Just(KeyKind::Header), Just(KeyKind::MessageId), Just(KeyKind::Content)];
    (prop::option::of(".{0,20}"), kind, ".{0,256}", fingerprint(), any::<u64>()).prop_map(
        |(scope, kind, key, fingerprint, expires)| {
            let scope = scope.map_or(Scope::anonymous(), Scope::named);
            let claim = KeyClaim { fingerprint, expires_at: Timestamp::from_millis(expires) };
            (ScopedKey { scope, kind, key }, claim)
        },
    )
}

fn message() -> impl Strategy<Value = (Message, Option<KeyClaim>)> {
    let origin = (".{0,20}", prop::option::of(".{0,20}"), any::<Option<std::net::IpAddr>>())
        .prop_map(|(listener, user, client)| Origin { listener, user, client });
    let content = prop::collection::vec(any::<u8>(), 0..300);
    let parts =
        (any::<[u8; 16]>(), any::<u64>(), envelope(), origin, prop::option::of(key()), ".{0,40}", content);
    parts.prop_map(|(id, at, envelope, origin, key, message_id, content)| {
        let (key, claim) = key.unzip();
        let message = Message {
            id: QueueId::from_bytes(id),
            accepted_at: Timestamp::from_millis(at),
            envelope,
            origin,
            key,
            message_id,
            content: Bytes::from(content),
        };
        (message, claim)
    })
}

fn progress() -> impl Strategy<Value = Progress> {
    let reply = (any::<(u64, u16, u32)>(), ".{0,10}", ".{0,10}", ".{0,50}", ".{0,9}").prop_map(
        |((at, code, times), route, host, text, tls)| AttemptReply {
            at: Timestamp::from_millis(at),
            route,
            host,
            code,
            text,
            times: times >> 1,
            tls,
        },
    );
    let state = prop::sample::select(vec![
        RecipientState::Queued,
        RecipientState::Delivered,
        RecipientState::Bounced,
        RecipientState::Discarded,
        RecipientState::Held(HoldCause::Failed),
        RecipientState::Held(HoldCause::Expired),
        RecipientState::Held(HoldCause::InDoubt),
        RecipientState::Held(HoldCause::Operator),
    ]);
    let recipient = (state, any::<u32>(), prop::collection::vec(reply, 0..4))
        .prop_map(|(state, attempts, replies)| RecipientProgress { state, attempts, replies });
    (any::<(u32, u64, bool, Option<u64>)>(), prop::collection::vec(recipient, 0..5)).prop_map(
        |((attempts, next, warned, released), recipients)| Progress {
            warned,
            attempts,
            next_attempt: Timestamp::from_millis(next),
            released_at: released.map(Timestamp::from_millis),
            recipients,
        },
    )
}

/// Whether a body can be read.
type IsRead<'a> = &'a dyn Fn(&[u8]) -> bool;

proptest! {
    #[test]
    fn an_accepted_record_comes_back_as_it_was((message, claim) in message()) {
        let mut body = encode_accepted(Vec::new(), &message, claim.as_ref());
        let head = decode_accepted_head(&mut Reader(&body)).unwrap();
        prop_assert_eq!(head.id, message.id);
        prop_assert_eq!(head.key.map(|(key, record)| (key, record.expires_at)),
            message.key.clone().zip(claim.as_ref().map(|c| c.expires_at)));
        body.extend_from_slice(&message.content);
        prop_assert_eq!(decode_accepted(&Bytes::from(body)).unwrap(), (message, claim));
    }

    #[test]
    fn what_a_replay_reads_of_a_message_is_what_it_says((message, claim) in message()) {
        let body = encode_accepted(Vec::new(), &message, claim.as_ref());
        let mut reader = Reader(&body);
        decode_accepted_head(&mut reader).unwrap();
        prop_assert_eq!(decode_handling(&mut reader).unwrap(), message.envelope.handling);
    }

    #[test]
    fn a_notice_comes_back_as_a_message_without_a_key((message, _) in message(), original in any::<[u8; 16]>()) {
        let original = QueueId::from_bytes(original);
        let mut body = encode_notice(Vec::new(), original, &message);
        prop_assert_eq!(decode_notice_head(&mut Reader(&body)).unwrap(), original);
        body.extend_from_slice(&message.content);
        let body = accepted_body(Kind::Notice, Bytes::from(body)).unwrap();
        prop_assert_eq!(decode_accepted(&body).unwrap(), (Message { key: None, ..message }, None));
    }

    #[test]
    fn an_attempted_record_comes_back_as_it_was(
        progress in progress(), id in any::<[u8; 16]>(), notices in 0..3u32,
    ) {
        let id = QueueId::from_bytes(id);
        let body = encode_attempted(Vec::new(), id, &progress, notices);
        let head = decode_attempted_head(&mut Reader(&body)).unwrap();
        prop_assert_eq!((head.id, head.queued), (id, progress.is_queued()));
        prop_assert_eq!((head.next_attempt, head.notices), (progress.next_attempt, notices));
        let copy = without_notices(&body).unwrap();
        prop_assert_eq!(&copy, &encode_attempted(Vec::new(), id, &progress, 0));
        prop_assert_eq!(decode_attempted(&body).unwrap(), (id, progress.clone()));
        prop_assert_eq!(decode_attempted(&copy).unwrap(), (id, progress));
        let body = encode_finished(Vec::new(), id, notices);
        prop_assert_eq!(decode_finished(&mut Reader(&body)).unwrap(), (id, notices));
    }

    #[test]
    fn a_key_record_comes_back_as_it_was(fingerprint in fingerprint(), times in any::<(u64, u64)>()) {
        let record = KeyRecord {
            id: QueueId::from_bytes([7; 16]),
            fingerprint,
            accepted_at: Timestamp::from_millis(times.0),
            expires_at: Timestamp::from_millis(times.1),
        };
        let mut writer = Writer(Vec::new());
        writer.key_record(&record);
        prop_assert_eq!(writer.0.len(), KEY_VALUE_LEN);
        prop_assert_eq!(Reader(&writer.0).key_record().unwrap(), record);
    }

    #[test]
    fn d4_no_body_that_is_cut_short_or_goes_on_is_read_as_another(
        (message, claim) in message(), progress in progress(), at in any::<prop::sample::Index>(), more in any::<u8>(),
    ) {
        let mut accepted = encode_accepted(Vec::new(), &message, claim.as_ref());
        accepted.extend_from_slice(&message.content);
        let mut notice = encode_notice(Vec::new(), message.id, &message);
        notice.extend_from_slice(&message.content);
        let read_notice = |body: &[u8]| {
            accepted_body(Kind::Notice, Bytes::copy_from_slice(body)).and_then(|body| decode_accepted(&body)).is_ok()
        };
        let read_accepted = |body: &[u8]| decode_accepted(&Bytes::copy_from_slice(body)).is_ok();
        let read_attempted = |body: &[u8]| decode_attempted(body).is_ok();
        let attempted = encode_attempted(Vec::new(), message.id, &progress, 1);
        let records: [(_, IsRead<'_>); 3] =
            [(accepted, &read_accepted), (notice, &read_notice), (attempted, &read_attempted)];
        for (mut body, read) in records {
            prop_assert!(read(&body));
            prop_assert!(!read(&body[..at.index(body.len())]));
            body.push(more);
            prop_assert!(!read(&body));
        }
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_accepted(&Bytes::from(bytes.clone()));
        let _ = decode_attempted(&bytes);
        let _ = without_notices(&bytes);
        let _ = decode_finished(&mut Reader(&bytes));
        let _ = accepted_body(Kind::Notice, Bytes::from(bytes.clone()));
        let _ = decode_handling(&mut Reader(&bytes));
        let _ = Reader(&bytes).key_record();
    }

    #[test]
    fn no_changed_byte_makes_reading_panic(
        (message, claim) in message(), progress in progress(), at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let mut body = encode_accepted(Vec::new(), &message, claim.as_ref());
        body.extend_from_slice(&message.content);
        let n = at.index(body.len());
        body[n] = to;
        body.truncate(body.len() - n % 3);
        let _ = decode_accepted(&Bytes::from(body));
        let mut body = encode_attempted(Vec::new(), message.id, &progress, 1);
        let n = at.index(body.len());
        body[n] = to;
        let _ = decode_attempted(&body);
    }
}

/// Bodies as version 0.1.0 wrote them, put together by hand from the tables that its documentation had.
mod as_written_by_0_1_0 {
    use super::*;

    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u32).to_be_bytes());
        out.extend(text.as_bytes());
    }

    #[test]
    fn a_message_is_still_read() {
        let mut body = vec![7; 16];
        body.extend(1_000_u64.to_be_bytes());
        body.push(0); // no key
        text(&mut body, "main");
        body.push(0); // no user
        body.extend([4, 192, 0, 2, 1]);
        body.push(1);
        text(&mut body, "a@example.org");
        body.push(1); // 8BITMIME
        body.push(1); // SMTPUTF8
        body.push(2); // RET=HDRS
        body.push(1);
        text(&mut body, "envid");
        body.extend(1_u32.to_be_bytes());
        text(&mut body, "b@example.net");
        body.push(8 | 2); // NOTIFY=FAILURE
        body.push(0); // no ORCPT
        text(&mut body, "<id@example.org>");
        text(&mut body, "content\r\n");
        let (message, claim) = decode_accepted(&Bytes::from(body)).unwrap();
        assert_eq!((message.id, claim), (QueueId::from_bytes([7; 16]), None));
        assert_eq!(message.envelope.handling, Handling::default());
        assert!(message.envelope.smtputf8 && message.envelope.body == Body::EightBitMime);
        assert_eq!(
            (message.envelope.ret, message.envelope.envid.as_deref()),
            (Some(Ret::Headers), Some("envid"))
        );
        let notify = Notify { success: false, failure: true, delay: false };
        assert_eq!(
            (message.envelope.recipients[0].notify, message.envelope.recipients[0].unverified),
            (Some(notify), false)
        );
        assert_eq!(&message.content[..], b"content\r\n");
    }

    #[test]
    fn progress_and_an_end_are_still_read() {
        let mut body = vec![7; 16];
        body.push(1); // a recipient is queued
        body.extend(2_000_u64.to_be_bytes());
        body.extend(3_u32.to_be_bytes());
        body.extend(1_u32.to_be_bytes());
        body.push(0);
        body.extend(3_u32.to_be_bytes());
        body.extend(1_u32.to_be_bytes());
        body.extend(1_500_u64.to_be_bytes());
        body.extend(451_u16.to_be_bytes());
        body.extend(3_u32.to_be_bytes());
        for part in ["route", "host:25", "4.3.0 busy"] {
            text(&mut body, part);
        }
        let (id, progress) = decode_attempted(&body).unwrap();
        assert_eq!(decode_attempted_head(&mut Reader(&body)).unwrap().notices, 0);
        assert_eq!((id, progress.attempts, progress.warned), (QueueId::from_bytes([7; 16]), 3, false));
        let reply = &progress.recipients[0].replies[0];
        assert_eq!(
            (reply.code, reply.times, reply.text.as_str(), reply.tls.as_str()),
            (451, 3, "4.3.0 busy", "")
        );
        assert_eq!(decode_finished(&mut Reader(&[7; 16])).unwrap(), (id, 0));
    }
}
