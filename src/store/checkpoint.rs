//! The checkpoint: the ledger as it stood at one position of the journal, and the runs of the index up to there.
//!
//! It is written beside the old one, synced, renamed over it, and the directory synced: there is always a whole one.
//! A checkpoint that does not verify is as good as none; the journal then tells everything again.

use std::io::{self, IoSlice};
use std::path::Path;

use super::codec::{Malformed, Reader, Writer};
use super::files::{Files, is_full};
use super::keys::Bucket;
use super::ledger::{Entry, Ledger, SegmentUse};
use super::record::{Mark, Place};
use crate::mail::QueueId;

const MAGIC: &[u8; 8] = b"oncechkp";
const VERSION: u32 = 4;
const OTHER_VERSION: Malformed = Malformed("a checkpoint of another version");
const NAME: &str = "checkpoint";
const NEW_NAME: &str = "checkpoint.new";
/// Bytes of one message in the file.
const ENTRY: usize = 16 + 12 + 12 + 8 + 1 + 4 + 1;
/// More than a segment, or what is needed of it, ever is, bytes: places within one are 32 bits wide. Sums of so many cannot
/// overflow.
const MOST_BYTES: u64 = 1 << 40;
/// Bits of the octet behind the time of the next attempt.
const QUEUED: u8 = 1;
const HELD_BACK: u8 = 2;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Which journal.
    pub mark: Mark,
    /// The runs of the index, oldest first.
    pub runs: Vec<u32>,
    /// Everything before this place is in `ledger` and in the index: segment and offset.
    pub position: (u32, u64),
    /// What the journal says up to `position`.
    pub ledger: Ledger,
}

impl Checkpoint {
    /// Puts a checkpoint with `ledger` as [`encode_ledger`] made it in the place of the last one.
    ///
    /// # Errors
    /// The system's. After `StorageFull` the last one is still there, and nothing else.
    pub fn write(
        files: &dyn Files,
        dir: &Path,
        mark: Mark,
        runs: &[u32],
        position: (u32, u64),
        ledger: &[u8],
    ) -> io::Result<()> {
        let head = encode_head(mark, runs, position);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), ledger).to_be_bytes();
        let new = dir.join(NEW_NAME);
        let file = files.create(&new)?;
        if let Err(error) = file.write_at(0, &[&head, ledger, &crc].map(IoSlice::new)) {
            if is_full(&error) {
                files.remove(&new).map_err(|undoing| io::Error::other(undoing.to_string()))?;
            }
            return Err(error);
        }
        let make_durable = || {
            file.sync_data()?;
            files.rename(&new, &dir.join(NAME))?;
            files.sync_dir(dir)
        };
        // A failed sync must not look like a full disk that was dealt with (D3).
        make_durable().map_err(|error| io::Error::other(error.to_string()))
    }

    /// The checkpoint of a directory; `None` when there is none.
    ///
    /// # Errors
    /// The system's; `InvalidData` when it does not verify, `Unsupported` when another version has written it.
    pub fn read(files: &dyn Files, dir: &Path) -> io::Result<Option<Self>> {
        let file = match files.open(&dir.join(NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = usize::try_from(file.size()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_at(0, &mut bytes)?;
        let checkpoint = Self::decode(&bytes).map_err(|error| {
            let kind =
                if error == OTHER_VERSION { io::ErrorKind::Unsupported } else { io::ErrorKind::InvalidData };
            io::Error::new(kind, error)
        })?;
        Ok(Some(checkpoint))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed("a checkpoint"))?;
        if crc32c::crc32c(content).to_be_bytes() != *crc {
            return Err(Malformed("a checkpoint's checksum"));
        }
        let mut r = Reader(content);
        if r.array()? != *MAGIC {
            return Err(Malformed("a checkpoint"));
        }
        if r.u32()? != VERSION {
            return Err(OTHER_VERSION);
        }
        let mark = Mark(r.array()?);
        let runs = (0..r.u64()?).map(|_| r.u32()).collect::<Result<_, _>>()?;
        let position = (r.u32()?, r.u64()?);
        let mut ledger = Ledger::default();
        for _ in 0..r.u64()? {
            let (number, segment) = read_segment(&mut r)?;
            ledger.segments.insert(number, segment);
        }
        let messages = r.u64()?;
        ledger.live.reserve(usize::try_from(messages).unwrap_or(0).min(r.0.len() / ENTRY));
        for _ in 0..messages {
            let (id, entry) = read_entry(&mut r)?;
            ledger.live.insert(id, entry);
        }
        for _ in 0..r.u64()? {
            ledger.forgotten.insert(r.id()?, r.time()?);
        }
        r.end()?;
        Ok(Self { mark, runs, position, ledger })
    }
}

fn encode_head(mark: Mark, runs: &[u32], position: (u32, u64)) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(64 + runs.len() * 4));
    w.raw(MAGIC);
    w.u32(VERSION);
    w.raw(&mark.0);
    w.u64(runs.len() as u64);
    runs.iter().for_each(|run| w.u32(*run));
    w.u32(position.0);
    w.u64(position.1);
    w.0
}

