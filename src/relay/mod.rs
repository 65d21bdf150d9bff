//! Takes due messages to their next hop and turns what the far side says into outcomes.
//!
//! A message is routed when it is attempted, split into one leg per destination, and each leg waits in its
//! destination's lane for a connection. It must never tell the queue of an outcome that the far side has not
//! spoken (R1), never fail mail for what is our own fault (R2), and never let one destination hold back another.
//! `docs/relay.md` has the table of outcomes.

mod auth;
mod breaker;
mod breakers;
mod classify;
mod commands;
mod concurrency;
mod counters;
mod dane;
mod directory;
mod dispatch;
mod dkim;
mod event_file;
mod fields;
mod hook;
mod https;
mod lane;
mod mx;
mod oauth;
mod opening;
pub mod options;
mod places;
mod plan;
mod report;
mod route;
mod security;
mod smarthost;
mod sts;
mod surroundings;
mod tls;
pub mod tls_report;
mod transaction;
mod waiting;
mod way;
mod wire;

pub use counters::{Counters, Counts};
pub use options::Options;
pub use tls::TrustError;
pub use tls_report::TlsReport;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::dns::Dns;
use crate::queue::Queue;
use breakers::Breakers;
use directory::Directory;
use dispatch::Unread;
use dkim::Signers;
use event_file::EventFile;
use hook::Hook;
use options::{Route, Sink, SinkTransport};
use smarthost::Smarthost;
use surroundings::Surroundings;
use tls::{SystemTrust, Trust};
use way::{Transport, Way};

/// Messages that are leased at a time.
const BATCH: usize = 64;
/// How often hosts and destinations are forgotten of which nothing matters any more.
const SWEEP: Duration = Duration::from_secs(60);

/// The way out.
pub struct Relay {
    queue: Arc<Queue>,
    routes: Vec<Route>,
    /// One number per route; routes into one directory share a way, because they share its files.
    way_of_route: Vec<usize>,
    ways: Vec<Arc<Way>>,
    /// Where events go: the way of each sink, by name.
    sinks: HashMap<String, usize>,
    surroundings: Surroundings,
    unread: Mutex<Unread>,
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
    /// A `[[webhook]]`, or the event file.
    #[error("events: {name}: {error}")]
    Sink {
        /// Its name.
        name: String,
        /// What is wrong.
        error: String,
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
        let surroundings = Surroundings::new(clock);
        let system = Arc::<SystemTrust>::default();
        let signers = Arc::new(Signers::new(&options.dkim).map_err(SetupError::Dkim)?);
        let mut ways: Vec<Arc<Way>> = Vec::new();
        let mut way_of_route = Vec::new();
        for route in &options.routes {
            let transport = transport(route, &options, &system, &dns, &surroundings)?;
            if let Some(shared) = ways.iter().position(|way| way.writes_into(&transport)) {
                way_of_route.push(shared);
                continue;
            }
            way_of_route.push(ways.len());
            ways.push(Way::new(route, &signers, transport, surroundings.clone()));
        }
        let mut sinks = HashMap::new();
        for sink in &options.sinks {
            let transport = sink_transport(sink, &options, &system, &dns, &surroundings)?;
            sinks.insert(sink.name.clone(), ways.len());
            ways.push(Way::to_sink(&sink.name, &signers, transport, surroundings.clone()));
        }
        let (routes, unread) = (options.routes, Mutex::default());
        Ok(Self { queue, routes, way_of_route, ways, sinks, surroundings, unread })
    }

    /// What is counted while the relay runs.
    pub fn counters(&self) -> Arc<Counters> {
        self.surroundings.counters.clone()
    }

    /// How TLS went with far sides.
    pub fn tls_report(&self) -> Arc<TlsReport> {
        self.surroundings.tls_report.clone()
    }

    /// Relays until `shutdown`; then lets connections finish their transactions, and waits until no attempt is in
    /// doubt and every outcome is saved, but not longer than `grace`. What is in doubt after that is sent again after
    /// the next start, or held, as its route says.
    pub async fn run(self, shutdown: CancellationToken, grace: Duration) {
        let relay = Arc::new(self);
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let leases = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = sweep.tick() => {
                    relay.ways.iter().for_each(|way| way.sweep());
                    continue;
                }
                leases = relay.queue.next(BATCH) => leases,
            };
            for lease in leases {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => break,
                    () = relay.dispatch(lease) => {}
                }
            }
        }
        relay.surroundings.stop.cancel();
        relay.surroundings.tasks.close();
        if timeout(grace, relay.surroundings.tasks.wait()).await.is_err() {
            tracing::warn!(target: "oncemail::relay", "attempts are left in doubt: after a start they are made again, or held where the route says so");
        }
        relay.ways.iter().for_each(|way| way.close());
        relay.surroundings.places.close();
    }
}

fn sink_transport(
    sink: &Sink,
    options: &Options,
    system: &Arc<SystemTrust>,
    dns: &Arc<Dns>,
    surroundings: &Surroundings,
) -> Result<Transport, SetupError> {
    let fault = |error: String| SetupError::Sink { name: sink.name.clone(), error };
    match &sink.transport {
        SinkTransport::File(file) => EventFile::open(file.clone())
            .map(Transport::EventFile)
            .map_err(|error| fault(format!("{}: {error}", file.path.display()))),
        SinkTransport::Webhook(webhook) => {
            let trust = match &webhook.ca_file {
                Some(file) => Trust::only(file).map_err(|error| fault(format!("ca_file: {error}")))?,
                None => Trust::system(system.clone()),
            };
            let breakers = Breakers::new(
                sink.name.clone(),
                options.breaker,
                surroundings.clock.clone(),
                surroundings.counters.clone(),
            );
            let clock = surroundings.clock.clone();
            let hook = Hook::new(&sink.name, webhook.clone(), trust, dns.clone(), breakers, clock);
            Ok(Transport::Hook(Box::new(hook)))
        }
    }
}

fn transport(
    route: &Route,
    options: &Options,
    system: &Arc<SystemTrust>,
    dns: &Arc<Dns>,
    surroundings: &Surroundings,
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
                surroundings,
            ))))
        }
    }
}
