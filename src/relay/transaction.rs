//! One SMTP transaction over an open connection: MAIL, RCPT…, DATA, the message, the final dot.
//!
//! Every recipient gets the reply that was meant for it. Until the final dot is written the transaction may end
//! anywhere and the message was not sent; from then on, until its reply is read, it is in doubt (R1), is never
//! cancelled, and a lost connection is told as just that.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::classify::{Meaning, Phase, meaning};
use super::commands::{self, Needs};
use super::opening::{Ready, Trouble};
use super::options::Timeouts;
use super::wire::{Wire, WireError};
use crate::mail::{AttemptReply, Message};
use crate::queue::{End, Lease};
use crate::smtp::Reply;
use crate::smtp::capabilities::Capabilities;
use crate::smtp::dot_writer::Pieces;

/// RCPT commands that are written before their replies are read: neither side's buffers can fill up (RFC 2920 §3.1).
const RCPTS_PER_WRITE: usize = 100;
/// The reply of a far side that is about to close the connection.
const CLOSING: u16 = 421;
/// What a far side may still have said when it cut us off.
const PARTING_WORDS: Duration = Duration::from_secs(1);
/// At a shutdown, a transaction that has not reached its message gets this long.
const COURTESY: Duration = Duration::from_secs(5);

/// A connection between transactions.
pub(super) struct Session {
    wire: Wire,
    capabilities: Capabilities,
    /// The last transaction was left open at the far side.
    needs_reset: bool,
    /// As in [`Ready`].
    tls: String,
}

/// What goes over the wire in one transaction.
pub(super) struct Parcel<'a> {
    pub(super) message: &'a Message,
    /// Header fields that the route puts in front of it, each with its CRLF.
    pub(super) fields: &'a [u8],
    /// Numbers of the recipients.
    pub(super) recipients: &'a [usize],
    /// On a route with `in_doubt = "hold"`: where it is journalled, before the final dot, that the message may be taken.
    pub(super) doubt: Option<&'a Lease>,
}

/// Who answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct By {
    /// Name and port; empty when nobody did.
    pub(super) host: String,
    /// As in [`Ready`].
    pub(super) tls: String,
    /// It speaks DSN, and was told what the sender wants to know.
    pub(super) dsn_onward: bool,
}

impl By {
    /// A host that was not connected to.
    pub(super) fn name(host: String) -> Self {
        Self { host, ..Self::default() }
    }
}

/// How a transaction ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Each recipient has its answer.
    Answered {
        /// In the order in which the recipients were given.
        answers: Vec<Answer>,
        /// Whether the connection can take another transaction.
        usable: bool,
        /// Whether the far side worked as it should; `None` when it was not asked.
        healthy: Option<bool>,
    },
    /// R2 or 421: nothing was accepted, and another host may be asked.
    Refused(Trouble),
    /// The connection died, or was garbled, before the final dot.
    Lost(Trouble),
}

/// What was said about one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) end: End,
    pub(super) in_doubt: bool,
    /// The recipient's address itself was refused for good.
    pub(super) hard_bounce: bool,
    /// Reply code, or 0.
    pub(super) code: u16,
    /// Reply with its enhanced code, or a sentence of ours.
    pub(super) text: String,
}

/// Replies up to the 354. Kept apart from their meaning, because with pipelining all of them come before any is used.
struct Replies {
    mail: Reply,
    rcpts: Vec<Reply>,
    /// `None` when DATA was not sent.
    data: Option<Reply>,
    /// The connection ended, or is about to, and no more replies can be had.
    broken: bool,
}

impl Answer {
    fn replied(end: End, reply: &Reply) -> Self {
        Self { code: reply.code, ..Self::local(end, reply.text()) }
    }

    pub(super) fn local(end: End, text: impl Into<String>) -> Self {
        let mut text = text.into();
        // S2: a far side that talks much must not be quoted in full to each of many recipients.
        AttemptReply::cut(&mut text);
        Self { end, in_doubt: false, hard_bounce: false, code: 0, text }
    }

    /// R1: nobody knows.
    fn in_doubt(why: &str) -> Self {
        let text = format!("in doubt: the message was sent, but its reply never came: {why}");
        Self { in_doubt: true, ..Self::local(End::Deferred, text) }
    }
}

impl Session {
    pub(super) fn new(ready: Ready) -> Self {
        Self { wire: ready.wire, capabilities: ready.capabilities, needs_reset: false, tls: ready.tls }
    }

    /// Who is at the other end.
    pub(super) fn by(&self, host: String) -> By {
        By { host, tls: self.tls.clone(), dsn_onward: self.capabilities.dsn }
    }

    /// Says goodbye and closes; nobody waits long for the answer.
    pub(super) async fn quit(mut self) {
        let _ = self.wire.command("QUIT\r\n", PARTING_WORDS).await;
    }

