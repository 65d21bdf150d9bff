//! What the administration is told of the parts that it must not import: the way in, the way out, and the process.
//!
//! `app` implements these over the real parts; a test implements them over nothing.

use std::future::Future;
use std::pin::Pin;

use super::model::{Destinations, Explanation, Reloaded, ResetResult};
use crate::queue::Routes;

/// What a call gives back that takes its time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The way out.
pub trait Outbound: Routes {
    /// Where mail waits, those with most waiting first, at most `most`; and how many there are.
    fn destinations(&self, most: usize) -> Destinations;

    /// Closes breakers and ends pauses of a route, or of one destination of it. `None`: there is no such route or
    /// destination.
    fn reset(&self, route: &str, destination: Option<&str>) -> Option<ResetResult>;

    /// What would happen to a message now. Asks DNS; bounded by its time-outs.
    fn explain<'a>(&'a self, question: &'a ExplainQuestion) -> Answer<'a, Explanation>;

    /// How TLS went with far sides, by day and policy (RFC 8460's terms).
    fn tls_report(&self) -> serde_json::Value;
}

/// Whose message is explained.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExplainQuestion {
    /// The recipient, parsed.
    pub address: String,
    /// The reverse-path; empty: some other sender.
    pub from: Option<String>,
    /// Who submits it.
    pub user: Option<String>,
    /// Through which listener.
    pub listener: Option<String>,
}

/// The process as a whole.
pub trait Process: Send + Sync {
    /// Whether mail is taken and relayed.
    fn readiness(&self) -> Readiness;

    /// What has been counted so far.
    fn totals(&self) -> Totals;

    /// All metrics in Prometheus' text format, and its content type.
    fn metrics(&self) -> (String, &'static str);

    /// Reads the configuration again and brings into force what can be; all of it or nothing. `by` is for the log.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the words of `check-config`; nothing has changed.
    fn reload<'a>(&'a self, by: &'a str) -> Answer<'a, Result<Reloaded, Vec<String>>>;

    /// The configuration in force, without secrets.
    fn config(&self) -> serde_json::Value;

    /// How long after its acceptance a message expires now (`retry.expire_after`); `None`: not told.
    fn expire_after(&self) -> Option<std::time::Duration> {
        None
    }
}

/// See [`Process::readiness`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Readiness {
    /// Whether all is well.
    pub ready: bool,
    /// One sentence for each thing that is not; may also be there when `ready`, as a note.
    pub reasons: Vec<String>,
}

/// What has been counted since the start of the process; the names are those of [`Overview`](super::model::Overview).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Totals {
    /// Submissions queued.
    pub accepted: u64,
    /// Retries answered.
    pub replayed: u64,
    /// Submissions refused.
    pub refused: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Attempts deferred.
    pub deferred: u64,
    /// Recipients failed or expired.
    pub failed: u64,
    /// Clients connected now.
    pub clients: u64,
    /// Connections to far sides now.
    pub connections: u64,
    /// Breakers that are not closed now.
    pub open_breakers: u64,
    /// From the final dot to the reply: upper bounds in seconds, and how many were at most that (cumulative).
    pub accept_latency: Vec<(f64, u64)>,
    /// From acceptance to delivery at the first attempt, in the same form.
    pub deliver_latency: Vec<(f64, u64)>,
}
