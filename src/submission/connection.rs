//! The only loop that reads, acts and writes. The rules are the session's; this keeps the time and moves the octets.
//!
//! Replies are gathered and written when nothing more can be done without reading (RFC 2920 §3.2), in one write. Every
//! wait has an end: for a command, for a block of a message, for a whole message, and for a client that does not read
//! its replies. When places run out (`Door::is_crowded`), whoever has not authenticated has a few seconds for a command,
//! and a minute for a message: a client that only sits there must not keep others out. An idle connection keeps no buffer
//! larger than a few kilobytes; one that receives a message holds up to 32 KiB for reading, beside what the message takes
//! of `receive_memory`.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::door::Door;
use super::pressure::Rebuffed;
use super::received::Received;
use super::recipients::Patience;
use super::record::Record;
use super::visit::{Visit, too_busy};
use crate::intake::{Submission, Trace};
use crate::mail::{Address, Origin, ReversePath, Scope};
use crate::smtp::Reply;
use crate::smtp::data::Receiver;
use crate::smtp::line::LineReader;
use crate::smtp::session::{Action, Incoming, Input, RecipientCheck, Refusal, Session};

/// The first read of a message, which is the only one for most.
const FIRST_BLOCK: usize = 16 * 1024;
/// Later reads of a message.
const NEXT_BLOCK: usize = 32 * 1024;
/// Replies are written out when they have become this many octets, even if more input is there.
const REPLIES_HELD: usize = 8 * 1024;
/// After our last reply what still comes from a client in the middle of something is read and dropped for this long:
/// closing with unread input would make the system send RST, and the reply could be lost.
const LINGER: Duration = Duration::from_secs(2);
/// From a client that says nothing, only what is there already.
const NO_LINGER: Duration = Duration::ZERO;
/// And no more than this much of it.
const LINGER_OCTETS: usize = 256 * 1024;
/// After so many commands others have their turn: a flood that never lets us wait must not keep a thread to itself.
const AT_ONCE: u32 = 32;
/// In a crowd a client has this long for a command, for a block of a message and for reading its replies …
const HURRY: Duration = Duration::from_secs(10);
/// … and this long for a whole message.
const HURRY_MESSAGE: Duration = Duration::from_secs(60);

/// A connection whose encryption is settled. See the module.
pub(super) struct Connection<S> {
    stream: S,
    visit: Visit,
    /// Read, but not yet used.
    received: Received,
    /// Said, but not yet written.
    replies: Vec<u8>,
    lines: LineReader,
    /// When the current message must have come to its end.
    message_deadline: Option<Instant>,
    /// When MAIL came, for the log.
    mail_at: Option<Instant>,
    /// Whose keys the current message uses; settled at MAIL, because users come and go while it is received.
    scope: Scope,
    /// How long the recipients of the current message may still wait for DNS.
    patience: Patience,
    rebuffed: Rebuffed,
}

/// How a connection ended, when not by an error.
pub(super) enum End {
    /// By QUIT, a limit, a shutdown, or the client's going away.
    Closed,
    /// STARTTLS was answered and nothing has been read behind it.
    StartTls(Box<Session>),
}

/// Why a wait is over.
enum Woken {
    Input,
    Gone,
    Late,
    ShuttingDown,
}

/// What to do after an action.
enum Next {
    Answer(Input<'static>),
    Read,
    End(EndKind),
}

enum EndKind {
    Closed,
    StartTls,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, visit: Visit) -> Self {
        Self {
            stream,
            visit,
            received: Received::default(),
            replies: Vec::new(),
            lines: LineReader::default(),
            message_deadline: None,
            mail_at: None,
            scope: Scope::anonymous(),
            patience: Patience::default(),
            rebuffed: Rebuffed::default(),
        }
    }

    /// The bare stream, for a handshake. Whatever was read is dropped with the rest (S1).
    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Says the first words.
    pub(super) fn greet(&mut self, session: &Session) {
        session.greeting().write_to(&mut self.replies);
    }

