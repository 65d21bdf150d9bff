//! A run: keys that expire in the same four hours, sorted by their hash, in a file that is written once.
//!
//! Its filter and its fences (where each 64th key stands) are in memory, so that a key that is not there costs no read
//! and one that is costs one. Every entry has its own checksum: a wrong record of a key would be a wrong reply.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use super::KeyRecord;
use super::codec::{KEY_VALUE_LEN, Reader, Writer};
use super::files::{Files, StoreFile};
use super::filter::{BLOCK, Filter};
use super::keys::{Bucket, KeyHash};

const MAGIC: &[u8; 8] = b"oncekeys";
const VERSION: u32 = 1;
/// Bytes of an entry: key hash, record, CRC32C of the bucket and both.
const ENTRY: usize = 16 + KEY_VALUE_LEN + 4;
/// Bytes of the end: magic, version, bucket, number of entries, number of filter blocks, CRC32C of fences, filter and
/// these.
const FOOTER: usize = 8 + 4 + 4 + 8 + 8 + 4;
/// Entries from one fence to the next: what one lookup reads.
const FENCE: usize = 64;
/// Entries read at a time by a walk.
const WALK: u64 = 512;
/// Bytes written at a time …
const WRITE: usize = 256 << 10;
/// … and synced at a time: a commit of the journal may have to wait for as much.
const SYNC: u64 = 2 << 20;

/// See the module.
pub struct Run {
    pub number: u32,
    pub bucket: Bucket,
    pub entries: u64,
    /// The first eight bytes of each 64th hash.
    fences: Vec<u64>,
    filter: Filter,
}

/// One key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub hash: KeyHash,
    pub value: [u8; KEY_VALUE_LEN],
}

/// The file name of a run.
pub fn run_name(number: u32) -> String {
    format!("{number:08}.run")
}

/// The number of a run, of which this is the name and no other way to write it. No index gets as far as half of the
/// numbers; what is beyond is a stranger's.
pub fn run_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".run")?.parse().ok()?;
    Some(number).filter(|number| *number <= u32::MAX / 2 && run_name(*number) == name)
}

/// The error of a run that is not as it was written.
fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Run {
    /// Reads what is kept in memory of a run.
    ///
    /// # Errors
    /// The system's; `InvalidData` or `UnexpectedEof` when the file is not as it was written.
    pub fn open(files: &dyn Files, dir: &Path, number: u32) -> io::Result<Self> {
        let file = files.open(&dir.join(run_name(number)))?;
        let size = file.size()?;
        let end = size.checked_sub(FOOTER as u64).ok_or_else(|| damaged("too short"))?;
        let mut footer = [0; FOOTER];
        file.read_at(end, &mut footer)?;
        let footer = Footer::decode(&footer).ok_or_else(|| damaged("no footer"))?;
        let fences = footer.entries.div_ceil(FENCE as u64) * 8;
        let rest = footer.blocks.checked_mul(BLOCK as u64).and_then(|filter| filter.checked_add(fences));
        let start = footer.entries.checked_mul(ENTRY as u64);
        let (Some(rest), Some(start)) = (rest, start) else { return Err(damaged("impossible length")) };
        if start.checked_add(rest) != Some(end) {
            return Err(damaged("impossible length"));
        }
        let mut bytes = vec![0; usize::try_from(rest).map_err(io::Error::other)?];
        file.read_at(start, &mut bytes)?;
        if footer.checksum(&bytes) != footer.crc {
            return Err(damaged("checksum mismatch"));
        }
        let (fences, filter) = bytes.split_at(usize::try_from(fences).unwrap_or(0).min(bytes.len()));
        let fences = fences.chunks_exact(8).map(|f| f.try_into().map_or(0, u64::from_be_bytes)).collect();
        let filter = Filter::from_bytes(filter);
        Ok(Self { number, bucket: footer.bucket, entries: footer.entries, fences, filter })
    }

    /// Bytes of its file.
    pub fn bytes(&self) -> u64 {
        let memory = self.fences.len() * 8 + self.filter.blocks() * BLOCK + FOOTER;
        self.entries.saturating_mul(ENTRY as u64) + memory as u64
    }

    /// Whether it may have a key. Reads memory only.
    pub fn may_contain(&self, hash: &KeyHash) -> bool {
        self.filter.may_contain(hash)
    }

    /// What it has of a key. Reads the disk.
    ///
    /// # Errors
    /// The system's, `NotFound` when the run was merged into another one; `InvalidData` or `UnexpectedEof` when it is
    /// not as it was written.
    pub fn find(&self, files: &dyn Files, dir: &Path, hash: &KeyHash) -> io::Result<Option<KeyRecord>> {
        let prefix = prefix(hash);
        // Hashes that share these eight bytes may stand on both sides of a fence.
        let first = self.fences.partition_point(|fence| *fence < prefix).saturating_sub(1) * FENCE;
        let end = self.fences.partition_point(|fence| *fence <= prefix) * FENCE;
        let end = end.min(usize::try_from(self.entries).unwrap_or(usize::MAX));
        if first >= end {
            return Ok(None);
        }
        let mut bytes = vec![0; (end - first) * ENTRY];
        files.open(&dir.join(run_name(self.number)))?.read_at((first * ENTRY) as u64, &mut bytes)?;
        for entry in bytes.chunks_exact(ENTRY) {
            let entry = Entry::decode(self.bucket, entry)?;
            if entry.hash == *hash {
                return entry.record().map(Some);
            }
        }
        Ok(None)
    }
}

