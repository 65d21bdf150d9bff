//! What the intake counts: every submission with what became of it, and how long the decision took.

use std::fmt;
use std::sync::Arc;

use super::submission::Decision;
use crate::metrics::{
    Collector, Count, DescriptorEncoder, Latency, Registry, Tally, counters, label, one_counter, one_latency,
};

label! {
    /// What became of a submission.
    pub Outcome as "result" {
        /// Queued, for the first time.
        Accepted = "accepted",
        /// A retry, answered with the first queue id.
        Replayed = "replayed",
        /// The key is known with another message.
        Mismatch = "mismatch",
        /// The key's first submission was still being decided on.
        InFlight = "in_flight",
        /// The key cannot be used.
        InvalidKey = "invalid_key",
        /// Too many Received fields.
        Loop = "loop",
        /// The disk is nearly full.
        LowDisk = "low_disk",
        /// The store could not make it durable, or could not say what a key remembers.
        StoreFailed = "store_failed",
        /// A protocol refused it before it came here: too large, not allowed, too many.
        Refused = "refused",
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct IntakeMetrics {
    submissions: Tally<Outcome>,
    /// From the last octet of a message to the decision about it.
    took: Latency,
    accepted_bytes: Count,
    accepted_recipients: Count,
    observed: Count,
    untold: Count,
}

impl IntakeMetrics {
    /// Counts a submission that never came to a decision here.
    pub fn refused(&self) {
        self.submissions.add_one(Outcome::Refused);
    }

    /// How many had this end.
    pub fn submissions(&self, outcome: Outcome) -> u64 {
        self.submissions.get(outcome)
    }

    /// How many were neither queued nor answered as a retry.
    pub fn not_taken(&self) -> u64 {
        let taken = self.submissions.get(Outcome::Accepted) + self.submissions.get(Outcome::Replayed);
        self.submissions.sum().saturating_sub(taken)
    }

    /// From the last octet of a message to the decision about it.
    pub fn took(&self) -> &Latency {
        &self.took
    }

    /// Replays of which nobody could be told.
    pub(super) fn untold(&self) -> &Count {
        &self.untold
    }

    /// Has everything shown.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    pub(super) fn decided(&self, decision: &Decision, took: std::time::Duration) {
        self.submissions.add_one(outcome(decision));
        self.took.observe(took);
    }

    pub(super) fn accepted(&self, bytes: usize, recipients: usize) {
        self.accepted_bytes.add(bytes as u64);
        self.accepted_recipients.add(recipients as u64);
    }

    pub(super) fn observed(&self) -> &Count {
        &self.observed
    }
}

impl Collector for IntakeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let submissions = ("submissions", "Messages that clients submitted, by what became of them.");
        counters(encoder, submissions, self.submissions.samples())?;
        let took = ("submission_seconds", "From the last octet of a message to the decision about it.");
        one_latency(encoder, took, &self.took)?;
        let bytes = ("accepted_bytes", "Octets of the messages that were queued.");
        one_counter(encoder, bytes, self.accepted_bytes.get())?;
        let recipients = ("accepted_recipients", "Recipients of the messages that were queued.");
        one_counter(encoder, recipients, self.accepted_recipients.get())?;
        let observed =
            ("observed_duplicates", "Submissions that idempotency.observe let through as duplicates.");
        one_counter(encoder, observed, self.observed.get())?;
        let untold = ("events_untold", "Replays whose event could not be made durable.");
        one_counter(encoder, untold, self.untold.get())
    }
}

fn outcome(decision: &Decision) -> Outcome {
    match decision {
        Decision::Queued(_) => Outcome::Accepted,
        Decision::Replayed(_) => Outcome::Replayed,
        Decision::DifferentBody | Decision::DifferentEnvelope => Outcome::Mismatch,
        Decision::InFlight => Outcome::InFlight,
        Decision::InvalidKey(_) => Outcome::InvalidKey,
        Decision::TooManyHops => Outcome::Loop,
        Decision::LowDisk => Outcome::LowDisk,
        Decision::StoreFailed => Outcome::StoreFailed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::intake::KeyFault;
    use crate::mail::QueueId;

    #[test]
    fn every_decision_is_counted_and_all_but_two_are_not_taken() {
        let metrics = IntakeMetrics::default();
        let id = QueueId::from_bytes([0; 16]);
        for (decision, result) in [
            (Decision::Queued(id), "accepted"),
            (Decision::Replayed(id), "replayed"),
            (Decision::DifferentBody, "mismatch"),
            (Decision::DifferentEnvelope, "mismatch"),
            (Decision::InFlight, "in_flight"),
            (Decision::InvalidKey(KeyFault::Length), "invalid_key"),
            (Decision::TooManyHops, "loop"),
            (Decision::LowDisk, "low_disk"),
            (Decision::StoreFailed, "store_failed"),
        ] {
            let count =
                || metrics.submissions.each().find(|(known, _)| *known == result).map(|(_, n)| n.get());
            let before = count();
            metrics.decided(&decision, Duration::from_millis(1));
            assert_eq!(count(), before.map(|before| before + 1), "{decision:?}");
        }
        metrics.refused();
        assert_eq!((metrics.submissions.sum(), metrics.not_taken(), metrics.took.count()), (10, 8, 9));
    }
}
