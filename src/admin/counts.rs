//! What the administration counts of itself.

use axum::http::StatusCode;
use prometheus_client::metrics::counter::Counter;

use super::refusal::Refusal;
use crate::metrics::Registry;

/// See the module.
#[derive(Default)]
pub(super) struct Counts {
    ok: Counter,
    refused: Counter,
    failed: Counter,
    /// Wrong tokens, and requests that had to wait because of them.
    auth_failures: Counter,
}

impl Counts {
    /// An answer was given.
    pub fn note(&self, status: StatusCode) {
        match status.as_u16() {
            500.. => self.failed.inc(),
            400.. => self.refused.inc(),
            _ => self.ok.inc(),
        };
    }

    /// Somebody was not let in.
    pub fn refused(&self, _: &Refusal) {
        self.auth_failures.inc();
    }

    /// Shows them.
    pub fn register(&self, registry: &mut Registry) {
        for (class, counter) in [("ok", &self.ok), ("refused", &self.refused), ("failed", &self.failed)] {
            let labelled = registry.sub_registry_with_label(("result".into(), class.into()));
            labelled.register(
                "admin_requests",
                "Requests to the HTTP API, by how they ended",
                counter.clone(),
            );
        }
        let help = "Requests to the HTTP API that were not let in for want of a right token";
        registry.register("admin_auth_failures", help, self.auth_failures.clone());
    }
}
