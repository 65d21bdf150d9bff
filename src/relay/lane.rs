//! One destination: the messages that wait for it, and the connections that carry them.
//!
//! Connections are tasks that start when messages wait and end when none come. What waits here is an id and no content
//! (but for fresh messages, whose contents the queue bounds), so that a slow destination holds back no other. While a
//! breaker is open the lane is paused, and nothing in it costs an attempt.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::directory::Directory;
use super::dkim::Signers;
use super::fields::Fields;
use super::options::{InDoubt, Route};
use super::smarthost::{Attempt, Link, PROBES_OUT_WAIT, Smarthost};
use super::transaction::{Answer, By, Parcel};
use super::{SETTLING, report};
use crate::clock::Clock;
use crate::mail::{AttemptReply, Message};
use crate::queue::{End, Lease, OpenError, Outcome};

/// Messages that a directory is written at a time.
const DIRECTORY_WRITERS: usize = 4;
/// How long a lane waits before it looks again whether the store takes outcomes.
const STORE_WAIT: Duration = Duration::from_secs(2);
/// Content that counts as one outcome while it is being saved, bytes.
const CONTENT_UNIT: usize = 64 << 10;
/// How long a message stays away whose content cannot be read from the store, while its other legs go on.
const UNREADABLE_WAIT: Duration = Duration::from_secs(300);

/// What all lanes share.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) clock: Clock,
    /// Connections finish what they do, and end.
    pub(super) stop: CancellationToken,
    /// Every task, so that a shutdown can wait for all.
    pub(super) tasks: TaskTracker,
    /// Bounds the outcomes that are being saved while their connections have gone on.
    pub(super) settling: Arc<Semaphore>,
}

impl Surroundings {
    /// Saves the outcomes of a leg's end at once, and comes back when not too many are being saved, so that neither
    /// outcomes nor the contents they hold pile up before a slow store (S2).
    pub(super) async fn settle(
        &self,
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
        let clock = self.clock.clone();
        self.tasks.spawn(async move {
            if let Some(settled) = lease.settle(&outcomes, untried).await {
                report::outcomes(&message, &outcomes, &settled, clock.now());
            }
            drop(permit);
        });
        if is_over {
            // The semaphore is never closed.
            let _room = self.settling.acquire_many(weight).await;
        }
    }
}

/// Where a lane leads.
pub(super) enum Transport {
    Smarthost(Box<Smarthost>),
    Directory(Directory),
    Discard,
}

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
    route: String,
    transport: Transport,
    fields: Fields,
    in_doubt: InDoubt,
    surroundings: Surroundings,
    traffic: Mutex<Traffic>,
    arrived: Notify,
}

#[derive(Default)]
struct Traffic {
    legs: VecDeque<Leg>,
    /// Connection tasks.
    workers: usize,
    /// Those of them that carry nothing now.
    free: usize,
    paused_until: Option<Instant>,
}

/// Counts a connection task, also when it panics.
struct Worker {
    lane: Arc<Lane>,
    is_free: bool,
    has_left: bool,
}

impl Lane {
    pub(super) fn new(
        route: &Route,
        signers: &Arc<Signers>,
        transport: Transport,
        surroundings: Surroundings,
    ) -> Arc<Self> {
        let (traffic, arrived, fields) =
            (Mutex::default(), Notify::new(), Fields::new(route, signers.clone()));
        let (route, in_doubt) = (route.name.clone(), route.in_doubt);
        Arc::new(Self { route, transport, fields, in_doubt, surroundings, traffic, arrived })
    }

    /// Whether this lane writes into the same directory.
    pub(super) fn writes_into(&self, other: &Transport) -> bool {
        matches!((&self.transport, other), (Transport::Directory(mine), Transport::Directory(other))
            if mine.path() == other.path())
    }

    /// Adds a leg, and a connection for it if none is free.
    pub(super) fn push(self: &Arc<Self>, leg: Leg) {
        let mut traffic = self.traffic();
        match traffic.paused_until {
            None => traffic.legs.push_back(leg),
            Some(_) if leg.lease.is_whole() => {
                leg.lease.park();
                traffic.legs.push_back(leg);
            }
            Some(until) => self.turn_away(leg, until),
        }
        self.grow(&mut traffic);
    }

