//! What an attempt found out about a recipient, and how that changes its progress. Pure.

use crate::mail::{AttemptReply, HoldCause, Progress, RecipientState};

/// The end of an attempt for one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Its number in `Envelope::recipients`.
    pub recipient: usize,
    /// How it ended.
    pub end: End,
    /// R1: the final dot was written and its reply never came.
    pub in_doubt: bool,
    /// The recipient's address itself was refused for good: a 5yz with an enhanced code 5.1.x to RCPT or the final dot, or
    /// a domain that does not exist.
    pub hard_bounce: bool,
    /// The next hop speaks DSN (RFC 3461 §4), and was told what the sender wants to know: success is its to report.
    pub dsn_onward: bool,
    /// What the far side, or the network, said.
    pub reply: AttemptReply,
}

/// How an attempt ended for a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The next hop has taken it.
    Delivered,
    /// To be tried again.
    Deferred,
    /// Refused for good.
    Failed,
    /// R1: it may have been taken, and on a route with `in_doubt = "hold"` nobody guesses.
    InDoubt,
}

impl Outcome {
    /// Writes itself into the message's progress. A recipient that is no longer queued is left alone, also one that an
    /// earlier process left in doubt; what this attempt journalled as doubtful is still queued here (see `doubt.rs`). Gives
    /// back whether it is held now.
    pub(super) fn apply(&self, progress: &mut Progress) -> bool {
        let Some(recipient) = progress.recipients.get_mut(self.recipient) else { return false };
        if recipient.state != RecipientState::Queued {
            return false;
        }
        recipient.attempts = recipient.attempts.saturating_add(1);
        recipient.note(self.reply.clone());
        recipient.state = match self.end {
            End::Delivered => RecipientState::Delivered,
            End::Deferred => RecipientState::Queued,
            End::Failed => RecipientState::Held(HoldCause::Failed),
            End::InDoubt => RecipientState::Held(HoldCause::InDoubt),
        };
        matches!(recipient.state, RecipientState::Held(_))
    }
}
