//! The data directory: whether what is written there is really kept.

use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use rustix::fs::{Access, access, statvfs};
use rustix::process::geteuid;
use tokio::time::Instant;

use super::report::Check;
use crate::store::files::{Files, RealFiles, StoreFile};

const WHAT: &str = "data directory";
/// Writes and syncs of the probe, each of as many octets.
const SYNCS: usize = 20;
const PROBE_OCTETS: usize = 4096;
/// A disk and its file system take longer. One with a cache that outlives a power cut may not, so this can only warn.
const TOO_QUICK: Duration = Duration::from_micros(50);
/// A commit waits for a sync: at this, a single client sends ten messages a second.
const SLOW: Duration = Duration::from_millis(100);
/// The part of the inodes that should be free, as one in this many.
const FREE_INODES: u64 = 100;

/// All about it; blocks.
pub(super) fn directory(data_dir: &Path, min_free: u64) -> Vec<Check> {
    let there = existing(data_dir);
    let is_made = there == data_dir;
    let mut checks = vec![owner(data_dir, &there)];
    checks.extend(kind(&there));
    checks.extend(room(&there, min_free));
    if is_made && access(&there, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
        checks.push(syncs(&there, &RealFiles));
    }
    checks
}

/// The directory, or the nearest one above it that is there.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find(|ancestor| ancestor.is_dir()).map(Path::to_owned);
    if path.is_dir() { path.to_owned() } else { there.unwrap_or_else(|| PathBuf::from("/")) }
}