    /// Serves the client to the end.
    ///
    /// # Errors
    /// The client is gone in the middle of something, or does not read its replies.
    pub(super) async fn run(&mut self, mut session: Session) -> io::Result<End> {
        let mut command_deadline = Instant::now() + self.visit.shared.limits.command_timeout;
        let mut at_once = 0;
        loop {
            let (consumed, event) = self.lines.read(&self.received, session.max_line());
            let Some(event) = event else {
                self.received.wipe(consumed);
                if let Some(end) = self.await_command(&session, command_deadline).await? {
                    return Ok(end);
                }
                continue;
            };
            let (next, mut action) = session.step(match event {
                Ok(line) => Input::Line(line, self.visit.shared.clock.now()),
                Err(fault) => Input::Fault(fault),
            });
            session = next;
            self.received.wipe(consumed);
            loop {
                match self.act(action, &session).await? {
                    Next::Answer(answer) => (session, action) = session.step(answer),
                    Next::Read => break,
                    Next::End(EndKind::Closed) => return Ok(End::Closed),
                    Next::End(EndKind::StartTls) => return Ok(End::StartTls(Box::new(session))),
                }
            }
            if !session.is_receiving() {
                self.message_deadline = None;
            }
            command_deadline = Instant::now() + self.visit.shared.limits.command_timeout;
            at_once += 1;
            if at_once == AT_ONCE {
                at_once = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    async fn act(&mut self, action: Action, session: &Session) -> io::Result<Next> {
        match action {
            Action::Continue => Ok(Next::Read),
            Action::Reply(reply) => {
                self.say(&reply).await?;
                Ok(Next::Read)
            }
            Action::Close(reply) => {
                let linger = if reply.is_positive() { NO_LINGER } else { LINGER };
                self.close(&reply, linger).await
            }
            Action::StartTls(reply) => self.start_tls(&reply).await,
            Action::Verify(credentials) => {
                // Those of now: a changed password counts in a connection that is open, too.
                let accounts = self.visit.shared.accounts.load_full();
                let verdict = accounts.verify(self.visit.client, credentials).await;
                self.visit.shared.metrics.login(verdict);
                Ok(Next::Answer(Input::Verified(verdict)))
            }
            Action::MaySend(reverse_path) => self.may_send(&reverse_path, session).await,
            Action::CheckRecipient(address) => {
                Ok(Next::Answer(Input::Recipient(self.check(&address, session).await)))
            }
            Action::Receive(reply, receiver) => {
                if let Some(reply) = reply {
                    self.say(&reply).await?;
                }
                self.receive(receiver, session.user().is_some()).await
            }
            Action::Submit(incoming) => {
                Ok(Next::Answer(Input::Decided(self.submit(*incoming, session).await)))
            }
            Action::Refuse(refusal) => {
                self.refuse(&refusal, session);
                self.say(&refusal.reply).await?;
                Ok(Next::Read)
            }
        }
    }

    /// Waits for more of a command; gives back the end if there is one instead.
    async fn await_command(&mut self, session: &Session, deadline: Instant) -> io::Result<Option<End>> {
        self.flush().await?;
        self.received.make_room();
        // A client between two chunks is in the middle of a message, and may finish it.
        let heed_shutdown = !session.is_receiving();
        let hurried = hurried(deadline, self.visit.shared.limits.command_timeout, HURRY);
        let deadline = self.message_deadline.map_or(deadline, |end| end.min(deadline));
        let hurried = session.user().is_none().then_some(hurried);
        let reply = match self.wait_unless_crowded(deadline, hurried, heed_shutdown).await? {
            Woken::Input => return Ok(None),
            Woken::Gone => return Ok(Some(End::Closed)),
            Woken::Late => timed_out(),
            Woken::ShuttingDown => shutting_down(),
        };
        self.close(&reply, NO_LINGER).await?;
        Ok(Some(End::Closed))
    }

    /// Feeds the receiver until it is done.
    async fn receive(&mut self, mut receiver: Box<Receiver>, is_known: bool) -> io::Result<Next> {
        let limits = &self.visit.shared.limits;
        let (whole, block) = (limits.data_timeout, limits.data_block_timeout);
        let end = *self.message_deadline.get_or_insert_with(|| Instant::now() + whole);
        let mut next_read = FIRST_BLOCK;
        loop {
            let fed = receiver.feed(&self.received);
            self.received.advance(fed.consumed);
            if fed.done {
                break;
            }
            self.flush().await?;
            self.received.make_room_for(next_read);
            next_read = NEXT_BLOCK;
            let now = Instant::now();
            let hurried = (!is_known).then(|| (now + HURRY).min(hurried(end, whole, HURRY_MESSAGE)));
            match self.wait_unless_crowded(end.min(now + block), hurried, false).await? {
                Woken::Input => {}
                Woken::Late => return self.close(&timed_out(), NO_LINGER).await,
                Woken::Gone | Woken::ShuttingDown => return Ok(Next::End(EndKind::Closed)),
            }
        }
        self.received.shrink();
        Ok(Next::Answer(Input::Received(receiver)))
    }

    /// Whether a message may be started now.
    async fn may_send(&mut self, reverse_path: &ReversePath, session: &Session) -> io::Result<Next> {
        self.pause().await?;
        // Clients may send message after message without waiting for replies (BDAT), so that no wait for input would ever
        // notice the shutdown.
        if self.visit.shutdown.is_cancelled() {
            return self.close(&shutting_down(), LINGER).await;
        }
        self.mail_at = Some(Instant::now());
        self.patience = Patience::default();
        let answer = match self.visit.shared.pressure.is_too_high() {
            true => Err(self.too_busy()),
            false => self.visit.may_send(session.user().map(AsRef::as_ref), reverse_path),
        };
        Ok(Next::Answer(Input::MaySend(answer.map(|scope| self.scope = scope))))
    }

    /// Lets a client wait that would be refused for the second time within a moment, for as long as there is a reason.
    async fn pause(&mut self) -> io::Result<()> {
        let Some(end) = self.rebuffed.pause() else { return Ok(()) };
        if !self.visit.shared.pressure.is_too_high() {
            return Ok(());
        }
        // The reply to the last message may be among them.
        self.flush().await?;
        tokio::select! {
            () = sleep_until(end) => {}
            () = self.visit.shutdown.cancelled() => {}
        }
        Ok(())
    }

    fn too_busy(&mut self) -> Reply {
        self.rebuffed.note();
        too_busy()
    }

    /// Hands a message to the intake and gives back what it decided.
    async fn submit(&mut self, incoming: Incoming, session: &Session) -> Reply {
        let Incoming { envelope, refused, content, memory, helo, with } = incoming;
        let user = session.user().map(AsRef::as_ref);
        let mut record = Record::new(user, &envelope, content.len() as u64);
        let submission = Submission {
            origin: Origin {
                listener: self.visit.entrance.listener.name.clone(),
                user: user.map(str::to_owned),
                client: Some(self.visit.client),
            },
            trace: Trace { helo, with, tls: session.tls().map(str::to_owned) },
            scope: self.scope.clone(),
            envelope,
            refused,
            content,
        };
        let shared = self.visit.shared.clone();
        let Some(waiting) = shared.pressure.enter(submission.content.len()) else {
            // I4: nothing has been claimed.
            let reply = self.too_busy();
            shared.intake.metrics().refused();
            record.duration = self.mail_at.take().map_or(Duration::ZERO, |at| at.elapsed());
            record.refused(&self.visit, &reply);
            return reply;
        };
        let receipt = shared.intake.accept(submission).await;
        waiting.decided(shared.intake.commit_time());
        drop(memory);
        let reply = self.visit.shared.intake.reply(&receipt.decision);
        record.duration = self.mail_at.take().map_or(Duration::ZERO, |at| at.elapsed());
        record.decided(&self.visit, &receipt, &reply);
        reply
    }

    /// Replies that are held meanwhile are not kept back longer than the checks of one message may take.
    async fn check(&mut self, address: &Address, session: &Session) -> RecipientCheck {
        let check = self.visit.shared.checks.check(address, &mut self.patience).await;
        let metrics = &self.visit.shared.metrics;
        match &check {
            RecipientCheck::Accept => {}
            RecipientCheck::Unverified => metrics.recipient_unverified(),
            RecipientCheck::Refuse(reply) => {
                metrics.recipient_refused(reply);
                Record::recipient_refused(&self.visit, session.user().map(AsRef::as_ref), address, reply);
            }
        }
        check
    }

    fn refuse(&mut self, refusal: &Refusal, session: &Session) {
        self.visit.shared.intake.metrics().refused();
        let mut record = Record::new(session.user().map(AsRef::as_ref), &refusal.envelope, refusal.size);
        record.duration = self.mail_at.take().map_or(Duration::ZERO, |at| at.elapsed());
        record.refused(&self.visit, &refusal.reply);
    }

    /// S1: what came behind STARTTLS in plain text must not be taken for what comes inside TLS. It is not even
    /// dropped silently: a client that does this is broken or somebody is in the middle.
    async fn start_tls(&mut self, reply: &Reply) -> io::Result<Next> {
        if !self.received.is_empty() {
            let reply = Reply::new(503, (5, 5, 1), "Nothing may follow STARTTLS before TLS");
            return self.close(&reply, LINGER).await;
        }
        self.say(reply).await?;
        self.flush().await?;
        Ok(Next::End(EndKind::StartTls))
    }

    async fn say(&mut self, reply: &Reply) -> io::Result<()> {
        self.visit.shared.metrics.said(reply);
        reply.write_to(&mut self.replies);
        if self.replies.len() >= REPLIES_HELD { self.flush().await } else { Ok(()) }
    }

    /// Writes what was said.
    async fn flush(&mut self) -> io::Result<()> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let patience = self.visit.shared.limits.command_timeout;
        let write = async {
            self.stream.write_all(&self.replies).await?;
            self.stream.flush().await
        };
        // A client that sends and never reads would otherwise hold its place for ever.
        write_unless_crowded(write, patience, &self.visit.shared.door).await?;
        if self.replies.capacity() > REPLIES_HELD {
            self.replies = Vec::new();
        }
        self.replies.clear();
        Ok(())
    }

    /// Says the last words, and for as long as `linger` drops what the client still sends.
    async fn close(&mut self, reply: &Reply, linger: Duration) -> io::Result<Next> {
        self.visit.shared.metrics.said(reply);
        reply.write_to(&mut self.replies);
        self.flush().await?;
        let farewell = async {
            self.stream.shutdown().await?;
            let mut left = LINGER_OCTETS;
            while left > 0 {
                self.received.wipe_all();
                self.received.make_room();
                match self.received.read_from(&mut self.stream).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            io::Result::Ok(())
        };
        // It is over either way; how the client takes it does not matter.
        let _ = timeout(linger, farewell).await;
        Ok(Next::End(EndKind::Closed))
    }

    async fn wait(&mut self, deadline: Instant, heed_shutdown: bool) -> io::Result<Woken> {
        tokio::select! {
            biased;
            () = self.visit.shutdown.cancelled(), if heed_shutdown => Ok(Woken::ShuttingDown),
            read = timeout_at(deadline, self.received.read_from(&mut self.stream)) => match read {
                Err(_) => Ok(Woken::Late),
                Ok(Ok(0)) => Ok(Woken::Gone),
                Ok(Ok(_)) => Ok(Woken::Input),
                Ok(Err(error)) => Err(error),
            },
        }
    }

    /// The same, but after `hurried` for no longer than there is no crowd.
    async fn wait_unless_crowded(
        &mut self,
        deadline: Instant,
        hurried: Option<Instant>,
        heed_shutdown: bool,
    ) -> io::Result<Woken> {
        let Some(hurried) = hurried else { return self.wait(deadline, heed_shutdown).await };
        loop {
            let now = Instant::now();
            let is_late = now >= hurried;
            if is_late && self.visit.shared.door.is_crowded() {
                return Ok(Woken::Late);
            }
            let look_again = if is_late { now + HURRY } else { hurried };
            match self.wait(look_again.min(deadline), heed_shutdown).await? {
                Woken::Late if look_again < deadline => {}
                woken => return Ok(woken),
            }
        }
    }
}

/// When a wait of `whole` that ends at `deadline` would have ended, had it been `most` long.
fn hurried(deadline: Instant, whole: Duration, most: Duration) -> Instant {
    deadline.checked_sub(whole.saturating_sub(most)).unwrap_or(deadline)
}

/// Waits for a client that reads, no longer than `patience`, and a few seconds where it is crowded.
async fn write_unless_crowded(
    write: impl Future<Output = io::Result<()>>,
    patience: Duration,
    door: &Door,
) -> io::Result<()> {
    let mut write = std::pin::pin!(write);
    let deadline = Instant::now() + patience;
    loop {
        match timeout_at(deadline.min(Instant::now() + HURRY), &mut write).await {
            Ok(written) => return written,
            Err(_) if Instant::now() >= deadline || door.is_crowded() => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(_) => {}
        }
    }
}

fn shutting_down() -> Reply {
    Reply::new(421, (4, 3, 2), "Shutting down; retry later")
}

fn timed_out() -> Reply {
    Reply::new(421, (4, 4, 2), "Timed out")
}
