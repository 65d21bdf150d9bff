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
    /// From acceptance, or from the time until which the sender wanted it held back; what is still queued then has failed.
    pub expire_after: Duration,
    /// A sender whose message is still queued after this is told so, once; `None`: never.
    pub warn_after: Option<Duration>,
    /// What becomes of a recipient that failed for good or expired.
    pub on_failure: OnFailure,
    /// Our name in reports to senders.
    pub hostname: String,
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

/// `retry.on_failure`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFailure {
    /// The sender is told (RFC 3464), and the message is forgotten.
    #[default]
    Bounce,
    /// The message is kept, with every reply it got.
    Hold,
    /// The message is forgotten.
    Discard,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(30),
            cap: Duration::from_secs(3_600),
            jitter: Jitter::Full,
            expire_after: Duration::from_secs(5 * 86_400),
            warn_after: Some(Duration::from_secs(4 * 3_600)),
            on_failure: OnFailure::Bounce,
            hostname: "localhost".to_owned(),
            fresh_bytes: 64_000_000,
        }
    }
}
