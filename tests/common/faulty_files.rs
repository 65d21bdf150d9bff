//! Files whose n-th changing operation fails, once; what comes after it would work, and is counted.

use std::any::Any;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use oncemail::store::files::{Files, RealFiles, StoreFile};

/// See the module.
pub struct FaultyFiles {
    shared: Arc<Shared>,
}

struct Shared {
    done: AtomicUsize,
    fail_at: usize,
    kind: io::ErrorKind,
    failed: AtomicBool,
    free: AtomicU64,
    /// While set, everything that takes room fails.
    full: AtomicBool,
    /// A write of more bytes finds the disk full.
    room: AtomicUsize,
    name: std::sync::Mutex<String>,
}

struct FaultyFile {
    inner: Arc<dyn StoreFile>,
    shared: Arc<Shared>,
}

impl FaultyFiles {
    /// Fails the operation number `fail_at`, counted from 0.
    pub fn new(fail_at: usize, kind: io::ErrorKind) -> Arc<Self> {
        let shared = Shared {
            done: AtomicUsize::new(0),
            fail_at,
            kind,
            failed: AtomicBool::new(false),
            free: AtomicU64::new(u64::MAX),
            full: AtomicBool::new(false),
            room: AtomicUsize::new(usize::MAX),
            name: std::sync::Mutex::default(),
        };
        Arc::new(Self { shared: Arc::new(shared) })
    }

    /// Never fails by itself.
    pub fn sound() -> Arc<Self> {
        Self::new(usize::MAX, io::ErrorKind::Other)
    }

    /// Changing operations so far.
    pub fn operations(&self) -> usize {
        self.shared.done.load(Ordering::SeqCst)
    }

    /// Whether the failure has happened.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::SeqCst)
    }

    /// The operation that failed.
    pub fn failed_operation(&self) -> String {
        self.shared.name.lock().unwrap().clone()
    }

    /// What `free_space` says from now on.
    pub fn set_free(&self, bytes: u64) {
        self.shared.free.store(bytes, Ordering::SeqCst);
    }

    /// A write of more bytes than this finds the disk full from now on.
    pub fn set_room(&self, bytes: usize) {
        self.shared.room.store(bytes, Ordering::SeqCst);
    }

    /// Whether everything that takes room fails from now on.
    pub fn set_full(&self, full: bool) {
        self.shared.full.store(full, Ordering::SeqCst);
    }
}

impl Shared {
    fn step(&self, name: &str, path: &str, takes_room: bool) -> io::Result<()> {
        if takes_room && self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.done.fetch_add(1, Ordering::SeqCst) == self.fail_at {
            self.failed.store(true, Ordering::SeqCst);
            *self.name.lock().unwrap() = format!("{name} {path}");
            return Err(io::Error::new(self.kind, "injected"));
        }
        Ok(())
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Files for FaultyFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.shared.step("create_dir", &text(path), false)?;
        RealFiles.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        self.shared.step("create", &text(path), false)?;
        Ok(Arc::new(FaultyFile { inner: RealFiles.create(path)?, shared: self.shared.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        Ok(Arc::new(FaultyFile { inner: RealFiles.open(path)?, shared: self.shared.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.step("rename", &text(from), false)?;
        RealFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.shared.step("remove", &text(path), false)?;
        RealFiles.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.shared.step("sync_dir", &text(path), false)?;
        RealFiles.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealFiles.list(path)
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.shared.free.load(Ordering::SeqCst))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        RealFiles.lock(path)
    }
}

impl StoreFile for FaultyFile {
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: usize = slices.iter().map(|s| s.len()).sum();
        if bytes > self.shared.room.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let step = self.shared.step("write", "", true);
        if step.is_err() {
            // A failed write may have written a part.
            let bytes: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
            self.inner.write_at(offset, &[IoSlice::new(&bytes[..bytes.len() / 2])])?;
        }
        step?;
        self.inner.write_at(offset, slices)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.shared.step("truncate", "", false)?;
        self.inner.truncate(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.shared.step("allocate", "", true)?;
        self.inner.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.shared.step("sync_data", "", false)?;
        self.inner.sync_data()
    }
}
