//! One destination: the messages that wait for it, and the connections that carry them.
//!
//! Connections are tasks that start when messages wait and end when none come; how many there may be follows from how
//! the destination takes it. What waits here is an id and no content (but for fresh messages, whose contents the queue
//! bounds), so that a slow destination holds back no other. While a breaker is open the lane is paused, and nothing in
//! it costs an attempt. A message with other legs is taken out of it then, but not where the destination only wants it
//! slower: else what comes later would always overtake it.

mod figures;
mod stowed;
mod worker;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::concurrency::{Concurrency, Epoch, Load};
use super::counters::RouteCounters;
use super::options::WEBHOOK_CONNECTIONS;
use super::places::Ticket;
use super::surroundings::Surroundings;
use super::waiting::Waiting;
use super::way::{Transport, Way};
use crate::mail::QueueId;
use crate::queue::Lease;
use figures::Figures;
use stowed::Stowed;
use worker::Worker;

/// Messages that a directory is written at a time.
const DIRECTORY_WRITERS: usize = 4;
/// Lines that wait for one write and sync of the event file, all together.
const EVENT_LINES: usize = 64;
/// Connections that a configured host gets before it has taken anything.
const FIRST_CONNECTIONS: usize = 4;
/// The same for the hosts of a domain, which know nothing of us.
const FIRST_MX_CONNECTIONS: usize = 2;
/// Behind so many others a message is not kept in memory when that is short.
const LONG_LINE: usize = 64;
/// A paused lane is looked through for expired messages no more often than this.
const EXPIRY_LOOK: Duration = Duration::from_secs(60);

/// The part of a message that goes one way.
pub(super) struct Leg {
    pub(super) lease: Arc<Lease>,
    pub(super) share: Share,
}

/// Which of a message's recipients.
pub(super) enum Share {
    /// All that are queued.
    All,
    /// These.
    Only(Box<[usize]>),
}

/// See the module.
pub(super) struct Lane {
    way: Arc<Way>,
    /// A domain, where the route goes to its hosts; empty otherwise.
    destination: Arc<str>,
    traffic: Mutex<Traffic>,
    arrived: Notify,
}

struct Traffic {
    legs: Waiting<Stowed>,
    /// There may be legs that are not as small as they could be.
    is_mixed: bool,
    /// There may be legs of messages that are split, or half done.
    has_engaged: bool,
    /// Connection tasks.
    workers: usize,
    /// Those of them that carry nothing now.
    free: usize,
    concurrency: Concurrency,
    pause: Option<Pause>,
    /// The lane is in line for a place.
    waits_for_place: Option<Ticket>,
    /// When expired legs were looked for.
    looked_at: Option<Instant>,
    figures: Figures,
}

/// A lane as it is at one moment.
pub(super) struct Glance<T> {
    pub(super) waiting: usize,
    pub(super) connections: usize,
    pub(super) connection_limit: usize,
    /// Nothing is tried before.
    pub(super) paused_until: Option<Instant>,
    /// Nobody knows when the destination comes back.
    pub(super) is_away: bool,
    /// What was wanted of its figures.
    pub(super) figures: T,
}

/// Nothing in the lane is tried.
#[derive(Clone, Copy)]
struct Pause {
    until: Instant,
    why: Why,
}

/// Why a lane is paused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Nobody knows when the destination comes back: what has other legs is taken out.
    Away,
    /// It takes mail, and so much at a time: everything keeps its place.
    Slow,
}

impl Lane {
    pub(super) fn new(way: Arc<Way>, destination: Arc<str>) -> Arc<Self> {
        let concurrency = match &way.transport {
            Transport::Smarthost(smarthost) => {
                let first = if smarthost.is_by_domain() { FIRST_MX_CONNECTIONS } else { FIRST_CONNECTIONS };
                Concurrency::new(first, smarthost.options.connections)
            }
            Transport::Directory(_) | Transport::Discard => Concurrency::fixed(DIRECTORY_WRITERS),
            Transport::Hook(_) => Concurrency::new(FIRST_CONNECTIONS, WEBHOOK_CONNECTIONS),
            Transport::EventFile(_) => Concurrency::fixed(EVENT_LINES),
        };
        let traffic = Traffic {
            legs: Waiting::default(),
            is_mixed: false,
            has_engaged: false,
            workers: 0,
            free: 0,
            concurrency,
            pause: None,
            waits_for_place: None,
            looked_at: None,
            figures: Figures::default(),
        };
        Arc::new(Self { way, destination, traffic: Mutex::new(traffic), arrived: Notify::new() })
    }

