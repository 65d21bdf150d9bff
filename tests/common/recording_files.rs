//! Files that note every changing operation, and the directory as a power cut after any of them could leave it.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use oncemail::store::files::{Files, RealFiles, StoreFile};

/// See the module.
pub struct RecordingFiles {
    root: PathBuf,
    log: Arc<Mutex<Vec<Op>>>,
}

struct RecordingFile {
    inner: Arc<dyn StoreFile>,
    path: PathBuf,
    log: Arc<Mutex<Vec<Op>>>,
}

#[derive(Clone)]
enum Op {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Truncate(PathBuf, u64),
    Allocate(PathBuf, u64),
    SyncData(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDir(PathBuf),
}

/// What becomes of writes and names that were not synced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unsynced {
    /// All is lost.
    Lost,
    /// All has arrived.
    Kept,
    /// Some sectors of this size have arrived, and some names.
    Torn(usize),
}

impl RecordingFiles {
    pub fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self { root: root.into(), log: Arc::default() })
    }

    /// Operations so far.
    pub fn operations(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    fn note(&self, op: Op) {
        self.log.lock().unwrap().push(op);
    }

    /// Builds in `to` what a power cut after the first `count` operations could leave.
    pub fn rebuild(&self, count: usize, unsynced: Unsynced, with_index: bool, seed: u64, to: &Path) {
        let mut disk = Disk { chance: Chance(seed | 1), ..Disk::default() };
        for op in &self.log.lock().unwrap()[..count] {
            disk.apply(op);
        }
        for (path, bytes) in disk.after_power_cut(unsynced) {
            let path = path.strip_prefix(&self.root).unwrap();
            if path.starts_with("index") && !with_index {
                continue;
            }
            let path = to.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = RealFiles.create(&path).unwrap();
            file.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
        }
    }
}

#[derive(Default)]
struct Disk {
    inodes: Vec<Inode>,
    /// Names as the running system sees them.
    names: BTreeMap<PathBuf, usize>,
    /// Names that a power cut leaves.
    durable: BTreeMap<PathBuf, usize>,
    /// Changes of names since their directory was synced.
    pending: Vec<Name>,
    chance: Chance,
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Extend(u64),
}

#[derive(Clone)]
enum Name {
    Add(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

/// A small deterministic source of chance (xorshift).
#[derive(Default)]
struct Chance(u64);

impl Chance {
    fn coin(&mut self) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 & 64 != 0
    }
}

impl Disk {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(path) => match self.names.get(path) {
                Some(inode) => self.inodes[*inode].pending.push(Change::Truncate(0)),
                None => {
                    self.inodes.push(Inode::default());
                    let inode = self.inodes.len() - 1;
                    self.names.insert(path.clone(), inode);
                    self.pending.push(Name::Add(path.clone(), inode));
                }
            },
            Op::Write(path, offset, bytes) => self.change(path, Change::Write(*offset, bytes.clone())),
            Op::Truncate(path, len) => self.change(path, Change::Truncate(*len)),
            Op::Allocate(path, len) => self.change(path, Change::Extend(*len)),
            Op::SyncData(path) => {
                if let Some(inode) = self.names.get(path) {
                    let inode = &mut self.inodes[*inode];
                    for change in std::mem::take(&mut inode.pending) {
                        change.apply(&mut inode.durable);
                    }
                }
            }
            Op::Rename(from, to) => {
                let inode = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), inode);
                self.pending.push(Name::Rename(from.clone(), to.clone(), inode));
            }
            Op::Remove(path) => {
                self.names.remove(path);
                self.pending.push(Name::Remove(path.clone()));
            }
            Op::SyncDir(dir) => {
                let (synced, others) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|n| n.dir() == Some(dir.as_path()));
                self.pending = others;
                let synced: Vec<Name> = synced;
                synced.into_iter().for_each(|name| name.apply(&mut self.durable));
            }
        }
    }

    fn change(&mut self, path: &Path, change: Change) {
        if let Some(inode) = self.names.get(path) {
            self.inodes[*inode].pending.push(change);
        }
    }

    fn after_power_cut(mut self, unsynced: Unsynced) -> Vec<(PathBuf, Vec<u8>)> {
        for name in std::mem::take(&mut self.pending) {
            let kept = match unsynced {
                Unsynced::Lost => false,
                Unsynced::Kept => true,
                Unsynced::Torn(_) => self.chance.coin(),
            };
            if kept {
                name.apply(&mut self.durable);
            }
        }
        let mut files = Vec::new();
        for (path, inode) in &self.durable {
            let inode = &mut self.inodes[*inode];
            let mut bytes = inode.durable.clone();
            for change in inode.pending.drain(..) {
                match unsynced {
                    Unsynced::Lost => {}
                    Unsynced::Kept => change.apply(&mut bytes),
                    Unsynced::Torn(sector) => change.apply_torn(&mut bytes, sector, &mut self.chance),
                }
            }
            files.push((path.clone(), bytes));
        }
        files
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

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, new) => {
                let start = *offset as usize;
                bytes.resize(bytes.len().max(start + new.len()), 0);
                bytes[start..start + new.len()].copy_from_slice(new);
            }
            Self::Truncate(len) => bytes.resize(*len as usize, 0),
            Self::Extend(len) => bytes.resize(bytes.len().max(*len as usize), 0),
        }
    }

    /// Sectors arrive in any order, or not at all.
    fn apply_torn(&self, bytes: &mut Vec<u8>, sector: usize, chance: &mut Chance) {
        let Self::Write(offset, new) = self else {
            if chance.coin() {
                self.apply(bytes);
            }
            return;
        };
        let mut at = 0;
        while at < new.len() {
            let start = *offset as usize + at;
            let len = (sector - start % sector).min(new.len() - at);
            if chance.coin() {
                Self::Write(start as u64, new[at..at + len].to_vec()).apply(bytes);
            }
            at += len;
        }
    }
}

impl Files for RecordingFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFiles.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        let inner = RealFiles.create(path)?;
        self.note(Op::Create(path.into()));
        Ok(Arc::new(RecordingFile { inner, path: path.into(), log: self.log.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        Ok(Arc::new(RecordingFile { inner: RealFiles.open(path)?, path: path.into(), log: self.log.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)?;
        self.note(Op::Rename(from.into(), to.into()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)?;
        self.note(Op::Remove(path.into()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.note(Op::SyncDir(path.into()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealFiles.list(path)
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        RealFiles.lock(path)
    }
}

impl StoreFile for RecordingFile {
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.inner.write_at(offset, slices)?;
        let bytes = slices.iter().flat_map(|s| s.iter().copied()).collect();
        self.log.lock().unwrap().push(Op::Write(self.path.clone(), offset, bytes));
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)?;
        self.log.lock().unwrap().push(Op::Truncate(self.path.clone(), len));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)?;
        self.log.lock().unwrap().push(Op::Allocate(self.path.clone(), len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.log.lock().unwrap().push(Op::SyncData(self.path.clone()));
        Ok(())
    }
}
