//! Reads the journal of an earlier run, record by record, and does in memory what each says (D4).
//!
//! Nothing here writes to a segment, but for the cut behind the last record of the newest one. What is no record, and
//! what does not count, is copied to `damaged/` and named in the [`Recovery`]; without room for the copy it is only named.

mod aside;
mod to_index;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::codec::{self, Reader};
use super::embedded::OpenError;
use super::files::{Files, StoreFile};
use super::index::{Index, is_damage};
use super::journal::segment_name;
use super::keys::{self, Bucket};
use super::ledger::Entry;
use super::record::{Found, Kind, Mark, Place, SEGMENT_HEADER, Scan, read_segment_header};
use super::recovery::Recovery;
use super::shared::State;
use super::unit::Unit;
use super::{Recovered, reclaim};
use crate::clock::Timestamp;
use crate::mail::QueueId;

/// Segments that are named when so many in a row are missing, or more.
const MOST_MISSING: usize = 100;

/// What is known of a journal so far.
pub struct Replay<'a> {
    files: &'a dyn Files,
    dir: &'a Path,
    /// Those on the disk, oldest first.
    pub segments: Vec<u32>,
    /// What a checkpoint says, even one that cannot be used.
    mark: Option<Mark>,
    /// The last run that it names.
    last_run: u32,
    /// What the journal says.
    pub state: State,
    unit: Unit,
    /// What has been read, and what was wrong with it.
    pub recovery: Recovery,
    /// Bytes set aside since the room that is kept back was given up.
    spent: Option<u64>,
    /// So many keys are moved into the index at a time …
    part: usize,
    /// … when there are as many in memory as this.
    flush_at: usize,
}

impl<'a> Replay<'a> {
    /// Nothing has been read yet of the `segments` in the data directory `dir`.
    pub fn new(files: &'a dyn Files, dir: &'a Path, segments: Vec<u32>) -> Self {
        Self {
            files,
            dir,
            segments,
            mark: None,
            last_run: 0,
            state: State::default(),
            unit: Unit::default(),
            recovery: Recovery::default(),
            spent: None,
            part: to_index::REPLAY_KEYS,
            flush_at: to_index::REPLAY_KEYS,
        }
    }

    fn path(&self, segment: u32) -> PathBuf {
        self.dir.join("journal").join(segment_name(segment))
    }

