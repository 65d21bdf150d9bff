//! Somebody may want to know of each retry that is answered with the first queue id.
//!
//! Telling is a message of the queue, made durable before the client is answered. It must never change the answer: when
//! it cannot be told, that is counted and logged, and the client hears of its replay all the same.

use std::sync::Arc;

use super::Intake;
use super::arrival::Arrival;
use super::examine::Examined;
use crate::mail::{Message, QueueId, Replay, Scope};

/// Makes what is told of a replay.
pub trait Replays: Send + Sync {
    /// The message that tells of it; `None` when nobody wants to know. Must be quick.
    fn event(&self, replay: &Replay<'_>) -> Option<Arc<Message>>;
}

impl Intake {
    /// Has `replays` told of every replay from now on. A second call does nothing.
    pub fn announce_to(&self, replays: Arc<dyn Replays>) {
        let _ = self.replays.set(replays);
    }

    /// How many replays could not be told of since the start.
    pub fn untold(&self) -> u64 {
        self.metrics.untold().get()
    }

    /// Queues what is told of a replay.
    pub(super) async fn tell_replay(
        &self,
        first: QueueId,
        arrival: &Arrival,
        examined: &Examined,
        scope: &Scope,
    ) {
        let Some(replays) = self.replays.get() else { return };
        let keyed = examined.verdict.as_ref().ok().and_then(Option::as_ref);
        let replay = Replay {
            first,
            at: arrival.at,
            key: keyed.map(|keyed| keyed.key.as_str()),
            scope,
            message_id: examined.message_id.as_deref(),
            reverse_path: &arrival.envelope.reverse_path,
            user: arrival.origin.user.as_deref(),
            client: arrival.origin.client,
            traceparent: examined.traceparent.as_deref(),
        };
        let Some(event) = replays.event(&replay) else { return };
        if let Err(error) = self.store.accept(event, None).await {
            self.metrics.untold().add_one();
            tracing::warn!(%first, %error, "nobody can be told of this replay");
        }
    }
}
