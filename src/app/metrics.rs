//! All that the parts measure of themselves, as one text for Prometheus and as the totals of the dashboard.
//!
//! Nothing is kept here: each part is asked when somebody looks. To look takes the parts' locks one after the other, each
//! for a handful of numbers, and reads a few small files of the system; it must never wait for a part.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use rustix::fs::statvfs;

use super::process::Process;
use crate::admin::ports::Totals;
use crate::clock::Clock;
use crate::dns::Dns;
use crate::intake::metrics::{IntakeMetrics, Outcome};
use crate::metrics::{Collector, DescriptorEncoder, Registry, gauges, one_gauge};
use crate::queue::Queue;
use crate::relay::Counters;
use crate::store::{Status, Store};
use crate::submission::SubmissionMetrics;

/// What the text is, for `Content-Type` (OpenMetrics 1.0, which Prometheus has read since 2.5).
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the figures come from.
#[derive(Clone)]
pub struct Sources {
    /// Decisions.
    pub intake: Arc<IntakeMetrics>,
    /// Listeners.
    pub submission: Arc<SubmissionMetrics>,
    /// What waits.
    pub queue: Arc<Queue>,
    /// What goes out.
    pub relay: Arc<Counters>,
    /// Questions to name servers.
    pub dns: Arc<Dns>,
    /// Whether it can write.
    pub store: Arc<dyn Store>,
    /// Whose disk is looked at.
    pub data_dir: PathBuf,
    /// `limits.min_free`, bytes.
    pub min_free: u64,
    /// Whether mail is taken and relayed.
    pub ready: Arc<dyn Fn() -> bool + Send + Sync>,
    /// For the time of the start.
    pub clock: Clock,
}

/// See the module.
pub struct Metrics {
    registry: Registry,
    sources: Sources,
}

/// What is asked of the process and its disk.
struct State(Sources);

impl Metrics {
    /// Has every source shown, and what `more` registers besides. Names that are registered get `oncemail_` in front.
    pub fn new(sources: Sources, more: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::default();
        let ours = registry.sub_registry_with_prefix("oncemail");
        ours.register_collector(Box::new(State(sources.clone())));
        sources.intake.register(ours);
        sources.submission.register(ours);
        sources.queue.register(ours);
        sources.relay.register(ours);
        sources.dns.register(ours);
        more(ours);
        // By the names that every program uses for these.
        registry.register_collector(Box::new(Process::new(sources.clock.now())));
        Self { registry, sources }
    }

    /// All of it in the OpenMetrics text format, and the content type. Reads a few files of the system.
    pub fn text(&self) -> (String, &'static str) {
        let mut text = String::with_capacity(32 * 1024);
        if let Err(error) = encode(&mut text, &self.registry) {
            // Without its last line the text is refused by whoever reads it.
            tracing::error!(%error, "the metrics could not be written");
        }
        (text, CONTENT_TYPE)
    }

    /// What the dashboard counts.
    pub fn totals(&self) -> Totals {
        let Sources { intake, submission, relay, .. } = &self.sources;
        let counts = relay.counts();
        let (open, half_open) = relay.open_breakers();
        Totals {
            accepted: intake.submissions(Outcome::Accepted),
            replayed: intake.submissions(Outcome::Replayed),
            refused: intake.not_taken(),
            delivered: counts.delivered,
            deferred: counts.deferred,
            failed: counts.failed + counts.expired,
            clients: submission.clients(),
            connections: counts.connections,
            open_breakers: (open + half_open) as u64,
            accept_latency: intake.took().snapshot(),
            deliver_latency: relay.delivery().snapshot(),
        }
    }
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (encoder, Sources { store, data_dir, min_free, ready, .. }) = (&mut encoder, &self.0);
        let build = ("build_info", "Always 1; the version of this program.");
        gauges(encoder, build, [([("version", env!("CARGO_PKG_VERSION"))], 1.0)])?;
        one_gauge(encoder, ("ready", "1: mail is taken and relayed; 0: it is not."), bit(ready()))?;
        let status = store.status();
        let states = [
            ("ready", matches!(status, Status::Ready)),
            ("low_disk", matches!(status, Status::LowDisk { .. })),
            ("latched", matches!(status, Status::Latched { .. })),
            ("closed", matches!(status, Status::Closed)),
        ];
        let about = ("store_status", "Whether the store takes mail: 1 for the state that it is in.");
        gauges(encoder, about, states.map(|(state, is_it)| ([("state", state)], bit(is_it))))?;
        let least = ("disk_min_free_bytes", "limits.min_free: with less free, new mail is refused.");
        one_gauge(encoder, least, *min_free as f64)?;
        // A disk that cannot be asked is not shown: a zero would look like a full one.
        let Ok(disk) = statvfs(data_dir) else { return Ok(()) };
        let bytes = |blocks: u64| blocks as f64 * disk.f_frsize as f64;
        let free = ("disk_free_bytes", "Free on the disk of data_dir, for who is not root.");
        one_gauge(encoder, free, bytes(disk.f_bavail))?;
        one_gauge(encoder, ("disk_size_bytes", "Size of the disk of data_dir."), bytes(disk.f_blocks))
    }
}

fn bit(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}