    /// Ends a leg untried: a message that is split must not keep its other recipients waiting for this destination.
    fn turn_away(&self, leg: Leg, until: Instant) {
        let wait = until.saturating_duration_since(Instant::now());
        let clock = self.surroundings.clock.clone();
        self.surroundings.tasks.spawn(async move {
            if let Some(settled) = leg.lease.settle(&[], Some(wait)).await
                && !settled.expired.is_empty()
                && let Ok(message) = leg.lease.open().await
            {
                report::outcomes(&message, &[], &settled, clock.now());
            }
        });
    }

    /// Starts connections for what waits, as far as the route allows.
    fn grow(self: &Arc<Self>, traffic: &mut Traffic) {
        if traffic.paused_until.is_some() || self.surroundings.stop.is_cancelled() {
            return;
        }
        let most = match &self.transport {
            Transport::Smarthost(smarthost) => smarthost.options.connections.max(1),
            Transport::Directory(_) | Transport::Discard => DIRECTORY_WRITERS,
        };
        while traffic.free < traffic.legs.len() && traffic.workers < most {
            traffic.workers += 1;
            traffic.free += 1;
            let worker = Worker { lane: self.clone(), is_free: true, has_left: false };
            self.surroundings.tasks.spawn(self.clone().watch_over(worker));
        }
        if traffic.free > 0 {
            self.arrived.notify_one();
        }
    }

    /// Runs a connection in a task of its own, so that a panic in it does not leave its lane without one.
    async fn watch_over(self: Arc<Self>, worker: Worker) {
        let ended = tokio::spawn(worker.run()).await;
        if ended.is_err_and(|error| error.is_panic()) {
            tracing::error!(target: "oncemail::relay", route = %self.route, "a connection task panicked");
            let mut traffic = self.traffic();
            self.grow(&mut traffic);
        }
    }

    /// Puts a leg back to the head of the lane, and lets nothing pass until `until`.
    fn pause(self: &Arc<Self>, leg: Leg, until: Instant) {
        let mut traffic = self.traffic();
        traffic.legs.push_front(leg);
        let has_timer = traffic.paused_until.replace(until).is_some();
        // What was fresh is not kept in memory for a destination that may be away for days (S2).
        traffic.legs.iter().for_each(|leg| leg.lease.park());
        let legs = std::mem::take(&mut traffic.legs);
        let (whole, split) = legs.into_iter().partition(|leg: &Leg| leg.lease.is_whole());
        traffic.legs = whole;
        drop(traffic);
        let split: VecDeque<Leg> = split;
        split.into_iter().for_each(|leg| self.turn_away(leg, until));
        if !has_timer {
            self.surroundings.tasks.spawn(self.clone().resume());
        }
    }

