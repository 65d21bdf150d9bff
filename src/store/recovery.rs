//! From what is on the disk to a store that works (D4).
//!
//! Only whole, checksummed records count. A torn tail of the newest segment is cut off; every other range of bytes that
//! is no record is copied to `damaged/` and reported. The index is used when it opens and belongs to the checkpoint,
//! and made again from the whole journal when not. Nothing of an earlier run is written to again, but for that cut.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::codec::{self, Reader};
use super::embedded::{OpenError, Options};
use super::files::{Files, StoreFile};
use super::index::{Index, is_damage};
use super::journal::{Journal, list_segments, segment_name};
use super::keys::{self, Bucket};
use super::record::{Found, Kind, Mark, Place, SEGMENT_HEADER, Scan, read_segment_header};
use super::shared::{Shared, State};
use super::{Recovered, damage, reclaim, reserve};
use crate::clock::Clock;

/// Between two tries to get the lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Keys moved into the index at a time.
const REPLAY_KEYS: usize = 64 * 1024;

/// What a start found. Prints as one line.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Messages that are not finished, by id.
    pub messages: Vec<Recovered>,
    /// Key records read from the journal; the index may hold more.
    pub keys: u64,
    /// Records of the journal read.
    pub replayed_records: u64,
    /// Bytes of the journal read.
    pub replayed_bytes: u64,
    /// Bytes cut off the end of the journal: writes that were never acknowledged.
    pub torn_bytes: u64,
    /// Files with damaged bytes, and an index that was set aside.
    pub set_aside: Vec<PathBuf>,
    /// Segments that should be there and are not.
    pub missing_segments: Vec<u32>,
    /// The index was made again from the whole journal.
    pub index_rebuilt: bool,
    /// By the clock.
    pub took: Duration,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queued = self.messages.iter().filter(|m| m.next_attempt.is_some()).count();
        let held = self.messages.len() - queued;
        write!(f, "recovered {queued} queued and {held} held messages in {:?}", self.took)?;
        write!(f, "; replayed {} records ({} bytes)", self.replayed_records, self.replayed_bytes)?;
        if self.torn_bytes > 0 {
            write!(f, "; cut off {} unacknowledged bytes", self.torn_bytes)?;
        }
        if self.index_rebuilt {
            f.write_str("; index rebuilt")?;
        }
        for path in &self.set_aside {
            write!(f, "; DAMAGED, set aside: {}", path.display())?;
        }
        for number in &self.missing_segments {
            write!(f, "; MISSING: {}", segment_name(*number))?;
        }
        Ok(())
    }
}

/// A store that is ready to run.
pub struct Opened {
    pub shared: Shared,
    pub journal: Journal,
    pub recovery: Recovery,
    pub checkpointed: (u32, u64),
    pub lock: Box<dyn Any + Send + Sync>,
}

/// Opens a data directory. Blocks.
///
/// # Errors
/// When another process has it (D5), or the disk does not do what it must.
pub fn open(options: Options, files: Arc<dyn Files>, clock: Clock) -> Result<Opened, OpenError> {
    let started = clock.now();
    let dir = options.data_dir.clone();
    let journal_dir = dir.join("journal");
    let is_new = !dir.exists();
    files.create_dir(&journal_dir).map_err(OpenError::at(&journal_dir))?;
    if is_new {
        // The names inside it are synced below; its own name stands in the directory above.
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        files.sync_dir(above).map_err(OpenError::at(above))?;
    }
    let lock = take_lock(&*files, &dir, options.lock_wait)?;

    let mut replay = Replay {
        files: &*files,
        dir: &dir,
        segments: list_segments(&*files, &journal_dir).map_err(OpenError::at(&journal_dir))?,
        mark: None,
        last_run: 0,
        state: State::default(),
        recovery: Recovery::default(),
    };
    let checkpoint = replay.read_checkpoint()?;
    let (index, checkpoint) = replay.open_index(&files, checkpoint)?;
    let checkpointed = checkpoint.as_ref().map_or((0, 0), |c| c.position);
    let mark = replay.find_mark()?;
    replay.recovery.index_rebuilt = checkpoint.is_none() && !replay.segments.is_empty();
    replay.run(&index, mark, checkpoint)?;

    let newest = replay.segments.last().copied().unwrap_or(0).max(checkpointed.0);
    let journal = Journal::start(files.clone(), journal_dir.clone(), mark, options.segment_bytes, newest + 1)
        .map_err(OpenError::at(&journal_dir))?;
    reserve::keep(&*files, &dir).map_err(OpenError::at(&dir))?;
    files.sync_dir(&dir).map_err(OpenError::at(&dir))?;

    let Replay { mut state, mut recovery, .. } = replay;
    state.position = journal.position();
    state.ledger.segments.entry(state.position.0).or_default().bytes = state.position.1;
    recovery.took = clock.now().since(started);
    let shared = Shared::new(options, files, clock, mark, index, state);
    Ok(Opened { shared, journal, recovery, checkpointed, lock })
}

