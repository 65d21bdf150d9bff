//! The server's side of a session as a state machine: an input, a state, an action.
//!
//! [`Session::step`] does no I/O and asks for no time. A transaction lives inside the states that have one, so RSET, a
//! second EHLO and STARTTLS drop it by leaving them. What must be asked of the world (is this password right, may this
//! user send, is the message durable) leaves as an [`Action`] and comes back as an [`Input`].

mod addressing;
mod idling;
mod login;
mod message;
#[cfg(test)]
mod tests;

use std::mem;
use std::sync::Arc;

use super::command::{Chunk, Command, CommandError, Rcpt};
use super::content::{Budget, Content, Reservation};
use super::data::{Place, Receiver};
use super::line::{LineFault, MAX_AUTH_LINE, MAX_COMMAND_LINE};
use super::parameters::MAX_HOLD;
use super::reply::Reply;
use super::sasl::{Challenge, Credentials};
use super::transaction::Transaction;
use crate::clock::Timestamp;
use crate::mail::{Address, Envelope, ReversePath};
use idling::Idling;

/// A client that makes more errors than this in one session is not getting anywhere.
const MAX_ERRORS: u32 = 20;

/// What a session offers and allows; one for all sessions of a listener.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name in the greeting and EHLO's reply.
    pub hostname: String,
    /// SIZE, octets.
    pub message_size: usize,
    /// RCPTMAX.
    pub recipients: usize,
    /// MAILMAX.
    pub transactions: u32,
    /// Whether STARTTLS is offered on a plain connection.
    pub starttls: bool,
    /// Whether AUTH is offered, and needed.
    pub auth: AuthPolicy,
    /// Whether recipients are to be checked: [`Action::CheckRecipient`] comes only then.
    pub checks_recipients: bool,
}

/// Whether AUTH is offered, and needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthPolicy {
    /// MAIL is refused with 530 before it.
    Required,
    /// Either way.
    Optional,
    /// Not offered.
    Off,
}

/// What happens to a session.
pub enum Input<'a> {
    /// A line, without its CRLF, and when it was taken up.
    Line(&'a [u8], Timestamp),
    /// A line that was not one.
    Fault(LineFault),
    /// Answers [`Action::Verify`].
    Verified(Verdict),
    /// Answers [`Action::MaySend`]: `Err` is the refusal.
    MaySend(Result<(), Reply>),
    /// Answers [`Action::CheckRecipient`].
    Recipient(RecipientCheck),
    /// Answers [`Action::Receive`]: the receiver has reached its end.
    Received(Box<Receiver>),
    /// Answers [`Action::Submit`]: what the intake decided.
    Decided(Reply),
    /// Answers [`Action::StartTls`]: the handshake is done; TLS version and cipher suite.
    Encrypted(String),
}

impl std::fmt::Debug for Input<'_> {
    /// Without the line: it may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line, at) => {
                f.debug_tuple("Line").field(&format_args!("{} octets", line.len())).field(at).finish()
            }
            Self::Fault(fault) => f.debug_tuple("Fault").field(fault).finish(),
            Self::Verified(verdict) => f.debug_tuple("Verified").field(verdict).finish(),
            Self::MaySend(answer) => f.debug_tuple("MaySend").field(answer).finish(),
            Self::Recipient(check) => f.debug_tuple("Recipient").field(check).finish(),
            Self::Received(_) => f.write_str("Received"),
            Self::Decided(reply) => f.debug_tuple("Decided").field(reply).finish(),
            Self::Encrypted(tls) => f.debug_tuple("Encrypted").field(tls).finish(),
        }
    }
}

/// What to do before the next input. Replies are written in the order of the actions.
#[derive(Debug)]
pub enum Action {
    /// Nothing; wait for the client.
    Continue,
    /// Write it.
    Reply(Reply),
    /// Write it, then close the connection.
    Close(Reply),
    /// Write it, then do the handshake; nothing that was read before may be read after it (S1).
    StartTls(Reply),
    /// Find out whether these are right.
    Verify(Credentials),
    /// Find out whether the user may start a message from here now.
    MaySend(ReversePath),
    /// Find out whether mail for this recipient is taken.
    CheckRecipient(Address),
    /// Write the reply if there is one, then feed the receiver until it is done.
    Receive(Option<Reply>, Box<Receiver>),
    /// Hand the message over.
    Submit(Box<Incoming>),
    /// Write the reply; the transaction ended with it, before anything was handed over.
    Refuse(Box<Refusal>),
}