fn owner(data_dir: &Path, there: &Path) -> Check {
    let name = data_dir.display();
    let may_write = access(there, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if data_dir != there {
        let finding = format!("{name} is not there yet");
        return if may_write {
            Check::ok(WHAT, format!("{finding}; the first start makes it"))
        } else {
            let advice = format!(
                "make it for the user that the server runs as: {} is not ours to write in",
                there.display()
            );
            Check::fail(WHAT, finding, &advice)
        };
    }
    let metadata = match std::fs::metadata(data_dir) {
        Ok(metadata) => metadata,
        Err(error) => return Check::fail(WHAT, format!("{name}: {error}"), "give this user access to it"),
    };
    let (mode, uid, us) = (metadata.mode() & 0o7777, metadata.uid(), geteuid().as_raw());
    if !may_write {
        let finding = format!("{name} belongs to user {uid} and cannot be written by user {us}");
        return Check::fail(WHAT, finding, "run doctor and server as its owner, or change the owner");
    }
    if mode & 0o077 != 0 {
        let advice = format!("mail is private: chmod 700 {name}");
        return Check::warn(WHAT, format!("{name} has mode {mode:o}: others can look into it"), &advice);
    }
    if uid != us {
        let finding = format!("{name} belongs to user {uid}, and this is user {us}");
        return Check::warn(WHAT, finding, "run doctor as the user that the server runs as");
    }
    Check::ok(WHAT, format!("{name}, mode {mode:o}"))
}

/// What keeps the files, as far as the system says.
#[cfg(target_os = "linux")]
fn kind(directory: &Path) -> Option<Check> {
    let found = rustix::fs::statfs(directory).ok()?;
    // Of different widths on different machines.
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a magic number has 32 bits")]
    let magic = found.f_type as u32;
    Some(judged(magic))
}

#[cfg(not(target_os = "linux"))]
fn kind(_: &Path) -> Option<Check> {
    None
}

/// Magic numbers of statfs(2).
#[cfg(target_os = "linux")]
fn judged(magic: u32) -> Check {
    let what = "file system";
    let gone = "mount a volume there: mail that was acknowledged is gone with the container";
    let network = "use a local disk: locks and syncs over a network keep no promise in a failure";
    let fail = |name: &str, advice| Check::fail(what, name.to_owned(), advice);
    match magic {
        0x794c_7630 => fail("overlay: this is a container's own layer", gone),
        0x6172_6966 => fail("aufs: this is a container's own layer", gone),
        0x0102_1994 | 0x8584_58f6 => fail("tmpfs: memory, which a reboot empties", "put data_dir on a disk"),
        0x6969 => fail("NFS", network),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => fail("SMB", network),
        0x0102_1997 => fail("9p: a directory of another machine", network),
        0x6573_5546 => Check::warn(
            what,
            "FUSE: what a sync means is up to a program".to_owned(),
            "use a file system of the kernel, unless that program promises to sync",
        ),
        0xef53 => Check::ok(what, "ext4".to_owned()),
        0x5846_5342 => Check::ok(what, "XFS".to_owned()),
        0x9123_683e => Check::ok(what, "Btrfs".to_owned()),
        0x2fc1_2fc1 => Check::ok(what, "ZFS".to_owned()),
        0xf2f5_2010 => Check::ok(what, "F2FS".to_owned()),
        other => Check::ok(what, format!("type {other:#x}, of which nothing bad is known")),
    }
}

fn room(directory: &Path, min_free: u64) -> Vec<Check> {
    let what = "free disk";
    let found = match statvfs(directory) {
        Ok(found) => found,
        Err(error) => {
            return vec![Check::warn(what, error.to_string(), "see why the system does not say it")];
        }
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let (shown, least) = (ByteSize::b(free).display().si(), ByteSize::b(min_free).display().si());
    let mut checks = vec![if free < min_free {
        let finding = format!("{shown}, less than limits.min_free ({least}): new mail is refused");
        Check::fail(what, finding, "make room, or lower limits.min_free")
    } else if free / 2 < min_free {
        let finding = format!("{shown}; under {least} new mail is refused");
        Check::warn(what, finding, "make room before it is short")
    } else {
        Check::ok(what, shown.to_string())
    }];
    // Some file systems have no fixed number of them.
    if found.f_files > 0 && found.f_favail < found.f_files / FREE_INODES {
        let finding = format!("{} of {} are free", found.f_favail, found.f_files);
        checks.push(Check::warn("inodes", finding, "remove files: without inodes there is no new segment"));
    }
    checks
}

/// What a commit costs, and whether it can be true.
fn syncs(directory: &Path, files: &dyn Files) -> Check {
    let what = "sync";
    let path = directory.join(format!("doctor.probe.{}", std::process::id()));
    let timed = files.create(&path).and_then(|file| time(&file));
    let removed = files.remove(&path);
    let mut times = match timed.and_then(|times| removed.map(|()| times)) {
        Ok(times) => times,
        Err(error) => {
            let advice = "new mail would be refused: see what is wrong with the disk";
            return Check::fail(what, format!("{}: {error}", path.display()), advice);
        }
    };
    times.sort_unstable();
    let at = |place: usize| times.get(place).copied().unwrap_or_default();
    let (median, most) = (at(SYNCS / 2), at(SYNCS - 1));
    let finding = format!("{} median, {} at most, for 4 KB", shown(median), shown(most));
    if median < TOO_QUICK {
        let advice = "see whether this disk keeps what it says it has written when the power goes";
        Check::warn(what, format!("{finding}: too quick for a disk"), advice)
    } else if median > SLOW {
        Check::warn(what, finding, "each commit waits as long: a quicker disk, or one with less to do")
    } else {
        Check::ok(what, finding)
    }
}

fn time(file: &Arc<dyn StoreFile>) -> io::Result<Vec<Duration>> {
    let block = [0x6f; PROBE_OCTETS];
    let mut at = 0;
    let mut once = || {
        let began = Instant::now();
        file.write_at(at, &[IoSlice::new(&block)])?;
        file.sync_data()?;
        at += PROBE_OCTETS as u64;
        Ok(began.elapsed())
    };
    (0..SYNCS).map(|_| once()).collect()
}

fn shown(time: Duration) -> String {
    if time < Duration::from_millis(1) {
        format!("{} µs", time.as_micros())
    } else {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::report::Status;
    use super::*;

    fn found<'a>(checks: &'a [Check], what: &str) -> &'a Check {
        checks.iter().find(|check| check.what == what).unwrap_or_else(|| panic!("no {what} in {checks:?}"))
    }

    #[test]
    fn a_directory_is_probed_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path(), private).unwrap();
        let checks = directory(dir.path(), 1);
        assert_eq!(found(&checks, WHAT).status, Status::Ok);
        assert!(found(&checks, "sync").finding.contains("median"));
        assert_ne!(found(&checks, "sync").status, Status::Fail);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found(&directory(dir.path(), 1), WHAT).status, Status::Warn);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_no_fault_and_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("a/b");
        let checks = directory(&data_dir, 1);
        assert!(found(&checks, WHAT).finding.contains("first start makes it"), "{checks:?}");
        assert!(!data_dir.exists() && !checks.iter().any(|check| check.what == "sync"));
    }

    #[test]
    fn too_little_room_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let checks = directory(dir.path(), u64::MAX);
        assert_eq!(found(&checks, "free disk").status, Status::Fail);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_keeps_no_mail_is_a_failure() {
        for magic in [0x794c_7630, 0x0102_1994, 0x6969, 0xff53_4d42, 0x0102_1997] {
            assert_eq!(judged(magic).status, Status::Fail, "{magic:#x}");
        }
        assert_eq!(judged(0x6573_5546).status, Status::Warn);
        assert_eq!(judged(0xef53).status, Status::Ok);
    }
}
