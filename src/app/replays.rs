//! Connects the intake, which sees replays, with the queue, which knows who wants to hear of them.

use std::sync::Arc;

use crate::intake::Replays;
use crate::mail::{Message, Replay};
use crate::queue::Queue;

/// See the module.
pub(super) struct Announce(pub(super) Arc<Queue>);

impl Replays for Announce {
    fn event(&self, replay: &Replay<'_>) -> Option<Arc<Message>> {
        self.0.replayed(replay)
    }
}
