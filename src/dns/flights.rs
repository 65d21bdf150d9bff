//! Questions that are out: who wants the same answer at the same time waits for the one question, and asks none.

use std::collections::HashMap;
use std::future::Future;
use std::sync::PoisonError;

use hickory_resolver::proto::rr::RecordType;
use tokio::sync::OnceCell;

use super::sync::{Arc, Mutex, MutexGuard};

type Key = (String, RecordType);

/// See the module. Empty when nobody waits.
pub(super) struct Flights<T>(Mutex<HashMap<Key, Flight<T>>>);

/// One question that is out.
struct Flight<T> {
    answer: Arc<OnceCell<T>>,
    /// Who asks and who waits. Counted here, under the lock, and not by who holds the answer: two that go away at the same
    /// moment would each still see the other.
    waiting: usize,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<T: Clone> Flights<T> {
    /// The answer to a question that is out, or else to `ask`.
    ///
    /// # Cancel safety
    /// When the one who asks goes away, one of those who wait asks anew.
    pub(super) async fn share(&self, name: &str, kind: RecordType, ask: impl Future<Output = T>) -> T {
        let waiting = self.wait((name.to_owned(), kind));
        waiting.answer.get_or_init(|| ask).await.clone()
    }

    fn wait(&self, key: Key) -> Waiting<'_, T> {
        let mut out = self.lock();
        let new = || Flight { answer: Arc::new(OnceCell::new()), waiting: 0 };
        let flight = out.entry(key.clone()).or_insert_with(new);
        flight.waiting += 1;
        Waiting { flights: self, key, answer: flight.answer.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Waiting<'a, T: Clone> {
    flights: &'a Flights<T>,
    key: Key,
    answer: Arc<OnceCell<T>>,
}

impl<T: Clone> Drop for Waiting<'_, T> {
    /// An answer is for those who waited for it; for others there is the cache.
    fn drop(&mut self) {
        let mut out = self.flights.lock();
        let ours = out.get_mut(&self.key).filter(|flight| Arc::ptr_eq(&flight.answer, &self.answer));
        let Some(flight) = ours else { return };
        flight.waiting -= 1;
        if flight.waiting == 0 || self.answer.initialized() {
            out.remove(&self.key);
        }
    }
}

#[cfg(test)]
impl<T: Clone> Flights<T> {
    /// How many wait for each question that is out.
    pub(super) fn waiting(&self) -> Vec<usize> {
        self.lock().values().map(|flight| flight.waiting).collect()
    }
}
