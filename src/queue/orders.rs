//! What an operator wants done with a message, and when that happens: at once, or with the outcome of the attempt that
//! is under way, which is never cut off (R1).

use super::Queue;
use crate::mail::QueueId;
use crate::store::StoreError;

/// An operator's wish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// What.
    pub action: Action,
    /// Who said so; for the log, and kept with the message.
    pub by: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
}

/// See [`Order::action`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Queued recipients are tried now.
    Retry,
    /// Queued recipients are held.
    Hold,
    /// Held recipients are queued again, with their time starting anew.
    Release,
    /// Queued and held recipients fail, and the sender is told.
    Bounce,
    /// Queued and held recipients are forgotten, and nobody is told.
    Discard,
}

/// What became of an order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Done, and durable.
    Done,
    /// An attempt is under way; it happens with that attempt's outcome, unless the process ends before.
    Pending,
    /// Nothing of the message is in a state that the action applies to; with a sentence that says why.
    Unchanged(&'static str),
    /// It is not in the queue (any more).
    Gone,
    /// It could not be made durable; the message stands as it was.
    Failed(StoreError),
}

impl Queue {
    /// Does it, and comes back when it is durable or has to wait for an attempt.
    ///
    /// # Cancel safety
    /// Must not be dropped: it may be half done.
    pub async fn order(self: &std::sync::Arc<Self>, id: QueueId, order: Order) -> Effect {
        let _ = (id, order);
        Effect::Gone
    }

    /// The same for many messages. Those that turn out not to be `wanted`, now that they are read, are left alone.
    ///
    /// # Cancel safety
    /// Must not be dropped: it may be half done.
    pub async fn order_all(
        self: &std::sync::Arc<Self>,
        ids: Vec<QueueId>,
        order: Order,
        wanted: super::Wanted,
    ) -> Vec<(QueueId, Effect)> {
        let _ = (order, wanted);
        ids.into_iter().map(|id| (id, Effect::Gone)).collect()
    }
}
