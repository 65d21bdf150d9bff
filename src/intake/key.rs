//! The client's key: found in the message's own header, unfolded, decoded, measured.
//!
//! A key that cannot be used is refused, never cut or repaired: a repaired key could be another message's.

use super::encoded_word;
use super::submission::KeyFault;
use crate::mail::header::{Field, Header};

/// Characters, after decoding.
const MAX_KEY: usize = 256;
/// Octets of a field that can hold [`MAX_KEY`] characters: four octets each, three for one in quoted-printable, and
/// as much again for the frames of encoded words and folds. Longer fields are not decoded at all.
const MAX_FIELD: usize = MAX_KEY * 4 * 3 * 4;

/// The key in the fields called `name`; `None` when there is none or it is empty.
///
/// # Errors
/// What is wrong with it.
pub(super) fn extract(header: &Header<'_>, name: &str) -> Result<Option<String>, KeyFault> {
    let mut key: Option<String> = None;
    for field in header.fields().filter(|field| field.is(name)) {
        let value = value(&field)?;
        match &key {
            Some(first) if *first != value => return Err(KeyFault::Repeated),
            _ => key = Some(value),
        }
    }
    Ok(key.filter(|key| !key.is_empty()))
}

fn value(field: &Field<'_>) -> Result<String, KeyFault> {
    if field.raw.len() > MAX_FIELD {
        return Err(KeyFault::Length);
    }
    let decoded = encoded_word::decode(&field.unfolded()).map_err(|_| KeyFault::Characters)?;
    let key = String::from_utf8(decoded).map_err(|_| KeyFault::Characters)?;
    if key.chars().count() > MAX_KEY {
        return Err(KeyFault::Length);
    }
    if key.chars().any(char::is_control) {
        return Err(KeyFault::Characters);
    }
    Ok(key)
}

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fields: &str) -> Result<Option<String>, KeyFault> {
        extract(&Header::split(format!("{fields}\r\n").as_bytes()), "X-Idempotency-Key")
    }

    fn ok(fields: &str) -> Option<String> {
        key(fields).unwrap()
    }

    #[test]
    fn a_key_is_found_however_it_is_written() {
        for fields in [
            "X-Idempotency-Key: order-1\r\n",
            "x-idempotency-KEY:order-1\r\n",
            "X-Idempotency-Key:   order-1 \t\r\n",
            "X-Idempotency-Key : order-1\r\n",
            "X-Idempotency-Key:\r\n order-1\r\n",
            "X-Idempotency-Key:\r\n \r\n\torder-1\r\n",
            "X-Idempotency-Key: =?utf-8?q?order-1?=\r\n",
            "X-Idempotency-Key: =?utf-8?b?b3JkZXItMQ==?=\r\n",
            "X-Idempotency-Key: =?utf-8?q?ord?=\r\n =?utf-8?q?er-1?=\r\n",
            "Subject: x\r\nX-Idempotency-Key: order-1\r\nX-Idempotency-Key: =?utf-8?q?order-1?=\r\n",
        ] {
            assert_eq!(ok(fields).as_deref(), Some("order-1"), "{fields:?}");
        }
    }

    #[test]
    fn a_key_may_be_any_text() {
        assert_eq!(ok("X-Idempotency-Key: a  b: \"c\"\r\n").as_deref(), Some("a  b: \"c\""));
        assert_eq!(ok("X-Idempotency-Key: clé 🔑\r\n").as_deref(), Some("clé 🔑"));
        assert_eq!(ok("X-Idempotency-Key: a\r\n\tb\r\n").as_deref(), Some("a b"));
    }

    #[test]
    fn an_empty_key_is_none() {
        for fields in ["", "Subject: x\r\n", "X-Idempotency-Key:\r\n", "X-Idempotency-Key: =?utf-8?q??=\r\n"]
        {
            assert_eq!(ok(fields), None, "{fields:?}");
        }
    }

    #[test]
    fn only_the_own_header_counts() {
        let message = "Subject: x\r\n\r\nX-Idempotency-Key: body\r\n\r\nX-Idempotency-Key: nested\r\n";
        assert_eq!(ok(message), None);
        assert_eq!(ok("not a field\r\nX-Idempotency-Key: body\r\n"), None);
        assert_eq!(ok("Other: 1\r\n X-Idempotency-Key: continuation\r\n"), None);
    }

    #[test]
    fn length_is_measured_in_characters_after_decoding() {
        let exactly = "é".repeat(256);
        assert_eq!(ok(&format!("X-Idempotency-Key: {exactly}\r\n")), Some(exactly.clone()));
        assert_eq!(key(&format!("X-Idempotency-Key: {exactly}x\r\n")), Err(KeyFault::Length));

        let words = |n: usize| vec!["=?utf-8?q?=F0=9F=94=91?="; n].join("\r\n ");
        assert_eq!(ok(&format!("X-Idempotency-Key: {}\r\n", words(256))), Some("🔑".repeat(256)));
        assert_eq!(key(&format!("X-Idempotency-Key: {}\r\n", words(257))), Err(KeyFault::Length));
        assert_eq!(key(&format!("X-Idempotency-Key: {}\r\n", "x".repeat(1_000_000))), Err(KeyFault::Length));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for value in [
            "a\tb",
            "a\0b",
            "a\x7fb",
            "a\u{85}b",
            "=?utf-8?q?a=0D=0Ab?=",
            "=?utf-8?q?=FF?=",
            "=?x-none?q?a?=",
            "=?utf-8?b?%%?=",
            "a\nb",
        ] {
            let fields = format!("X-Idempotency-Key: {value}\r\n");
            assert_eq!(key(&fields), Err(KeyFault::Characters), "{value:?}");
        }
        let header = Header::split(b"X-Idempotency-Key: \xff\r\n\r\n");
        assert_eq!(extract(&header, "X-Idempotency-Key"), Err(KeyFault::Characters));
    }

    #[test]
    fn different_values_are_refused() {
        for second in ["b", "A", "", "a b"] {
            let fields = format!("X-Idempotency-Key: a\r\nX-Idempotency-Key: {second}\r\n");
            assert_eq!(key(&fields), Err(KeyFault::Repeated), "{second:?}");
        }
    }
}
