//! The commit thread: the only writer of the journal, and the judge of who has a key.
//!
//! It takes all that waits, writes it with one write, makes one sync, and only then makes it visible and answers (D1,
//! D2). A failed write or sync latches the store: those who wait get the error, nothing of theirs becomes visible (I4),
//! and nothing is written any more (D3). The one failure that is undone is a full disk, before any sync.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::files::is_full;
use super::journal::Journal;
use super::keys::KeyHash;
use super::ledger::MOST_FORGOTTEN;
use super::reclaim::encode_forgotten;
use super::record::{Encoded, Place};
use super::request::{Claimed, CopyItem, Outcome, Request, Verdict};
use super::shared::{Lookup, Shared, State};
use super::upkeep::Nudge;
use super::{Arrivals, Forgotten, KeyRecord, StoreError};
use crate::mail::QueueId;

/// Most requests in one commit.
const BATCH_REQUESTS: usize = 1024;
/// A commit takes no more requests once it has this many bytes.
const BATCH_BYTES: usize = 8 << 20;
/// Keys that wait for the index make a flush.
pub const FLUSH_KEYS: usize = 16 * 1024;
/// The commit thread waits for a flush beyond this many keys.
const MAX_WAITING_KEYS: usize = 128 * 1024;
/// It looks again at least this often then.
const ROOM_WAIT: Duration = Duration::from_millis(100);

pub struct Committer {
    pub shared: Arc<Shared>,
    pub journal: Journal,
    pub requests: mpsc::Receiver<Request>,
    pub arrivals: Arc<dyn Arrivals>,
    pub upkeep: SyncSender<Nudge>,
}

