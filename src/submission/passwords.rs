//! Whether a password is right: argon2id and bcrypt hashes, off the async threads, and a small cache of what was found
//! right, so that fifty connections a second do not cost fifty hashes.
//!
//! Strangers have one of the turns and a short line: whoever guesses from many addresses at once does not make those wait
//! who are known here, and takes half of two cores at most (S2).
//!
//! No password is kept, not even hashed as such: the cache holds a keyed hash under a key that dies with the process.
//! A user that does not exist costs as much time as one that does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use zeroize::{Zeroize, Zeroizing};

use crate::clock::{Clock, Timestamp};
use crate::smtp::sasl::Credentials;

/// Hashes computed at a time: argon2id takes 19 MiB and a whole core each.
const VERIFICATIONS: usize = 2;
/// Verifications of strangers at a time; the other turns are for clients that have logged in before.
const STRANGERS: usize = 1;
/// Strangers that wait for their turn; one more is told to come later.
const STRANGERS_WAITING: usize = 64;
/// Logins remembered at most.
const MAX_CACHED: usize = 4_096;
/// How long a login is remembered.
const CACHED_FOR: Duration = Duration::from_secs(5 * 60);

/// More than hashing a password uses of the stack, in bytes.
const HASHING_STACK: usize = 32 << 10;

/// A login under the process's key.
type Digest = [u8; 32];

/// Verifies passwords. See the module.
pub(super) struct Passwords {
    hashes: HashMap<String, Arc<str>>,
    /// Stands in for the hash of a user that does not exist.
    decoy: Option<Arc<str>>,
    clock: Clock,
    memory: Arc<Memory>,
}

/// What outlives a change of the users.
struct Memory {
    key: Zeroizing<[u8; 32]>,
    turns: Semaphore,
    strangers: Semaphore,
    strangers_waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Logins found right, and until when they are believed.
    right: HashMap<Digest, Timestamp>,
    /// Verifications going on; equal logins wait for one.
    pending: HashMap<Digest, Arc<OnceCell<bool>>>,
}

/// A stranger that stands in line; dropped when its turn has come or it is gone.
struct InLine<'a>(&'a AtomicUsize);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Memory {
    /// A stranger's turn, or `None` where too many wait for one.
    async fn stranger(&self) -> Option<SemaphorePermit<'_>> {
        let enter = |waiting: usize| (waiting < STRANGERS_WAITING).then_some(waiting + 1);
        self.strangers_waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok()?;
        let _line = InLine(&self.strangers_waiting);
        self.strangers.acquire().await.ok()
    }
}

/// What came of a verification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Finding {
    /// The user exists and this is its password.
    Right,
    /// Not so.
    Wrong,
    /// The verification itself broke down.
    Broken,
}

/// A hash that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the password hash is neither argon2id in PHC form nor bcrypt")]
pub struct BadHash;

