//! One route's way out: its transport, and a lane for each of its destinations.
//!
//! A route to the hosts of domains has a lane for each domain that has mail, made when the first message comes and
//! removed when the last connection has gone; every other route has one lane, which stays. So a domain that nobody
//! writes to any more costs nothing (S2).
//!
//! A way whose route is gone, or changed, *ends*: it takes nothing any more, what waits in it goes back to the queue
//! untried, and its connections leave when what they have in doubt has its reply (R1).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::counters::RouteCounters;
use super::directory::Directory;
use super::dkim::Signers;
use super::event_file::EventFile;
use super::fields::Fields;
use super::hook::Hook;
use super::lane::{self, Lane, Leg};
use super::options::InDoubt;
use super::routing::Makeup;
use super::smarthost::Smarthost;
use super::surroundings::Surroundings;
use crate::mail::QueueId;

/// Where a route leads.
pub(super) enum Transport {
    Smarthost(Box<Smarthost>),
    Directory(Directory),
    Discard,
    /// For events.
    Hook(Box<Hook>),
    /// For events.
    EventFile(EventFile),
}

/// See the module.
pub(super) struct Way {
    /// The route's name.
    pub(super) name: String,
    pub(super) transport: Transport,
    pub(super) fields: Fields,
    pub(super) in_doubt: InDoubt,
    /// With a `stop` of its own.
    pub(super) surroundings: Surroundings,
    pub(super) makeup: Makeup,
    /// Set under the lock of the lanes.
    is_over: AtomicBool,
    pub(super) counters: Arc<RouteCounters>,
    /// By destination: a domain, or the empty text.
    lanes: Mutex<HashMap<Arc<str>, Arc<Lane>>>,
}

impl Way {
    pub(super) fn new(
        makeup: Makeup,
        signers: &Arc<ArcSwap<Signers>>,
        transport: Transport,
        surroundings: Surroundings,
    ) -> Arc<Self> {
        let route = makeup.route();
        Arc::new(Self {
            name: route.name.clone(),
            transport,
            fields: Fields::new(route, signers.clone()),
            in_doubt: route.in_doubt,
            counters: surroundings.counters.route(&route.name),
            surroundings,
            makeup,
            is_over: AtomicBool::new(false),
            lanes: Mutex::default(),
        })
    }

    /// Whether this route writes into the same directory.
    pub(super) fn writes_into(&self, other: &Transport) -> bool {
        matches!((&self.transport, other), (Transport::Directory(mine), Transport::Directory(other))
            if mine.path() == other.path())
    }

    /// Whether the recipient's domain decides about the destination.
    pub(super) fn is_by_domain(&self) -> bool {
        matches!(&self.transport, Transport::Smarthost(smarthost) if smarthost.is_by_domain())
    }

    /// When a host may be asked again, if it is known without a look that none may be asked now.
    pub(super) fn blocked_until(&self, destination: &str) -> Option<Instant> {
        match &self.transport {
            Transport::Smarthost(smarthost) => smarthost.blocked_until(destination),
            Transport::Hook(hook) => hook.blocked_until(),
            Transport::EventFile(file) => file.blocked_until(),
            Transport::Directory(_) | Transport::Discard => None,
        }
    }

    /// Puts a leg into the lane of its destination.
    pub(super) fn push(self: &Arc<Self>, destination: &str, leg: Leg) {
        let mut lanes = self.lanes();
        if self.is_over() {
            drop(lanes);
            // Routed before the end and pushed after it: it is routed again.
            return lane::give_back(
                &self.surroundings,
                self.counters.clone(),
                destination.into(),
                std::iter::once(leg),
            );
        }
        let lane = match lanes.get(destination) {
            Some(lane) => lane,
            None => {
                let destination: Arc<str> = destination.into();
                self.surroundings.counters.lane_made();
                lanes.entry(destination.clone()).or_insert_with(|| Lane::new(self.clone(), destination))
            }
        };
        // Under the lock, so that no lane is removed with a leg in it.
        lane.push(leg);
    }

    /// Removes a lane that has nothing to do and nothing to remember.
    pub(super) fn retire(&self, lane: &Lane) {
        if !self.is_by_domain() && !self.is_over() {
            return;
        }
        let mut lanes = self.lanes();
        let is_known =
            lanes.get(lane.destination()).is_some_and(|known| std::ptr::eq(&raw const **known, lane));
        if is_known && lane.is_idle() {
            lanes.remove(lane.destination());
            self.surroundings.counters.lanes_removed(1);
            if lanes.capacity() > 4 * lanes.len().max(256) {
                lanes.shrink_to_fit();
            }
        }
    }

    /// Its lanes as they are now.
    pub(super) fn all_lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes().values().cloned().collect()
    }

    /// The lane of a destination, where there is one.
    pub(super) fn lane(&self, destination: &str) -> Option<Arc<Lane>> {
        self.lanes().get(destination).cloned()
    }

    /// Hands back what waits of these messages.
    pub(super) fn recall(&self, ids: &HashSet<QueueId>) {
        // Not under the lock: each lane may take its time.
        let lanes: Vec<_> = self.lanes().values().cloned().collect();
        lanes.iter().for_each(|lane| lane.recall(ids));
    }

    /// Forgets what no longer matters.
    pub(super) fn sweep(&self) {
        match &self.transport {
            Transport::Smarthost(smarthost) => smarthost.sweep(),
            Transport::Hook(hook) => hook.sweep(),
            Transport::Directory(_) | Transport::Discard | Transport::EventFile(_) => {}
        }
    }

    /// Takes nothing any more, and gives back what waits.
    pub(super) fn end(&self) {
        let lanes: Vec<_> = {
            let lanes = self.lanes();
            self.is_over.store(true, Ordering::SeqCst);
            lanes.values().cloned().collect()
        };
        // R1: what is in doubt is not touched by it.
        self.surroundings.stop.cancel();
        lanes.iter().for_each(Lane::empty);
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Lets go of all lanes, and of what waits in them, at the end.
    pub(super) fn close(&self) {
        let lanes = std::mem::take(&mut *self.lanes());
        self.surroundings.counters.lanes_removed(lanes.len());
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
