//! The index, in front of the journal: key hash → what the key remembers, in sorted runs.
//!
//! It is never the truth: everything in it can be made again from the journal, and is, whenever a run that the
//! checkpoint names is missing or damaged. A run is never changed. What takes its place is made beside it, and it is
//! removed only after a checkpoint that does not name it. Reading must not be done on a tokio worker;
//! [`Index::may_contain`] may be, which reads memory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::KeyRecord;
use super::files::{Files, is_full};
use super::keys::{Bucket, KeyHash};
use super::run::{Entry, Run, RunWriter, Walk, run_name, run_number};
use crate::mail::QueueId;

/// So many runs of about one size and one bucket become one: each key is written once more for each factor of this.
pub const FAN_IN: usize = 8;
/// Keys of the smallest size of runs.
const SMALLEST: u64 = 32 * 1024;
/// Keys merged, or looked at by the sweep, in one step: a flush waits no longer.
const STEP: usize = 16 * 1024;

/// See the module.
pub struct Index {
    files: Arc<dyn Files>,
    dir: PathBuf,
    /// Exchanged as a whole: who looks sees a key that moves from one run to another in one of them at least.
    runs: ArcSwap<Vec<Arc<Run>>>,
    work: Mutex<Work>,
}

/// What the index thread is at.
struct Work {
    next_number: u32,
    /// Not looked at any more, but perhaps named by the last checkpoint.
    obsolete: Vec<u32>,
    merge: Option<Merge>,
    sweep: Option<Walk>,
}

struct Merge {
    inputs: Vec<Arc<Run>>,
    walks: Vec<(Walk, Option<Entry>)>,
    writer: RunWriter,
}

impl Index {
    /// Opens the index in `dir` with the runs `named`; every other run goes. New ones get numbers above `last`, which
    /// is the greatest that any checkpoint on the disk names: a run must never be taken for another one.
    ///
    /// # Errors
    /// The system's, and the run: `NotFound`, `InvalidData` or `UnexpectedEof` when that is not as it was written.
    pub fn open(
        files: Arc<dyn Files>,
        dir: &Path,
        named: &[u32],
        mut last: u32,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        files.create_dir(dir).map_err(at(dir))?;
        let names = files.list(dir).map_err(at(dir))?;
        let on_disk = names.iter().filter_map(|name| run_number(name));
        for number in on_disk {
            last = last.max(number);
            if !named.contains(&number) {
                let path = dir.join(run_name(number));
                files.remove(&path).map_err(at(&path))?;
            }
        }
        let mut runs = Vec::with_capacity(named.len());
        for number in named {
            let run = Run::open(&*files, dir, *number).map_err(at(&dir.join(run_name(*number))))?;
            runs.push(Arc::new(run));
        }
        let work =
            Work { next_number: last.saturating_add(1), obsolete: Vec::new(), merge: None, sweep: None };
        let (dir, runs) = (dir.to_owned(), ArcSwap::from_pointee(runs));
        Ok(Self { files, dir, runs, work: Mutex::new(work) })
    }

    /// Whether the index may have a key. Reads memory only.
    pub fn may_contain(&self, hash: &KeyHash) -> bool {
        self.runs.load().iter().any(|run| run.may_contain(hash))
    }

    /// What the index has of a key. Reads the disk.
    ///
    /// # Errors
    /// The system's; `InvalidData` or `UnexpectedEof` when a run is not as it was written, and is set aside.
    pub fn read(&self, hash: &KeyHash) -> io::Result<Vec<KeyRecord>> {
        loop {
            let runs = self.runs.load_full();
            let perhaps = runs.iter().filter(|run| run.may_contain(hash));
            let found = perhaps.filter_map(|run| {
                let found = run.find(&*self.files, &self.dir, hash).transpose()?;
                Some(found.inspect_err(|error| self.set_aside(run.number, error)))
            });
            match found.collect() {
                // It has been merged into another run, and removed.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && !Arc::ptr_eq(&runs, &self.runs.load()) => {}
                found => return found,
            }
        }
    }

    /// Bytes of all runs, how many there are, and how many keys they have by bucket: one that is in two runs counts
    /// twice.
    pub fn count_into(&self, counts: &mut BTreeMap<Bucket, u64>) -> (u64, u64) {
        let runs = self.runs.load();
        for run in runs.iter() {
            *counts.entry(run.bucket).or_default() += run.entries;
        }
        (runs.iter().map(|run| run.bytes()).sum(), runs.len() as u64)
    }

