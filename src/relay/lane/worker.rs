//! One connection of a lane: takes legs one after the other, and has their outcomes saved.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::stowed::Stowed;
use super::{Lane, Leg, Share, Traffic};
use crate::mail::{AttemptReply, Message};
use crate::queue::{End, OpenError, Outcome};
use crate::relay::concurrency::{Epoch, Load};
use crate::relay::fields::Front;
use crate::relay::options::{InDoubt, Smtp};
use crate::relay::smarthost::{Attempt, Link};
use crate::relay::surroundings::Surroundings;
use crate::relay::transaction::{Answer, By, Parcel};
use crate::relay::way::{Transport, Way};

/// How long a lane waits before it looks again whether the store takes outcomes.
const STORE_WAIT: Duration = Duration::from_secs(2);
/// How long a message stays away whose content cannot be read from the store, while its other legs go on.
const UNREADABLE_WAIT: Duration = Duration::from_secs(300);
/// How long a lane waits whose only connection is one too many: others use the same account.
const CROWDED_WAIT: Duration = Duration::from_secs(2);

/// Contents up to this many octets are signed in place: a few hundred microseconds.
const SIGNED_IN_PLACE: usize = 256 * 1024;

/// Counts a connection task, also when it panics.
pub(super) struct Worker {
    lane: Arc<Lane>,
    is_free: bool,
    has_left: bool,
    /// Legs so far.
    carried: u32,
    began: Instant,
}

/// What keeps a leg from going on.
enum Halt {
    /// Nobody may be asked before this time.
    Away(Instant),
    /// The route's rate allows it only at this time.
    Paced(Instant),
    /// This connection is one too many.
    Crowded,
    /// The relay is shutting down, or the outcome cannot be saved.
    Stopped,
}

