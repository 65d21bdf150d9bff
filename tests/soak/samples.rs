//! What the relay takes of the machine while it runs: memory, descriptors, disk. None of it may grow without bound.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;

const EVERY: Duration = Duration::from_millis(250);

/// The most and the last of each.
#[derive(Default, Clone, Serialize)]
pub struct Samples {
    pub taken: u64,
    pub resident_most: u64,
    pub resident_last: u64,
    pub descriptors_most: u64,
    pub descriptors_last: u64,
    pub disk_most: u64,
    pub disk_last: u64,
    /// At the end of each round, when nothing is left to do: resident memory, descriptors, disk.
    pub at_rest: Vec<[u64; 3]>,
}

/// See the module.
#[derive(Clone)]
pub struct Sampler {
    samples: Arc<Mutex<Samples>>,
    data_dir: PathBuf,
    pid: watch::Receiver<Option<u32>>,
}

impl Sampler {
    pub fn start(data_dir: PathBuf, pid: watch::Receiver<Option<u32>>) -> Self {
        let sampler = Self { samples: Arc::default(), data_dir, pid };
        let own = sampler.clone();
        tokio::spawn(async move {
            loop {
                own.take();
                sleep(EVERY).await;
            }
        });
        sampler
    }

    /// Now, when all is at rest.
    pub fn rest(&self) {
        let Some([resident, descriptors, disk]) = self.take() else { return };
        self.lock().at_rest.push([resident, descriptors, disk]);
    }

    pub fn all(&self) -> Samples {
        self.lock().clone()
    }

    /// None while nobody runs.
    fn take(&self) -> Option<[u64; 3]> {
        let disk = size(&self.data_dir);
        {
            let mut samples = self.lock();
            samples.disk_last = disk;
            samples.disk_most = samples.disk_most.max(disk);
        }
        let pid = (*self.pid.borrow())?;
        let (resident, descriptors) = (resident(pid)?, descriptors(pid)?);
        let mut samples = self.lock();
        samples.taken += 1;
        samples.resident_last = resident;
        samples.resident_most = samples.resident_most.max(resident);
        samples.descriptors_last = descriptors;
        samples.descriptors_most = samples.descriptors_most.max(descriptors);
        Some([resident, descriptors, disk])
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Octets, as VmRSS has them.
fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

fn descriptors(pid: u32) -> Option<u64> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64)
}

/// Octets in use below a directory, as the disk counts them.
fn size(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Files that were set aside as damaged.
pub fn set_aside(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().contains("damaged") {
            found.push(path);
        } else if path.is_dir() {
            found.extend(set_aside(&path));
        }
    }
    found
}
