//! From DATA or BDAT to a whole message.
//!
//! A chunk that comes out of turn is read to its end all the same (RFC 3030 §2): its octets must never be taken for
//! commands.

use super::{Action, Hello, Incoming, Session, State, out_of_sequence, refuse};
use crate::smtp::command::Chunk;
use crate::smtp::content::Content;
use crate::smtp::data::{Place, Receiver};
use crate::smtp::reply::Reply;
use crate::smtp::transaction::Transaction;

impl Session {
    pub(super) fn begin_data(&mut self, state: State) -> (State, Action) {
        match state {
            State::Addressing(hello, transaction) if !transaction.envelope().recipients.is_empty() => {
                let receiver = Receiver::dots(Content::new(self.settings.message_size, &self.budget));
                let go_ahead = Reply::bare(354, "End data with <CR><LF>.<CR><LF>");
                (
                    State::ReceivingData(hello, transaction),
                    Action::Receive(Some(go_ahead), Box::new(receiver)),
                )
            }
            State::Chunking(..) => self.error(state, out_of_sequence("DATA cannot follow BDAT")),
            _ => self.without_transaction(state, "DATA needs MAIL and an accepted RCPT first"),
        }
    }

    pub(super) fn begin_chunk(&mut self, state: State, chunk: Chunk) -> (State, Action) {
        let (hello, transaction, content, place) = match state {
            State::Addressing(hello, transaction) if !transaction.envelope().recipients.is_empty() => {
                let content = Content::new(self.settings.message_size, &self.budget);
                (hello, transaction, content, Place::LineStart)
            }
            State::Chunking(hello, transaction, content, place) => (hello, transaction, content, place),
            // The octets follow whatever we answer; they must not be read as commands.
            _ => {
                let nowhere = Content::new(0, &self.budget);
                let receiver = Receiver::chunk(nowhere, Place::LineStart, chunk.size);
                return (State::SkippingChunk(Box::new(state)), Action::Receive(None, Box::new(receiver)));
            }
        };
        let receiver = Receiver::chunk(content, place, chunk.size);
        (State::ReceivingChunk(hello, transaction, chunk), Action::Receive(None, Box::new(receiver)))
    }

    pub(super) fn received_chunk(
        &mut self,
        hello: Hello,
        transaction: Box<Transaction>,
        chunk: Chunk,
        receiver: Receiver,
    ) -> (State, Action) {
        if chunk.last {
            return self.received(hello, *transaction, receiver.finish());
        }
        let (content, place) = receiver.pause();
        match content.fault() {
            Some(fault) => refuse(hello, *transaction, content.size(), fault.reply()),
            None => {
                let reply = Reply::new(250, (2, 0, 0), format!("{} octets received", chunk.size));
                (State::Chunking(hello, transaction, content, place), Action::Reply(reply))
            }
        }
    }

    pub(super) fn received(
        &mut self,
        hello: Hello,
        transaction: Transaction,
        content: Content,
    ) -> (State, Action) {
        if let Some(fault) = content.fault() {
            return refuse(hello, transaction, content.size(), fault.reply());
        }
        self.refused = 0;
        let (envelope, refused) = transaction.into_envelope();
        let with = self.with(&hello, envelope.smtputf8);
        let (content, memory) = content.into_parts();
        let incoming = Incoming { envelope, refused, content, memory, helo: hello.name.clone(), with };
        (State::Deciding(hello), Action::Submit(Box::new(incoming)))
    }

    pub(super) fn with(&self, hello: &Hello, smtputf8: bool) -> &'static str {
        if !hello.extended {
            return "SMTP";
        }
        match (smtputf8, self.tls.is_some(), self.user.is_some()) {
            (false, false, false) => "ESMTP",
            (false, false, true) => "ESMTPA",
            (false, true, false) => "ESMTPS",
            (false, true, true) => "ESMTPSA",
            (true, false, false) => "UTF8SMTP",
            (true, false, true) => "UTF8SMTPA",
            (true, true, false) => "UTF8SMTPS",
            (true, true, true) => "UTF8SMTPSA",
        }
    }
}
