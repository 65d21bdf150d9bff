//! The list in memory, and what of it is not in the file yet. No I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::Suppressed;
use crate::clock::Timestamp;

/// Changes that wait for the writer; beyond it the file is written anew as a whole.
const WAITING: usize = 4096;
/// Entries looked at while the list is locked.
const PART: usize = 4096;
/// Expired entries that one addition clears away.
const SWEEP: usize = 8;

/// See the module.
pub struct List {
    entries: HashMap<Arc<str>, Entry>,
    /// By their last refusal, oldest first.
    order: BTreeMap<u64, Arc<str>>,
    next: u64,
    ttl: Duration,
    most: usize,
    changed: Vec<Arc<str>>,
    /// More has changed than was noted.
    all_changed: bool,
}

/// What is remembered of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its place in the order.
    number: u64,
    /// When it refused first.
    pub since: Timestamp,
    /// When it refused last.
    pub last: Timestamp,
    /// What it said last.
    pub reason: Box<str>,
}

impl Entry {
    /// What others see of it.
    pub fn suppressed(&self) -> Suppressed {
        Suppressed { since: self.since, reason: self.reason.to_string() }
    }
}

impl List {
    /// An empty list with room for `most` addresses, each remembered for `ttl` from its last refusal on.
    pub fn new(ttl: Duration, most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
            ttl,
            most,
            changed: Vec::new(),
            all_changed: false,
        }
    }

    /// Remembers each for `ttl` from now on.
    pub fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    /// How many there are; some may have expired.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is remembered of an address.
    pub fn find(&self, address: &str, now: Timestamp) -> Option<Suppressed> {
        self.get(address, now).map(Entry::suppressed)
    }

    /// The same with all that is known.
    pub fn get(&self, address: &str, now: Timestamp) -> Option<&Entry> {
        self.entries.get(address).filter(|entry| self.lives(entry, now))
    }

    fn lives(&self, entry: &Entry, now: Timestamp) -> bool {
        now < entry.last.plus(self.ttl)
    }

    /// An address has refused.
    pub fn add(&mut self, address: &str, reason: &str, now: Timestamp) {
        let since = self.get(address, now).map_or(now, |entry| entry.since);
        self.put(address, since, now, reason);
        for _ in 0..SWEEP {
            let oldest = self.order.first_key_value().and_then(|(_, address)| self.entries.get(address));
            if oldest.is_none_or(|entry| self.lives(entry, now)) {
                break;
            }
            self.drop_oldest();
        }
        self.note(address);
    }

    /// Takes an entry as the file has it, in the place of an older one; it may have expired.
    pub fn load(&mut self, address: &str, since: Timestamp, last: Timestamp, reason: &str, now: Timestamp) {
        if now < last.plus(self.ttl) {
            self.put(address, since, last, reason);
        } else {
            self.take(address);
        }
    }

    fn put(&mut self, address: &str, since: Timestamp, last: Timestamp, reason: &str) {
        self.take(address);
        if self.entries.len() >= self.most {
            self.drop_oldest();
        }
        let (key, number): (Arc<str>, _) = (address.into(), self.next);
        self.next += 1;
        self.order.insert(number, key.clone());
        self.entries.insert(key, Entry { number, since, last, reason: reason.into() });
    }

    /// Forgets an address; whether it was remembered.
    pub fn remove(&mut self, address: &str, now: Timestamp) -> bool {
        let remembered = self.get(address, now).is_some();
        if self.take(address) {
            self.note(address);
        }
        remembered
    }

    /// Takes an entry out; whether there was one.
    pub fn take(&mut self, address: &str) -> bool {
        let Some(entry) = self.entries.remove(address) else { return false };
        self.order.remove(&entry.number);
        true
    }

    fn drop_oldest(&mut self) {
        if let Some((_, address)) = self.order.pop_first() {
            self.entries.remove(&address);
        }
    }

    fn note(&mut self, address: &str) {
        if self.all_changed {
            return;
        }
        if self.changed.len() >= WAITING {
            self.changed = Vec::new();
            self.all_changed = true;
            return;
        }
        self.changed.push(address.into());
    }

    /// Takes the addresses that changed since the last time, or `None` when they are too many to be named.
    pub fn take_changed(&mut self) -> Option<Vec<Arc<str>>> {
        let changed = std::mem::take(&mut self.changed);
        (!std::mem::take(&mut self.all_changed)).then_some(changed)
    }

    /// Shows some living entries from the number `from` on, oldest first; the number to go on with, unless that was all.
    pub fn part(&self, from: u64, now: Timestamp, mut show: impl FnMut(&str, &Entry)) -> Option<u64> {
        let mut next = None;
        for (number, address) in self.order.range(from..).take(PART) {
            next = Some(number + 1);
            if let Some(entry) = self.get(address, now) {
                show(address, entry);
            }
        }
        next
    }
}
