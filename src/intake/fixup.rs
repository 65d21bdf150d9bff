//! The content as it is relayed (RFC 6409 §8): the trace field on top, Message-ID and Date added when they are
//! missing, fields that must not leave the relay taken out. Every other byte stays as it came.

use super::arrival::Arrival;
use super::options::Options;
use crate::mail::QueueId;
use crate::mail::header::{Field, Header, HeaderEnd};
use crate::mail::received::{self, Received};

/// Room for the fields that are added; longer ones only cost a second allocation.
const ADDED_BYTES: usize = 1024;
/// A content of more octets keeps the memory that it came in; copying a smaller one is quicker than moving it.
const LARGE: usize = 64 * 1024;

/// The Message-ID that a message without one gets.
pub(super) fn message_id(id: QueueId, hostname: &str) -> String {
    format!("<{id}@{hostname}>")
}

/// The content as it is relayed.
pub(super) fn relayed(arrival: &Arrival, content: Vec<u8>) -> Vec<u8> {
    let is_large = content.len() > LARGE;
    assembled(arrival, content, is_large)
}

fn assembled(arrival: &Arrival, content: Vec<u8>, is_large: bool) -> Vec<u8> {
    let options = &*arrival.options;
    let header = Header::split(&content);
    let room = if is_large { header.len() } else { content.len() };
    let mut out = Vec::with_capacity(room + ADDED_BYTES);
    received_field(arrival).write_to(&mut out);
    add_missing(&header, arrival, &mut out);
    for field in header.fields().filter(|field| !is_dropped(field, options)) {
        out.extend_from_slice(field.raw);
    }
    end_line(&mut out);
    // Where the body began without an empty line it gets one: its first line would be read as part of the fields.
    if header.end != HeaderEnd::EndOfMessage {
        out.extend_from_slice(b"\r\n");
    }
    let body_len = header.body.len();
    if is_large {
        out = behind(&out, content, body_len);
    } else {
        out.extend_from_slice(header.body);
    }
    end_line(&mut out);
    out
}

/// The last `body_len` octets of `content` with `front` before them, in the memory that `content` has already: a
/// large message is never there twice (S2).
fn behind(front: &[u8], mut content: Vec<u8>, body_len: usize) -> Vec<u8> {
    let old_front = content.len() - body_len;
    content.reserve_exact(front.len().saturating_sub(old_front) + b"\r\n".len());
    drop(content.splice(..old_front, front.iter().copied()));
    content.shrink_to(content.len() + ADDED_BYTES);
    content
}

fn received_field(arrival: &Arrival) -> Received<'_> {
    let only_recipient = match arrival.envelope.recipients.as_slice() {
        [only] => Some(only.forward_path.as_str()),
        _ => None,
    };
    Received {
        helo: &arrival.trace.helo,
        client: arrival.origin.client,
        user: arrival.origin.user.as_deref(),
        hostname: &arrival.options.hostname,
        with: arrival.trace.with,
        tls: arrival.trace.tls.as_deref(),
        id: arrival.id,
        only_recipient,
        priority: arrival.envelope.handling.priority,
        at: arrival.at,
    }
}

/// RFC 6409 §8.2 and §8.3. The fields are made from what is durable, so that they need no state of their own.
fn add_missing(header: &Header<'_>, arrival: &Arrival, out: &mut Vec<u8>) {
    let has = |name: &str| header.fields().any(|field| field.is(name));
    if !has("Message-ID") {
        let field = format!("Message-ID: {}\r\n", message_id(arrival.id, &arrival.options.hostname));
        out.extend_from_slice(field.as_bytes());
    }
    if !has("Date") {
        out.extend_from_slice(format!("Date: {}\r\n", received::date(arrival.at)).as_bytes());
    }
}

/// The key never leaves the relay; Return-Path is for the last hop alone to add (RFC 5321 §4.4).
fn is_dropped(field: &Field<'_>, options: &Options) -> bool {
    field.is(&options.header) || field.is("Return-Path") || (options.drop_bcc && field.is("Bcc"))
}

