//! A message as it is queued.

use std::net::IpAddr;

use bytes::Bytes;

use super::envelope::Envelope;
use super::key::ScopedKey;
use super::queue_id::QueueId;
use crate::clock::Timestamp;

/// A message that was, or is about to be, acknowledged. Immutable: what happens to it is its
/// [`Progress`](super::delivery::Progress).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Its name in every reply, log line and record.
    pub id: QueueId,
    /// When the final dot was read; age and expiry count from here.
    pub accepted_at: Timestamp,
    /// Who it is from and for.
    pub envelope: Envelope,
    /// How it came in: routes match on it.
    pub origin: Origin,
    /// The key it was submitted under, explicit or implicit; `None` when nothing is remembered.
    pub key: Option<ScopedKey>,
    /// Message-ID with its angle brackets, as relayed (for the log; empty when it could not be read).
    pub message_id: String,
    /// The message as it is relayed: CRLF line ends only, no dot-stuffing, ends with CRLF, the key field stripped,
    /// the Received field on top.
    pub content: Bytes,
}

impl Message {
    /// What it takes in memory, roughly, in bytes: a thousand recipients weigh more than a short text (S2).
    pub fn footprint(&self) -> usize {
        const FIXED: usize = 512;
        let recipients: usize = self
            .envelope
            .recipients
            .iter()
            .map(|r| size_of_val(r) + r.forward_path.as_str().len() + r.orcpt.as_ref().map_or(0, String::len))
            .sum();
        FIXED + self.content.len() + recipients + self.message_id.len()
    }
}

/// How a message came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Name of the listener (`[[listener]] name`).
    pub listener: String,
    /// The authenticated user.
    pub user: Option<String>,
    /// The client's address; `None` for messages made here.
    pub client: Option<IpAddr>,
}

impl Origin {
    /// The listener of what tells of events: no configured listener may have such a name.
    pub const EVENTS: &'static str = "oncemail:events";

    /// The origin of an event.
    pub fn event() -> Self {
        Self { listener: Self::EVENTS.to_owned(), user: None, client: None }
    }

    /// Whether the message tells of an event, to a webhook or to the event file.
    pub fn is_event(&self) -> bool {
        self.listener == Self::EVENTS
    }
}
