//! A filter that says "certainly not here" for keys that a run does not have, so that a first submission never waits
//! for a disk: one cache line per question, two bytes of memory per key.
//!
//! It may say "perhaps" wrongly; it must never say "certainly not" wrongly.

use super::keys::KeyHash;

/// Keys per block of 512 bits.
const KEYS_PER_BLOCK: usize = 32;
/// Bits set per key.
const PROBES: u32 = 6;
/// Bytes of a block.
pub const BLOCK: usize = 64;

/// A blocked Bloom filter for a number of keys that is known beforehand.
pub struct Filter(Vec<[u64; 8]>);

impl Filter {
    /// An empty filter with room for `keys`.
    pub fn new(keys: u64) -> Self {
        let blocks = usize::try_from(keys.div_ceil(KEYS_PER_BLOCK as u64)).unwrap_or(usize::MAX);
        Self(vec![[0; 8]; blocks.max(1)])
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> usize {
        self.0.len()
    }

    /// Appends what [`Filter::from_bytes`] reads.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        self.0.iter().flatten().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }

    /// What [`Filter::write_to`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let blocks = (0..bytes.len() / BLOCK).map(|_| std::array::from_fn(|_| words.next().unwrap_or(0)));
        Self(blocks.collect())
    }

    /// Notes a key.
    pub fn insert(&mut self, hash: &KeyHash) {
        let (block, masks) = self.place(hash);
        for (word, mask) in self.0.get_mut(block).into_iter().flatten().zip(masks) {
            *word |= mask;
        }
    }

    /// Whether a key may have been noted.
    pub fn may_contain(&self, hash: &KeyHash) -> bool {
        let (block, masks) = self.place(hash);
        self.0.get(block).is_none_or(|words| words.iter().zip(masks).all(|(w, mask)| w & mask == mask))
    }

    /// The block of a key, and the bits in it: a mask for each word. A key's hash is uniform already; its halves serve
    /// as two hash functions.
    fn place(&self, hash: &KeyHash) -> (usize, [u64; 8]) {
        let all = u128::from_be_bytes(*hash);
        let (low, high) = ((all >> 64) as u64, all as u64);
        let mut masks = [0u64; 8];
        for probe in 0..PROBES {
            let bits = high >> (probe * 9);
            if let Some(mask) = masks.get_mut((bits & 7) as usize) {
                *mask |= 1 << ((bits >> 3) & 63);
            }
        }
        ((low % (self.0.len().max(1) as u64)) as usize, masks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> KeyHash {
        let mut out = KeyHash::default();
        blake3::Hasher::new().update(&n.to_be_bytes()).finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn a_noted_key_is_never_denied_and_others_mostly_are() {
        let mut filter = Filter::new(100_000);
        for n in 0..100_000 {
            filter.insert(&hash(n));
        }
        let mut bytes = Vec::new();
        filter.write_to(&mut bytes);
        assert_eq!(bytes.len(), filter.blocks() * BLOCK);
        for filter in [filter, Filter::from_bytes(&bytes)] {
            assert!((0..100_000).all(|n| filter.may_contain(&hash(n))));
            let wrong = (100_000..200_000).filter(|n| filter.may_contain(&hash(*n))).count();
            assert!(wrong < 500, "{wrong} of 100,000");
        }
    }
}
