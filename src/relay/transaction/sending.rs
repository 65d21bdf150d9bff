//! The message, its final dot, and the reply to it (R1).
//!
//! On most routes all of it goes out in one write. With `in_doubt = "hold"` the final dot waits until the store has
//! everybody as held: the journal is written while the content is under way, so it costs little, and a process that
//! dies earlier has sent nothing. Between the journal and the dot nothing is waited for and nothing is asked.

use super::{Answer, Ended, PARTING_WORDS, Parcel, Session, answered};
use crate::mail::AttemptReply;
use crate::queue::{End, IN_DOUBT, Lease};
use crate::relay::classify::{Meaning, Phase, meaning};
use crate::relay::opening::Trouble;
use crate::relay::options::Timeouts;
use crate::relay::wire::WireError;
use crate::smtp::dot_writer::{FINAL_DOT, Pieces};
use crate::store::StoreError;

/// What a crash leaves behind in the record of a recipient that may have the message.
const ABOUT_TO_BE_SENT: &str = "the message was about to be sent, and the relay ended before it knew what became of it: it may have been delivered";

/// What became of the final dot.
enum Dot {
    /// R1: the far side may have it.
    Sent,
    /// It may or may not have left.
    Uncertain(WireError),
    /// It was not written: the far side broke off.
    Withheld(WireError),
    /// R1: it was not written, because the doubt could not be made durable.
    Unjournalled(StoreError),
}

impl Session {
    /// Everybody was refused. A far side that says 354 all the same gets nothing but the final dot (RFC 2920 §3.1).
    pub(super) async fn nobody(
        &mut self,
        answers: Vec<Option<Answer>>,
        goes_ahead: bool,
        usable: bool,
        timeouts: &Timeouts,
    ) -> Ended {
        let mut usable = usable;
        self.needs_reset = !goes_ahead;
        if goes_ahead && usable {
            let sent = self.wire.send(FINAL_DOT, timeouts.data_block).await;
            usable = sent.is_ok() && self.wire.reply(timeouts.data_termination).await.is_ok();
        }
        Ended::Answered { answers: answers.into_iter().flatten().collect(), usable, healthy: Some(true) }
    }

    /// The message and its final dot, for those who have no answer yet.
    pub(super) async fn send(
        &mut self,
        parcel: Parcel<'_>,
        answers: Vec<Option<Answer>>,
        timeouts: &Timeouts,
    ) -> Ended {
        // A reply that is there already would be taken for the reply to the final dot.
        if let Err(error) = self.wire.expect_silence().await {
            return Ended::Lost(Trouble::lost("DATA", &error));
        }
        let accepted: Vec<usize> = parcel
            .recipients
            .iter()
            .zip(&answers)
            .filter(|(_, own)| own.is_none())
            .map(|(n, _)| *n)
            .collect();
        let fields = parcel.fields.octets(&accepted);
        let pieces = Pieces::new(&fields, &parcel.message.content);
        let dot = match parcel.doubt {
            None => self.write_all(pieces, timeouts).await,
            Some(lease) => self.write_journalled(pieces, lease, &accepted, timeouts).await,
        };
        let in_doubt = |error: &WireError| Answer::in_doubt(&error.to_string());
        match dot {
            Dot::Sent => {}
            Dot::Uncertain(error) => return answered(answers, &in_doubt(&error), false, false),
            Dot::Withheld(error) => return self.cut_off(answers, &error).await,
            Dot::Unjournalled(error) => return unjournalled(answers, &error),
        }
        let reply = match self.wire.reply(timeouts.data_termination).await {
            Ok(reply) => reply,
            Err(error) => return answered(answers, &in_doubt(&error), false, false),
        };
        let usable = self.wire.expect_quiet().is_ok();
        let meaning = meaning(Phase::FinalDot, &reply);
        if let Some(lease) =
            parcel.doubt.filter(|_| !matches!(meaning, Meaning::Accepted | Meaning::OutOfPlace))
        {
            lease.not_taken(&accepted).await;
        }
        match meaning {
            Meaning::Accepted => answered(answers, &Answer::replied(End::Delivered, &reply), usable, true),
            Meaning::Deferred => answered(answers, &Answer::replied(End::Deferred, &reply), usable, true),
            // Of several recipients nobody knows which one is meant by "no such mailbox".
            Meaning::Failed if accepted.len() == 1 => {
                answered(answers, &Answer::refused(&reply), usable, true)
            }
            Meaning::Failed => answered(answers, &Answer::replied(End::Failed, &reply), usable, true),
            Meaning::AboutUs | Meaning::Closing => {
                answered(answers, &Answer::replied(End::Deferred, &reply), false, false)
            }
            Meaning::OutOfPlace => answered(answers, &Answer::in_doubt(&reply.to_string()), false, false),
        }
    }

    async fn write_all(&mut self, pieces: Pieces<'_>, timeouts: &Timeouts) -> Dot {
        if let Err(error) = self.wire.send_pieces(pieces, timeouts.data_block).await {
            return Dot::Withheld(error);
        }
        match self.wire.flush(timeouts.data_block).await {
            Ok(()) => Dot::Sent,
            Err(error) => Dot::Uncertain(error),
        }
    }

    /// R1: content, journal, final dot. A far side that has said something by now has not taken the message, and what it
    /// said must not be taken for the reply to the dot.
    async fn write_journalled(
        &mut self,
        pieces: Pieces<'_>,
        lease: &Lease,
        accepted: &[usize],
        timeouts: &Timeouts,
    ) -> Dot {
        let content = async {
            self.wire.send_pieces(pieces.without_final_dot(), timeouts.data_block).await?;
            self.wire.flush(timeouts.data_block).await?;
            self.wire.expect_silence().await
        };
        if let Err(error) = content.await {
            return Dot::Withheld(error);
        }
        if let Err(error) = lease.doubt(accepted, self.doubtful(lease)).await {
            return Dot::Unjournalled(error);
        }
        match self.wire.send(FINAL_DOT, timeouts.data_block).await {
            Ok(()) => Dot::Sent,
            Err(error) => Dot::Uncertain(error),
        }
    }

    fn doubtful(&self, lease: &Lease) -> AttemptReply {
        let (route, host) = self.name.clone();
        let text = format!("{IN_DOUBT}{ABOUT_TO_BE_SENT}");
        AttemptReply { at: lease.now(), route, host, code: 0, text, times: 1, tls: self.tls.clone() }
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

/// Our own trouble, about which the far side's breaker learns nothing.
fn unjournalled(answers: Vec<Option<Answer>>, error: &StoreError) -> Ended {
    let text = format!("4.3.0 not sent: that it was about to be sent could not be journalled: {error}");
    match answered(answers, &Answer::local(End::Deferred, text), false, true) {
        Ended::Answered { answers, usable, .. } => Ended::Answered { answers, usable, healthy: None },
        other => other,
    }
}