    /// Runs one transaction, for those whose address the far side can take; the others have failed, and hold up nobody.
    /// A `stop` cuts it short before the message is sent, never after.
    ///
    /// # Cancel safety
    /// R1: must not be dropped once it was started.
    pub(super) async fn transact(
        &mut self,
        parcel: &Parcel<'_>,
        timeouts: &Timeouts,
        stop: &CancellationToken,
    ) -> Ended {
        let Parcel { message, recipients, .. } = *parcel;
        let can_be_sent = |number: &&usize| {
            let recipient = message.envelope.recipients.get(**number);
            self.capabilities.smtputf8 || recipient.is_none_or(|r| r.forward_path.is_ascii())
        };
        let possible: Vec<usize> = recipients.iter().filter(can_be_sent).copied().collect();
        if possible.is_empty() || possible.len() == recipients.len() {
            return self.transact_all(message, recipients, timeouts, stop).await;
        }
        let ended = self.transact_all(message, &possible, timeouts, stop).await;
        let Ended::Answered { answers, usable, healthy } = ended else { return ended };
        let mut answers = possible.iter().zip(answers).peekable();
        let answers = recipients
            .iter()
            .map(|number| match answers.next_if(|(answered, _)| *answered == number) {
                Some((_, answer)) => answer,
                None => Answer::local(End::Failed, commands::NEEDS_SMTPUTF8),
            })
            .collect();
        Ended::Answered { answers, usable, healthy }
    }

    async fn transact_all(
        &mut self,
        message: &Message,
        recipients: &[usize],
        timeouts: &Timeouts,
        stop: &CancellationToken,
    ) -> Ended {
        let needs = Needs::of(message, recipients);
        if let Some(text) = commands::obstacle(message, needs, &self.capabilities) {
            let answers = vec![Answer::local(End::Failed, text); recipients.len()];
            return Ended::Answered { answers, usable: true, healthy: None };
        }
        let offer = self.offer(message, recipients, needs, timeouts);
        let replies = tokio::select! {
            replies = offer => replies,
            () = cut_short(stop) => return Ended::Lost(Trouble::local("the relay is shutting down")),
        };
        match replies {
            Ok(replies) => self.go_on(message, recipients, replies, timeouts).await,
            Err(trouble) => Ended::Lost(trouble),
        }
    }

    /// MAIL, RCPT… and DATA, and the replies to them.
    async fn offer(
        &mut self,
        message: &Message,
        recipients: &[usize],
        needs: Needs,
        timeouts: &Timeouts,
    ) -> Result<Replies, Trouble> {
        self.wire.expect_silence().await.map_err(|error| Trouble::lost("MAIL", &error))?;
        if self.capabilities.pipelining {
            self.offer_pipelined(message, recipients, needs, timeouts).await
        } else {
            self.offer_in_turn(message, recipients, needs, timeouts).await
        }
    }

    async fn offer_pipelined(
        &mut self,
        message: &Message,
        recipients: &[usize],
        needs: Needs,
        timeouts: &Timeouts,
    ) -> Result<Replies, Trouble> {
        let limit = timeouts.command;
        let mut lines = String::with_capacity(256);
        let resets = std::mem::take(&mut self.needs_reset);
        if resets {
            lines.push_str("RSET\r\n");
        }
        commands::mail(&mut lines, message, needs, &self.capabilities);
        let mut replies: Option<Replies> = None;
        let mut groups = recipients.chunks(RCPTS_PER_WRITE).peekable();
        while let Some(group) = groups.next() {
            for recipient in group.iter().filter_map(|number| message.envelope.recipients.get(*number)) {
                commands::rcpt(&mut lines, recipient, &self.capabilities);
            }
            let is_last = groups.peek().is_none();
            if is_last {
                lines.push_str("DATA\r\n");
            }
            self.wire.send(lines.as_bytes(), limit).await.map_err(|error| Trouble::lost("MAIL", &error))?;
            lines.clear();
            let so_far = match &mut replies {
                Some(so_far) => so_far,
                None => {
                    if resets {
                        self.read_reset(limit).await?;
                    }
                    replies.insert(Replies::new(self.read("MAIL", limit).await?))
                }
            };
            if !so_far.broken {
                self.read_group(so_far, group.len(), is_last, timeouts).await?;
            }
            if so_far.broken || !so_far.mail.is_positive() {
                break;
            }
        }
        replies.ok_or_else(|| Trouble::local("a message without recipients"))
    }

