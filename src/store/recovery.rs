//! From what is on the disk to a store that works (D4).
//!
//! Only whole, checksummed records count. A torn tail of the newest segment is cut off; every other range of bytes that
//! is no record is copied to `damaged/` and reported; on a full disk it is reported and copied later. The index is used
//! when it opens and belongs to the checkpoint, and made again from the whole journal when not. Nothing of an earlier run
//! is written to again, but for that cut.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::embedded::{OpenError, Options};
use super::files::{Files, is_full};
use super::journal::{Journal, list_segments, segment_name};
use super::replay::Replay;
use super::shared::Shared;
use super::{LeftInPlace, Recovered, reserve};
use crate::clock::Clock;

/// Between two tries to get the lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);

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
    /// Damaged bytes that stay where they are until there is room to set them aside.
    pub left_in_place: Vec<LeftInPlace>,
    /// Segments that should be there and are not; of many in a row the first hundred.
    pub missing_segments: Vec<u32>,
    /// The index was made again from the whole journal.
    pub index_rebuilt: bool,
    /// By the clock.
    pub took: Duration,
}

impl Recovery {
    /// Whether nothing was damaged and nothing missing.
    pub fn is_sound(&self) -> bool {
        self.set_aside.is_empty() && self.left_in_place.is_empty() && self.missing_segments.is_empty()
    }
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
        for left in &self.left_in_place {
            write!(f, "; DAMAGED, and no room to set it aside yet: {left}")?;
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
    files.create_dir(&journal_dir).map_err(OpenError::at(&journal_dir))?;
    sync_above(&*files, &dir)?;
    let lock = take_lock(&*files, &dir, options.lock_wait)?;

    let segments = list_segments(&*files, &journal_dir).map_err(OpenError::at(&journal_dir))?;
    if let Some(newest) = segments.last() {
        let path = journal_dir.join(segment_name(*newest));
        settle_newest(&*files, &journal_dir, &path).map_err(OpenError::at(&path))?;
    }
    let mut replay = Replay::new(&*files, &dir, segments);
    let checkpoint = replay.read_checkpoint()?;
    let (index, checkpoint) = replay.open_index(&files, checkpoint)?;
    let checkpointed = checkpoint.as_ref().map_or((0, 0), |c| c.position);
    let mark = replay.find_mark()?;
    replay.recovery.index_rebuilt = checkpoint.is_none() && !replay.segments.is_empty();
    replay.run(&index, mark, checkpoint)?;

    let newest = replay.segments.last().copied().unwrap_or(0).max(checkpointed.0);
    let start = || {
        Journal::start(
            files.clone(),
            journal_dir.clone(),
            mark,
            options.segment_bytes,
            newest.saturating_add(1),
        )
    };
    let journal = match start() {
        // What is queued can still end, and so make room.
        Err(error) if is_full(&error) && reserve::give_up(&*files, &dir).map_err(OpenError::at(&dir))? => {
            start()
        }
        other => other,
    };
    let journal = journal.map_err(OpenError::at(&journal_dir))?;
    reserve::keep(&*files, &dir).map_err(OpenError::at(&dir))?;
    files.sync_dir(&dir).map_err(OpenError::at(&dir))?;

    let Replay { mut state, mut recovery, .. } = replay;
    state.position = journal.position();
    state.left_in_place.clone_from(&recovery.left_in_place);
    state.ledger.segments.entry(state.position.0).or_default().bytes = state.position.1;
    recovery.took = clock.now().since(started);
    let shared = Shared::new(options, files, clock, mark, index, state);
    Ok(Opened { shared, journal, recovery, checkpointed, lock })
}

/// The names inside the data directory are synced later; its own name, and those above, stand in the directories above,
/// which whoever made it need not have lived to sync (D1).
fn sync_above(files: &dyn Files, dir: &Path) -> Result<(), OpenError> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem};
    for above in dir.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match files.sync_dir(above) {
            // It was there before us: we could not have made anything in it.
            Err(error) if matches!(error.kind(), PermissionDenied | InvalidInput | ReadOnlyFilesystem) => {}
            other => other.map_err(OpenError::at(above))?,
        }
    }
    Ok(())
}

/// The last write of an earlier run may have been killed before its sync, or its sync has failed: what is read from here
/// on is on the disk, so that no replay is answered for a record that a power cut could still take back (D1, D3).
/// Its name becomes durable before there is a next one, which would make it look lost.
fn settle_newest(files: &dyn Files, dir: &Path, path: &Path) -> io::Result<()> {
    let file = files.open(path)?;
    file.sync_data()?;
    file.drop_cache()?;
    files.sync_dir(dir)
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