/// A message that is wholly there.
#[derive(Debug)]
pub struct Incoming {
    /// Who it is from and for.
    pub envelope: Envelope,
    /// Recipients that a check has refused.
    pub refused: Vec<Address>,
    /// Dot-stuffing undone.
    pub content: Vec<u8>,
    /// To be kept until the decision is made.
    pub memory: Reservation,
    /// What the client called itself.
    pub helo: String,
    /// `with` keyword of the Received field (RFC 3848, RFC 6531 §4.3).
    pub with: &'static str,
}

/// A transaction that was refused.
#[derive(Debug)]
pub struct Refusal {
    /// What the client is told.
    pub reply: Reply,
    /// The envelope as far as it came.
    pub envelope: Envelope,
    /// Octets of the message that were seen.
    pub size: u64,
}

/// Whether a password was right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was.
    Right,
    /// It was not, or there is no such user.
    Wrong,
    /// This client has been wrong too often; the connection ends.
    TooManyFailures,
    /// It could not be found out now.
    Unknown,
}

/// What came of a recipient's check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecipientCheck {
    /// Nothing speaks against it.
    Accept,
    /// It could not be found out now; the message says so and goes its way.
    Unverified,
    /// The client is told this.
    Refuse(Reply),
}

/// A session. See the module.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    budget: Budget,
    /// A connection that nobody else can read, although it is plain.
    loopback: bool,
    /// TLS version and cipher suite.
    tls: Option<String>,
    user: Option<Arc<str>>,
    transactions: u32,
    errors: u32,
    /// Commands that may come too early and are no errors: a client that pipelines has sent them before it could know that
    /// its MAIL is refused (RFC 2920 §3.1).
    pardoned: usize,
    /// Recipients refused since the last message was taken.
    refused: usize,
    idling: Idling,
    state: State,
}

/// What EHLO or HELO said.
#[derive(Debug)]
struct Hello {
    name: String,
    extended: bool,
}

#[derive(Debug)]
enum State {
    /// Before EHLO.
    Start,
    /// Between transactions.
    Ready(Hello),
    /// AUTH: 334 was sent.
    Challenged(Hello, Challenge),
    /// AUTH: the password is being verified.
    Verifying(Hello, Arc<str>),
    /// MAIL: whether the user may is being found out.
    Asking(Hello, Box<Transaction>),
    /// After MAIL.
    Addressing(Hello, Box<Transaction>),
    /// RCPT: the recipient is being checked.
    Checking(Hello, Box<Transaction>, Box<Rcpt>),
    /// Within DATA.
    ReceivingData(Hello, Box<Transaction>),
    /// Within a chunk.
    ReceivingChunk(Hello, Box<Transaction>, Chunk),
    /// Between two chunks.
    Chunking(Hello, Box<Transaction>, Content, Place),
    /// Within a chunk that came out of turn (RFC 3030 §2: its octets pass by all the same).
    SkippingChunk(Box<State>),
    /// The intake decides.
    Deciding(Hello),
    /// STARTTLS was answered.
    Handshaking,
    /// The connection is to be closed.
    Ended,
}

impl State {
    fn start(hello: Option<Hello>) -> Self {
        hello.map_or(Self::Start, Self::Ready)
    }

    /// Whether nothing else must come before the next line.
    fn awaits_line(&self) -> bool {
        matches!(
            self,
            Self::Start | Self::Ready(_) | Self::Challenged(..) | Self::Addressing(..) | Self::Chunking(..)
        )
    }

    /// Leaves a transaction behind.
    fn into_hello(self) -> Option<Hello> {
        match self {
            Self::Ready(hello)
            | Self::Challenged(hello, _)
            | Self::Verifying(hello, _)
            | Self::Asking(hello, _)
            | Self::Addressing(hello, _)
            | Self::ReceivingData(hello, _)
            | Self::ReceivingChunk(hello, _, _)
            | Self::Checking(hello, _, _)
            | Self::Chunking(hello, _, _, _)
            | Self::Deciding(hello) => Some(hello),
            Self::SkippingChunk(before) => before.into_hello(),
            Self::Start | Self::Handshaking | Self::Ended => None,
        }
    }
}

