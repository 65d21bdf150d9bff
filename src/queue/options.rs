//! What the queue can be told.

use std::time::Duration;

/// `[retry]`, validated, and the queue's own bound.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first wait; doubled after each attempt.
    pub base: Duration,
    /// No wait is longer.
    pub cap: Duration,
    /// How a wait is spread.
    pub jitter: Jitter,
    /// From acceptance; what is still queued then is held.
    pub expire_after: Duration,
    /// Fresh messages are kept in memory up to this many bytes; beyond it they are read back when due (S2).
    pub fresh_bytes: usize,
}

/// `retry.jitter`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Jitter {
    /// Anywhere between nothing and the whole wait.
    #[default]
    Full,
    /// The wait as computed.
    None,
}
