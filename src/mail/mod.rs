//! The nouns of mail: addresses, envelopes, queue ids, messages, keys, and how far each recipient has come.
//!
//! Pure values: nothing in here does I/O or asks for the time. Everything that came from a peer is validated when the
//! value is made and can be trusted afterwards.

pub mod address;
pub mod delivery;
pub mod domain;
pub mod envelope;
pub mod header;
pub mod key;
#[cfg(test)]
mod laws;
pub mod message;
pub mod queue_id;
pub mod received;
pub mod replay;
pub mod trace;

pub use address::{Address, AddressError, ReversePath};
pub use delivery::{AttemptReply, HoldCause, Progress, RecipientProgress, RecipientState};
pub use envelope::{Body, Envelope, Handling, Notify, Recipient, Ret};
pub use key::{Fingerprint, FingerprintMode, KeyKind, Scope, ScopedKey};
pub use message::{Message, Origin};
pub use queue_id::QueueId;
pub use replay::Replay;
