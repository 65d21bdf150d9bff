//! Everything between the client's socket and the next hop's, over a store in memory, with its metrics.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oncemail::app::metrics::{Metrics, Sources};
use oncemail::clock::Clock;
use oncemail::dns::Dns;
use oncemail::intake::Intake;
use oncemail::queue::{self, Queue};
use oncemail::relay::{self, Relay};
use oncemail::store::Store;
use oncemail::submission::{self, Recipients, Server};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::eventually::found;
use super::listener;
use super::openmetrics::Scrape;
use super::relay_rig;
use super::watched_store::WatchedStore;

/// What to start.
pub struct Plan {
    pub submission: submission::Options,
    pub queue: queue::Options,
    pub relay: relay::Options,
    pub recipients: Recipients,
    pub dns: Arc<Dns>,
}

/// Runs until it is dropped.
pub struct Whole {
    /// Of each listener.
    pub addresses: Vec<SocketAddr>,
    pub store: Arc<WatchedStore>,
    pub queue: Arc<Queue>,
    pub metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    _running: [AbortOnDropHandle<()>; 2],
}

impl Plan {
    /// One open listener, and these ways out; a message is tried once.
    pub fn new(relay: relay::Options) -> Self {
        Self {
            submission: listener::options(),
            queue: relay_rig::patient(),
            relay,
            recipients: listener::recipients(),
            dns: relay_rig::dns(),
        }
    }

    pub async fn start(self) -> Whole {
        let Self { submission, queue, relay, recipients, dns } = self;
        let clock = Clock::system();
        let queue = Queue::new(queue, clock.clone());
        let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
        queue.start(store.clone(), Vec::new());
        let seam: Arc<dyn Store> = store.clone();
        let intake = Arc::new(Intake::new(seam.clone(), listener::intake_options(), clock.clone()));
        let server = Server::bind(submission, intake.clone(), clock.clone(), recipients).await.unwrap();
        let relay = Relay::new(relay, dns.clone(), queue.clone(), clock.clone()).unwrap();
        let asked = store.clone();
        let sources = Sources {
            intake: intake.metrics().clone(),
            submission: server.metrics(),
            queue: queue.clone(),
            relay: relay.counters(),
            dns,
            store: seam,
            data_dir: Path::new(env!("CARGO_MANIFEST_DIR")).to_owned(),
            min_free: 1 << 20,
            ready: Arc::new(move || asked.status() == oncemail::store::Status::Ready),
            clock,
        };
        let metrics = Arc::new(Metrics::new(sources, |_| {}));
        let addresses = server.addresses().into_iter().map(|(_, address)| address).collect();
        let shutdown = CancellationToken::new();
        let grace = Duration::from_secs(10);
        let running = [
            tokio::spawn(server.run(shutdown.clone(), grace)),
            tokio::spawn(relay.run(shutdown.clone(), grace)),
        ];
        let running = running.map(AbortOnDropHandle::new);
        Whole { addresses, store, queue, metrics, shutdown, _running: running }
    }
}

impl Whole {
    pub fn scrape(&self) -> Scrape {
        Scrape::read(&self.metrics.text().0)
    }

    /// Waits until `happened`, as far as the metrics know.
    pub async fn until(&self, happened: impl Fn(&Scrape) -> bool) -> Scrape {
        let shown = found(async || Some(self.scrape()).filter(&happened)).await;
        shown.unwrap_or_else(|| panic!("it did not happen: {:#?}", self.scrape().samples))
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
