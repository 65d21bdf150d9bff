//! The process: what it says of itself, sessions, problems.

use serde::{Deserialize, Serialize};

/// `POST /api/v1/reload`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// What is in force now and was not before: `route "provider"`, `limits.message_size`, …
    pub changed: Vec<String>,
    /// What the file says otherwise, and only a restart can bring into force.
    pub needs_restart: Vec<String>,
}

/// `GET /api/v1/overview`, and each event of `GET /api/v1/stream`: the state of things in one look. Counts are since the
/// start of the process; whoever wants rates takes differences.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Overview {
    /// Now.
    pub at: String,
    /// Our name.
    pub hostname: String,
    /// Of this program.
    pub version: String,
    /// How long it has been running.
    pub uptime_seconds: u64,
    /// Whether mail is taken and relayed …
    pub ready: bool,
    /// … and if not, why not; or what should be known.
    pub reasons: Vec<String>,
    /// Messages that wait or are being tried.
    pub queued: u64,
    /// Messages that are held.
    pub held: u64,
    /// Events that wait.
    pub events: u64,
    /// Age of the oldest message that is queued.
    pub oldest_seconds: u64,
    /// Submissions that were queued.
    pub accepted: u64,
    /// Retries that were answered with the first id.
    pub replayed: u64,
    /// Submissions that were refused, for whatever reason.
    pub refused: u64,
    /// Recipients that were delivered.
    pub delivered: u64,
    /// Attempts for a recipient that ended in "later".
    pub deferred: u64,
    /// Recipients that were refused for good, or expired.
    pub failed: u64,
    /// Clients that are connected.
    pub clients: u64,
    /// Connections to far sides.
    pub connections: u64,
    /// Breakers that are not closed.
    pub open_breakers: u64,
    /// From the final dot to the reply, over the last minute: the median and the 99th percentile, in seconds.
    pub accept_p50_seconds: f64,
    /// See there.
    pub accept_p99_seconds: f64,
    /// From acceptance to delivery, over the last minute, for what was delivered at the first attempt.
    pub deliver_p50_seconds: f64,
    /// See there.
    pub deliver_p99_seconds: f64,
}

/// `GET /api/v1/series?range=1h|24h`: how it was, oldest first, in columns of equal length.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Series {
    /// Seconds between two points.
    pub step_seconds: u64,
    /// Each point's time, in seconds since the Unix epoch.
    pub at: Vec<u64>,
    /// Submissions queued a second.
    pub accepted: Vec<f64>,
    /// Retries answered with the first id, a second.
    pub replayed: Vec<f64>,
    /// Submissions refused a second.
    pub refused: Vec<f64>,
    /// Recipients delivered a second.
    pub delivered: Vec<f64>,
    /// Attempts deferred a second.
    pub deferred: Vec<f64>,
    /// Recipients failed a second.
    pub failed: Vec<f64>,
    /// Messages in the queue.
    pub queued: Vec<u64>,
    /// Messages held.
    pub held: Vec<u64>,
    /// Seconds; see [`Overview::accept_p99_seconds`].
    pub accept_p99: Vec<f64>,
    /// Seconds; see [`Overview::deliver_p99_seconds`].
    pub deliver_p99: Vec<f64>,
}

/// An RFC 9457 problem document (`application/problem+json`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`, or `urn:oncemail:…` where a program should tell them apart.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for all of this type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this very request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Several things that are wrong, such as each mistake in a configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// `POST /session`: what a browser logs in with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// The token.
    pub token: String,
}

/// `GET /session`, and the answer to `POST /session`: who the caller is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// The token's name; `local` over the unix socket, `loopback` where no token is needed.
    pub name: String,
    /// `read` or `operate`.
    pub role: String,
    /// Whether contents and subjects may be read.
    pub contents: bool,
}

/// `POST /api/v1/suppressions`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuppressionRequest {
    /// Which.
    pub address: String,
    /// Why, at most 200 bytes.
    #[serde(default)]
    pub reason: String,
}
