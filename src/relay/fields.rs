//! Header fields that a route puts in front of a message: the forwarded key, the DKIM signature.
//!
//! They are made when the message is attempted, so that a new key or a repaired route applies to mail that waits. A
//! forwarded key must never be the same for two different messages, nor for two sets of recipients of one message: a
//! next hop with idempotency of its own would take the second for a replay of the first, and mail would be lost in
//! silence. So what is forwarded is one-to-one with whose key it is, which key, and who the message goes to:
//!
//! | Key of the message | Forwarded |
//! |---|---|
//! | a client's, without authentication | the key itself; with a `/` in front when it contains one |
//! | a client's, of a user or a scope | `scope/key` |
//! | the same, not plain (see [`is_plain`]) | `oncemail-key-` and 32 hexadecimal digits of a BLAKE3 hash of both |
//! | none, or an implicit one | `oncemail-` and the queue id |
//!
//! A transaction that carries the message to only some of its recipients adds `:n`: the lowest of their numbers (from
//! 0), a dot, and 16 hexadecimal digits of a hash of them all.
//!
//! A recipient's key must be the same in every attempt, too: else the next hop takes the message twice. Whom a far side
//! accepts together is its choice, each time anew, and a process that dies before the outcome is saved cannot know what
//! it was. So a route that forwards keys has one recipient in each transaction.

use std::fmt::Write as _;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::dkim::Signers;
use super::options::Route;
use crate::mail::{KeyKind, Message, Scope, ScopedKey};

/// Octets of a plain key with its scope. Providers take 256 characters, and `:n` must fit too.
const LONGEST_PLAIN: usize = 200;
/// Octets of a number and its dot in `:n` at most, for the estimate of SIZE.
const LONGEST_NUMBER: usize = 11;
/// Hexadecimal digits of the hash in `:n`.
const GROUP_DIGITS: usize = 16;
/// Hexadecimal digits of the hash of a key that is not plain.
const KEY_DIGITS: usize = 32;
/// What keys of our own making start with.
const OURS: &str = "oncemail-";

/// Makes the fields of one route.
pub(super) struct Fields {
    forward_key_as: Option<String>,
    signers: Arc<ArcSwap<Signers>>,
}

/// What stands in front of one message on one route.
#[derive(Default)]
pub(super) struct Front {
    key: Option<ForwardedKey>,
    /// DKIM-Signature with its CRLF, or nothing.
    signature: Vec<u8>,
}

struct ForwardedKey {
    /// `name: key`
    field: String,
    /// How many recipients the message has.
    everybody: usize,
}

impl Fields {
    /// The DKIM keys that sign for a sender's domain.
    pub(super) fn dkim_names(&self, sender: &str) -> Vec<String> {
        self.signers.load().names_for(sender)
    }

    pub(super) fn new(route: &Route, signers: Arc<ArcSwap<Signers>>) -> Self {
        let forward_key_as = route.forward_key_as.clone().filter(|name| is_field_name(name));
        if forward_key_as.is_none() && route.forward_key_as.is_some() {
            tracing::error!(target: "oncemail::relay", route = %route.name, "forward_key_as is no field name, and is ignored");
        }
        Self { forward_key_as, signers }
    }

    /// Whether the next hop is told keys. Then each recipient goes alone: see the module.
    pub(super) fn forward_keys(&self) -> bool {
        self.forward_key_as.is_some()
    }

    /// The fields of one message. The signature does not cover the key, which may differ from transaction to transaction.
    pub(super) fn of(&self, message: &Message) -> Front {
        Front { signature: self.signers.load().sign(message).unwrap_or_default(), ..self.unsigned(message) }
    }

    /// The fields but for the signature.
    pub(super) fn unsigned(&self, message: &Message) -> Front {
        let key = self.forward_key_as.as_ref().map(|name| ForwardedKey {
            field: format!("{name}: {}", forwarded(message)),
            everybody: message.envelope.recipients.len(),
        });
        Front { key, signature: Vec::new() }
    }
}

