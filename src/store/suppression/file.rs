//! The file `suppressed`: a line for each change, read at a start and written by one thread.
//!
//! A line is the CRC32C of what follows in eight hexadecimal digits, a blank, a JSON object, and a line feed. Later lines
//! win. A line that is not whole at the end of the file was torn and is cut off; any other is copied to
//! `suppressed.damaged`. Lines are not synced one by one: a power cut takes back what the system had not written yet,
//! about half a minute. When half of the lines mean nothing any more, the file is written anew beside the old one,
//! synced, and renamed over it.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::list::{Entry, List};
use crate::clock::{Clock, Timestamp};
use crate::store::OpenError;
use crate::store::files::{Files, StoreFile};

const NAME: &str = "suppressed";
const NEW_NAME: &str = "suppressed.new";
const DAMAGED_NAME: &str = "suppressed.damaged";
/// Fewer lines are never too many.
const FEW_LINES: usize = 1024;
/// Bytes read at a time.
const CHUNK: u64 = 1 << 20;
/// No line is longer: an address and a reason, each byte of them escaped.
const MAX_LINE: usize = 8 << 10;
/// After a failure the file is written anew, but not more often than this.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    address: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_zero")]
    since: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    last: u64,
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    reason: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this shape")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The end of the file that is written to.
pub struct Writer {
    files: Arc<dyn Files>,
    dir: PathBuf,
    list: Arc<RwLock<List>>,
    clock: Clock,
    file: Arc<dyn StoreFile>,
    /// Where the next line goes.
    end: u64,
    lines: usize,
    /// When writing failed; the file is not written to any more until a new one has taken its place.
    failed_at: Option<Timestamp>,
}

