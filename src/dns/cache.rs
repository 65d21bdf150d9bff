//! What was answered lately, for as long as its records allow, and never more than a set number of answers.
//!
//! Two generations: a full one becomes the old one, and what is asked for in the old one moves on. What nobody asks for
//! is gone after one more generation, without anyone having to look for it.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use tokio::time::Instant;

use super::question::{Found, Missing};

/// Answers in one generation.
const GENERATION: usize = 4096;
/// Larger answers are asked for again each time, bytes: with two generations they bound the cache at 64 MiB.
const LARGEST: usize = 8 << 10;
/// Nothing is believed for longer, whatever its records say: a corrected mistake is seen within the hour.
const LONGEST: Duration = Duration::from_secs(3600);
/// The same for what there is not (RFC 2308 §5).
const LONGEST_MISSING: Duration = Duration::from_secs(300);

/// An answer that lasts.
pub(super) type Lasting = Result<Found, Missing>;

/// See the module.
#[derive(Default)]
pub(super) struct Cache(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
}

type Key = (String, RecordType);

struct Entry {
    answer: Lasting,
    until: Instant,
}

impl Cache {
    /// What was answered, if it may still be believed.
    pub(super) fn get(&self, name: &str, kind: RecordType, now: Instant) -> Option<Lasting> {
        let key = (name.to_owned(), kind);
        let mut generations = self.lock();
        if !generations.young.contains_key(&key) {
            let entry = generations.old.remove(&key)?;
            generations.insert(key.clone(), entry);
        }
        let entry = generations.young.get(&key)?;
        (entry.until > now).then(|| entry.answer.clone())
    }

    /// Keeps an answer for `ttl`, within limits.
    pub(super) fn keep(&self, name: &str, kind: RecordType, answer: &Lasting, ttl: Duration, now: Instant) {
        let ttl = ttl.min(if answer.is_ok() { LONGEST } else { LONGEST_MISSING });
        if ttl.is_zero() || answer.as_ref().is_ok_and(|found| found.size() > LARGEST) {
            return;
        }
        let entry = Entry { answer: answer.clone(), until: now + ttl };
        self.lock().insert((name.to_owned(), kind), entry);
    }

    /// Forgets everything: the name servers are others now.
    pub(super) fn clear(&self) {
        *self.lock() = Generations::default();
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn insert(&mut self, key: Key, entry: Entry) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::question::Rr;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn found(text: &str) -> Lasting {
        Ok(Found { records: vec![Rr::Text(text.to_owned())], secure: false, end: None })
    }

    #[test]
    fn answers_are_believed_for_their_time_and_no_longer() {
        let (cache, start) = (Cache::default(), Instant::now());
        let txt = |name: &str, after: Duration| cache.get(name, RecordType::TXT, start + after);
        let second = Duration::from_secs(1);
        for (name, answer, ttl) in [
            ("a.example", found("a"), 10 * second),
            ("zero.example", found("a"), Duration::ZERO),
            ("day.example", found("a"), DAY),
            ("none.example", Err(Missing::NoSuchDomain), DAY),
        ] {
            cache.keep(name, RecordType::TXT, &answer, ttl, start);
        }
        assert_eq!(txt("a.example", 9 * second), Some(found("a")));
        assert_eq!(txt("a.example", 10 * second), None);
        assert_eq!(cache.get("a.example", RecordType::MX, start), None);
        assert_eq!(txt("zero.example", Duration::ZERO), None);
        assert_eq!(txt("none.example", LONGEST_MISSING - second), Some(Err(Missing::NoSuchDomain)));
        assert_eq!(txt("none.example", LONGEST_MISSING), None);
        assert_eq!(txt("day.example", LONGEST - second), Some(found("a")));
        assert_eq!(txt("day.example", LONGEST), None);
    }

    #[test]
    fn s2_the_cache_is_bounded_and_keeps_what_is_asked_for() {
        let (cache, now) = (Cache::default(), Instant::now());
        let txt = |name: &str| cache.get(name, RecordType::TXT, now);
        let keep = |name: &str, text: &str| cache.keep(name, RecordType::TXT, &found(text), DAY, now);
        keep("asked.example", "a");
        keep("large.example", &"x".repeat(LARGEST));
        assert_eq!(txt("large.example"), None);
        for number in 0..3 * GENERATION {
            keep(&format!("{number}.example"), "x");
            assert!(txt("asked.example").is_some());
        }
        let generations = cache.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
        drop(generations);
        assert_eq!(txt("0.example"), None);
    }
}
