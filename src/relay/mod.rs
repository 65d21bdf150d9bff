//! Takes due messages to their next hop and turns what the far side says into outcomes.
//!
//! A message is routed when it is attempted, split into one leg per destination, and each leg waits in its
//! destination's lane for a connection. It must never tell the queue of an outcome that the far side has not
//! spoken (R1), never fail mail for what is our own fault (R2), and never let one destination hold back another.
//! `docs/relay.md` has the table of outcomes.

mod auth;
mod breaker;
mod classify;
mod commands;
mod dane;
mod directory;
mod dkim;
mod fields;
mod https;
mod lane;
mod opening;
pub mod options;
mod report;
mod route;
mod security;
mod smarthost;
mod sts;
mod tls;
pub mod tls_report;
mod transaction;
mod wire;

pub use options::Options;
pub use tls::TrustError;
pub use tls_report::TlsReport;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::dns::Dns;
use crate::mail::{AttemptReply, Message};
use crate::queue::{End, Lease, Outcome, Queue};
use directory::Directory;
use dkim::Signers;
use lane::{Lane, Leg, Share, Surroundings, Transport};
use options::Route;
use smarthost::Smarthost;
use tls::{SystemTrust, Trust};

/// Messages that are leased at a time.
const BATCH: usize = 64;
/// Outcomes that are being saved at a time, large contents counted as several; beyond it connections wait for the store.
const SETTLING: usize = 1024;

/// The way out.
pub struct Relay {
    queue: Arc<Queue>,
    routes: Vec<Route>,
    /// One number per route; routes into one directory share a lane, because they share its files.
    lane_of_route: Vec<usize>,
    lanes: Vec<Arc<Lane>>,
    surroundings: Surroundings,
    tls_report: Arc<TlsReport>,
}

/// A route cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Its `ca_file`.
    #[error("route {route}: ca_file: {error}")]
    Trust {
        /// The route's name.
        route: String,
        /// What is wrong.
        error: TrustError,
    },
    /// Its client certificate.
    #[error("route {route}: client certificate: {error}")]
    ClientCertificate {
        /// The route's name.
        route: String,
        /// What is wrong.
        error: TrustError,
    },
    /// A `[[dkim]]` key.
    #[error("dkim: {0}")]
    Dkim(String),
    /// Its directory.
    #[error("route {route}: {path}: {error}")]
    Directory {
        /// The route's name.
        route: String,
        /// The directory.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
}

impl Relay {
    /// Reads the files that routes name, and makes their directories.
    ///
    /// # Errors
    /// Names the route and the file.
    pub fn new(options: Options, dns: Arc<Dns>, queue: Arc<Queue>, clock: Clock) -> Result<Self, SetupError> {
        let surroundings = Surroundings {
            clock,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            settling: Arc::new(Semaphore::new(SETTLING)),
        };
        let system = Arc::<SystemTrust>::default();
        let tls_report = Arc::new(TlsReport::new(surroundings.clock.clone()));
        let signers = Arc::new(Signers::new(&options.dkim).map_err(SetupError::Dkim)?);
        let mut lanes: Vec<Arc<Lane>> = Vec::new();
        let mut lane_of_route = Vec::new();
        for route in &options.routes {
            let transport = transport(route, &options, &system, &dns, &tls_report)?;
            if let Some(shared) = lanes.iter().position(|lane| lane.writes_into(&transport)) {
                lane_of_route.push(shared);
                continue;
            }
            lane_of_route.push(lanes.len());
            lanes.push(Lane::new(route, &signers, transport, surroundings.clone()));
        }
        Ok(Self { queue, routes: options.routes, lane_of_route, lanes, surroundings, tls_report })
    }

    /// How TLS went with far sides.
    pub fn tls_report(&self) -> Arc<TlsReport> {
        self.tls_report.clone()
    }

