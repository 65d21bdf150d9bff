//! What the journal says, summed up: which messages live and where their records stand, and how much of each segment
//! is still needed. The commit thread changes it as it commits, and a start changes it in the same way as it replays.

use std::collections::{BTreeMap, HashMap};

use super::keys::Bucket;
use super::record::{HEAD, Place};
use crate::clock::Timestamp;
use crate::mail::{Handling, QueueId};

/// Bytes of a `Key` record: what a key still needs of the journal when its message is gone.
pub const KEY_RECORD: u64 = (HEAD + 16 + super::codec::KEY_VALUE_LEN) as u64;

/// A message that is not finished. With its id it takes 64 bytes, and there may be a million of them.
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
    /// MT-PRIORITY (RFC 6710).
    pub priority: i8,
    /// The time it is due is the sender's wish (RFC 4865), and no outcome has named another one since.
    pub held_back: bool,
}

impl Entry {
    /// A message that nobody has tried yet, due when its sender wants it.
    pub fn fresh(accepted: Place, accepted_at: Timestamp, handling: Handling, key: Option<Bucket>) -> Self {
        let due = handling.due_at(accepted_at);
        Self {
            accepted,
            attempted: Place::default(),
            next_attempt: due,
            queued: true,
            bucket: key.unwrap_or(Bucket(0)),
            priority: handling.priority,
            held_back: due > accepted_at,
        }
    }
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
    /// Messages whose keys were forgotten, and when those would have ended. By message and not by key: a record of the
    /// key that a later submission made counts.
    pub forgotten: HashMap<QueueId, Timestamp>,
}

/// Keys that may be forgotten before their time, at one time (S2).
pub const MOST_FORGOTTEN: usize = 100_000;

impl SegmentUse {
    /// Bytes needed at `now`.
    pub fn needed(&self, now: Timestamp) -> u64 {
        let keys: u64 = self.keys.range(Bucket::of(now)..).map(|(_, bytes)| bytes).sum();
        self.live + keys
    }
}

impl Ledger {
    /// An `Accepted` record: a new message as `fresh` says, or the copy of one that is known, which keeps its progress.
    pub fn accepted(&mut self, id: QueueId, fresh: Entry) {
        let place = fresh.accepted;
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
        entry.held_back &= entry.next_attempt == next_attempt;
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
            self.keys(entry.accepted.segment, entry.bucket, 1);
        }
    }

    /// A segment now holds what is left of so many keys of a bucket.
    pub fn keys(&mut self, segment: u32, bucket: Bucket, count: usize) {
        let segment = self.segments.entry(segment).or_default();
        *segment.keys.entry(bucket).or_default() += KEY_RECORD * count as u64;
    }

    /// Drops what need not be known any more: a key that has expired means nothing, unless its message lives (I3). The
    /// whole bucket must be over, as for the index.
    pub fn drop_forgotten(&mut self, now: Timestamp) {
        let live = &self.live;
        self.forgotten
            .retain(|id, expires_at| Bucket::of(*expires_at) >= Bucket::of(now) || live.contains_key(id));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u32, offset: u32) -> Place {
        Place { segment, offset, len: 100 }
    }

    fn id(n: u8) -> QueueId {
        QueueId::from_bytes([n; 16])
    }

    const DUE: Timestamp = Timestamp::from_millis(5);

    fn fresh(place: Place, key: Option<Bucket>) -> Entry {
        Entry::fresh(place, DUE, Handling::default(), key)
    }

    #[test]
    fn a_living_message_takes_64_bytes() {
        assert_eq!(size_of::<(QueueId, Entry)>(), 64);
    }

    #[test]
    fn a_wait_is_the_senders_until_an_outcome_names_another_time() {
        let handling =
            Handling { release_at: Some(DUE.plus(std::time::Duration::from_secs(9))), ..Handling::default() };
        let wish = Entry::fresh(at(1, 28), DUE, handling, None);
        let mut ledger = Ledger::default();
        ledger.accepted(id(1), wish);
        ledger.accepted(id(1), Entry { accepted: at(2, 28), ..wish });
        assert!(ledger.live[&id(1)].held_back, "a copy changes nothing");
        ledger.attempted(id(1), at(2, 128), true, wish.next_attempt);
        assert!(ledger.live[&id(1)].held_back);
        ledger.attempted(id(1), at(2, 228), true, wish.next_attempt.plus(std::time::Duration::from_secs(1)));
        assert!(!ledger.live[&id(1)].held_back);
    }

    #[test]
    fn what_is_needed_of_a_segment_is_what_its_living_messages_and_keys_need() {
        let bucket = Bucket::of(DUE.plus(std::time::Duration::from_secs(86_400)));
        let mut ledger = Ledger::default();
        ledger.accepted(id(1), fresh(at(1, 28), Some(bucket)));
        ledger.accepted(id(2), fresh(at(1, 128), None));
        ledger.attempted(id(1), at(2, 28), true, DUE);
        assert_eq!(ledger.segments[&1].needed(DUE), 200);
        assert_eq!(ledger.segments[&2].needed(DUE), 100);
        ledger.finished(id(1));
        ledger.finished(id(2));
        assert_eq!(ledger.segments[&1].needed(DUE), KEY_RECORD);
        assert_eq!(ledger.segments[&2].needed(DUE), 0);
        let after_expiry = DUE.plus(std::time::Duration::from_secs(2 * 86_400));
        assert_eq!(ledger.segments[&1].needed(after_expiry), 0);
    }

    #[test]
    fn d6_half_a_copy_leaves_the_original_in_place_with_its_progress() {
        let mut ledger = Ledger::default();
        ledger.accepted(id(1), fresh(at(1, 28), None));
        ledger.attempted(id(1), at(2, 28), false, DUE);
        // The copy of the message without the copy of its progress.
        ledger.accepted(id(1), fresh(at(9, 28), None));
        let entry = ledger.live[&id(1)];
        assert_eq!((entry.accepted, entry.attempted, entry.queued), (at(1, 28), at(2, 28), false));
        assert_eq!(ledger.segments[&1].needed(DUE), 100);
        // And then the whole copy.
        ledger.accepted(id(1), fresh(at(10, 28), None));
        ledger.attempted(id(1), at(10, 128), false, DUE);
        let entry = ledger.live[&id(1)];
        assert_eq!((entry.accepted, entry.attempted), (at(10, 28), at(10, 128)));
        assert_eq!(ledger.segments[&1].needed(DUE) + ledger.segments[&2].needed(DUE), 0);
        assert_eq!(ledger.segments[&10].needed(DUE), 200);
    }
}
