//! A message while it is being received, and the memory that all such messages share.
//!
//! S2: nothing is kept beyond the size limit or the shared budget, and every octet taken from the budget is given
//! back when its [`Reservation`] is dropped, on whichever path that happens.
//!
//! No client may keep the others out by taking all of it. The less is free, the less a client may hold: of the whole six
//! times the square of the part that is free. Alone it has two thirds; and when n clients have, one after the other, taken
//! all that they may, more than a part in 6n is left for the next one. (Were it a multiple of what is free, each would
//! take three quarters of the rest, and few would have it all.) A client that holds little is never refused while there
//! is memory.

use super::reply::Reply;
use super::sync::Arc;
use super::sync::atomic::{AtomicI64, Ordering};

/// Memory is taken from the budget in steps of at least this, so that small messages cost one step.
const STEP: usize = 4 * 1024;
/// See the module.
const SQUARES: i128 = 6;
/// A client may hold this much as long as there is any: a message as most are.
const LITTLE: i64 = 64 * 1024;

/// Octets that messages being received may take together, as one client sees them. Clones share both.
#[derive(Clone, Debug)]
pub struct Budget {
    whole: Arc<Whole>,
    client: Share,
}

#[derive(Debug)]
struct Whole {
    size: AtomicI64,
    taken: AtomicI64,
}

/// What one client has taken of a [`Budget`]. Clones share it.
#[derive(Clone, Debug)]
pub struct Share(Arc<AtomicI64>);

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    octets: usize,
}

/// What has come of a message so far, and what is wrong with it.
#[derive(Debug)]
pub struct Content {
    octets: Vec<u8>,
    reservation: Reservation,
    limit: usize,
    /// Octets seen, kept or not.
    size: u64,
    faults: Faults,
}

/// Every fault is noted, and one is told by rank: which of two came first must not depend on packet sizes.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    bare_line_end: bool,
    nul: bool,
    too_large: bool,
    no_memory: bool,
}

/// Why a message is refused once its end is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContentFault {
    /// A CR without LF or an LF without CR (S1).
    BareLineEnd,
    /// An octet 0: RFC 5321 §4.5.2 leaves no room for it without BINARYMIME.
    Nul,
    /// Over the SIZE limit.
    TooLarge,
    /// The shared budget is used up.
    NoMemory,
}

impl Budget {
    /// A budget of `octets`, for one client.
    pub fn new(octets: usize) -> Self {
        let whole = Whole { size: AtomicI64::new(signed(octets)), taken: AtomicI64::new(0) };
        Self { whole: Arc::new(whole), client: Share::default() }
    }

    /// The same budget as the client sees it that this is the share of.
    pub fn of(&self, client: Share) -> Self {
        Self { whole: self.whole.clone(), client }
    }

    /// Makes it a budget of `octets`. What is taken stays taken: one that has become too small gives nothing until enough
    /// has come back.
    pub fn resize(&self, octets: usize) {
        self.whole.size.store(signed(octets), Ordering::Relaxed);
    }

    /// Octets that are free.
    pub fn free(&self) -> usize {
        let free = self.whole.size.load(Ordering::Relaxed) - self.whole.taken.load(Ordering::Relaxed);
        usize::try_from(free).unwrap_or(0)
    }

    /// Whether a message of so many octets could be had now. Takes nothing.
    pub fn has_room_for(&self, octets: u64) -> bool {
        let octets = i64::try_from(octets).unwrap_or(i64::MAX);
        self.may_take(self.whole.taken.load(Ordering::Relaxed), octets, 0)
    }

    /// Takes `octets` for a message that has `of_message` of them already.
    fn take(&self, octets: usize, of_message: usize) -> bool {
        let (octets, of_message) = (signed(octets), signed(of_message));
        let more = |taken: i64| self.may_take(taken, octets, of_message).then(|| taken + octets);
        let is_taken = self.whole.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if is_taken {
            self.client.0.fetch_add(octets, Ordering::Relaxed);
        }
        is_taken
    }

    /// Whether there are `octets` for this client when `taken` are taken. Two messages of one client that ask at the same
    /// moment may both be granted what only one of them should be; what is not there is granted to nobody.
    fn may_take(&self, taken: i64, octets: i64, of_message: i64) -> bool {
        let size = self.whole.size.load(Ordering::Relaxed);
        let rest = (size - taken).checked_sub(octets).filter(|rest| *rest >= 0);
        let Some(rest) = rest else { return false };
        let held = self.client.0.load(Ordering::Relaxed) + octets;
        held <= LITTLE
            || i128::from(held) * i128::from(size) <= SQUARES.saturating_mul(i128::from(rest) * i128::from(rest))
            // It keeps nobody out, and where memory is hardly more than one message may be, that one may come in.
            || taken <= of_message + LITTLE
    }

