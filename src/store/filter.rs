//! A filter that says "certainly not here" for keys that the index does not have, so that a first submission never
//! waits for a disk: one cache line per question, about two bytes of memory per key.
//!
//! It may say "perhaps" wrongly; it must never say "certainly not" wrongly.

use super::keys::KeyHash;

/// Keys in the first layer; each further layer holds twice as many.
const FIRST_LAYER: usize = 1 << 14;
/// Keys per block of 512 bits.
const KEYS_PER_BLOCK: usize = 32;
/// Bits set per key.
const PROBES: u32 = 6;

struct Layer {
    blocks: Box<[[u64; 8]]>,
    room: usize,
}

/// A growing list of blocked Bloom filters.
#[derive(Default)]
pub struct Filter {
    layers: Vec<Layer>,
}

impl Layer {
    fn new(keys: usize) -> Self {
        let blocks = (0..keys.div_ceil(KEYS_PER_BLOCK)).map(|_| [0; 8]).collect();
        Self { blocks, room: keys }
    }

    /// The block of a key, and the bits in it: a mask for each word.
    fn place(&self, hash: &KeyHash) -> (usize, [u64; 8]) {
        let (low, high) = halves(hash);
        let block = low % (self.blocks.len().max(1) as u64);
        let mut masks = [0u64; 8];
        for probe in 0..PROBES {
            let bits = high >> (probe * 9);
            if let Some(mask) = masks.get_mut((bits & 7) as usize) {
                *mask |= 1 << ((bits >> 3) & 63);
            }
        }
        (block as usize, masks)
    }
}

/// A key's hash is uniform already; its halves serve as two hash functions.
fn halves(hash: &KeyHash) -> (u64, u64) {
    let all = u128::from_be_bytes(*hash);
    ((all >> 64) as u64, all as u64)
}

impl Filter {
    /// Notes a key.
    pub fn insert(&mut self, hash: &KeyHash) {
        if self.layers.last().is_none_or(|layer| layer.room == 0) {
            self.layers.push(Layer::new(FIRST_LAYER << self.layers.len().min(16)));
        }
        let Some(layer) = self.layers.last_mut() else { return };
        layer.room = layer.room.saturating_sub(1);
        let (block, masks) = layer.place(hash);
        for (word, mask) in layer.blocks.get_mut(block).into_iter().flatten().zip(masks) {
            *word |= mask;
        }
    }

    /// Whether a key may have been noted.
    pub fn may_contain(&self, hash: &KeyHash) -> bool {
        self.layers.iter().any(|layer| {
            let (block, masks) = layer.place(hash);
            layer
                .blocks
                .get(block)
                .is_none_or(|words| words.iter().zip(masks).all(|(w, mask)| w & mask == mask))
        })
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
        let mut filter = Filter::default();
        for n in 0..100_000 {
            filter.insert(&hash(n));
        }
        assert!((0..100_000).all(|n| filter.may_contain(&hash(n))));
        let wrong = (100_000..200_000).filter(|n| filter.may_contain(&hash(*n))).count();
        assert!(wrong < 4_000, "{wrong} of 100,000");
    }
}
