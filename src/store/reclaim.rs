//! Gives back disk space, always at the old end of the journal.
//!
//! Only the oldest segment is ever removed. What still lives in it (messages with their progress, unexpired keys) is
//! copied to the new end by the commit thread, durably, before it goes. Because nothing older is left when a segment
//! goes, its `Finished` records can go with it: every record that they speak of has gone before. `docs/store.md` argues
//! each crash.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::codec::{self, Reader};
use super::damage;
use super::journal::segment_name;
use super::keys::{KeyHash, hash};
use super::ledger::SegmentUse;
use super::record::{Encoded, Found, Kind, Place, SEGMENT_HEADER, Scan};
use super::request::{CopyItem, MessageCopy, Outcome, Request};
use super::shared::Shared;
use super::{KeyRecord, StoreError};
use crate::clock::Timestamp;
use crate::mail::QueueId;

/// Copies are committed in parts of about this many bytes: small, since clients wait behind them.
const PART_BYTES: usize = 512 << 10;
/// Keys in one record: one frame and one checksum for many, and still few that a damaged place can cost.
const RECORD_KEYS: usize = 64;
/// Bytes of a key in such a record.
const KEY_ENTRY: usize = 16 + codec::KEY_VALUE_LEN;
/// Messages in one part at most.
const PART_ITEMS: usize = 512;
/// A segment is not ended early for less than this, bytes.
const WORTH_A_SEGMENT: u64 = 1 << 20;
/// Times that a message whose progress keeps changing is read again before the segment is left for later.
const PASSES: usize = 8;

/// The segment to give back now: the oldest, when nothing in it is needed, or when the journal takes more than twice
/// what is needed and a segment; on a full disk also when that makes room.
pub fn due(shared: &Shared) -> Option<u32> {
    let (now, free) = (shared.clock.settled(), shared.low_disk());
    let state = shared.state();
    let (number, oldest) = state.ledger.segments.first_key_value()?;
    if *number >= state.position.0 {
        return None;
    }
    let (needed, written) = state.ledger.totals(now);
    let wasteful = written > needed.saturating_mul(2).saturating_add(shared.options.segment_bytes);
    let makes_room = free.is_some_and(|free| makes_room(oldest, now, free));
    (oldest.needed(now) == 0 || wasteful || makes_room).then_some(*number)
}

/// Whether the journal should go on in a new segment although this one is not full: it is all that there is, the disk is
/// full, and to give it back makes room. A disk that hardly holds one segment would stay full for ever otherwise.
pub fn is_end_due(shared: &Shared) -> bool {
    let Some(free) = shared.low_disk() else { return false };
    let now = shared.clock.settled();
    let state = shared.state();
    state.ledger.segments.first_key_value().is_some_and(|(number, oldest)| {
        let worth_it = WORTH_A_SEGMENT.min(shared.options.segment_bytes / 4);
        *number == state.position.0 && oldest.bytes >= worth_it && makes_room(oldest, now, free)
    })
}

/// At least half of it is to be had, and what is needed fits elsewhere until then.
fn makes_room(segment: &SegmentUse, now: Timestamp, free: u64) -> bool {
    let needed = segment.needed(now);
    needed <= segment.bytes / 2 && needed <= free / 2
}

/// Lets the journal go on in a new segment.
pub fn end_segment(shared: &Arc<Shared>, requests: &mpsc::WeakSender<Request>) -> Result<(), StoreError> {
    ask(shared, requests, |reply| Request::Roll { reply })
}

/// Copies what lives in a segment, and removes it; whether it is gone. `between` is called again and again meanwhile.
pub fn segment(
    shared: &Arc<Shared>,
    requests: &mpsc::WeakSender<Request>,
    number: u32,
    between: &dyn Fn() -> Result<(), StoreError>,
) -> Result<bool, StoreError> {
    let reading = |error: io::Error| StoreError::Read(format!("{}: {error}", segment_name(number)));
    let path = shared.journal_dir().join(segment_name(number));
    let needed = {
        let state = shared.state();
        state.ledger.segments.get(&number).is_some_and(|s| s.needed(shared.clock.settled()) > 0)
    };
    if needed {
        let copier = Copier { shared, requests, number, between };
        // Messages first: once none lives here, every key that is still needed here belongs to a finished one.
        if !copier.copy_messages()? {
            return Ok(false);
        }
        match shared.files.open(&path) {
            Ok(file) => copier.walk(&*file).inspect_err(|error| tracing::error!(%error, "reclaim"))?,
            // A start has told of it; nothing can be copied from a file that is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(reading(error)),
        }
    }
    remove(shared, number)?;
    Ok(true)
}

