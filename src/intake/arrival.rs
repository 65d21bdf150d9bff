//! One submission on its way to a decision, and the work on its content: on the spot for small ones, where it holds
//! up no other connection for large ones.

use std::sync::Arc;

use bytes::Bytes;

use super::examine::{self, Examined, Keyed, examine};
use super::fingerprint::{self, Comparison};
use super::fixup;
use super::options::Options;
use super::submission::{Submission, Trace};
use super::turns::{INLINE_BYTES, Turn};
use crate::clock::Timestamp;
use crate::mail::{Address, Body, Envelope, Fingerprint, KeyKind, Message, Origin, QueueId, ScopedKey};

/// A submission with its id and time. Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// The queue id that it gets if it is queued.
    pub id: QueueId,
    /// When the final dot was read.
    pub at: Timestamp,
    /// How it came in.
    pub origin: Arc<Origin>,
    /// What the protocol says of the connection.
    pub trace: Arc<Trace>,
    /// Its envelope, as it came.
    pub envelope: Arc<Envelope>,
    /// Recipients that a check has refused.
    pub refused: Arc<[Address]>,
    /// Its content, as it came.
    pub content: Bytes,
    /// The configuration that it is decided by.
    pub options: Arc<Options>,
    /// Of a large one, while there is work to be done on its content.
    pub turn: Option<Arc<Turn>>,
}

impl Arrival {
    pub(super) fn new(submission: Submission, at: Timestamp, options: Arc<Options>) -> Self {
        Self {
            id: QueueId::new(at),
            at,
            origin: Arc::new(submission.origin),
            trace: Arc::new(submission.trace),
            envelope: Arc::new(submission.envelope),
            refused: submission.refused.into(),
            content: Bytes::from(submission.content),
            options,
            turn: None,
        }
    }

    /// Whether an implicit key is only looked at.
    pub(super) fn only_observes(&self, keyed: &Keyed) -> bool {
        self.options.observe && keyed.kind != KeyKind::Header
    }

    /// Finds key, fingerprint and the rest; `None` when the work could not be done.
    pub(super) async fn examine(&self) -> Option<Examined> {
        self.run(self.content.len(), |arrival| examine(&arrival.content, &arrival.envelope, &arrival.options))
            .await
    }

    /// Compares this submission with what a key remembers, by the record's rules.
    pub(super) async fn compare(&self, mine: Fingerprint, record: Fingerprint) -> Option<Comparison> {
        self.run(self.content.len(), move |arrival| {
            let rules = examine::rules(&arrival.options);
            arrival.despite_refusals(fingerprint::compare(&record, &mine, &arrival.content, rules), &record)
        })
        .await
    }

    /// I1: the same message stays the same although a check refuses now what it let pass then.
    pub(super) fn despite_refusals(&self, comparison: Comparison, record: &Fingerprint) -> Comparison {
        match comparison {
            Comparison::OtherEnvelope
                if fingerprint::was_named_with(record, &self.envelope, &self.refused) =>
            {
                Comparison::Same
            }
            other => other,
        }
    }

    /// The message as it is queued. It takes the content with it, and there is no more work to be done.
    pub(super) async fn message(&mut self, key: Option<ScopedKey>, message_id: String) -> Option<Message> {
        let content = std::mem::take(&mut self.content);
        let message = self.run(content.len(), move |arrival| {
            let content = fixup::relayed(arrival, Vec::from(content));
            let mut envelope = Envelope::clone(&arrival.envelope);
            // What a client says is a wish; what is in the message decides what it needs (RFC 6152 §3).
            envelope.body = if content.is_ascii() { Body::SevenBit } else { Body::EightBitMime };
            Message {
                id: arrival.id,
                accepted_at: arrival.at,
                envelope,
                origin: Origin::clone(&arrival.origin),
                key,
                message_id,
                content: Bytes::from(content),
            }
        });
        let message = message.await;
        self.turn = None;
        message
    }

    /// The message's own Message-ID, or the one that it is given.
    pub(super) fn relayed_message_id(&self, examined: &Examined) -> String {
        let own = examined.message_id.clone();
        own.unwrap_or_else(|| fixup::message_id(self.id, &self.options.hostname))
    }

    /// `None` when the work panicked or the runtime is shutting down.
    async fn run<T, F>(&self, octets: usize, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> T + Send + 'static,
    {
        if octets <= INLINE_BYTES {
            return Some(work(self));
        }
        let arrival = self.clone();
        let outcome = tokio::task::spawn_blocking(move || work(&arrival)).await;
        outcome.inspect_err(|error| tracing::error!(id = %self.id, %error, "message not examined")).ok()
    }
}
