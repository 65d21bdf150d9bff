//! How a record stands in a segment file, and how the records of a file are found again (D4).
//!
//! A record is valid when its mark, its length, its kind and its checksum are all right. The mark is the journal's own
//! random number: a message whose content imitates a record cannot know it, so looking for the next record behind a
//! damaged place cannot be led astray by mail. The checksum also covers the place where the record stands.

use std::io;

use bytes::Bytes;
use memchr::memmem;

use super::files::StoreFile;

/// `mark (8) | length of kind and body (4) | CRC32C (4)`.
const FRAME: usize = 16;
/// Frame and kind.
pub const HEAD: usize = FRAME + 1;
/// Header of a segment file: `magic (8) | version (4) | segment number (4) | mark (8) | CRC32C of these (4)`.
pub const SEGMENT_HEADER: usize = 28;
/// The one layout there is.
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"oncejrnl";
/// No record is longer, bytes.
pub const MAX_RECORD: u32 = 1 << 30;
/// How much is read at a time.
const CHUNK: usize = 1 << 20;

/// The random number that starts each record of one journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(pub [u8; 8]);

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A message with its envelope and its key.
    Accepted = 1,
    /// How far a message has come; held and released recipients too.
    Attempted = 2,
    /// A message is forgotten.
    Finished = 3,
    /// A key whose message is forgotten.
    Key = 4,
    /// A message about another one, which counts only with the outcome behind it (D2).
    Notice = 5,
    /// A message's key means nothing any more; in front of every copy of such a message, too.
    Forgotten = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Accepted, Self::Attempted, Self::Finished, Self::Key, Self::Notice, Self::Forgotten]
            .into_iter()
            .find(|k| *k as u8 == byte)
    }
}

/// Where a record stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Place {
    /// Segment number; 0 is no place.
    pub segment: u32,
    /// Byte offset of its mark.
    pub offset: u32,
    /// Length with its frame, bytes.
    pub len: u32,
}

/// A record that is ready but for its place.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Room for the frame, the kind, and the body up to `tail`.
    head: Vec<u8>,
    tail: Bytes,
    /// CRC32C of kind and body.
    crc: u32,
}

impl Encoded {
    /// A buffer to write a body into.
    pub fn start(kind: Kind, capacity: usize) -> Vec<u8> {
        let mut head = Vec::with_capacity(HEAD + capacity);
        head.resize(FRAME, 0);
        head.push(kind as u8);
        head
    }

    /// A record of what was written into the buffer and, uncopied, `tail`.
    pub fn new(head: Vec<u8>, tail: Bytes) -> Self {
        let crc = crc32c::crc32c(head.get(FRAME..).unwrap_or_default());
        let crc = crc32c::crc32c_append(crc, &tail);
        Self { head, tail, crc }
    }

    /// Length with its frame, bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Completes the frame for a place; gives back what is to be written.
    pub fn place_at(&mut self, mark: Mark, segment: u32, offset: u32) -> [&[u8]; 2] {
        let len = u32::try_from(self.len() - FRAME).unwrap_or(u32::MAX);
        let frame = frame(mark, len, place_crc(self.crc, segment, offset));
        if let Some(room) = self.head.get_mut(..FRAME) {
            room.copy_from_slice(&frame);
        }
        [&self.head, &self.tail]
    }
}

fn frame(mark: Mark, len: u32, crc: u32) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let parts = mark.0.into_iter().chain(len.to_be_bytes()).chain(crc.to_be_bytes());
    frame.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    frame
}

fn place_crc(crc: u32, segment: u32, offset: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &segment.to_be_bytes()), &offset.to_be_bytes())
}

/// The header of a new segment.
pub fn segment_header(segment: u32, mark: Mark) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_be_bytes());
    header.extend(segment.to_be_bytes());
    header.extend(mark.0);
    header.extend(crc32c::crc32c(&header).to_be_bytes());
    header
}

/// The mark in a segment's header; `None` when the header is not whole.
pub fn read_segment_header(file: &dyn StoreFile, segment: u32) -> io::Result<Option<Mark>> {
    let mut header = [0; SEGMENT_HEADER];
    if file.size()? < SEGMENT_HEADER as u64 {
        return Ok(None);
    }
    file.read_at(0, &mut header)?;
    let mark = header.get(16..24).and_then(|m| m.try_into().ok()).map(Mark);
    Ok(mark.filter(|mark| segment_header(segment, *mark) == header))
}

/// Reads one record and verifies it.
///
/// # Errors
/// The system's, or `InvalidData` when there is no such record.
pub fn read_record(file: &dyn StoreFile, mark: Mark, place: Place) -> io::Result<(Kind, Bytes)> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if (place.len as usize) < HEAD || place.len > MAX_RECORD {
        return Err(invalid("impossible length"));
    }
    let mut bytes = vec![0; place.len as usize];
    file.read_at(place.offset.into(), &mut bytes)?;
    let kind =
        verify(&bytes, mark, place.segment, place.offset).ok_or_else(|| invalid("checksum mismatch"))?;
    Ok((kind, Bytes::from(bytes).split_off(HEAD)))
}

