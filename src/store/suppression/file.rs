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
    /// `None`: it could not be opened.
    file: Option<Arc<dyn StoreFile>>,
    /// Where the next line goes.
    end: u64,
    lines: usize,
    /// Bytes that are no lines and have not been set aside yet: offset and length.
    damage: Vec<(u64, u64)>,
    /// The file could not be read to its end, and is to be set aside as a whole.
    is_unread: bool,
    /// When writing failed; the file is not written to any more until a new one has taken its place.
    failed_at: Option<Timestamp>,
}

impl Writer {
    /// Reads the file into `list`, and repairs it. What cannot be read or repaired now, as on a full disk, is said in the
    /// log and tried again later: mail does not wait for it.
    pub fn open(files: Arc<dyn Files>, dir: &Path, list: Arc<RwLock<List>>, clock: Clock) -> Self {
        let mut writer = Self {
            files,
            dir: dir.to_owned(),
            list,
            clock,
            file: None,
            end: 0,
            lines: 0,
            damage: Vec::new(),
            is_unread: false,
            failed_at: None,
        };
        if let Err(error) = writer.begin() {
            tracing::error!(%error, "the suppression list cannot be read or repaired; what was read of it counts");
            writer.failed_at = Some(writer.clock.now());
        }
        writer
    }

    fn begin(&mut self) -> io::Result<()> {
        let path = self.dir.join(NAME);
        let file = match self.files.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.files.create(&path)?,
            // Unless it has been read, it is not to be written over.
            other => other.inspect_err(|_| self.is_unread = true)?,
        };
        self.file = Some(file.clone());
        let read = self.read(&*file);
        self.is_unread = read.is_err();
        let torn = read?;
        if torn > 0 {
            tracing::info!(bytes = torn, "the suppression list ended within a line, which was cut off");
            file.truncate(self.end)?;
        }
        if !self.damage.is_empty() || self.is_wasteful() { self.write_anew() } else { Ok(()) }
    }

    /// Reads all lines, and notes those that are damaged; how many bytes of a torn one stand at the end.
    fn read(&mut self, file: &dyn StoreFile) -> io::Result<usize> {
        let size = file.size()?;
        let now = self.clock.settled();
        let (mut rest, mut at) = (Vec::new(), 0);
        let list = self.list.clone();
        let mut list = list.write().unwrap_or_else(PoisonError::into_inner);
        while at < size {
            let mut chunk = vec![0; usize::try_from((size - at).min(CHUNK)).unwrap_or_default()];
            file.read_at(at, &mut chunk)?;
            at += chunk.len() as u64;
            rest.extend_from_slice(&chunk);
            let lines = memchr::memrchr(b'\n', &rest).map_or(0, |last| last + 1);
            for line in rest.get(..lines).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
                self.lines += 1;
                if apply(&mut list, line, now).is_none() {
                    self.note_damage(line.len());
                }
                self.end += line.len() as u64;
            }
            rest.drain(..lines);
            // What is longer than any line is none; it is kept without being held in memory.
            if rest.len() > MAX_LINE {
                self.note_damage(rest.len());
                self.end += rest.len() as u64;
                rest.clear();
            }
        }
        Ok(rest.len())
    }

    /// So many bytes from the end of what has been read are no lines.
    fn note_damage(&mut self, bytes: usize) {
        match self.damage.last_mut() {
            Some((offset, len)) if *offset + *len == self.end => *len += bytes as u64,
            _ => self.damage.push((self.end, bytes as u64)),
        }
    }

    /// Before the file is written anew: what it has that is no line, or all of it when it could not be read.
    fn set_aside(&mut self) -> io::Result<()> {
        let path = self.dir.join(DAMAGED_NAME);
        if self.is_unread {
            match self.files.rename(&self.dir.join(NAME), &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
            tracing::error!(path = %path.display(), "a suppression list that could not be read was set aside");
            self.is_unread = false;
            self.damage.clear();
        }
        let Some(file) = self.file.as_ref().filter(|_| !self.damage.is_empty()) else { return Ok(()) };
        let copy = self.files.create(&path)?;
        let mut written = 0;
        for (offset, len) in &self.damage {
            let mut done = 0;
            while done < *len {
                let mut bytes = vec![0; usize::try_from((len - done).min(CHUNK)).unwrap_or_default()];
                file.read_at(offset + done, &mut bytes)?;
                copy.write_at(written, &[IoSlice::new(&bytes)])?;
                done += bytes.len() as u64;
                written += bytes.len() as u64;
            }
        }
        copy.sync_data()?;
        tracing::error!(path = %path.display(), bytes = written, "damaged lines of the suppression list were set aside");
        self.damage.clear();
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
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_at(self.end, &[IoSlice::new(&bytes)])?;
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
        self.set_aside()?;
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
        self.file = Some(self.files.open(&path)?);
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
        let mut writer = Writer::open(Arc::new(RealFiles), dir.path(), list, clock.clone());
        writer.failed_at = Some(clock.now());
        writer.round();
        assert!(writer.failed_at.is_some(), "not at once");
        clock.set(Timestamp::from_millis(1_795_343_400_000 - 86_400_000));
        writer.round();
        assert_eq!(writer.failed_at, None);
    }
}
