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
mod dial;
mod directory;
mod dispatch;
pub mod dkim;
mod event_file;
mod fields;
mod hook;
mod https;
mod lane;
mod metrics;
mod mx;
mod oauth;
mod opening;
pub mod options;
mod places;
mod plan;
pub mod probe;
mod report;
mod route;
mod routing;
mod security;
mod sinks;
mod smarthost;
mod sts;
mod surroundings;
mod tls;
pub mod tls_report;
mod transaction;
pub mod views;
mod waiting;
mod way;
mod wire;

pub use counters::{Counters, Counts};
pub use dial::{Dial, Dialled};
pub use options::Options;
pub use routing::Prepared;
pub use tls::TrustError;
pub use tls_report::TlsReport;
pub use wire::Duplex;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::dns::Dns;
use crate::queue::Queue;
use dispatch::Unread;
use dkim::Signers;
use routing::{Builder, Routing};
use surroundings::Surroundings;

/// Messages that are leased at a time.
const BATCH: usize = 64;
/// How often hosts and destinations are forgotten of which nothing matters any more.
const SWEEP: Duration = Duration::from_secs(60);

/// The way out.
pub struct Relay {
    queue: Arc<Queue>,
    routing: ArcSwap<Routing>,
    builder: Builder,
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
    pub fn new(
        options: Options,
        dns: Arc<Dns>,
        queue: Arc<Queue>,
        clock: Clock,
    ) -> Result<Arc<Self>, SetupError> {
        Self::over(Surroundings::new(clock), options, dns, queue)
    }

    /// The same, with connections in clear that are made by `dialer` instead of the system.
    ///
    /// # Errors
    /// As [`Relay::new`].
    pub fn dialling(
        options: Options,
        dns: Arc<Dns>,
        queue: Arc<Queue>,
        clock: Clock,
        dialer: Arc<dyn Dial>,
    ) -> Result<Arc<Self>, SetupError> {
        let mut surroundings = Surroundings::new(clock);
        surroundings.dialer = Some(dialer);
        Self::over(surroundings, options, dns, queue)
    }

    fn over(
        surroundings: Surroundings,
        options: Options,
        dns: Arc<Dns>,
        queue: Arc<Queue>,
    ) -> Result<Arc<Self>, SetupError> {
        let signers = Signers::new(&options.dkim).map_err(SetupError::Dkim)?;
        let signers = Arc::new(ArcSwap::from_pointee(signers));
        let builder = Builder { system: Arc::default(), surroundings: surroundings.clone(), signers };
        let routing = ArcSwap::from_pointee(builder.routing(options, &dns, &[])?);
        Ok(Arc::new(Self { queue, routing, builder, surroundings, unread: Mutex::default() }))
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
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken, grace: Duration) {
        self.run_within(shutdown, || grace).await;
    }

    /// The same, with a `grace` that is asked for when the end has come.
    pub async fn run_within(self: Arc<Self>, shutdown: CancellationToken, grace: impl Fn() -> Duration) {
        let relay = self;
        let recalled = Arc::downgrade(&relay);
        relay.queue.on_recall(Arc::new(move |ids| {
            if let Some(relay) = recalled.upgrade() {
                relay.recall(ids);
            }
        }));
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let leases = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = sweep.tick() => {
                    relay.routing.load().ways.iter().for_each(|way| way.sweep());
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
        if timeout(grace(), relay.surroundings.tasks.wait()).await.is_err() {
            tracing::warn!(target: "oncemail::relay", "attempts are left in doubt: after a start they are made again, or held where the route says so");
        }
        relay.routing.load().ways.iter().for_each(|way| way.close());
        relay.surroundings.places.close();
    }
}