impl Committer {
    /// Works until it is closed or nobody can ask for anything any more.
    pub fn run(mut self) {
        let shared = self.shared.clone();
        if catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            shared.latch("the commit thread panicked".into());
        }
    }

    fn work(&mut self) {
        let mut next = self.requests.blocking_recv();
        while let Some(first) = next.take() {
            match first {
                Request::Close => return,
                Request::Copy { items, reply } => {
                    let result = self.copy(items);
                    let _ = reply.send(result);
                }
                Request::Forget { hash, reply } => {
                    let result = self.forget(&hash);
                    let _ = reply.send(result);
                }
                Request::Roll { reply } => {
                    let result = self.roll();
                    let _ = reply.send(result);
                }
                first => {
                    let (batch, left_over) = self.gather(first);
                    self.commit(batch);
                    next = left_over;
                }
            }
            self.wait_for_room();
            if next.is_none() {
                next = self.requests.blocking_recv();
            }
        }
    }

    /// All that waits and goes into one commit, and the request that must stand alone after it.
    fn gather(&mut self, first: Request) -> (Vec<Request>, Option<Request>) {
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while batch.len() < BATCH_REQUESTS && bytes < BATCH_BYTES {
            match self.requests.try_recv() {
                Ok(request @ (Request::Accept { .. } | Request::Save { .. })) => {
                    bytes += request.bytes();
                    batch.push(request);
                }
                Ok(alone) => return (batch, Some(alone)),
                Err(_) => break,
            }
        }
        (batch, None)
    }

    fn commit(&mut self, mut batch: Vec<Request>) {
        if let Some(error) = self.shared.latched() {
            return batch.into_iter().for_each(|request| request.fail(&error));
        }
        let verdicts = self.judge(&batch);
        let mut records: Vec<&mut Encoded> =
            batch.iter_mut().zip(&verdicts).flat_map(|(r, v)| r.records_for(v)).collect();
        let (begun, count) = (Instant::now(), records.len());
        let written = write(&self.shared, &mut self.journal, &mut records);
        if written.is_ok() && count > 0 {
            self.shared.metrics.committed(begun.elapsed(), count);
        }
        match written {
            Ok(places) => self.publish(batch, verdicts, places),
            Err(error) if is_full(&error) => self.commit_without_room(batch),
            Err(error) => {
                let error = self.shared.latch(format!("journal: {error}"));
                batch.into_iter().for_each(|request| request.fail(&error));
            }
        }
    }

    /// The disk is full and nothing was written. New mail is refused; outcomes get the room that was kept back, each
    /// with its notices or not at all (D2).
    fn commit_without_room(&mut self, batch: Vec<Request>) {
        let full = self.shared.low_disk_error();
        let (accepts, saves): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|request| matches!(request, Request::Accept { .. }));
        let had_accepts = !accepts.is_empty();
        accepts.into_iter().for_each(|request| request.fail(&full));
        if saves.is_empty() {
            return;
        }
        match super::reserve::release(&self.shared) {
            Ok(released) if released || had_accepts => self.commit(saves),
            Ok(_) => {
                // Nothing was kept back any more. Notices take room and have to come again with their outcomes; outcomes
                // alone take little, and ends make room.
                let (with_notices, alone): (Vec<_>, Vec<_>) =
                    saves.into_iter().partition(Request::has_notices);
                let (refused, rest) =
                    if with_notices.is_empty() { (alone, Vec::new()) } else { (with_notices, alone) };
                refused.into_iter().for_each(|request| request.fail(&full));
                if !rest.is_empty() {
                    self.commit(rest);
                }
            }
            Err(error) => {
                let error = self.shared.latch(format!("reserve: {error}"));
                saves.into_iter().for_each(|request| request.fail(&error));
            }
        }
    }

    /// Decides about each request, in order, as if those before it in the batch were done.
    fn judge(&self, batch: &[Request]) -> Vec<Verdict> {
        let state = self.shared.state();
        let mut keys: HashMap<KeyHash, &KeyRecord> = HashMap::new();
        let mut live: HashMap<QueueId, bool> = HashMap::new();
        let mut reread = Vec::new();
        let mut verdicts = Vec::with_capacity(batch.len());
        for (number, request) in batch.iter().enumerate() {
            verdicts.push(match request {
                Request::Accept { message, key, .. } => match key {
                    Some(key) if keys.contains_key(&key.hash) => {
                        keys.get(&key.hash).map_or(Verdict::Nothing, |r| Verdict::Existing((*r).clone()))
                    }
                    Some(key) => match known(&state, &self.shared, key) {
                        Known::No => {
                            keys.insert(key.hash, &key.record);
                            live.insert(message.id, true);
                            Verdict::Write
                        }
                        Known::Yes(record) => Verdict::Existing(record),
                        Known::Perhaps => {
                            // Rare: decided below, without the lock. Until then it counts as taken by this one.
                            reread.push(number);
                            keys.insert(key.hash, &key.record);
                            live.insert(message.id, true);
                            Verdict::Write
                        }
                    },
                    None => {
                        live.insert(message.id, true);
                        Verdict::Write
                    }
                },
                Request::Save { id, notices, outcome, .. } => {
                    let lives = live.get(id).copied().unwrap_or_else(|| state.ledger.live.contains_key(id));
                    if lives {
                        live.insert(*id, !matches!(outcome, Outcome::Finished));
                        live.extend(notices.iter().map(|(notice, _)| (notice.id, true)));
                        Verdict::Write
                    } else {
                        Verdict::Nothing
                    }
                }
                Request::Copy { .. } | Request::Forget { .. } | Request::Roll { .. } | Request::Close => {
                    Verdict::Nothing
                }
            });
        }
        drop(state);
        self.reread(batch, &reread, &mut verdicts);
        verdicts
    }

    /// Settles the keys that may have moved into the index between their lookup and now.
    fn reread(&self, batch: &[Request], numbers: &[usize], verdicts: &mut [Verdict]) {
        for number in numbers {
            let Some(Request::Accept { key: Some(key), .. }) = batch.get(*number) else { continue };
            let found = self.shared.look_up_index(&key.hash);
            for (request, verdict) in batch.iter().zip(verdicts.iter_mut()) {
                if matches!(request, Request::Accept { key: Some(other), .. } if other.hash == key.hash) {
                    match &found {
                        Ok(None) => {}
                        Ok(Some(record)) => *verdict = Verdict::Existing(record.clone()),
                        // A guess would be a duplicate.
                        Err(error) => *verdict = Verdict::Fail(error.clone()),
                    }
                }
            }
        }
    }

    /// Makes a commit visible, tells of it, and answers.
    fn publish(&mut self, batch: Vec<Request>, verdicts: Vec<Verdict>, places: Vec<Place>) {
        let mut places = places.into_iter();
        let mut arrived = Vec::new();
        let mut state = self.shared.state();
        for (request, verdict) in batch.iter().zip(&verdicts) {
            if let Verdict::Write = verdict {
                request.publish(&mut state, &mut places, &mut arrived);
            }
        }
        self.advance(&mut state);
        drop(state);
        if !arrived.is_empty() {
            self.arrivals.arrived(arrived);
        }
        batch.into_iter().zip(verdicts).for_each(|(request, verdict)| request.answer(verdict));
    }

    /// Copies forward what still lives of a segment, in one commit of its own.
    fn copy(&mut self, mut items: Vec<CopyItem>) -> Result<Vec<QueueId>, StoreError> {
        if let Some(error) = self.shared.latched() {
            return Err(error);
        }
        let mut stale = Vec::new();
        {
            let state = self.shared.state();
            items.retain_mut(|item| item.keep_current(&state, &self.shared, &mut stale));
        }
        let mut records: Vec<&mut Encoded> = items.iter_mut().flat_map(CopyItem::records).collect();
        let written = write(&self.shared, &mut self.journal, &mut records);
        let places = written.map_err(|error| self.shared.full_or_latched("journal", &error))?;
        let mut places = places.into_iter();
        let mut state = self.shared.state();
        for item in &items {
            item.publish(&mut state, &mut places);
        }
        self.advance(&mut state);
        Ok(stale)
    }

    /// Forgets the key of whoever has it. It stands alone between two commits, so that a submission comes before or after.
    fn forget(&mut self, hash: &KeyHash) -> Result<Forgotten, StoreError> {
        if let Some(error) = self.shared.latched() {
            return Err(error);
        }
        let found = match self.shared.look_up(hash).0 {
            Lookup::Decided(found) => found,
            Lookup::ReadIndex => self.shared.look_up_index(hash)?,
        };
        let Some(found) = found else { return Ok(Forgotten::Unknown) };
        if self.shared.state().ledger.forgotten.len() >= MOST_FORGOTTEN {
            return Ok(Forgotten::TooMany);
        }
        let mut record = encode_forgotten(found.id, found.expires_at);
        let written = write(&self.shared, &mut self.journal, &mut [&mut record]);
        written.map_err(|error| self.shared.full_or_latched("journal", &error))?;
        let mut state = self.shared.state();
        state.ledger.forgotten.insert(found.id, found.expires_at);
        self.advance(&mut state);
        Ok(Forgotten::Key(found))
    }

    fn roll(&mut self) -> Result<(), StoreError> {
        if let Some(error) = self.shared.latched() {
            return Err(error);
        }
        let rolled = self.journal.roll_on_a_full_disk();
        rolled.map_err(|error| self.shared.full_or_latched("journal", &error))?;
        self.advance(&mut self.shared.state());
        Ok(())
    }

    fn advance(&self, state: &mut State) {
        let before = state.position.0;
        state.position = self.journal.position();
        let (segment, written) = state.position;
        state.ledger.segments.entry(segment).or_default().bytes = written;
        if segment != before || state.overlay.waiting() >= FLUSH_KEYS {
            // A full channel means that it is awake anyway.
            let _ = self.upkeep.try_send(Nudge::Look);
        }
    }

    /// Bounds the overlay (S2): waits while too many keys wait for the index.
    fn wait_for_room(&self) {
        let mut state = self.shared.state();
        while state.overlay.waiting() > MAX_WAITING_KEYS
            && !state.asking
            && !self.shared.index_is_full.load(Ordering::Relaxed)
            && self.shared.latched().is_none()
        {
            let _ = self.upkeep.try_send(Nudge::Look);
            // The time-out is for a latch that falls between the look and the wait.
            let waited = self.shared.room.wait_timeout(state, ROOM_WAIT);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Writes and syncs, in a new segment when this one is full.
fn write(shared: &Shared, journal: &mut Journal, records: &mut [&mut Encoded]) -> io::Result<Vec<Place>> {
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let len: usize = records.iter().map(|r| r.len()).sum();
    if journal.is_full_for(len as u64) {
        shared.ask_free_space();
        match journal.roll() {
            // No room for a new segment; there may be enough for a few more records in this one.
            Err(error) if is_full(&error) => {}
            other => other?,
        }
    }
    journal.commit(records)
}

enum Known {
    Yes(KeyRecord),
    No,
    Perhaps,
}

/// Whether a key that was not there when it was looked up is there now.
fn known(state: &State, shared: &Shared, key: &Claimed) -> Known {
    match state.overlay.get(&key.hash) {
        Some(record) if state.is_alive(record, &shared.clock) => Known::Yes(record.clone()),
        Some(_) => Known::No,
        None if state.overlay.moved() == key.seen => Known::No,
        None if !shared.index.may_contain(&key.hash) => Known::No,
        None => Known::Perhaps,
    }
}

#[cfg(test)]
mod handover;
