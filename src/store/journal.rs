//! The journal's files: numbered segments, written at one end, removed at the other.
//!
//! Nothing is ever written into a segment of an earlier run, nor into one whose write has failed. What is written here
//! is durable only when [`Journal::commit`] has come back without an error.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Files, StoreFile, is_full};
use super::record::{Encoded, Mark, Place, SEGMENT_HEADER, segment_header};

/// With one record of the greatest length behind it, offsets still fit 32 bits.
const MAX_SEGMENT: u64 = 2 << 30;

/// No segment has a greater number. A journal needs one for each segment's worth of mail and one for each start, and does
/// not get here; a name that is further on is a stranger's.
const LAST: u32 = u32::MAX / 2;

/// The writing end.
pub struct Journal {
    files: Arc<dyn Files>,
    dir: PathBuf,
    mark: Mark,
    segment_bytes: u64,
    segment: u32,
    file: Arc<dyn StoreFile>,
    written: u64,
}

/// The file name of a segment.
pub fn segment_name(segment: u32) -> String {
    format!("{segment:08}.seg")
}

/// The numbers of the segments in a directory, ascending. What only looks like a segment is left alone.
///
/// # Errors
/// The system's.
pub fn list_segments(files: &dyn Files, dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for name in files.list(dir)?.iter().filter(|name| name.ends_with(".seg")) {
        match segment_number(name) {
            Some(number) => numbers.push(number),
            None => {
                tracing::warn!(path = %dir.join(name).display(), "no segment of a journal has such a name")
            }
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The number of a segment, of which this is the name and no other way to write it.
fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    Some(number).filter(|number| (1..=LAST).contains(number) && segment_name(*number) == name)
}

impl Journal {
    /// Starts a new segment to write to.
    ///
    /// # Errors
    /// The system's.
    pub fn start(
        files: Arc<dyn Files>,
        dir: PathBuf,
        mark: Mark,
        segment_bytes: u64,
        segment: u32,
    ) -> io::Result<Self> {
        let segment_bytes = segment_bytes.min(MAX_SEGMENT);
        let file = match create_segment(&*files, &dir, mark, segment_bytes, segment) {
            // A start must not need room for a whole segment: this one grows with its records.
            Err(error) if is_full(&error) => create_segment(&*files, &dir, mark, 0, segment)?,
            other => other?,
        };
        Ok(Self { files, dir, mark, segment_bytes, segment, file, written: SEGMENT_HEADER as u64 })
    }

    /// The segment being written, and how many bytes of it are.
    pub fn position(&self) -> (u32, u64) {
        (self.segment, self.written)
    }

    /// Whether `len` more bytes belong into a new segment.
    pub fn is_full_for(&self, len: u64) -> bool {
        self.written > SEGMENT_HEADER as u64 && self.written + len > self.segment_bytes
    }

    /// Goes on in a new segment. The old one gives back the room that it does not need.
    ///
    /// # Errors
    /// The system's. After `StorageFull` the old segment is still the one being written, and nothing is left of the
    /// new one; after any other error the journal must not be used again (D3).
    pub fn roll(&mut self) -> io::Result<()> {
        self.go_on_in_one_of(self.segment_bytes)
    }

    /// The same where there is no room for a whole segment: the new one grows with its records.
    ///
    /// # Errors
    /// As of [`Journal::roll`].
    pub fn roll_on_a_full_disk(&mut self) -> io::Result<()> {
        self.go_on_in_one_of(0)
    }

    fn go_on_in_one_of(&mut self, set_aside: u64) -> io::Result<()> {
        let next = self.segment + 1;
        match create_segment(&*self.files, &self.dir, self.mark, set_aside, next) {
            Ok(file) => {
                self.file.truncate(self.written).map_err(not_full)?;
                (self.segment, self.file, self.written) = (next, file, SEGMENT_HEADER as u64);
                Ok(())
            }
            Err(error) if is_full(&error) => {
                let path = self.dir.join(segment_name(next));
                match self.files.remove(&path) {
                    // There was no room even for its name.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other.map_err(not_full)?,
                }
                self.files.sync_dir(&self.dir).map_err(not_full)?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes records, one after the other, and makes them durable. One write, one sync.
    ///
    /// # Errors
    /// The system's. After `StorageFull` nothing of them is left, and the journal can be used; after any other error
    /// it must not be (D3).
    pub fn commit(&mut self, records: &mut [&mut Encoded]) -> io::Result<Vec<Place>> {
        let mut places = Vec::with_capacity(records.len());
        let mut slices = Vec::with_capacity(records.len() * 2);
        let mut at = self.written;
        for record in records {
            // Only when no new segment could be made for long: then it is as good as full.
            let too_long = |_| io::Error::new(io::ErrorKind::StorageFull, "a segment longer than 4 GiB");
            let offset = u32::try_from(at).map_err(too_long)?;
            let len = u32::try_from(record.len()).map_err(too_long)?;
            places.push(Place { segment: self.segment, offset, len });
            at += u64::from(len);
            let parts = record.place_at(self.mark, self.segment, offset);
            slices.extend(parts.into_iter().filter(|p| !p.is_empty()).map(IoSlice::new));
        }
        match self.file.write_at(self.written, &slices) {
            Ok(()) => self.file.sync_data().map_err(not_full)?,
            Err(error) if is_full(&error) => {
                // The write did not get as far as a sync: cutting it off undoes it for good.
                self.file.truncate(self.written).map_err(not_full)?;
                self.file.sync_data().map_err(not_full)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        self.written = at;
        Ok(places)
    }
}

/// A failed sync, or a failed step of undoing, must not look like a full disk that was dealt with (D3).
fn not_full(error: io::Error) -> io::Error {
    io::Error::other(error.to_string())
}

/// A segment is there, whole and empty, before anything is written to it; so many bytes of room are set aside for it.
fn create_segment(
    files: &dyn Files,
    dir: &Path,
    mark: Mark,
    segment_bytes: u64,
    segment: u32,
) -> io::Result<Arc<dyn StoreFile>> {
    if segment > LAST {
        return Err(io::Error::other(format!("{} is the last segment", segment_name(LAST))));
    }
    let file = files.create(&dir.join(segment_name(segment)))?;
    if segment_bytes > 0 {
        file.allocate(segment_bytes)?;
    }
    file.write_at(0, &[IoSlice::new(&segment_header(segment, mark))])?;
    file.sync_data().map_err(not_full)?;
    files.sync_dir(dir).map_err(not_full)?;
    Ok(file)
}