/// Removes a segment. The directory is synced before the next one may go: after a power cut there is never a segment
/// without all those that were written after it.
fn remove(shared: &Shared, number: u32) -> Result<(), StoreError> {
    if let Some(error) = shared.latched() {
        return Err(error);
    }
    let dir = shared.journal_dir();
    let removed = match shared.files.remove(&dir.join(segment_name(number))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    removed
        .and_then(|()| shared.files.sync_dir(&dir))
        .map_err(|error| shared.latch(format!("removing {}: {error}", segment_name(number))))?;
    shared.state().ledger.segments.remove(&number);
    Ok(())
}

struct Copier<'a> {
    shared: &'a Arc<Shared>,
    requests: &'a mpsc::WeakSender<Request>,
    number: u32,
    /// Called between two parts: keys must not wait for the index as long as a whole segment takes.
    between: &'a dyn Fn() -> Result<(), StoreError>,
}

impl Copier<'_> {
    /// Copies the living keys of finished messages, and sets damaged bytes aside.
    fn walk(&self, file: &dyn super::files::StoreFile) -> Result<(), StoreError> {
        let reading = |error: io::Error| StoreError::Read(format!("{}: {error}", segment_name(self.number)));
        let mut scan =
            Scan::new(file, self.shared.mark, self.number, SEGMENT_HEADER as u64).map_err(reading)?;
        let (mut items, mut keys) = (Vec::new(), Vec::new());
        loop {
            match scan.step().map_err(reading)? {
                Found::Record(kind @ (Kind::Accepted | Kind::Key), _) => {
                    keys.extend(self.living_keys(kind, scan.body()));
                    if keys.len() >= RECORD_KEYS {
                        items.push(keys_item(std::mem::take(&mut keys)));
                    }
                    if items.len() >= PART_BYTES / (RECORD_KEYS * KEY_ENTRY) {
                        self.commit(std::mem::take(&mut items))?;
                    }
                }
                Found::Record(..) => {}
                Found::Damage { offset, len } => self.set_aside(file, offset, len)?,
                Found::End { torn: 0, .. } => break,
                Found::End { offset, torn } => {
                    self.set_aside(file, offset, torn)?;
                    break;
                }
            }
        }
        if !keys.is_empty() {
            items.push(keys_item(keys));
        }
        self.commit(items).map(|_| ())
    }

    fn set_aside(&self, file: &dyn super::files::StoreFile, offset: u64, len: u64) -> Result<(), StoreError> {
        let dir = &self.shared.options.data_dir;
        damage::set_aside(&*self.shared.files, dir, file, self.number, offset, len)
            .map(|_| ())
            .map_err(|error| self.shared.full_or_latched("damaged", &error))
    }

    /// The keys of a record that still mean something. Whether a newer submission has taken one is looked at when it is
    /// committed.
    fn living_keys(&self, kind: Kind, body: &[u8]) -> Vec<(KeyHash, KeyRecord)> {
        let now = self.shared.clock.settled();
        let mut keys = keys_of(kind, body).unwrap_or_default();
        // The copy of a living message brings its key along; the message of a `Key` has ended.
        keys.retain(|(_, record)| now < record.expires_at && (kind == Kind::Key || !self.lives(record.id)));
        // One that was forgotten is sorted out when it is committed, with the rest that has changed since.
        keys
    }

    fn lives(&self, id: QueueId) -> bool {
        self.shared.state().ledger.live.contains_key(&id)
    }

    /// Copies the messages that live here, with their progress wherever it stands; whether none is left.
    fn copy_messages(&self) -> Result<bool, StoreError> {
        for _ in 0..PASSES {
            let ids = self.living();
            if ids.is_empty() {
                return Ok(true);
            }
            let (mut items, mut bytes) = (Vec::new(), 0);
            for id in ids {
                let Some(item) = self.message_item(id)? else { continue };
                bytes += item.accepted.0.len as usize;
                items.push(CopyItem::Message(item));
                if bytes >= PART_BYTES || items.len() >= PART_ITEMS {
                    self.commit(std::mem::take(&mut items))?;
                    bytes = 0;
                }
            }
            self.commit(items)?;
        }
        Ok(self.living().is_empty())
    }

    fn living(&self) -> Vec<QueueId> {
        let state = self.shared.state();
        let here = |place: Place| place.segment == self.number;
        let live = state.ledger.live.iter();
        live.filter(|(_, e)| here(e.accepted) || here(e.attempted)).map(|(id, _)| *id).collect()
    }

    /// A message as it is to be copied; `None` when it is gone, or can never be read again.
    fn message_item(&self, id: QueueId) -> Result<Option<MessageCopy>, StoreError> {
        let Some((accepted, attempted)) = self.shared.places(id) else { return Ok(None) };
        let read = self.shared.read_message(accepted).and_then(|body| {
            let attempted = attempted.map(|place| Ok::<_, io::Error>((place, self.read_progress(place)?)));
            Ok((body, attempted.transpose()?))
        });
        match read {
            Ok((body, attempted)) => {
                let attempted = attempted.map(|(place, body)| (place, encode(Kind::Attempted, body)));
                let accepted = (accepted, encode(Kind::Accepted, body));
                Ok(Some(MessageCopy { id, forgotten: None, accepted, attempted }))
            }
            Err(error) if is_damage(&error) => {
                tracing::error!(queue_id = %id, %error, "a message cannot be read; its bytes are in damaged/");
                self.forget(id, accepted)?;
                Ok(None)
            }
            Err(error) => Err(StoreError::Read(format!("{id}: {error}"))),
        }
    }

    /// The notices that stood in front of it are messages of their own by now.
    fn read_progress(&self, place: Place) -> io::Result<Bytes> {
        let alone = codec::without_notices(&self.shared.read(place)?.1);
        Ok(alone.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?.into())
    }

    /// What cannot be read cannot be sent: its bytes are set aside, and the message ends here, in the log (D4).
    fn forget(&self, id: QueueId, place: Place) -> Result<(), StoreError> {
        match self.shared.files.open(&self.shared.journal_dir().join(segment_name(place.segment))) {
            Ok(file) => self.set_aside(&*file, place.offset.into(), place.len.into())?,
            Err(error) => tracing::error!(queue_id = %id, %error, "its segment is gone"),
        }
        let (record, outcome) = (encode_finished(id, 0), Outcome::Finished);
        ask(self.shared, self.requests, |reply| Request::Save {
            id,
            notices: Vec::new(),
            record,
            outcome,
            reply,
        })
    }

    fn commit(&self, items: Vec<CopyItem>) -> Result<Vec<QueueId>, StoreError> {
        (self.between)()?;
        if items.is_empty() {
            return Ok(Vec::new());
        }
        ask(self.shared, self.requests, |reply| Request::Copy { items, reply })
    }
}

