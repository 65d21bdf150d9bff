//! The way out: destinations, suppressed addresses, the way of an address.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/destinations`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Destinations {
    /// Those with most waiting first, at most 1000.
    pub destinations: Vec<Destination>,
    /// How many there are in all.
    pub total: u64,
}

/// One line in which mail waits for where it goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Destination {
    /// The route.
    pub route: String,
    /// `smarthost`, `mx`, `directory`, `discard`, `webhook` or `file`.
    pub transport: String,
    /// The domain, where that decides; else empty.
    pub destination: String,
    /// The worst of its hosts.
    pub breaker: BreakerState,
    /// Messages, or parts of them, that wait here.
    pub waiting: u64,
    /// Connections at this moment.
    pub connections: u64,
    /// How many it may have at this moment.
    pub connection_limit: u64,
    /// Nothing is tried before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<String>,
    /// Recipients that were delivered, since the line was there.
    pub delivered: u64,
    /// Attempts that were deferred.
    pub deferred: u64,
    /// Recipients that were refused for good.
    pub failed: u64,
    /// Recipients a minute that were delivered, over the last minute or so.
    pub rate_per_minute: f64,
    /// What it said last that was no success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_trouble: Option<String>,
    /// Hosts of which something is known.
    pub hosts: Vec<HostState>,
}

/// One host of a route.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostState {
    /// Name and port.
    pub host: String,
    /// Its breaker.
    pub breaker: BreakerState,
    /// It is left alone until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_until: Option<String>,
}

/// A circuit breaker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Everything passes.
    Closed,
    /// A few probes pass.
    HalfOpen,
    /// Nothing passes.
    Open,
}

/// `POST /api/v1/destinations/reset`: breakers are closed, and what waits is tried now.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// The route.
    pub route: String,
    /// Only this destination of it; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

/// The answer to it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ResetResult {
    /// Breakers that were not closed, and are now.
    pub breakers: u64,
    /// Lines that were paused, and go on.
    pub destinations: u64,
}

/// `GET /api/v1/suppressions`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionList {
    /// By address.
    pub suppressions: Vec<Suppression>,
    /// As in [`Messages::next`](super::Messages::next).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many there are.
    pub total: u64,
}

/// An address that no mail is taken for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Suppression {
    /// Which.
    pub address: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// `GET /api/v1/explain?address=…`: what would happen to a message for it now.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Explanation {
    /// The address.
    pub address: String,
    /// Why no mail is taken for it, if that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<String>,
    /// The route that takes it; absent: none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Routes before it, and the condition of each that does not hold.
    pub passed_over: Vec<String>,
    /// As in [`Destination::transport`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// What TLS must achieve, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// Where it would go: hosts in the order in which they would be asked.
    pub hosts: Vec<ExplainedHost>,
    /// What is wrong with finding them, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Connections, rates, sizes, in words.
    pub limits: Vec<String>,
    /// The selectors and domains that it would be signed with.
    pub dkim: Vec<String>,
    /// What becomes of it when no reply comes to the final dot: `resend` or `hold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_doubt: Option<String>,
    /// How long after acceptance each of the first attempts would be made at the latest, in seconds, and when it expires.
    pub retry_after_seconds: Vec<u64>,
    /// See there.
    pub expires_after_seconds: u64,
    /// The line in which it would wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
}

/// One host in an explanation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExplainedHost {
    /// Name and port.
    pub host: String,
    /// MX preference, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<u16>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its breaker.
    pub breaker: BreakerState,
    /// The policy that holds for it: `MTA-STS enforce`, `DANE, 2 TLSA records`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What is wrong with it, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}