impl Passwords {
    /// Takes (name, hash) pairs.
    ///
    /// # Errors
    /// Names the user whose hash cannot be used.
    pub(super) fn new<'a>(
        users: impl Iterator<Item = (&'a str, &'a str)>,
        clock: Clock,
    ) -> Result<Self, (String, BadHash)> {
        let memory = Memory {
            key: Zeroizing::new(rand::random()),
            turns: Semaphore::new(VERIFICATIONS),
            strangers: Semaphore::new(STRANGERS),
            strangers_waiting: AtomicUsize::new(0),
            state: Mutex::default(),
        };
        Self::build(users, clock, Arc::new(memory))
    }

    /// Other users, with the same bounds; a login that was right stays so as long as its user's hash is the same.
    ///
    /// # Errors
    /// Names the user whose hash cannot be used.
    pub(super) fn replaced_by<'a>(
        &self,
        users: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, (String, BadHash)> {
        Self::build(users, self.clock.clone(), self.memory.clone())
    }

    fn build<'a>(
        users: impl Iterator<Item = (&'a str, &'a str)>,
        clock: Clock,
        memory: Arc<Memory>,
    ) -> Result<Self, (String, BadHash)> {
        let (mut hashes, mut decoy) = (HashMap::new(), None);
        for (name, hash) in users {
            check(hash).map_err(|error| (name.to_owned(), error))?;
            let hash: Arc<str> = hash.into();
            // The same parameters as a real user's: the time tells nothing.
            decoy.get_or_insert_with(|| hash.clone());
            hashes.insert(name.to_owned(), hash);
        }
        Ok(Self { hashes, decoy, clock, memory })
    }

    /// Whether `credentials` are right. `may_go_on` is asked when a turn has come: a client that meanwhile failed too
    /// often gets no more answers.
    ///
    /// # Cancel safety
    /// A dropped future leaves the verification to those who wait for the same one.
    pub(super) async fn verify(
        &self,
        credentials: Credentials,
        is_stranger: bool,
        may_go_on: impl Fn() -> bool,
    ) -> Option<Finding> {
        let digest = self.digest(&credentials);
        wipe_stack();
        if self.is_cached(&digest) {
            return Some(Finding::Right);
        }
        let cell = self.state().pending.entry(digest).or_default().clone();
        let pending = Pending { passwords: self, digest, cell };
        let verified = pending.cell.get_or_try_init(|| async {
            // The strangers' line is before everybody's, so that none of them stands in the second one's way.
            let _place = match is_stranger {
                true => Some(self.memory.stranger().await.ok_or(Some(Finding::Broken))?),
                false => None,
            };
            let _turn = self.memory.turns.acquire().await.map_err(|_| Some(Finding::Broken))?;
            if !may_go_on() {
                return Err(None);
            }
            self.compute(&credentials).await.ok_or(Some(Finding::Broken))
        });
        match verified.await {
            Ok(true) => {
                self.remember(digest);
                Some(Finding::Right)
            }
            Ok(false) => Some(Finding::Wrong),
            Err(finding) => finding,
        }
    }

    /// `None` when the blocking thread failed.
    async fn compute(&self, credentials: &Credentials) -> Option<bool> {
        let known = self.hashes.get(&credentials.user);
        let Some(hash) = known.or(self.decoy.as_ref()).cloned() else { return Some(false) };
        tracing::debug!("a password is being hashed");
        let password = credentials.password.clone();
        let is_equal = tokio::task::spawn_blocking(move || {
            let is_equal = matches(&password, &hash);
            wipe_stack();
            is_equal
        })
        .await;
        match is_equal {
            Ok(is_equal) => Some(is_equal && known.is_some()),
            Err(error) => {
                tracing::error!(%error, "a password could not be verified");
                None
            }
        }
    }

    #[inline(never)]
    fn digest(&self, credentials: &Credentials) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&self.memory.key);
        // What was right for one hash says nothing about another.
        let hash = self.hashes.get(&credentials.user).map(AsRef::as_ref).unwrap_or_default();
        hasher.update(&(hash.len() as u64).to_le_bytes());
        hasher.update(hash.as_bytes());
        hasher.update(&(credentials.user.len() as u64).to_le_bytes());
        hasher.update(credentials.user.as_bytes());
        hasher.update(&credentials.password);
        *hasher.finalize().as_bytes()
    }

    fn is_cached(&self, digest: &Digest) -> bool {
        self.state().right.get(digest).is_some_and(|&until| self.clock.now() < until)
    }

    fn remember(&self, digest: Digest) {
        let now = self.clock.now();
        let mut state = self.state();
        if state.right.len() >= MAX_CACHED && !state.right.contains_key(&digest) {
            state.right.retain(|_, until| *until > now);
        }
        // Full of logins that are all still believed: this one is not remembered, and costs a hash again.
        if state.right.len() < MAX_CACHED {
            state.right.insert(digest, now.plus(CACHED_FOR));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.memory.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A verification that somebody waits for. It leaves the table when it is done or nobody else waits for it, on
/// whichever path its waiter leaves.
struct Pending<'a> {
    passwords: &'a Passwords,
    digest: Digest,
    cell: Arc<OnceCell<bool>>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut state = self.passwords.state();
        // The table may hold a later verification of the same login already.
        let is_this = state.pending.get(&self.digest).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        // Two: the table and the waiter that is leaving.
        if is_this && (self.cell.initialized() || Arc::strong_count(&self.cell) <= 2) {
            state.pending.remove(&self.digest);
        }
    }
}

fn is_bcrypt(hash: &str) -> bool {
    hash.starts_with("$2")
}

fn check(hash: &str) -> Result<(), BadHash> {
    let is_usable = if is_bcrypt(hash) {
        hash.parse::<bcrypt::HashParts>().is_ok()
    } else {
        let is_whole = |hash: PasswordHash| hash.salt.is_some() && hash.hash.is_some();
        hash.starts_with("$argon2id$") && PasswordHash::new(hash).is_ok_and(is_whole)
    };
    if is_usable { Ok(()) } else { Err(BadHash) }
}