/// Asks the commit thread, and waits for what it says.
fn ask<T>(
    shared: &Shared,
    requests: &mpsc::WeakSender<Request>,
    request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
) -> Result<T, StoreError> {
    let (reply, answer) = oneshot::channel();
    let requests = requests.upgrade().ok_or(StoreError::Closed)?;
    set_asking(shared, true);
    let sent = requests.blocking_send(request(reply));
    let answer = sent
        .map_err(|_| StoreError::Closed)
        .and_then(|()| answer.blocking_recv().map_err(|_| StoreError::Closed));
    set_asking(shared, false);
    answer?
}

/// While this thread waits for the commit thread, that one must not wait for room in the index.
fn set_asking(shared: &Shared, asking: bool) {
    shared.state().asking = asking;
    shared.room.notify_all();
}

fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}

/// The keys in the body of an `Accepted` or a `Key` record; `None` when it follows no layout.
pub fn keys_of(kind: Kind, body: &[u8]) -> Option<Vec<(KeyHash, KeyRecord)>> {
    let mut r = Reader(body);
    match kind {
        Kind::Accepted => {
            let key = codec::decode_accepted_head(&mut r).ok()?.key;
            Some(key.map(|(key, record)| (hash(&key), record)).into_iter().collect())
        }
        Kind::Key => {
            let mut keys = Vec::with_capacity(body.len() / KEY_ENTRY);
            while r.end().is_err() {
                keys.push((r.array().ok()?, r.key_record().ok()?));
            }
            Some(keys)
        }
        Kind::Attempted | Kind::Finished | Kind::Notice | Kind::Forgotten => Some(Vec::new()),
    }
}

fn encode(kind: Kind, body: Bytes) -> Encoded {
    Encoded::new(Encoded::start(kind, 0), body)
}

fn keys_item(keys: Vec<(KeyHash, KeyRecord)>) -> CopyItem {
    let encoded = encode_keys(&keys);
    CopyItem::Keys { keys, encoded }
}

/// The record that carries keys forward.
pub fn encode_keys(keys: &[(KeyHash, KeyRecord)]) -> Encoded {
    let mut w = codec::Writer(Encoded::start(Kind::Key, keys.len() * KEY_ENTRY));
    for (hash, record) in keys {
        w.raw(hash);
        w.key_record(record);
    }
    Encoded::new(w.0, Bytes::new())
}

/// The record that forgets a message's key, which would have ended then.
pub fn encode_forgotten(id: QueueId, expires_at: Timestamp) -> Encoded {
    let body = codec::encode_forgotten(Encoded::start(Kind::Forgotten, 24), id, expires_at);
    Encoded::new(body, Bytes::new())
}

/// The record that forgets a message, with so many notices in front of it.
pub fn encode_finished(id: QueueId, notices: u32) -> Encoded {
    Encoded::new(codec::encode_finished(Encoded::start(Kind::Finished, 20), id, notices), Bytes::new())
}
