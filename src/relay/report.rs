//! One line in the log for what became of each recipient.

use crate::clock::Timestamp;
use crate::mail::{Message, RecipientState};
use crate::queue::{Outcome, Settled};

/// Tells the log of outcomes once they are saved, and of recipients that have expired with them.
pub(super) fn outcomes(message: &Message, outcomes: &[Outcome], settled: &Settled, now: Timestamp) {
    for outcome in outcomes {
        recipient(message, outcome.recipient, outcome.in_doubt, settled, now);
    }
    // Their time was up, or their sender is told only now, though this was not their attempt.
    let earlier = settled.ended.iter().filter(|number| !settled.expired.contains(number));
    for number in settled.expired.iter().chain(earlier) {
        if !outcomes.iter().any(|outcome| outcome.recipient == *number) {
            recipient(message, *number, false, settled, now);
        }
    }
    if let Err(error) = &settled.saved {
        tracing::error!(target: "oncemail::relay", queue_id = %message.id, %error,
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
        RecipientState::Queued => {
            // While other legs are under way the next attempt is not set.
            let next = Some(settled.progress.next_attempt).filter(|next| *next > now);
            ("deferred", next.map(|next| next.to_string()))
        }
        RecipientState::Held(_) => ("held", None),
        RecipientState::Bounced => ("bounced", None),
        RecipientState::Discarded => ("discarded", None),
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
