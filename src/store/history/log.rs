//! The segments of a history: one that is written to, those before it, and when they go.
//!
//! A failure stops the writing for a while and is said in the log; what comes meanwhile is dropped and counted.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Options;
use super::record::{self, Next};
use super::segment::{Entry, HEADER, Scanned, Segment, Span, header, index_name, scan, segment_name};
use crate::clock::{Clock, Timestamp};
use crate::mail::QueueId;
use crate::store::codec::Reader;
use crate::store::files::{Files, StoreFile};

/// All segments take about this many times what one takes.
const SEGMENTS: u64 = 32;
/// No segment is smaller, or larger, bytes.
const SEGMENT_BYTES: (u64, u64) = (64 << 10, 64 << 20);
/// A segment ends with this many records: where they stand is in memory until then (S2).
const MOST_ENTRIES: usize = 512 << 10;
/// A segment ends when its first record has been kept for this part of the time that it is to be kept: so long may the
/// last of it outstay that time.
const AGES: u32 = 24;
/// After a failure nothing is written for so long.
const RETRY: Duration = Duration::from_secs(60);

/// What anybody may look at without waiting for a write.
#[derive(Default)]
pub struct Counts {
    pub records: AtomicU64,
    pub dropped: AtomicU64,
    pub bytes: AtomicU64,
    pub segments: AtomicU64,
    /// Milliseconds; `u64::MAX` for none.
    pub oldest: AtomicU64,
}

/// See the module.
pub struct Log {
    files: Arc<dyn Files>,
    dir: PathBuf,
    clock: Clock,
    options: Options,
    counts: Arc<Counts>,
    /// Oldest first.
    sealed: Vec<Arc<Segment>>,
    open: Option<Open>,
    next_number: u32,
    failed_at: Option<Timestamp>,
    /// An empty buffer for the records to come: its memory was asked for already.
    pub spare: Vec<u8>,
}

/// The segment that is written to.
struct Open {
    number: u32,
    file: Arc<dyn StoreFile>,
    written: u64,
    entries: Vec<Entry>,
    span: Span,
}

/// What can be read, as it stands at one moment.
pub struct View {
    pub sealed: Vec<Arc<Segment>>,
    /// The number of the segment being written, how many bytes of it are, and the records that were asked for.
    pub open: Option<(u32, u64, Vec<Entry>)>,
}