    /// The checkpoint, if there is one that the journal bears out.
    pub fn read_checkpoint(&mut self) -> Result<Option<Checkpoint>, OpenError> {
        let path = self.dir.join("checkpoint");
        let checkpoint = match Checkpoint::read(self.files, self.dir) {
            // A sector of it that cannot be read must not stop every start: the journal has all of it.
            Err(error) if is_damage(&error) => {
                tracing::warn!(%error, "the checkpoint cannot be used; the whole journal is read");
                self.set_name_aside(&path)?;
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::info!("another version has written the checkpoint; the whole journal is read once");
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
    pub fn open_index(
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

    /// The journal's mark: from the first header that is whole, else from the checkpoint, else a new one.
    pub fn find_mark(&self) -> Result<Mark, OpenError> {
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
    pub fn run(
        &mut self,
        index: &Index,
        mark: Mark,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), OpenError> {
        let from = checkpoint.as_ref().map_or((0, 0), |c| c.position);
        if let Some(checkpoint) = checkpoint {
            self.state.ledger = checkpoint.ledger;
        }
        let newest = self.segments.last().copied();
        let mut expected = None;
        for number in self.segments.clone() {
            if let Some(expected) = expected.filter(|e| *e < number) {
                self.recovery.missing_segments.extend((expected..number).take(MOST_MISSING));
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
                priority: entry.priority,
                held_back: entry.held_back && entry.queued,
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
                    let unfit = self.apply(kind, place, scan.body());
                    self.set_records_aside(&*file, unfit)?;
                    if self.state.overlay.waiting() >= self.flush_at {
                        self.flush(index)?;
                    }
                }
                Found::Damage { offset, len } => {
                    let strays = self.unit.strays();
                    self.set_records_aside(&*file, strays)?;
                    self.set_aside(&*file, number, offset, len)?;
                }
                Found::End { torn, .. } if newest && !any && !header_is_whole => {
                    // It was being made, and nothing was ever written to it; what is there all the same is kept.
                    let all = SEGMENT_HEADER as u64 + torn;
                    if torn > 0
                        && !self.copy_aside(&*file, number, 0, all).map_err(OpenError::at(self.dir))?
                    {
                        self.state.ledger.segments.entry(number).or_default().bytes = all;
                        return Ok(());
                    }
                    return self.remove_unborn(number).map_err(&failed);
                }
                Found::End { offset, torn } => {
                    if !header_is_whole {
                        let len = file.size().map_err(&failed)?.min(SEGMENT_HEADER as u64);
                        self.set_aside(&*file, number, 0, len)?;
                    }
                    // D2: notices whose outcome was torn off go with it.
                    let strays = self.unit.strays();
                    let tail = match strays.first() {
                        Some(first) if newest => u64::from(first.offset),
                        _ => offset,
                    };
                    if !newest {
                        self.set_records_aside(&*file, strays)?;
                    }
                    return self.end(&*file, number, tail, torn + (offset - tail), newest).map_err(&failed);
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
            self.copy_aside(file, number, offset, torn)?;
        }
        Ok(())
    }

    /// Does what a record says; gives back the records that are whole and do not count all the same: written in the
    /// layout of another version, or parts of an outcome with notices that is not whole (D2).
    fn apply(&mut self, kind: Kind, place: Place, body: &[u8]) -> Vec<Place> {
        let Some((outcome, notices)) = outcome_of(kind, body) else {
            let mut unfit = if kind == Kind::Notice { Vec::new() } else { self.unit.strays() };
            match self.apply_other(kind, place, body) {
                Some(strays) => unfit.extend(strays),
                None => unfit.extend(self.unit.strays().into_iter().chain([place])),
            }
            return unfit;
        };
        let (notices, unfit) = match notices {
            0 => (Vec::new(), self.unit.strays()),
            count => match self.unit.end(outcome.id, place, count) {
                Ok(notices) => (notices, Vec::new()),
                Err(unfit) => {
                    tracing::error!(
                        queue_id = %outcome.id, "an outcome is damaged; the message stands as it was before"
                    );
                    return unfit;
                }
            },
        };
        for (id, notice) in notices {
            self.state.ledger.accepted(id, notice);
        }
        match outcome.stays {
            Some((queued, next_attempt)) => {
                self.state.ledger.attempted(outcome.id, place, queued, next_attempt);
            }
            None => self.state.ledger.finished(outcome.id),
        }
        unfit
    }

    /// Does what a record says that is no outcome; gives back notices that have none. `None` when it does not follow its
    /// layout.
    fn apply_other(&mut self, kind: Kind, place: Place, body: &[u8]) -> Option<Vec<Place>> {
        let mut r = Reader(body);
        match kind {
            Kind::Notice => {
                let original = codec::decode_notice_head(&mut r).ok()?;
                let (head, entry) = message_of(&mut r, place)?;
                return Some(self.unit.add(original, head.id, entry));
            }
            Kind::Accepted => {
                let (head, entry) = message_of(&mut r, place)?;
                self.state.ledger.accepted(head.id, entry);
                // The copy of a living message may stand behind another one that has its forgotten key.
                let key = head.key.filter(|_| !self.state.ledger.forgotten.contains_key(&head.id));
                self.remember(key.map(|(key, record)| (keys::hash(&key), record)));
            }
            Kind::Attempted | Kind::Finished => return None,
            Kind::Forgotten => {
                let (id, expires_at) = codec::decode_forgotten(&mut r).ok()?;
                self.state.ledger.forgotten.insert(id, expires_at);
            }
            Kind::Key => {
                for (hash, record) in reclaim::keys_of(kind, body)? {
                    self.state.ledger.keys(place.segment, Bucket::of(record.expires_at), 1);
                    // A copy stands behind records that may be newer than what it is a copy of.
                    let newest = self.state.overlay.get(&hash);
                    let is_forgotten = self.state.ledger.forgotten.contains_key(&record.id);
                    if !is_forgotten && newest.is_none_or(|newest| newest.accepted_at <= record.accepted_at) {
                        self.remember(Some((hash, record)));
                    }
                }
            }
        }
        Some(Vec::new())
    }

    fn remember(&mut self, key: Option<(keys::KeyHash, super::KeyRecord)>) {
        if let Some((hash, record)) = key {
            self.recovery.keys += 1;
            self.state.overlay.insert(hash, record);
        }
    }
}

/// An outcome, as a replay sees it.
struct Outcome {
    id: QueueId,
    /// Whether a recipient is queued and when it is due, unless the message has ended.
    stays: Option<(bool, Timestamp)>,
}

/// What an outcome says, and how many notices stand in front; `None` when it is none, or does not follow its layout.
fn outcome_of(kind: Kind, body: &[u8]) -> Option<(Outcome, u32)> {
    let mut r = Reader(body);
    match kind {
        Kind::Attempted => {
            let head = codec::decode_attempted_head(&mut r).ok()?;
            Some((Outcome { id: head.id, stays: Some((head.queued, head.next_attempt)) }, head.notices))
        }
        Kind::Finished => {
            let (id, notices) = codec::decode_finished(&mut r).ok()?;
            Some((Outcome { id, stays: None }, notices))
        }
        Kind::Accepted | Kind::Key | Kind::Notice | Kind::Forgotten => None,
    }
}

/// A message that nobody has tried yet, as its record at `place` says.
fn message_of(r: &mut Reader<'_>, place: Place) -> Option<(codec::AcceptedHead, Entry)> {
    let head = codec::decode_accepted_head(r).ok()?;
    let handling = codec::decode_handling(r).ok()?;
    let bucket = head.key.as_ref().map(|(_, record)| Bucket::of(record.expires_at));
    let entry = Entry::fresh(place, head.accepted_at, handling, bucket);
    Some((head, entry))
}
