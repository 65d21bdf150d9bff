//! A file system in memory, behind the store's own seam: a start over damaged files a thousand times a second.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oncemail::store::files::{Files, StoreFile};

/// No file grows beyond this: what would, is out of all proportion to the input.
const MOST: u64 = 64 << 20;

type Bytes = Arc<Mutex<Vec<u8>>>;

/// See the module. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryFiles(Arc<Mutex<BTreeMap<PathBuf, Bytes>>>);

struct MemoryFile(Bytes);

impl MemoryFiles {
    /// Puts a file there.
    pub fn put(&self, path: impl Into<PathBuf>, bytes: Vec<u8>) {
        self.names(|names| names.insert(path.into(), Arc::new(Mutex::new(bytes))));
    }

    /// All files, with what is in them.
    pub fn all(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.names(|names| names.iter().map(|(path, file)| (path.clone(), locked(file).clone())).collect())
    }

    fn names<T>(&self, work: impl FnOnce(&mut BTreeMap<PathBuf, Bytes>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn locked(file: &Bytes) -> std::sync::MutexGuard<'_, Vec<u8>> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_found() -> io::Error {
    ErrorKind::NotFound.into()
}

impl Files for MemoryFiles {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        // What has the file open under its old contents keeps writing to the same one, as a real system has it.
        let file = self.names(|names| names.entry(path.to_owned()).or_default().clone());
        locked(&file).clear();
        Ok(Arc::new(MemoryFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        let file = self.names(|names| names.get(path).cloned()).ok_or_else(not_found)?;
        Ok(Arc::new(MemoryFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.names(|names| {
            let file = names.remove(from).ok_or_else(not_found)?;
            names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.names(|names| names.remove(path)).map(|_| ()).ok_or_else(not_found)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let name = |file: &PathBuf| {
            let is_here = file.parent() == Some(path);
            file.file_name().filter(|_| is_here).map(|name| name.to_string_lossy().into_owned())
        };
        Ok(self.names(|names| names.keys().filter_map(name).collect()))
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        Ok(Some(Box::new(())))
    }
}

impl MemoryFile {
    fn grown(&self, len: u64) -> io::Result<std::sync::MutexGuard<'_, Vec<u8>>> {
        assert!(len <= MOST, "a file of {len} octets");
        let mut bytes = locked(&self.0);
        let len = usize::try_from(len).map_err(io::Error::other)?;
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        Ok(bytes)
    }
}

impl StoreFile for MemoryFile {
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let mut bytes = self.grown(offset + all.len() as u64)?;
        bytes[start..start + all.len()].copy_from_slice(&all);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = locked(&self.0);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
        let wanted = bytes.get(start..end).ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(wanted);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(locked(&self.0).len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut bytes = self.grown(len)?;
        bytes.truncate(usize::try_from(len).map_err(io::Error::other)?);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.grown(len).map(|_| ())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