impl Log {
    /// Reads what is there, and repairs it (D4). What cannot be read or repaired now, as on a full disk, is left for the
    /// next start: mail does not wait for it. When not even the directory can be read, nothing is written to it either.
    pub fn open(
        files: Arc<dyn Files>,
        dir: PathBuf,
        options: Options,
        clock: Clock,
        counts: Arc<Counts>,
    ) -> Self {
        // Without the names that are there, no number is known to be free.
        let (names, first) = match files.list(&dir) {
            Ok(names) => (names, 1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), 1),
            Err(error) => {
                tracing::error!(path = %dir.display(), %error,
                    "the history cannot be read; it is left as it is until the next start");
                (Vec::new(), u32::MAX)
            }
        };
        let mut log = Self {
            files,
            dir: dir.clone(),
            clock,
            options,
            counts,
            sealed: Vec::new(),
            open: None,
            next_number: 1,
            failed_at: None,
            spare: Vec::new(),
        };
        let mut numbers: Vec<u32> =
            names.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
        numbers.sort_unstable();
        // No number is used twice, not even that of a file which is left over.
        log.next_number =
            names.iter().filter_map(|name| number_of(name)).max().map_or(first, |n| n.saturating_add(1));
        log.remove_left_over(&names, &numbers);
        for number in &numbers {
            let is_newest = numbers.last() == Some(number);
            if let Err(error) = log.take_in(*number, is_newest) {
                let path = dir.join(segment_name(*number));
                tracing::error!(path = %path.display(), %error,
                    "a segment of the history cannot be read; it is left as it is until the next start");
            }
        }
        log.keep_what_is_to_be_kept();
        log
    }

    /// What a removal or a segment's completion that broke off has left.
    fn remove_left_over(&self, names: &[String], numbers: &[u32]) {
        let is_left_over = |name: &&String| {
            let has_segment = || number_of(name).is_some_and(|number| numbers.binary_search(&number).is_ok());
            name.ends_with(".idx.new") || (name.ends_with(".idx") && !has_segment())
        };
        names.iter().filter(is_left_over).for_each(|name| self.remove_file(name));
    }

    fn take_in(&mut self, number: u32, is_newest: bool) -> io::Result<()> {
        use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
        let has_no_index = match Segment::open(&*self.files, &self.dir, number) {
            Ok(segment) => {
                self.sealed.push(Arc::new(segment));
                return Ok(());
            }
            Err(error) if error.kind() == NotFound => true,
            Err(error) if matches!(error.kind(), InvalidData | UnexpectedEof) => false,
            Err(error) => return Err(error),
        };
        let path = self.dir.join(segment_name(number));
        let Some(scanned) = scan(&*self.files, &self.dir, number)? else {
            return self.give_up(&path);
        };
        let Scanned { mut entries, span, data_len, damage, torn } = scanned;
        let file = self.files.open(&path)?;
        for (offset, len) in damage {
            self.set_aside(&*file, number, offset, len)?;
        }
        if is_newest && has_no_index {
            if file.size()? > data_len {
                tracing::info!(bytes = torn, "the history ended within a record, which was cut off");
                file.truncate(data_len)?;
            }
            self.open = Some(Open { number, file, written: data_len, entries, span });
        } else {
            let segment = Segment::write(&*self.files, &self.dir, number, data_len, span, &mut entries)?;
            self.sealed.push(Arc::new(segment));
        }
        Ok(())
    }

    /// A file that does not begin as a segment: it was being made, or is none.
    fn give_up(&self, path: &Path) -> io::Result<()> {
        if self.files.open(path)?.size()? <= HEADER as u64 {
            return self.files.remove(path);
        }
        tracing::error!(path = %path.display(), "a segment of the history is damaged and set aside");
        self.files.rename(path, &path.with_extension("damaged"))
    }

    fn set_aside(&self, file: &dyn StoreFile, number: u32, offset: u64, len: u64) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_at(offset, &mut bytes)?;
        let path = self.dir.join(format!("{number:08}.{offset}.damaged"));
        tracing::error!(path = %path.display(), bytes = len, "a part of the history is damaged and set aside");
        let aside = self.files.create(&path)?;
        aside.write_at(0, &[IoSlice::new(&bytes)])?;
        aside.sync_data()
    }

    /// Changes how much is kept, and for how long.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
        self.keep_what_is_to_be_kept();
    }

    fn keep_what_is_to_be_kept(&mut self) {
        self.go_on();
        if !self.options.is_on() {
            self.remove_set_aside(u32::MAX);
        }
    }

    /// Writes records, framed, one after the other; those that cannot be are counted.
    pub fn append(&mut self, mut records: &[u8]) {
        while !records.is_empty() {
            if self.has_just_failed() {
                return self.drop_all(records);
            }
            match self.append_some(records) {
                Ok(written) => {
                    records = records.get(written..).unwrap_or_default();
                    if self.failed_at.take().is_some() {
                        tracing::info!("the history is written again");
                    }
                }
                Err(error) => {
                    if self.failed_at.is_none() {
                        tracing::error!(%error, "the history cannot be written; what ends meanwhile is not in it");
                    }
                    self.failed_at = Some(self.clock.now());
                }
            }
        }
    }

    /// Whether nothing is to be written for now. A clock that was set back must not make that last.
    fn has_just_failed(&self) -> bool {
        let now = self.clock.now().as_millis();
        self.failed_at.is_some_and(|at| u128::from(now.abs_diff(at.as_millis())) < RETRY.as_millis())
    }

    /// Writes as much as belongs into one segment; how many bytes.
    fn append_some(&mut self, records: &[u8]) -> io::Result<usize> {
        let free = self.files.free_space(self.dir.parent().unwrap_or(&self.dir))?;
        if free < self.options.min_free {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("{free} bytes are free")));
        }
        let segment_bytes = self.segment_bytes();
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.create()?,
        };
        let (mut rest, mut entries, mut span, mut taken) = (records, Vec::new(), open.span, 0usize);
        while let Next::Record(body, behind) = record::next(rest) {
            let len = rest.len() - behind.len();
            let is_empty = open.entries.is_empty() && entries.is_empty();
            let is_full = open.written + (taken + len) as u64 > segment_bytes
                || open.entries.len() + entries.len() >= MOST_ENTRIES;
            if is_full && !is_empty {
                break;
            }
            if let Ok(head) = record::decode_head(&mut Reader(body)) {
                entries.push(Entry::new(head.id, open.written + taken as u64, head.is_end));
                span.add(head.at);
            }
            taken += len;
            rest = behind;
        }
        if taken == 0 {
            // Full; or these are no records, which would be a mistake of ours.
            let is_full = !open.entries.is_empty();
            self.open = Some(open);
            return if is_full { self.seal().map(|()| 0) } else { Ok(records.len()) };
        }
        // After a failure the same place is written again: what was written of it does not count.
        let written =
            open.file.write_at(open.written, &[IoSlice::new(records.get(..taken).unwrap_or_default())]);
        if written.is_ok() {
            self.counts.records.fetch_add(entries.len() as u64, Ordering::Relaxed);
            open.written += taken as u64;
            open.span = span;
            open.entries.extend(entries);
        }
        self.open = Some(open);
        written.map(|()| taken)
    }

    fn create(&mut self) -> io::Result<Open> {
        self.files.create_dir(&self.dir)?;
        let number = self.next_number;
        self.next_number = number.checked_add(1).ok_or_else(|| io::Error::other("no number is left"))?;
        let name = segment_name(number);
        let file = self.files.create(&self.dir.join(&name))?;
        // A disk that stays full must not collect empty files.
        file.write_at(0, &[IoSlice::new(&header(number))]).inspect_err(|_| self.remove_file(&name))?;
        Ok(Open { number, file, written: HEADER as u64, entries: Vec::new(), span: Span::default() })
    }

    /// Completes the segment that is written to.
    fn seal(&mut self) -> io::Result<()> {
        let Some(open) = self.open.as_mut().filter(|open| !open.entries.is_empty()) else { return Ok(()) };
        open.file.sync_data()?;
        let (number, written, span) = (open.number, open.written, open.span);
        let segment = Segment::write(&*self.files, &self.dir, number, written, span, &mut open.entries)?;
        self.sealed.push(Arc::new(segment));
        self.open = None;
        Ok(())
    }

    /// Makes durable what was written.
    pub fn close(&mut self) {
        if let Some(open) = &self.open
            && let Err(error) = open.file.sync_data()
        {
            tracing::warn!(%error, "the end of the history could not be synced");
        }
    }

    /// Does what time brings: the oldest segments go.
    pub fn go_on(&mut self) {
        // What is deleted goes by a clock that nobody has just set forward.
        let (now, retention) = (self.clock.settled(), self.options.retention);
        let is_off = !self.options.is_on();
        if let Some(open) = self.open.take_if(|_| is_off) {
            self.remove(open.number);
        }
        let first = self.open.as_ref().map_or(Timestamp::MAX, |open| open.span.first);
        if self.clock.now().since(first) >= retention / AGES
            && !self.has_just_failed()
            && let Err(error) = self.seal()
        {
            tracing::error!(%error, "a segment of the history could not be completed");
            self.failed_at = Some(now);
        }
        let mut bytes = self.bytes();
        let mut gone = Vec::new();
        let mut ends = self.ends(now).into_iter();
        self.sealed.retain(|segment| {
            let end = ends.next().unwrap_or(segment.span.last);
            let goes = is_off || now.since(end) >= retention || bytes > self.options.max_bytes;
            if goes {
                bytes = bytes.saturating_sub(segment.bytes());
                gone.push(segment.number);
            }
            !goes
        });
        gone.iter().for_each(|number| self.remove(*number));
        if let Some(number) = gone.last() {
            self.remove_set_aside(*number);
        }
        let oldest = self.sealed.iter().map(|segment| segment.span.first).min().unwrap_or(Timestamp::MAX);
        let first = self.open.as_ref().map_or(Timestamp::MAX, |open| open.span.first);
        let segments = self.sealed.len() + usize::from(self.open.is_some());
        self.counts.bytes.store(self.bytes(), Ordering::Relaxed);
        self.counts.segments.store(segments as u64, Ordering::Relaxed);
        self.counts.oldest.store(oldest.min(first).as_millis(), Ordering::Relaxed);
    }

    /// When each complete segment ended. One from a time that has not come, as the clock was ahead, ended before the one
    /// behind it: else what is in it would be kept for as much longer.
    fn ends(&self, now: Timestamp) -> Vec<Timestamp> {
        let mut behind = now;
        let mut ends: Vec<_> = self
            .sealed
            .iter()
            .rev()
            .map(|segment| {
                let last = segment.span.last;
                behind = if last > now { behind } else { last };
                behind
            })
            .collect();
        ends.reverse();
        ends
    }

    /// Removes a segment.
    fn remove(&self, number: u32) {
        // The records first: an index without them means nothing.
        self.remove_file(&segment_name(number));
        self.remove_file(&index_name(number));
    }

    /// Removes what was set aside of segments up to this one: it is to be kept no longer than they are.
    fn remove_set_aside(&self, up_to: u32) {
        let names = self.files.list(&self.dir).unwrap_or_default();
        let is_old = |name: &&String| {
            name.ends_with(".damaged") && number_of(name).is_some_and(|number| number <= up_to)
        };
        names.iter().filter(is_old).for_each(|name| self.remove_file(name));
    }

    fn remove_file(&self, name: &str) {
        let path = self.dir.join(name);
        match self.files.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a part of the history could not be removed");
            }
            _ => {}
        }
    }

    fn bytes(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, |open| open.written);
        self.sealed.iter().map(|segment| segment.bytes()).sum::<u64>() + open
    }

    fn segment_bytes(&self) -> u64 {
        (self.options.max_bytes / SEGMENTS).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1)
    }

    fn drop_all(&self, mut records: &[u8]) {
        let mut count = 0;
        while let Next::Record(_, behind) = record::next(records) {
            count += 1;
            records = behind;
        }
        self.counts.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// What can be read, with the records of the open segment that `wanted` picks.
    pub fn view(&self, wanted: impl Fn(&Entry) -> bool) -> View {
        let open = self.open.as_ref().map(|open| {
            let entries = open.entries.iter().filter(|entry| wanted(entry)).copied().collect();
            (open.number, open.written, entries)
        });
        View { sealed: self.sealed.clone(), open }
    }

    /// As [`Log::view`], the records of one message.
    pub fn view_of(&self, id: QueueId) -> View {
        self.view(|entry| entry.id == id)
    }
}

/// Which segment a file belongs to, by its name.
fn number_of(name: &str) -> Option<u32> {
    name.split('.').next()?.parse().ok()
}
