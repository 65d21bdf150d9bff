//! What the store knows a key by, and the commits that its index has not got yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::KeyRecord;
use crate::clock::Timestamp;
use crate::mail::{KeyKind, ScopedKey};

/// 16 bytes of BLAKE3 over scope, kind and key: two keys that meet in all 128 bits do not occur.
pub type KeyHash = [u8; 16];

/// How long one [`Bucket`] is.
const BUCKET: Duration = Duration::from_secs(4 * 3600);

/// Keys are kept together with those that expire in the same four hours: new keys then land side by side in the index,
/// and expiry is a walk from its front.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bucket(pub u32);

impl Bucket {
    /// Where a key belongs that expires then.
    pub fn of(expires_at: Timestamp) -> Self {
        let width = u64::try_from(BUCKET.as_millis()).unwrap_or(u64::MAX);
        Self(u32::try_from(expires_at.as_millis() / width).unwrap_or(u32::MAX))
    }

    /// When the last key of it has expired.
    pub fn end(self) -> Timestamp {
        let width = u64::try_from(BUCKET.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis((u64::from(self.0) + 1).saturating_mul(width))
    }
}

/// The hash of a key.
pub fn hash(key: &ScopedKey) -> KeyHash {
    let mut hasher = blake3::Hasher::new();
    let kind = match key.kind {
        KeyKind::Header => 0u8,
        KeyKind::MessageId => 1,
        KeyKind::Content => 2,
    };
    hasher.update(&[kind, key.scope.name().is_some().into()]);
    for part in [key.scope.name().unwrap_or_default(), &key.key] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut hash = KeyHash::default();
    hasher.finalize_xof().fill(&mut hash);
    hash
}

/// Keys that are durable in the journal and not yet in the index.
#[derive(Default)]
pub struct Overlay {
    active: HashMap<KeyHash, KeyRecord>,
    flushing: Arc<HashMap<KeyHash, KeyRecord>>,
    /// How many of `active` and of `flushing` expire when.
    active_counts: BTreeMap<Bucket, u64>,
    flushing_counts: BTreeMap<Bucket, u64>,
    moved: u64,
}

impl Overlay {
    /// The newest record of a key.
    pub fn get(&self, hash: &KeyHash) -> Option<&KeyRecord> {
        self.active.get(hash).or_else(|| self.flushing.get(hash))
    }

    /// Remembers a key.
    pub fn insert(&mut self, hash: KeyHash, record: KeyRecord) {
        let bucket = Bucket::of(record.expires_at);
        if let Some(before) = self.active.insert(hash, record)
            && let Some(count) = self.active_counts.get_mut(&Bucket::of(before.expires_at))
        {
            *count = count.saturating_sub(1);
        }
        *self.active_counts.entry(bucket).or_default() += 1;
    }

    /// Adds how many keys expire when.
    pub fn count_into(&self, counts: &mut BTreeMap<Bucket, u64>) {
        for (bucket, count) in self.active_counts.iter().chain(&self.flushing_counts) {
            *counts.entry(*bucket).or_default() += count;
        }
    }

    /// How many keys wait for the index, but for those on their way.
    pub fn waiting(&self) -> usize {
        self.active.len()
    }

    /// How many times keys have left for the index: a lookup that noted this number can tell whether "neither in the
    /// overlay then nor now" still means "nowhere".
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Takes what waits, to be put into the index; it stays visible until [`Overlay::finish_move`].
    pub fn begin_move(&mut self) -> Arc<HashMap<KeyHash, KeyRecord>> {
        self.flushing = Arc::new(std::mem::take(&mut self.active));
        self.flushing_counts = std::mem::take(&mut self.active_counts);
        self.flushing.clone()
    }

    /// The index could not take them: they wait again.
    pub fn cancel_move(&mut self) {
        let mut waiting = Arc::unwrap_or_clone(std::mem::take(&mut self.flushing));
        waiting.extend(self.active.drain());
        self.active = waiting;
        self.flushing_counts.clear();
        self.active_counts.clear();
        for record in self.active.values() {
            *self.active_counts.entry(Bucket::of(record.expires_at)).or_default() += 1;
        }
    }

    /// The index has them.
    pub fn finish_move(&mut self) {
        self.flushing = Arc::default();
        self.flushing_counts.clear();
        self.moved += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Scope;

    fn key(scope: Scope, kind: KeyKind, key: &str) -> ScopedKey {
        ScopedKey { scope, kind, key: key.into() }
    }

    #[test]
    fn no_two_different_keys_run_together() {
        let keys = [
            key(Scope::named("ab"), KeyKind::Header, "c"),
            key(Scope::named("a"), KeyKind::Header, "bc"),
            key(Scope::named(""), KeyKind::Header, "abc"),
            key(Scope::anonymous(), KeyKind::Header, "abc"),
            key(Scope::anonymous(), KeyKind::MessageId, "abc"),
            key(Scope::anonymous(), KeyKind::Content, "abc"),
        ];
        let hashes: std::collections::HashSet<_> = keys.iter().map(hash).collect();
        assert_eq!(hashes.len(), keys.len());
    }
}
