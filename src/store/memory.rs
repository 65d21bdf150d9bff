//! A store that forgets everything with the process: the model that tests compare with, and a stand-in for tests of
//! what stands above a store. `app` never uses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Acceptance, Arrivals, Figures, Forgotten, KeyClaim, KeyRecord, Status, Store, StoreError, StoreFuture,
};
use crate::clock::Clock;
use crate::mail::{Message, Progress, QueueId, ScopedKey};

/// See the module.
pub struct MemoryStore {
    clock: Clock,
    arrivals: Option<Arc<dyn Arrivals>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: HashMap<QueueId, (Arc<Message>, Progress)>,
    keys: HashMap<ScopedKey, KeyRecord>,
    failure: Option<StoreError>,
}

impl MemoryStore {
    /// An empty store that tells `arrivals` of each message.
    pub fn new(clock: Clock, arrivals: Option<Arc<dyn Arrivals>>) -> Self {
        Self { clock, arrivals, state: Mutex::default() }
    }

    /// Makes every later call that writes fail with `failure`, or work again.
    pub fn fail_with(&self, failure: Option<StoreError>) {
        self.state().failure = failure;
    }

    /// All messages that are not finished, by id.
    pub fn messages(&self) -> Vec<(Arc<Message>, Progress)> {
        let mut all: Vec<_> = self.state().messages.values().cloned().collect();
        all.sort_by_key(|(message, _)| message.id);
        all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept_now(&self, message: Arc<Message>, claim: Option<KeyClaim>) -> Result<Acceptance, StoreError> {
        let mut state = self.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if let (Some(key), Some(claim)) = (&message.key, claim) {
            if let Some(record) = self.living_key(&state, key) {
                return Ok(Acceptance::Existing(record));
            }
            let record = claim.record(&message);
            state.keys.insert(key.clone(), record);
        }
        let due_at = message.envelope.due_at(message.accepted_at);
        let progress = Progress::fresh(message.envelope.recipients.len(), due_at);
        state.messages.insert(message.id, (message.clone(), progress));
        drop(state);
        if let Some(arrivals) = &self.arrivals {
            arrivals.arrived(vec![message]);
        }
        Ok(Acceptance::Queued)
    }

    fn save_now(
        &self,
        id: QueueId,
        progress: Progress,
        notices: Vec<Arc<Message>>,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if !state.messages.contains_key(&id) {
            return Ok(());
        }
        if progress.is_finished() {
            state.messages.remove(&id);
        } else if let Some((_, current)) = state.messages.get_mut(&id) {
            *current = progress;
        }
        for notice in &notices {
            let due_at = notice.envelope.due_at(notice.accepted_at);
            let progress = Progress::fresh(notice.envelope.recipients.len(), due_at);
            state.messages.insert(notice.id, (notice.clone(), progress));
        }
        drop(state);
        if let Some(arrivals) = self.arrivals.as_ref().filter(|_| !notices.is_empty()) {
            arrivals.arrived(notices);
        }
        Ok(())
    }

    fn forget_now(&self, key: &ScopedKey) -> Result<Forgotten, StoreError> {
        let mut state = self.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let living = self.living_key(&state, key);
        state.keys.remove(key);
        Ok(living.map_or(Forgotten::Unknown, Forgotten::Key))
    }

    fn living_key(&self, state: &State, key: &ScopedKey) -> Option<KeyRecord> {
        let record = state.keys.get(key)?;
        let alive = self.clock.settled() < record.expires_at || state.messages.contains_key(&record.id);
        alive.then(|| record.clone())
    }
}

impl Store for MemoryStore {
    fn find_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Option<KeyRecord>> {
        Box::pin(async move { Ok(self.living_key(&self.state(), key)) })
    }

    fn accept(&self, message: Arc<Message>, claim: Option<KeyClaim>) -> StoreFuture<'_, Acceptance> {
        Box::pin(async move { self.accept_now(message, claim) })
    }

    fn save_with(&self, id: QueueId, progress: Progress, notices: Vec<Arc<Message>>) -> StoreFuture<'_, ()> {
        Box::pin(async move { self.save_now(id, progress, notices) })
    }

    fn load(&self, id: QueueId) -> StoreFuture<'_, Option<(Arc<Message>, Progress)>> {
        Box::pin(async move { Ok(self.state().messages.get(&id).cloned()) })
    }

    fn forget_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Forgotten> {
        Box::pin(async move { self.forget_now(key) })
    }

    fn status(&self) -> Status {
        match &self.state().failure {
            None => Status::Ready,
            Some(StoreError::LowDisk { free_bytes }) => Status::LowDisk { free_bytes: *free_bytes },
            Some(StoreError::Closed) => Status::Closed,
            Some(error) => Status::Latched { reason: error.to_string() },
        }
    }

    fn figures(&self) -> Figures {
        let state = self.state();
        let (keys, messages) = (state.keys.len() as u64, state.messages.len() as u64);
        Figures { keys, messages, ..Figures::default() }
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.fail_with(Some(StoreError::Closed));
            Ok(())
        })
    }
}
