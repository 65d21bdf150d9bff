//! One line in the log for each submission, whatever came of it. Never content, never a password.

use std::time::Duration;

use tracing::field::display;

use super::visit::Visit;
use crate::intake::Receipt;
use crate::mail::{Address, Envelope, Handling};
use crate::smtp::Reply;

/// What the log says of a submission beside its decision.
pub(super) struct Record {
    pub(super) user: Option<String>,
    pub(super) reverse_path: String,
    /// Octets of the message as it was sent.
    pub(super) size: u64,
    pub(super) recipients: usize,
    /// How many of them were accepted without a check that was to be made.
    pub(super) unverified: usize,
    /// What MAIL asked for.
    pub(super) handling: Handling,
    /// From MAIL to the reply.
    pub(super) duration: Duration,
}

impl Record {
    pub(super) fn new(user: Option<&str>, envelope: &Envelope, size: u64) -> Self {
        Self {
            user: user.map(str::to_owned),
            reverse_path: envelope.reverse_path.to_string(),
            size,
            recipients: envelope.recipients.len(),
            unverified: envelope.recipients.iter().filter(|recipient| recipient.unverified).count(),
            handling: envelope.handling,
            duration: Duration::ZERO,
        }
    }

    /// The intake has decided.
    pub(super) fn decided(&self, visit: &Visit, receipt: &Receipt, reply: &Reply) {
        let queue_id = receipt.decision.queue_id().map(display);
        self.write(visit, receipt.decision.as_str(), reply, queue_id, Some(receipt));
    }

    /// It was refused before the intake saw it.
    pub(super) fn refused(&self, visit: &Visit, reply: &Reply) {
        self.write(visit, "refused", reply, None, None);
    }

    /// A recipient was refused at RCPT.
    pub(super) fn recipient_refused(visit: &Visit, user: Option<&str>, recipient: &Address, reply: &Reply) {
        tracing::info!(
            target: "oncemail::submission",
            recipient = %recipient,
            code = reply.code,
            reply = reply.text(),
            user,
            listener = visit.entrance.listener.name.as_str(),
            client = %visit.client,
            "recipient refused"
        );
    }

    fn write(
        &self,
        visit: &Visit,
        result: &str,
        reply: &Reply,
        queue_id: Option<tracing::field::DisplayValue<crate::mail::QueueId>>,
        receipt: Option<&Receipt>,
    ) {
        tracing::info!(
            target: "oncemail::submission",
            result,
            code = reply.code,
            // Of a yes it says nothing new.
            reply = (!reply.is_positive()).then(|| reply.text()),
            queue_id,
            key = receipt.and_then(|receipt| receipt.key.as_deref()),
            message_id = receipt.map_or("", |receipt| receipt.message_id.as_str()),
            traceparent = receipt.and_then(|receipt| receipt.traceparent.as_deref()),
            user = self.user.as_deref(),
            listener = visit.entrance.listener.name.as_str(),
            client = %visit.client,
            reverse_path = self.reverse_path.as_str(),
            size = self.size,
            recipients = self.recipients,
            // Mostly there are none.
            unverified = (self.unverified > 0).then_some(self.unverified),
            release_at = self.handling.release_at.map(display),
            priority = (self.handling.priority != 0).then_some(self.handling.priority),
            require_tls = self.handling.require_tls.then_some(true),
            duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
            "submission"
        );
    }
}