impl Entry {
    pub fn new(hash: KeyHash, record: &KeyRecord) -> Self {
        let mut w = Writer(Vec::with_capacity(KEY_VALUE_LEN));
        w.key_record(record);
        let value = w.0.try_into().unwrap_or([0; KEY_VALUE_LEN]);
        Self { hash, value }
    }

    /// # Errors
    /// `InvalidData` when it follows no layout.
    pub fn record(&self) -> io::Result<KeyRecord> {
        Reader(&self.value).key_record().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn checksum(&self, bucket: Bucket) -> [u8; 4] {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bucket.0.to_be_bytes()), &self.hash);
        crc32c::crc32c_append(crc, &self.value).to_be_bytes()
    }

    fn decode(bucket: Bucket, bytes: &[u8]) -> io::Result<Self> {
        let mut r = Reader(bytes);
        let parts = (|| Ok((r.array()?, r.array()?, r.array()?)))();
        let (hash, value, crc) =
            parts.map_err(|error: super::codec::Malformed| damaged(&error.to_string()))?;
        let entry = Self { hash, value };
        if entry.checksum(bucket) == crc { Ok(entry) } else { Err(damaged("checksum mismatch")) }
    }
}

fn prefix(hash: &KeyHash) -> u64 {
    (u128::from_be_bytes(*hash) >> 64) as u64
}

struct Footer {
    bucket: Bucket,
    entries: u64,
    blocks: u64,
    crc: u32,
}

impl Footer {
    fn encode(&self) -> Writer {
        let mut w = Writer(MAGIC.to_vec());
        w.u32(VERSION);
        w.u32(self.bucket.0);
        w.u64(self.entries);
        w.u64(self.blocks);
        w
    }

    fn checksum(&self, fences_and_filter: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(fences_and_filter), &self.encode().0)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        if r.array().ok()? != *MAGIC || r.u32().ok()? != VERSION {
            return None;
        }
        let bucket = Bucket(r.u32().ok()?);
        Some(Self { bucket, entries: r.u64().ok()?, blocks: r.u64().ok()?, crc: r.u32().ok()? })
    }
}

/// Writes a run.
pub struct RunWriter {
    file: Arc<dyn StoreFile>,
    run: Run,
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
}

impl RunWriter {
    /// Begins a run of at most `most` keys.
    ///
    /// # Errors
    /// The system's.
    pub fn create(files: &dyn Files, dir: &Path, number: u32, bucket: Bucket, most: u64) -> io::Result<Self> {
        let file = files.create(&dir.join(run_name(number)))?;
        let run = Run { number, bucket, entries: 0, fences: Vec::new(), filter: Filter::new(most) };
        Ok(Self { file, run, buffer: Vec::new(), written: 0, synced: 0 })
    }

    /// Appends a key; they must come in the order of their hashes.
    ///
    /// # Errors
    /// The system's.
    pub fn push(&mut self, entry: &Entry) -> io::Result<()> {
        if self.run.entries.is_multiple_of(FENCE as u64) {
            self.run.fences.push(prefix(&entry.hash));
        }
        self.run.entries += 1;
        self.run.filter.insert(&entry.hash);
        self.buffer.extend_from_slice(&entry.hash);
        self.buffer.extend_from_slice(&entry.value);
        self.buffer.extend_from_slice(&entry.checksum(self.run.bucket));
        if self.buffer.len() >= WRITE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_at(self.written, &[IoSlice::new(&self.buffer)])?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.synced >= SYNC { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.synced = self.written;
        // A failed sync must not look like a full disk that can be dealt with (D3).
        self.file.sync_data().map_err(|error| io::Error::other(error.to_string()))
    }

    /// Completes the run: it is durable then, but for its name in the directory.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(mut self) -> io::Result<Run> {
        let mut end =
            Vec::with_capacity(self.run.fences.len() * 8 + self.run.filter.blocks() * BLOCK + FOOTER);
        self.run.fences.iter().for_each(|fence| end.extend_from_slice(&fence.to_be_bytes()));
        self.run.filter.write_to(&mut end);
        let (bucket, entries) = (self.run.bucket, self.run.entries);
        let footer = Footer { bucket, entries, blocks: self.run.filter.blocks() as u64, crc: 0 };
        let crc = footer.checksum(&end);
        let mut footer = footer.encode();
        footer.u32(crc);
        end.extend_from_slice(&footer.0);
        for part in end.chunks(WRITE) {
            self.buffer.extend_from_slice(part);
            self.write()?;
        }
        self.sync()?;
        Ok(self.run)
    }

