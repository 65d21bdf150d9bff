//! The one way in which anything is written into a hash: each element says what it is or how long it is.

use blake3::Hasher;

/// Small elements are gathered up to this many octets: hashing them one by one costs more than the hash.
const GATHER: usize = 512;

/// A hash under construction.
pub(super) struct Canon {
    hasher: Hasher,
    /// Not hashed yet; less than [`GATHER`] octets.
    gathered: Vec<u8>,
}

impl Canon {
    /// `domain` keeps hashes of different things apart.
    pub(super) fn new(domain: &str) -> Self {
        let mut canon = Self { hasher: Hasher::new(), gathered: Vec::with_capacity(GATHER) };
        canon.bytes(domain.as_bytes());
        canon
    }

    /// Which of several things follows.
    pub(super) fn tag(&mut self, tag: u8) {
        self.stream(&[tag]);
    }

    /// A count, or a position.
    pub(super) fn number(&mut self, number: usize) {
        self.stream(&(number as u64).to_le_bytes());
    }

    /// Bytes with their length in front.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.stream(bytes);
    }

    /// Bytes without their length: only where nothing follows but more of the same stream.
    pub(super) fn stream(&mut self, bytes: &[u8]) {
        if self.gathered.len() + bytes.len() < GATHER {
            self.gathered.extend_from_slice(bytes);
            return;
        }
        self.hasher.update(&self.gathered);
        self.gathered.clear();
        self.hasher.update(bytes);
    }

    /// The hash.
    pub(super) fn finish(mut self) -> [u8; 32] {
        self.hasher.update(&self.gathered);
        *self.hasher.finalize().as_bytes()
    }
}
