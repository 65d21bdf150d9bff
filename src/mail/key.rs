//! Idempotency keys and what a key remembers of its message.

/// Whose keys these are: the authenticated user's name or its configured `scope`; clients that did not authenticate
/// share [`Scope::anonymous`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Scope(Option<String>);

impl Scope {
    /// The scope of a user, or the one configured for it.
    pub fn named(name: impl Into<String>) -> Self {
        Self(Some(name.into()))
    }

    /// The scope of everybody who did not authenticate. No configured name can be equal to it.
    pub const fn anonymous() -> Self {
        Self(None)
    }

    /// The name, or `None` for the anonymous scope.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// Where a key came from. Keys of different kinds are never equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyKind {
    /// The client's own header: a mismatch is a 554.
    Header,
    /// `fallback_key = "message-id"`: implicit, never causes a 554.
    MessageId,
    /// `fallback_key = "content"`: implicit, never causes a 554.
    Content,
}

/// A key within its scope: what the store looks up.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ScopedKey {
    /// Whose key.
    pub scope: Scope,
    /// Said by the client or derived.
    pub kind: KeyKind,
    /// Unfolded, trimmed, decoded; compared byte by byte; at most 256 characters when it is the client's.
    pub key: String,
}

/// Which rules made a fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FingerprintMode {
    /// What a reader of the mail would call the same message.
    Content,
    /// The raw bytes without the key field; also used for what does not parse cleanly.
    Exact,
}

/// The two hashes (BLAKE3) that decide whether a retry is the same message.
///
/// Two fingerprints compare only when `version` and `mode` are equal; the intake recomputes with the record's rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    /// Version of the rules in `intake::fingerprint`.
    pub version: u8,
    /// Which rules.
    pub mode: FingerprintMode,
    /// Reverse-path and the set of accepted forward-paths.
    pub envelope: [u8; 32],
    /// The message.
    pub content: [u8; 32],
}
