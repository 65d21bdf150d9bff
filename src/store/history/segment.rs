//! A segment that is complete: a file of records, and beside it where the records of each message stand, sorted.
//!
//! Of each there are a few numbers in memory and nothing else. The index file can be lost: it is made again from the
//! records. Neither file is written to again.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use super::record::{self, FRAME};
use crate::clock::Timestamp;
use crate::mail::QueueId;
use crate::store::codec::{Reader, Writer};
use crate::store::files::{Files, StoreFile};

/// Header of a segment: `magic (8) | version (4) | number (4) | CRC32C of these (4)`.
pub const HEADER: usize = 20;
const MAGIC: &[u8; 8] = b"oncehist";
const INDEX_MAGIC: &[u8; 8] = b"oncehidx";
const VERSION: u32 = 1;
/// Bytes of an entry of the index: queue id, place.
const ENTRY: usize = 16 + 4;
/// End of the index: `entries (8) | bytes of the segment (8) | first and last time (16) | version (4) | magic (8) |
/// CRC32C of all before it (4)`.
const FOOTER: usize = 8 + 8 + 16 + 4 + 8 + 4;
/// Set in the place of a record that is the end of a message. Segments are shorter than this.
const END: u32 = 1 << 31;

/// Where a record of a message stands. Sorts by message, replays before the end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// The message.
    pub id: QueueId,
    place: u32,
}

impl Entry {
    pub fn new(id: QueueId, offset: u64, is_end: bool) -> Self {
        let offset = u32::try_from(offset).unwrap_or(END - 1).min(END - 1);
        Self { id, place: if is_end { offset | END } else { offset } }
    }

    pub fn is_end(self) -> bool {
        self.place & END != 0
    }

    pub fn offset(self) -> u64 {
        u64::from(self.place & !END)
    }
}

/// The times of the first and the last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    pub first: Timestamp,
    pub last: Timestamp,
}

impl Default for Span {
    fn default() -> Self {
        Self { first: Timestamp::MAX, last: Timestamp::default() }
    }
}

impl Span {
    pub fn add(&mut self, at: Timestamp) {
        self.first = self.first.min(at);
        self.last = self.last.max(at);
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    pub number: u32,
    /// Bytes of the file of records that hold some.
    pub data_len: u64,
    pub span: Span,
    entries: u64,
    min: QueueId,
    max: QueueId,
}

/// The file of records.
pub fn segment_name(number: u32) -> String {
    format!("{number:08}.log")
}

/// The file that says where they stand.
pub fn index_name(number: u32) -> String {
    format!("{number:08}.idx")
}

/// What a new file of records begins with.
pub fn header(number: u32) -> Vec<u8> {
    let mut w = Writer(MAGIC.to_vec());
    w.u32(VERSION);
    w.u32(number);
    let crc = crc32c::crc32c(&w.0);
    w.u32(crc);
    w.0
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Segment {
    /// Writes the index of a segment whose records stand at `entries`, durably.
    ///
    /// # Errors
    /// The system's.
    pub fn write(
        files: &dyn Files,
        dir: &Path,
        number: u32,
        data_len: u64,
        span: Span,
        entries: &mut [Entry],
    ) -> io::Result<Self> {
        entries.sort_unstable();
        let mut w = Writer(Vec::with_capacity(entries.len() * ENTRY + FOOTER));
        for entry in entries.iter() {
            w.raw(&entry.id.to_bytes());
            w.u32(entry.place);
        }
        w.u64(entries.len() as u64);
        w.u64(data_len);
        w.u64(span.first.as_millis());
        w.u64(span.last.as_millis());
        w.u32(VERSION);
        w.raw(INDEX_MAGIC);
        let crc = crc32c::crc32c(&w.0);
        w.u32(crc);
        let path = dir.join(index_name(number));
        let new = path.with_extension("idx.new");
        let file = files.create(&new)?;
        file.write_at(0, &[IoSlice::new(&w.0)])?;
        file.sync_data()?;
        files.rename(&new, &path)?;
        let nothing = QueueId::from_bytes([0; 16]);
        let (min, max) = match (entries.first(), entries.last()) {
            (Some(first), Some(last)) => (first.id, last.id),
            _ => (nothing, nothing),
        };
        Ok(Self { number, data_len, span, entries: entries.len() as u64, min, max })
    }

    /// Reads what is kept in memory.
    ///
    /// # Errors
    /// The system's; `InvalidData` or `UnexpectedEof` when the index is not as it was written, or not of this segment.
    pub fn open(files: &dyn Files, dir: &Path, number: u32) -> io::Result<Self> {
        let file = files.open(&dir.join(index_name(number)))?;
        let len = usize::try_from(file.size()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_at(0, &mut bytes)?;
        let segment = Self::decode(number, &bytes).ok_or_else(|| damaged("no index"))?;
        let size = files.open(&dir.join(segment_name(number)))?.size()?;
        if size < segment.data_len { Err(damaged("the segment is shorter")) } else { Ok(segment) }
    }

    fn decode(number: u32, bytes: &[u8]) -> Option<Self> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(content).to_be_bytes() != *crc {
            return None;
        }
        let (entries, footer) = bytes.split_at_checked(bytes.len().checked_sub(FOOTER)?)?;
        let mut r = Reader(footer);
        let (count, data_len) = (r.u64().ok()?, r.u64().ok()?);
        let span = Span { first: r.time().ok()?, last: r.time().ok()? };
        let is_whole = r.u32().ok()? == VERSION
            && r.array().ok()? == *INDEX_MAGIC
            && count.checked_mul(ENTRY as u64)? == entries.len() as u64;
        if !is_whole {
            return None;
        }
        let id = |entry: Option<&[u8]>| entry.and_then(|bytes| Reader(bytes).id().ok());
        let nothing = QueueId::from_bytes([0; 16]);
        let (first, last) = (entries.chunks_exact(ENTRY).next(), entries.chunks_exact(ENTRY).next_back());
        let (min, max) = (id(first).unwrap_or(nothing), id(last).unwrap_or(nothing));
        Some(Self { number, data_len, span, entries: count, min, max })
    }

    /// Bytes of both files.
    pub fn bytes(&self) -> u64 {
        self.data_len + self.entries * ENTRY as u64 + FOOTER as u64
    }

    /// How many records of a message it has, and where the last of them stand, at most `most`: by offset, the end of the
    /// message behind the replays.
    ///
    /// # Errors
    /// The system's.
    pub fn find(
        &self,
        files: &dyn Files,
        dir: &Path,
        id: QueueId,
        most: u64,
    ) -> io::Result<(u64, Vec<Entry>)> {
        if id < self.min || id > self.max || self.entries == 0 {
            return Ok((0, Vec::new()));
        }
        let file = files.open(&dir.join(index_name(self.number)))?;
        let start = self.partition_point(&*file, |other| other < id)?;
        let end = self.partition_point(&*file, |other| other <= id)?;
        let from = start.max(end.saturating_sub(most));
        Ok((end.saturating_sub(start), read_entries(&*file, from, end)?))
    }

    /// All of the index.
    ///
    /// # Errors
    /// The system's.
    pub fn entries(&self, files: &dyn Files, dir: &Path) -> io::Result<Vec<Entry>> {
        read_entries(&*files.open(&dir.join(index_name(self.number)))?, 0, self.entries)
    }

    /// The number of the first entry for which `is_before` does not hold.
    fn partition_point(&self, file: &dyn StoreFile, is_before: impl Fn(QueueId) -> bool) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low.midpoint(high);
            let entry = read_entries(file, middle, middle + 1)?;
            if entry.first().is_some_and(|entry| is_before(entry.id)) {
                low = middle + 1
            } else {
                high = middle
            }
        }
        Ok(low)
    }
}

