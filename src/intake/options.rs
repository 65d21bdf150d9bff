//! What the intake can be told.

use std::time::Duration;

use crate::mail::FingerprintMode;

/// `[idempotency]` and the header fix-up, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our name in Received and in Message-IDs made here.
    pub hostname: String,
    /// Name of the key's header field; compared without case.
    pub header: String,
    /// How long a key lives from acceptance.
    pub ttl: Duration,
    /// How "same message" is decided.
    pub fingerprint: FingerprintMode,
    /// More fields that a retry may change, compared without case.
    pub ignore_headers: Vec<String>,
    /// What stands in for a key when the client sends none.
    pub fallback: Fallback,
    /// With a fallback: only count and log what would have been suppressed.
    pub observe: bool,
    /// Drop Bcc fields (RFC 6409 leaves them alone).
    pub drop_bcc: bool,
}

/// `fallback_key`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fallback {
    /// No key, nothing remembered.
    #[default]
    None,
    /// (Message-ID, envelope).
    MessageId,
    /// Both hashes.
    Content,
}
