//! Every record comes back as it was written, and no bytes whatever make reading panic.

use bytes::Bytes;
use proptest::prelude::*;

use super::codec::*;
use super::{KeyClaim, KeyRecord};
use crate::clock::Timestamp;
use crate::mail::{
    Address, AttemptReply, Body, Envelope, Fingerprint, FingerprintMode, Handling, HoldCause, KeyKind,
    Message, Notify, Origin, Progress, QueueId, Recipient, RecipientProgress, RecipientState, Ret,
    ReversePath, Scope, ScopedKey,
};

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
    ]);
    let recipient = (state, any::<u32>(), prop::collection::vec(reply, 0..4))
        .prop_map(|(state, attempts, replies)| RecipientProgress { state, attempts, replies });
    (any::<(u32, u64, bool)>(), prop::collection::vec(recipient, 0..5)).prop_map(
        |((attempts, next, warned), recipients)| Progress {
            warned,
            attempts,
            next_attempt: Timestamp::from_millis(next),
            recipients,
        },
    )
}

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
    fn an_attempted_record_comes_back_as_it_was(progress in progress(), id in any::<[u8; 16]>()) {
        let id = QueueId::from_bytes(id);
        let body = encode_attempted(Vec::new(), id, &progress);
        let head = decode_attempted_head(&mut Reader(&body)).unwrap();
        prop_assert_eq!(head, (id, progress.is_queued(), progress.next_attempt));
        prop_assert_eq!(decode_attempted(&body).unwrap(), (id, progress));
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
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_accepted(&Bytes::from(bytes.clone()));
        let _ = decode_attempted(&bytes);
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
        let mut body = encode_attempted(Vec::new(), message.id, &progress);
        let n = at.index(body.len());
        body[n] = to;
        let _ = decode_attempted(&body);
    }
}
