//! Bytes that are no record any more are kept, in `damaged/`, under a name that tells where they stood (D4).

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::files::{Files, StoreFile};

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
        return synced.map(|()| path).map_err(|error| io::Error::other(error.to_string()));
    }
    // Under its name only when it is whole.
    let new = dir.join("new");
    let copy = files.create(&new)?;
    let mut done = 0;
    while done < len {
        let mut buffer = vec![0; usize::try_from((len - done).min(CHUNK)).unwrap_or_default()];
        segment.read_at(offset + done, &mut buffer)?;
        copy.write_at(done, &[IoSlice::new(&buffer)])?;
        done += buffer.len() as u64;
    }
    // A failed sync must not look like a full disk that was dealt with (D3).
    let make_durable = || {
        copy.sync_data()?;
        files.rename(&new, &path)?;
        files.sync_dir(&dir)?;
        files.sync_dir(data_dir)
    };
    make_durable().map_err(|error| io::Error::other(error.to_string()))?;
    tracing::error!(path = %path.display(), bytes = len, "damaged bytes of the journal were set aside");
    Ok(path)
}
