//! Bytes that are no record any more are kept, in `damaged/`, under a name that tells where they stood (D4).

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::files::{Files, StoreFile, is_full};
use super::journal::segment_name;

/// Damaged bytes for whose copy there was no room. They are in their segment, which stays until they have been copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeftInPlace {
    /// The segment's number.
    pub segment: u32,
    /// Where they begin.
    pub offset: u64,
    /// How many they are.
    pub len: u64,
}

impl fmt::Display for LeftInPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {} of {}", self.len, self.offset, segment_name(self.segment))
    }
}

/// Bytes copied at a time.
const CHUNK: u64 = 1 << 20;

/// Copies a range of a segment into a file of its own, durably; gives back the file's path. Nothing happens when it is
/// there already.
///
/// # Errors
/// The system's.
pub fn set_aside(
    files: &dyn Files,
    data_dir: &Path,
    segment: &dyn StoreFile,
    number: u32,
    offset: u64,
    len: u64,
) -> io::Result<PathBuf> {
    let dir = data_dir.join("damaged");
    let name = format!("{number:08}-{offset:010}-{len}.bin");
    let path = dir.join(&name);
    files.create_dir(&dir)?;
    if files.list(&dir)?.contains(&name) {
        // Whoever wrote it may have ended before its name was durable, and the segment may go soon.
        let synced = files.sync_dir(&dir).and_then(|()| files.sync_dir(data_dir));
        return synced.map(|()| path).map_err(not_full);
    }
    // Under its name only when it is whole.
    let new = dir.join("new");
    let file = files.create(&new)?;
    if let Err(error) = copy(segment, offset, len, &*file) {
        if is_full(&error) {
            // What room there is belongs to outcomes.
            files.remove(&new).map_err(not_full)?;
        }
        return Err(error);
    }
    let make_durable = || {
        file.sync_data()?;
        files.rename(&new, &path)?;
        files.sync_dir(&dir)?;
        files.sync_dir(data_dir)
    };
    make_durable().map_err(not_full)?;
    tracing::error!(path = %path.display(), bytes = len, "damaged bytes of the journal were set aside");
    Ok(path)
}

fn copy(from: &dyn StoreFile, offset: u64, len: u64, to: &dyn StoreFile) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let mut buffer = vec![0; usize::try_from((len - done).min(CHUNK)).unwrap_or_default()];
        from.read_at(offset + done, &mut buffer)?;
        to.write_at(done, &[IoSlice::new(&buffer)])?;
        done += buffer.len() as u64;
    }
    Ok(())
}

/// A failed sync must not look like a full disk that was dealt with (D3).
fn not_full(error: io::Error) -> io::Error {
    io::Error::other(error.to_string())
}
