//! The parts that run side by side: all of them, or none.
//!
//! A part that ends of itself, or panics, ends the others in order too, and the process with exit code 1: a relay that
//! takes mail and sends none on, or the other way round, must not look healthy. Whoever watches the process starts it
//! again, and nothing that was acknowledged is lost (D1).

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use anyhow::anyhow;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// See the module.
pub(super) struct Parts {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    state: State,
}

/// Whether the parts run; a copy tells the health socket.
#[derive(Clone)]
pub(super) struct State {
    stop: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Parts {
    /// No parts yet. They are to end when `shutdown` is cancelled.
    pub(super) fn new(shutdown: &CancellationToken) -> Self {
        // A token of our own: the end of a part must not look like a signal to whoever else holds `shutdown`.
        let state = State { stop: shutdown.child_token(), failure: Arc::default() };
        Self { running: JoinSet::new(), names: HashMap::new(), state }
    }

    /// Starts a part, which ends when [`State::stop`] is cancelled, and not before.
    pub(super) fn start(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.names.insert(self.running.spawn(part).id(), name);
    }

    pub(super) fn state(&self) -> State {
        self.state.clone()
    }

    /// Waits until every part has ended.
    ///
    /// # Errors
    /// Names the first part that panicked, or ended before it was asked to.
    pub(super) async fn wait(&mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.running.join_next_with_id().await {
            match ended {
                Ok(_) if self.state.stop.is_cancelled() => {}
                Ok((id, ())) => self.fail(id, "has ended of itself"),
                Err(error) => self.fail(error.id(), "ended by a panic"),
            }
        }
        self.state.failure.get().map_or(Ok(()), |failure| Err(anyhow!("{failure}")))
    }

    fn fail(&self, id: Id, how: &str) {
        let failure = format!("{} {how}", self.names.get(&id).unwrap_or(&"a part"));
        tracing::error!("{failure}; everything stops, and a restart recovers");
        // The first failure may be the reason of those that come after it.
        let _ = self.state.failure.set(failure);
        self.state.stop.cancel();
    }
}

impl State {
    /// Cancelled when the parts are to end.
    pub(super) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Why mail is not taken and relayed any more, if that is so.
    pub(super) fn stopping(&self) -> Option<String> {
        match self.failure.get() {
            Some(failure) => Some(format!("oncemail is stopping: {failure}")),
            None => self.stop.is_cancelled().then(|| "oncemail is stopping".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a part that is there until it is told to stop, and `odd` beside it.
    async fn run_beside(odd: impl Future<Output = ()> + Send + 'static) -> (String, State) {
        let mut parts = Parts::new(&CancellationToken::new());
        let state = parts.state();
        let stop = state.stop();
        parts.start("the steady part", async move { stop.cancelled().await });
        parts.start("the odd part", odd);
        let error = parts.wait().await.expect_err("a part has failed");
        (error.to_string(), state)
    }

    #[tokio::test]
    async fn a_part_that_panics_or_ends_ends_all_and_is_named() {
        let (error, state) = run_beside(async { panic!("for the test") }).await;
        assert_eq!(error, "the odd part ended by a panic");
        assert_eq!(state.stopping().as_deref(), Some("oncemail is stopping: the odd part ended by a panic"));
        let (error, _) = run_beside(async {}).await;
        assert_eq!(error, "the odd part has ended of itself");
    }

    #[tokio::test]
    async fn a_shutdown_ends_all_and_is_no_failure_but_a_panic_in_it_is() {
        let shutdown = CancellationToken::new();
        let mut parts = Parts::new(&shutdown);
        let state = parts.state();
        let (one, other) = (state.stop(), state.stop());
        parts.start("one", async move { one.cancelled().await });
        assert_eq!(state.stopping(), None);
        shutdown.cancel();
        assert_eq!(state.stopping().as_deref(), Some("oncemail is stopping"));
        parts.wait().await.expect("no part has failed");
        parts.start("the other", async move {
            other.cancelled().await;
            panic!("for the test");
        });
        assert_eq!(parts.wait().await.unwrap_err().to_string(), "the other ended by a panic");
    }
}
