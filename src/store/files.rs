//! Every file operation of the store, behind one seam, so that a test can make each of them fail or rebuild the
//! directory as a power cut would have left it.
//!
//! [`RealFiles`] is the only code of the store that writes files. It never retries a failed sync (D3): a second fsync
//! may report success for pages that were thrown away.

use std::any::Any;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, statvfs};

/// Most slices in one system call (`IOV_MAX` on Linux).
const MAX_SLICES: usize = 1024;

/// Times that a file is tried again when no descriptor is left …
const DESCRIPTOR_TRIES: u32 = 50;
/// … and how long to wait in between.
const DESCRIPTOR_WAIT: Duration = Duration::from_millis(100);

/// The operations on names.
pub trait Files: Send + Sync {
    /// Makes a directory and those above it, for its owner only; nothing happens when it is there.
    ///
    /// # Errors
    /// The system's.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes a new file for reading and writing, for its owner only; what had the name before is emptied.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>>;

    /// Gives a file another name; what had that name is replaced in one step.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Bytes that an ordinary user may still write there.
    ///
    /// # Errors
    /// The system's.
    fn free_space(&self, path: &Path) -> io::Result<u64>;

    /// Takes an exclusive lock on a file, which is made if need be; `None` when another process has it. The lock ends
    /// with what is returned, and with the process.
    ///
    /// # Errors
    /// The system's.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;
}

/// The operations on one open file.
pub trait StoreFile: Send + Sync {
    /// Writes all slices, one after the other, at `offset`.
    ///
    /// # Errors
    /// The system's; how much was written is then unknown.
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()>;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file is shorter, or the system's.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn size(&self) -> io::Result<u64>;

    /// Cuts or lengthens the file to `len` bytes.
    ///
    /// # Errors
    /// The system's.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Sets aside disk space for the first `len` bytes, which read as zeros until they are written. Does nothing where
    /// the file system cannot.
    ///
    /// # Errors
    /// `StorageFull` when there is no room, or the system's.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Makes all that was written durable, and the length with it (`fdatasync`).
    ///
    /// # Errors
    /// The system's; never to be retried (D3).
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the next reads come from the disk: what a failed sync left in the system's cache counts as written there,
    /// and is not.
    ///
    /// # Errors
    /// The system's.
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether an operation failed because there is no room: the one failure that can be undone.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Waits a moment for a file descriptor when connections have taken all: nothing has been done to any file then, so
/// this need not latch the store.
fn patiently<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    use rustix::io::Errno;
    let none_left = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    for _ in 0..DESCRIPTOR_TRIES {
        match open() {
            Err(error) if none_left.contains(&error.raw_os_error()) => std::thread::sleep(DESCRIPTOR_WAIT),
            other => return other,
        }
    }
    open()
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

struct RealFile(File);

impl Files for RealFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Arc::new(RealFile(patiently(|| options.open(path))?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        Ok(Arc::new(RealFile(patiently(|| OpenOptions::new().read(true).write(true).open(path))?)))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam that the rule points to")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam that the rule points to")]
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        patiently(|| File::open(path))?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                // Only for the reader of an error message: the lock itself is the system's. It is written over what
                // is there, and a full disk does not stop a start.
                let pid = format!("{}\n", std::process::id());
                match file.write_all(pid.as_bytes()).and_then(|()| file.set_len(pid.len() as u64)) {
                    Err(error) if !is_full(&error) => Err(error),
                    _ => Ok(Some(Box::new(file))),
                }
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl StoreFile for RealFile {
    fn write_at(&self, mut offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        for chunk in slices.chunks(MAX_SLICES) {
            let mut chunk = chunk.to_vec();
            let mut rest = chunk.as_mut_slice();
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                match rustix::io::pwritev(&self.0, rest, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        offset += written as u64;
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        loop {
            match fallocate(&self.0, FallocateFlags::empty(), 0, len) {
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(()),
                // Some file systems give up when a signal comes in.
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        match fadvise(&self.0, 0, None, Advice::DontNeed) {
            // There is no such cache then.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_slices_are_written_whole_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealFiles.create(&dir.path().join("x")).unwrap();
        let parts: Vec<[u8; 2]> = (0..3000u16).map(u16::to_be_bytes).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
        file.write_at(1, &slices).unwrap();
        let mut read = vec![0; 6000];
        file.read_at(1, &mut read).unwrap();
        assert_eq!(read, parts.concat());
        assert_eq!(file.size().unwrap(), 6001);
    }

    #[test]
    fn what_is_made_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        RealFiles.create_dir(&inner).unwrap();
        RealFiles.create(&inner.join("file")).unwrap();
        let _lock = RealFiles.lock(&inner.join("lock")).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&dir.path().join("a")), mode(&inner)], [0o700; 2]);
        assert_eq!([mode(&inner.join("file")), mode(&inner.join("lock"))], [0o600; 2]);
    }

    #[test]
    fn d3_no_descriptor_left_is_waited_for_and_nothing_else_is() {
        let errno = |n: &std::cell::Cell<u32>, errno: rustix::io::Errno| {
            n.set(n.get() + 1);
            if n.get() < 3 { Err(errno.into()) } else { Ok(()) }
        };
        let tries = std::cell::Cell::new(0);
        patiently(|| errno(&tries, rustix::io::Errno::MFILE)).unwrap();
        assert_eq!(tries.take(), 3);
        patiently(|| errno(&tries, rustix::io::Errno::IO)).unwrap_err();
        assert_eq!(tries.get(), 1);
    }

    #[test]
    fn d5_d6_a_lock_needs_no_room_on_the_disk() {
        // Somebody else may hold this one: that is an answer too.
        RealFiles.lock(Path::new("/dev/full")).map(drop).unwrap();
    }

    #[test]
    fn d5_a_lock_excludes_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = RealFiles.lock(&path).unwrap();
        assert!(held.is_some());
        assert!(RealFiles.lock(&path).unwrap().is_none());
        drop(held);
        assert!(RealFiles.lock(&path).unwrap().is_some());
    }
}
