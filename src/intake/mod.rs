//! The only way in, for every protocol: finds the key, decides whether this is a first submission or a retry, and has
//! the store make it durable.
//!
//! It must never say "queued" before the store has said so (D1), and never keep a claim on a key longer than the
//! submission that made it (I4).

pub mod options;
pub mod submission;

pub use options::{Fallback, Options};
pub use submission::{Decision, KeyFault, Receipt, Submission, Trace};

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Clock;
use crate::mail::{Message, QueueId};
use crate::store::{Acceptance, Status, Store, StoreError};

/// Decides about submissions.
pub struct Intake {
    store: Arc<dyn Store>,
    #[expect(dead_code, reason = "skeleton")]
    options: Options,
    clock: Clock,
}

impl Intake {
    /// An intake in front of `store`.
    pub fn new(store: Arc<dyn Store>, options: Options, clock: Clock) -> Self {
        Self { store, options, clock }
    }

    /// Whether new mail can be taken; asked at MAIL, before anything is received.
    pub fn status(&self) -> Status {
        self.store.status()
    }

    /// Decides about one submission.
    ///
    /// # Cancel safety
    /// A dropped future leaves the decision to go on by itself: the message is queued or not, and the claim on its
    /// key ends with it.
    pub async fn accept(&self, submission: Submission) -> Receipt {
        let now = self.clock.now();
        let id = QueueId::new(now);
        let message = Message {
            id,
            accepted_at: now,
            envelope: submission.envelope,
            origin: submission.origin,
            key: None,
            message_id: String::new(),
            content: Bytes::from(submission.content),
        };
        let decision = match self.store.accept(Arc::new(message), None).await {
            Ok(Acceptance::Queued) => Decision::Queued(id),
            Ok(Acceptance::Existing(record)) => Decision::Replayed(record.id),
            Err(StoreError::LowDisk { .. }) => Decision::LowDisk,
            Err(_) => Decision::StoreFailed,
        };
        Receipt { decision, key: None, message_id: String::new() }
    }
}
