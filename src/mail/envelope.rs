//! The envelope: who a message is from and for, and how it wants to be carried (RFC 5321 §2.3.1, RFC 3461).

use super::address::{Address, ReversePath};
use crate::clock::Timestamp;

/// What MAIL and RCPT said, in the order in which it was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Where failures are reported to; the null sender of a bounce has nowhere.
    pub reverse_path: ReversePath,
    /// Accepted forward-paths, at least one. Their position is the recipient's number in every record.
    pub recipients: Vec<Recipient>,
    /// BODY= (RFC 6152).
    pub body: Body,
    /// SMTPUTF8 was asked for (RFC 6531 §3.4).
    pub smtputf8: bool,
    /// RET= (RFC 3461 §4.3): what a bounce should return.
    pub ret: Option<Ret>,
    /// ENVID= (RFC 3461 §4.4), as it came: xtext, at most 100 characters.
    pub envid: Option<String>,
    /// How it wants to be carried, beyond its words.
    pub handling: Handling,
}

/// What MAIL asked for beside the mail's own nature.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Handling {
    /// REQUIRETLS (RFC 8689 §2): no hop without verified TLS.
    pub require_tls: bool,
    /// MT-PRIORITY (RFC 6710 §3), −9 to 9; 0 is what mail has that says nothing.
    pub priority: i8,
    /// HOLDFOR or HOLDUNTIL (RFC 4865 §4): not relayed before.
    pub release_at: Option<Timestamp>,
}

impl Envelope {
    /// When it may be relayed at the earliest, for a message accepted at `accepted_at`.
    pub fn due_at(&self, accepted_at: Timestamp) -> Timestamp {
        self.handling.due_at(accepted_at)
    }
}

impl Handling {
    /// The priority of an event, below all that RFC 6710 knows: no client can ask for it, and no mail waits for an event.
    pub const EVENT_PRIORITY: i8 = -10;

    /// When a message accepted at `accepted_at` may be relayed at the earliest.
    pub fn due_at(&self, accepted_at: Timestamp) -> Timestamp {
        self.release_at.map_or(accepted_at, |release_at| release_at.max(accepted_at))
    }
}

/// One forward-path and its delivery status wishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient {
    /// The mailbox, as it came, source route dropped (RFC 5321 §4.1.1.3).
    pub forward_path: Address,
    /// NOTIFY= (RFC 3461 §4.1); `None` when the client said nothing.
    pub notify: Option<Notify>,
    /// ORCPT= (RFC 3461 §4.2), as it came: `addr-type;xtext`, at most 500 characters.
    pub orcpt: Option<String>,
    /// A check at RCPT time was to be made and could not be: the address was accepted unseen.
    pub unverified: bool,
}

/// BODY= of MAIL (RFC 6152 §3). BINARYMIME is not offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Body {
    /// Lines of at most 998 US-ASCII octets.
    #[default]
    SevenBit,
    /// Octets above 127 may occur.
    EightBitMime,
}

/// RET= (RFC 3461 §4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// The whole message.
    Full,
    /// The header only.
    Headers,
}

/// NOTIFY= (RFC 3461 §4.1): all false is `NEVER`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Notify {
    /// Report delivery.
    pub success: bool,
    /// Report failure.
    pub failure: bool,
    /// Report delay.
    pub delay: bool,
}
