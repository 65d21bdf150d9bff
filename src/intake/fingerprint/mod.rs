//! What "the same message" means: two hashes (BLAKE3) that stay equal when a mail library builds a message anew, and
//! differ when a recipient would see something else.
//!
//! Everything that is hashed carries its length in front, so that no bytes can move from one place to another
//! unseen. Whatever is ambiguous falls back to the raw bytes: a retry may then be refused, but a message is never
//! taken for another. [`VERSION`] names these rules; changing what any message hashes to means a new version, with
//! the old rules kept as long as keys of them can live.

mod canon;
mod content;
mod content_id;
mod fields;
mod media_type;
mod mime;
mod transfer;

use canon::Canon;

use crate::mail::header::Header;
use crate::mail::{Address, Envelope, Fingerprint, FingerprintMode};

/// The rules in this module.
pub const VERSION: u8 = 1;
/// Refused recipients of which every mixture is tried.
const MOST_MIXED: usize = 8;

/// What the configuration says about the rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    /// Name of the key's field; it never counts.
    pub key_header: &'a str,
    /// More fields of the message's own header that do not count.
    pub ignore_headers: &'a [String],
}

/// How a message compares with what a key remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Comparison {
    /// The same message.
    Same,
    /// Another content, whatever the envelope.
    OtherContent,
    /// The same content for other people, or from somebody else.
    OtherEnvelope,
    /// The record was made by rules that this version does not know.
    UnknownRules,
}

/// The fingerprint of a message as it came, by the rules of `mode` if it can be parsed cleanly.
pub(super) fn take(
    content: &[u8],
    envelope: &Envelope,
    mode: FingerprintMode,
    rules: Rules<'_>,
) -> Fingerprint {
    let (mode, content) = match mode {
        FingerprintMode::Exact => (FingerprintMode::Exact, exact(content, rules)),
        FingerprintMode::Content => match content::hash(content, rules) {
            Ok(hash) => (FingerprintMode::Content, hash),
            Err(mime::NoParts::Unclean | mime::NoParts::TooLarge) => {
                (FingerprintMode::Exact, exact(content, rules))
            }
        },
    };
    Fingerprint { version: VERSION, mode, envelope: envelope_hash(envelope), content }
}

/// Compares a message, whose fingerprint by today's configuration is `mine`, with a record, by the record's rules.
pub(super) fn compare(
    record: &Fingerprint,
    mine: &Fingerprint,
    content: &[u8],
    rules: Rules<'_>,
) -> Comparison {
    if record.version != VERSION {
        return Comparison::UnknownRules;
    }
    let content = match record.mode {
        mode if mode == mine.mode => Some(mine.content),
        FingerprintMode::Exact => Some(exact(content, rules)),
        FingerprintMode::Content => content::hash(content, rules).ok(),
    };
    against(record, mine, content)
}

/// Compares two fingerprints as far as they can be compared without the message: `None` when they cannot.
pub(super) fn compare_hashes(record: &Fingerprint, mine: &Fingerprint) -> Option<Comparison> {
    let by_the_same_rules = record.version == VERSION && record.mode == mine.mode;
    by_the_same_rules.then(|| against(record, mine, Some(mine.content)))
}

fn against(record: &Fingerprint, mine: &Fingerprint, content: Option<[u8; 32]>) -> Comparison {
    if content != Some(record.content) {
        Comparison::OtherContent
    } else if record.envelope != mine.envelope {
        Comparison::OtherEnvelope
    } else {
        Comparison::Same
    }
}

/// Whether the record's envelope is this one together with some of the recipients that a check has refused now. Of many
/// refused ones only all together are tried.
pub(super) fn was_named_with(record: &Fingerprint, envelope: &Envelope, refused: &[Address]) -> bool {
    let mut refused: Vec<_> = refused.iter().map(Address::canonical).collect();
    refused.sort_unstable();
    refused.dedup();
    let all = (1u32 << refused.len().min(MOST_MIXED)) - 1;
    let first = if refused.len() > MOST_MIXED { all } else { 1 };
    (first..=all).any(|chosen| {
        let is_chosen = |place: usize| place >= MOST_MIXED || chosen & (1 << place) != 0;
        let added = refused.iter().enumerate().filter(|(place, _)| is_chosen(*place));
        let mut paths = forward_paths(envelope);
        paths.extend(added.map(|(_, path)| path.clone()));
        paths_hash(envelope, paths) == record.envelope
    })
}

/// The envelope: reverse-path and the set of forward-paths, domains in lower case.
fn envelope_hash(envelope: &Envelope) -> [u8; 32] {
    paths_hash(envelope, forward_paths(envelope))
}

fn forward_paths(envelope: &Envelope) -> Vec<String> {
    envelope.recipients.iter().map(|recipient| recipient.forward_path.canonical()).collect()
}

fn paths_hash(envelope: &Envelope, mut paths: Vec<String>) -> [u8; 32] {
    paths.sort_unstable();
    paths.dedup();
    let mut canon = Canon::new("oncemail envelope 1");
    match envelope.reverse_path.mailbox() {
        None => canon.tag(0),
        Some(address) => {
            canon.tag(1);
            canon.bytes(address.canonical().as_bytes());
        }
    }
    canon.number(paths.len());
    for path in &paths {
        canon.bytes(path.as_bytes());
    }
    canon.finish()
}

/// The raw bytes without the key's fields.
fn exact(content: &[u8], rules: Rules<'_>) -> [u8; 32] {
    let header = Header::split(content);
    let mut canon = Canon::new("oncemail exact 1");
    for field in header.fields().filter(|field| !field.is(rules.key_header)) {
        canon.stream(field.raw);
    }
    canon.stream(content.get(header.len()..).unwrap_or_default());
    canon.finish()
}

/// The key that stands in for a missing one: `fallback_key = "message-id"`.
pub(super) fn message_id_key(message_id: &[u8], fingerprint: &Fingerprint) -> String {
    let mut canon = Canon::new("oncemail message-id key 1");
    canon.bytes(message_id);
    canon.bytes(&fingerprint.envelope);
    hex(canon.finish())
}

/// The key that stands in for a missing one: `fallback_key = "content"`.
pub(super) fn content_key(fingerprint: &Fingerprint) -> String {
    let mut canon = Canon::new("oncemail content key 1");
    canon.tag(fingerprint.version);
    canon.tag(u8::from(fingerprint.mode == FingerprintMode::Exact));
    canon.bytes(&fingerprint.envelope);
    canon.bytes(&fingerprint.content);
    hex(canon.finish())
}

fn hex(hash: [u8; 32]) -> String {
    blake3::Hash::from_bytes(hash).to_hex().to_string()
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
