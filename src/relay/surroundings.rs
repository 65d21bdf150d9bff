//! What all lanes share: the clock, the shutdown, and the saving of outcomes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::counters::{Counters, RouteCounters};
use super::dial::Dial;
use super::options::MX_CONNECTIONS;
use super::places::Places;
use super::report;
use super::tls_report::TlsReport;
use crate::clock::Clock;
use crate::mail::Message;
use crate::queue::{Lease, Outcome, Settled};

/// Outcomes that are being saved at a time, large contents counted as several; beyond it connections wait for the store.
const SETTLING: usize = 1024;
/// Content that counts as one outcome while it is being saved, bytes.
const CONTENT_UNIT: usize = 64 << 10;

/// See the module.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) clock: Clock,
    pub(super) counters: Arc<Counters>,
    pub(super) tls_report: Arc<TlsReport>,
    /// Connections finish what they do, and end.
    pub(super) stop: CancellationToken,
    /// Every task, so that a shutdown can wait for all.
    pub(super) tasks: TaskTracker,
    /// Connections to the hosts of domains.
    pub(super) places: Arc<Places>,
    /// Makes connections in clear; absent: the system does.
    pub(super) dialer: Option<Arc<dyn Dial>>,
    /// Bounds the outcomes that are being saved while their connections have gone on.
    settling: Arc<Semaphore>,
}

impl Surroundings {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            tls_report: Arc::new(TlsReport::new(clock.clone())),
            clock,
            counters: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            places: Arc::new(Places::new(MX_CONNECTIONS)),
            dialer: None,
            settling: Arc::new(Semaphore::new(SETTLING)),
        }
    }

    /// The same for one way, which can be stopped alone.
    pub(super) fn of_a_way(&self) -> Self {
        Self { stop: self.stop.child_token(), ..self.clone() }
    }

    /// Saves the outcomes of a leg's end at once, and comes back when not too many are being saved, so that neither
    /// outcomes nor the contents they hold pile up before a slow store (S2).
    pub(super) async fn settle(
        &self,
        route: Arc<RouteCounters>,
        destination: Arc<str>,
        lease: Arc<Lease>,
        message: Arc<Message>,
        outcomes: Vec<Outcome>,
        untried: Option<Duration>,
    ) {
        let weight = (1 + message.content.len() / CONTENT_UNIT).min(SETTLING);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        // What has been found out is never kept waiting.
        let permit = self.settling.clone().try_acquire_many_owned(weight).ok();
        let is_over = permit.is_none();
        let surroundings = self.clone();
        self.tasks.spawn(async move {
            if let Some(settled) = lease.settle(&outcomes, untried).await {
                surroundings.tell(&route, &destination, &message, &outcomes, &settled);
            }
            drop(permit);
        });
        if is_over {
            // The semaphore is never closed.
            let _room = self.settling.acquire_many(weight).await;
        }
    }

    /// Logs and counts outcomes that are saved, and recipients that have expired with them.
    pub(super) fn tell(
        &self,
        route: &RouteCounters,
        destination: &str,
        message: &Message,
        outcomes: &[Outcome],
        settled: &Settled,
    ) {
        if message.origin.is_event() {
            return report::event(message, outcomes, settled, self.clock.now());
        }
        self.counters.told(route, message, outcomes, settled);
        report::outcomes(destination, message, outcomes, settled, self.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::{Body, Envelope, Handling, Origin, QueueId, ReversePath};
    use crate::queue::{self, Queue};
    use crate::store::memory::MemoryStore;
    use crate::store::{Store, StoreError};

    fn large(clock: &Clock) -> Arc<Message> {
        Arc::new(Message {
            id: QueueId::new(clock.now()),
            accepted_at: clock.now(),
            envelope: Envelope {
                reverse_path: ReversePath::Null,
                recipients: Vec::new(),
                body: Body::SevenBit,
                smtputf8: false,
                ret: None,
                envid: None,
                handling: Handling::default(),
            },
            origin: Origin { listener: String::new(), user: None, client: None },
            key: None,
            message_id: String::new(),
            content: vec![b'x'; SETTLING * CONTENT_UNIT].into(),
        })
    }

    #[tokio::test]
    async fn s2_large_contents_whose_outcomes_wait_for_the_store_hold_up_their_connections() {
        let clock = Clock::manual(Timestamp::from_millis(1));
        let hour = Duration::from_secs(3600);
        let options =
            queue::Options { base: hour, cap: hour, fresh_bytes: usize::MAX, ..queue::Options::default() };
        let queue = Queue::new(options, clock.clone());
        let store = Arc::new(MemoryStore::new(clock.clone(), Some(queue.clone())));
        queue.start(store.clone(), Vec::new());
        let surroundings = Surroundings::new(clock.clone());
        let destination: Arc<str> = Arc::default();
        let mut leases = Vec::new();
        for _ in 0..2 {
            store.accept(large(&clock), None).await.unwrap();
            leases.extend(queue.next(1).await);
        }
        store.fail_with(Some(StoreError::LowDisk { free_bytes: 0 }));
        let second = Arc::new(leases.pop().unwrap());
        let first = Arc::new(leases.pop().unwrap());
        let (one, two) = (first.open().await.unwrap(), second.open().await.unwrap());
        let route = surroundings.counters.route("r");
        surroundings.settle(route.clone(), destination.clone(), first, one, Vec::new(), None).await;
        let settling = surroundings.settle(route, destination, second, two, Vec::new(), None);
        tokio::pin!(settling);
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut settling).await.is_err());
        store.fail_with(None);
        settling.await;
        surroundings.tasks.close();
        surroundings.tasks.wait().await;
        assert_eq!(queue.depth().queued, 0);
    }
}
