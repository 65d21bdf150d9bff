//! What the relay counts since its start, for whoever wants to show it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::breaker::Transition;
use crate::queue::{End, Outcome};

/// Grows while the process lives; nothing of it is kept over a restart.
#[derive(Debug, Default)]
pub struct Counters {
    delivered: AtomicU64,
    deferred: AtomicU64,
    failed: AtomicU64,
    in_doubt: AtomicU64,
    breaker_opened: AtomicU64,
    breaker_half_opened: AtomicU64,
    breaker_closed: AtomicU64,
    lanes: AtomicU64,
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
}

impl Counters {
    /// All of them now.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            delivered: read(&self.delivered),
            deferred: read(&self.deferred),
            failed: read(&self.failed),
            in_doubt: read(&self.in_doubt),
            breaker_opened: read(&self.breaker_opened),
            breaker_half_opened: read(&self.breaker_half_opened),
            breaker_closed: read(&self.breaker_closed),
            lanes: read(&self.lanes),
        }
    }

    pub(super) fn outcome(&self, outcome: &Outcome) {
        let counter = match outcome.end {
            End::Delivered => Some(&self.delivered),
            End::Deferred => Some(&self.deferred),
            End::Failed => Some(&self.failed),
            End::InDoubt => None,
        };
        if let Some(counter) = counter {
            add(counter);
        }
        if outcome.in_doubt || outcome.end == End::InDoubt {
            add(&self.in_doubt);
        }
    }

    pub(super) fn breaker(&self, changed: Transition) {
        add(match changed {
            Transition::Opened => &self.breaker_opened,
            Transition::HalfOpened => &self.breaker_half_opened,
            Transition::Closed => &self.breaker_closed,
        });
    }

    pub(super) fn lane_made(&self) {
        add(&self.lanes);
    }

    pub(super) fn lanes_removed(&self, lanes: usize) {
        self.lanes.fetch_sub(u64::try_from(lanes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