    pub(super) fn destination(&self) -> &str {
        &self.destination
    }

    /// Whether nothing is here, and nothing is to be remembered.
    pub(super) fn is_idle(&self) -> bool {
        let traffic = self.traffic();
        traffic.workers == 0 && traffic.legs.is_empty() && traffic.pause.is_none()
    }

    /// How it is now.
    pub(super) fn glance<T>(&self, of_figures: impl FnOnce(&Figures) -> T) -> Glance<T> {
        let traffic = self.traffic();
        Glance {
            waiting: traffic.legs.len(),
            connections: traffic.workers,
            connection_limit: traffic.concurrency.limit(),
            paused_until: traffic.pause.map(|pause| pause.until),
            is_away: traffic.pause.is_some_and(|pause| pause.why == Why::Away),
            figures: of_figures(&traffic.figures),
        }
    }

    /// Ends a pause before its time; whether there was one. Its timer finds nothing left to do.
    pub(super) fn go_on(self: &Arc<Self>) -> bool {
        let mut traffic = self.traffic();
        let was_paused = traffic.pause.take().is_some();
        self.grow(&mut traffic);
        was_paused
    }

    /// Adds a leg, and a connection for it if none is free.
    pub(super) fn push(self: &Arc<Self>, leg: Leg) {
        let mut traffic = self.traffic();
        match traffic.pause {
            // Looked at under the lock, so that a recall comes either before it or after the leg.
            _ if leg.lease.is_ordered() => return self.hand_back(leg),
            Some(_) if leg.lease.is_whole() => {
                let priority = leg.lease.priority();
                traffic.legs.push_back(priority, Stowed::new(leg).parked());
            }
            Some(Pause { until, why: Why::Away }) => self.turn_away(leg, until),
            None | Some(Pause { why: Why::Slow, .. }) => {
                // A long line must not take all the memory that saves fresh mail for others from being read back.
                if traffic.legs.len() >= LONG_LINE && leg.lease.memory_is_short() {
                    leg.lease.park();
                }
                traffic.put(leg, Waiting::push_back);
            }
        }
        self.grow(&mut traffic);
    }

    /// Ends a leg untried: a message that is split must not keep its other recipients waiting for this destination.
    fn turn_away(&self, leg: Leg, until: Instant) {
        let wait = until.saturating_duration_since(Instant::now());
        let (surroundings, destination) = (self.way.surroundings.clone(), self.destination.clone());
        let route = self.way.counters.clone();
        self.way.surroundings.tasks.spawn(async move {
            end_untried(&surroundings, &route, &destination, leg, wait).await;
        });
    }

    /// The way is over: what waits here goes back to the queue. Whoever may have put something back since calls it again.
    pub(super) fn empty(self: &Arc<Self>) {
        let mut traffic = self.traffic();
        traffic.pause = None;
        let legs = traffic.legs.take(|_| true);
        drop(traffic);
        let legs = legs.into_iter().filter_map(Stowed::take_up);
        give_back(&self.way.surroundings, self.way.counters.clone(), self.destination.clone(), legs);
        self.way.retire(self);
    }

    /// Ends a leg untried, because an operator wants something of its message.
    fn hand_back(&self, leg: Leg) {
        self.turn_away(leg, Instant::now());
    }

    /// Hands back what waits of these messages. What is being carried goes on, and ends by itself (R1).
    pub(super) fn recall(&self, ids: &HashSet<QueueId>) {
        let recalled = self.traffic().legs.take(|stowed| ids.contains(&stowed.id()));
        let was_any = !recalled.is_empty();
        for stowed in recalled {
            match stowed {
                Stowed::Parked(parked) => parked.give_back(),
                Stowed::Leg(leg) => self.hand_back(leg),
            }
        }
        if was_any {
            // A lane that only stood in line for a place has no connection whose end would do it.
            self.way.retire(self);
        }
    }

