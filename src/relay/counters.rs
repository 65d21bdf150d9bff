//! What the relay counts since its start, for whoever wants to show it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::time::Instant;

use super::breaker::Transition;
use super::breakers::Breakers;
use crate::mail::Message;
use crate::metrics::{Count, Label, Latency, Named, Tally, label};
use crate::queue::{End, Outcome, Settled};

/// Stands for a route where none matches; a route of the same name would be counted with it.
pub(super) const NO_ROUTE: &str = "none";

label! {
    /// What came of a recipient.
    pub(super) Fate as "outcome" {
        /// The next hop has taken it.
        Delivered = "delivered",
        /// Later.
        Deferred = "deferred",
        /// Refused for good.
        Failed = "failed",
        /// R1: the final dot got no reply.
        InDoubt = "in_doubt",
        /// Its time was up.
        Expired = "expired",
    }
}

label! {
    /// How a connection is encrypted.
    pub(super) Encryption as "tls" {
        /// Not at all.
        None = "none",
        /// RFC 5246.
        Tls12 = "TLSv1.2",
        /// RFC 8446.
        Tls13 = "TLSv1.3",
        /// Whatever rustls may know one day.
        Other = "other",
    }
}

impl Label for Transition {
    const NAME: &'static str = "to";
    const VALUES: &'static [&'static str] = &["open", "half_open", "closed"];

    fn index(self) -> usize {
        self as usize
    }
}

/// Grows while the process lives; nothing of it is kept over a restart.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) routes: Named<RouteCounters>,
    pub(super) transitions: Tally<Transition>,
    pub(super) connections: Tally<Encryption>,
    pub(super) not_connected: Count,
    /// Connections that are open now.
    open: Count,
    pub(super) lanes: Count,
    /// From the time at which a message was due to its delivery, where the first attempt brought it.
    delivery: Latency,
    /// Asked for their states when somebody wants to know.
    breakers: Mutex<Vec<Weak<Breakers>>>,
}

/// What is counted of one route.
#[derive(Debug, Default)]
pub(super) struct RouteCounters {
    pub(super) outcomes: Tally<Fate>,
    /// Of those in doubt the ones that are sent again.
    resent: Count,
    /// One attempt each, from choosing a host to the last reply.
    pub(super) attempts: Latency,
}

/// The counters at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Recipients that a next hop has taken.
    pub delivered: u64,
    /// Attempts for a recipient that ended in "later", those in doubt included where they are sent again.
    pub deferred: u64,
    /// Recipients that were refused for good.
    pub failed: u64,
    /// Recipients whose time was up.
    pub expired: u64,
    /// R1: attempts for a recipient whose final dot got no reply.
    pub in_doubt: u64,
    /// Times that a host was left alone.
    pub breaker_opened: u64,
    /// Times that a host was probed again.
    pub breaker_half_opened: u64,
    /// Times that a host was found to work again.
    pub breaker_closed: u64,
    /// Destinations that have a lane now.
    pub lanes: u64,
    /// Connections to far sides that are open now.
    pub connections: u64,
}

impl Counters {
    /// All of them now.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            breaker_opened: self.transitions.get(Transition::Opened),
            breaker_half_opened: self.transitions.get(Transition::HalfOpened),
            breaker_closed: self.transitions.get(Transition::Closed),
            lanes: self.lanes.get(),
            connections: self.open.get(),
            ..Counts::default()
        };
        for (_, route) in self.routes.all() {
            counts.delivered += route.outcomes.get(Fate::Delivered);
            counts.deferred += route.outcomes.get(Fate::Deferred) + route.resent.get();
            counts.failed += route.outcomes.get(Fate::Failed);
            counts.expired += route.outcomes.get(Fate::Expired);
            counts.in_doubt += route.outcomes.get(Fate::InDoubt);
        }
        counts
    }

    /// From the time at which a message was due to its delivery, where the first attempt brought it.
    pub fn delivery(&self) -> &Latency {
        &self.delivery
    }

    /// Hosts that are left alone now, and hosts that are probed, or would be by the next message.
    pub fn open_breakers(&self) -> (usize, usize) {
        let mut watched = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of routes that are gone.
        watched.retain(|breakers| breakers.strong_count() > 0);
        let watched: Vec<_> = watched.iter().filter_map(Weak::upgrade).collect();
        let states = watched.iter().map(|breakers| breakers.open());
        states.fold((0, 0), |(open, half), (more, more_half)| (open + more, half + more_half))
    }

    /// What is counted of a route. For setting up: takes a lock.
    pub(super) fn route(&self, name: &str) -> Arc<RouteCounters> {
        self.routes.of(name)
    }

    /// Has the states of these breakers counted.
    pub(super) fn watch(&self, breakers: &Arc<Breakers>) {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(breakers));
    }

    /// What is durable now of a message on this route.
    pub(super) fn told(
        &self,
        route: &RouteCounters,
        message: &Message,
        outcomes: &[Outcome],
        settled: &Settled,
    ) {
        for outcome in outcomes {
            route.outcome(outcome);
            let progress = settled.progress.recipients.get(outcome.recipient);
            if outcome.end == End::Delivered && progress.is_some_and(|recipient| recipient.attempts <= 1) {
                let due_at = message.envelope.due_at(message.accepted_at);
                self.delivery.observe(outcome.reply.at.since(due_at));
            }
        }
        route.outcomes.add(Fate::Expired, settled.expired.len() as u64);
    }

    /// A connection is ready for mail; `tls` as the log has it, empty for none.
    pub(super) fn connected(&self, tls: &str) {
        self.connections.add_one(match tls.split(' ').next() {
            None | Some("") => Encryption::None,
            Some("TLSv1.2") => Encryption::Tls12,
            Some("TLSv1.3") => Encryption::Tls13,
            Some(_) => Encryption::Other,
        });
    }

    pub(super) fn breaker(&self, changed: Transition) {
        self.transitions.add_one(changed);
    }

    pub(super) fn lane_made(&self) {
        self.lanes.add_one();
    }

    pub(super) fn lanes_removed(&self, lanes: usize) {
        self.lanes.take(lanes as u64);
    }
}

/// Counts connections that are open.
impl AsRef<Count> for Counters {
    fn as_ref(&self) -> &Count {
        &self.open
    }
}

impl RouteCounters {
    /// An attempt has brought answers.
    pub(super) fn attempted(&self, began: Instant) {
        self.attempts.observe(began.elapsed());
    }

    fn outcome(&self, outcome: &Outcome) {
        if outcome.in_doubt && outcome.end == End::Deferred {
            self.resent.add_one();
        }
        self.outcomes.add_one(match outcome.end {
            _ if outcome.in_doubt => Fate::InDoubt,
            End::Delivered => Fate::Delivered,
            End::Deferred => Fate::Deferred,
            End::Failed => Fate::Failed,
            End::InDoubt => Fate::InDoubt,
        });
    }
}