    /// The replies to one pipelined group. Once it is clear that nothing is sent, a lost connection loses nothing.
    async fn read_group(
        &mut self,
        replies: &mut Replies,
        rcpts: usize,
        with_data: bool,
        timeouts: &Timeouts,
    ) -> Result<(), Trouble> {
        for _ in 0..rcpts {
            match self.read("RCPT", timeouts.command).await {
                Ok(reply) => replies.add_rcpt(&reply),
                Err(trouble) => return replies.broken_off(trouble, false),
            }
            if replies.broken {
                return Ok(());
            }
        }
        if with_data {
            match self.read("DATA", timeouts.data_initiation).await {
                Ok(reply) => replies.data = Some(reply),
                Err(trouble) => return replies.broken_off(trouble, true),
            }
        }
        Ok(())
    }

    async fn offer_in_turn(
        &mut self,
        message: &Message,
        recipients: &[usize],
        needs: Needs,
        timeouts: &Timeouts,
    ) -> Result<Replies, Trouble> {
        let limit = timeouts.command;
        if std::mem::take(&mut self.needs_reset) {
            self.wire.send(b"RSET\r\n", limit).await.map_err(|error| Trouble::lost("RSET", &error))?;
            self.read_reset(limit).await?;
        }
        let mut line = String::with_capacity(128);
        commands::mail(&mut line, message, needs, &self.capabilities);
        let mail = self.wire.command(&line, limit).await.map_err(|error| Trouble::lost("MAIL", &error))?;
        let mut replies = Replies::new(mail);
        if !replies.mail.is_positive() {
            return Ok(replies);
        }
        for recipient in recipients.iter().filter_map(|number| message.envelope.recipients.get(*number)) {
            line.clear();
            commands::rcpt(&mut line, recipient, &self.capabilities);
            let reply =
                self.wire.command(&line, limit).await.map_err(|error| Trouble::lost("RCPT", &error))?;
            replies.add_rcpt(&reply);
            if replies.broken {
                return Ok(replies);
            }
        }
        if replies.rcpts.iter().any(Reply::is_positive) {
            let sent = self.wire.send(b"DATA\r\n", limit).await;
            sent.map_err(|error| Trouble::lost("DATA", &error))?;
            replies.data = Some(self.read("DATA", timeouts.data_initiation).await?);
        }
        Ok(replies)
    }

    async fn read(&mut self, step: &str, limit: Duration) -> Result<Reply, Trouble> {
        self.wire.reply(limit).await.map_err(|error| Trouble::lost(step, &error))
    }

    async fn read_reset(&mut self, limit: Duration) -> Result<(), Trouble> {
        let reply = self.read("RSET", limit).await?;
        if reply.is_positive() { Ok(()) } else { Err(Trouble::refused("RSET", &reply)) }
    }

    /// Gives each recipient its reply, and sends the message when there is somebody to send it to.
    async fn go_on(
        &mut self,
        message: &Message,
        recipients: &[usize],
        replies: Replies,
        timeouts: &Timeouts,
    ) -> Ended {
        let usable = !replies.broken && replies.data.as_ref().is_none_or(|reply| reply.code != CLOSING);
        let answers = match replies.answers(recipients.len()) {
            Ok(answers) => answers,
            Err(ended) => return ended,
        };
        let goes_ahead = replies.data.as_ref().is_some_and(|reply| reply.code == 354);
        if answers.iter().all(Option::is_some) {
            return self.nobody(answers, goes_ahead, usable, timeouts).await;
        }
        let Some(data) = replies.data else {
            return Ended::Lost(Trouble::local("DATA was not answered"));
        };
        if goes_ahead {
            return self.send(message, answers, timeouts).await;
        }
        self.needs_reset = true;
        match meaning(Phase::Data, &data) {
            Meaning::Deferred => answered(answers, &Answer::replied(End::Deferred, &data), true, true),
            Meaning::Failed => answered(answers, &Answer::replied(End::Failed, &data), true, true),
            Meaning::AboutUs | Meaning::Closing => Ended::Refused(Trouble::refused("DATA", &data)),
            Meaning::Accepted | Meaning::OutOfPlace => Ended::Lost(Trouble::refused("DATA", &data)),
        }
    }

    /// Everybody was refused. A far side that says 354 all the same gets nothing but the final dot (RFC 2920 §3.1).
    async fn nobody(
        &mut self,
        answers: Vec<Option<Answer>>,
        goes_ahead: bool,
        usable: bool,
        timeouts: &Timeouts,
    ) -> Ended {
        let mut usable = usable;
        self.needs_reset = !goes_ahead;
        if goes_ahead && usable {
            let sent = self.wire.send(b".\r\n", timeouts.data_block).await;
            usable = sent.is_ok() && self.wire.reply(timeouts.data_termination).await.is_ok();
        }
        Ended::Answered { answers: answers.into_iter().flatten().collect(), usable, healthy: Some(true) }
    }