    /// Relays until `shutdown`; then lets connections finish their transactions, and waits until no attempt is in
    /// doubt and every outcome is saved, but not longer than `grace`. What is in doubt after that is sent again after
    /// the next start.
    pub async fn run(self, shutdown: CancellationToken, grace: Duration) {
        loop {
            let leases = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                leases = self.queue.next(BATCH) => leases,
            };
            for lease in leases {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => break,
                    () = self.dispatch(lease) => {}
                }
            }
        }
        self.surroundings.stop.cancel();
        self.surroundings.tasks.close();
        if timeout(grace, self.surroundings.tasks.wait()).await.is_err() {
            tracing::warn!(target: "oncemail::relay", "attempts are left in doubt; they are made again after a start");
        }
    }

    /// Puts a message into the lane of each of its destinations.
    ///
    /// # Cancel safety
    /// A message that is not in its lanes yet goes back to the queue.
    async fn dispatch(&self, lease: Lease) {
        let lease = Arc::new(lease);
        // Where everything goes one way, nothing has to be read to know it.
        if let Some(route) = self.routes.first().filter(|route| route::takes_everything(&route.matches))
            && let Some(lane) = self.lane(0)
        {
            tracing::trace!(target: "oncemail::relay", queue_id = %lease.id(), route = %route.name, "routed");
            return lane.push(Leg { lease, share: Share::All });
        }
        let message = match lease.open().await {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(target: "oncemail::relay", queue_id = %lease.id(), %error, "message cannot be read");
                return lease.give_up(&error);
            }
        };
        let (by_lane, unrouted) = self.split(&message, &lease.queued().await);
        lease.split(by_lane.len() + usize::from(!unrouted.is_empty()));
        if by_lane.is_empty() || !unrouted.is_empty() {
            self.defer_unrouted(lease.clone(), message.clone(), unrouted).await;
        } else {
            // What was read to be routed is read again when its turn comes (S2).
            lease.forget_if_stored();
        }
        for (lane, recipients) in by_lane {
            if let Some(lane) = self.lanes.get(lane) {
                lane.push(Leg { lease: lease.clone(), share: Share::Only(recipients.into()) });
            }
        }
    }

    /// The recipients by lane, and those without a route.
    fn split(&self, message: &Message, queued: &[usize]) -> (BTreeMap<usize, Vec<usize>>, Vec<usize>) {
        let mut by_lane: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut unrouted = Vec::new();
        for number in queued {
            let recipient = message.envelope.recipients.get(*number);
            let route = recipient.and_then(|recipient| route::first_match(&self.routes, message, recipient));
            match route.and_then(|route| self.lane_of_route.get(route)) {
                Some(lane) => by_lane.entry(*lane).or_default().push(*number),
                None => unrouted.push(*number),
            }
        }
        (by_lane, unrouted)
    }

    /// A repaired configuration may have a route for them.
    async fn defer_unrouted(&self, lease: Arc<Lease>, message: Arc<Message>, unrouted: Vec<usize>) {
        let at = self.surroundings.clock.now();
        let outcome = |recipient| Outcome {
            recipient,
            end: End::Deferred,
            in_doubt: false,
            hard_bounce: false,
            dsn_onward: false,
            reply: AttemptReply {
                at,
                route: String::new(),
                host: String::new(),
                code: 0,
                text: "5.4.4 no route matches this recipient".to_owned(),
                times: 1,
                tls: String::new(),
            },
        };
        let outcomes = unrouted.into_iter().map(outcome).collect();
        self.surroundings.settle(lease, message, outcomes, None).await;
    }

    fn lane(&self, route: usize) -> Option<&Arc<Lane>> {
        self.lane_of_route.get(route).and_then(|lane| self.lanes.get(*lane))
    }
}

fn transport(
    route: &Route,
    options: &Options,
    system: &Arc<SystemTrust>,
    dns: &Arc<Dns>,
    tls_report: &Arc<TlsReport>,
) -> Result<Transport, SetupError> {
    match &route.transport {
        options::Transport::Directory(path) => Directory::new(path)
            .map(Transport::Directory)
            .map_err(|error| SetupError::Directory { route: route.name.clone(), path: path.clone(), error }),
        options::Transport::Discard => Ok(Transport::Discard),
        options::Transport::Smtp(smarthost) => {
            let trust = match &smarthost.ca_file {
                Some(file) => Trust::only(file)
                    .map_err(|error| SetupError::Trust { route: route.name.clone(), error })?,
                None => Trust::system(system.clone()),
            };
            let trust = match &smarthost.client_certificate {
                Some(own) => trust
                    .showing(own)
                    .map_err(|error| SetupError::ClientCertificate { route: route.name.clone(), error })?,
                None => trust,
            };
            let name = route.name.clone();
            Ok(Transport::Smarthost(Box::new(Smarthost::new(
                name,
                smarthost.clone(),
                options,
                trust,
                dns.clone(),
                tls_report,
            ))))
        }
    }
}