impl Worker {
    /// Already counted, as a free one.
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self { lane, is_free: true, has_left: false, carried: 0, began: Instant::now() }
    }

    pub(super) async fn run(mut self) {
        let mut link = None;
        while let Some(leg) = self.next(link.is_some()).await {
            self.carry(leg, &mut link).await;
            self.carried = self.carried.saturating_add(1);
        }
        if let Some(link) = link {
            link.quit().await;
        }
    }

    /// The next leg; `None` when there has been none for too long, never will be, or there are too many connections.
    async fn next(&mut self, is_connected: bool) -> Option<Leg> {
        let deadline = Instant::now() + self.patience(is_connected);
        let lane = self.lane.clone();
        let stop = self.surroundings().stop.clone();
        loop {
            {
                let mut traffic = lane.traffic();
                let is_surplus = traffic.workers > traffic.concurrency.limit() || self.has_had_its_turn();
                let may_take = traffic.pause.is_none() && !is_surplus && !stop.is_cancelled();
                if let Some(leg) = may_take.then(|| traffic.legs.pop()).flatten().and_then(Stowed::take_up) {
                    traffic.free -= usize::from(std::mem::replace(&mut self.is_free, false));
                    // One permit may have stood for several legs that came in between.
                    if traffic.free > 0 && !traffic.legs.is_empty() {
                        lane.arrived.notify_one();
                    }
                    return Some(leg);
                }
                if is_surplus || Instant::now() >= deadline || stop.is_cancelled() {
                    // Under the same lock as the look above, so that no leg comes in between.
                    self.leave(&mut traffic);
                    if traffic.free > 0 && !traffic.legs.is_empty() {
                        lane.arrived.notify_one();
                    }
                    return None;
                }
                traffic.free += usize::from(!std::mem::replace(&mut self.is_free, true));
            }
            tokio::select! {
                biased;
                () = lane.arrived.notified() => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// How long to keep a connection for which there is nothing to do.
    fn patience(&self, is_connected: bool) -> Duration {
        let Transport::Smarthost(smarthost) = &self.way().transport else { return Duration::ZERO };
        if is_connected && !self.others_wait() { smarthost.options.idle_timeout } else { Duration::ZERO }
    }

    /// Whether other destinations should have this place now.
    fn has_had_its_turn(&self) -> bool {
        let Transport::Smarthost(smarthost) = &self.way().transport else { return false };
        is_turn_over(&smarthost.options, self.carried, self.began.elapsed()) && self.others_wait()
    }

    fn others_wait(&self) -> bool {
        self.way().is_by_domain() && self.surroundings().places.are_wanted()
    }

    /// Takes a leg to its next hop, and has its outcomes saved.
    async fn carry(&self, leg: Leg, link: &mut Option<Link>) {
        let begun = self.lane.traffic().concurrency.epoch();
        if leg.lease.is_ordered() {
            return self.lane.hand_back(leg);
        }
        if !leg.lease.may_be_tried() {
            return self.lane.slow_down(leg, Instant::now() + STORE_WAIT);
        }
        if let Some(until) = self.way().blocked_until(&self.lane.destination) {
            return self.lane.leave_alone(leg, until);
        }
        let message = match leg.lease.open().await {
            Ok(message) => message,
            Err(error) => return leg.unreadable(&error).await,
        };
        let (outcomes, halt) = self.offer(&leg, &message, link, begun).await;
        let untried = match halt {
            None => None,
            // What is under way stays in memory meanwhile: the wait is short, or the operator's own.
            Some(Halt::Paced(until)) if outcomes.is_empty() => return self.lane.slow_down(leg, until),
            Some(Halt::Crowded) if outcomes.is_empty() => {
                return self.lane.yield_to_others(leg, begun, Instant::now() + CROWDED_WAIT);
            }
            Some(Halt::Away(until)) if outcomes.is_empty() && leg.lease.is_untouched() => {
                return self.lane.leave_alone(leg, until);
            }
            Some(Halt::Away(until) | Halt::Paced(until)) => {
                Some(until.saturating_duration_since(Instant::now()))
            }
            Some(Halt::Crowded) => {
                self.lane.note(Load::Less, begun);
                Some(CROWDED_WAIT)
            }
            Some(Halt::Stopped) => Some(Duration::ZERO),
        };
        let (route, destination) = (self.way().counters.clone(), self.lane.destination.clone());
        self.surroundings().settle(route, destination, leg.lease, message, outcomes, untried).await;
        // Only now: nobody's outcome waits for a goodbye.
        if let Transport::Smarthost(smarthost) = &self.way().transport {
            smarthost.retire(link).await;
        }
    }

    /// Offers the message to the leg's recipients, so many at a time as the route allows. Gives back what is not saved yet.
    async fn offer(
        &self,
        leg: &Leg,
        message: &Arc<Message>,
        link: &mut Option<Link>,
        begun: Epoch,
    ) -> (Vec<Outcome>, Option<Halt>) {
        let recipients = leg.recipients().await;
        let fields = self.fields(message).await;
        let mut outcomes = Vec::with_capacity(recipients.len().min(self.recipients_per_transaction()));
        for group in recipients.chunks(self.recipients_per_transaction()) {
            if !outcomes.is_empty() && !self.record(leg, message, &mut outcomes).await {
                // The rest would be sent again after the next start.
                return (outcomes, Some(Halt::Stopped));
            }
            let doubt = (self.way().in_doubt == InDoubt::Hold).then_some(&*leg.lease);
            let parcel = Parcel { message, fields: &fields, recipients: group, doubt };
            let began = Instant::now();
            match self.attempt(link, message, &parcel).await {
                Attempt::Answered { by, answers, load } => {
                    self.way().counters.attempted(began);
                    self.lane.note(load, begun);
                    let of_group = self.outcomes(group, &by, answers);
                    self.lane.traffic().figures.note(&of_group);
                    outcomes.extend(of_group);
                }
                Attempt::Blocked { until, hosts } => {
                    self.lane.traffic().figures.would_ask(&hosts);
                    return (outcomes, Some(Halt::Away(until)));
                }
                Attempt::Paced(until) => return (outcomes, Some(Halt::Paced(until))),
                Attempt::Crowded => return (outcomes, Some(Halt::Crowded)),
                Attempt::Stopped => return (outcomes, Some(Halt::Stopped)),
            }
        }
        (outcomes, None)
    }

    /// The fields in front of the message, where there is somebody to read them; signing a large one holds up no other
    /// connection.
    async fn fields(&self, message: &Arc<Message>) -> Front {
        if !matches!(self.way().transport, Transport::Smarthost(_)) {
            return Front::default();
        }
        if message.content.len() <= SIGNED_IN_PLACE {
            return self.way().fields.of(message);
        }
        let (way, signed) = (self.lane.way.clone(), message.clone());
        let fields = tokio::task::spawn_blocking(move || way.fields.of(&signed)).await;
        fields.unwrap_or_else(|error| {
            tracing::error!(target: "oncemail::relay", queue_id = %message.id, %error, "message not signed");
            // Without its key the next hop could take a second copy.
            self.way().fields.unsigned(message)
        })
    }

    /// Saves what one transaction has brought before the next is made; false when it cannot be saved.
    async fn record(&self, leg: &Leg, message: &Message, outcomes: &mut Vec<Outcome>) -> bool {
        let done = std::mem::take(outcomes);
        let Some(settled) = leg.lease.record(&done).await else { return false };
        self.surroundings().tell(&self.way().counters, &self.lane.destination, message, &done, &settled);
        settled.saved.is_ok()
    }

    async fn attempt(&self, link: &mut Option<Link>, message: &Arc<Message>, parcel: &Parcel<'_>) -> Attempt {
        match &self.way().transport {
            Transport::Smarthost(smarthost) => {
                let stop = &self.surroundings().stop;
                smarthost.attempt(link, parcel, &self.lane.destination, stop).await
            }
            Transport::Directory(directory) => {
                let answer = directory.attempt(message, parcel.recipients).await;
                let by = By::name(directory.path().display().to_string());
                let answers = vec![answer; parcel.recipients.len()];
                Attempt::Answered { by, answers, load: Load::Same }
            }
            Transport::Discard => {
                let answer = Answer::local(End::Delivered, "2.0.0 discarded");
                let answers = vec![answer; parcel.recipients.len()];
                Attempt::Answered { by: By::default(), answers, load: Load::Same }
            }
            Transport::Hook(hook) => {
                hook.attempt(message, parcel.recipients.len(), self.surroundings()).await
            }
            Transport::EventFile(file) => file.attempt(message, parcel.recipients.len()).await,
        }
    }

    fn recipients_per_transaction(&self) -> usize {
        match &self.way().transport {
            Transport::Smarthost(_) if self.way().fields.forward_keys() => 1,
            Transport::Smarthost(smarthost) => smarthost.options.recipients_per_transaction.max(1),
            // One pair of files has all recipients; a sink is one.
            Transport::Directory(_) | Transport::Discard | Transport::Hook(_) | Transport::EventFile(_) => {
                usize::MAX
            }
        }
    }

    fn outcomes(&self, group: &[usize], by: &By, answers: Vec<Answer>) -> Vec<Outcome> {
        let at = self.surroundings().clock.now();
        let holds_doubt = self.way().in_doubt == InDoubt::Hold;
        let outcome = |(recipient, answer): (&usize, Answer)| Outcome {
            recipient: *recipient,
            // R1: it may have been taken, and nobody guesses.
            end: if answer.in_doubt && holds_doubt { End::InDoubt } else { answer.end },
            in_doubt: answer.in_doubt,
            hard_bounce: answer.hard_bounce,
            dsn_onward: by.dsn_onward,
            reply: AttemptReply {
                at,
                route: self.way().name.clone(),
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

    fn way(&self) -> &Way {
        &self.lane.way
    }

    fn surroundings(&self) -> &Surroundings {
        &self.lane.way.surroundings
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

    /// Ends a leg whose message the store does not give back.
    pub(super) async fn unreadable(&self, error: &OpenError) {
        tracing::error!(target: "oncemail::relay", queue_id = %self.lease.id(), %error, "message cannot be read");
        if self.lease.is_whole() {
            self.lease.give_up(error);
        } else {
            self.lease.settle(&[], Some(UNREADABLE_WAIT)).await;
        }
    }
}

/// A destination that is slow must not keep for hours what others wait for.
fn is_turn_over(options: &Smtp, carried: u32, after: Duration) -> bool {
    carried >= options.messages_per_connection || (carried > 0 && after >= options.connection_lifetime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::options::Hosts;

    #[test]
    fn a_turn_ends_after_so_many_messages_or_after_so_long() {
        let options = Smtp::new(Hosts::in_order(Vec::new()));
        let (most, lifetime) = (options.messages_per_connection, options.connection_lifetime);
        let second = Duration::from_secs(1);
        assert!(!is_turn_over(&options, most - 1, lifetime - second));
        assert!(is_turn_over(&options, most, second) && is_turn_over(&options, 1, lifetime));
        // It has one in any case.
        assert!(!is_turn_over(&options, 0, lifetime));
    }
}
