//! The process as the administration sees it: readiness, figures, configuration.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::metrics::Metrics;
use super::parts::State;
use super::reload::Reloader;
use crate::admin::model::Reloaded;
use crate::admin::ports::{Answer, Process, Readiness, Totals};
use crate::relay::Relay;
use crate::store::{Status, Store};

/// See the module.
pub(super) struct Administration {
    pub(super) ready: Ready,
    pub(super) reloader: Reloader,
    /// Set before anybody can ask.
    pub(super) metrics: OnceLock<Metrics>,
}

/// What readiness depends on; a copy tells the health socket and the metrics.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) store: Arc<dyn Store>,
    pub(super) relay: Arc<Relay>,
    pub(super) state: State,
}

impl Ready {
    /// Whether mail is taken and relayed.
    pub(super) fn ask(&self) -> Readiness {
        readiness(&self.store.status(), self.state.stopping(), self.relay.is_usable())
    }
}

impl Process for Administration {
    fn readiness(&self) -> Readiness {
        self.ready.ask()
    }

    fn totals(&self) -> Totals {
        self.metrics.get().map(Metrics::totals).unwrap_or_default()
    }

    fn metrics(&self) -> (String, &'static str) {
        self.metrics.get().map_or_else(|| (String::new(), "text/plain"), Metrics::text)
    }

    fn reload<'a>(&'a self, by: &'a str) -> Answer<'a, Result<Reloaded, Vec<String>>> {
        Box::pin(self.reloader.reload(by))
    }

    fn config(&self) -> serde_json::Value {
        self.reloader.shown()
    }

    fn expire_after(&self) -> Option<Duration> {
        Some(self.reloader.config().queue.expire_after)
    }
}

/// D3: a latched store is not ready; nor is anything that is about to stop, or that has no way out.
pub(super) fn readiness(status: &Status, stopping: Option<String>, usable: Result<(), String>) -> Readiness {
    let store = match status {
        Status::Ready => None,
        Status::LowDisk { free_bytes } => {
            Some(format!("new mail is refused: only {free_bytes} bytes are free (limits.min_free)"))
        }
        Status::Latched { reason } => Some(format!("new mail is refused until a restart: {reason}")),
        Status::Closed => Some("the store is closed".to_owned()),
    };
    let reasons: Vec<_> = stopping.into_iter().chain(store).chain(usable.err()).collect();
    Readiness { ready: reasons.is_empty(), reasons }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d3_whatever_keeps_mail_from_being_taken_is_not_ready_and_said() {
        assert_eq!(readiness(&Status::Ready, None, Ok(())), Readiness { ready: true, reasons: Vec::new() });
        let latched = Status::Latched { reason: "the disk is gone".to_owned() };
        let stopping = || Some("oncemail is stopping: the relay ended by a panic".to_owned());
        for (status, stopping, said) in [
            (Status::LowDisk { free_bytes: 17 }, None, "only 17 bytes are free"),
            (latched.clone(), None, "the disk is gone"),
            (Status::Closed, None, "closed"),
            (Status::Ready, stopping(), "the relay ended"),
            (latched, stopping(), "the relay ended"),
        ] {
            let health = readiness(&status, stopping, Ok(()));
            assert!(!health.ready && health.reasons.concat().contains(said), "{health:?}");
        }
        let health = readiness(&Status::Ready, None, Err("no route can be used".to_owned()));
        assert_eq!((health.ready, health.reasons), (false, vec!["no route can be used".to_owned()]));
    }
}
