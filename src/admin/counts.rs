//! What the administration counts of itself.

use std::fmt;
use std::sync::Arc;

use axum::http::StatusCode;

use super::refusal::Refusal;
use crate::metrics::{Collector, Count, DescriptorEncoder, Registry, Tally, counters, label, one_counter};

label! {
    /// How a request ended.
    Ended as "result" {
        /// With what was asked for.
        Ok = "ok",
        /// The request was wrong, or not allowed (4xx).
        Refused = "refused",
        /// It could not be answered (5xx).
        Failed = "failed",
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requests: Tally<Ended>,
    /// Wrong tokens, and requests that had to wait because of them.
    auth_failures: Count,
}

/// What is shown.
#[derive(Debug)]
struct Shown(Arc<Inner>);

impl Counts {
    /// An answer was given.
    pub fn note(&self, status: StatusCode) {
        self.0.requests.add_one(match status.as_u16() {
            500.. => Ended::Failed,
            400.. => Ended::Refused,
            _ => Ended::Ok,
        });
    }

    /// Somebody was not let in.
    pub fn refused(&self, _: &Refusal) {
        self.0.auth_failures.add_one();
    }

    /// Shows them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Shown(self.0.clone())));
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let requests = ("admin_requests", "Requests to the HTTP API, by how they ended.");
        counters(&mut encoder, requests, self.0.requests.samples())?;
        let failures = "Requests to the HTTP API that were not let in for want of a right token.";
        one_counter(&mut encoder, ("admin_auth_failures", failures), self.0.auth_failures.get())
    }
}
