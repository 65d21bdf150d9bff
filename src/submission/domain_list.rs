//! Domains from a file, one a line, read again when the file changes: `verify.disposable_file`.
//!
//! A file that cannot be read any more never empties the list: the last one that could be read stays, and the log says
//! so once.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;

use crate::clock::{Clock, Timestamp};

/// The file is looked at no more often than this.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// S2: octets of a file that is read; the longest public lists have four million.
const MAX_FILE: u64 = 64 << 20;

/// The domains in use. See the module.
pub(super) struct DomainList {
    file: PathBuf,
    clock: Clock,
    current: ArcSwap<HashSet<Box<str>>>,
    watch: Mutex<Watch>,
}

struct Watch {
    looked_at: Timestamp,
    /// Of the list in use.
    stamp: Option<Stamp>,
    /// Why the file that is there now cannot be used; it is logged once.
    problem: Option<String>,
}

/// Changes when a file does: when it was written, and its length.
type Stamp = (SystemTime, u64);

impl DomainList {
    /// Reads the file; blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn load(file: &Path, clock: Clock) -> io::Result<Self> {
        // Stamped before it is read: a change in between is seen later rather than never.
        let watch = Watch { looked_at: clock.now(), stamp: stamp(file), problem: None };
        let current = ArcSwap::new(Arc::new(read(file)?));
        Ok(Self { file: file.to_owned(), clock, current, watch: Mutex::new(watch) })
    }

    /// Whether a domain (lower case, A-labels) or one above it is in the list; looks at the file first when it is time
    /// to.
    pub(super) async fn contains(self: &Arc<Self>, domain: &str) -> bool {
        if self.is_time_to_look() {
            let list = Arc::clone(self);
            if let Err(error) = tokio::task::spawn_blocking(move || list.look()).await {
                tracing::error!(%error, "the file of domains could not be looked at");
            }
        }
        let domains = self.current.load();
        let mut rest = Some(domain);
        while let Some(name) = rest {
            if domains.contains(name) {
                return true;
            }
            rest = name.split_once('.').map(|(_, above)| above);
        }
        false
    }

    fn is_time_to_look(&self) -> bool {
        let now = self.clock.now();
        let mut watch = self.watch();
        let is_time = now.since(watch.looked_at) >= CHECK_EVERY || now < watch.looked_at;
        if is_time {
            watch.looked_at = now;
        }
        is_time
    }

    fn look(&self) {
        let stamp = stamp(&self.file);
        if stamp.is_some() && self.watch().stamp == stamp {
            return;
        }
        let domains = read(&self.file);
        let mut watch = self.watch();
        match domains {
            Ok(domains) => {
                tracing::info!(file = %self.file.display(), domains = domains.len(), "the file of domains was read again");
                self.current.store(Arc::new(domains));
                (watch.stamp, watch.problem) = (stamp, None);
            }
            // The stamp stays that of the list in use, so that it is tried again.
            Err(error) if watch.problem.as_ref() != Some(&error.to_string()) => {
                let file = self.file.display();
                tracing::error!(%file, %error, "the file of domains cannot be read; the list that was read before stays");
                watch.problem = Some(error.to_string());
            }
            Err(_) => {}
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(file: &Path) -> io::Result<HashSet<Box<str>>> {
    let mut text = Vec::new();
    File::open(file)?.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("the file is larger than {MAX_FILE} octets")));
    }
    let (domains, strange) = parse(&String::from_utf8_lossy(&text));
    if strange > 0 {
        let file = file.display();
        tracing::warn!(%file, lines = strange, "lines that are no domains are left out");
    }
    Ok(domains)
}

/// The domains, and how many lines are none. What follows a `#` is a comment.
fn parse(text: &str) -> (HashSet<Box<str>>, usize) {
    let (mut domains, mut strange) = (HashSet::new(), 0);
    for line in text.lines() {
        let name = line.split('#').next().unwrap_or_default().trim();
        if name.is_empty() {
            continue;
        }
        match super::recipients::ascii_domain(name) {
            Some(domain) => drop(domains.insert(domain.into_boxed_str())),
            None => strange += 1,
        }
    }
    (domains, strange)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &Path, text: &str) {
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn comments_case_and_spellings_do_not_matter() {
        let (domains, strange) =
            parse("# a list\n\nMailinator.example # why\r\n  b.example\nbücher.example\n<html>\na b\n");
        let mut domains: Vec<_> = domains.iter().map(AsRef::as_ref).collect();
        domains.sort_unstable();
        assert_eq!(domains, ["b.example", "mailinator.example", "xn--bcher-kva.example"]);
        assert_eq!(strange, 2);
    }

    #[tokio::test]
    async fn the_list_follows_its_file_and_survives_its_loss() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("domains");
        assert!(DomainList::load(&file, Clock::system()).is_err());
        write(&file, "one.example\n");
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let list = Arc::new(DomainList::load(&file, clock.clone()).unwrap());
        for (domain, is_in) in
            [("one.example", true), ("a.b.one.example", true), ("none.example", false), ("example", false)]
        {
            assert_eq!(list.contains(domain).await, is_in, "{domain}");
        }
        write(&file, "longer.example\n");
        assert!(list.contains("one.example").await, "looked at more often than once a second");
        clock.advance(CHECK_EVERY);
        assert!(!list.contains("one.example").await && list.contains("longer.example").await);
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::remove_file(&file).unwrap();
        clock.advance(CHECK_EVERY);
        assert!(list.contains("longer.example").await);
    }
}
