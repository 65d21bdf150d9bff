//! Turns at working on large messages: what is hashed and decoded takes a processor to itself, and no more of it is begun
//! than there are processors.
//!
//! Whoever comes first is first. Giants have all turns but one, so that an ordinary attachment does not wait for a message
//! that was made to be expensive, and small messages need no turn at all. A message has one turn from its final dot until
//! it is built, so that it stands in line once, before anything is claimed for it (I4). Turns never run out: whoever is
//! dropped while waiting leaves the line, and work that nobody waits for any more ends with its turn.

use std::sync::Arc;
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Contents up to this many octets are worked on in place: a few hundred microseconds at most.
pub(super) const INLINE_BYTES: usize = 256 * 1024;
/// Contents beyond this are giants.
pub(super) const GIANT_BYTES: usize = 2 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    giants: Arc<Semaphore>,
}

/// To be kept for as long as the work goes on.
#[derive(Debug)]
pub(super) struct Turn {
    _giant: Option<OwnedSemaphorePermit>,
    _turn: OwnedSemaphorePermit,
}

impl Default for Turns {
    /// For the processors of this machine.
    fn default() -> Self {
        Self::new(thread::available_parallelism().map_or(1, usize::from))
    }
}

impl Turns {
    pub(super) fn new(processors: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(processors + 1)), giants: Arc::new(Semaphore::new(processors)) }
    }

    /// A turn for a content of so many octets; none where none is needed.
    ///
    /// # Cancel safety
    /// Whoever is dropped leaves the line.
    pub(super) async fn take(&self, octets: usize) -> Option<Turn> {
        if octets <= INLINE_BYTES {
            return None;
        }
        let giant = match octets > GIANT_BYTES {
            true => self.giants.clone().acquire_owned().await.ok(),
            false => None,
        };
        // Nobody closes them.
        let turn = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn { _giant: giant, _turn: turn })
    }
}
