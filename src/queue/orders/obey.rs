//! An order is carried out: what it makes of a message's recipients, and the saving of that.

use std::collections::VecDeque;

use super::super::Next;
use super::super::events::Known;
use super::super::lease::{Current, Lease, OpenError};
use super::super::notices::{self, Notices};
use super::{Action, Attached, Effect, Errand, NOBODY_QUEUED, Order};
use crate::clock::Timestamp;
use crate::mail::{AttemptReply, HoldCause, Message, Progress, RecipientState};
use crate::store::StoreError;

const NOT_WANTED: &str = "it is another message than it seemed: two addresses look alike";
const NOBODY_HELD: &str = "no recipient of it is held";
const NOBODY_LEFT: &str = "no recipient of it is queued or held";
const NOT_TOLD: &str = "its sender cannot be told";

/// Orders that were carried out with the end of an attempt, and are not saved yet.
#[derive(Default)]
pub(in crate::queue) struct Obeyed {
    orders: Vec<(Attached, Effect)>,
    /// The progress has changed.
    pub(in crate::queue) has_changed: bool,
    /// What is queued is due now.
    pub(in crate::queue) is_due: bool,
}

impl Obeyed {
    /// Answers, now that it is known whether all of it is durable.
    pub(in crate::queue) fn answer(self, saved: &Result<(), StoreError>) {
        for (attached, effect) in self.orders {
            attached.tell(match (effect, saved) {
                (Effect::Done, Err(error)) => Effect::Failed(error.clone()),
                (effect, _) => effect,
            });
        }
    }
}

impl Lease {
    /// Carries out an order on a message that nobody else has, and ends the lease. Whatever fails, the message goes back to
    /// where it was.
    pub(super) async fn obey_now(self, errand: &Errand) -> Effect {
        let (message, progress) = match self.load().await {
            Ok(found) => found,
            Err(OpenError::Gone) => {
                self.end(Next::Finished);
                return Effect::Gone;
            }
            Err(OpenError::Store(error)) => return Effect::Failed(error),
        };
        if !errand.wanted.is_met_by(&message.envelope, &message.origin) {
            return Effect::Unchanged(NOT_WANTED);
        }
        self.note(&message, &progress);
        let now = self.now();
        let mut current = self.progress.lock().await;
        let mut told = Notices::default();
        if !self.is_event() && self.queue.announces() {
            current.known = Some(Known::of(&progress));
        }
        let progress = current.progress.insert(progress);
        if let Err(why) = self.apply(&errand.order, progress, &[], &message, now, &mut told) {
            return Effect::Unchanged(why);
        }
        self.tell_before_orders(progress, &message, now, &mut told);
        let next = match progress {
            progress if progress.is_queued() => Next::Again(progress.next_attempt.since(now)),
            progress if progress.is_held() => Next::Held,
            _ => Next::Finished,
        };
        let Some(settled) = current.save(&self, told, Vec::new()).await else { return Effect::Gone };
        if let Err(error) = settled.saved {
            // Nothing was sent, so nothing is to be kept from being sent again.
            current.unsaved = false;
            return Effect::Failed(error);
        }
        if let (Next::Finished, Some(past)) = (next, self.queue.past()) {
            past.ended(&message, &settled.progress);
        }
        self.end(next);
        Effect::Done
    }

    /// Tells of those who had failed before an order came: the process that found it out may have died before the end of its
    /// attempt, and of a message that is held now nobody looks for them any more (D6).
    fn tell_before_orders(
        &self,
        progress: &mut Progress,
        message: &Message,
        now: Timestamp,
        told: &mut Notices,
    ) {
        let options = self.queue.options.load_full();
        if notices::has_failed(progress, &options) {
            self.telling(message, options, now).failures(progress, told);
        }
    }

