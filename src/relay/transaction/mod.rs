//! One SMTP transaction over an open connection: MAIL, RCPT…, DATA, the message, the final dot.
//!
//! Every recipient gets the reply that was meant for it. Until the final dot is written the transaction may end
//! anywhere and the message was not sent; from then on, until its reply is read, it is in doubt (R1), is never
//! cancelled, and a lost connection is told as just that.

mod offer;
mod replies;
mod sending;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::classify::{Meaning, Phase, is_hard_bounce, meaning};
use super::commands::{self, Needs, Offered};
use super::fields::Front;
use super::opening::{Ready, Trouble};
use super::options::Timeouts;
use super::wire::Wire;
use crate::mail::{AttemptReply, Message};
use crate::queue::{End, IN_DOUBT, Lease};
use crate::smtp::Reply;
use crate::smtp::capabilities::Capabilities;
use replies::Replies;

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
    /// As in [`Ready`].
    is_verified: bool,
    /// Route and host, for what is journalled before the final dot.
    name: (String, String),
}

/// What goes over the wire in one transaction.
#[derive(Clone, Copy)]
pub(super) struct Parcel<'a> {
    pub(super) message: &'a Message,
    /// Header fields that the route puts in front of it.
    pub(super) fields: &'a Front,
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

impl Parcel<'_> {
    /// Octets of the message with its fields, at most.
    fn size(&self) -> usize {
        self.fields.longest() + self.message.content.len()
    }
}

impl Answer {
    fn replied(end: End, reply: &Reply) -> Self {
        Self { code: reply.code, ..Self::local(end, reply.text()) }
    }

    /// Refused for good, in a reply that speaks of this recipient alone.
    fn refused(reply: &Reply) -> Self {
        Self { hard_bounce: is_hard_bounce(reply), ..Self::replied(End::Failed, reply) }
    }

    pub(super) fn local(end: End, text: impl Into<String>) -> Self {
        let mut text = text.into();
        // S2: a far side that talks much must not be quoted in full to each of many recipients.
        AttemptReply::cut(&mut text);
        Self { end, in_doubt: false, hard_bounce: false, code: 0, text }
    }

    /// R1: nobody knows.
    fn in_doubt(why: &str) -> Self {
        let text = format!("{IN_DOUBT}the message was sent, but its reply never came: {why}");
        Self { in_doubt: true, ..Self::local(End::Deferred, text) }
    }
}

impl Session {
    pub(super) fn new(ready: Ready) -> Self {
        let Ready { wire, capabilities, tls, is_verified, .. } = ready;
        Self { wire, capabilities, needs_reset: false, tls, is_verified, name: Default::default() }
    }

    /// With what it is called in what is journalled before a final dot.
    pub(super) fn named(self, route: &str, host: &str) -> Self {
        Self { name: (route.to_owned(), host.to_owned()), ..self }
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
            return self.transact_all(*parcel, timeouts, stop).await;
        }
        let ended = self.transact_all(Parcel { recipients: &possible, ..*parcel }, timeouts, stop).await;
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
        parcel: Parcel<'_>,
        timeouts: &Timeouts,
        stop: &CancellationToken,
    ) -> Ended {
        let fields = parcel.fields.octets(parcel.recipients);
        let needs = Needs::of(parcel.message, &fields, parcel.recipients);
        let offered = Offered { capabilities: self.capabilities, is_verified: self.is_verified };
        if let Some(text) = commands::obstacle(parcel.message, &fields, needs, offered) {
            let answers = vec![Answer::local(End::Failed, text); parcel.recipients.len()];
            return Ended::Answered { answers, usable: true, healthy: None };
        }
        let offer = self.offer(parcel, needs, timeouts);
        let replies = tokio::select! {
            biased;
            replies = offer => replies,
            () = cut_short(stop) => return Ended::Lost(Trouble::local("the relay is shutting down")),
        };
        match replies {
            Ok(replies) => self.go_on(parcel, replies, timeouts).await,
            Err(trouble) => Ended::Lost(trouble),
        }
    }

    /// Gives each recipient its reply, and sends the message when there is somebody to send it to.
    async fn go_on(&mut self, parcel: Parcel<'_>, replies: Replies, timeouts: &Timeouts) -> Ended {
        let usable = !replies.broken && replies.data.as_ref().is_none_or(|reply| reply.code != CLOSING);
        let from_nobody = parcel.message.envelope.reverse_path.mailbox().is_none();
        let answers = match replies.answers(parcel.recipients.len(), from_nobody) {
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
            return self.send(parcel, answers, timeouts).await;
        }
        self.needs_reset = true;
        match meaning(Phase::Data, &data) {
            Meaning::Deferred => answered(answers, &Answer::replied(End::Deferred, &data), true, true),
            Meaning::Failed => answered(answers, &Answer::replied(End::Failed, &data), true, true),
            Meaning::AboutUs | Meaning::Closing => Ended::Refused(Trouble::refused("DATA", &data)),
            Meaning::Accepted | Meaning::OutOfPlace => Ended::Lost(Trouble::refused("DATA", &data)),
        }
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
