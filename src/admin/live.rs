//! The overview each second: for whoever asks, and for the streams of those who watch.
//!
//! It is made once a second, however many watch. A watcher that does not read is left out, then dropped by the
//! connection's write time-out; nothing is kept for it but the newest overview.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::access::Caller;
use super::model::Overview;
use super::parameters::Parameters;
use super::refusal::Refusal;
use super::sampler::{Sample, Sampler};
use super::server::Shared;

/// Streams at most (S2).
pub(super) const STREAMS: usize = 32;
/// Between two overviews.
const EACH: Duration = Duration::from_secs(1);
/// A stream ends after this, and a browser opens it again: so a token that was taken away does not go on being shown.
const LONGEST: Duration = Duration::from_secs(600);
/// What a browser waits before it opens a stream again, in milliseconds.
const RETRY: &str = "retry: 2000\n\n";

/// What is kept between two seconds.
pub(super) struct Live {
    sampler: Mutex<Sampler>,
    newest: watch::Sender<Bytes>,
    started: Instant,
}

impl Live {
    pub fn new() -> Self {
        Self {
            sampler: Mutex::new(Sampler::new()),
            newest: watch::Sender::default(),
            started: Instant::now(),
        }
    }
}

impl Shared {
    /// The state of things now.
    pub fn overview(&self) -> Overview {
        let (readiness, totals, depth) =
            (self.process.readiness(), self.process.totals(), self.queue.depth());
        let now = self.clock.now();
        let latency = self.sampler().latency(&totals);
        Overview {
            at: now.to_string(),
            hostname: self.hostname.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.live.started.elapsed().as_secs(),
            ready: readiness.ready,
            reasons: readiness.reasons,
            queued: depth.queued as u64,
            held: depth.held as u64,
            events: depth.events as u64,
            oldest_seconds: self.queue.oldest().map_or(0, |oldest| now.since(oldest).as_secs()),
            accepted: totals.accepted,
            replayed: totals.replayed,
            refused: totals.refused,
            delivered: totals.delivered,
            deferred: totals.deferred,
            failed: totals.failed,
            clients: totals.clients,
            connections: totals.connections,
            open_breakers: totals.open_breakers,
            accept_p50_seconds: latency.accept_p50,
            accept_p99_seconds: latency.accept_p99,
            deliver_p50_seconds: latency.deliver_p50,
            deliver_p99_seconds: latency.deliver_p99,
        }
    }

    /// The series.
    pub fn sampler(&self) -> MutexGuard<'_, Sampler> {
        self.live.sampler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks each second until `shutdown`.
    pub async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = interval(EACH);
        // A machine that slept has nothing to catch up with.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            self.look();
        }
    }

    fn look(&self) {
        let (totals, depth) = (self.process.totals(), self.queue.depth());
        let at = self.clock.now().as_secs();
        self.sampler().look(Sample { at, totals, queued: depth.queued as u64, held: depth.held as u64 });
        if let Ok(json) = serde_json::to_string(&self.overview()) {
            self.live.newest.send_replace(format!("data: {json}\n\n").into());
        }
    }
}

/// What one watcher has.
struct Watcher {
    newest: watch::Receiver<Bytes>,
    is_new: bool,
    until: Instant,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// `GET /api/v1/stream`: server-sent events, one overview each second.
pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    _: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    Parameters::read(query.as_deref(), &[])?;
    let place = shared.streams.clone().try_acquire_owned();
    let place = place.map_err(|_| Refusal::busy(format!("more than {STREAMS} watch already")))?;
    let mut newest = shared.live.newest.subscribe();
    newest.mark_changed();
    let watcher = Watcher {
        newest,
        is_new: true,
        until: Instant::now() + LONGEST,
        shutdown: shared.shutdown.clone(),
        _place: place,
    };
    let events = stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Some((Ok::<_, Infallible>(event), watcher))
    });
    Ok(([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response())
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.is_new) {
            return Some(Bytes::from_static(RETRY.as_bytes()));
        }
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.until) => return None,
                changed = self.newest.changed() => changed.ok()?,
            }
            let newest = self.newest.borrow_and_update().clone();
            // Nothing has been looked at yet.
            if !newest.is_empty() {
                return Some(newest);
            }
        }
    }
}
