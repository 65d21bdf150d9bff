//! Room that is kept back: a file of a few megabytes that is given up when the disk is full, so that outcomes can still
//! be written and messages finished, and made again when there is room.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{Files, is_full};
use super::shared::Shared;

/// Bytes kept back.
pub const RESERVE: u64 = 4 << 20;
/// Bytes of it that a start may use for copies of damaged bytes; the rest is for the journal, and so for outcomes.
pub const FOR_DAMAGE: u64 = RESERVE / 4;

fn path(dir: &Path) -> PathBuf {
    dir.join("reserve")
}

/// Keeps room back, if there is any.
///
/// # Errors
/// The system's, but for a full disk.
pub fn keep(files: &dyn Files, dir: &Path) -> io::Result<()> {
    let path = path(dir);
    if files.list(dir)?.iter().any(|name| name == "reserve") {
        return Ok(());
    }
    match files.create(&path).and_then(|file| file.allocate(RESERVE)) {
        Err(error) if is_full(&error) => match files.remove(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        },
        other => other,
    }
}

/// Gives the room up; false when there was none.
///
/// # Errors
/// The system's.
pub fn release(shared: &Shared) -> io::Result<bool> {
    give_up(&*shared.files, &shared.options.data_dir)
}

/// The same for the data directory `dir`.
///
/// # Errors
/// The system's.
pub fn give_up(files: &dyn Files, dir: &Path) -> io::Result<bool> {
    match files.remove(&path(dir)) {
        Ok(()) => {
            tracing::warn!("the disk is full: the room that was kept back is used for outcomes");
            files.sync_dir(dir)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
