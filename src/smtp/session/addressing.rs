//! MAIL and RCPT: who a message is from and for, and how it wants to be carried.
//!
//! What costs nothing to refuse is refused first; the world is asked only about what is left.

use super::{Action, AuthPolicy, Hello, RecipientCheck, Session, State, close, out_of_sequence, refuse};
use crate::clock::Timestamp;
use crate::mail::Handling;
use crate::smtp::command::{Mail, Rcpt};
use crate::smtp::content::ContentFault;
use crate::smtp::reply::Reply;
use crate::smtp::transaction::Transaction;

/// So many refused recipients are borne even where a message may have fewer (RFC 5321 §4.5.3.1.8).
const ALWAYS_REFUSED: usize = 100;

impl Session {
    pub(super) fn mail(&mut self, state: State, mail: Mail, now: Timestamp) -> (State, Action) {
        let hello = match state {
            State::Ready(hello) => hello,
            State::Start => return self.error(state, out_of_sequence("Send EHLO first")),
            _ => return self.error(state, out_of_sequence("A transaction is open; send RSET to drop it")),
        };
        if self.settings.auth == AuthPolicy::Required && self.user.is_none() {
            let text = match self.offers_auth() {
                true => "Authentication required",
                false => "Authentication required; send STARTTLS first",
            };
            return self.error(State::Ready(hello), Reply::new(530, (5, 7, 0), text));
        }
        if mail.parameters.any && !hello.extended {
            return self.error(State::Ready(hello), parameters_need_ehlo());
        }
        let handling = match self.handling(&mail, now) {
            Ok(handling) => handling,
            Err(refusal) => return self.error(State::Ready(hello), refusal),
        };
        if self.transactions >= self.settings.transactions {
            return close(Reply::new(421, (4, 7, 0), "Too many messages on one connection; connect again"));
        }
        let size = mail.parameters.size.unwrap_or(0);
        let transaction = Box::new(Transaction::new(mail, handling, &self.budget));
        if size > self.settings.message_size as u64 {
            let text = format!("Message size exceeds the limit of {} octets", self.settings.message_size);
            return self.refuse_mail(hello, *transaction, Reply::new(552, (5, 3, 4), text));
        }
        // RFC 1870 §6.1: it may be told before all of it has come for nothing.
        if !self.budget.has_room_for(size) {
            return self.refuse_mail(hello, *transaction, ContentFault::NoMemory.reply());
        }
        let reverse_path = transaction.envelope().reverse_path.clone();
        (State::Asking(hello, transaction), Action::MaySend(reverse_path))
    }

    /// What MAIL asks for, with HOLDFOR counted from MAIL: the client is told now whether it is too long, and a slow
    /// transfer of the content does not move the hour.
    ///
    /// # Errors
    /// The reply that refuses it.
    fn handling(&self, mail: &Mail, now: Timestamp) -> Result<Handling, Reply> {
        // RFC 8689 §2: what came in plain text has been read by others already.
        if mail.parameters.require_tls && self.tls.is_none() {
            return Err(Reply::new(530, (5, 7, 10), "REQUIRETLS needs TLS; send STARTTLS first"));
        }
        let release_at = mail.parameters.hold.map(|hold| hold.release_at(now)).transpose();
        Ok(Handling {
            require_tls: mail.parameters.require_tls,
            priority: mail.parameters.priority.unwrap_or_default(),
            release_at: release_at.map_err(|error| error.reply())?,
        })
    }

    pub(super) fn may_send(
        &mut self,
        hello: Hello,
        transaction: Box<Transaction>,
        answer: Result<(), Reply>,
    ) -> (State, Action) {
        match answer {
            Ok(()) => {
                self.transactions = self.transactions.saturating_add(1);
                self.idling.forgive();
                let reply = Reply::new(250, (2, 1, 0), "Sender OK");
                (State::Addressing(hello, transaction), Action::Reply(reply))
            }
            Err(reply) => self.refuse_mail(hello, *transaction, reply),
        }
    }

    fn refuse_mail(&mut self, hello: Hello, transaction: Transaction, reply: Reply) -> (State, Action) {
        // Every recipient, and DATA.
        self.pardoned = self.settings.recipients.saturating_add(1);
        refuse(hello, transaction, 0, reply)
    }

    pub(super) fn rcpt(&mut self, state: State, rcpt: Rcpt) -> (State, Action) {
        let State::Addressing(hello, transaction) = state else {
            return self.without_transaction(state, "RCPT needs MAIL first");
        };
        if rcpt.parameters.any && !hello.extended {
            return self.error(State::Addressing(hello, transaction), parameters_need_ehlo());
        }
        if let Err(refusal) = transaction.may_add(&rcpt, self.settings.recipients) {
            return self.refuse_recipient(hello, transaction, refusal);
        }
        if self.settings.checks_recipients {
            let forward_path = rcpt.forward_path.clone();
            return (
                State::Checking(hello, transaction, Box::new(rcpt)),
                Action::CheckRecipient(forward_path),
            );
        }
        self.checked(hello, transaction, rcpt, RecipientCheck::Accept)
    }

    /// Ends RCPT.
    pub(super) fn checked(
        &mut self,
        hello: Hello,
        mut transaction: Box<Transaction>,
        rcpt: Rcpt,
        check: RecipientCheck,
    ) -> (State, Action) {
        let added = match check {
            RecipientCheck::Accept => transaction.add(rcpt, false),
            RecipientCheck::Unverified => transaction.add(rcpt, true),
            RecipientCheck::Refuse(refusal) => {
                transaction.refuse(rcpt.forward_path);
                Err(refusal)
            }
        };
        match added {
            Ok(()) => {
                let reply = Reply::new(250, (2, 1, 5), "Recipient OK");
                (State::Addressing(hello, transaction), Action::Reply(reply))
            }
            Err(refusal) => self.refuse_recipient(hello, transaction, refusal),
        }
    }

    /// A refused recipient is no error of the client's: a list may well hold many of them. Whoever has as many refused as a
    /// message may have, and no message taken meanwhile, is after something else, such as which addresses there are.
    fn refuse_recipient(
        &mut self,
        hello: Hello,
        transaction: Box<Transaction>,
        refusal: Reply,
    ) -> (State, Action) {
        self.refused = self.refused.saturating_add(1);
        if self.refused > self.settings.recipients.max(ALWAYS_REFUSED) {
            return close(Reply::new(421, (4, 7, 0), "Too many refused recipients without a message"));
        }
        (State::Addressing(hello, transaction), Action::Reply(refusal))
    }
}

fn parameters_need_ehlo() -> Reply {
    Reply::new(555, (5, 5, 4), "Parameters need EHLO")
}