    /// Opens the lane again when its pause is over.
    async fn resume(self: Arc<Self>) {
        loop {
            let until = self.traffic().paused_until;
            let Some(until) = until.filter(|until| Instant::now() < *until) else { break };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.surroundings.stop.cancelled() => return,
            }
        }
        for leg in self.reopen() {
            if self.surroundings.stop.is_cancelled() {
                return;
            }
            self.expire(leg).await;
        }
    }

    /// Lets everything pass again, and gives back what has waited for longer than a message may.
    fn reopen(self: &Arc<Self>) -> VecDeque<Leg> {
        let mut traffic = self.traffic();
        let legs = std::mem::take(&mut traffic.legs);
        let (expired, waiting) = legs.into_iter().partition(|leg| leg.lease.is_expired());
        traffic.legs = waiting;
        traffic.paused_until = None;
        self.grow(&mut traffic);
        expired
    }

    /// Ends a leg that has waited here for longer than a message may.
    async fn expire(&self, leg: Leg) {
        let Ok(message) = leg.lease.open().await else { return };
        if let Some(settled) = leg.lease.expire().await {
            report::outcomes(&message, &[], &settled, self.surroundings.clock.now());
        }
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    async fn run(mut self) {
        let mut link = None;
        while let Some(leg) = self.next(link.is_some()).await {
            self.carry(leg, &mut link).await;
        }
        if let Some(link) = link {
            link.quit().await;
        }
    }

    /// The next leg; `None` when there has been none for too long, or never will be.
    async fn next(&mut self, is_connected: bool) -> Option<Leg> {
        let patience = match &self.lane.transport {
            Transport::Smarthost(smarthost) if is_connected => smarthost.options.idle_timeout,
            _ => Duration::ZERO,
        };
        let deadline = Instant::now() + patience;
        let lane = self.lane.clone();
        loop {
            {
                let mut traffic = lane.traffic();
                let may_take = traffic.paused_until.is_none() && !self.lane.surroundings.stop.is_cancelled();
                if let Some(leg) = may_take.then(|| traffic.legs.pop_front()).flatten() {
                    traffic.free -= usize::from(std::mem::replace(&mut self.is_free, false));
                    // One permit may have stood for several legs that came in between.
                    if traffic.free > 0 && !traffic.legs.is_empty() {
                        lane.arrived.notify_one();
                    }
                    return Some(leg);
                }
                if Instant::now() >= deadline || self.lane.surroundings.stop.is_cancelled() {
                    // Under the same lock as the look above, so that no leg comes in between.
                    self.leave(&mut traffic);
                    return None;
                }
                traffic.free += usize::from(!std::mem::replace(&mut self.is_free, true));
            }
            tokio::select! {
                () = self.lane.arrived.notified() => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = self.lane.surroundings.stop.cancelled() => {}
            }
        }
    }

    /// Takes a leg to its next hop, and has its outcomes saved.
    async fn carry(&self, leg: Leg, link: &mut Option<Link>) {
        if !leg.lease.may_be_tried() {
            return self.lane.pause(leg, Instant::now() + STORE_WAIT);
        }
        if let Transport::Smarthost(smarthost) = &self.lane.transport
            && let Some(until) = smarthost.blocked_until(PROBES_OUT_WAIT)
        {
            return self.lane.pause(leg, until);
        }
        let message = match leg.lease.open().await {
            Ok(message) => message,
            Err(error) => return unreadable(&leg, &error).await,
        };
        let recipients = leg.recipients().await;
        let mut outcomes = Vec::with_capacity(recipients.len());
        let mut untried = None;
        let most = self.recipients_per_transaction();
        let groups: Vec<Vec<usize>> = if self.lane.fields.forward_keys() {
            leg.lease.groups(&recipients, most).await
        } else {
            recipients.chunks(most).map(<[usize]>::to_vec).collect()
        };
        let fields = self.lane.fields.of(&message);
        let mut groups = groups.iter().peekable();
        while let Some(group) = groups.next() {
            let doubt = (self.lane.in_doubt == InDoubt::Hold).then_some(&*leg.lease);
            let parcel = Parcel { message: &message, fields: &fields, recipients: group, doubt };
            match self.attempt(link, &message, &parcel).await {
                Attempt::Answered(by, answers) => outcomes.extend(self.outcomes(group, &by, answers)),
                Attempt::Blocked(until) if outcomes.is_empty() && leg.lease.is_untouched() => {
                    return self.lane.pause(leg, until);
                }
                Attempt::Blocked(until) => {
                    untried = Some(until.saturating_duration_since(Instant::now()));
                    break;
                }
                Attempt::Stopped => {
                    untried = Some(Duration::ZERO);
                    break;
                }
            }
            if groups.peek().is_some() {
                let done = std::mem::take(&mut outcomes);
                let Some(settled) = leg.lease.record(&done).await else { break };
                report::outcomes(&message, &done, &settled, self.lane.surroundings.clock.now());
                if settled.saved.is_err() {
                    // The rest would be sent again after the next start.
                    break;
                }
            }
        }
        self.lane.surroundings.settle(leg.lease, message, outcomes, untried).await;
        // Only now: nobody's outcome waits for a goodbye.
        if let Transport::Smarthost(smarthost) = &self.lane.transport {
            smarthost.retire(link).await;
        }
    }

    async fn attempt(&self, link: &mut Option<Link>, message: &Arc<Message>, parcel: &Parcel<'_>) -> Attempt {
        match &self.lane.transport {
            Transport::Smarthost(smarthost) => {
                smarthost.attempt(link, parcel, &self.lane.surroundings.stop).await
            }
            Transport::Directory(directory) => {
                let answer = directory.attempt(message, parcel.recipients).await;
                let by = By::name(directory.path().display().to_string());
                Attempt::Answered(by, vec![answer; parcel.recipients.len()])
            }
            Transport::Discard => {
                let answer = Answer::local(End::Delivered, "2.0.0 discarded");
                Attempt::Answered(By::default(), vec![answer; parcel.recipients.len()])
            }
        }
    }

    fn recipients_per_transaction(&self) -> usize {
        match &self.lane.transport {
            Transport::Smarthost(smarthost) => smarthost.options.recipients_per_transaction.max(1),
            // One pair of files has all recipients.
            Transport::Directory(_) | Transport::Discard => usize::MAX,
        }
    }

    fn outcomes(&self, group: &[usize], by: &By, answers: Vec<Answer>) -> Vec<Outcome> {
        let at = self.lane.surroundings.clock.now();
        let outcome = |(recipient, answer): (&usize, Answer)| Outcome {
            recipient: *recipient,
            // R1: nobody guesses where it is better held.
            end: if answer.in_doubt && self.lane.in_doubt == InDoubt::Hold {
                End::InDoubt
            } else {
                answer.end
            },
            in_doubt: answer.in_doubt,
            hard_bounce: answer.hard_bounce,
            dsn_onward: by.dsn_onward,
            reply: AttemptReply {
                at,
                route: self.lane.route.clone(),
                host: by.host.clone(),
                code: answer.code,
                text: answer.text,
                times: 1,
                tls: by.tls.clone(),
            },
        };
        group.iter().zip(answers).map(outcome).collect()
    }

    fn leave(&mut self, traffic: &mut Traffic) {
        self.has_left = true;
        traffic.workers -= 1;
        traffic.free -= usize::from(std::mem::replace(&mut self.is_free, false));
    }
}

