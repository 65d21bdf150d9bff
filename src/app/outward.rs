//! The relay as the administration sees it: its views as the API's documents.

use std::sync::Arc;

use crate::admin::model::{
    BreakerState, Destination, Destinations, ExplainedHost, Explanation, HostState, ResetResult,
};
use crate::admin::ports::{Answer, ExplainQuestion, Outbound};
use crate::mail::{Address, ReversePath};
use crate::queue::{Queue, Routes};
use crate::relay::Relay;
use crate::relay::tls_report::{Day, TlsReport};
use crate::relay::views::{self, Phase};
use crate::store::suppression::Suppressions;

/// Attempts whose times an explanation tells.
const ATTEMPTS_TOLD: usize = 8;

/// See the module.
pub(super) struct Outward {
    pub(super) relay: Arc<Relay>,
    pub(super) queue: Arc<Queue>,
    pub(super) suppressions: Option<Arc<Suppressions>>,
}

impl Routes for Outward {
    fn route(
        &self,
        recipient_domain: Option<&str>,
        sender_domain: Option<&str>,
        user: Option<&str>,
        listener: &str,
    ) -> Option<Arc<str>> {
        self.relay.route(recipient_domain, sender_domain, user, listener)
    }
}

impl Outbound for Outward {
    fn destinations(&self, most: usize) -> Destinations {
        let (destinations, total) = self.relay.destinations(most);
        Destinations {
            destinations: destinations.into_iter().map(destination).collect(),
            total: count(total),
        }
    }

    fn reset(&self, route: &str, destination: Option<&str>) -> Option<ResetResult> {
        let done = self.relay.reset(route, destination)?;
        Some(ResetResult { breakers: count(done.breakers), destinations: count(done.destinations) })
    }

    fn explain<'a>(&'a self, question: &'a ExplainQuestion) -> Answer<'a, Explanation> {
        Box::pin(async move {
            match Address::parse(&question.address) {
                Ok(address) => self.explained(question, address).await,
                // The API has parsed it already.
                Err(error) => Explanation {
                    address: question.address.clone(),
                    trouble: Some(format!("not an address: {error}")),
                    ..Explanation::default()
                },
            }
        })
    }

    fn tls_report(&self) -> serde_json::Value {
        let report: Arc<TlsReport> = self.relay.tls_report();
        serde_json::json!({ "days": report.snapshot().iter().map(day).collect::<Vec<_>>() })
    }
}

impl Outward {
    async fn explained(&self, question: &ExplainQuestion, address: Address) -> Explanation {
        let suppressed = self.suppressions.as_ref().and_then(|list| list.find(&address));
        let suppressed =
            suppressed.map(|entry| format!("suppressed since {}: {}", entry.since, entry.reason));
        let from = question.from.as_deref().filter(|from| !from.is_empty() && *from != "<>");
        let sender = from.and_then(|from| Address::parse(from).ok()).map(ReversePath::Mailbox);
        let sender_domain = sender.as_ref().and_then(|sender| sender.mailbox()?.domain().map(str::to_owned));
        let asked = views::Asked {
            to: address,
            sender_domain,
            user: question.user.clone(),
            listener: question.listener.clone(),
        };
        let found = self.relay.explain(&asked).await;
        let (attempts, expires) = self.queue.attempts_at_the_latest(ATTEMPTS_TOLD);
        Explanation {
            address: question.address.clone(),
            suppressed,
            route: found.route,
            passed_over: found.passed_over,
            transport: found.transport.map(str::to_owned),
            tls: found.tls,
            hosts: found.hosts.into_iter().map(explained_host).collect(),
            trouble: found.trouble,
            limits: found.limits,
            dkim: found.dkim,
            in_doubt: found.in_doubt.map(str::to_owned),
            retry_after_seconds: attempts.iter().map(std::time::Duration::as_secs).collect(),
            expires_after_seconds: expires.as_secs(),
            destination: found.destination.map(destination),
        }
    }
}

fn destination(view: views::Destination) -> Destination {
    Destination {
        route: view.route,
        transport: view.transport.to_owned(),
        destination: view.destination,
        breaker: breaker(view.breaker),
        waiting: count(view.waiting),
        connections: count(view.connections),
        connection_limit: count(view.connection_limit),
        paused_until: view.paused_until.map(|until| until.to_string()),
        delivered: view.delivered,
        deferred: view.deferred,
        failed: view.failed,
        rate_per_minute: (view.rate_per_minute * 10.0).round() / 10.0,
        last_trouble: view.last_trouble,
        hosts: view.hosts.into_iter().map(host).collect(),
    }
}

fn host(state: views::HostState) -> HostState {
    let open_until = state.open_until.map(|until| until.to_string());
    HostState { host: state.host, breaker: breaker(state.breaker), open_until }
}

fn explained_host(found: views::ExplainedHost) -> ExplainedHost {
    ExplainedHost {
        breaker: breaker(found.state.breaker),
        host: found.state.host,
        preference: found.preference,
        addresses: found.addresses,
        policy: found.policy,
        trouble: found.trouble,
    }
}

fn breaker(phase: Phase) -> BreakerState {
    match phase {
        Phase::Closed => BreakerState::Closed,
        Phase::HalfOpen => BreakerState::HalfOpen,
        Phase::Open => BreakerState::Open,
    }
}

/// One day in the words of RFC 8460 §4.
fn day(day: &Day) -> serde_json::Value {
    let policies: Vec<_> = day
        .sessions
        .iter()
        .map(|((domain, policy), sessions)| {
            let failures: Vec<_> = sessions
                .failures
                .iter()
                .map(|(failure, count)| {
                    serde_json::json!({ "result-type": failure.as_str(), "failed-session-count": count })
                })
                .collect();
            serde_json::json!({
                "policy": { "policy-type": policy.as_str(), "policy-domain": domain },
                "summary": {
                    "total-successful-session-count": sessions.successes,
                    "total-failure-session-count": sessions.failures.values().sum::<u64>(),
                },
                "failure-details": failures,
            })
        })
        .collect();
    serde_json::json!({ "date": day.date, "policies": policies, "sessions-beyond": day.beyond })
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
