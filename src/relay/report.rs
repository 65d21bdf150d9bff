//! One line in the log for what became of each recipient.

use crate::clock::Timestamp;
use crate::mail::{Message, RecipientState, trace};
use crate::queue::{Outcome, Settled};

/// Tells the log of outcomes once they are saved, and of recipients that have expired with them.
/// `destination` is the domain of a lane that has one, else empty.
pub(super) fn outcomes(
    destination: &str,
    message: &Message,
    outcomes: &[Outcome],
    settled: &Settled,
    now: Timestamp,
) {
    let tell = |number, in_doubt| recipient(destination, message, number, in_doubt, settled, now);
    for outcome in outcomes {
        tell(outcome.recipient, outcome.in_doubt);
    }
    // Their time was up, or their sender is told only now, though this was not their attempt.
    let earlier = settled.ended.iter().filter(|number| !settled.expired.contains(number));
    for number in settled.expired.iter().chain(earlier) {
        if !outcomes.iter().any(|outcome| outcome.recipient == *number) {
            tell(*number, false);
        }
    }
    if let Err(error) = &settled.saved {
        tracing::error!(target: "oncemail::relay", queue_id = %message.id, %error,
            "an outcome could not be saved; the message is not tried again before a restart");
    }
}

/// The same of an event. What goes well is for whoever looks for it: it says nothing that the mail's own line has not.
pub(super) fn event(message: &Message, outcomes: &[Outcome], settled: &Settled, now: Timestamp) {
    let tried = outcomes.iter().map(|outcome| outcome.recipient);
    let over =
        settled.ended.iter().copied().filter(|number| !outcomes.iter().any(|o| o.recipient == *number));
    for number in tried.chain(over) {
        let (Some(recipient), Some(progress)) =
            (message.envelope.recipients.get(number), settled.progress.recipients.get(number))
        else {
            continue;
        };
        let (event, sink, attempts) = (message.id, recipient.forward_path.local_part(), progress.attempts);
        let last = progress.replies.last();
        let (code, reply) = (last.map(|last| last.code), last.map(|last| last.text.as_str()));
        match progress.state {
            RecipientState::Delivered => {
                tracing::debug!(target: "oncemail::events", %event, sink, code, attempts, "event taken");
            }
            RecipientState::Queued => {
                let next = Some(settled.progress.next_attempt).filter(|next| *next > now);
                let next_attempt = next.map(|next| next.to_string());
                tracing::info!(target: "oncemail::events", %event, sink, code, reply, attempts, next_attempt,
                    "event deferred");
            }
            RecipientState::Held(_) | RecipientState::Bounced | RecipientState::Discarded => {
                tracing::error!(target: "oncemail::events", %event, sink, code, reply, attempts,
                    "event lost: its sink does not want it, or has not taken it in all of its time");
            }
        }
    }
    if let Err(error) = &settled.saved {
        tracing::error!(target: "oncemail::events", event = %message.id, %error,
            "an outcome could not be saved; the event is not tried again before a restart");
    }
}

fn recipient(
    destination: &str,
    message: &Message,
    number: usize,
    in_doubt: bool,
    settled: &Settled,
    now: Timestamp,
) {
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
        traceparent = trace::traceparent(&message.content),
        recipient = %envelope.forward_path.as_str(),
        route = last.map(|last| last.route.as_str()),
        destination = Some(destination).filter(|destination| !destination.is_empty()),
        host = last.map(|last| last.host.as_str()),
        tls = last.map(|last| last.tls.as_str()).filter(|tls| !tls.is_empty()),
        outcome,
        reply,
        attempts = progress.attempts,
        age_ms = u64::try_from(now.since(message.accepted_at).as_millis()).unwrap_or(u64::MAX),
        in_doubt = in_doubt.then_some(true),
        unverified = envelope.unverified.then_some(true),
        next_attempt,
        "delivery"
    );
}
