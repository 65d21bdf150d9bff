//! How much is done at once, so that whoever asks a lot does not get in the way of mail (S2).

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::refusal::Refusal;

/// Whoever has not got a place by then is sent away.
const PATIENCE: Duration = Duration::from_secs(2);

/// A number of places.
pub(super) struct Gate {
    places: Semaphore,
    what: &'static str,
}

impl Gate {
    /// `what` is in the sentence that sends somebody away.
    pub fn new(places: usize, what: &'static str) -> Self {
        Self { places: Semaphore::new(places), what }
    }

    /// A place, as soon as there is one.
    ///
    /// # Errors
    /// 503 when there is none for two seconds.
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        match timeout(PATIENCE, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Refusal::busy(format!("too many {} at once", self.what))),
        }
    }

    /// A place at once.
    ///
    /// # Errors
    /// 503 when there is none.
    pub fn enter_now(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.places.try_acquire().map_err(|_| Refusal::busy(format!("too many {} at once", self.what)))
    }

    /// Does something that takes its time, on a thread that may.
    ///
    /// # Errors
    /// As [`Gate::enter`]; 503 when it panics.
    pub async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let _place = self.enter().await?;
        tokio::task::spawn_blocking(work).await.map_err(|error| Refusal::broken("the request failed", &error))
    }
}
