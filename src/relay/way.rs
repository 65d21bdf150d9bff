//! One route's way out: its transport, and a lane for each of its destinations.
//!
//! A route to the hosts of domains has a lane for each domain that has mail, made when the first message comes and
//! removed when the last connection has gone; every other route has one lane, which stays. So a domain that nobody
//! writes to any more costs nothing (S2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::directory::Directory;
use super::dkim::Signers;
use super::event_file::EventFile;
use super::fields::Fields;
use super::hook::Hook;
use super::lane::{Lane, Leg};
use super::options::{self, InDoubt, Matches, Route};
use super::smarthost::Smarthost;
use super::surroundings::Surroundings;

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
    pub(super) surroundings: Surroundings,
    /// By destination: a domain, or the empty text.
    lanes: Mutex<HashMap<Arc<str>, Arc<Lane>>>,
}

impl Way {
    pub(super) fn new(
        route: &Route,
        signers: &Arc<Signers>,
        transport: Transport,
        surroundings: Surroundings,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: route.name.clone(),
            transport,
            fields: Fields::new(route, signers.clone()),
            in_doubt: route.in_doubt,
            surroundings,
            lanes: Mutex::default(),
        })
    }

    /// The way to a webhook or to the event file.
    pub(super) fn to_sink(
        name: &str,
        signers: &Arc<Signers>,
        transport: Transport,
        surroundings: Surroundings,
    ) -> Arc<Self> {
        // No mail ever matches it, and nothing is put in front of an event.
        let route = Route {
            name: name.to_owned(),
            matches: Matches::default(),
            transport: options::Transport::Discard,
            in_doubt: InDoubt::Resend,
            forward_key_as: None,
        };
        Self::new(&route, signers, transport, surroundings)
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
        if !self.is_by_domain() {
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

    /// Forgets what no longer matters.
    pub(super) fn sweep(&self) {
        match &self.transport {
            Transport::Smarthost(smarthost) => smarthost.sweep(),
            Transport::Hook(hook) => hook.sweep(),
            Transport::Directory(_) | Transport::Discard | Transport::EventFile(_) => {}
        }
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