fn end_line(out: &mut Vec<u8>) {
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::intake::{Fallback, Submission, Trace};
    use crate::mail::{
        Address, Body, Envelope, FingerprintMode, Handling, Origin, Recipient, ReversePath, Scope,
    };

    fn options() -> Options {
        Options {
            hostname: "relay.example".to_owned(),
            header: "X-Idempotency-Key".to_owned(),
            ttl: Duration::from_secs(86_400),
            fingerprint: FingerprintMode::Content,
            ignore_headers: Vec::new(),
            fallback: Fallback::None,
            observe: false,
            drop_bcc: false,
        }
    }

    fn arrival(content: &[u8], options: Options) -> Arrival {
        let forward_path = Address::parse("one@dest.example").unwrap();
        let submission = Submission {
            origin: Origin { listener: "l".to_owned(), user: Some("shop".to_owned()), client: None },
            trace: Trace { helo: "app".to_owned(), with: "ESMTP", tls: None },
            scope: Scope::named("shop"),
            envelope: Envelope {
                reverse_path: ReversePath::Null,
                recipients: vec![Recipient { forward_path, notify: None, orcpt: None, unverified: false }],
                body: Body::EightBitMime,
                smtputf8: false,
                ret: None,
                envid: None,
                handling: Handling::default(),
            },
            refused: Vec::new(),
            content: content.to_vec(),
        };
        Arrival::new(submission, Timestamp::from_millis(1_795_343_400_000), Arc::new(options))
    }

    /// What is relayed, without the Received field on top, `ID` for the queue id.
    fn fixed_with(content: &str, options: Options) -> String {
        let arrival = arrival(content.as_bytes(), options);
        let text = String::from_utf8(relayed(&arrival, content.into())).unwrap();
        let received = Header::split(text.as_bytes()).fields().next().unwrap().raw.len();
        assert!(
            text.starts_with("Received: (authenticated as shop) by relay.example with ESMTP\r\n\tid "),
            "{text}"
        );
        text[received..].replace(&arrival.id.to_string(), "ID")
    }

    fn fixed(content: &str) -> String {
        fixed_with(content, options())
    }

    const ID: &str = "Message-ID: <ID@relay.example>\r\n";
    const DATE: &str = "Date: Sun, 22 Nov 2026 10:30:00 +0000\r\n";
    /// A header that lacks nothing.
    const FULL: &str = "message-id : <1@x>\r\nDATE:\r\n yesterday\r\n";

    #[test]
    fn a_whole_message_stays_byte_by_byte() {
        for rest in [
            "",
            "\r\n",
            "\r\nbody\r\n",
            "X-A:b\r\nx-a :  \tc\r\n\td\r\n\r\n\r\n.\0\x7f\r\nReturn-Path: x\r\n",
        ] {
            let content = format!("{FULL}{rest}");
            assert_eq!(fixed(&content), content);
        }
        let content = b"A: \xff\r\n\r\n\xfe\r\n";
        let arrival = arrival(content, options());
        assert!(relayed(&arrival, content.to_vec()).ends_with(b"A: \xff\r\n\r\n\xfe\r\n"));
    }

    #[test]
    fn message_id_and_date_are_added_when_they_are_missing() {
        assert_eq!(
            fixed("Subject: s\r\n\r\nDate: x\r\n"),
            format!("{ID}{DATE}Subject: s\r\n\r\nDate: x\r\n")
        );
        assert_eq!(fixed("Date: x\r\n\r\n"), format!("{ID}Date: x\r\n\r\n"));
        assert_eq!(fixed("Message-ID: x\r\n\r\n"), format!("{DATE}Message-ID: x\r\n\r\n"));
    }

    #[test]
    fn the_key_never_leaves_the_relay() {
        for key in [
            "X-Idempotency-Key: k\r\n",
            "x-idempotency-key:k\r\n",
            "X-Idempotency-Key \t: k\r\n",
            "X-Idempotency-Key:\r\n k\r\n\tk\r\n \r\n",
            "X-Idempotency-Key: k\r\nX-Idempotency-Key: k\r\n",
            "X-Idempotency-Key:\r\n",
        ] {
            assert_eq!(fixed(&format!("{key}{FULL}{key}\r\nb\r\n")), format!("{FULL}\r\nb\r\n"), "{key:?}");
            assert_eq!(fixed(&format!("{FULL}{}", key.trim_end_matches("\r\n"))), FULL, "{key:?}");
        }
        let body = format!("{FULL}\r\nX-Idempotency-Key: in the body\r\n");
        assert_eq!(fixed(&body), body);
        let renamed = Options { header: "Idempotency-Key".to_owned(), ..options() };
        let content = format!("Idempotency-Key: k\r\n{FULL}X-Idempotency-Key: other\r\n\r\n");
        assert_eq!(fixed_with(&content, renamed), format!("{FULL}X-Idempotency-Key: other\r\n\r\n"));
    }

    #[test]
    fn a_key_below_a_line_that_is_no_field_becomes_body_for_everybody() {
        assert_eq!(
            fixed(&format!("{FULL}no field\r\nX-Idempotency-Key: k\r\n\r\nb\r\n")),
            format!("{FULL}\r\nno field\r\nX-Idempotency-Key: k\r\n\r\nb\r\n")
        );
    }

    #[test]
    fn return_path_is_dropped_and_bcc_only_when_told() {
        let content = format!("Return-Path: <a@b>\r\nBcc: c@d,\r\n e@f\r\n{FULL}\r\n");
        assert_eq!(fixed(&content), format!("Bcc: c@d,\r\n e@f\r\n{FULL}\r\n"));
        let drop_bcc = Options { drop_bcc: true, ..options() };
        assert_eq!(fixed_with(&content, drop_bcc), format!("{FULL}\r\n"));
    }

    #[test]
    fn every_content_becomes_a_valid_message() {
        for (content, expected) in [
            ("", ""),
            ("\r\n", "\r\n"),
            ("just text", "\r\njust text\r\n"),
            (" indented\r\n", "\r\n indented\r\n"),
            ("\r\nbody only\r\n", "\r\nbody only\r\n"),
            ("Subject: s", "Subject: s\r\n"),
            ("Subject: s\r\n", "Subject: s\r\n"),
            ("Subject: s\r\n\r\nno end", "Subject: s\r\n\r\nno end\r\n"),
        ] {
            assert_eq!(fixed(content), format!("{ID}{DATE}{expected}"), "{content:?}");
        }
    }

    #[test]
    fn s2_a_large_message_keeps_its_memory() {
        for added in [0, 2_000] {
            let mut content = format!("Subject: s\r\n\r\n{}", "x".repeat(LARGE)).into_bytes();
            content.reserve_exact(added);
            let memory = content.as_ptr();
            let arrival = arrival(&content, options());
            let body = content[14..].to_vec();
            let relayed = relayed(&arrival, content);
            assert!(relayed.ends_with(&[b"Subject: s\r\n\r\n".as_slice(), &body, b"\r\n"].concat()));
            // With room for the new fields nothing is allocated at all.
            assert!(added == 0 || relayed.as_ptr() == memory);
            assert!(relayed.capacity() <= relayed.len() + ADDED_BYTES);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_comes_in_the_key_stays_and_the_body_goes(
            pieces in prop::collection::vec(
                prop_oneof![
                    Just("X-Idempotency-Key: k\r\n"), Just("x-idempotency-key :\r\n"), Just(" k\r\n"),
                    Just("Subject: s\r\n"), Just("no field\r\n"), Just("\r\n"), Just("\n"), Just("\r"),
                    Just("Return-Path: <a@b>\r\n"), Just("\t\r\n"), Just("x"), Just(":"),
                ],
                0..12,
            ),
        ) {
            let content = pieces.concat();
            let arrival = arrival(content.as_bytes(), options());
            let out = relayed(&arrival, content.clone().into());
            prop_assert_eq!(&assembled(&arrival, content.clone().into(), true), &out);
            prop_assert!(out.ends_with(b"\r\n"));
            let (before, after) = (Header::split(content.as_bytes()), Header::split(&out));
            prop_assert!(after.fields().all(|f| !f.is("X-Idempotency-Key") && !f.is("Return-Path")));
            prop_assert!(after.end != HeaderEnd::NoField);
            prop_assert!(after.body.starts_with(before.body));
            let subjects = |header: &Header<'_>| header.fields().filter(|f| f.is("Subject")).count();
            prop_assert_eq!(subjects(&before), subjects(&after));
        }
    }
}
