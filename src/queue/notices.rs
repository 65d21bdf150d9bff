//! Who is told of what became of a message (RFC 3461), and what that makes of its recipients. Pure.
//!
//! A failure is told once per attempt, with all recipients that it ended for; a delay once per message; a delivery where
//! it was asked for and nobody further on can tell of it. Nothing in here ever touches a recipient that is in doubt: it
//! is neither failed nor delivered.

use std::sync::Arc;

use super::events::Known;
use super::options::{OnFailure, Options};
use super::outcome::{End, Outcome};
use crate::bounce::{self, Fate, Kind, Mention, Report};
use crate::clock::Timestamp;
use crate::mail::{Envelope, HoldCause, Message, Notify, Progress, QueueId, RecipientState};

/// RFC 3461 §4.1: what a sender wants to know that has not said so.
const UNSAID: Notify = Notify { success: false, failure: true, delay: true };

/// Reports that are to be saved with a progress, and a line about each for the log.
#[derive(Default)]
pub(super) struct Notices {
    /// To be queued in the commit of the progress (D2).
    pub(super) messages: Vec<Arc<Message>>,
    /// (kind, recipients), in the same order.
    pub(super) lines: Vec<(&'static str, usize)>,
    /// Events of the same save.
    pub(super) events: Vec<Arc<Message>>,
    /// Recipients that an operator has ended, by number; for the events.
    pub(super) by_operator: Vec<usize>,
    /// What is known of the recipients once the events are durable.
    pub(super) announced: Option<Known>,
}

/// What the reports of one save have in common.
pub(super) struct Telling<'a> {
    pub(super) message: &'a Message,
    pub(super) options: Arc<Options>,
    pub(super) due_at: Timestamp,
    pub(super) now: Timestamp,
}

/// Whether a recipient has failed and nobody has been told, as a bounce would.
pub(super) fn has_failed(progress: &Progress, options: &Options) -> bool {
    options.on_failure != OnFailure::Hold && progress.recipients.iter().any(|r| fate(r.state).is_some())
}

/// What is saved of a progress while its attempt goes on, where that is something else: a start only looks again at
/// messages of which somebody is queued. If nobody is but those in doubt, those who have failed stay queued until their
/// sender is told (D6); after a crash they are offered once more.
pub(super) fn until_told(progress: &Progress, options: &Options) -> Option<Progress> {
    if progress.is_queued() || !has_failed(progress, options) {
        return None;
    }
    let mut progress = progress.clone();
    for recipient in progress.recipients.iter_mut().filter(|r| fate(r.state).is_some()) {
        recipient.state = RecipientState::Queued;
    }
    Some(progress)
}

/// Whether the sender may have to be told that it takes long.
pub(super) fn is_late(progress: &Progress, due_at: Timestamp, now: Timestamp, options: &Options) -> bool {
    let is_late = |warn_after| now >= due_at.plus(warn_after);
    !progress.warned && progress.is_queued() && options.warn_after.is_some_and(is_late)
}

/// The outcome of a recipient that was delivered to where nobody tells of it: what its sender would be told.
pub(super) fn passed_on(outcome: &Outcome) -> Option<Mention> {
    if outcome.end != End::Delivered || outcome.dsn_onward {
        return None;
    }
    // No server has said so: it was put where it was to go by ourselves.
    let fate = if outcome.reply.code == 0 { Fate::Delivered } else { Fate::Relayed };
    Some(Mention { recipient: outcome.recipient, fate })
}

/// Whether the sender wants to know of success, for any recipient.
pub(super) fn wants_success(envelope: &Envelope) -> bool {
    envelope.reverse_path.mailbox().is_some()
        && envelope.recipients.iter().any(|recipient| recipient.notify.is_some_and(|notify| notify.success))
}

impl Notices {
    /// All that is to be queued in the commit of the progress.
    pub(super) fn all(&self) -> Vec<Arc<Message>> {
        self.messages.iter().chain(&self.events).cloned().collect()
    }

    /// Says that they are queued.
    pub(super) fn log(&self, original: QueueId) {
        for (notice, (kind, recipients)) in self.messages.iter().zip(&self.lines) {
            tracing::info!(target: "oncemail::queue", queue_id = %notice.id, %original, kind, recipients, "notice");
        }
    }
}

