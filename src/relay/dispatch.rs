//! From a due message to a leg in the lane of each of its destinations.
//!
//! Where a message goes is known from memory, or without looking; only what is neither fresh nor goes one way in any case
//! is read from the store, a few at a time and beside the others, so that no slow disk holds back what is known.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::counters::NO_ROUTE;
use super::lane::{Leg, Share};
use super::routing::Routing;
use super::waiting::Waiting;
use super::way::Way;
use super::{Relay, route};
use crate::mail::{AttemptReply, Message, QueueId, Recipient, domain};
use crate::queue::{End, Lease, OpenError, Outcome};

/// Messages that are read at a time only to know where they go (S2).
const READERS: usize = 4;

/// Recipients by way and destination.
type Legs = BTreeMap<(usize, String), Vec<usize>>;

/// Where the recipients of a message go.
#[derive(Default)]
struct Split {
    legs: Legs,
    /// Those that go nowhere, with the reason.
    lost: Vec<(usize, &'static str)>,
}

/// Messages that have to be read to know where they go.
#[derive(Default)]
pub(super) struct Unread {
    leases: Waiting<Arc<Lease>>,
    readers: usize,
}

/// Reads and routes. Counted, also when it panics.
struct Reader {
    relay: Arc<Relay>,
    has_left: bool,
}

impl Relay {
    /// Puts a message into the lane of each of its destinations.
    ///
    /// # Cancel safety
    /// A message that is not in its lanes yet goes back to the queue.
    pub(super) async fn dispatch(self: &Arc<Self>, lease: Lease) {
        let lease = Arc::new(lease);
        let routing = self.routing.load();
        // Where everything goes one way, nothing has to be read to know it. Events have a way of their own.
        if !lease.is_event()
            && let Some(route) =
                routing.routes.first().filter(|route| route::takes_everything(&route.matches))
            && let Some(way) = routing.way(0).filter(|way| !way.is_by_domain())
        {
            tracing::trace!(target: "oncemail::relay", queue_id = %lease.id(), route = %route.name, "routed");
            return way.push("", Leg { lease, share: Share::All });
        }
        drop(routing);
        if lease.is_fresh() {
            return self.route(lease).await;
        }
        self.read_later(lease);
    }

    /// Hands back what waits of these messages and is not being carried.
    pub(super) fn recall(&self, ids: &HashSet<QueueId>) {
        let unread = self.unread().leases.take(|lease| ids.contains(&lease.id()));
        unread.into_iter().for_each(|lease| self.hand_back(lease));
        self.routing.load().ways.iter().for_each(|way| way.recall(ids));
    }

    fn hand_back(&self, lease: Arc<Lease>) {
        self.surroundings.tasks.spawn(async move { lease.settle(&[], Some(Duration::ZERO)).await });
    }

    /// Adds a message to those that have to be read, and a reader for it.
    fn read_later(self: &Arc<Self>, lease: Arc<Lease>) {
        let mut unread = self.unread();
        // Looked at under the lock, so that a recall comes either before it or after the message.
        if lease.is_ordered() {
            return self.hand_back(lease);
        }
        unread.leases.push_back(lease.priority(), lease);
        if unread.readers < READERS {
            unread.readers += 1;
            let reader = Reader { relay: self.clone(), has_left: false };
            self.surroundings.tasks.spawn(reader.run());
        }
    }

    async fn route(&self, lease: Arc<Lease>) {
        let message = match lease.open().await {
            Ok(message) => message,
            Err(error) => return unreadable(&lease, &error),
        };
        let queued = lease.queued().await;
        // One look for the whole message: it goes by the routes of one configuration.
        let routing = self.routing.load_full();
        let Split { mut legs, lost } = routing.split(&message, &queued);
        if lost.is_empty()
            && legs.len() == 1
            && let Some(((way, destination), _)) = legs.pop_first()
        {
            // What was read to be routed is read again when its turn comes (S2).
            lease.forget_if_stored();
            drop(message);
            return routing.push(way, &destination, Leg { lease, share: Share::All });
        }
        lease.split(legs.len() + usize::from(!lost.is_empty()));
        if legs.is_empty() || !lost.is_empty() {
            self.defer(lease.clone(), message, lost).await;
        } else {
            lease.forget_if_stored();
        }
        for ((way, destination), recipients) in legs {
            routing.push(
                way,
                &destination,
                Leg { lease: lease.clone(), share: Share::Only(recipients.into()) },
            );
        }
    }

    /// A repaired configuration may have a way for them.
    async fn defer(&self, lease: Arc<Lease>, message: Arc<Message>, lost: Vec<(usize, &'static str)>) {
        let at = self.surroundings.clock.now();
        let outcome = |(recipient, reason): (usize, &str)| Outcome {
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
                text: reason.to_owned(),
                times: 1,
                tls: String::new(),
            },
        };
        let outcomes = lost.into_iter().map(outcome).collect();
        let route = self.surroundings.counters.route(NO_ROUTE);
        self.surroundings.settle(route, Arc::default(), lease, message, outcomes, None).await;
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routing {
    /// The recipients by way and destination, and those without one.
    fn split(&self, message: &Message, queued: &[usize]) -> Split {
        let mut split = Split::default();
        for number in queued {
            let Some(recipient) = message.envelope.recipients.get(*number) else { continue };
            match self.destination(message, recipient) {
                Ok(to) => split.legs.entry(to).or_default().push(*number),
                Err(reason) => split.lost.push((*number, reason)),
            }
        }
        split
    }

    fn destination(&self, message: &Message, recipient: &Recipient) -> Result<(usize, String), &'static str> {
        if message.origin.is_event() {
            let way = self.sinks.get(recipient.forward_path.local_part()).copied();
            return Ok((way.ok_or("5.4.4 no webhook has this name now")?, String::new()));
        }
        let route = route::first_match(&self.routes, message, recipient);
        let way = route.and_then(|route| self.way_of_route.get(route)).copied();
        let way = way.ok_or("5.4.4 no route matches this recipient")?;
        if !self.ways.get(way).is_some_and(|way| way.is_by_domain()) {
            return Ok((way, String::new()));
        }
        let domain = recipient.forward_path.domain();
        let domain = domain.ok_or("5.1.2 without a domain there are no mail hosts to ask")?;
        Ok((way, domain::canonical(domain).into_owned()))
    }

    fn push(&self, way: usize, destination: &str, leg: Leg) {
        if let Some(way) = self.ways.get(way) {
            way.push(destination, leg);
        }
    }

    /// The way of a route.
    pub(super) fn way(&self, route: usize) -> Option<&Arc<Way>> {
        self.way_of_route.get(route).and_then(|way| self.ways.get(*way))
    }
}

impl Reader {
    async fn run(mut self) {
        let stop = self.relay.surroundings.stop.clone();
        while let Some(lease) = self.next() {
            tokio::select! {
                biased;
                () = self.relay.route(lease) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// The next message; `None` when there is none, or the relay is shutting down.
    fn next(&mut self) -> Option<Arc<Lease>> {
        let mut unread = self.relay.unread();
        let next = unread.leases.pop().filter(|_| !self.relay.surroundings.stop.is_cancelled());
        if next.is_none() {
            // Under the same lock as the look above, so that no message comes in between.
            self.has_left = true;
            unread.readers -= 1;
        }
        next
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.has_left {
            self.relay.unread().readers -= 1;
        }
    }
}

fn unreadable(lease: &Lease, error: &OpenError) {
    tracing::error!(target: "oncemail::relay", queue_id = %lease.id(), %error, "message cannot be read");
    lease.give_up(error);
}
