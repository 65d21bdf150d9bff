//! The index thread: moves keys from the overlay into the index, makes checkpoints, forgets expired keys, and reclaims
//! segments. Nothing that answers a client waits for it, but for the bound of the overlay.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpoint;
use super::commit::{FLUSH_KEYS, Request};
use super::keys::{Bucket, KeyHash};
use super::shared::Shared;
use super::{StoreError, reclaim, reserve};
use crate::clock::Timestamp;

/// It looks at least this often.
const TICK: Duration = Duration::from_secs(1);
/// A checkpoint is made after this many segments …
const CHECKPOINT_SEGMENTS: u32 = 4;
/// … or this long after the last one, when something has happened since.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
/// Expired keys forgotten at a time.
const SWEEP_KEYS: usize = 4096;
/// Steps of reading the index through at a time.
const READ_THROUGH_STEPS: usize = 64;

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
    pub token: u64,
    /// Position of the last checkpoint.
    pub checkpointed: (u32, u64),
    pub checkpointed_at: Timestamp,
    /// Where reading the index through goes on.
    pub reading: Option<(Bucket, KeyHash)>,
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
        let mut wait = TICK;
        loop {
            match self.nudges.recv_timeout(wait) {
                Ok(Nudge::Look) | Err(RecvTimeoutError::Timeout) => {
                    let more = self.look();
                    wait = if more { Duration::ZERO } else { TICK };
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
        }
        self.flush_if_many()?;
        if self.is_checkpoint_due() {
            self.checkpoint()?;
        }
        let more_to_read = self.read_through()?;
        let more_to_sweep = self.sweep()?;
        let more_to_reclaim = self.reclaim()?;
        Ok(more_to_read || more_to_sweep || more_to_reclaim)
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
        let keys = {
            let mut state = self.shared.state();
            state.flushing = true;
            state.overlay.begin_move()
        };
        let records = keys.iter().map(|(hash, record)| (Bucket::of(record.expires_at), hash, record));
        let inserted = self.shared.index.insert(records);
        let mut state = self.shared.state();
        if inserted.is_ok() {
            state.overlay.finish_move();
        }
        state.flushing = false;
        drop(state);
        self.shared.room.notify_all();
        inserted.map_err(|error| self.shared.latch(error.to_string()))
    }

    fn is_checkpoint_due(&self) -> bool {
        let position = self.shared.state().position;
        let waited = self.shared.clock.now().as_millis().abs_diff(self.checkpointed_at.as_millis());
        position.0 >= self.checkpointed.0 + CHECKPOINT_SEGMENTS
            || (position != self.checkpointed && u128::from(waited) >= CHECKPOINT_INTERVAL.as_millis())
    }

    /// Index first, then the mark that relies on it.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        if let Some(error) = self.shared.latched() {
            return Err(error);
        }
        let (position, ledger) = {
            let state = self.shared.state();
            (state.position, state.ledger.clone())
        };
        // The keys of everything before `position` are in the overlay by now, or in the index.
        self.flush()?;
        self.token += 1;
        self.shared.index.checkpoint(self.token).map_err(|e| self.shared.latch(e.to_string()))?;
        if let Some(error) = self.shared.latched() {
            return Err(error);
        }
        let checkpoint = Checkpoint { mark: self.shared.mark, token: self.token, position, ledger };
        match checkpoint.write(&*self.shared.files, &self.shared.options.data_dir) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(self.shared.low_disk_error());
            }
            other => other.map_err(|error| self.shared.latch(format!("checkpoint: {error}")))?,
        }
        self.checkpointed = position;
        self.checkpointed_at = self.shared.clock.now();
        Ok(())
    }

    /// Completes the filters of what the index held at the start; whether there is more.
    fn read_through(&mut self) -> Result<bool, StoreError> {
        for _ in 0..READ_THROUGH_STEPS {
            let Some(bucket) = self.shared.index.unread() else { return Ok(false) };
            let after = self.reading.take().filter(|(b, _)| *b == bucket).map(|(_, hash)| hash);
            let read = self.shared.index.read_through(bucket, after);
            let next = read.map_err(|error| self.shared.latch(error.to_string()))?;
            self.reading = next.map(|hash| (bucket, hash));
        }
        Ok(true)
    }

    /// Forgets expired keys, oldest first; whether there are more. A key whose message still lives moves on (I3).
    fn sweep(&self) -> Result<bool, StoreError> {
        let now = Bucket::of(self.shared.clock.now());
        let failed = |error: super::index::IndexError| self.shared.latch(error.to_string());
        let expired = self.shared.index.first_before(now, SWEEP_KEYS).map_err(failed)?;
        if expired.is_empty() {
            self.shared.index.forget_before(now);
            return Ok(false);
        }
        let more = expired.len() == SWEEP_KEYS;
        let moved: Vec<_> = {
            let mut state = self.shared.state();
            // A lookup that is under way may miss a key that moves: this tells it to ask again.
            state.overlay.finish_move();
            expired.iter().filter(|(_, _, record)| state.ledger.live.contains_key(&record.id)).collect()
        };
        let later = Bucket(now.0.saturating_add(1));
        let records = moved.into_iter().map(|(_, hash, record)| (later, hash, record));
        self.shared.index.insert(records).map_err(failed)?;
        let gone: Vec<_> = expired.iter().map(|(bucket, hash, _)| (*bucket, *hash)).collect();
        self.shared.index.remove(&gone).map_err(failed)?;
        Ok(more)
    }

    /// Gives back the oldest segment, when it is time; whether there may be more.
    fn reclaim(&mut self) -> Result<bool, StoreError> {
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
