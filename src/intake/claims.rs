//! Which keys are being decided about at this moment (I2).
//!
//! A claim is taken at the final dot and lives until the commit that it protects has ended. It ends with its guard,
//! so that a dropped connection, a panic and a store's error all release it (I4). There are never more claims than
//! submissions being decided about (S2).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::mail::{QueueId, ScopedKey};

/// The keys that are claimed, and by whom.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<ScopedKey, QueueId>>);

/// A key is claimed as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    key: ScopedKey,
}

impl Claims {
    /// Claims `key` for the submission `id`.
    ///
    /// # Errors
    /// Says who has it.
    pub(super) fn take(self: &Arc<Self>, key: &ScopedKey, id: QueueId) -> Result<Claim, QueueId> {
        match self.held().entry(key.clone()) {
            Entry::Occupied(held) => Err(*held.get()),
            Entry::Vacant(free) => {
                free.insert(id);
                Ok(Claim { claims: self.clone(), key: key.clone() })
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<ScopedKey, QueueId>> {
        // Nothing can panic while the map is half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.held().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{KeyKind, Scope};

    fn key(scope: Scope, kind: KeyKind) -> ScopedKey {
        ScopedKey { scope, kind, key: "k".to_owned() }
    }

    #[test]
    fn i2_a_key_is_claimed_once_until_its_guard_ends() {
        let claims = Arc::new(Claims::default());
        let (first, second) = (QueueId::from_bytes([1; 16]), QueueId::from_bytes([2; 16]));
        let mine = key(Scope::anonymous(), KeyKind::Header);
        let claim = claims.take(&mine, first).unwrap();
        assert_eq!(claims.take(&mine, second).unwrap_err(), first);
        let _other_scope = claims.take(&key(Scope::named("k"), KeyKind::Header), second).unwrap();
        let _other_kind = claims.take(&key(Scope::anonymous(), KeyKind::Content), second).unwrap();
        drop(claim);
        assert!(claims.take(&mine, second).is_ok());
    }

    #[test]
    fn i4_a_panic_releases_the_claim() {
        let claims = Arc::new(Claims::default());
        let mine = key(Scope::anonymous(), KeyKind::Header);
        let thread = std::thread::spawn({
            let (claims, mine) = (claims.clone(), mine.clone());
            move || {
                let _claim = claims.take(&mine, QueueId::from_bytes([1; 16])).unwrap();
                panic!("as intended");
            }
        });
        assert!(thread.join().is_err());
        assert!(claims.take(&mine, QueueId::from_bytes([2; 16])).is_ok());
    }
}
