//! Browser sessions: a random cookie stands for the token that opened it. In memory only: a restart ends them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};

/// A session ends after this.
pub(in super::super) const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Sessions at most (S2); beyond it the oldest ends.
const MOST: usize = 256;

/// See the module.
pub(super) struct Sessions {
    clock: Clock,
    /// By the cookie's hash: what is in memory is of no use to who reads it.
    open: Mutex<HashMap<[u8; 32], Session>>,
}

#[derive(Clone, Copy)]
struct Session {
    token: blake3::Hash,
    until: Timestamp,
}

impl Sessions {
    pub fn new(clock: Clock) -> Self {
        Self { clock, open: Mutex::default() }
    }

    /// Opens one; its cookie: 256 random bits in hexadecimal.
    pub fn open(&self, token: blake3::Hash) -> String {
        let secret: [u8; 32] = rand::random();
        let cookie = blake3::Hash::from_bytes(secret).to_hex().to_string();
        let now = self.clock.now();
        let mut open = self.table();
        open.retain(|_, session| session.until > now);
        if open.len() >= MOST
            && let Some(oldest) = open.iter().min_by_key(|(_, session)| session.until).map(|(key, _)| *key)
        {
            open.remove(&oldest);
        }
        open.insert(key(&cookie), Session { token, until: now.plus(LIFETIME) });
        cookie
    }

    /// The token that a living session was opened with.
    pub fn find(&self, cookie: &str) -> Option<blake3::Hash> {
        let session = self.table().get(&key(cookie)).copied()?;
        (session.until > self.clock.now()).then_some(session.token)
    }

    /// Ends one.
    pub fn close(&self, cookie: &str) {
        self.table().remove(&key(cookie));
    }

    fn table(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(cookie: &str) -> [u8; 32] {
    *blake3::hash(cookie.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_the_oldest_session_makes_room() {
        let clock = Clock::manual(Timestamp::from_millis(1));
        let sessions = Sessions::new(clock.clone());
        let first = sessions.open(blake3::hash(b"t"));
        clock.advance(Duration::from_secs(1));
        let second = sessions.open(blake3::hash(b"t"));
        for _ in 0..MOST - 1 {
            clock.advance(Duration::from_secs(1));
            sessions.open(blake3::hash(b"t"));
        }
        assert_eq!(sessions.table().len(), MOST);
        assert!(sessions.find(&first).is_none() && sessions.find(&second).is_some());
    }
}
