//! A disk as a value: what runs on it sees the cache, and a power cut leaves some of what was not synced.
//!
//! What a cut may leave is wider than any file system is likely to: each sector of an unsynced write is there in any of
//! its versions since the last sync, the length of a file is any that it has had since then, room that has no contents
//! reads as zeros (or, in a file that was never synced, as what stood in those sectors before), and any part of the
//! changes of names is there, in any combination.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The bytes of a file; those behind `bytes`, up to `len`, are zeros.
#[derive(Clone, Default)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub len: u64,
}

/// One changing operation that has been done.
#[derive(Clone, Debug)]
pub enum Op {
    MakeDir(PathBuf),
    Create(PathBuf, usize),
    Write(usize, u64, Arc<[u8]>),
    Truncate(usize, u64),
    Extend(usize, u64),
    Sync(usize),
    /// A sync that failed: some of what it was to write is lost, and nothing will ever write it.
    LostSync(usize, u64),
    /// What is not on the disk is not in the cache any more, but for what still waits to be written.
    DropCache(usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDir(PathBuf),
}

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// Nothing of it arrives.
    Lost,
    /// All of it has arrived.
    Kept,
    /// Some sectors of this size, some lengths, some names.
    Torn(usize),
    /// All names and lengths, and some sectors: files that are there and have nothing in them.
    Hollow(usize),
    /// No power cut: the cache survives, and with it what still waits to be written.
    Killed,
}

#[derive(Clone)]
enum Change {
    Write(u64, Arc<[u8]>),
    Truncate(u64),
    Extend(u64),
}

#[derive(Clone, Default)]
struct Inode {
    /// What a reader sees.
    cache: Content,
    /// What is on the disk.
    durable: Content,
    pending: Vec<Change>,
    was_synced: bool,
}

#[derive(Clone)]
enum Name {
    Dir(PathBuf),
    Add(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

/// See the module.
#[derive(Clone, Default)]
pub struct Platter {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    durable_names: BTreeMap<PathBuf, usize>,
    durable_dirs: BTreeSet<PathBuf>,
    /// Changes of names since their directory was synced.
    pending: Vec<Name>,
}

/// A small deterministic source of chance (splitmix64).
#[derive(Clone)]
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// Once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

impl Content {
    pub fn write(&mut self, offset: u64, new: &[u8]) {
        let start = usize::try_from(offset).unwrap();
        let end = start + new.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(new);
        self.len = self.len.max(end as u64);
    }

    pub fn truncate(&mut self, len: u64) {
        self.bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        self.len = len;
    }

    /// Fills `buffer`; false when the file is shorter.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        if offset + buffer.len() as u64 > self.len {
            return false;
        }
        buffer.fill(0);
        let start = usize::try_from(offset).unwrap().min(self.bytes.len());
        let end = (start + buffer.len()).min(self.bytes.len());
        buffer[..end - start].copy_from_slice(&self.bytes[start..end]);
        true
    }
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Self::Write(offset, new) => content.write(*offset, new),
            Self::Truncate(len) => content.truncate(*len),
            Self::Extend(len) => content.len = content.len.max(*len),
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.cache);
        self.pending.push(change);
    }

    /// What is on the disk when the power goes now.
    fn after(&self, cut: Cut, garbage: Option<&Content>, chance: &mut Chance) -> Content {
        let sector = match cut {
            Cut::Lost => return self.durable.clone(),
            Cut::Kept | Cut::Killed => {
                let mut all = self.durable.clone();
                self.pending.iter().for_each(|change| change.apply(&mut all));
                return all;
            }
            Cut::Torn(sector) | Cut::Hollow(sector) => sector,
        };
        let count = self.pending.len();
        let length = if let Cut::Hollow(_) = cut { count } else { chance.below(count + 1) };
        // Sectors from before a truncation that has arrived are not the file's any more.
        let from = self.pending[..length].iter().rposition(|c| matches!(c, Change::Truncate(_)));
        let from = from.map_or(0, |truncation| truncation + 1);
        let mut content = self.durable.clone();
        self.pending[..from].iter().for_each(|change| change.apply(&mut content));
        let mut lens = content.clone();
        self.pending[from..length].iter().for_each(|change| change.apply(&mut lens));
        if let Some(garbage) = garbage.filter(|_| !self.was_synced) {
            let room = usize::try_from(lens.len).unwrap().min(garbage.bytes.len());
            content.write(0, &garbage.bytes[..room]);
        }
        let seed = chance.next();
        for (number, change) in self.pending.iter().enumerate().skip(from) {
            let Change::Write(offset, new) = change else {
                continue;
            };
            let mut at = 0;
            while at < new.len() {
                let start = usize::try_from(*offset).unwrap() + at;
                let len = (sector - start % sector).min(new.len() - at);
                // One version of a sector: with all writes up to some one.
                let version = Chance(seed ^ (start / sector) as u64).below(count + 1);
                if number < version {
                    content.write(start as u64, &new[at..at + len]);
                }
                at += len;
            }
        }
        content.truncate(lens.len);
        content
    }
}

