//! What the kernel says a thread or a process tree has used: CPU and memory, from /proc.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// The unit of /proc/PID/stat on every Linux architecture (USER_HZ).
const TICKS_PER_SECOND: u64 = 100;

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    read_stat(Path::new("/proc/thread-self/stat")).map_or(Duration::ZERO, |stat| stat.cpu)
}

/// CPU time of a process, of its living descendants, and of those it has waited for.
///
/// # Errors
/// When /proc cannot be listed. A process that ends meanwhile counts as nothing.
pub fn tree_cpu(root: u32) -> Result<Duration> {
    let mut stats = HashMap::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(stat) = read_stat(&entry.path().join("stat")) {
            stats.insert(pid, stat);
        }
    }
    let mut family = HashSet::from([root]);
    // Each round finds one more generation at least, so it ends.
    loop {
        let before = family.len();
        family.extend(
            stats
                .iter()
                .filter(|(_, stat)| family.contains(&stat.parent))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    Ok(family.iter().filter_map(|pid| stats.get(pid)).map(|stat| stat.cpu + stat.waited_cpu).sum())
}

/// Resident memory of a process in bytes (VmRSS).
///
/// # Errors
/// When the process is gone.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the relay has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

struct Stat {
    parent: u32,
    cpu: Duration,
    waited_cpu: Duration,
}

/// proc(5): the name in parentheses may hold anything, so the fields are counted from its last parenthesis.
fn read_stat(path: &Path) -> Option<Stat> {
    let text = fs::read_to_string(path).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |first: usize| -> Option<Duration> {
        let sum = fields.get(first)?.parse::<u64>().ok()? + fields.get(first + 1)?.parse::<u64>().ok()?;
        Some(Duration::from_millis(sum * 1000 / TICKS_PER_SECOND))
    };
    // Fields 4 (ppid), 14 and 15 (utime, stime), 16 and 17 (cutime, cstime), counted from 1 with the name as 2.
    Some(Stat { parent: fields.get(1)?.parse().ok()?, cpu: ticks(11)?, waited_cpu: ticks(13)? })
}
