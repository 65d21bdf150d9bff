//! Connects the intake, which sees replays, with the queue, which knows who wants to hear of them.

use std::sync::Arc;

use crate::intake::{Replay, Replays};
use crate::mail::Message;
use crate::queue::{Queue, Replayed};

/// See the module.
pub(super) struct Announce(pub(super) Arc<Queue>);

impl Replays for Announce {
    fn event(&self, replay: &Replay<'_>) -> Option<Arc<Message>> {
        let Replay { first, at, key, scope, message_id, reverse_path, user, client, traceparent } = *replay;
        self.0.replayed(&Replayed {
            first,
            at,
            key,
            scope,
            message_id,
            reverse_path,
            user,
            client,
            traceparent,
        })
    }
}