impl Drop for Worker {
    /// Only a panic or the end of the runtime comes here without having left.
    fn drop(&mut self) {
        if !self.has_left {
            let lane = self.lane.clone();
            self.leave(&mut lane.traffic());
        }
    }
}

impl Leg {
    /// The recipients of this leg that wait for an attempt.
    async fn recipients(&self) -> Vec<usize> {
        let queued = self.lease.queued().await;
        match &self.share {
            Share::All => queued,
            Share::Only(mine) => queued.into_iter().filter(|number| mine.contains(number)).collect(),
        }
    }
}

/// A message that the store does not give back.
async fn unreadable(leg: &Leg, error: &OpenError) {
    tracing::error!(target: "oncemail::relay", queue_id = %leg.lease.id(), %error, "message cannot be read");
    if leg.lease.is_whole() {
        leg.lease.give_up(error);
    } else {
        leg.lease.settle(&[], Some(UNREADABLE_WAIT)).await;
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
        let surroundings = Surroundings {
            clock: clock.clone(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            settling: Arc::new(Semaphore::new(SETTLING)),
        };
        let mut leases = Vec::new();
        for _ in 0..2 {
            store.accept(large(&clock), None).await.unwrap();
            leases.extend(queue.next(1).await);
        }
        store.fail_with(Some(StoreError::LowDisk { free_bytes: 0 }));
        let second = Arc::new(leases.pop().unwrap());
        let first = Arc::new(leases.pop().unwrap());
        let (one, two) = (first.open().await.unwrap(), second.open().await.unwrap());
        surroundings.settle(first, one, Vec::new(), None).await;
        let settling = surroundings.settle(second, two, Vec::new(), None);
        tokio::pin!(settling);
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut settling).await.is_err());
        store.fail_with(None);
        settling.await;
        surroundings.tasks.close();
        surroundings.tasks.wait().await;
        assert_eq!(queue.depth().queued, 0);
    }
}
