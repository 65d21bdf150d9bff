//! A disk in memory that loses what was not synced, dies at any operation, fails one, or is full.
//!
//! As on a real one, a write is seen at once and durable only after a sync of its file, and a name only after a sync of its
//! directory. After a power cut any part of the rest may be there, sector by sector. The rules are those of
//! `common/platter.rs`; here they hold while everything runs.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use oncemail::store::files::{Files, StoreFile};

use super::world::World;

/// What a power cut keeps or loses as a whole.
const SECTOR: usize = 512;

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Disk {
    world: Arc<World>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    inodes: Vec<Inode>,
    /// Names as the running system sees them.
    names: BTreeMap<PathBuf, usize>,
    /// Names that a power cut leaves.
    durable: BTreeMap<PathBuf, usize>,
    pending: Vec<Name>,
    /// Of names and numbers: what was opened before a start is no file any more.
    start: u64,
    operations: u64,
    segments: u64,
    dies_at: Option<u64>,
    is_dead: bool,
    fails_at: Option<(u64, io::ErrorKind)>,
    has_failed: bool,
    /// Bytes of all files, at most.
    capacity: Option<u64>,
}

#[derive(Default, Clone)]
struct Inode {
    now: Bytes,
    durable: Bytes,
    pending: Vec<Change>,
}

/// A file's octets; what stands behind the written ones is zeros.
#[derive(Default, Clone)]
struct Bytes {
    written: Vec<u8>,
    len: u64,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Extend(u64),
}

