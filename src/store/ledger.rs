//! What the journal says, summed up: which messages live and where their records stand, and how much of each segment
//! is still needed. The commit thread changes it as it commits, and a start changes it in the same way as it replays.

use std::collections::{BTreeMap, HashMap};

use super::keys::Bucket;
use super::record::{HEAD, Place};
use crate::clock::Timestamp;
use crate::mail::QueueId;

/// Bytes of a `Key` record: what a key still needs of the journal when its message is gone.
pub const KEY_RECORD: u64 = (HEAD + 16 + super::codec::KEY_VALUE_LEN) as u64;

/// A message that is not finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its `Accepted` record.
    pub accepted: Place,
    /// Its latest `Attempted` record; segment 0 when there is none.
    pub attempted: Place,
    /// When it is due, while a recipient of it is queued.
    pub next_attempt: Timestamp,
    /// Whether a recipient of it is queued.
    pub queued: bool,
    /// Where its key belongs; `Bucket(0)` when it has none.
    pub bucket: Bucket,
}

/// How much of a segment is needed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SegmentUse {
    /// Bytes written.
    pub bytes: u64,
    /// Bytes of records of living messages.
    pub live: u64,
    /// Bytes that keys of finished messages need, by when they expire.
    pub keys: BTreeMap<Bucket, u64>,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    /// Messages that are not finished.
    pub live: HashMap<QueueId, Entry>,
    /// The segments, oldest first.
    pub segments: BTreeMap<u32, SegmentUse>,
    /// The copy of a message with progress counts only once the copy of its progress, which follows it, is there too:
    /// a torn copy must not leave the message without its progress when the original's segment goes.
    pub half_copied: Option<(QueueId, Place)>,
}

impl SegmentUse {
    /// Bytes needed at `now`.
    pub fn needed(&self, now: Timestamp) -> u64 {
        let keys: u64 = self.keys.range(Bucket::of(now)..).map(|(_, bytes)| bytes).sum();
        self.live + keys
    }
}

impl Ledger {
    /// An `Accepted` record: a new message, due at once, or the copy of one that is known, which keeps its progress.
    pub fn accepted(&mut self, id: QueueId, place: Place, due: Timestamp, bucket: Option<Bucket>) {
        let fresh = Entry {
            accepted: place,
            attempted: Place::default(),
            next_attempt: due,
            queued: true,
            bucket: bucket.unwrap_or(Bucket(0)),
        };
        let entry = self.live.entry(id).or_insert(fresh);
        if entry.attempted.segment != 0 {
            self.half_copied = Some((id, place));
            return;
        }
        let before = std::mem::replace(&mut entry.accepted, place);
        if before != place {
            self.release(before);
        }
        self.need(place);
    }

    /// An `Attempted` record; without meaning when the message is gone.
    pub fn attempted(&mut self, id: QueueId, place: Place, queued: bool, next_attempt: Timestamp) {
        let copied = self.half_copied.take().filter(|(copy, _)| *copy == id);
        let Some(entry) = self.live.get_mut(&id) else { return };
        let before = std::mem::replace(&mut entry.attempted, place);
        entry.queued = queued;
        entry.next_attempt = next_attempt;
        let original = copied.map(|(_, copy)| (std::mem::replace(&mut entry.accepted, copy), copy));
        self.release(before);
        self.need(place);
        if let Some((original, copy)) = original {
            self.release(original);
            self.need(copy);
        }
    }

    /// A `Finished` record: of the message only its key is left.
    pub fn finished(&mut self, id: QueueId) {
        let Some(entry) = self.live.remove(&id) else { return };
        self.release(entry.accepted);
        self.release(entry.attempted);
        if entry.bucket != Bucket(0) {
            self.key(entry.accepted.segment, entry.bucket);
        }
    }

    /// A segment now holds what is left of a key.
    pub fn key(&mut self, segment: u32, bucket: Bucket) {
        *self.segments.entry(segment).or_default().keys.entry(bucket).or_default() += KEY_RECORD;
    }

    /// Bytes needed of all segments, and bytes written to them.
    pub fn totals(&self, now: Timestamp) -> (u64, u64) {
        self.segments.values().fold((0, 0), |(n, b), s| (n + s.needed(now), b + s.bytes))
    }

    fn need(&mut self, place: Place) {
        self.segments.entry(place.segment).or_default().live += u64::from(place.len);
    }

    fn release(&mut self, place: Place) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live = segment.live.saturating_sub(u64::from(place.len));
        }
    }
}
