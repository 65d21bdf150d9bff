//! The index thread: moves keys from the overlay into the index, makes checkpoints, forgets expired keys, and reclaims
//! segments. Nothing that answers a client waits for it, but for the bound of the overlay.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::checkpoint::{Checkpoint, encode_ledger};
use super::commit::FLUSH_KEYS;
use super::files::is_full;
use super::journal::segment_name;
use super::keys::Bucket;
use super::request::Request;
use super::shared::Shared;
use super::{StoreError, damage, reclaim, reserve};
use crate::clock::Timestamp;

/// A checkpoint is made after this many segments …
const CHECKPOINT_SEGMENTS: u32 = 4;
/// … or this long after the last one, when something has happened since.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// What wakes the thread.
pub enum Nudge {
    /// There may be something to do.
    Look,
    /// Do everything that can be done, checkpoint included, and say so.
    Settle(oneshot::Sender<Result<(), StoreError>>),
    /// Make a last checkpoint, say so, and end.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

pub struct Upkeep {
    pub shared: Arc<Shared>,
    /// Weak: the commit thread ends when nobody outside can ask for anything any more.
    pub requests: mpsc::WeakSender<Request>,
    pub nudges: Receiver<Nudge>,
    /// Position of the last checkpoint.
    pub checkpointed: (u32, u64),
    pub checkpointed_at: Timestamp,
}

impl Upkeep {
    /// Works until it is closed or nobody can wake it any more.
    pub fn run(mut self) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.work()));
        if ended.is_err() {
            self.shared.latch("the index thread panicked".into());
        }
    }

    fn work(&mut self) {
        let tick = self.shared.options.upkeep_every;
        let mut wait = tick;
        loop {
            match self.nudges.recv_timeout(wait) {
                Ok(Nudge::Look) | Err(RecvTimeoutError::Timeout) => {
                    let more = self.look();
                    wait = if more { Duration::ZERO } else { tick };
                }
                Ok(Nudge::Settle(reply)) => {
                    let result = self.settle();
                    let _ = reply.send(result);
                }
                Ok(Nudge::Close(reply)) => {
                    let result = self.checkpoint();
                    let _ = reply.send(result);
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// One round; whether there is more to do at once.
    fn look(&mut self) -> bool {
        if self.shared.latched().is_some() {
            return false;
        }
        self.round().unwrap_or_else(|error| {
            // A latch has said so itself, and low disk is told to everybody who asks.
            if let StoreError::Read(_) = error {
                tracing::warn!(%error, "upkeep of the store will be tried again");
            }
            false
        })
    }

    fn round(&mut self) -> Result<bool, StoreError> {
        self.shared.ask_free_space();
        if self.shared.low_disk().is_none() {
            let kept = reserve::keep(&*self.shared.files, &self.shared.options.data_dir);
            kept.map_err(|error| self.shared.latch(format!("reserve: {error}")))?;
            self.set_aside()?;
        }
        self.flush_if_many()?;
        if self.is_checkpoint_due() {
            self.checkpoint()?;
        }
        self.shared.state().ledger.drop_forgotten(self.shared.clock.settled());
        let more_to_tidy = self.tidy_index()?;
        let more_to_reclaim = self.reclaim()?;
        Ok(more_to_tidy || more_to_reclaim)
    }

    /// Sets aside what the start had no room for, as far as there is room now (D4).
    fn set_aside(&self) -> Result<(), StoreError> {
        let (files, dir) = (&*self.shared.files, &self.shared.options.data_dir);
        loop {
            let Some(left) = self.shared.state().left_in_place.first().copied() else { return Ok(()) };
            let file = files.open(&self.shared.journal_dir().join(segment_name(left.segment)));
            let copied = file
                .and_then(|file| damage::set_aside(files, dir, &*file, left.segment, left.offset, left.len));
            match copied {
                Ok(_) => self.shared.state().left_in_place.retain(|other| *other != left),
                // Upkeep goes on without it: what it does may make room.
                Err(error) if is_full(&error) => return Ok(()),
                Err(error) => return Err(self.shared.latch(format!("damaged: {error}"))),
            }
        }
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        if let Some(error) = self.shared.latched() {
            return Err(error);
        }
        self.checkpoint()?;
        while self.round()? {}
        Ok(())
    }

    fn flush_if_many(&self) -> Result<(), StoreError> {
        if self.shared.state().overlay.waiting() >= FLUSH_KEYS { self.flush() } else { Ok(()) }
    }

    /// Moves the overlay's keys into the index.
    fn flush(&self) -> Result<(), StoreError> {
        let keys = self.shared.state().overlay.begin_move();
        self.shared.room.notify_all();
        let records = keys.iter().map(|(hash, record)| (Bucket::of(record.expires_at), hash, record));
        let inserted = self.shared.index.insert(records);
        drop(keys);
        self.shared.index_is_full.store(inserted.as_ref().is_err_and(is_full), Ordering::Relaxed);
        {
            let mut state = self.shared.state();
            match &inserted {
                Ok(()) => state.overlay.finish_move(),
                Err(_) => state.overlay.cancel_move(),
            }
        }
        self.shared.room.notify_all();
        inserted.map_err(|error| self.shared.full_or_latched("index", &error))
    }

    fn is_checkpoint_due(&self) -> bool {
        let position = self.shared.state().position;
        let waited = self.shared.clock.now().as_millis().abs_diff(self.checkpointed_at.as_millis());
        position.0 >= self.checkpointed.0 + CHECKPOINT_SEGMENTS
            || ((position != self.checkpointed || self.shared.index.has_obsolete())
                && u128::from(waited) >= CHECKPOINT_INTERVAL.as_millis())
    }

    /// Index first, then the mark that relies on it. Nothing happens while damaged bytes wait to be set aside.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        if let Some(error) = self.shared.latched() {
            return Err(error);
        }
        if !self.shared.state().left_in_place.is_empty() {
            return Ok(());
        }
        let (position, ledger) = {
            let state = self.shared.state();
            (state.position, encode_ledger(&state.ledger))
        };
        // The keys of everything before `position` are in the overlay by now, or in the index.
        self.flush()?;
        let runs = self.shared.index.checkpoint().map_err(|e| self.shared.latch(format!("index: {e}")))?;
        if let Some(error) = self.shared.latched() {
            return Err(error);
        }
        let (files, dir) = (&*self.shared.files, &self.shared.options.data_dir);
        let written = Checkpoint::write(files, dir, self.shared.mark, &runs, position, &ledger);
        written.map_err(|error| self.shared.full_or_latched("checkpoint", &error))?;
        self.shared.index.remove_obsolete().map_err(|e| self.shared.latch(format!("index: {e}")))?;
        self.checkpointed = position;
        self.checkpointed_at = self.shared.clock.now();
        Ok(())
    }

    /// Keeps the index small; whether there is more to do. A key whose message still lives is not forgotten (I3).
    fn tidy_index(&self) -> Result<bool, StoreError> {
        let now = Bucket::of(self.shared.clock.settled());
        let lives = |id| {
            let state = self.shared.state();
            state.ledger.live.contains_key(&id) && !state.ledger.forgotten.contains_key(&id)
        };
        let forgotten = |id| self.shared.state().ledger.forgotten.contains_key(&id);
        let index = &self.shared.index;
        let more = index.sweep(now, lives).and_then(|more| {
            // Merging needs room, and can wait for it.
            Ok(more || (self.shared.low_disk().is_none() && index.merge(now, forgotten)?))
        });
        more.map_err(|error| self.shared.full_or_latched("index", &error))
    }

    /// Gives back the oldest segment, when it is time; whether there may be more.
    fn reclaim(&mut self) -> Result<bool, StoreError> {
        if reclaim::is_end_due(&self.shared) {
            reclaim::end_segment(&self.shared, &self.requests)?;
        }
        let Some(segment) = reclaim::due(&self.shared) else { return Ok(false) };
        if segment >= self.checkpointed.0 {
            self.checkpoint()?;
        }
        // Only what lies wholly before the checkpoint: a start would look for the rest.
        if segment >= self.checkpointed.0 {
            return Ok(false);
        }
        reclaim::segment(&self.shared, &self.requests, segment, &|| self.flush_if_many())
    }
}