fn read_entries(file: &dyn StoreFile, from: u64, to: u64) -> io::Result<Vec<Entry>> {
    let len = to.saturating_sub(from).saturating_mul(ENTRY as u64);
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_at(from * ENTRY as u64, &mut bytes)?;
    let entry = |bytes: &[u8]| {
        let mut r = Reader(bytes);
        Some(Entry { id: r.id().ok()?, place: r.u32().ok()? })
    };
    Ok(bytes.chunks_exact(ENTRY).filter_map(entry).collect())
}

/// Reads the body of one record.
///
/// # Errors
/// The system's; `InvalidData` or `UnexpectedEof` when there is none, or it is damaged.
pub fn read_body(file: &dyn StoreFile, offset: u64) -> io::Result<Vec<u8>> {
    let mut frame = [0; FRAME];
    file.read_at(offset, &mut frame)?;
    let (len, crc) = record::read_frame(&frame).ok_or_else(|| damaged("no record"))?;
    let mut body = vec![0; len];
    file.read_at(offset + FRAME as u64, &mut body)?;
    if crc32c::crc32c(&body) == crc { Ok(body) } else { Err(damaged("checksum mismatch")) }
}

/// What a file of records holds.
#[derive(Default)]
pub struct Scanned {
    /// Where the records stand.
    pub entries: Vec<Entry>,
    pub span: Span,
    /// Behind the last whole record.
    pub data_len: u64,
    /// Ranges that are no records though they were written as such: offset and length.
    pub damage: Vec<(u64, u64)>,
    /// Bytes behind `data_len` that are what a write that was cut off leaves.
    pub torn: u64,
}

/// Reads a file of records from its front to its end; `None` when it does not even begin as one.
///
/// # Errors
/// The system's.
pub fn scan(files: &dyn Files, dir: &Path, number: u32) -> io::Result<Option<Scanned>> {
    let file: Arc<dyn StoreFile> = files.open(&dir.join(segment_name(number)))?;
    let size = file.size()?;
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_at(0, &mut bytes)?;
    let Some((start, mut rest)) = bytes.split_at_checked(HEADER) else { return Ok(None) };
    if start != header(number) {
        return Ok(None);
    }
    let mut scanned = Scanned { data_len: HEADER as u64, ..Scanned::default() };
    let mut damage: Vec<(u64, u64)> = Vec::new();
    loop {
        let offset = size - rest.len() as u64;
        match record::next(rest) {
            record::Next::Record(body, behind) => {
                if let Ok(head) = record::decode_head(&mut Reader(body)) {
                    scanned.entries.push(Entry::new(head.id, offset, head.is_end));
                    scanned.span.add(head.at);
                }
                rest = behind;
                scanned.data_len = size - rest.len() as u64;
                scanned.damage.append(&mut damage);
            }
            record::Next::Damaged(behind) => {
                damage.push((offset, (rest.len() - behind.len()) as u64));
                rest = behind;
            }
            record::Next::None => break,
        }
    }
    // What a credible frame stands in front of is only torn when the file ends within it.
    let is_torn = damage.is_empty() && (rest.len() < FRAME || is_cut_off(rest));
    let behind = size - scanned.data_len;
    if is_torn {
        scanned.torn = behind;
    } else if behind > 0 {
        scanned.damage.push((scanned.data_len, behind));
    }
    Ok(Some(scanned))
}

fn is_cut_off(rest: &[u8]) -> bool {
    rest.iter().all(|byte| *byte == 0)
        || rest.get(..FRAME).and_then(record::read_frame).is_some_and(|(len, _)| len > rest.len() - FRAME)
}
