//! A whole session: the octets of a client through line reader, state machine and message reader.
//!
//! The same octets in any pieces must bring the same replies, messages and questions. And whatever a client says: no
//! message without the AUTH that is asked for, no question about a password where it could be read by others, no
//! recipient or octet beyond the limits, and nothing of the shared memory kept.

use std::sync::Arc;

use oncemail::clock::Timestamp;
use oncemail::mail::{Address, ReversePath};
use oncemail::smtp::Reply;
use oncemail::smtp::content::Budget;
use oncemail::smtp::data::Receiver;
use oncemail::smtp::dot_writer::verify;
use oncemail::smtp::line::LineReader;
use oncemail::smtp::sasl::Credentials;
use oncemail::smtp::session::{
    Action, AuthPolicy, Incoming, Input, RecipientCheck, Session, Settings, Verdict,
};

use crate::command::check_reply;
use crate::dice::{Dice, pieces};

const BUDGET: usize = 1 << 20;
/// Sunday, 22 November 2026, 10:30 UTC.
const NOW: Timestamp = Timestamp::from_millis(1_795_343_400_000);

/// An octet that no UTF-8 text has stands for a whole line, so that the fuzzer gets somewhere.
const LINES: [&[u8]; 11] = [
    b"EHLO client.example\r\n",
    b"MAIL FROM:<a@example.com>\r\n",
    b"RCPT TO:<b@example.org>\r\n",
    b"DATA\r\nSubject: s\r\n\r\n..text\r\n.\r\n",
    b"BDAT 5 LAST\r\nab\r\ncRSET\r\n",
    b"AUTH PLAIN AHUAcmlnaHQ=\r\n",
    b"AUTH LOGIN\r\ndQ==\r\nd3Jvbmc=\r\n",
    b"STARTTLS\r\n",
    b"RSET\r\n",
    b"DATA\r\n",
    b"\r\n.\r\n",
];
const FIRST: u8 = 0xF5;

/// Everything that somebody could notice.
#[derive(Default, PartialEq, Debug)]
struct Heard {
    replies: Vec<u8>,
    messages: Vec<String>,
    asked: Vec<String>,
    ended: bool,
}

/// The settings, then how many pieces, then what the client sends.
pub fn run(input: &[u8]) {
    let mut dice = Dice::new(input);
    let settings = settings(&mut dice);
    let (loopback, tls) = (dice.flag(), dice.flag());
    let plan = dice.bytes(6);
    let sent = expanded(dice.rest());
    let whole = talk(&settings, loopback, tls, &[&sent]);
    let cut = talk(&settings, loopback, tls, &pieces(&sent, plan));
    assert_eq!(cut, whole, "the pieces matter");
}

fn settings(dice: &mut Dice<'_>) -> Arc<Settings> {
    Arc::new(Settings {
        hostname: "relay.example".to_owned(),
        message_size: dice.pick(&[BUDGET, 100, 0]),
        recipients: dice.pick(&[100, 2]),
        transactions: dice.pick(&[1000, 2]),
        starttls: dice.flag(),
        auth: dice.pick(&[AuthPolicy::Off, AuthPolicy::Optional, AuthPolicy::Required]),
        checks_recipients: dice.flag(),
    })
}

fn expanded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match byte.checked_sub(FIRST) {
            Some(line) => out.extend_from_slice(LINES[usize::from(line)]),
            None => out.push(*byte),
        }
    }
    out
}

/// The world around a session: does what a connection does, without sockets.
struct World<'a> {
    settings: &'a Settings,
    plain_for_others: bool,
    /// Whose password was right on this connection, as it is encrypted now.
    proven: Option<String>,
    /// EHLO or HELO was said, to whoever hears this connection as it is encrypted now.
    greeted: bool,
    heard: Heard,
    received: Vec<u8>,
    lines: LineReader,
}

fn talk(settings: &Arc<Settings>, loopback: bool, tls: bool, arriving: &[&[u8]]) -> Heard {
    let budget = Budget::new(BUDGET);
    let tls = tls.then(|| "TLSv1.3".to_owned());
    let plain_for_others = !loopback && tls.is_none();
    let mut session = Session::new(settings.clone(), budget.clone(), loopback, tls);
    let mut world = World {
        settings,
        plain_for_others,
        proven: None,
        greeted: false,
        heard: Heard::default(),
        received: Vec::new(),
        lines: LineReader::default(),
    };
    world.say(&session.greeting());
    let mut receiving = None;
    for piece in arriving {
        world.received.extend_from_slice(piece);
        session = world.go_on(session, &mut receiving);
        if world.heard.ended {
            break;
        }
    }
    drop((session, receiving));
    assert_eq!(budget.free(), BUDGET, "not all was given back");
    world.heard
}

