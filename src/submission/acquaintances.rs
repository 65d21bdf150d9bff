//! Client addresses from which somebody has logged in lately: their passwords are verified before those of strangers, so
//! that whoever guesses passwords from a thousand addresses makes nobody else wait.
//!
//! It decides about the order alone, never about who may log in; a wrong entry costs an attacker's turn at most.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::failures::network;
use crate::clock::{Clock, Timestamp};

/// Addresses remembered at most.
const MAX_ADDRESSES: usize = 4_096;
/// How long, after the last login.
const KEPT_FOR: Duration = Duration::from_secs(7 * 86_400);

/// See the module.
#[derive(Debug)]
pub(super) struct Acquaintances {
    clock: Clock,
    until: Mutex<HashMap<IpAddr, Timestamp>>,
}

impl Acquaintances {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, until: Mutex::default() }
    }

    pub(super) fn include(&self, client: IpAddr) -> bool {
        self.until().get(&network(client)).is_some_and(|until| self.clock.now() < *until)
    }

    /// Somebody has logged in from there.
    pub(super) fn note(&self, client: IpAddr) {
        let now = self.clock.now();
        let mut until = self.until();
        if until.len() >= MAX_ADDRESSES && !until.contains_key(&network(client)) {
            until.retain(|_, until| now < *until);
        }
        // Only who knows a password gets here; beyond the bound it is a stranger, which costs it its place in front.
        if until.len() < MAX_ADDRESSES || until.contains_key(&network(client)) {
            until.insert(network(client), now.plus(KEPT_FOR));
        }
    }

    fn until(&self) -> MutexGuard<'_, HashMap<IpAddr, Timestamp>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_addresses_are_known_for_a_while_and_not_too_many() {
        let clock = Clock::manual(Timestamp::from_millis(1));
        let known = Acquaintances::new(clock.clone());
        let first = IpAddr::from([192, 0, 2, 1]);
        assert!(!known.include(first));
        known.note(first);
        assert!(known.include(first));
        (0..2 * MAX_ADDRESSES as u32).for_each(|n| known.note(IpAddr::V4(n.into())));
        assert!(known.until().len() <= MAX_ADDRESSES);
        assert!(known.include(first));
        clock.advance(KEPT_FOR);
        assert!(!known.include(first));
        known.note(IpAddr::from([192, 0, 2, 2]));
        assert_eq!(known.until().len(), 1);
    }
}