impl Name {
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Dir(path) | Self::Add(path, _) | Self::Rename(path, ..) | Self::Remove(path) => {
                path.parent()
            }
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, usize>, dirs: &mut BTreeSet<PathBuf>) {
        match self {
            Self::Dir(path) => {
                dirs.insert(path);
            }
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

impl Platter {
    /// The directory that everything is in stands already.
    pub fn new(root: &Path) -> Self {
        let dirs: BTreeSet<PathBuf> = root.ancestors().map(Path::to_owned).collect();
        Self { durable_dirs: dirs.clone(), dirs, ..Self::default() }
    }

    pub fn inode(&self, path: &Path) -> Option<usize> {
        self.names.get(path).copied()
    }

    /// What a reader of an inode sees.
    pub fn content(&self, inode: usize) -> &Content {
        &self.inodes[inode].cache
    }

    pub fn next_inode(&self) -> usize {
        self.inodes.len()
    }

    pub fn has_dir(&self, path: &Path) -> bool {
        self.dirs.contains(path)
    }

    pub fn names(&self) -> impl Iterator<Item = (&PathBuf, &Content)> {
        self.names.iter().map(|(path, inode)| (path, &self.inodes[*inode].cache))
    }

    /// Bytes of all files, with the room that is set aside.
    pub fn used(&self) -> u64 {
        self.names().map(|(_, content)| content.len).sum()
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::MakeDir(path) => {
                self.dirs.insert(path.clone());
                self.pending.push(Name::Dir(path.clone()));
            }
            Op::Create(path, inode) => match self.names.get(path) {
                Some(inode) => self.inodes[*inode].change(Change::Truncate(0)),
                None => {
                    self.inodes.push(Inode::default());
                    self.names.insert(path.clone(), *inode);
                    self.pending.push(Name::Add(path.clone(), *inode));
                }
            },
            Op::Write(inode, offset, bytes) => {
                self.inodes[*inode].change(Change::Write(*offset, bytes.clone()))
            }
            Op::Truncate(inode, len) => self.inodes[*inode].change(Change::Truncate(*len)),
            Op::Extend(inode, len) => self.inodes[*inode].change(Change::Extend(*len)),
            Op::Sync(inode) => {
                let inode = &mut self.inodes[*inode];
                for change in std::mem::take(&mut inode.pending) {
                    change.apply(&mut inode.durable);
                }
                inode.was_synced = true;
            }
            Op::LostSync(inode, seed) => {
                let inode = &mut self.inodes[*inode];
                let cut = if seed.is_multiple_of(4) { Cut::Lost } else { Cut::Torn(512) };
                inode.durable = inode.after(cut, None, &mut Chance(*seed));
                inode.pending.clear();
            }
            Op::DropCache(inode) => {
                let inode = &mut self.inodes[*inode];
                if inode.pending.is_empty() {
                    inode.cache = inode.durable.clone();
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
                let (synced, others): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.pending).into_iter().partition(|n| n.dir() == Some(dir));
                self.pending = others;
                for name in synced {
                    name.apply(&mut self.durable_names, &mut self.durable_dirs);
                }
            }
        }
    }

    /// The disk that is found after the power, or the process, has gone now.
    pub fn after(&self, cut: Cut, seed: u64) -> Self {
        if cut == Cut::Killed {
            return self.clone();
        }
        let mut chance = Chance(seed);
        let (mut names, mut dirs) = (self.durable_names.clone(), self.durable_dirs.clone());
        for name in self.pending.iter().cloned() {
            let arrives = match cut {
                Cut::Lost => false,
                Cut::Kept | Cut::Killed | Cut::Hollow(_) => true,
                Cut::Torn(_) => chance.one_in(2),
            };
            if arrives {
                name.apply(&mut names, &mut dirs);
            }
        }
        // What has no way to it from the root is not there.
        let reached = |path: &Path| path.ancestors().skip(1).all(|above| dirs.contains(above));
        names.retain(|path, _| reached(path));
        let dirs: BTreeSet<PathBuf> = dirs.iter().filter(|dir| reached(dir)).cloned().collect();
        let mut after = Self { dirs: dirs.clone(), durable_dirs: dirs, ..Self::default() };
        for (path, inode) in names {
            let garbage = chance.one_in(2).then(|| self.old_sectors(&mut chance)).flatten();
            let content = self.inodes[inode].after(cut, garbage, &mut chance);
            after.names.insert(path, after.inodes.len());
            after.inodes.push(Inode {
                cache: content.clone(),
                durable: content,
                pending: Vec::new(),
                was_synced: true,
            });
        }
        after.durable_names = after.names.clone();
        after
    }

    /// What may stand in sectors that a new file has got: those of some other file, perhaps of one that is gone.
    fn old_sectors(&self, chance: &mut Chance) -> Option<&Content> {
        (!self.inodes.is_empty()).then(|| &self.inodes[chance.below(self.inodes.len())].durable)
    }

    /// Somebody removes a directory with all that is in it.
    pub fn lose(&mut self, dir: &Path) {
        self.names.retain(|path, _| !path.starts_with(dir));
        self.durable_names.retain(|path, _| !path.starts_with(dir));
        self.pending.retain(|name| name.dir().is_none_or(|of| !of.starts_with(dir)));
    }

    /// Makes everything that was written durable, as time does.
    pub fn write_back(&mut self) {
        for inode in &mut self.inodes {
            for change in std::mem::take(&mut inode.pending) {
                change.apply(&mut inode.durable);
            }
        }
        for name in std::mem::take(&mut self.pending) {
            name.apply(&mut self.durable_names, &mut self.durable_dirs);
        }
    }
}
