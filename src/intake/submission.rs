//! What comes in, and what is decided about it.

use crate::mail::{Address, Envelope, Origin, QueueId, Scope};
use crate::smtp::Reply;

/// A whole message with its envelope, as a protocol has received it.
#[derive(Clone, Debug)]
pub struct Submission {
    /// How it came in.
    pub origin: Origin,
    /// What the Received field tells of the connection.
    pub trace: Trace,
    /// Whose keys it uses.
    pub scope: Scope,
    /// Who it is from and for; at least one recipient.
    pub envelope: Envelope,
    /// Recipients that were named too, and that a check of ours has refused: a retry may name some that were accepted the
    /// first time, and have bounced since.
    pub refused: Vec<Address>,
    /// The message as it was sent: CRLF line ends only, dot-stuffing undone, the final dot removed.
    pub content: Vec<u8>,
}

/// What the Received field tells of the connection (RFC 5321 §4.4).
#[derive(Clone, Debug)]
pub struct Trace {
    /// What the client called itself in EHLO or HELO.
    pub helo: String,
    /// `with` keyword: `ESMTP`, `ESMTPS`, `ESMTPSA`, `UTF8SMTPSA`, … (RFC 3848, RFC 6531 §4.3).
    pub with: &'static str,
    /// TLS version and cipher suite, for a comment: `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
    pub tls: Option<String>,
}

/// What was decided, and what the log says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The decision.
    pub decision: Decision,
    /// The client's key, if it sent a usable one.
    pub key: Option<String>,
    /// Message-ID with its angle brackets, the one that was added if there was none; empty when unknown.
    pub message_id: String,
    /// The W3C trace context that it came with.
    pub traceparent: Option<String>,
}

/// The contract: one variant per line of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// First submission: durable and queued.
    Queued(QueueId),
    /// The same message again: the first submission's id.
    Replayed(QueueId),
    /// The key is known with another content.
    DifferentBody,
    /// The key is known with another sender or other recipients.
    DifferentEnvelope,
    /// The key's first submission is still being processed.
    InFlight,
    /// The key cannot be used.
    InvalidKey(KeyFault),
    /// More than 100 Received fields (RFC 5321 §6.3).
    TooManyHops,
    /// The disk is nearly full.
    LowDisk,
    /// The store cannot make the message durable; nothing is left behind (I4).
    StoreFailed,
}

/// What is wrong with a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyFault {
    /// Over 256 characters.
    Length,
    /// Control characters, or bytes that are no text.
    Characters,
    /// Several fields with different values.
    Repeated,
}

impl Decision {
    /// The reply after the final dot, word for word as the contract has it.
    pub fn reply(&self) -> Reply {
        self.reply_about("X-Idempotency-Key")
    }

    /// The same where the key's field has another name: what a developer reads in the reply must be what they wrote.
    pub fn reply_about(&self, key_header: &str) -> Reply {
        match self {
            Self::Queued(id) => Reply::new(250, (2, 0, 0), format!("OK Message queued as {id}")),
            Self::Replayed(id) => {
                Reply::new(250, (2, 0, 0), format!("OK Message already queued as {id} (idempotent replay)"))
            }
            Self::DifferentBody => {
                Reply::new(554, (5, 5, 0), format!("{key_header} reused with different body"))
            }
            Self::DifferentEnvelope => {
                Reply::new(554, (5, 5, 0), format!("{key_header} reused with different envelope"))
            }
            Self::InFlight => Reply::new(451, (4, 5, 0), "Idempotency in flight; retry"),
            Self::InvalidKey(fault) => {
                Reply::new(554, (5, 5, 0), format!("Invalid {key_header} ({})", fault.as_str()))
            }
            Self::TooManyHops => {
                Reply::new(554, (5, 4, 6), "Too many Received fields; this looks like a loop")
            }
            Self::LowDisk => Reply::new(452, (4, 3, 1), "Insufficient system storage; retry later"),
            Self::StoreFailed => Reply::new(451, (4, 3, 0), "The message could not be stored; retry later"),
        }
    }

    /// The decision as one word, for logs and counters.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queued(_) => "queued",
            Self::Replayed(_) => "replayed",
            Self::DifferentBody => "different_body",
            Self::DifferentEnvelope => "different_envelope",
            Self::InFlight => "in_flight",
            Self::InvalidKey(_) => "invalid_key",
            Self::TooManyHops => "too_many_hops",
            Self::LowDisk => "low_disk",
            Self::StoreFailed => "store_failed",
        }
    }

    /// The queue id that the reply names.
    pub fn queue_id(&self) -> Option<QueueId> {
        match self {
            Self::Queued(id) | Self::Replayed(id) => Some(*id),
            _ => None,
        }
    }
}

impl KeyFault {
    /// The word in the reply's parentheses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Characters => "characters",
            Self::Repeated => "repeated",
        }
    }
}
