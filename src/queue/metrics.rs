//! What the queue shows: how much waits, and for how long. All of it is a state, so it is asked for when it is shown; the
//! queue's lock is held for a handful of numbers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Queue;
use crate::metrics::{Collector, DescriptorEncoder, Registry, gauges, one_counter, one_gauge};

/// See the module.
struct Shown(Arc<Queue>);

impl Queue {
    /// Has the queue shown.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Shown(self.clone())));
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (encoder, queue) = (&mut encoder, &*self.0);
        let (depth, fresh_bytes) = {
            let state = queue.state();
            (state.register.depth(), state.fresh_bytes)
        };
        // Counted apart from the depth, so that one may be ahead of the other for a moment.
        let active = queue.leased.get().min(depth.queued as u64);
        let waiting = depth.queued as u64 - active;
        let messages = ("queue_messages", "Messages that wait, are being tried, or are held.");
        let states = [("queued", waiting as f64), ("active", active as f64), ("held", depth.held as f64)];
        gauges(encoder, messages, states.map(|(state, messages)| ([("state", state)], messages)))?;
        let oldest = queue.oldest().map_or(0.0, |since| queue.clock.now().since(since).as_secs_f64());
        one_gauge(
            encoder,
            ("queue_oldest_seconds", "Age of the oldest message that is queued; 0: none."),
            oldest,
        )?;
        let memory = ("queue_memory_bytes", "Contents of fresh messages that are kept in memory.");
        one_gauge(encoder, memory, fresh_bytes as f64)?;
        let unsaved =
            ("queue_unsaved_outcomes", "Outcomes that wait until the disk has room; relaying waits too.");
        one_gauge(encoder, unsaved, queue.unsaved.load(Ordering::Relaxed) as f64)?;
        let events = queue.event_counts();
        let waiting = ("events_queued", "Events that wait for webhooks or the event file.");
        one_gauge(encoder, waiting, events.queued as f64)?;
        let dropped =
            ("events_dropped", "Events that were not queued, because events.queue_limit of them were.");
        one_counter(encoder, dropped, events.dropped)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}
