//! Which keys are being decided about at this moment (I2).
//!
//! A claim is taken at the final dot and lives until the commit that it protects has ended. It ends with its guard,
//! so that a dropped connection, a panic and a store's error all release it (I4). There are never more claims than
//! submissions being decided about (S2).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError};

use super::sync::{Mutex, MutexGuard};
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
