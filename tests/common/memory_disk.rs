//! Files in memory, on a [`Platter`]: every changing operation is noted, any operation can fail, the disk can be full,
//! and the store's index thread goes only as far as it is let, so that a run can be repeated.

use std::any::Any;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use oncemail::store::files::{Files, StoreFile};

use super::platter::{Op, Platter};

/// See the module. Clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
}

struct State {
    /// As it is now.
    now: Platter,
    /// As it was before `log`.
    start: Platter,
    log: Vec<Op>,
    /// Changing operations that were asked for, also those that failed.
    changes: usize,
    reads: usize,
    trouble: Option<Trouble>,
    struck: Option<String>,
    /// Bytes that fit.
    capacity: u64,
    can_allocate: bool,
    locked: Arc<AtomicBool>,
}

/// What goes wrong, once, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// The changing operation of this number fails; of a write nothing arrives.
    Fails(usize, io::ErrorKind),
    /// The same; of a write a part arrives first, and of a sync an unknown part for good.
    BreaksOff(usize, io::ErrorKind, u64),
    /// The reading operation of this number fails.
    Unreadable(usize),
}

struct MemoryFile {
    disk: MemoryDisk,
    inode: usize,
    path: PathBuf,
}

/// Lets threads of the store go on.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    /// Operations that the index thread may still do; `None`: as many as it likes.
    index: Option<usize>,
    index_waits: bool,
    commit_is_shut: bool,
    commit_waits: bool,
    /// Of who is to know that the commit thread waits.
    waker: Option<Waker>,
}

impl MemoryDisk {
    /// An empty disk that has the directory `root`.
    pub fn new(root: &Path) -> Self {
        Self::from(Platter::new(root))
    }