    fn give_back(&self, octets: usize) {
        self.client.0.fetch_sub(signed(octets), Ordering::Relaxed);
        self.whole.taken.fetch_sub(signed(octets), Ordering::Relaxed);
    }
}

impl Default for Share {
    /// Of a client that has taken nothing.
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(0)))
    }
}

/// Half of 64 bits is more than any memory.
fn signed(octets: usize) -> i64 {
    i64::try_from(octets).unwrap_or(i64::MAX)
}

impl Reservation {
    /// A reservation of nothing yet.
    pub fn empty(budget: &Budget) -> Self {
        Self { budget: budget.clone(), octets: 0 }
    }

    /// Takes `octets` more; says whether they were there.
    #[must_use]
    pub fn grow(&mut self, octets: usize) -> bool {
        let taken = self.budget.take(octets, self.octets);
        if taken {
            self.octets += octets;
        }
        taken
    }

    /// Gives all of it back.
    pub fn release(&mut self) {
        self.budget.give_back(std::mem::take(&mut self.octets));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

impl Content {
    /// An empty message of at most `limit` octets.
    pub fn new(limit: usize, budget: &Budget) -> Self {
        Self {
            octets: Vec::new(),
            reservation: Reservation::empty(budget),
            limit,
            size: 0,
            faults: Faults::default(),
        }
    }

    /// Adds what has come. Once something is wrong nothing is kept any more, but all is counted.
    pub fn append(&mut self, octets: &[u8]) {
        self.size = self.size.saturating_add(octets.len() as u64);
        if self.size > self.limit as u64 {
            self.note(ContentFault::TooLarge);
        }
        if self.fault().is_some() {
            return;
        }
        if self.make_room(octets.len()) {
            self.octets.extend_from_slice(octets);
        } else {
            self.note(ContentFault::NoMemory);
        }
    }

    /// Notes what is wrong, and lets go of what was kept: it will not be used.
    pub fn note(&mut self, fault: ContentFault) {
        match fault {
            ContentFault::BareLineEnd => self.faults.bare_line_end = true,
            ContentFault::Nul => self.faults.nul = true,
            ContentFault::TooLarge => self.faults.too_large = true,
            ContentFault::NoMemory => self.faults.no_memory = true,
        }
        self.octets = Vec::new();
        self.reservation.release();
    }

    /// The fault that the client is told.
    pub fn fault(&self) -> Option<ContentFault> {
        let faults = self.faults;
        [
            (faults.bare_line_end, ContentFault::BareLineEnd),
            (faults.nul, ContentFault::Nul),
            (faults.too_large, ContentFault::TooLarge),
            (faults.no_memory, ContentFault::NoMemory),
        ]
        .into_iter()
        .find_map(|(is_so, fault)| is_so.then_some(fault))
    }

    /// Octets seen so far, as SIZE counts them (RFC 1870 §5).
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The message, and the memory to give back when it is no longer being received.
    pub fn into_parts(self) -> (Vec<u8>, Reservation) {
        (self.octets, self.reservation)
    }

    /// Grows by doubling, from the budget first; near its end by just what is needed.
    fn make_room(&mut self, more: usize) -> bool {
        let needed = self.octets.len() + more;
        let held = self.reservation.octets;
        if needed <= held {
            return true;
        }
        let roomy = needed.max(held * 2).max(STEP).min(self.limit.max(needed));
        let grown = if self.reservation.grow(roomy - held) {
            roomy
        } else if self.reservation.grow(needed - held) {
            needed
        } else {
            return false;
        };
        self.octets.reserve_exact(grown - self.octets.len());
        true
    }
}

impl ContentFault {
    /// The reply after the end of the message.
    pub fn reply(self) -> Reply {
        match self {
            Self::BareLineEnd => Reply::new(550, (5, 6, 11), "Bare CR or LF in the message"),
            Self::Nul => Reply::new(550, (5, 6, 0), "NUL in the message"),
            Self::TooLarge => Reply::new(552, (5, 3, 4), "Message size exceeds the limit"),
            Self::NoMemory => Reply::new(452, (4, 3, 1), "Too many messages are being received; retry later"),
        }
    }
}