fn take_lock(files: &dyn Files, dir: &Path, wait: Duration) -> Result<Box<dyn Any + Send + Sync>, OpenError> {
    let path = dir.join("lock");
    let mut waited = Duration::ZERO;
    loop {
        match files.lock(&path).map_err(OpenError::at(&path))? {
            Some(lock) => return Ok(lock),
            None if waited >= wait => {
                let pid = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
                return Err(OpenError::Locked { path, pid });
            }
            None => {
                std::thread::sleep(LOCK_RETRY);
                waited += LOCK_RETRY;
            }
        }
    }
}

struct Replay<'a> {
    files: &'a dyn Files,
    dir: &'a Path,
    segments: Vec<u32>,
    /// What a checkpoint says, even one that cannot be used.
    mark: Option<Mark>,
    /// The last run that it names.
    last_run: u32,
    state: State,
    recovery: Recovery,
}

impl Replay<'_> {
    fn path(&self, segment: u32) -> PathBuf {
        self.dir.join("journal").join(segment_name(segment))
    }

    /// The checkpoint, if there is one that the journal bears out.
    fn read_checkpoint(&mut self) -> Result<Option<Checkpoint>, OpenError> {
        let path = self.dir.join("checkpoint");
        let checkpoint = match Checkpoint::read(self.files, self.dir) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "the checkpoint cannot be used; the whole journal is read");
                self.set_name_aside(&path)?;
                return Ok(None);
            }
            other => other.map_err(OpenError::at(&path))?,
        };
        let Some(checkpoint) = checkpoint else { return Ok(None) };
        self.mark = Some(checkpoint.mark);
        self.last_run = checkpoint.runs.iter().copied().max().unwrap_or(0);
        let (segment, offset) = checkpoint.position;
        let file = self.files.open(&self.path(segment));
        let reaches = file.and_then(|f| Ok((f.size()?, read_segment_header(&*f, segment)?)));
        match reaches {
            Ok((len, Some(mark))) if len >= offset && mark == checkpoint.mark => Ok(Some(checkpoint)),
            _ => {
                tracing::warn!(
                    segment,
                    offset,
                    "the journal does not reach the checkpoint; all of it is read"
                );
                Ok(None)
            }
        }
    }

    /// The index, with the checkpoint if both can be used; otherwise a new index.
    fn open_index(
        &mut self,
        files: &Arc<dyn Files>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(Index, Option<Checkpoint>), OpenError> {
        let dir = self.dir.join("index");
        let failed = |(path, error): (PathBuf, io::Error)| OpenError::File { path, error };
        if let Some(checkpoint) = checkpoint {
            match Index::open(files.clone(), &dir, &checkpoint.runs, self.last_run) {
                Ok(index) => return Ok((index, Some(checkpoint))),
                Err((path, error)) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), "a run of the index is missing; it is made again");
                }
                Err((path, error)) if is_damage(&error) => {
                    tracing::warn!(path = %path.display(), %error, "the index is damaged; it is made again");
                    self.set_name_aside(&path)?;
                }
                Err(other) => return Err(failed(other)),
            }
        }
        Ok((Index::open(files.clone(), &dir, &[], self.last_run).map_err(failed)?, None))
    }

    /// Renames something to `<name>.damaged`, in the place of what was set aside so before.
    fn set_name_aside(&mut self, path: &Path) -> Result<(), OpenError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        let aside = PathBuf::from(aside);
        self.files.rename(path, &aside).map_err(OpenError::at(path))?;
        let dir = path.parent().unwrap_or(self.dir);
        self.files.sync_dir(dir).map_err(OpenError::at(dir))?;
        self.recovery.set_aside.push(aside);
        Ok(())
    }

    /// The journal's mark: from the first header that is whole, else from the checkpoint, else a new one.
    fn find_mark(&self) -> Result<Mark, OpenError> {
        for segment in &self.segments {
            let path = self.path(*segment);
            let header = self.files.open(&path).and_then(|file| read_segment_header(&*file, *segment));
            if let Some(mark) = header.map_err(OpenError::at(&path))? {
                return Ok(mark);
            }
        }
        Ok(self.mark.unwrap_or_else(|| Mark(rand::random())))
    }

    /// Replays the journal: behind the checkpoint, or all of it.
    fn run(&mut self, index: &Index, mark: Mark, checkpoint: Option<Checkpoint>) -> Result<(), OpenError> {
        let from = checkpoint.as_ref().map_or((0, 0), |c| c.position);
        if let Some(checkpoint) = checkpoint {
            self.state.ledger = checkpoint.ledger;
        }
        let newest = self.segments.last().copied();
        let mut expected = None;
        for number in self.segments.clone() {
            if let Some(expected) = expected.filter(|e| *e < number) {
                self.recovery.missing_segments.extend(expected..number);
            }
            expected = Some(number + 1);
            if number < from.0 {
                // Covered by the checkpoint; one that it does not know is free to go.
                self.state.ledger.segments.entry(number).or_default();
                continue;
            }
            let start = if number == from.0 { from.1 } else { SEGMENT_HEADER as u64 };
            self.segment(index, mark, number, start, Some(number) == newest)?;
        }
        self.finish();
        Ok(())
    }

    fn finish(&mut self) {
        let on_disk = &self.segments;
        let ledger = &mut self.state.ledger;
        ledger.half_copied = None;
        ledger.segments.retain(|number, _| on_disk.contains(number));
        for (id, entry) in &ledger.live {
            if !on_disk.contains(&entry.accepted.segment) {
                tracing::error!(queue_id = %id, segment = entry.accepted.segment, "a message's segment is missing");
                if !self.recovery.missing_segments.contains(&entry.accepted.segment) {
                    self.recovery.missing_segments.push(entry.accepted.segment);
                }
            }
        }
        let messages = ledger.live.iter();
        self.recovery.messages = messages
            .map(|(id, entry)| Recovered {
                id: *id,
                next_attempt: entry.queued.then_some(entry.next_attempt),
                priority: 0,
                held_back: false,
            })
            .collect();
        self.recovery.messages.sort_unstable_by_key(|message| message.id);
    }

    fn segment(
        &mut self,
        index: &Index,
        mark: Mark,
        number: u32,
        start: u64,
        newest: bool,
    ) -> Result<(), OpenError> {
        let path = self.path(number);
        let failed = OpenError::at(&path);
        let file = self.files.open(&path).map_err(&failed)?;
        let header_is_whole = read_segment_header(&*file, number).map_err(&failed)? == Some(mark);
        let mut scan = Scan::new(&*file, mark, number, start).map_err(&failed)?;
        let mut any = false;
        loop {
            match scan.step().map_err(&failed)? {
                Found::Record(kind, place) => {
                    any = true;
                    self.recovery.replayed_records += 1;
                    self.recovery.replayed_bytes += u64::from(place.len);
                    if self.apply(kind, place, scan.body()).is_none() {
                        // The checksum is right and the layout is not: written by another version.
                        self.set_aside(&*file, number, place.offset.into(), place.len.into())?;
                    }
                    if self.state.overlay.waiting() >= REPLAY_KEYS {
                        self.flush(index)?;
                    }
                }
                Found::Damage { offset, len } => self.set_aside(&*file, number, offset, len)?,
                Found::End { torn, .. } if newest && !any && !header_is_whole => {
                    // It was being made, and nothing was ever written to it; what is there all the same is kept.
                    if torn > 0 {
                        self.set_aside(&*file, number, 0, SEGMENT_HEADER as u64 + torn)?;
                    }
                    return self.remove_unborn(number).map_err(&failed);
                }
                Found::End { offset, torn } => {
                    if !header_is_whole {
                        let len = file.size().map_err(&failed)?.min(SEGMENT_HEADER as u64);
                        self.set_aside(&*file, number, 0, len)?;
                    }
                    return self.end(&*file, number, offset, torn, newest).map_err(&failed);
                }
            }
        }
    }

    fn remove_unborn(&mut self, number: u32) -> io::Result<()> {
        self.files.remove(&self.path(number))?;
        self.files.sync_dir(&self.dir.join("journal"))?;
        self.segments.retain(|other| *other != number);
        Ok(())
    }

    /// Deals with what stands behind the last record of a segment.
    fn end(
        &mut self,
        file: &dyn StoreFile,
        number: u32,
        offset: u64,
        torn: u64,
        newest: bool,
    ) -> io::Result<()> {
        self.state.ledger.segments.entry(number).or_default().bytes = offset;
        if newest {
            self.recovery.torn_bytes += torn;
            if file.size()? > offset {
                file.truncate(offset)?;
                file.sync_data()?;
            }
        } else if torn > 0 {
            let aside = damage::set_aside(self.files, self.dir, file, number, offset, torn)?;
            self.recovery.set_aside.push(aside);
        }
        Ok(())
    }

    fn set_aside(
        &mut self,
        file: &dyn StoreFile,
        number: u32,
        offset: u64,
        len: u64,
    ) -> Result<(), OpenError> {
        let aside = damage::set_aside(self.files, self.dir, file, number, offset, len);
        self.recovery.set_aside.push(aside.map_err(OpenError::at(self.dir))?);
        Ok(())
    }

    /// Does what a record says; `None` when it does not follow its layout.
    fn apply(&mut self, kind: Kind, place: Place, body: &[u8]) -> Option<()> {
        let mut r = Reader(body);
        match kind {
            Kind::Accepted => {
                let head = codec::decode_accepted_head(&mut r).ok()?;
                let key = head.key.map(|(key, record)| (keys::hash(&key), record));
                let bucket = key.as_ref().map(|(_, record)| Bucket::of(record.expires_at));
                self.state.ledger.accepted(head.id, place, head.accepted_at, bucket);
                self.remember(key);
            }
            Kind::Attempted => {
                let (id, queued, next_attempt) = codec::decode_attempted_head(&mut r).ok()?;
                self.state.ledger.attempted(id, place, queued, next_attempt);
            }
            Kind::Finished => self.state.ledger.finished(r.id().ok()?),
            Kind::Key => {
                for (hash, record) in reclaim::keys_of(kind, body)? {
                    self.state.ledger.keys(place.segment, Bucket::of(record.expires_at), 1);
                    // A copy stands behind records that may be newer than what it is a copy of.
                    let newest = self.state.overlay.get(&hash);
                    if newest.is_none_or(|newest| newest.accepted_at <= record.accepted_at) {
                        self.remember(Some((hash, record)));
                    }
                }
            }
        }
        Some(())
    }

    fn remember(&mut self, key: Option<(keys::KeyHash, super::KeyRecord)>) {
        if let Some((hash, record)) = key {
            self.recovery.keys += 1;
            self.state.overlay.insert(hash, record);
        }
    }

    fn flush(&mut self, index: &Index) -> Result<(), OpenError> {
        let keys = self.state.overlay.begin_move();
        let records = keys.iter().map(|(hash, record)| (Bucket::of(record.expires_at), hash, record));
        let dir = self.dir.join("index");
        index.insert(records).map_err(OpenError::at(&dir))?;
        self.state.overlay.finish_move();
        // A complete replay of millions of keys must not leave hundreds of small runs.
        while self.recovery.index_rebuilt && index.merge(Bucket(0)).map_err(OpenError::at(&dir))? {}
        Ok(())
    }
}