    /// Puts a leg back that was taken out, unless an operator wants something of its message.
    fn keep(&self, traffic: &mut Traffic, leg: Leg, add: fn(&mut Waiting<Stowed>, i8, Stowed)) {
        if leg.lease.is_ordered() {
            return self.hand_back(leg);
        }
        traffic.put(leg, add);
    }

    /// Starts connections for what waits, as far as the destination takes them.
    fn grow(self: &Arc<Self>, traffic: &mut Traffic) {
        if traffic.pause.is_some() || self.way.surroundings.stop.is_cancelled() {
            return;
        }
        while traffic.free < traffic.legs.len() && traffic.workers < traffic.concurrency.limit() {
            if self.way.is_by_domain() {
                let priority = traffic.legs.priority().unwrap_or_default();
                if !self.way.surroundings.places.take(self, priority, &mut traffic.waits_for_place) {
                    break;
                }
            }
            traffic.workers += 1;
            traffic.free += 1;
            self.way.surroundings.tasks.spawn(self.clone().watch_over(Worker::new(self.clone())));
        }
        if traffic.free > 0 {
            self.arrived.notify_one();
        }
    }

    /// Runs a connection in a task of its own, so that a panic in it does not leave its lane without one.
    async fn watch_over(self: Arc<Self>, worker: Worker) {
        let ended = tokio::spawn(worker.run()).await;
        if ended.is_err_and(|error| error.is_panic()) {
            tracing::error!(target: "oncemail::relay", route = %self.way.name, "a connection task panicked");
        }
        if self.way.is_by_domain() {
            self.way.surroundings.places.give_back();
        }
        // It may have left for the sake of others, or panicked, while something waits.
        let mut traffic = self.traffic();
        self.grow(&mut traffic);
        drop(traffic);
        self.leave();
    }

    /// A task of this lane has ended.
    fn leave(self: &Arc<Self>) {
        if self.way.is_over() {
            self.empty();
        } else {
            self.way.retire(self);
        }
    }

    /// It is this lane's turn to take a place.
    pub(super) fn place_is_free(self: Arc<Self>) {
        let mut traffic = self.traffic();
        traffic.waits_for_place = None;
        self.grow(&mut traffic);
    }

    /// Has the number of connections follow what an attempt has shown.
    fn note(self: &Arc<Self>, load: Load, begun: Epoch) {
        let mut traffic = self.traffic();
        let in_use = traffic.workers;
        traffic.concurrency.note(load, begun, in_use);
        if load == Load::More {
            self.grow(&mut traffic);
        }
    }

    /// Puts a leg back into the lane: this connection is one too many. The last one waits instead.
    fn yield_to_others(self: &Arc<Self>, leg: Leg, begun: Epoch, until: Instant) {
        let mut traffic = self.traffic();
        let in_use = traffic.workers;
        traffic.concurrency.note(Load::Less, begun, in_use);
        if traffic.workers <= traffic.concurrency.limit() {
            // To the end of the line: should it be about this message after all, the others have their turn first.
            self.keep(&mut traffic, leg, Waiting::push_back);
            return self.pause(&mut traffic, Pause { until, why: Why::Slow });
        }
        self.keep(&mut traffic, leg, Waiting::push_front);
        if traffic.free > 0 {
            self.arrived.notify_one();
        }
    }

    /// Puts a leg back to the head of the lane, and lets nothing pass until `until`; everything keeps its place.
    fn slow_down(self: &Arc<Self>, leg: Leg, until: Instant) {
        let mut traffic = self.traffic();
        self.keep(&mut traffic, leg, Waiting::push_front);
        self.pause(&mut traffic, Pause { until, why: Why::Slow });
    }

    /// Puts a leg back to the head of the lane, and lets nothing pass until `until`; what has other legs, or is half done,
    /// is taken out.
    fn leave_alone(self: &Arc<Self>, leg: Leg, until: Instant) {
        let mut traffic = self.traffic();
        self.keep(&mut traffic, leg, Waiting::push_front);
        let engaged = match std::mem::take(&mut traffic.has_engaged) {
            true => traffic.legs.take(Stowed::is_engaged),
            false => Vec::new(),
        };
        self.pause(&mut traffic, Pause { until, why: Why::Away });
        drop(traffic);
        engaged.into_iter().filter_map(Stowed::take_up).for_each(|leg| self.turn_away(leg, until));
    }

