//! Questions that are out: who wants the same answer at the same time waits for the one question, and asks none.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_resolver::proto::rr::RecordType;
use tokio::sync::OnceCell;

type Key = (String, RecordType);

/// See the module. Empty when nobody waits.
pub(super) struct Flights<T>(Mutex<HashMap<Key, Arc<OnceCell<T>>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Flights<T> {
    /// The answer to a question that is out, or else to `ask`.
    ///
    /// # Cancel safety
    /// When the one who asks goes away, one of those who wait asks anew.
    pub(super) async fn share(&self, name: &str, kind: RecordType, ask: impl Future<Output = T>) -> T {
        let key = (name.to_owned(), kind);
        let cell = self.lock().entry(key.clone()).or_default().clone();
        let waiting = Waiting { flights: self, key, cell };
        waiting.cell.get_or_init(|| ask).await.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<OnceCell<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Waiting<'a, T: Clone> {
    flights: &'a Flights<T>,
    key: Key,
    cell: Arc<OnceCell<T>>,
}

impl<T: Clone> Drop for Waiting<'_, T> {
    /// An answer is for those who waited for it; for others there is the cache.
    fn drop(&mut self) {
        let mut out = self.flights.lock();
        let is_ours = out.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        // The table's and our own.
        let is_last = Arc::strong_count(&self.cell) <= 2;
        if is_ours && (is_last || self.cell.initialized()) {
            out.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_the_same_answer_shares_one_question_and_outlives_who_asked() {
        let (flights, asked, answer) =
            (Arc::new(Flights::<u32>::default()), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let spawn = || {
            let (flights, asked, answer) = (flights.clone(), asked.clone(), answer.clone());
            tokio::spawn(async move {
                let ask = async {
                    asked.fetch_add(1, Ordering::SeqCst);
                    answer.notified().await;
                    7
                };
                flights.share("x.example", RecordType::A, ask).await
            })
        };
        let until_asked = async |times: usize| {
            while asked.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        };
        let first = spawn();
        until_asked(1).await;
        let waiting: Vec<_> = (0..10).map(|_| spawn()).collect();
        while flights.lock().values().next().is_some_and(|cell| Arc::strong_count(cell) < 12) {
            tokio::task::yield_now().await;
        }
        first.abort();
        until_asked(2).await;
        answer.notify_one();
        for one in waiting {
            assert_eq!(one.await.unwrap(), 7);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        assert!(flights.lock().is_empty());
    }
}
