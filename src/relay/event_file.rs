//! The event file: JSON lines, one an event, for whoever reads files.
//!
//! Events that wait at the same time become one write and one sync, and only then are they delivered: what is counted as
//! delivered is on the disk, and after a crash an event may be there twice, with the same id. A line is never left
//! half: what a failed write has begun is cut off again, and what a crash has left is closed with a line end. A disk that
//! is full, or a directory that is gone, makes all of them wait.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::concurrency::Load;
use super::options;
use super::smarthost::Attempt;
use super::transaction::{Answer, By};
use crate::mail::Message;
use crate::queue::End;

/// The file is left alone for this long after it could not be written.
const FAILED_WAIT: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct EventFile {
    name: String,
    /// Lines that nobody writes yet, and whom to tell.
    waiting: Mutex<Vec<(Bytes, oneshot::Sender<bool>)>>,
    writer: Arc<tokio::sync::Mutex<Writer>>,
    /// It could not be written, and is left alone until then.
    blocked: Mutex<Option<Instant>>,
}

/// The one who writes.
struct Writer {
    options: options::EventFile,
    open: Option<Open>,
}

struct Open {
    file: File,
    /// Device and inode: whether it is still the file of that name.
    identity: (u64, u64),
}

impl EventFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn open(options: options::EventFile) -> io::Result<Self> {
        let name = options.path.display().to_string();
        let mut writer = Writer { options, open: None };
        writer.current()?;
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        Ok(Self { name, waiting: Mutex::default(), writer, blocked: Mutex::default() })
    }

    /// When it is tried again, if that is not now.
    pub(super) fn blocked_until(&self) -> Option<Instant> {
        let until = *self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        until.filter(|until| Instant::now() < *until)
    }

    /// Adds one event; `recipients` is how many answers are wanted, which is one.
    pub(super) async fn attempt(&self, event: &Message, recipients: usize) -> Attempt {
        let (told, done) = oneshot::channel();
        self.waiting().push((event.content.clone(), told));
        let mut writer = self.writer.clone().lock_owned().await;
        // Whoever had the lock before may have taken this line along.
        let lines = std::mem::take(&mut *self.waiting());
        if !lines.is_empty() {
            // Goes on when this future is dropped: the others wait for it too.
            let writing = tokio::task::spawn_blocking(move || writer.write(lines));
            if let Err(error) = writing.await {
                tracing::error!(target: "oncemail::events", %error, "writing the event file ended by a panic");
            }
        } else {
            drop(writer);
        }
        if done.await != Ok(true) {
            let until = Instant::now() + FAILED_WAIT;
            *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
            return Attempt::Blocked { until, hosts: Vec::new() };
        }
        let answer = Answer::local(End::Delivered, "2.0.0 written");
        Attempt::Answered {
            by: By::name(self.name.clone()),
            answers: vec![answer; recipients],
            load: Load::Same,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Bytes, oneshot::Sender<bool>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Writes all of them, or none, and says so to each.
    fn write(&mut self, lines: Vec<(Bytes, oneshot::Sender<bool>)>) {
        let mut text = Vec::with_capacity(lines.iter().map(|(line, _)| line.len() + 1).sum());
        for (line, _) in &lines {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        let written = self.append(&text);
        if let Err(error) = &written {
            let file = self.options.path.display();
            tracing::error!(target: "oncemail::events", %file, %error, events = lines.len(),
                "the event file cannot be written; the events wait");
            // What is known of it may be wrong.
            self.open = None;
        }
        for (_, told) in lines {
            // Nobody may wait any more: then the event is written again.
            let _ = told.send(written.is_ok());
        }
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let limit = self.options.size;
        let mut len = self.current()?.file.metadata()?.len();
        let more = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if len > 0 && len.saturating_add(more) > limit {
            self.rotate()?;
            len = self.current()?.file.metadata()?.len();
        }
        let Open { file, .. } = self.current()?;
        let written = file.write_all(text).and_then(|()| file.sync_data());
        if written.is_err() {
            // As far as the disk lets us: the next open closes a line that is left.
            let _ = file.set_len(len);
        }
        written
    }

    /// The file of that name, also when somebody has moved the last one away.
    fn current(&mut self) -> io::Result<&mut Open> {
        let path = &self.options.path;
        let there = match fs::metadata(path) {
            Ok(found) => Some((found.dev(), found.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let open = match self.open.take() {
            Some(open) if Some(open.identity) == there => open,
            _ => Open::new(path, there.is_none())?,
        };
        Ok(self.open.insert(open))
    }

    /// Moves every file on by one; the oldest goes.
    #[expect(
        clippy::disallowed_methods,
        reason = "the event file's own old files: not in the store's directory"
    )]
    fn rotate(&mut self) -> io::Result<()> {
        let Self { options, open } = self;
        *open = None;
        for number in (1..options.count.max(1)).rev() {
            match fs::rename(numbered(&options.path, number), numbered(&options.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&options.path, numbered(&options.path, 1))
    }
}

impl Open {
    fn new(path: &Path, is_new: bool) -> io::Result<Self> {
        // Addresses are private: nobody but us reads what is made here, unless the operator says otherwise.
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let found = file.metadata()?;
        if let Some(last) = found.len().checked_sub(1) {
            let mut octet = [0];
            file.read_exact_at(&mut octet, last)?;
            if octet != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        if is_new {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Self { file, identity: (found.dev(), found.ino()) })
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::{Body, Envelope, Handling, Origin, QueueId, ReversePath};

    fn writer(directory: &Path, size: u64, count: u32) -> Writer {
        Writer {
            options: options::EventFile { path: directory.join("events.jsonl"), size, count },
            open: None,
        }
    }

    fn read(directory: &Path, name: &str) -> Option<String> {
        fs::read_to_string(directory.join(name)).ok()
    }

    #[test]
    fn s2_a_full_file_is_moved_on_and_only_so_many_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path(), 8, 2);
        for line in ["{1}\n", "{2}\n", "{3}\n", "{4}\n", "{5}\n", "{6}\n", "{long-line}\n"] {
            writer.append(line.as_bytes()).unwrap();
        }
        let files = ["events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.3"];
        let found = files.map(|name| read(directory.path(), name));
        let wanted = [Some("{long-line}\n"), Some("{5}\n{6}\n"), Some("{3}\n{4}\n"), None];
        assert_eq!(found, wanted.map(|text| text.map(str::to_owned)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    fn a_file_that_was_moved_away_is_made_anew_and_a_half_line_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = writer(directory.path(), 1000, 2);
        first.append(b"{1}\n").unwrap();
        fs::rename(directory.path().join("events.jsonl"), directory.path().join("taken")).unwrap();
        first.append(b"{2}\n").unwrap();
        assert_eq!(read(directory.path(), "taken").unwrap(), "{1}\n");
        fs::write(directory.path().join("events.jsonl"), "{2}\n{\"half").unwrap();
        let mut after_a_crash = writer(directory.path(), 1000, 2);
        after_a_crash.append(b"{3}\n").unwrap();
        assert_eq!(read(directory.path(), "events.jsonl").unwrap(), "{2}\n{\"half\n{3}\n");
    }

    fn event(number: usize) -> Message {
        Message {
            id: QueueId::new(Timestamp::from_millis(1)),
            accepted_at: Timestamp::from_millis(1),
            envelope: Envelope {
                reverse_path: ReversePath::Null,
                recipients: Vec::new(),
                body: Body::SevenBit,
                smtputf8: false,
                ret: None,
                envid: None,
                handling: Handling::default(),
            },
            origin: Origin::event(),
            key: None,
            message_id: String::new(),
            content: Bytes::from(format!("{{{number}}}")),
        }
    }

    #[tokio::test]
    async fn every_event_that_is_delivered_is_in_the_file_and_without_a_file_none_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = EventFile::open(writer(directory.path(), 1 << 20, 1).options).unwrap();
        let events: Vec<_> = (0..20).map(event).collect();
        let attempts =
            futures_util::future::join_all(events.iter().map(|event| file.attempt(event, 1))).await;
        assert!(attempts.iter().all(|attempt| matches!(attempt, Attempt::Answered { .. })));
        let text = read(directory.path(), "events.jsonl").unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        let mut expected: Vec<_> = (0..20).map(|number| format!("{{{number}}}")).collect();
        lines.sort_unstable();
        expected.sort_unstable();
        assert_eq!(lines, expected);
        assert!(file.blocked_until().is_none());
        // Nothing is delivered, and the file is left alone for a while.
        drop(directory);
        assert!(matches!(file.attempt(&events[0], 1).await, Attempt::Blocked { .. }));
        assert!(file.blocked_until().is_some());
    }

    #[test]
    fn lines_that_wait_together_are_written_together_and_told_only_then() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path(), 1 << 20, 1);
        let (mut told, mut lines) = (Vec::new(), Vec::new());
        for line in ["{1}", "{2}", "{3}"] {
            let (tell, done) = oneshot::channel();
            told.push(done);
            lines.push((Bytes::from(line), tell));
        }
        writer.write(lines);
        assert_eq!(read(directory.path(), "events.jsonl").unwrap(), "{1}\n{2}\n{3}\n");
        assert!(told.iter_mut().all(|done| done.try_recv() == Ok(true)));
    }
}
