//! Addresses that refused mail for good: remembered for a while, so that no more is sent to them.
//!
//! The list lives in memory, and in the file `suppressed` of the data directory, which a thread of its own writes. It is
//! a memory aid and not a promise: nobody waits for it, what was added right before a power cut may be lost, and a file
//! that cannot be written costs the entries of this process when that ends. It never stops mail by a guess: only whole,
//! checksummed lines count, and an address is found only as it was added.

mod file;
mod list;

use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use self::file::Writer;
use self::list::List;
use super::OpenError;
use super::files::Files;
use crate::clock::{Clock, Timestamp};
use crate::mail::Address;

/// Addresses at most; beyond it those that refused longest ago leave. One takes about 300 bytes (S2).
const MOST: usize = 1_000_000;
/// Longer reasons are cut, bytes.
const MAX_REASON: usize = 200;

/// What is remembered of one address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suppressed {
    /// When it refused for the first time.
    pub since: Timestamp,
    /// What it said last; at most 200 bytes.
    pub reason: String,
}

/// See the module.
pub struct Suppressions {
    list: Arc<RwLock<List>>,
    clock: Clock,
    /// Wakes the thread that writes; `None` when it is to end.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Suppressions {
    /// Reads the list of a data directory that is there already. Each address is remembered for `ttl` from its last
    /// refusal on, also those of earlier runs. Blocks while it reads: not for a tokio worker.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn open(
        files: Arc<dyn Files>,
        data_dir: &Path,
        ttl: Duration,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_with(files, data_dir, List::new(ttl, MOST), clock)
    }

    fn open_with(
        files: Arc<dyn Files>,
        data_dir: &Path,
        list: List,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        let list = Arc::new(RwLock::new(list));
        let mut writer = Writer::open(files, data_dir, list.clone(), clock.clone());
        let (wake, woken) = sync_channel(1);
        let body = move || {
            while woken.recv().is_ok() {
                writer.round();
            }
            writer.round();
        };
        let name = "oncemail-suppressed";
        let thread = std::thread::Builder::new().name(name.into()).spawn(body);
        let thread = thread.map_err(OpenError::at(Path::new(name)))?;
        Ok(Arc::new(Self { list, clock, wake: Some(wake), thread: Some(thread) }))
    }

    /// What is remembered of an address, while it has not expired. A look into memory.
    pub fn find(&self, address: &Address) -> Option<Suppressed> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.find(&address.canonical(), self.clock.settled())
    }

    /// Remembers an address from now on. One that is known keeps its first time, and is remembered anew with the new
    /// reason. Never waits for the disk; what cannot be written is said in the log and lost with the process.
    pub fn add(&self, address: &Address, reason: &str) {
        let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default();
        self.change(|list| list.add(&address.canonical(), reason, self.clock.settled()));
    }

    /// From now on each address is remembered for `ttl` from its last refusal on, those that are known too. What a shorter
    /// time has made forgotten may come back with a longer one.
    pub fn set_ttl(&self, ttl: Duration) {
        self.list.write().unwrap_or_else(PoisonError::into_inner).set_ttl(ttl);
    }

    /// Forgets an address; whether it was remembered.
    pub fn remove(&self, address: &Address) -> bool {
        self.change(|list| list.remove(&address.canonical(), self.clock.settled()))
    }

    /// All that is remembered, by canonical address, those that refused longest ago first.
    pub fn entries(&self) -> Vec<(String, Suppressed)> {
        let mut all = Vec::new();
        let mut from = 0;
        // In parts, so that nobody who adds has to wait for long.
        loop {
            let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
            let Some(next) = list.part(from, self.clock.settled(), |address, entry| {
                all.push((address.to_owned(), entry.suppressed()));
            }) else {
                return all;
            };
            from = next;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut List) -> T) -> T {
        let done = change(&mut self.list.write().unwrap_or_else(PoisonError::into_inner));
        if let Some(wake) = &self.wake {
            // A full channel means that it will look anyway.
            let _ = wake.try_send(());
        }
        done
    }
}

impl Drop for Suppressions {
    /// What was added is still written.
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
