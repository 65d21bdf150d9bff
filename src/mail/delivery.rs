//! How far a message has come: one state per recipient, and every reply that it got.

use crate::clock::Timestamp;

/// The mutable half of a queued message. Recipients are in the order of `Envelope::recipients`, one each (D6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Attempts that were counted against the message so far.
    pub attempts: u32,
    /// When it is due again; meaningful while a recipient is queued.
    pub next_attempt: Timestamp,
    /// The sender was told that it takes long (RFC 3461 §6.3 `delayed`): once is enough.
    pub warned: bool,
    /// An operator has released it from a hold then: its age counts anew from here.
    pub released_at: Option<Timestamp>,
    /// One entry per recipient.
    pub recipients: Vec<RecipientProgress>,
}

/// One recipient's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecipientProgress {
    /// Where it stands.
    pub state: RecipientState,
    /// Transactions in which this recipient was offered.
    pub attempts: u32,
    /// What the far side, or the network, said: oldest first, equal neighbours counted once, at most
    /// [`RecipientProgress::MAX_REPLIES`].
    pub replies: Vec<AttemptReply>,
}

/// D6: a recipient is always in exactly one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecipientState {
    /// Will be tried (again) at `Progress::next_attempt`.
    Queued,
    /// The next hop has taken it.
    Delivered,
    /// Kept, not tried again until an operator says so.
    Held(HoldCause),
    /// The sender was told that it failed.
    Bounced,
    /// It failed, and nobody was told: the sender wanted it so (`NOTIFY=NEVER`, the null sender) or the operator did
    /// (`on_failure = "discard"`).
    Discarded,
}

/// Why a recipient is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldCause {
    /// The far side refused it for good.
    Failed,
    /// `retry.expire_after` went by.
    Expired,
    /// The final dot was, or may have been, written and no reply came, on a route with `in_doubt = "hold"`. It is journalled
    /// before the final dot, and an outcome of the same attempt takes its place.
    InDoubt,
    /// An operator said so.
    Operator,
}

/// One thing that was said about a recipient, and how often in a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttemptReply {
    /// When it was last said.
    pub at: Timestamp,
    /// The route that was tried.
    pub route: String,
    /// Host name or address of the far side, with port; empty when there was none.
    pub host: String,
    /// Reply code, or 0 when the failure was ours or the network's.
    pub code: u16,
    /// Text with the enhanced code, or the local error; at most [`AttemptReply::MAX_TEXT`] bytes.
    pub text: String,
    /// How often in a row.
    pub times: u32,
    /// The encryption it came over, `TLSv1.3 dane`; empty for none, and when nothing was connected.
    pub tls: String,
}

impl AttemptReply {
    /// Longer texts are cut here (at a character boundary), in bytes.
    pub const MAX_TEXT: usize = 512;

    /// How the note begins of an operator who had the recipient tried at once.
    pub const RETRIED: &str = "retried by";
    /// The same of a hold.
    pub const HELD: &str = "held by";
    /// The same of a release.
    pub const RELEASED: &str = "released by";

    /// Whether this is the note of an operator who had the recipient wait or tried: no answer to an attempt, which has a
    /// route or a status in its text.
    pub fn is_steering(&self) -> bool {
        let begins = [Self::RETRIED, Self::HELD, Self::RELEASED];
        self.code == 0 && self.route.is_empty() && begins.iter().any(|begin| self.text.starts_with(begin))
    }

    /// Cuts a text to [`AttemptReply::MAX_TEXT`].
    pub fn cut(text: &mut String) {
        let mut end = text.len().min(Self::MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}

impl RecipientProgress {
    /// Older replies are dropped beyond this many different ones in a row.
    pub const MAX_REPLIES: usize = 32;

    /// What was said last that tells why a recipient has not been delivered, if anything was.
    pub fn last_answer(&self) -> Option<&AttemptReply> {
        self.replies.iter().rev().find(|reply| !reply.is_steering())
    }

    /// Notes a reply; one that says the same as the last is only counted.
    pub fn note(&mut self, mut reply: AttemptReply) {
        AttemptReply::cut(&mut reply.text);
        if let Some(last) = self.replies.last_mut()
            && (last.code, &last.text, &last.host, &last.route)
                == (reply.code, &reply.text, &reply.host, &reply.route)
            && last.tls == reply.tls
        {
            last.times = last.times.saturating_add(reply.times);
            last.at = reply.at;
            return;
        }
        if self.replies.len() >= Self::MAX_REPLIES {
            self.replies.remove(0);
        }
        self.replies.push(reply);
    }
}

impl Progress {
    /// A message that nobody has tried yet, due at `now`.
    pub fn fresh(recipients: usize, now: Timestamp) -> Self {
        let recipient = RecipientProgress { state: RecipientState::Queued, attempts: 0, replies: Vec::new() };
        Self {
            attempts: 0,
            next_attempt: now,
            warned: false,
            released_at: None,
            recipients: vec![recipient; recipients],
        }
    }

    /// Whether a recipient waits for an attempt.
    pub fn is_queued(&self) -> bool {
        self.recipients.iter().any(|r| r.state == RecipientState::Queued)
    }

    /// Whether a recipient is held.
    pub fn is_held(&self) -> bool {
        self.recipients.iter().any(|r| matches!(r.state, RecipientState::Held(_)))
    }

    /// Whether nothing is left to do: every recipient is delivered, bounced or discarded, and the message may be forgotten.
    pub fn is_finished(&self) -> bool {
        !self.is_queued() && !self.is_held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> AttemptReply {
        AttemptReply {
            at: Timestamp::from_millis(1),
            route: "r".into(),
            host: "h:25".into(),
            code: 451,
            text: text.into(),
            times: 1,
            tls: String::new(),
        }
    }

    #[test]
    fn the_same_reply_in_a_row_is_counted_and_the_list_is_bounded() {
        let mut recipient = Progress::fresh(1, Timestamp::default()).recipients.remove(0);
        recipient.note(reply("busy"));
        recipient.note(reply("busy"));
        assert_eq!((recipient.replies.len(), recipient.replies[0].times), (1, 2));
        for n in 0..100 {
            recipient.note(reply(&n.to_string()));
        }
        assert_eq!(recipient.replies.len(), RecipientProgress::MAX_REPLIES);
        assert_eq!(recipient.replies.last().unwrap().text, "99");
    }

    #[test]
    fn a_long_reply_is_cut_between_characters() {
        let mut recipient = Progress::fresh(1, Timestamp::default()).recipients.remove(0);
        recipient.note(reply(&format!("{}é", "x".repeat(AttemptReply::MAX_TEXT - 1))));
        assert_eq!(recipient.replies[0].text.len(), AttemptReply::MAX_TEXT - 1);
    }

    #[test]
    fn d6_a_message_is_finished_only_when_no_recipient_is_queued_or_held() {
        let mut progress = Progress::fresh(2, Timestamp::default());
        assert!(progress.is_queued() && !progress.is_finished());
        progress.recipients[0].state = RecipientState::Delivered;
        progress.recipients[1].state = RecipientState::Held(HoldCause::Failed);
        assert!(progress.is_held() && !progress.is_finished());
        progress.recipients[1].state = RecipientState::Bounced;
        assert!(progress.is_finished());
    }
}
