//! The one way in which anything is written into a hash: each element says what it is or how long it is.

use blake3::Hasher;

/// A hash under construction.
pub(super) struct Canon(Hasher);

impl Canon {
    /// `domain` keeps hashes of different things apart.
    pub(super) fn new(domain: &str) -> Self {
        let mut canon = Self(Hasher::new());
        canon.bytes(domain.as_bytes());
        canon
    }

    /// Which of several things follows.
    pub(super) fn tag(&mut self, tag: u8) {
        self.0.update(&[tag]);
    }

    /// A count, or a position.
    pub(super) fn number(&mut self, number: usize) {
        self.0.update(&(number as u64).to_le_bytes());
    }

    /// Bytes with their length in front.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.update(bytes);
    }

    /// Bytes without their length: only where nothing follows but more of the same stream.
    pub(super) fn stream(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash.
    pub(super) fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}