impl Front {
    /// The fields, each with its CRLF, of a transaction that carries the message to `recipients`, by number.
    pub(super) fn octets(&self, recipients: &[usize]) -> Vec<u8> {
        let mut octets = Vec::with_capacity(self.longest());
        if let Some(key) = &self.key {
            octets.extend_from_slice(key.field.as_bytes());
            if recipients.len() != key.everybody {
                octets.extend_from_slice(group(recipients).as_bytes());
            }
            octets.extend_from_slice(b"\r\n");
        }
        octets.extend_from_slice(&self.signature);
        octets
    }

    /// What they take at most, in octets, whoever is accepted: SIZE is said before that is known (RFC 1870 §5).
    pub(super) fn longest(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| {
            let group = if key.everybody > 1 { 1 + LONGEST_NUMBER + GROUP_DIGITS } else { 0 };
            key.field.len() + group + 2
        });
        key + self.signature.len()
    }
}

/// `:n` of these recipients.
fn group(recipients: &[usize]) -> String {
    let mut numbers = recipients.to_vec();
    numbers.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for number in &numbers {
        hasher.update(&u64::try_from(*number).unwrap_or(u64::MAX).to_be_bytes());
    }
    let lowest = numbers.first().copied().unwrap_or_default();
    format!(":{lowest}.{}", digits(&hasher, GROUP_DIGITS))
}

/// What is forwarded for a message whose recipients are all in one transaction.
fn forwarded(message: &Message) -> String {
    let Some(key) = message.key.as_ref().filter(|key| key.kind == KeyKind::Header) else {
        return format!("{OURS}{}", message.id);
    };
    forwarded_key(key)
}

fn forwarded_key(key: &ScopedKey) -> String {
    let readable = match key.scope.name() {
        None if key.key.contains('/') => format!("/{}", key.key),
        None => key.key.clone(),
        Some(scope) => format!("{scope}/{}", key.key),
    };
    if is_plain(&key.scope, &readable) { readable } else { format!("{OURS}key-{}", hashed(key)) }
}

/// Whether a key can stand in a field as it is, and can be mistaken for no other there: at most [`LONGEST_PLAIN`]
/// printable ASCII characters, single spaces only, nothing that looks like an encoded word, like a key of ours or like
/// a key with `:n`, and no `/` in its scope.
fn is_plain(scope: &Scope, readable: &str) -> bool {
    let is_printable = readable.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    let is_kept = !readable.contains("  ") && readable.trim() == readable && !readable.contains("=?");
    let is_others = !readable.starts_with(OURS) && !ends_like_a_group(readable);
    let has_clear_scope = scope.name().is_none_or(|name| !name.is_empty() && !name.contains('/'));
    let fits = (1..=LONGEST_PLAIN).contains(&readable.len());
    is_printable && is_kept && is_others && has_clear_scope && fits
}

