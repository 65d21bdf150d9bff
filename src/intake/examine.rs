//! Everything that is found out about a message before anything is decided: no I/O, no state.

use super::fingerprint::{self, Rules};
use super::options::{Fallback, Options};
use super::submission::KeyFault;
use super::{encoded_word, key};
use crate::mail::header::Header;
use crate::mail::{Envelope, Fingerprint, KeyKind, trace};

/// RFC 5321 §6.3 asks for a limit of at least 100.
const MAX_RECEIVED: usize = 100;
/// Characters of a Message-ID that are kept for the log.
const MAX_MESSAGE_ID: usize = 256;
/// Octets of a Message-ID that are decoded for the log: more than enough for that many characters.
const MAX_MESSAGE_ID_OCTETS: usize = 4096;

/// What was found out.
#[derive(Debug)]
pub(super) struct Examined {
    /// What the message is to be decided under.
    pub verdict: Result<Option<Keyed>, Fault>,
    /// Message-ID for the log, if the message has one.
    pub message_id: Option<String>,
    /// The trace context that it came with.
    pub traceparent: Option<String>,
}

/// A key, and the fingerprint that goes with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Keyed {
    /// The client's or derived.
    pub kind: KeyKind,
    /// Its text.
    pub key: String,
    /// Of the message as it came.
    pub fingerprint: Fingerprint,
}

/// Why the message is refused before anything is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Too many Received fields.
    Hops,
    /// The key cannot be used.
    Key(KeyFault),
}

/// The part of the configuration that fingerprints depend on.
pub(super) fn rules(options: &Options) -> Rules<'_> {
    Rules { key_header: &options.header, ignore_headers: &options.ignore_headers }
}

/// Examines a message as it came.
pub(super) fn examine(content: &[u8], envelope: &Envelope, options: &Options) -> Examined {
    let header = Header::split(content);
    let message_id = message_id(&header);
    let verdict = keyed(content, &header, envelope, options);
    let traceparent = trace::in_header(&header);
    Examined { verdict, message_id: message_id.as_deref().map(for_log), traceparent }
}

fn keyed(
    content: &[u8],
    header: &Header<'_>,
    envelope: &Envelope,
    options: &Options,
) -> Result<Option<Keyed>, Fault> {
    let received = header.fields().filter(|field| field.is("Received"));
    if received.take(MAX_RECEIVED + 1).count() > MAX_RECEIVED {
        return Err(Fault::Hops);
    }
    let explicit = key::extract(header, &options.header).map_err(Fault::Key)?;
    let fingerprint = || fingerprint::take(content, envelope, options.fingerprint, rules(options));
    let keyed = match (explicit, options.fallback) {
        (Some(key), _) => Some(Keyed { kind: KeyKind::Header, key, fingerprint: fingerprint() }),
        (None, Fallback::None) => None,
        (None, Fallback::MessageId) => usable_message_id(header).map(|message_id| {
            let fingerprint = fingerprint();
            let key = fingerprint::message_id_key(&message_id, &fingerprint);
            Keyed { kind: KeyKind::MessageId, key, fingerprint }
        }),
        (None, Fallback::Content) => {
            let fingerprint = fingerprint();
            let key = fingerprint::content_key(&fingerprint);
            Some(Keyed { kind: KeyKind::Content, key, fingerprint })
        }
    };
    Ok(keyed)
}

/// The first Message-ID, unfolded.
fn message_id(header: &Header<'_>) -> Option<Vec<u8>> {
    header.fields().find(|field| field.is("Message-ID")).map(|field| field.unfolded().into_owned())
}

/// A Message-ID that names one message: there is exactly one, and it is not empty.
fn usable_message_id(header: &Header<'_>) -> Option<Vec<u8>> {
    let several = header.fields().filter(|field| field.is("Message-ID")).nth(1).is_some();
    message_id(header).filter(|id| !several && !id.is_empty())
}

/// Cut to length, decoded as far as it is text, without characters that would disturb a log.
fn for_log(message_id: &[u8]) -> String {
    let message_id = message_id.get(..MAX_MESSAGE_ID_OCTETS).unwrap_or(message_id);
    let text = encoded_word::decode(message_id).unwrap_or_else(|_| message_id.to_vec());
    let chars = String::from_utf8_lossy(&text);
    chars.chars().take(MAX_MESSAGE_ID).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_is_fit_for_a_log() {
        assert_eq!(for_log(b"<1@x>"), "<1@x>");
        assert_eq!(for_log(b"=?utf-8?q?=3C1=40x=3E?="), "<1@x>");
        assert_eq!(for_log(b"<\x1b[2J\xff>"), "<?[2J\u{fffd}>");
        // However long it is, only the front is looked at.
        let long = "=?utf-8?q?=C3=A9?= x ".repeat(100_000);
        assert_eq!(for_log(long.as_bytes()).chars().count(), MAX_MESSAGE_ID);
    }
}