enum Name {
    Add(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

struct Open {
    disk: Disk,
    inode: usize,
    start: u64,
}

impl Disk {
    pub fn new(world: Arc<World>) -> Self {
        Self { world, inner: Arc::default() }
    }

    /// The power goes at the changing operation that comes after so many.
    pub fn die_after(&self, operations: u64) {
        let mut inner = self.inner();
        inner.dies_at = Some(inner.operations + operations);
    }

    /// One changing operation fails.
    pub fn fail_after(&self, operations: u64, kind: io::ErrorKind) {
        let mut inner = self.inner();
        inner.fails_at = Some((inner.operations + operations, kind));
    }

    /// Nothing more is done for the process that runs.
    pub fn kill(&self) {
        self.inner().is_dead = true;
    }

    pub fn is_dead(&self) -> bool {
        self.inner().is_dead
    }

    /// Whether an operation was made to fail since the last start.
    pub fn has_failed(&self) -> bool {
        self.inner().has_failed
    }

    /// No more than so many bytes can be added from now on.
    pub fn fill_up_to(&self, room: u64) {
        let mut inner = self.inner();
        inner.capacity = Some(inner.used() + room);
    }

    pub fn make_room(&self) {
        self.inner().capacity = None;
    }

    pub fn is_full(&self) -> bool {
        self.inner().capacity.is_some()
    }

    /// Nothing more is to happen to it by chance.
    pub fn disarm(&self) {
        let mut inner = self.inner();
        (inner.dies_at, inner.fails_at, inner.capacity) = (None, None, None);
    }

    /// As [`Disk::start`] after a power cut that has kept nothing but what was synced.
    pub fn start_with_what_was_synced(&self) {
        self.start(false);
        self.inner().cut_power(&|| false);
    }

    /// Segments of the journal that were ever begun.
    pub fn segments(&self) -> u64 {
        self.inner().segments
    }

    /// Works again, for the next process: with everything that was written, or as a power cut has left it.
    pub fn start(&self, after_power_cut: bool) {
        let what = self.world.between(0, 3);
        let mut inner = self.inner();
        inner.start += 1;
        (inner.is_dead, inner.dies_at, inner.fails_at, inner.has_failed) = (false, None, None, false);
        if after_power_cut {
            let world = &self.world;
            let keeps = || match what {
                0 => false,
                1 => true,
                _ => world.percent(50),
            };
            inner.cut_power(&keeps);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Counts a changing operation.
    fn step(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.inner();
        inner.alive()?;
        inner.operations += 1;
        let at = inner.operations;
        if inner.dies_at.is_some_and(|dies_at| at > dies_at) {
            inner.is_dead = true;
            return Err(io::Error::other("the power is gone"));
        }
        if let Some((_, kind)) = inner.fails_at.take_if(|(fails_at, _)| at > *fails_at) {
            inner.has_failed = true;
            return Err(io::Error::new(kind, "made to fail"));
        }
        Ok(inner)
    }
}

impl Inner {
    fn alive(&self) -> io::Result<()> {
        if self.is_dead { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].now.len).sum()
    }

    /// Whether a file may become so long.
    fn has_room(&self, inode: usize, len: u64) -> io::Result<()> {
        let more = len.saturating_sub(self.inodes[inode].now.len);
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn cut_power(&mut self, keeps: &dyn Fn() -> bool) {
        for name in std::mem::take(&mut self.pending) {
            if keeps() {
                name.apply(&mut self.durable);
            }
        }
        let old = std::mem::take(&mut self.inodes);
        let mut names = BTreeMap::new();
        for (path, number) in &self.durable {
            let Inode { durable: mut bytes, pending, .. } = old[*number].clone();
            for change in &pending {
                change.apply_some(&mut bytes, keeps);
            }
            names.insert(path.clone(), self.inodes.len());
            self.inodes.push(Inode { now: bytes.clone(), durable: bytes, pending: Vec::new() });
        }
        self.names.clone_from(&names);
        self.durable = names;
    }

    fn change(&mut self, inode: usize, change: Change) {
        let inode = &mut self.inodes[inode];
        change.apply(&mut inode.now);
        inode.pending.push(change);
    }
}

impl Name {
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Add(path, _) | Self::Rename(path, ..) | Self::Remove(path) => path.parent(),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Add(path, inode) => {
                names.insert(path, inode);
            }
            Self::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

impl Bytes {
    fn write(&mut self, at: usize, octets: &[u8]) {
        let end = at + octets.len();
        self.written.resize(self.written.len().max(end), 0);
        self.written[at..end].copy_from_slice(octets);
        self.len = self.len.max(end as u64);
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        if at + into.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let at = usize::try_from(at).unwrap().min(self.written.len());
        let known = into.len().min(self.written.len() - at);
        into.fill(0);
        into[..known].copy_from_slice(&self.written[at..at + known]);
        Ok(())
    }
}

impl Change {
    fn apply(&self, bytes: &mut Bytes) {
        match self {
            Self::Write(offset, new) => bytes.write(usize::try_from(*offset).unwrap(), new),
            Self::Truncate(len) => {
                bytes.written.truncate(usize::try_from(*len).unwrap());
                bytes.len = *len;
            }
            Self::Extend(len) => bytes.len = bytes.len.max(*len),
        }
    }

    /// Sectors arrive in any order, or not at all.
    fn apply_some(&self, bytes: &mut Bytes, keeps: &dyn Fn() -> bool) {
        let Self::Write(offset, new) = self else {
            if keeps() {
                self.apply(bytes);
            }
            return;
        };
        let (offset, mut at) = (usize::try_from(*offset).unwrap(), 0);
        while at < new.len() {
            let start = offset + at;
            let len = (SECTOR - start % SECTOR).min(new.len() - at);
            if keeps() {
                bytes.write(start, &new[at..at + len]);
            }
            at += len;
        }
    }
}

impl Files for Disk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        self.inner().alive()
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        let mut inner = self.step()?;
        inner.segments += u64::from(path.extension().is_some_and(|extension| extension == "seg"));
        let known = inner.names.get(path).copied();
        let inode = match known {
            Some(inode) => {
                inner.change(inode, Change::Truncate(0));
                inode
            }
            None => {
                inner.inodes.push(Inode::default());
                let inode = inner.inodes.len() - 1;
                inner.names.insert(path.into(), inode);
                inner.pending.push(Name::Add(path.into(), inode));
                inode
            }
        };
        Ok(Arc::new(Open { disk: self.clone(), inode, start: inner.start }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        let inner = self.inner();
        inner.alive()?;
        let inode = *inner.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Open { disk: self.clone(), inode, start: inner.start }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.step()?;
        let inode = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.into(), inode);
        inner.pending.push(Name::Rename(from.into(), to.into(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.step()?;
        inner.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        inner.pending.push(Name::Remove(path.into()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.step()?;
        let pending = std::mem::take(&mut inner.pending);
        let (synced, others): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|name| name.dir() == Some(dir));
        inner.pending = others;
        synced.into_iter().for_each(|name| name.apply(&mut inner.durable));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.inner();
        inner.alive()?;
        let inside = inner.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        let inner = self.inner();
        inner.alive()?;
        Ok(inner.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(inner.used())))
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.inner().alive()?;
        Ok(Some(Box::new(())))
    }
}

impl Open {
    fn inner<'a>(&self, mut inner: MutexGuard<'a, Inner>) -> io::Result<MutexGuard<'a, Inner>> {
        inner.alive()?;
        if inner.start == self.start {
            return Ok(inner);
        }
        inner.has_failed = true;
        Err(io::Error::other("a file of a process that has died"))
    }
}

impl StoreFile for Open {
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let octets: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        {
            let inner = self.disk.inner();
            inner.alive()?;
            if inner.start == self.start {
                inner.has_room(self.inode, offset + octets.len() as u64)?;
            }
        }
        match self.disk.step() {
            Ok(inner) => {
                self.inner(inner)?.change(self.inode, Change::Write(offset, octets));
                Ok(())
            }
            Err(error) => {
                // A write that fails, or is the last one, may have been done in part.
                let mut inner = self.disk.inner();
                if inner.start == self.start {
                    let part = octets[..octets.len() / 2].to_vec();
                    inner.change(self.inode, Change::Write(offset, part));
                }
                Err(error)
            }
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner(self.disk.inner())?.inodes[self.inode].now.read(offset, buffer)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.inner(self.disk.inner())?.inodes[self.inode].now.len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let inner = self.disk.step()?;
        self.inner(inner)?.change(self.inode, Change::Truncate(len));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let inner = self.disk.step()?;
        let mut inner = self.inner(inner)?;
        inner.has_room(self.inode, len)?;
        inner.change(self.inode, Change::Extend(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let inner = self.disk.step()?;
        let mut inner = self.inner(inner)?;
        let inode = &mut inner.inodes[self.inode];
        for change in std::mem::take(&mut inode.pending) {
            change.apply(&mut inode.durable);
        }
        Ok(())
    }
}