    pub fn number(&self) -> u32 {
        self.run.number
    }
}

/// Reads a run from its front to its end.
pub struct Walk {
    pub run: Arc<Run>,
    file: Arc<dyn StoreFile>,
    /// Entries that have been read into `buffer`, or before it.
    read: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl Walk {
    /// # Errors
    /// The system's.
    pub fn new(files: &dyn Files, dir: &Path, run: Arc<Run>) -> io::Result<Self> {
        let file = files.open(&dir.join(run_name(run.number)))?;
        Ok(Self { run, file, read: 0, buffer: Vec::new(), at: 0 })
    }

    /// The next key.
    ///
    /// # Errors
    /// The system's; `InvalidData` or `UnexpectedEof` when the file is not as it was written.
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        if self.at >= self.buffer.len() {
            let count = (self.run.entries - self.read).min(WALK);
            if count == 0 {
                return Ok(None);
            }
            self.buffer.resize(usize::try_from(count).unwrap_or(0) * ENTRY, 0);
            self.file.read_at(self.read * ENTRY as u64, &mut self.buffer)?;
            self.read += count;
            self.at = 0;
        }
        let bytes = self.buffer.get(self.at..self.at + ENTRY).unwrap_or_default();
        self.at += ENTRY;
        Entry::decode(self.run.bucket, bytes).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::RealFiles;
    use super::*;

    const BUCKET: Bucket = Bucket(7);

    fn entries(n: u64) -> Vec<Entry> {
        let mut all: Vec<_> = (0..n)
            .map(|n| {
                let mut entry = Entry { hash: KeyHash::default(), value: [0; KEY_VALUE_LEN] };
                blake3::Hasher::new().update(&n.to_be_bytes()).finalize_xof().fill(&mut entry.hash);
                entry.value[66..82].copy_from_slice(&entry.hash);
                entry
            })
            .collect();
        all.sort_by_key(|entry| entry.hash);
        all
    }

    fn written(dir: &Path, entries: &[Entry]) -> Run {
        let mut writer = RunWriter::create(&RealFiles, dir, 3, BUCKET, entries.len() as u64).unwrap();
        entries.iter().for_each(|entry| writer.push(entry).unwrap());
        writer.finish().unwrap()
    }

    #[test]
    fn i1_every_key_of_a_run_is_found_and_no_other() {
        for n in [1, 63, 64, 65, 5000] {
            let dir = tempfile::tempdir().unwrap();
            let all = entries(n + 100);
            let (inside, outside): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(n, _)| n % 50 != 7);
            let inside: Vec<Entry> = inside.into_iter().map(|(_, entry)| *entry).collect();
            let made = written(dir.path(), &inside);
            let read = Run::open(&RealFiles, dir.path(), 3).unwrap();
            for run in [made, read] {
                assert_eq!((run.bucket, run.entries), (BUCKET, inside.len() as u64));
                for entry in &inside {
                    assert!(run.may_contain(&entry.hash));
                    let found = run.find(&RealFiles, dir.path(), &entry.hash).unwrap();
                    assert_eq!(found, Some(entry.record().unwrap()));
                }
                for (_, entry) in &outside {
                    assert_eq!(run.find(&RealFiles, dir.path(), &entry.hash).unwrap(), None);
                }
                let mut walk = Walk::new(&RealFiles, dir.path(), Arc::new(run)).unwrap();
                let walked: Vec<_> = std::iter::from_fn(|| walk.next().unwrap()).collect();
                assert_eq!(walked, inside);
            }
        }
    }

    #[test]
    fn d4_one_changed_bit_anywhere_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let all = entries(70);
        written(dir.path(), &all);
        let file = RealFiles.open(&dir.path().join(run_name(3))).unwrap();
        for at in 0..file.size().unwrap() {
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            file.write_at(at, &[IoSlice::new(&[byte[0] ^ 16])]).unwrap();
            let noticed = Run::open(&RealFiles, dir.path(), 3).and_then(|run| {
                let mut walk = Walk::new(&RealFiles, dir.path(), Arc::new(run))?;
                while walk.next()?.is_some() {}
                Ok(())
            });
            assert_eq!(noticed.unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {at}");
            file.write_at(at, &[IoSlice::new(&byte)]).unwrap();
        }
    }
}