impl Telling<'_> {
    /// Ends the recipients that have failed: `Bounced` where the sender is told, `Discarded` where nobody is. What cannot
    /// be told for a reason of ours stays held.
    pub(super) fn failures(&self, progress: &mut Progress, notices: &mut Notices) {
        let failed = progress.recipients.iter().enumerate();
        let failed = failed.filter_map(|(recipient, r)| Some(Mention { recipient, fate: fate(r.state)? }));
        let tells = self.options.on_failure == OnFailure::Bounce;
        let (told, untold): (Vec<_>, Vec<_>) =
            failed.partition(|mention| tells && self.wants(*mention, |notify| notify.failure));
        set_all(progress, &untold, RecipientState::Discarded);
        if self.report(Kind::Failure, &told, progress, notices) {
            set_all(progress, &told, RecipientState::Bounced);
        }
    }

    /// Ends these recipients because an operator wants it, whatever the options say: `Bounced` where the sender is told,
    /// `Discarded` where nobody is to be. Gives back whether that could be done.
    pub(super) fn bounces(&self, numbers: &[usize], progress: &mut Progress, notices: &mut Notices) -> bool {
        let mentions = numbers.iter().map(|recipient| Mention { recipient: *recipient, fate: Fate::Failed });
        let (told, untold): (Vec<_>, Vec<_>) =
            mentions.partition(|mention| self.wants(*mention, |notify| notify.failure));
        if !told.is_empty() && !self.report(Kind::Failure, &told, progress, notices) {
            return false;
        }
        set_all(progress, &untold, RecipientState::Discarded);
        set_all(progress, &told, RecipientState::Bounced);
        true
    }

    /// Tells, once, that it takes long.
    pub(super) fn delay(&self, progress: &mut Progress, notices: &mut Notices) {
        let waiting = progress.recipients.iter().enumerate();
        let waiting = waiting.filter(|(_, r)| r.state == RecipientState::Queued);
        let mentions: Vec<_> = waiting
            .map(|(recipient, _)| Mention { recipient, fate: Fate::Delayed })
            .filter(|mention| self.wants(*mention, |notify| notify.delay))
            .collect();
        let until = self.due_at.plus(self.options.expire_after);
        progress.warned |= self.report(Kind::Delay { until }, &mentions, progress, notices);
    }

    /// Tells of those of `mentions` for which the sender wanted to know.
    pub(super) fn successes(&self, mentions: &[Mention], progress: &Progress, notices: &mut Notices) {
        let wanted = |mention: &Mention| {
            let is_delivered = progress
                .recipients
                .get(mention.recipient)
                .is_some_and(|recipient| recipient.state == RecipientState::Delivered);
            is_delivered && self.wants(*mention, |notify| notify.success)
        };
        let mentions: Vec<_> = mentions.iter().copied().filter(wanted).collect();
        self.report(Kind::Success, &mentions, progress, notices);
    }

    fn wants(&self, mention: Mention, what: impl Fn(Notify) -> bool) -> bool {
        let envelope = &self.message.envelope;
        let recipient = envelope.recipients.get(mention.recipient);
        envelope.reverse_path.mailbox().is_some()
            && recipient.is_some_and(|recipient| what(recipient.notify.unwrap_or(UNSAID)))
    }

    /// Whether there is a report now.
    fn report(&self, kind: Kind, mentions: &[Mention], progress: &Progress, notices: &mut Notices) -> bool {
        let report = Report {
            kind,
            hostname: &self.options.hostname,
            original: self.message,
            progress,
            mentions,
            at: self.now,
        };
        let Some(notice) = bounce::notice(&report) else { return false };
        notices.messages.push(Arc::new(notice));
        notices.lines.push((kind.as_str(), mentions.len()));
        true
    }
}

/// How a recipient has ended of whom nobody was told.
fn fate(state: RecipientState) -> Option<Fate> {
    match state {
        RecipientState::Held(HoldCause::Failed) => Some(Fate::Failed),
        RecipientState::Held(HoldCause::Expired) => Some(Fate::Expired),
        RecipientState::Held(HoldCause::InDoubt | HoldCause::Operator)
        | RecipientState::Queued
        | RecipientState::Delivered
        | RecipientState::Bounced
        | RecipientState::Discarded => None,
    }
}

fn set_all(progress: &mut Progress, mentions: &[Mention], state: RecipientState) {
    for mention in mentions {
        if let Some(recipient) = progress.recipients.get_mut(mention.recipient) {
            recipient.state = state;
        }
    }
}