    fn pause(self: &Arc<Self>, traffic: &mut Traffic, pause: Pause) {
        let has_timer = traffic.pause.replace(pause).is_some();
        if std::mem::take(&mut traffic.is_mixed) {
            // What was fresh is not kept in memory for a destination that may be away for days (S2).
            traffic.legs.change(Stowed::parked);
        }
        if !has_timer {
            self.way.surroundings.tasks.spawn(self.clone().resume());
        }
    }

    /// Opens the lane again when its pause is over.
    async fn resume(self: Arc<Self>) {
        let stop = self.way.surroundings.stop.clone();
        loop {
            let until = self.traffic().pause.map(|pause| pause.until);
            let Some(until) = until.filter(|until| Instant::now() < *until) else { break };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => {}
                () = stop.cancelled() => return self.leave(),
            }
        }
        let (expired, late) = self.reopen();
        let expired = expired.into_iter().map(|leg| (leg, true));
        let mut waited = expired.chain(late.into_iter().map(|leg| (leg, false)));
        while !stop.is_cancelled()
            && let Some((leg, is_expired)) = waited.next()
        {
            let Some(leg) = leg.take_up() else { continue };
            if is_expired {
                self.expire(leg).await;
            } else {
                leg.lease.warn().await;
                self.push(leg);
            }
        }
        if self.way.is_over() {
            let rest: Vec<_> = waited.filter_map(|(leg, _)| leg.take_up()).collect();
            give_back(
                &self.way.surroundings,
                self.way.counters.clone(),
                self.destination.clone(),
                rest.into_iter(),
            );
        }
        self.leave();
    }

    /// Lets everything pass again. Gives back what has waited for longer than a message may, and what has waited for so
    /// long that its sender has to be told; that goes on waiting afterwards.
    fn reopen(self: &Arc<Self>) -> (Vec<Stowed>, Vec<Stowed>) {
        let now = Instant::now();
        let mut traffic = self.traffic();
        let was_looked = traffic.looked_at.is_some_and(|at| now.saturating_duration_since(at) < EXPIRY_LOOK);
        let taken = if was_looked {
            (Vec::new(), Vec::new())
        } else {
            traffic.looked_at = Some(now);
            (traffic.legs.take(Stowed::is_expired), traffic.legs.take(Stowed::is_late))
        };
        traffic.pause = None;
        self.grow(&mut traffic);
        taken
    }

    /// Ends a leg that has waited here for longer than a message may.
    async fn expire(&self, leg: Leg) {
        if !leg.lease.is_untouched() {
            // The message has other legs, and the last one closes it.
            return self.turn_away(leg, Instant::now());
        }
        let message = match leg.lease.open().await {
            Ok(message) => message,
            Err(error) => return leg.unreadable(&error).await,
        };
        if let Some(settled) = leg.lease.expire().await {
            self.way.surroundings.tell(&self.way.counters, &self.destination, &message, &[], &settled);
        }
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands legs back to the queue, to be routed again at once: nobody was asked, so it costs no attempt.
pub(super) fn give_back(
    surroundings: &Surroundings,
    route: Arc<RouteCounters>,
    destination: Arc<str>,
    legs: impl Iterator<Item = Leg> + Send + 'static,
) {
    let own = surroundings.clone();
    surroundings.tasks.spawn(async move {
        for leg in legs {
            end_untried(&own, &route, &destination, leg, Duration::ZERO).await;
        }
    });
}

/// Ends a leg whose recipients were not tried, and wait for so long.
async fn end_untried(
    surroundings: &Surroundings,
    route: &RouteCounters,
    destination: &str,
    leg: Leg,
    wait: Duration,
) {
    if let Some(settled) = leg.lease.settle(&[], Some(wait)).await
        && !(settled.expired.is_empty() && settled.ended.is_empty())
        && let Ok(message) = leg.lease.open().await
    {
        surroundings.tell(route, destination, &message, &[], &settled);
    }
}

impl Traffic {
    fn put(&mut self, leg: Leg, add: fn(&mut Waiting<Stowed>, i8, Stowed)) {
        self.is_mixed = true;
        self.has_engaged |= !leg.lease.is_untouched();
        add(&mut self.legs, leg.lease.priority(), Stowed::new(leg));
    }
}