impl World<'_> {
    /// Takes up what has arrived, as far as it goes.
    fn go_on(&mut self, mut session: Session, receiving: &mut Option<Box<Receiver>>) -> Session {
        while !self.heard.ended {
            if let Some(mut receiver) = receiving.take() {
                let fed = receiver.feed(&self.received);
                self.received.drain(..fed.consumed);
                if !fed.done {
                    *receiving = Some(receiver);
                    return session;
                }
                session = self.step(session, Input::Received(receiver), receiving);
                continue;
            }
            let received = std::mem::take(&mut self.received);
            let (consumed, event) = self.lines.read(&received, session.max_line());
            match event {
                None => {
                    self.received = received[consumed..].to_vec();
                    return session;
                }
                Some(event) => {
                    self.received = received[consumed..].to_vec();
                    let input = match event {
                        Ok(line) => Input::Line(line, NOW),
                        Err(fault) => Input::Fault(fault),
                    };
                    session = self.step(session, input, receiving);
                }
            }
        }
        session
    }

    /// One step, and all the answers that follow from it.
    fn step<'a>(
        &mut self,
        mut session: Session,
        mut input: Input<'a>,
        receiving: &mut Option<Box<Receiver>>,
    ) -> Session {
        if let Input::Line(line, _) = &input {
            let verb = line.get(..4).unwrap_or_default();
            self.greeted |= verb.eq_ignore_ascii_case(b"EHLO") || verb.eq_ignore_ascii_case(b"HELO");
        }
        loop {
            let (next, action) = session.step(input);
            session = next;
            assert!(session.max_line() >= 512, "RFC 5321 §4.5.3.1.4");
            assert_eq!(session.user().map(|user| &**user), self.proven.as_deref(), "who it is");
            input = match action {
                Action::Continue => return session,
                Action::Reply(reply) => {
                    self.say(&reply);
                    return session;
                }
                Action::Refuse(refusal) => {
                    assert!(!refusal.reply.is_positive());
                    self.say(&refusal.reply);
                    return session;
                }
                Action::Close(reply) => {
                    self.say(&reply);
                    self.heard.ended = true;
                    return session;
                }
                Action::StartTls(reply) => {
                    assert!(session.tls().is_none() && self.settings.starttls);
                    self.say(&reply);
                    self.plain_for_others = false;
                    // A new reader: what is half read in plain text must not go on in TLS (S1).
                    self.lines = LineReader::default();
                    // RFC 3207 §4.2: what was learnt before is forgotten.
                    (self.proven, self.greeted) = (None, false);
                    Input::Encrypted("TLSv1.3".to_owned())
                }
                Action::Verify(credentials) => Input::Verified(self.verify(&credentials)),
                Action::MaySend(reverse_path) => Input::MaySend(self.may_send(&session, &reverse_path)),
                Action::CheckRecipient(address) => Input::Recipient(self.check(&address)),
                Action::Receive(reply, receiver) => {
                    if let Some(reply) = &reply {
                        self.say(reply);
                    }
                    *receiving = Some(receiver);
                    return session;
                }
                Action::Submit(incoming) => Input::Decided(self.decide(&session, *incoming)),
            };
            if let Input::Encrypted(_) = input {
                assert!(self.heard.replies.ends_with(b"220 2.0.0 Go ahead\r\n"));
            }
        }
    }

    fn say(&mut self, reply: &Reply) {
        check_reply(reply);
        reply.write_to(&mut self.heard.replies);
    }

    fn verify(&mut self, credentials: &Credentials) -> Verdict {
        assert!(!self.plain_for_others, "a password in plain text");
        assert!(self.greeted, "AUTH before EHLO");
        assert!(self.settings.auth != AuthPolicy::Off);
        let password = String::from_utf8_lossy(&credentials.password).into_owned();
        self.heard.asked.push(format!("{:?} {password:?}", credentials.user));
        match password.as_str() {
            "right" => {
                self.proven = Some(credentials.user.clone());
                Verdict::Right
            }
            "often" => Verdict::TooManyFailures,
            "later" => Verdict::Unknown,
            _ => Verdict::Wrong,
        }
    }

    fn may_send(&mut self, session: &Session, reverse_path: &ReversePath) -> Result<(), Reply> {
        assert!(self.settings.auth != AuthPolicy::Required || session.user().is_some(), "MAIL without AUTH");
        assert!(self.greeted, "MAIL before EHLO");
        self.heard.asked.push(format!("from {reverse_path}"));
        match reverse_path.as_str().starts_with('x') {
            true => Err(Reply::new(550, (5, 7, 1), "Not from here")),
            false => Ok(()),
        }
    }

    fn check(&mut self, address: &Address) -> RecipientCheck {
        assert!(self.settings.checks_recipients);
        self.heard.asked.push(format!("to {address}"));
        match address.as_str().as_bytes().first() {
            Some(b'x') => RecipientCheck::Refuse(Reply::new(550, (5, 1, 1), "No such user")),
            Some(b'u') => RecipientCheck::Unverified,
            _ => RecipientCheck::Accept,
        }
    }

    fn decide(&mut self, session: &Session, incoming: Incoming) -> Reply {
        let Incoming { envelope, refused, content, memory, helo, with } = incoming;
        assert!(self.settings.auth != AuthPolicy::Required || session.user().is_some(), "mail without AUTH");
        assert!((1..=self.settings.recipients).contains(&envelope.recipients.len()));
        assert!(content.len() <= self.settings.message_size);
        assert!(verify(&content).is_ok() && !content.contains(&0));
        assert!(content.is_empty() || content.ends_with(b"\r\n"));
        assert!(session.user().is_some() || !with.ends_with('A'), "{with}");
        assert!(session.tls().is_some() || !with.contains("SMTPS"), "{with}");
        drop(memory);
        let is_refused = content.len() % 2 == 1;
        self.heard.messages.push(format!("{envelope:?} {refused:?} {helo} {with} {content:?}"));
        match is_refused {
            true => Reply::new(451, (4, 3, 0), "Later"),
            false => Reply::new(250, (2, 0, 0), "OK Message queued as X"),
        }
    }
}
