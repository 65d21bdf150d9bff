//! The replies up to the 354, and which of them is whose.
//!
//! They are kept apart from their meaning, because with pipelining all of them come before any is used.

use super::{Answer, CLOSING, Ended};
use crate::mail::AttemptReply;
use crate::queue::End;
use crate::relay::classify::{Meaning, Phase, meaning};
use crate::relay::opening::Trouble;
use crate::smtp::Reply;

/// See the module.
pub(super) struct Replies {
    pub(super) mail: Reply,
    pub(super) rcpts: Vec<Reply>,
    /// `None` when DATA was not sent.
    pub(super) data: Option<Reply>,
    /// The connection ended, or is about to, and no more replies can be had.
    pub(super) broken: bool,
}

impl Replies {
    pub(super) fn new(mail: Reply) -> Self {
        Self { broken: mail.code == CLOSING, mail, rcpts: Vec::new(), data: None }
    }

    /// S2: of a reply only what is kept of it. After a 421 nothing more is to be expected.
    pub(super) fn add_rcpt(&mut self, reply: &Reply) {
        let mut text = reply.lines.join("; ");
        AttemptReply::cut(&mut text);
        self.rcpts.push(Reply { code: reply.code, enhanced: reply.enhanced, lines: vec![text.into()] });
        self.broken |= reply.code == CLOSING;
    }

    /// The connection ended early. That matters only while somebody could still be sent to.
    pub(super) fn broken_off(&mut self, trouble: Trouble, all_rcpts_read: bool) -> Result<(), Trouble> {
        let nobody_accepted = all_rcpts_read && !self.rcpts.iter().any(Reply::is_positive);
        if self.mail.is_positive() && !nobody_accepted {
            return Err(trouble);
        }
        self.broken = true;
        Ok(())
    }

    /// One answer for each recipient that has one; `None` for those that were accepted.
    pub(super) fn answers(&self, recipients: usize, from_nobody: bool) -> Result<Vec<Option<Answer>>, Ended> {
        if let Some(answer) = self.mail_answer(from_nobody)? {
            return Ok(vec![Some(answer); recipients]);
        }
        let answers: Vec<_> =
            self.rcpts.iter().map(|reply| judge(Phase::Rcpt, "RCPT", reply)).collect::<Result<_, _>>()?;
        if answers.len() == recipients {
            Ok(answers)
        } else {
            Err(Ended::Lost(Trouble::local("RCPT was not answered")))
        }
    }

    /// R2: many far sides take no null sender. That keeps reports waiting, and says nothing about everybody else's mail,
    /// which must not be kept waiting for it.
    fn mail_answer(&self, from_nobody: bool) -> Result<Option<Answer>, Ended> {
        let judged = judge(Phase::Mail, "MAIL", &self.mail);
        let is_about_login = matches!(self.mail.code, CLOSING | 530 | 534 | 535 | 538);
        match judged {
            Err(Ended::Refused(_)) if from_nobody && !is_about_login => {
                Ok(Some(Answer::replied(End::Deferred, &self.mail)))
            }
            judged => judged,
        }
    }
}

/// What a reply means for its recipient, or for the whole transaction.
fn judge(phase: Phase, step: &str, reply: &Reply) -> Result<Option<Answer>, Ended> {
    match meaning(phase, reply) {
        Meaning::Accepted => Ok(None),
        Meaning::Deferred => Ok(Some(Answer::replied(End::Deferred, reply))),
        Meaning::Failed if phase == Phase::Rcpt => Ok(Some(Answer::refused(reply))),
        Meaning::Failed => Ok(Some(Answer::replied(End::Failed, reply))),
        Meaning::AboutUs | Meaning::Closing => Err(Ended::Refused(Trouble::refused(step, reply))),
        Meaning::OutOfPlace => Err(Ended::Lost(Trouble::refused(step, reply))),
    }
}
