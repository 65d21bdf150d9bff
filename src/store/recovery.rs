//! From what is on the disk to a store that works (D4).
//!
//! Only whole, checksummed records count. A torn tail of the newest segment is cut off; every other range of bytes that
//! is no record is copied to `damaged/` and reported. The index is used when it opens and belongs to the checkpoint,
//! and made again from the whole journal when not. Nothing of an earlier run is written to again, but for that cut.

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::embedded::{OpenError, Options};
use super::files::{Files, is_full};
use super::journal::{Journal, list_segments, segment_name};
use super::replay::Replay;
use super::shared::Shared;
use super::{Recovered, reserve};
use crate::clock::Clock;

/// Between two tries to get the lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// A segment for which a disk that is all but full has room, bytes.
const SMALL_SEGMENT: u64 = 1 << 20;

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

    let segments = list_segments(&*files, &journal_dir).map_err(OpenError::at(&journal_dir))?;
    let mut replay = Replay::new(&*files, &dir, segments);
    let checkpoint = replay.read_checkpoint()?;
    let (index, checkpoint) = replay.open_index(&files, checkpoint)?;
    let checkpointed = checkpoint.as_ref().map_or((0, 0), |c| c.position);
    let mark = replay.find_mark()?;
    replay.recovery.index_rebuilt = checkpoint.is_none() && !replay.segments.is_empty();
    replay.run(&index, mark, checkpoint)?;

    let newest = replay.segments.last().copied().unwrap_or(0).max(checkpointed.0);
    let start = |bytes| Journal::start(files.clone(), journal_dir.clone(), mark, bytes, newest + 1);
    let journal = match start(options.segment_bytes) {
        // What is queued can only make room by being relayed, and for that the store has to be open.
        Err(error) if is_full(&error) => {
            tracing::warn!("the disk is full: the room that was kept back is used to start");
            reserve::give_up(&*files, &dir).map_err(OpenError::at(&dir))?;
            start(SMALL_SEGMENT.min(options.segment_bytes))
        }
        other => other,
    };
    let journal = journal.map_err(OpenError::at(&journal_dir))?;
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
