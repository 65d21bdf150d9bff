//! One line in the log for what became of each recipient.

use crate::clock::Timestamp;
use crate::mail::{Message, QueueId, RecipientState};
use crate::queue::{Outcome, Settled};

/// Tells the log of outcomes, once they are saved.
pub(super) fn outcomes(message: &Message, outcomes: &[Outcome], settled: &Settled, now: Timestamp) {
    for outcome in outcomes {
        recipient(message, outcome.recipient, outcome.in_doubt, settled, now);
    }
    complain(message.id, settled);
}

/// Tells the log of a message that expired while it waited for its destination.
pub(super) fn expired(message: &Message, settled: &Settled, now: Timestamp) {
    let held = |state| matches!(state, RecipientState::Held(_));
    for (number, _) in settled.progress.recipients.iter().enumerate().filter(|(_, r)| held(r.state)) {
        recipient(message, number, false, settled, now);
    }
    complain(message.id, settled);
}

fn complain(id: QueueId, settled: &Settled) {
    if let Err(error) = &settled.saved {
        tracing::error!(target: "oncemail::relay", queue_id = %id, %error,
            "an outcome could not be saved; the message is not tried again before a restart");
    }
}

fn recipient(message: &Message, number: usize, in_doubt: bool, settled: &Settled, now: Timestamp) {
    let (Some(envelope), Some(progress)) =
        (message.envelope.recipients.get(number), settled.progress.recipients.get(number))
    else {
        return;
    };
    let last = progress.replies.last();
    let (outcome, next_attempt) = match progress.state {
        RecipientState::Delivered => ("delivered", None),
        RecipientState::Queued => ("deferred", Some(settled.progress.next_attempt.to_string())),
        RecipientState::Held(_) => ("held", None),
        RecipientState::Bounced => ("bounced", None),
    };
    let reply = last
        .map(|last| if last.code == 0 { last.text.clone() } else { format!("{} {}", last.code, last.text) });
    tracing::info!(
        target: "oncemail::relay",
        queue_id = %message.id,
        key = message.key.as_ref().map(|key| key.key.as_str()),
        message_id = %message.message_id,
        recipient = %envelope.forward_path.as_str(),
        route = last.map(|last| last.route.as_str()),
        host = last.map(|last| last.host.as_str()),
        outcome,
        reply,
        attempts = progress.attempts,
        age_ms = u64::try_from(now.since(message.accepted_at).as_millis()).unwrap_or(u64::MAX),
        in_doubt = in_doubt.then_some(true),
        next_attempt,
        "delivery"
    );
}