/// The ledger as it stands in the file. Made while the ledger is locked, in the place of a copy: with a million messages
/// it takes less than half of that in memory, and no longer.
pub fn encode_ledger(ledger: &Ledger) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(64 + ledger.live.len() * ENTRY));
    w.u64(ledger.segments.len() as u64);
    for (number, segment) in &ledger.segments {
        w.u32(*number);
        w.u64(segment.bytes);
        w.u64(segment.live);
        w.u64(segment.keys.len() as u64);
        for (bucket, bytes) in &segment.keys {
            w.u32(bucket.0);
            w.u64(*bytes);
        }
    }
    w.u64(ledger.live.len() as u64);
    for (id, entry) in &ledger.live {
        write_entry(&mut w, *id, entry);
    }
    w.u64(ledger.forgotten.len() as u64);
    for (id, expires_at) in &ledger.forgotten {
        w.raw(&id.to_bytes());
        w.u64(expires_at.as_millis());
    }
    w.0
}

fn write_entry(w: &mut Writer, id: QueueId, entry: &Entry) {
    w.raw(&id.to_bytes());
    for place in [entry.accepted, entry.attempted] {
        w.u32(place.segment);
        w.u32(place.offset);
        w.u32(place.len);
    }
    w.u64(entry.next_attempt.as_millis());
    w.u8((u8::from(entry.queued) * QUEUED) | (u8::from(entry.held_back) * HELD_BACK));
    w.u32(entry.bucket.0);
    w.raw(&entry.priority.to_be_bytes());
}

fn read_segment(r: &mut Reader<'_>) -> Result<(u32, SegmentUse), Malformed> {
    let number = r.u32()?;
    let mut segment = SegmentUse { bytes: read_bytes(r)?, live: read_bytes(r)?, ..SegmentUse::default() };
    for _ in 0..r.u64()? {
        segment.keys.insert(Bucket(r.u32()?), read_bytes(r)?);
    }
    Ok((number, segment))
}

fn read_bytes(r: &mut Reader<'_>) -> Result<u64, Malformed> {
    let bytes = r.u64()?;
    if bytes > MOST_BYTES { Err(Malformed("more bytes than a segment has")) } else { Ok(bytes) }
}

fn read_place(r: &mut Reader<'_>) -> Result<Place, Malformed> {
    Ok(Place { segment: r.u32()?, offset: r.u32()?, len: r.u32()? })
}

fn read_entry(r: &mut Reader<'_>) -> Result<(QueueId, Entry), Malformed> {
    let id = r.id()?;
    let (accepted, attempted) = (read_place(r)?, read_place(r)?);
    let next_attempt = r.time()?;
    let marks = r.u8()?;
    let entry = Entry {
        accepted,
        attempted,
        next_attempt,
        queued: marks & QUEUED != 0,
        held_back: marks & HELD_BACK != 0,
        bucket: Bucket(r.u32()?),
        priority: i8::from_be_bytes(r.array()?),
    };
    Ok((id, entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::RealFiles;

    #[test]
    fn d4_a_checkpoint_of_impossible_segments_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let read = |live: u64| {
            let mut ledger = Ledger::default();
            ledger.segments.insert(1, SegmentUse { live, ..SegmentUse::default() });
            let ledger = encode_ledger(&ledger);
            Checkpoint::write(&RealFiles, dir.path(), Mark([7; 8]), &[], (1, 28), &ledger).unwrap();
            Checkpoint::read(&RealFiles, dir.path()).map(|checkpoint| checkpoint.is_some())
        };
        assert!(read(MOST_BYTES).unwrap());
        assert_eq!(read(u64::MAX).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