impl Session {
    /// A session that has not said anything yet. `tls` describes the encryption when there is some from the start.
    pub fn new(settings: Arc<Settings>, budget: Budget, loopback: bool, tls: Option<String>) -> Self {
        let (user, idling, state) = (None, Idling::default(), State::Start);
        let (transactions, errors, pardoned, refused) = (0, 0, 0, 0);
        Self { settings, budget, loopback, tls, user, transactions, errors, pardoned, refused, idling, state }
    }

    /// The first reply of all.
    pub fn greeting(&self) -> Reply {
        Reply::bare(220, format!("{} ESMTP oncemail", self.settings.hostname))
    }

    /// How long the next line may be, CRLF included.
    pub fn max_line(&self) -> usize {
        if self.expects_secret() { MAX_AUTH_LINE } else { MAX_COMMAND_LINE }
    }

    /// Whether the next line answers an AUTH challenge.
    pub fn expects_secret(&self) -> bool {
        matches!(self.state, State::Challenged(..))
    }

    /// Whether a part of a message has been received, so that a shutdown should let the rest come.
    pub fn is_receiving(&self) -> bool {
        matches!(self.state, State::ReceivingData(..) | State::ReceivingChunk(..) | State::Chunking(..))
    }

    /// The authenticated user.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.user.as_ref()
    }

    /// TLS version and cipher suite.
    pub fn tls(&self) -> Option<&str> {
        self.tls.as_deref()
    }

    /// Takes one input, gives back the session after it and what to do.
    #[must_use]
    pub fn step(mut self, input: Input<'_>) -> (Self, Action) {
        let state = mem::replace(&mut self.state, State::Ended);
        let (state, action) = match (state, input) {
            (State::Challenged(hello, challenge), Input::Line(line, _)) => {
                self.exchange(hello, challenge.answer(line))
            }
            (state, Input::Line(line, now)) if state.awaits_line() => self.command(state, line, now),
            (state, Input::Fault(fault)) if state.awaits_line() => self.line_fault(state, fault),
            (State::Verifying(hello, user), Input::Verified(verdict)) => self.verified(hello, user, verdict),
            (State::Asking(hello, transaction), Input::MaySend(answer)) => {
                self.may_send(hello, transaction, answer)
            }
            (State::Checking(hello, transaction, rcpt), Input::Recipient(check)) => {
                self.checked(hello, transaction, *rcpt, check)
            }
            (State::ReceivingData(hello, transaction), Input::Received(receiver)) => {
                self.received(hello, *transaction, receiver.finish())
            }
            (State::ReceivingChunk(hello, transaction, chunk), Input::Received(receiver)) => {
                self.received_chunk(hello, transaction, chunk, *receiver)
            }
            (State::SkippingChunk(before), Input::Received(_)) => {
                self.without_transaction(*before, "BDAT needs MAIL and RCPT first")
            }
            (State::Deciding(hello), Input::Decided(reply)) => (State::Ready(hello), Action::Reply(reply)),
            (State::Handshaking, Input::Encrypted(tls)) => self.encrypted(tls),
            // An answer to nothing that was asked: the caller is broken, and guessing would not mend it.
            (_, _) => close(Reply::new(421, (4, 3, 0), "Internal error")),
        };
        self.state = state;
        (self, action)
    }

    fn command(&mut self, state: State, line: &[u8], now: Timestamp) -> (State, Action) {
        let command = match Command::parse(line) {
            Ok(command) => command,
            // Nobody knows how many octets follow; to read on would execute a message as commands (S1).
            Err(error @ CommandError::ChunkSize) => return close(error.reply()),
            // A form posted by a browser carries our commands behind a dozen lines that are none.
            Err(error @ CommandError::OtherProtocol) => return close(error.reply()),
            Err(error) => return self.error(state, error.reply()),
        };
        if !command.leads_on() && self.idling.is_too_much(now) {
            return close(Reply::new(421, (4, 7, 0), "Too many commands without a message"));
        }
        match command {
            Command::Ehlo(name) => {
                (State::Ready(Hello { name: name.to_owned(), extended: true }), self.capabilities(now))
            }
            Command::Helo(name) => {
                let reply = Reply::bare(250, self.settings.hostname.clone());
                (State::Ready(Hello { name: name.to_owned(), extended: false }), Action::Reply(reply))
            }
            Command::Mail(mail) => self.mail(state, mail, now),
            Command::Rcpt(rcpt) => self.rcpt(state, rcpt),
            Command::Data => self.begin_data(state),
            Command::Bdat(chunk) => self.begin_chunk(state, chunk),
            Command::Auth(auth) => self.auth(state, auth),
            Command::StartTls => self.start_tls(state),
            Command::Rset => (State::start(state.into_hello()), ok("OK")),
            Command::Noop => (state, ok("OK")),
            Command::Vrfy => (
                state,
                Action::Reply(Reply::new(252, (2, 5, 2), "Cannot verify; send and see what comes back")),
            ),
            Command::Help => (
                state,
                Action::Reply(Reply::new(
                    214,
                    (2, 0, 0),
                    "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY AUTH STARTTLS QUIT",
                )),
            ),
            Command::Quit => (State::Ended, Action::Close(Reply::new(221, (2, 0, 0), "Bye"))),
        }
    }

    /// EHLO's reply.
    fn capabilities(&self, now: Timestamp) -> Action {
        let mut reply = Reply::bare(250, self.settings.hostname.clone());
        reply.lines.extend(
            ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "DSN", "MT-PRIORITY"]
                .map(Into::into),
        );
        reply.lines.push(format!("FUTURERELEASE {} {}", MAX_HOLD.as_secs(), now.plus(MAX_HOLD)).into());
        let Settings { message_size, recipients, transactions, .. } = *self.settings;
        reply.lines.push(format!("SIZE {message_size}").into());
        reply.lines.push(format!("LIMITS MAILMAX={transactions} RCPTMAX={recipients}").into());
        // RFC 8689 §2: only inside TLS.
        if self.tls.is_some() {
            reply.lines.push("REQUIRETLS".into());
        } else if self.settings.starttls {
            reply.lines.push("STARTTLS".into());
        }
        if self.offers_auth() && self.user.is_none() {
            reply.lines.push("AUTH PLAIN LOGIN".into());
        }
        Action::Reply(reply)
    }

    fn offers_auth(&self) -> bool {
        self.settings.auth != AuthPolicy::Off && (self.tls.is_some() || self.loopback)
    }

    fn line_fault(&mut self, state: State, fault: LineFault) -> (State, Action) {
        // An answer to a challenge that cannot be read ends the exchange.
        let state = match state {
            State::Challenged(hello, _) => State::Ready(hello),
            state => state,
        };
        match fault {
            LineFault::TooLong => self.error(state, Reply::new(500, (5, 5, 2), "Line too long")),
            LineFault::BareLineEnd => {
                self.error(state, Reply::new(500, (5, 5, 2), "Bare CR or LF; a line ends with CRLF"))
            }
            LineFault::Endless => close(Reply::new(421, (4, 7, 0), "Line without end")),
            LineFault::Tls => close(Reply::new(421, (4, 7, 0), "TLS begins with STARTTLS here, if at all")),
        }
    }

    /// Answers what needs a transaction and has none.
    fn without_transaction(&mut self, state: State, text: &'static str) -> (State, Action) {
        if self.pardoned == 0 || !matches!(state, State::Ready(_)) {
            return self.error(state, out_of_sequence(text));
        }
        self.pardoned -= 1;
        (state, Action::Reply(out_of_sequence(text)))
    }

    /// Answers a client's mistake; the session goes on as `state`, unless it was one too many.
    fn error(&mut self, state: State, reply: Reply) -> (State, Action) {
        self.errors = self.errors.saturating_add(1);
        if self.errors > MAX_ERRORS {
            return close(Reply::new(421, (4, 7, 0), "Too many errors"));
        }
        (state, Action::Reply(reply))
    }
}

fn close(reply: Reply) -> (State, Action) {
    (State::Ended, Action::Close(reply))
}

fn refuse(hello: Hello, transaction: Transaction, size: u64, reply: Reply) -> (State, Action) {
    let refusal = Refusal { reply, envelope: transaction.into_envelope().0, size };
    (State::Ready(hello), Action::Refuse(Box::new(refusal)))
}

fn ok(text: &'static str) -> Action {
    Action::Reply(Reply::new(250, (2, 0, 0), text))
}

fn out_of_sequence(text: &'static str) -> Reply {
    Reply::new(503, (5, 5, 1), text)
}