    /// Puts keys in; they are durable with the next checkpoint.
    ///
    /// # Errors
    /// The system's; nothing of them is in the index then. After a full disk it can be tried again.
    pub fn insert<'a>(
        &self,
        records: impl Iterator<Item = (Bucket, &'a KeyHash, &'a KeyRecord)>,
    ) -> io::Result<()> {
        let mut sorted: Vec<_> = records.collect();
        sorted.sort_unstable_by_key(|(bucket, hash, _)| (*bucket, *hash));
        let mut work = self.work();
        let mut made = Vec::new();
        for some in sorted.chunk_by(|(one, ..), (other, ..)| one == other) {
            let Some((bucket, ..)) = some.first() else { continue };
            let entries = some.iter().map(|(_, hash, record)| Entry::new(**hash, record));
            match self.make(&mut work, *bucket, some.len(), entries) {
                Ok(run) => made.push(Arc::new(run)),
                Err(error) => {
                    made.iter().for_each(|run| self.undo(&mut work, run.number, &error));
                    return Err(error);
                }
            }
        }
        self.exchange(&[], made);
        Ok(())
    }

    fn make(
        &self,
        work: &mut Work,
        bucket: Bucket,
        most: usize,
        mut entries: impl Iterator<Item = Entry>,
    ) -> io::Result<Run> {
        let number = work.take_number();
        let made = RunWriter::create(&*self.files, &self.dir, number, bucket, most as u64)
            .and_then(|mut writer| entries.try_for_each(|entry| writer.push(&entry)).map(|()| writer))
            .and_then(RunWriter::finish);
        made.inspect_err(|error| self.undo(work, number, error))
    }

    /// Gives up a run that is not in use. On a full disk its room is needed at once; otherwise it waits for the others.
    fn undo(&self, work: &mut Work, number: u32, error: &io::Error) {
        if !is_full(error) || self.files.remove(&self.dir.join(run_name(number))).is_err() {
            work.obsolete.push(number);
        }
    }

    /// Takes runs out and puts others in, in one step.
    fn exchange(&self, gone: &[u32], new: Vec<Arc<Run>>) {
        let runs = self.runs.load();
        let kept = runs.iter().filter(|run| !gone.contains(&run.number)).cloned();
        self.runs.store(Arc::new(kept.chain(new).collect()));
    }

    /// Makes the names of all runs durable; gives back the numbers that a checkpoint has to name.
    ///
    /// # Errors
    /// The system's.
    pub fn checkpoint(&self) -> io::Result<Vec<u32>> {
        self.files.sync_dir(&self.dir)?;
        Ok(self.runs.load().iter().map(|run| run.number).collect())
    }

    /// Removes the runs that no checkpoint names any more; called when one is durable.
    ///
    /// # Errors
    /// The system's.
    pub fn remove_obsolete(&self) -> io::Result<()> {
        let mut work = self.work();
        while let Some(number) = work.obsolete.last() {
            match self.files.remove(&self.dir.join(run_name(*number))) {
                // It did not get as far as a file, or was set aside.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
            work.obsolete.pop();
        }
        Ok(())
    }

    /// Removes all runs. Only of an index that no checkpoint names.
    ///
    /// # Errors
    /// The system's.
    pub fn clear(&self) -> io::Result<()> {
        let gone: Vec<u32> = self.runs.load().iter().map(|run| run.number).collect();
        self.exchange(&gone, Vec::new());
        self.work().obsolete.extend(gone);
        self.remove_obsolete()
    }

    /// Whether there are runs for [`Index::remove_obsolete`].
    pub fn has_obsolete(&self) -> bool {
        !self.work().obsolete.is_empty()
    }

    /// Forgets some of the keys of the buckets before `now`, but for those whose message lives: they move to the next
    /// bucket (I3). Whether there are more.
    ///
    /// # Errors
    /// The system's; `InvalidData` or `UnexpectedEof` when a run is not as it was written, and is set aside. After a
    /// full disk it can be tried again.
    pub fn sweep(&self, now: Bucket, lives: impl Fn(QueueId) -> bool) -> io::Result<bool> {
        let work = &mut *self.work();
        // A clock that was set back meanwhile makes a run count again.
        let Some(mut walk) = work.sweep.take().filter(|walk| walk.run.bucket < now) else {
            let expired = self.runs.load().iter().find(|run| run.bucket < now).cloned();
            let Some(run) = expired else { return Ok(false) };
            work.sweep = Some(Walk::new(&*self.files, &self.dir, run)?);
            return Ok(true);
        };
        let mut living = Vec::new();
        let mut ended = false;
        for _ in 0..STEP {
            let next = walk.next();
            match self.noticed(&walk.run, next)? {
                None => {
                    ended = true;
                    break;
                }
                Some(entry) if lives(self.noticed(&walk.run, entry.record())?.id) => living.push(entry),
                Some(_) => {}
            }
        }
        let next = Bucket(now.0.saturating_add(1));
        let moved = match living.len() {
            0 => Vec::new(),
            some => vec![Arc::new(self.make(work, next, some, living.into_iter())?)],
        };
        if ended {
            self.exchange(&[walk.run.number], moved);
            work.obsolete.push(walk.run.number);
        } else {
            self.exchange(&[], moved);
            work.sweep = Some(walk);
        }
        Ok(true)
    }

    /// Does some of what keeps the runs of the buckets from `now` on few: those of one size become one. Whether there
    /// is more to do. It needs room on the disk for what it makes. `forgotten` says whose key means nothing any more.
    ///
    /// # Errors
    /// As [`Index::sweep`].
    pub fn merge(&self, now: Bucket, forgotten: impl Fn(QueueId) -> bool) -> io::Result<bool> {
        let work = &mut *self.work();
        let Some(mut merge) = work.merge.take() else {
            let Some(inputs) = self.to_merge(now) else { return Ok(false) };
            work.merge = Some(self.begin_merge(work, inputs)?);
            return Ok(true);
        };
        if merge.inputs.iter().any(|run| run.bucket < now) {
            // It has expired meanwhile.
            work.obsolete.push(merge.writer.number());
            return Ok(true);
        }
        for _ in 0..STEP {
            let entry = merge.next(|run, read| self.noticed(run, read), &forgotten);
            let pushed = entry.and_then(|entry| match entry {
                Some(entry) => merge.writer.push(&entry).map(|()| false),
                None => Ok(true),
            });
            match pushed {
                Ok(false) => {}
                Ok(true) => return self.finish_merge(work, merge).map(|()| true),
                Err(error) => {
                    self.undo(work, merge.writer.number(), &error);
                    return Err(error);
                }
            }
        }
        work.merge = Some(merge);
        Ok(true)
    }

    /// The oldest runs of one bucket and about one size, when there are enough of them.
    fn to_merge(&self, now: Bucket) -> Option<Vec<Arc<Run>>> {
        let mut groups: BTreeMap<(Bucket, u32), Vec<Arc<Run>>> = BTreeMap::new();
        for run in self.runs.load().iter().filter(|run| run.bucket >= now) {
            let size = (run.entries / SMALLEST).checked_ilog(FAN_IN as u64).map_or(0, |n| n + 1);
            groups.entry((run.bucket, size)).or_default().push(run.clone());
        }
        groups.into_values().find(|runs| runs.len() >= FAN_IN)
    }

    fn begin_merge(&self, work: &mut Work, inputs: Vec<Arc<Run>>) -> io::Result<Merge> {
        let bucket = inputs.first().map_or(Bucket(0), |run| run.bucket);
        let most = inputs.iter().map(|run| run.entries).sum();
        let mut walks = Vec::with_capacity(inputs.len());
        for run in &inputs {
            let mut walk = Walk::new(&*self.files, &self.dir, run.clone())?;
            let first = self.noticed(run, walk.next())?;
            walks.push((walk, first));
        }
        let number = work.take_number();
        let writer = RunWriter::create(&*self.files, &self.dir, number, bucket, most);
        let writer = writer.inspect_err(|error| self.undo(work, number, error))?;
        Ok(Merge { inputs, walks, writer })
    }

    fn finish_merge(&self, work: &mut Work, merge: Merge) -> io::Result<()> {
        let number = merge.writer.number();
        let run = merge.writer.finish().inspect_err(|error| self.undo(work, number, error))?;
        let gone: Vec<u32> = merge.inputs.iter().map(|run| run.number).collect();
        self.exchange(&gone, vec![Arc::new(run)]);
        work.obsolete.extend(gone);
        Ok(())
    }

    fn noticed<T>(&self, run: &Run, read: io::Result<T>) -> io::Result<T> {
        read.inspect_err(|error| self.set_aside(run.number, error))
    }

    /// A damaged run gets another name: the next start then misses it, and makes the index again.
    fn set_aside(&self, number: u32, error: &io::Error) {
        if !is_damage(error) {
            return;
        }
        let path = self.dir.join(run_name(number));
        tracing::error!(path = %path.display(), %error, "a run of the index is damaged and set aside");
        if let Err(error) = self.files.rename(&path, &path.with_extension("run.damaged")) {
            tracing::error!(path = %path.display(), %error, "it could not be set aside");
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file is not as it was written, or cannot be read at all: then it has to be made again.
pub fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

impl Work {
    fn take_number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        number
    }
}

impl Merge {
    /// The next key of all inputs. Of several records of one key the one that expires last is kept: a key is taken
    /// again only after it expired, or after it was forgotten.
    fn next(
        &mut self,
        noticed: impl Fn(&Run, io::Result<Option<Entry>>) -> io::Result<Option<Entry>>,
        forgotten: &impl Fn(QueueId) -> bool,
    ) -> io::Result<Option<Entry>> {
        let least = self.walks.iter().filter_map(|(_, entry)| entry.map(|e| e.hash)).min();
        let Some(hash) = least else { return Ok(None) };
        let mut newest: Option<Entry> = None;
        for (walk, head) in &mut self.walks {
            let Some(entry) = head.filter(|entry| entry.hash == hash) else { continue };
            newest = Some(match newest {
                Some(other) if rank(&other, forgotten)? > rank(&entry, forgotten)? => other,
                _ => entry,
            });
            let next = walk.next();
            *head = noticed(&walk.run, next)?;
        }
        Ok(newest)
    }
}

fn rank(
    entry: &Entry,
    forgotten: &impl Fn(QueueId) -> bool,
) -> io::Result<(bool, crate::clock::Timestamp, crate::clock::Timestamp)> {
    entry.record().map(|record| (!forgotten(record.id), record.expires_at, record.accepted_at))
}