    /// The message and its final dot.
    async fn send(&mut self, message: &Message, answers: Vec<Option<Answer>>, timeouts: &Timeouts) -> Ended {
        // A reply that is there already would be taken for the reply to the final dot.
        if let Err(error) = self.wire.expect_silence().await {
            return Ended::Lost(Trouble::lost("DATA", &error));
        }
        if let Err(error) = self.wire.send_pieces(Pieces::new(&message.content), timeouts.data_block).await {
            return self.cut_off(answers, &error).await;
        }
        // R1: from here on the far side may have the message.
        let in_doubt = |error: &WireError| Answer::in_doubt(&error.to_string());
        if let Err(error) = self.wire.flush(timeouts.data_block).await {
            return answered(answers, &in_doubt(&error), false, false);
        }
        let reply = match self.wire.reply(timeouts.data_termination).await {
            Ok(reply) => reply,
            Err(error) => return answered(answers, &in_doubt(&error), false, false),
        };
        let usable = self.wire.expect_quiet().is_ok();
        match meaning(Phase::FinalDot, &reply) {
            Meaning::Accepted => answered(answers, &Answer::replied(End::Delivered, &reply), usable, true),
            Meaning::Deferred => answered(answers, &Answer::replied(End::Deferred, &reply), usable, true),
            Meaning::Failed => answered(answers, &Answer::replied(End::Failed, &reply), usable, true),
            Meaning::AboutUs | Meaning::Closing => {
                answered(answers, &Answer::replied(End::Deferred, &reply), false, false)
            }
            Meaning::OutOfPlace => answered(answers, &Answer::in_doubt(&reply.to_string()), false, false),
        }
    }

    /// The connection broke while the message was being written. Some far sides say why before they close: a message
    /// that is too large would be tried for days without these words.
    async fn cut_off(&mut self, answers: Vec<Option<Answer>>, error: &WireError) -> Ended {
        let lost = Ended::Lost(Trouble::lost("sending the message", error));
        let Ok(reply) = self.wire.reply(PARTING_WORDS).await else { return lost };
        match meaning(Phase::FinalDot, &reply) {
            Meaning::Deferred => answered(answers, &Answer::replied(End::Deferred, &reply), false, true),
            Meaning::Failed => answered(answers, &Answer::replied(End::Failed, &reply), false, true),
            Meaning::AboutUs | Meaning::Closing => {
                Ended::Refused(Trouble::refused("sending the message", &reply))
            }
            Meaning::Accepted | Meaning::OutOfPlace => lost,
        }
    }
}

impl Replies {
    fn new(mail: Reply) -> Self {
        Self { broken: mail.code == CLOSING, mail, rcpts: Vec::new(), data: None }
    }

    /// S2: of a reply only what is kept of it. After a 421 nothing more is to be expected.
    fn add_rcpt(&mut self, reply: &Reply) {
        let mut text = reply.lines.join("; ");
        AttemptReply::cut(&mut text);
        self.rcpts.push(Reply { code: reply.code, enhanced: reply.enhanced, lines: vec![text.into()] });
        self.broken |= reply.code == CLOSING;
    }

    /// The connection ended early. That matters only while somebody could still be sent to.
    fn broken_off(&mut self, trouble: Trouble, all_rcpts_read: bool) -> Result<(), Trouble> {
        let nobody_accepted = all_rcpts_read && !self.rcpts.iter().any(Reply::is_positive);
        if self.mail.is_positive() && !nobody_accepted {
            return Err(trouble);
        }
        self.broken = true;
        Ok(())
    }

    /// One answer for each recipient that has one; `None` for those that were accepted.
    fn answers(&self, recipients: usize) -> Result<Vec<Option<Answer>>, Ended> {
        if let Some(answer) = judge(Phase::Mail, "MAIL", &self.mail)? {
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
}

/// What a reply means for its recipient, or for the whole transaction.
fn judge(phase: Phase, step: &str, reply: &Reply) -> Result<Option<Answer>, Ended> {
    match meaning(phase, reply) {
        Meaning::Accepted => Ok(None),
        Meaning::Deferred => Ok(Some(Answer::replied(End::Deferred, reply))),
        Meaning::Failed => Ok(Some(Answer::replied(End::Failed, reply))),
        Meaning::AboutUs | Meaning::Closing => Err(Ended::Refused(Trouble::refused(step, reply))),
        Meaning::OutOfPlace => Err(Ended::Lost(Trouble::refused(step, reply))),
    }
}

/// Gives `answer` to all who have none yet.
fn answered(answers: Vec<Option<Answer>>, answer: &Answer, usable: bool, healthy: bool) -> Ended {
    let answers = answers.into_iter().map(|own| own.unwrap_or_else(|| answer.clone())).collect();
    Ended::Answered { answers, usable, healthy: Some(healthy) }
}

async fn cut_short(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(COURTESY).await;
}