/// Reads the beginning of one record, at most `most` bytes of it with its frame. Its checksum is not verified.
///
/// # Errors
/// The system's, or `InvalidData` when no record of this journal stands there.
pub fn read_start(file: &dyn StoreFile, mark: Mark, place: Place, most: u32) -> io::Result<(Kind, Bytes)> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if (place.len as usize) < HEAD || place.len > MAX_RECORD || (most as usize) < HEAD {
        return Err(invalid("impossible length"));
    }
    let mut bytes = vec![0; place.len.min(most) as usize];
    file.read_at(place.offset.into(), &mut bytes)?;
    let kind = bytes.get(FRAME).and_then(|byte| Kind::from_byte(*byte));
    let kind = kind.filter(|_| bytes.starts_with(&mark.0)).ok_or_else(|| invalid("no record"))?;
    Ok((kind, Bytes::from(bytes).split_off(HEAD)))
}

/// The kind of a record, if `bytes` is exactly one.
fn verify(bytes: &[u8], mark: Mark, segment: u32, offset: u32) -> Option<Kind> {
    let (head, content) = bytes.split_at_checked(FRAME)?;
    let len = u32::try_from(content.len()).ok()?;
    let expected = frame(mark, len, place_crc(crc32c::crc32c(content), segment, offset));
    (head == expected).then(|| Kind::from_byte(*content.first()?))?
}

/// What stands next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A valid record: its kind, and its body in [`Scan::body`].
    Record(Kind, Place),
    /// Bytes that are no record, with a valid record behind them.
    Damage {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// No record follows. What remains is cut off in the newest segment and damage in any other; all zeros are a clean
    /// end (room that was set aside).
    End {
        /// Where the last valid record ends.
        offset: u64,
        /// Bytes behind it, up to the last that is not zero.
        torn: u64,
    },
}

/// Walks over the records of one segment.
pub struct Scan<'a> {
    file: &'a dyn StoreFile,
    mark: Mark,
    segment: u32,
    pos: u64,
    end: u64,
    /// Bytes of the file from `buffer_at` on.
    buffer: Vec<u8>,
    buffer_at: u64,
    body: (usize, usize),
}

impl<'a> Scan<'a> {
    /// A walk from `from`, which is where a record should start.
    ///
    /// # Errors
    /// The system's.
    pub fn new(file: &'a dyn StoreFile, mark: Mark, segment: u32, from: u64) -> io::Result<Self> {
        let end = file.size()?;
        Ok(Self { file, mark, segment, pos: from, end, buffer: Vec::new(), buffer_at: 0, body: (0, 0) })
    }

    /// The next step of the walk; after `End` always `End`.
    ///
    /// # Errors
    /// The system's.
    pub fn step(&mut self) -> io::Result<Found> {
        if let Some(found) = self.record_at(self.pos)? {
            return Ok(found);
        }
        let from = self.pos;
        match self.search(from + 1)? {
            Some(next) => {
                self.pos = next;
                Ok(Found::Damage { offset: from, len: next - from })
            }
            None => Ok(Found::End { offset: from, torn: self.torn(from)? }),
        }
    }

    /// The body of the record that [`Scan::step`] has just found.
    pub fn body(&self) -> &[u8] {
        self.buffer.get(self.body.0..self.body.1).unwrap_or_default()
    }

    fn record_at(&mut self, pos: u64) -> io::Result<Option<Found>> {
        let journal = self.mark;
        let Some(head) = self.window(pos, FRAME)? else { return Ok(None) };
        let (mark, rest) = head.split_at(8);
        let len = rest.first_chunk().map_or(0, |len| u32::from_be_bytes(*len));
        if mark != journal.0 || len == 0 || len > MAX_RECORD {
            return Ok(None);
        }
        let whole = FRAME + len as usize;
        let segment = self.segment;
        let Ok(offset) = u32::try_from(pos) else { return Ok(None) };
        let Some(bytes) = self.window(pos, whole)? else { return Ok(None) };
        let Some(kind) = verify(bytes, journal, segment, offset) else { return Ok(None) };
        let start = usize::try_from(pos - self.buffer_at).unwrap_or(usize::MAX);
        self.body = (start.saturating_add(HEAD), start.saturating_add(whole));
        self.pos = pos + whole as u64;
        let len = u32::try_from(whole).unwrap_or(u32::MAX);
        Ok(Some(Found::Record(kind, Place { segment, offset, len })))
    }

    /// The place of the next valid record at `from` or behind it.
    fn search(&mut self, mut from: u64) -> io::Result<Option<u64>> {
        let mark = self.mark.0;
        while from + HEAD as u64 <= self.end {
            let len = (self.end - from).min(CHUNK as u64);
            let Some(window) = self.window(from, usize::try_from(len).unwrap_or(CHUNK))? else { break };
            match memmem::find(window, &mark) {
                // The end of this window may hold the start of a mark.
                None => from += len.saturating_sub(mark.len() as u64 - 1).max(1),
                Some(at) => {
                    let (pos, at) = (self.pos, from + at as u64);
                    let found = self.record_at(at)?;
                    self.pos = pos;
                    if found.is_some() {
                        return Ok(Some(at));
                    }
                    from = at + 1;
                }
            }
        }
        Ok(None)
    }