#[inline(never)]
fn matches(password: &[u8], hash: &str) -> bool {
    if is_bcrypt(hash) {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// Hash functions leave what they were given on the stack. This overwrites what calls as deep as theirs, from the same
/// place, have used of it; those are never inlined, so that nothing of theirs is in their caller's frame.
#[inline(never)]
fn wipe_stack() {
    let mut used = [0_u8; HASHING_STACK];
    std::hint::black_box(&mut used);
    used.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::password_hash::PasswordHasher;
    use argon2::{Algorithm, Params, Version};

    fn argon2id(password: &str) -> String {
        let params = Params::new(Params::MIN_M_COST, 1, 1, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password(password.as_bytes()).unwrap().to_string()
    }

    fn login(user: &str, password: &str) -> Credentials {
        Credentials { user: user.into(), password: Zeroizing::new(password.as_bytes().to_vec()) }
    }

    fn passwords(clock: Clock) -> Passwords {
        let (one, two) = (argon2id("one"), bcrypt::hash("two", 4).unwrap());
        Passwords::new([("ann", one.as_str()), ("bob", two.as_str())].into_iter(), clock).unwrap()
    }

    #[tokio::test]
    async fn argon2id_and_bcrypt_hashes_are_verified() {
        let passwords = passwords(Clock::system());
        let found = async |user, password| passwords.verify(login(user, password), true, || true).await;
        assert_eq!(found("ann", "one").await, Some(Finding::Right));
        assert_eq!(found("bob", "two").await, Some(Finding::Right));
        assert_eq!(found("ann", "two").await, Some(Finding::Wrong));
        assert_eq!(found("bob", "one").await, Some(Finding::Wrong));
        // The decoy is ann's hash; its password opens nothing for a stranger.
        assert_eq!(found("eve", "one").await, Some(Finding::Wrong));
        assert!(passwords.state().pending.is_empty());
    }

    #[tokio::test]
    async fn a_right_login_is_remembered_for_five_minutes() {
        let clock = Clock::manual(Timestamp::from_millis(1));
        let passwords = passwords(clock.clone());
        let computed = AtomicUsize::new(0);
        let ask = async |password| {
            let count = || computed.fetch_add(1, Ordering::SeqCst) < usize::MAX;
            passwords.verify(login("ann", password), true, count).await
        };
        assert_eq!(ask("one").await, Some(Finding::Right));
        assert_eq!(ask("one").await, Some(Finding::Right));
        assert_eq!(computed.load(Ordering::SeqCst), 1);
        assert_eq!(ask("wrong").await, Some(Finding::Wrong));
        assert_eq!(ask("wrong").await, Some(Finding::Wrong));
        assert_eq!(computed.load(Ordering::SeqCst), 3);
        clock.advance(CACHED_FOR);
        assert_eq!(ask("one").await, Some(Finding::Right));
        assert_eq!(computed.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn a_changed_password_is_not_remembered_and_the_others_are() {
        let before = passwords(Clock::system());
        let (one, two) = (argon2id("one"), argon2id("two"));
        let found = async |passwords: &Passwords, password, asked: &AtomicUsize| {
            let count = || asked.fetch_add(1, Ordering::SeqCst) < usize::MAX;
            passwords.verify(login("ann", password), true, count).await
        };
        let asked = AtomicUsize::new(0);
        assert_eq!(found(&before, "one", &asked).await, Some(Finding::Right));
        let ann = before.hashes.get("ann").unwrap().clone();
        let same = before.replaced_by([("ann", &*ann), ("eve", one.as_str())].into_iter()).unwrap();
        assert_eq!(found(&same, "one", &asked).await, Some(Finding::Right));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let changed = before.replaced_by([("ann", two.as_str())].into_iter()).unwrap();
        assert_eq!(found(&changed, "one", &asked).await, Some(Finding::Wrong));
        assert_eq!(found(&changed, "two", &asked).await, Some(Finding::Right));
    }

    #[tokio::test]
    async fn s2_strangers_make_nobody_wait_who_is_known_and_wait_in_a_short_line() {
        let passwords = passwords(Clock::system());
        let taken = passwords.memory.strangers.acquire().await.unwrap();
        let guess = |n: usize| {
            let (passwords, guess) = (&passwords, n.to_string());
            async move { passwords.verify(login("ann", &guess), true, || true).await }
        };
        let mut line: Vec<_> = (0..STRANGERS_WAITING).map(|n| Box::pin(guess(n))).collect();
        for guess in &mut line {
            assert!(
                std::future::poll_fn(|cx| std::task::Poll::Ready(guess.as_mut().poll(cx))).await.is_pending()
            );
        }
        assert_eq!(guess(STRANGERS_WAITING).await, Some(Finding::Broken), "it comes later");
        assert_eq!(passwords.verify(login("ann", "one"), false, || true).await, Some(Finding::Right));
        // Whoever goes leaves its place.
        line.truncate(10);
        assert_eq!(passwords.memory.strangers_waiting.load(Ordering::Relaxed), 10);
        drop(taken);
        for guess in line {
            assert_eq!(guess.await, Some(Finding::Wrong));
        }
        assert_eq!(passwords.memory.strangers_waiting.load(Ordering::Relaxed), 0);
        assert!(passwords.state().pending.is_empty());
    }

    #[tokio::test]
    async fn equal_logins_at_the_same_time_cost_one_hash() {
        let passwords = passwords(Clock::system());
        let computed = AtomicUsize::new(0);
        let ask = || {
            let count = || computed.fetch_add(1, Ordering::SeqCst) < usize::MAX;
            passwords.verify(login("ann", "one"), true, count)
        };
        let findings = tokio::join!(ask(), ask(), ask());
        let right = Some(Finding::Right);
        assert_eq!(findings, (right, right, right));
        assert_eq!(computed.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_hash_that_nobody_can_verify_is_named() {
        for hash in [
            "",
            "plain",
            "$2b$04$short",
            "$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA",
            "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ",
            "$6$salt$hash",
        ] {
            let users = [("ann", hash)].into_iter();
            assert!(Passwords::new(users, Clock::system()).is_err(), "{hash}");
        }
    }
}