    pub fn from(platter: Platter) -> Self {
        let state = State {
            start: platter.clone(),
            now: platter,
            log: Vec::new(),
            changes: 0,
            reads: 0,
            trouble: None,
            struck: None,
            capacity: u64::MAX,
            can_allocate: true,
            locked: Arc::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), gate: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changing operations that were done.
    pub fn operations(&self) -> usize {
        self.state().log.len()
    }

    /// Changing operations that were asked for, and reading ones.
    pub fn asked(&self) -> (usize, usize) {
        let state = self.state();
        (state.changes, state.reads)
    }

    /// The disk before the first operation, and the operations.
    pub fn recording(&self) -> (Platter, Vec<Op>) {
        let state = self.state();
        (state.start.clone(), state.log.clone())
    }

    /// The disk as it is, with what waits to be written.
    pub fn platter(&self) -> Platter {
        self.state().now.clone()
    }

    pub fn set_trouble(&self, trouble: Trouble) {
        self.state().trouble = Some(trouble);
    }

    /// Which operation has failed, if one has.
    pub fn struck(&self) -> Option<String> {
        self.state().struck.clone()
    }

    /// So many bytes are free from now on.
    pub fn set_free(&self, bytes: u64) {
        let mut state = self.state();
        state.capacity = state.now.used().saturating_add(bytes);
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// Whether room can be set aside; not every file system can.
    pub fn set_can_allocate(&self, can: bool) {
        self.state().can_allocate = can;
    }

    /// Changes a byte of a file behind everybody's back.
    pub fn damage(&self, path: &Path, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.now.inode(path).unwrap();
        state.now.apply(&Op::Write(inode, offset, bytes.into()));
        state.now.write_back();
    }

    /// How long a file is, if it is there.
    pub fn len(&self, path: &Path) -> Option<u64> {
        let state = self.state();
        state.now.inode(path).map(|inode| state.now.content(inode).len)
    }

    /// From now on the index thread waits for [`MemoryDisk::grant`].
    pub fn hold_index(&self) {
        self.gate.state.lock().unwrap().index = Some(0);
    }

    /// It need not wait any more.
    pub fn release_index(&self) {
        self.gate.state.lock().unwrap().index = None;
        self.gate.changed.notify_all();
    }

    /// Lets the index thread do so many operations, and waits until it has, or `is_done`.
    pub fn grant(&self, operations: usize, is_done: &dyn Fn() -> bool) {
        let mut state = self.gate.state.lock().unwrap();
        state.index = Some(operations);
        self.gate.changed.notify_all();
        while !(is_done() || state.index == Some(0) && state.index_waits) {
            state = self.gate.changed.wait(state).unwrap();
        }
        state.index = Some(0);
    }

    /// To be called when what [`MemoryDisk::grant`] waits for may have come.
    pub fn look_again(&self) {
        drop(self.gate.state.lock().unwrap());
        self.gate.changed.notify_all();
    }

    /// Makes the commit thread wait at its next operation.
    pub fn hold_commits(&self) {
        self.gate.state.lock().unwrap().commit_is_shut = true;
    }

    pub fn holds_commits(&self) -> bool {
        self.gate.state.lock().unwrap().commit_is_shut
    }

    /// Whether the commit thread waits; the task is woken when it does.
    pub fn poll_commit_waits(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.gate.state.lock().unwrap();
        if state.commit_waits {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    pub fn release_commits(&self) {
        self.gate.state.lock().unwrap().commit_is_shut = false;
        self.gate.changed.notify_all();
    }

    /// Notes an operation and does it, unless it is the one that fails. `part` is what a failing one does all the same.
    fn change(
        &self,
        name: &str,
        path: &Path,
        part: impl FnOnce(u64) -> Option<Op>,
    ) -> io::Result<MutexGuard<'_, State>> {
        self.gate.pass();
        let mut state = self.state();
        let number = state.changes;
        state.changes += 1;
        let failure = match state.trouble {
            Some(Trouble::Fails(at, kind)) if at == number => Some((kind, None)),
            Some(Trouble::BreaksOff(at, kind, seed)) if at == number => Some((kind, part(seed))),
            _ => None,
        };
        let Some((kind, part)) = failure else {
            return Ok(state);
        };
        state.struck = Some(format!("{name} {}", path.display()));
        if let Some(op) = part {
            state.run(op);
        }
        Err(injected(kind))
    }

    fn read(&self, name: &str, path: &Path) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let number = state.reads;
        state.reads += 1;
        if state.trouble == Some(Trouble::Unreadable(number)) {
            state.struck = Some(format!("{name} {}", path.display()));
            return Err(injected(io::ErrorKind::Other));
        }
        Ok(state)
    }

    fn file(&self, path: &Path, inode: usize) -> Arc<dyn StoreFile> {
        Arc::new(MemoryFile { disk: self.clone(), inode, path: path.to_owned() })
    }
}

/// What a bad sector says, or another error.
fn injected(kind: io::ErrorKind) -> io::Error {
    match kind {
        io::ErrorKind::Other => io::Error::from_raw_os_error(5),
        kind => io::Error::new(kind, "injected"),
    }
}

impl State {
    fn run(&mut self, op: Op) {
        self.now.apply(&op);
        self.log.push(op);
    }

    /// How many of `bytes` more fit.
    fn room(&self, bytes: u64) -> u64 {
        bytes.min(self.capacity.saturating_sub(self.now.used()))
    }
}

impl Gate {
    fn pass(&self) {
        let thread = std::thread::current();
        match thread.name() {
            Some("oncemail-index") => {
                let mut state = self.state.lock().unwrap();
                while state.index == Some(0) {
                    state.index_waits = true;
                    self.changed.notify_all();
                    state = self.changed.wait(state).unwrap();
                }
                state.index_waits = false;
                state.index = state.index.map(|left| left - 1);
            }
            Some("oncemail-commit") => {
                let mut state = self.state.lock().unwrap();
                while state.commit_is_shut {
                    state.commit_waits = true;
                    state.waker.take().into_iter().for_each(Waker::wake);
                    state = self.changed.wait(state).unwrap();
                }
                state.commit_waits = false;
            }
            _ => {}
        }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Files for MemoryDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change("create_dir", path, |_| None)?;
        let missing: Vec<_> =
            path.ancestors().filter(|dir| !state.now.has_dir(dir)).map(Path::to_owned).collect();
        missing.into_iter().rev().for_each(|dir| state.run(Op::MakeDir(dir)));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        let mut state = self.change("create", path, |_| None)?;
        if !path.parent().is_some_and(|dir| state.now.has_dir(dir)) {
            return Err(not_found());
        }
        let inode = state.now.inode(path).unwrap_or(state.now.next_inode());
        state.run(Op::Create(path.into(), inode));
        Ok(self.file(path, inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        let state = self.read("open", path)?;
        Ok(self.file(path, state.now.inode(path).ok_or_else(not_found)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.change("rename", from, |_| None)?;
        state.now.inode(from).ok_or_else(not_found)?;
        state.run(Op::Rename(from.into(), to.into()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change("remove", path, |_| None)?;
        state.now.inode(path).ok_or_else(not_found)?;
        state.run(Op::Remove(path.into()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change("sync_dir", path, |_| None)?;
        if !state.now.has_dir(path) {
            return Err(not_found());
        }
        state.run(Op::SyncDir(path.into()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.read("list", path)?;
        if !state.now.has_dir(path) {
            return Err(not_found());
        }
        let here = state.now.names().filter(|(name, _)| name.parent() == Some(path));
        Ok(here.map(|(name, _)| name.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.saturating_sub(state.now.used()))
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let locked = self.state().locked.clone();
        let is_free = !locked.swap(true, Ordering::SeqCst);
        Ok(is_free.then(|| Box::new(Lock(locked)) as Box<dyn Any + Send + Sync>))
    }
}

struct Lock(Arc<AtomicBool>);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl StoreFile for MemoryFile {
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let (inode, half) = (self.inode, bytes.len() / 2);
        let part = |_| Some(Op::Write(inode, offset, bytes[..half].into()));
        let mut state = self.disk.change("write", &self.path, part)?;
        let end = offset + bytes.len() as u64;
        let more = end.saturating_sub(state.now.content(inode).len);
        let missing = more - state.room(more);
        bytes.truncate(bytes.len() - usize::try_from(missing).unwrap().min(bytes.len()));
        state.run(Op::Write(inode, offset, bytes.into()));
        if missing > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.disk.read("read", &self.path)?;
        match state.now.content(self.inode).read(offset, buffer) {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.read("size", &self.path)?.now.content(self.inode).len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.change("truncate", &self.path, |_| None)?.run(Op::Truncate(self.inode, len));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.change("allocate", &self.path, |_| None)?;
        if !state.can_allocate {
            return Ok(());
        }
        let more = len.saturating_sub(state.now.content(self.inode).len);
        if state.room(more) < more {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.run(Op::Extend(self.inode, len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let part = |seed| Some(Op::LostSync(self.inode, seed));
        self.disk.change("sync_data", &self.path, part)?.run(Op::Sync(self.inode));
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.disk.change("drop_cache", &self.path, |_| None)?.run(Op::DropCache(self.inode));
        Ok(())
    }
}