    /// Carries out, in memory, what stands in line at the end of an attempt.
    pub(in crate::queue) async fn obey(
        &self,
        current: &mut Current,
        now: Timestamp,
        told: &mut Notices,
    ) -> Obeyed {
        let orders: VecDeque<Attached> = self.queue.take_orders(self.id);
        let mut obeyed = Obeyed::default();
        if orders.is_empty() {
            return obeyed;
        }
        let message = self.message().await;
        let spared = std::mem::take(&mut current.newly_held);
        for attached in orders {
            let Some(progress) = &mut current.progress else { break };
            let effect = match &message {
                Ok(message) => {
                    let errand = &attached.errand;
                    match errand.wanted.is_met_by(&message.envelope, &message.origin) {
                        false => Err(Effect::Unchanged(NOT_WANTED)),
                        true => self
                            .apply(&errand.order, progress, &spared, message, now, told)
                            .map_err(Effect::Unchanged),
                    }
                }
                Err(error) => Err(Effect::Failed(StoreError::Read(error.to_string()))),
            };
            obeyed.has_changed |= effect.is_ok();
            let makes_due = matches!(attached.errand.order.action, Action::Release | Action::Retry);
            obeyed.is_due |= effect.is_ok() && makes_due;
            obeyed.orders.push((attached, effect.err().unwrap_or(Effect::Done)));
        }
        obeyed
    }

    /// Changes the progress as an order wants it; says why when there is nothing to change. What the attempt that ends has
    /// left held (`spared`) is not what a release was meant for, and what it has left in doubt is neither failed nor over
    /// (R1).
    fn apply(
        &self,
        order: &Order,
        progress: &mut Progress,
        spared: &[usize],
        message: &Message,
        now: Timestamp,
        told: &mut Notices,
    ) -> Result<(), &'static str> {
        let concerned = concerned(order.action, progress, spared);
        if concerned.is_empty() {
            return Err(match order.action {
                Action::Retry | Action::Hold => NOBODY_QUEUED,
                Action::Release => NOBODY_HELD,
                Action::Bounce | Action::Discard => NOBODY_LEFT,
            });
        }
        let before = (order.action == Action::Bounce).then(|| progress.clone());
        for number in &concerned {
            let Some(recipient) = progress.recipients.get_mut(*number) else { continue };
            recipient.note(note(order, recipient.state, now));
            recipient.state = match order.action {
                Action::Retry | Action::Release => RecipientState::Queued,
                Action::Hold => RecipientState::Held(HoldCause::Operator),
                // Until the sender is told.
                Action::Bounce => recipient.state,
                Action::Discard => RecipientState::Discarded,
            };
        }
        match order.action {
            Action::Retry => progress.next_attempt = now,
            Action::Release => {
                progress.next_attempt = now;
                progress.released_at = Some(now);
                self.note_release(progress);
            }
            Action::Hold => {}
            Action::Discard => told.by_operator.extend(&concerned),
            Action::Bounce => {
                let telling = self.telling(message, self.queue.options.load_full(), now);
                if !telling.bounces(&concerned, progress, told) {
                    // D6: nobody is over of whom nobody was told for a reason of ours.
                    *progress = before.unwrap_or_else(|| progress.clone());
                    return Err(NOT_TOLD);
                }
                told.by_operator.extend(&concerned);
            }
        }
        Ok(())
    }
}

/// The recipients that an action applies to, by number.
fn concerned(action: Action, progress: &Progress, spared: &[usize]) -> Vec<usize> {
    let is_concerned = |number: usize, state: RecipientState| match (action, state) {
        (Action::Release, RecipientState::Held(_)) => !spared.contains(&number),
        (Action::Bounce | Action::Discard, RecipientState::Held(HoldCause::InDoubt)) => {
            !spared.contains(&number)
        }
        (Action::Bounce | Action::Discard, RecipientState::Held(_)) => true,
        (Action::Release, _) => false,
        (_, state) => state == RecipientState::Queued,
    };
    let recipients = progress.recipients.iter().enumerate();
    recipients.filter(|(number, r)| is_concerned(*number, r.state)).map(|(number, _)| number).collect()
}

/// So that the message's story shows who did it.
fn note(order: &Order, state: RecipientState, now: Timestamp) -> AttemptReply {
    let what = match order.action {
        Action::Retry => AttemptReply::RETRIED,
        Action::Hold => AttemptReply::HELD,
        Action::Release => AttemptReply::RELEASED,
        Action::Bounce => "bounced by",
        Action::Discard => "discarded by",
    };
    let in_doubt = match (order.action, state) {
        (Action::Release, RecipientState::Held(HoldCause::InDoubt)) => ", though it may have been delivered",
        _ => "",
    };
    let reason = order.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    AttemptReply {
        at: now,
        route: String::new(),
        host: String::new(),
        code: 0,
        text: format!("{what} {}{in_doubt}{reason}", order.by),
        times: 1,
        tls: String::new(),
    }
}