impl Writer {
    /// Reads the file into `list`, and repairs it.
    ///
    /// # Errors
    /// The system's.
    pub fn open(
        files: Arc<dyn Files>,
        dir: &Path,
        list: Arc<RwLock<List>>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let path = dir.join(NAME);
        let opened = match files.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => files.create(&path),
            other => other,
        };
        let file = opened.map_err(OpenError::at(&path))?;
        let mut writer =
            Self { files, dir: dir.to_owned(), list, clock, file, end: 0, lines: 0, failed_at: None };
        let damaged = writer.read().map_err(OpenError::at(&path))?;
        if damaged || writer.is_wasteful() {
            writer.write_anew().map_err(OpenError::at(&path))?;
        }
        Ok(writer)
    }

    /// Reads all lines, and cuts off a torn one; whether others were damaged.
    fn read(&mut self) -> io::Result<bool> {
        let size = self.file.size()?;
        let now = self.clock.settled();
        let (mut rest, mut at, mut aside) = (Vec::new(), 0, None);
        let list = self.list.clone();
        let mut list = list.write().unwrap_or_else(PoisonError::into_inner);
        while at < size {
            let mut chunk = vec![0; usize::try_from((size - at).min(CHUNK)).unwrap_or_default()];
            self.file.read_at(at, &mut chunk)?;
            at += chunk.len() as u64;
            rest.extend_from_slice(&chunk);
            let lines = memchr::memrchr(b'\n', &rest).map_or(0, |last| last + 1);
            for line in rest.get(..lines).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
                self.lines += 1;
                if apply(&mut list, line, now).is_none() {
                    self.set_aside(&mut aside, line)?;
                }
            }
            self.end += lines as u64;
            rest.drain(..lines);
            // What is longer than any line is none; it is kept without being held in memory.
            if rest.len() > MAX_LINE {
                self.end += rest.len() as u64;
                self.set_aside(&mut aside, &rest)?;
                rest.clear();
            }
        }
        if !rest.is_empty() {
            tracing::info!(bytes = rest.len(), "the suppression list ended within a line, which was cut off");
            self.file.truncate(self.end)?;
        }
        if let Some((copy, bytes)) = &aside {
            copy.sync_data()?;
            let path = self.dir.join(DAMAGED_NAME);
            tracing::error!(path = %path.display(), bytes, "damaged lines of the suppression list were set aside");
        }
        Ok(aside.is_some())
    }

    fn set_aside(&self, aside: &mut Option<(Arc<dyn StoreFile>, u64)>, bytes: &[u8]) -> io::Result<()> {
        let (copy, written) = match aside {
            Some(aside) => aside,
            None => aside.insert((self.files.create(&self.dir.join(DAMAGED_NAME))?, 0)),
        };
        copy.write_at(*written, &[IoSlice::new(bytes)])?;
        *written += bytes.len() as u64;
        Ok(())
    }

    /// Writes what has changed. A failure is said once, and tried again later with a new file.
    pub fn round(&mut self) {
        let changed = self.list_mut().take_changed();
        let now = self.clock.now();
        let done = match (changed, self.failed_at) {
            // A clock that was set back must not make that last.
            (_, Some(failed_at)) if failed_at <= now && now.since(failed_at) < RETRY => return,
            (Some(changed), None) => self.append(&changed),
            _ => self.write_anew(),
        };
        let done = done.and_then(|()| if self.is_wasteful() { self.write_anew() } else { Ok(()) });
        match (done, self.failed_at) {
            (Ok(()), Some(_)) => {
                tracing::info!("the suppression list is written again");
                self.failed_at = None;
            }
            (Err(error), None) => {
                tracing::error!(%error, "the suppression list cannot be written; it is kept in memory");
                self.failed_at = Some(now);
            }
            (Err(_), Some(_)) => self.failed_at = Some(now),
            (Ok(()), None) => {}
        }
    }

    fn append(&mut self, changed: &[Arc<str>]) -> io::Result<()> {
        let now = self.clock.settled();
        let mut bytes = Vec::new();
        {
            let list = self.list();
            changed.iter().for_each(|address| write_line(&mut bytes, address, list.get(address, now)));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_at(self.end, &[IoSlice::new(&bytes)])?;
        self.end += bytes.len() as u64;
        self.lines += changed.len();
        Ok(())
    }

    /// Whether half of the lines, or more, mean nothing any more.
    fn is_wasteful(&self) -> bool {
        self.lines >= FEW_LINES && self.lines / 2 >= self.list().len()
    }

    /// Writes all that lives into a new file, which takes the old one's place. What changes meanwhile is noted and
    /// follows as lines of its own.
    fn write_anew(&mut self) -> io::Result<()> {
        let (new, path) = (self.dir.join(NEW_NAME), self.dir.join(NAME));
        let file = self.files.create(&new)?;
        let now = self.clock.settled();
        let (mut from, mut end, mut lines) = (Some(0), 0, 0);
        while let Some(number) = from {
            let mut bytes = Vec::new();
            from = self.list().part(number, now, |address, entry| {
                lines += 1;
                write_line(&mut bytes, address, Some(entry));
            });
            if let Err(error) = file.write_at(end, &[IoSlice::new(&bytes)]) {
                // Its room may be needed; what it had is in memory and, for the most part, in the old one.
                let _ = self.files.remove(&new);
                return Err(error);
            }
            end += bytes.len() as u64;
        }
        file.sync_data()?;
        self.files.rename(&new, &path)?;
        self.files.sync_dir(&self.dir)?;
        self.file = self.files.open(&path)?;
        (self.end, self.lines) = (end, lines);
        Ok(())
    }

    fn list(&self) -> RwLockReadGuard<'_, List> {
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn list_mut(&self) -> RwLockWriteGuard<'_, List> {
        self.list.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what a line says; `None` when it is not as it was written.
fn apply(list: &mut List, line: &[u8], now: Timestamp) -> Option<()> {
    let (crc, json) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    if crc != format!("{:08x} ", crc32c::crc32c(json)).as_bytes() {
        return None;
    }
    let line: Line<'_> = serde_json::from_slice(json).ok()?;
    if line.removed {
        list.take(&line.address);
        return Some(());
    }
    let [since, last] = [line.since, line.last].map(Timestamp::from_millis);
    list.load(&line.address, since, last, &line.reason, now);
    Some(())
}

fn write_line(out: &mut Vec<u8>, address: &str, entry: Option<&Entry>) {
    let line = Line {
        address: address.into(),
        since: entry.map_or(0, |entry| entry.since.as_millis()),
        last: entry.map_or(0, |entry| entry.last.as_millis()),
        reason: entry.map_or("", |entry| &entry.reason).into(),
        removed: entry.is_none(),
    };
    // Texts and numbers always make JSON.
    let json = serde_json::to_vec(&line).unwrap_or_default();
    out.extend(format!("{:08x} ", crc32c::crc32c(&json)).into_bytes());
    out.extend(json);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::RealFiles;

    #[test]
    fn a_clock_that_was_set_back_after_a_failure_does_not_end_the_writing() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
        let list = Arc::new(RwLock::new(List::new(Duration::from_secs(86_400), 10)));
        let mut writer = Writer::open(Arc::new(RealFiles), dir.path(), list, clock.clone()).unwrap();
        writer.failed_at = Some(clock.now());
        writer.round();
        assert!(writer.failed_at.is_some(), "not at once");
        clock.set(Timestamp::from_millis(1_795_343_400_000 - 86_400_000));
        writer.round();
        assert_eq!(writer.failed_at, None);
    }
}