fn ends_like_a_group(key: &str) -> bool {
    let Some((_, n)) = key.rsplit_once(':') else { return false };
    n.split_once('.').is_some_and(|(number, hash)| {
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        is_number && hash.len() == GROUP_DIGITS && hash.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn hashed(key: &ScopedKey) -> String {
    let mut hasher = blake3::Hasher::new();
    let scope = key.scope.name();
    let length = scope.map_or(u64::MAX, |name| u64::try_from(name.len()).unwrap_or(u64::MAX));
    hasher.update(&length.to_be_bytes());
    hasher.update(scope.unwrap_or_default().as_bytes());
    hasher.update(key.key.as_bytes());
    digits(&hasher, KEY_DIGITS)
}

fn digits(hasher: &blake3::Hasher, most: usize) -> String {
    hasher.finalize().as_bytes().iter().take(most / 2).fold(String::with_capacity(most), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 5322 §3.6.8.
fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn key(scope: Option<&str>, key: &str) -> ScopedKey {
        let scope = scope.map_or(Scope::anonymous(), Scope::named);
        ScopedKey { scope, kind: KeyKind::Header, key: key.to_owned() }
    }

    fn of(scope: Option<&str>, text: &str) -> String {
        forwarded_key(&key(scope, text))
    }

    #[test]
    fn a_plain_key_is_forwarded_as_it_is_with_its_scope_in_front() {
        assert_eq!(of(None, "order-1001"), "order-1001");
        assert_eq!(of(None, "order:1 of 2"), "order:1 of 2");
        assert_eq!(of(Some("shop"), "order/1001"), "shop/order/1001");
        assert_eq!(of(None, "shop/order/1001"), "/shop/order/1001");
    }

    #[test]
    fn what_is_not_plain_is_hashed_with_its_scope() {
        let long = "x".repeat(LONGEST_PLAIN + 1);
        for text in [
            "",
            " a",
            "a ",
            "a  b",
            "a\tb",
            "a\r\nb",
            "é",
            "=?utf-8?q?a?=",
            "oncemail-x",
            &long,
            "order:0.0123456789abcdef",
        ] {
            for scope in [None, Some("shop")] {
                // With a scope in front some of them cannot be mistaken any more.
                let forwarded = of(scope, text);
                let is_hashed = forwarded.starts_with("oncemail-key-") && forwarded.len() == 13 + KEY_DIGITS;
                assert!(
                    is_hashed || (scope.is_some() && forwarded.starts_with("shop/")),
                    "{text:?}: {forwarded}"
                );
                assert!(forwarded.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{forwarded:?}");
            }
        }
        for scope in ["", "a/b", "é", "oncemail-x"] {
            assert!(of(Some(scope), "k").starts_with("oncemail-key-"), "{scope}");
        }
    }

    #[test]
    fn groups_of_recipients_have_names_of_their_own_in_any_order() {
        assert_eq!(group(&[2, 0, 7]), group(&[0, 2, 7]));
        assert!(group(&[0, 2]).starts_with(":0.") && group(&[2]).starts_with(":2."));
        let groups = [&[0][..], &[0, 1], &[0, 2], &[1], &[1, 2], &[0, 1, 2], &[12], &[]].map(group);
        let distinct: std::collections::HashSet<_> = groups.iter().collect();
        assert_eq!(distinct.len(), groups.len());
        assert!(groups.iter().all(|group| ends_like_a_group(&format!("k{group}"))));
    }

    #[test]
    fn the_estimate_of_the_size_is_never_too_small() {
        let front = |everybody| {
            let field = "Key: k".to_owned();
            Front {
                key: Some(ForwardedKey { field, everybody }),
                signature: b"DKIM-Signature: x\r\n".to_vec(),
            }
        };
        assert_eq!(front(1).octets(&[0]), b"Key: k\r\nDKIM-Signature: x\r\n");
        assert_eq!(front(1).longest(), front(1).octets(&[0]).len());
        let some = front(100_000).octets(&[99_998, 99_999]);
        assert!(some.starts_with(b"Key: k:99998.") && some.len() <= front(100_000).longest());
        assert_eq!((Front::default().octets(&[0]).len(), Front::default().longest()), (0, 0));
    }

    #[test]
    fn a_field_name_cannot_be_two_lines() {
        assert!(is_field_name("Resend-Idempotency-Key"));
        for name in ["", "a b", "a:", "a\r\nb", "é"] {
            assert!(!is_field_name(name), "{name:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_two_keys_are_forwarded_alike(
            keys in proptest::collection::vec(("(|a|b|a/b|/)", "[ab/:%. ]{0,3}(:0.0123456789abcdef|:1)?"), 0..50)
        ) {
            let mut seen: HashMap<String, (String, String, bool)> = HashMap::new();
            for (scope, text) in keys {
                for named in [true, false] {
                    let who = (if named { scope.clone() } else { String::new() }, text.clone(), named);
                    let forwarded = of(named.then_some(scope.as_str()), &text);
                    proptest::prop_assert!(!forwarded.contains(['\r', '\n']));
                    // Nor is one of them another one's with recipients.
                    proptest::prop_assert!(!ends_like_a_group(&forwarded));
                    if let Some(other) = seen.insert(forwarded, who.clone()) {
                        proptest::prop_assert_eq!(other, who);
                    }
                }
            }
        }
    }
}
