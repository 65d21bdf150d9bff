//! A mail transaction between MAIL and the end of its message (RFC 5321 §3.3).

use std::collections::HashSet;

use super::command::{Mail, Rcpt};
use super::content::{Budget, Reservation};
use super::reply::Reply;
use crate::mail::{Address, Envelope, Handling, Recipient};

/// What a recipient takes in memory beside its texts, octets, rounded up.
const RECIPIENT_OVERHEAD: usize = 128;

/// More refused recipients of one message are not remembered.
const MOST_REFUSED: usize = 64;

/// The envelope so far. It lives inside the session's states that have one, so leaving them drops it.
#[derive(Debug)]
pub struct Transaction {
    envelope: Envelope,
    /// Recipients that a check has refused, at most [`MOST_REFUSED`] of them.
    refused: Vec<Address>,
    /// S2: a thousand recipients on each of many connections add up too.
    memory: Reservation,
}

impl Transaction {
    /// What MAIL starts; `handling` is what it asked for, in absolute times.
    pub fn new(mail: Mail, handling: Handling, budget: &Budget) -> Self {
        let envelope = Envelope {
            reverse_path: mail.reverse_path,
            recipients: Vec::new(),
            body: mail.parameters.body.unwrap_or_default(),
            smtputf8: mail.parameters.smtputf8,
            ret: mail.parameters.ret,
            envid: mail.parameters.envid,
            handling,
        };
        Self { envelope, refused: Vec::new(), memory: Reservation::empty(budget) }
    }

    /// Who it is from and, so far, for.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The envelope, when the message has been received, and the recipients that a check has refused. A recipient that
    /// was named twice is there once, as it came first: it is to get one copy.
    pub fn into_envelope(mut self) -> (Envelope, Vec<Address>) {
        let mut seen = HashSet::with_capacity(self.envelope.recipients.len());
        self.envelope.recipients.retain(|recipient| seen.insert(recipient.forward_path.canonical()));
        (self.envelope, self.refused)
    }

    /// Remembers a recipient that a check has refused: a retry must be told from another message although what was
    /// accepted the first time is refused now.
    pub fn refuse(&mut self, forward_path: Address) {
        let texts = forward_path.as_str().len();
        if self.refused.len() < MOST_REFUSED && self.memory.grow(texts + RECIPIENT_OVERHEAD) {
            self.refused.push(forward_path);
        }
    }

    /// Whether a recipient may be added, as far as can be told without asking anybody.
    ///
    /// # Errors
    /// `452` over a limit, `553`/`501` for what needs SMTPUTF8.
    pub fn may_add(&self, rcpt: &Rcpt, max_recipients: usize) -> Result<(), Reply> {
        if self.envelope.recipients.len() >= max_recipients {
            return Err(Reply::new(452, (4, 5, 3), "Too many recipients in one message"));
        }
        if !self.envelope.smtputf8 {
            if !rcpt.forward_path.is_ascii() {
                return Err(Reply::new(553, (5, 6, 7), "An address beyond ASCII needs SMTPUTF8 in MAIL"));
            }
            // RFC 6533 §3: raw characters in ORCPT only then.
            if rcpt.parameters.orcpt.as_ref().is_some_and(|orcpt| !orcpt.is_ascii()) {
                return Err(Reply::new(501, (5, 5, 4), "ORCPT beyond ASCII needs SMTPUTF8 in MAIL"));
            }
        }
        Ok(())
    }

    /// Adds a recipient that [`Transaction::may_add`] has let pass; `unverified` says that a check could not be made.
    ///
    /// # Errors
    /// `452` when there is no memory for it.
    pub fn add(&mut self, rcpt: Rcpt, unverified: bool) -> Result<(), Reply> {
        let orcpt = rcpt.parameters.orcpt;
        let texts = rcpt.forward_path.as_str().len() + orcpt.as_ref().map_or(0, String::len);
        if !self.memory.grow(texts + RECIPIENT_OVERHEAD) {
            return Err(Reply::new(452, (4, 3, 1), "Too many messages are being received; retry later"));
        }
        let notify = rcpt.parameters.notify;
        self.envelope.recipients.push(Recipient {
            forward_path: rcpt.forward_path,
            notify,
            orcpt,
            unverified,
        });
        Ok(())
    }
}