    /// Bytes from `from` up to the last that is not zero.
    fn torn(&mut self, from: u64) -> io::Result<u64> {
        let (mut at, mut torn) = (from, 0);
        while at < self.end {
            let len = (self.end - at).min(CHUNK as u64);
            let Some(window) = self.window(at, usize::try_from(len).unwrap_or(CHUNK))? else { break };
            if let Some(last) = window.iter().rposition(|b| *b != 0) {
                torn = at + last as u64 + 1 - from;
            }
            at += len;
        }
        Ok(torn)
    }

    /// The file's bytes at `pos`, or `None` when it ends before.
    fn window(&mut self, pos: u64, len: usize) -> io::Result<Option<&[u8]>> {
        if pos.saturating_add(len as u64) > self.end {
            return Ok(None);
        }
        let held = self.buffer_at..self.buffer_at + self.buffer.len() as u64;
        if !(held.contains(&pos) && pos + len as u64 <= held.end) {
            let ahead = (self.end - pos).min(len.max(CHUNK) as u64);
            self.buffer.resize(usize::try_from(ahead).unwrap_or(len), 0);
            self.file.read_at(pos, &mut self.buffer)?;
            self.buffer_at = pos;
        }
        let start = usize::try_from(pos - self.buffer_at).unwrap_or(usize::MAX);
        Ok(self.buffer.get(start..start.saturating_add(len)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;

    use super::super::files::{Files, RealFiles};
    use super::*;

    const MARK: Mark = Mark(*b"8 bytes!");

    fn record(body: &[u8]) -> Encoded {
        let mut head = Encoded::start(Kind::Accepted, 0);
        head.extend_from_slice(body);
        Encoded::new(head, Bytes::from_static(b" and a tail"))
    }

    /// A segment with these bodies, and where each record stands.
    fn segment(bodies: &[&[u8]]) -> (tempfile::TempDir, Arc<dyn StoreFile>, Vec<u64>) {
        let dir = tempfile::tempdir().unwrap();
        let file = RealFiles.create(&dir.path().join("s")).unwrap();
        let (mut at, mut places) = (SEGMENT_HEADER as u64, Vec::new());
        for body in bodies {
            let mut record = record(body);
            let parts = record.place_at(MARK, 3, at as u32);
            file.write_at(at, &parts.map(IoSlice::new)).unwrap();
            places.push(at);
            at += record.len() as u64;
        }
        places.push(at);
        (dir, file, places)
    }

    fn walk(file: &dyn StoreFile, segment: u32) -> Vec<Found> {
        let mut scan = Scan::new(file, MARK, segment, SEGMENT_HEADER as u64).unwrap();
        let mut all = Vec::new();
        loop {
            all.push(scan.step().unwrap());
            if let Some(Found::End { .. }) = all.last() {
                return all;
            }
        }
    }

    #[test]
    fn zeros_behind_the_last_record_are_a_clean_end() {
        let (_dir, file, places) = segment(&[b"one", b"two"]);
        file.allocate(100_000).unwrap();
        let found = walk(&*file, 3);
        assert!(matches!(found[..], [Found::Record(..), Found::Record(..), Found::End { torn: 0, .. }]));
        assert!(matches!(found[2], Found::End { offset, .. } if offset == places[2]));
    }

    #[test]
    fn d4_one_changed_bit_anywhere_costs_one_record_only() {
        let (_dir, file, places) = segment(&[b"one", b"two", b"three"]);
        for at in places[1]..places[2] {
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            file.write_at(at, &[IoSlice::new(&[byte[0] ^ 4])]).unwrap();
            let found = walk(&*file, 3);
            assert!(matches!(found[0], Found::Record(..)));
            assert_eq!(found[1], Found::Damage { offset: places[1], len: places[2] - places[1] });
            assert!(matches!(found[2], Found::Record(..)));
            file.write_at(at, &[IoSlice::new(&byte)]).unwrap();
        }
    }

    #[test]
    fn d4_a_record_inside_a_damaged_message_is_not_taken_for_one() {
        // A message that brings a whole record along, with the right mark even, but not for this place.
        let mut forged = record(b"forged");
        let forged = forged.place_at(MARK, 3, 9999).concat();
        let (_dir, file, places) = segment(&[&forged, b"two"]);
        file.write_at(places[0], &[IoSlice::new(&[0; 4])]).unwrap();
        let found = walk(&*file, 3);
        assert_eq!(found[0], Found::Damage { offset: places[0], len: places[1] - places[0] });
        assert!(matches!(found[1..], [Found::Record(..), Found::End { torn: 0, .. }]));
    }

    #[test]
    fn d4_records_of_another_segment_do_not_count() {
        let (_dir, file, _) = segment(&[b"one"]);
        assert!(matches!(walk(&*file, 4)[..], [Found::End { torn: 1.., .. }]));
    }
}
