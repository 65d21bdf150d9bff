//! The session without a socket: whole conversations as octets in, replies out.

use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::mail::Handling;
use crate::smtp::content::Share;
use crate::smtp::line::LineReader;

/// 2026-11-22T10:30:00Z.
const NOW: Timestamp = Timestamp::from_millis(1_795_343_400_000);

fn settings() -> Settings {
    Settings {
        hostname: "relay.example".into(),
        message_size: 40,
        recipients: 3,
        transactions: 5,
        starttls: true,
        auth: AuthPolicy::Optional,
        checks_recipients: false,
    }
}

/// What came out of a conversation.
#[derive(Debug, PartialEq, Eq, Default)]
struct Heard {
    replies: Vec<String>,
    messages: Vec<(Envelope, Vec<u8>, &'static str)>,
    closed: bool,
}

/// Plays the connection's part: the password is "right", everybody may send, every message is queued.
fn converse(mut session: Session, stream: &[u8], mut sizes: impl Iterator<Item = usize>) -> (Session, Heard) {
    let (mut heard, mut held, mut rest) = (Heard::default(), BytesMut::new(), stream);
    let mut lines = LineReader::default();
    let mut receiver: Option<Box<Receiver>> = None;
    while !heard.closed {
        let action;
        if let Some(mut receiving) = receiver.take() {
            let fed = receiving.feed(&held);
            held.advance(fed.consumed);
            if fed.done {
                (session, action) = session.step(Input::Received(receiving));
            } else {
                receiver = Some(receiving);
                if rest.is_empty() {
                    break;
                }
                more(&mut held, &mut rest, sizes.next());
                continue;
            }
        } else {
            let (consumed, event) = lines.read(&held, session.max_line());
            let Some(event) = event else {
                held.advance(consumed);
                if rest.is_empty() {
                    break;
                }
                more(&mut held, &mut rest, sizes.next());
                continue;
            };
            (session, action) = session.step(event.map_or_else(Input::Fault, |line| Input::Line(line, NOW)));
            held.advance(consumed);
        }
        let mut action = Some(action);
        while let Some(now) = action.take() {
            let Some(answer) = act(now, &mut heard, &mut receiver) else { break };
            let (next, then) = session.step(answer);
            (session, action) = (next, Some(then));
        }
    }
    (session, heard)
}

/// The next packet.
fn more(held: &mut BytesMut, rest: &mut &[u8], size: Option<usize>) {
    let (now, later) = rest.split_at(size.unwrap_or(1).clamp(1, rest.len()));
    held.extend_from_slice(now);
    *rest = later;
}

/// Does what the session wants; gives back its next input, or `None` when the client has to speak.
fn act(action: Action, heard: &mut Heard, receiver: &mut Option<Box<Receiver>>) -> Option<Input<'static>> {
    let mut say = |reply: &Reply| heard.replies.push(reply.to_string());
    match action {
        Action::Continue => None,
        Action::Reply(reply) => {
            say(&reply);
            None
        }
        Action::Refuse(refusal) => {
            say(&refusal.reply);
            None
        }
        Action::Close(reply) => {
            say(&reply);
            heard.closed = true;
            None
        }
        Action::StartTls(reply) => {
            say(&reply);
            Some(Input::Encrypted("TLSv1.3 TEST".into()))
        }
        Action::Receive(reply, started) => {
            reply.iter().for_each(say);
            *receiver = Some(started);
            None
        }
        Action::Verify(credentials) => {
            let is_right = *credentials.password == b"right";
            Some(Input::Verified(if is_right { Verdict::Right } else { Verdict::Wrong }))
        }
        Action::MaySend(ReversePath::Mailbox(from)) if from.local_part() == "busy" => {
            Some(Input::MaySend(Err(Reply::new(451, (4, 4, 5), "Too busy"))))
        }
        Action::MaySend(_) => Some(Input::MaySend(Ok(()))),
        // The address says what comes of its check.
        Action::CheckRecipient(address) => Some(Input::Recipient(match address.local_part() {
            "unseen" => RecipientCheck::Unverified,
            "refused" => RecipientCheck::Refuse(Reply::new(550, (5, 1, 1), "no")),
            _ => RecipientCheck::Accept,
        })),
        Action::Submit(incoming) => {
            heard.messages.push((incoming.envelope, incoming.content, incoming.with));
            Some(Input::Decided(Reply::new(250, (2, 0, 0), "queued")))
        }
    }
}

fn fresh(budget: &Budget) -> Session {
    Session::new(Arc::new(settings()), budget.clone(), true, None)
}

fn hear(stream: &str) -> Heard {
    converse(fresh(&Budget::new(1 << 20)), stream.as_bytes(), std::iter::repeat(usize::MAX)).1
}

#[test]
fn the_received_keyword_says_how_a_message_came() {
    let mail = |parameters: &str| {
        format!("MAIL FROM:<a@b.example>{parameters}\r\nRCPT TO:<c@d.example>\r\nDATA\r\n.\r\n")
    };
    // `\0ann\0right`.
    let auth = "AUTH PLAIN AGFubgByaWdodA==\r\n";
    let stream = format!(
        "HELO c\r\n{}EHLO c\r\n{}{auth}{}STARTTLS\r\nEHLO c\r\n{}{auth}{}",
        mail(""),
        mail(""),
        mail(" SMTPUTF8"),
        mail(" SMTPUTF8"),
        mail("")
    );
    let withs: Vec<_> = hear(&stream).messages.into_iter().map(|(_, _, with)| with).collect();
    assert_eq!(withs, ["SMTP", "ESMTP", "UTF8SMTPA", "UTF8SMTPS", "ESMTPSA"]);
}

#[test]
fn a_recipient_that_is_named_twice_gets_one_copy() {
    let rcpt = |path: &str| format!("RCPT TO:<{path}>\r\n");
    let named = ["c@d.example", "C@d.example", "c@D.Example"].map(rcpt).concat();
    let heard = hear(&format!("EHLO c\r\nMAIL FROM:<a@b.example>\r\n{named}DATA\r\n.\r\n"));
    assert!(heard.replies[2..5].iter().all(|reply| reply.starts_with("250 2.1.5")), "{heard:?}");
    let [(envelope, ..)] = heard.messages.as_slice() else { panic!("{heard:?}") };
    let paths: Vec<_> = envelope.recipients.iter().map(|r| r.forward_path.as_str()).collect();
    assert_eq!(paths, ["c@d.example", "C@d.example"]);
}

#[test]
fn a_refused_recipient_is_left_out_and_an_unverified_one_is_marked() {
    let session = |checks_recipients| {
        let settings = Settings { checks_recipients, recipients: 100, ..settings() };
        Session::new(Arc::new(settings), Budget::new(1 << 20), true, None)
    };
    let rcpt = |path: &str| format!("RCPT TO:<{path}@d.example>\r\n");
    // More refusals than a client may make errors.
    let named = format!("{}{}{}", rcpt("refused").repeat(30), rcpt("unseen"), rcpt("seen"));
    let stream = format!("EHLO c\r\nMAIL FROM:<a@b.example>\r\n{named}DATA\r\n.\r\n");
    let heard = |checks| converse(session(checks), stream.as_bytes(), std::iter::repeat(usize::MAX)).1;
    let of = |heard: &Heard| -> Vec<_> {
        let [(envelope, ..)] = heard.messages.as_slice() else { panic!("{heard:?}") };
        let recipients = envelope.recipients.iter();
        recipients.map(|r| (r.forward_path.local_part().to_owned(), r.unverified)).collect()
    };
    let checked = heard(true);
    assert_eq!(of(&checked), [("unseen".to_owned(), true), ("seen".to_owned(), false)]);
    assert_eq!(checked.replies.iter().filter(|reply| *reply == "550 5.1.1 no").count(), 30);
    assert_eq!(of(&heard(false)).len(), 3);
}

#[test]
fn what_was_sent_behind_a_mail_that_is_refused_is_no_error() {
    let transaction = "MAIL FROM:<busy@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n";
    let heard = hear(&format!("EHLO c\r\n{}", transaction.repeat(50)));
    let codes: Vec<_> = heard.replies.iter().skip(1).map(|reply| &reply[..3]).collect();
    assert_eq!(codes, ["451", "503", "503"].repeat(50));
    // As many as one MAIL explains, and no more.
    let heard = hear(&format!("EHLO c\r\n{transaction}{}", "RCPT TO:<c@d.example>\r\n".repeat(100)));
    assert!(heard.closed && heard.replies.last().unwrap().starts_with("421 4.7.0"), "{heard:?}");
}

#[test]
fn s2_a_size_for_which_there_is_no_memory_is_refused_at_mail() {
    let settings = Settings { message_size: 1 << 20, ..settings() };
    let budget = Budget::new(1 << 20);
    let mut others = Reservation::empty(&budget.of(Share::default()));
    assert!(others.grow(1 << 19));
    let session = Session::new(Arc::new(settings), budget, true, None);
    let transaction = "RCPT TO:<c@d.example>\r\nDATA\r\n";
    let tries = format!("MAIL FROM:<a@b.example> SIZE=600000\r\n{transaction}").repeat(30);
    let stream = format!("EHLO c\r\n{tries}MAIL FROM:<a@b.example> SIZE=250000\r\n{transaction}.\r\n");
    let heard = converse(session, stream.as_bytes(), std::iter::repeat(usize::MAX)).1;
    let codes: Vec<_> = heard.replies.iter().skip(1).map(|reply| &reply[..9]).collect();
    // What is pipelined behind it is no error of the client's.
    assert_eq!(codes[..90], ["452 4.3.1", "503 5.5.1", "503 5.5.1"].repeat(30));
    assert_eq!(heard.messages.len(), 1, "{heard:?}");
}

/// A refusal of its own for each of them, as many as a message may have recipients, and no fewer than a hundred.
#[test]
fn s2_refused_recipients_without_a_message_come_to_an_end() {
    let heard = |recipients, stream: &str| {
        let settings = Settings { checks_recipients: true, recipients, transactions: 9_999, ..settings() };
        let session = Session::new(Arc::new(settings), Budget::new(1 << 20), true, None);
        converse(session, stream.as_bytes(), std::iter::repeat(usize::MAX)).1
    };
    let (mail, data) = ("MAIL FROM:<a@b.example>\r\n", "DATA\r\n.\r\n");
    let rcpt = |path: &str, times| format!("RCPT TO:<{path}@d.example>\r\n").repeat(times);
    for (limit, most) in [(1, 100), (100, 100), (250, 250)] {
        // In one transaction, in one each, or in one that RSET or EHLO ends.
        for between in ["", "RSET\r\n", "EHLO c\r\n"] {
            let begin = if between.is_empty() { "" } else { mail };
            let one = format!("{between}{begin}{}", rcpt("refused", 1));
            let heard = heard(limit, &format!("EHLO c\r\n{mail}{}", one.repeat(2 * most)));
            let refused = heard.replies.iter().filter(|reply| *reply == "550 5.1.1 no").count();
            assert_eq!((refused, heard.closed), (most, true), "{limit} {between:?}");
            assert!(heard.replies.last().unwrap().starts_with("421 4.7.0 Too many refused"), "{heard:?}");
        }
    }
    // An honest list: as many again as may be accepted are refused, message after message.
    let list = format!("{mail}{}{}{data}", rcpt("refused", 150), rcpt("seen", 150));
    let honest = heard(150, &format!("EHLO c\r\n{}", list.repeat(3)));
    assert_eq!((honest.messages.len(), honest.closed), (3, false));
    // One that is twice as long as it may be has what is too much answered with 452.
    let long = heard(150, &format!("EHLO c\r\n{mail}{}{data}", rcpt("seen", 300)));
    assert_eq!((long.messages.len(), long.closed), (1, false));
    let too_long = heard(150, &format!("EHLO c\r\n{mail}{}{data}", rcpt("seen", 301)));
    assert_eq!((too_long.messages.len(), too_long.closed), (0, true));
}

#[test]
fn how_a_message_wants_to_be_carried_reaches_its_envelope() {
    let handling = |parameters: &str| {
        let mail = format!("MAIL FROM:<a@b.example>{parameters}\r\nRCPT TO:<c@d.example>\r\nDATA\r\n.\r\n");
        let heard = hear(&format!("EHLO c\r\nSTARTTLS\r\nEHLO c\r\n{mail}"));
        let [(envelope, ..)] = heard.messages.as_slice() else { panic!("{heard:?}") };
        envelope.handling
    };
    assert_eq!(handling(""), Handling::default());
    let whole = handling(" REQUIRETLS MT-PRIORITY=-3 HOLDFOR=60");
    let release_at = Some(NOW.plus(std::time::Duration::from_secs(60)));
    assert_eq!(whole, Handling { require_tls: true, priority: -3, release_at });
    let until = handling(" HOLDUNTIL=2026-11-22T11:30:01+01:00");
    assert_eq!(until.release_at, Some(NOW.plus(std::time::Duration::from_secs(1))));
}

#[test]
fn requiretls_is_known_only_inside_tls() {
    let heard = hear(
        "EHLO c\r\nMAIL FROM:<a@b.example> REQUIRETLS\r\nSTARTTLS\r\nEHLO c\r\nMAIL FROM:<a@b.example> REQUIRETLS\r\n",
    );
    assert!(!heard.replies[0].contains("REQUIRETLS"), "{heard:?}");
    assert!(heard.replies[1].starts_with("530 5.7.10 "), "{heard:?}");
    assert!(heard.replies[3].contains("REQUIRETLS"), "{heard:?}");
    assert!(heard.replies[4].starts_with("250 2.1.0 "), "{heard:?}");
}

#[test]
fn auth_is_offered_only_where_nobody_can_listen() {
    let remote = |auth, stream: &str| {
        let settings = Settings { auth, ..settings() };
        let session = Session::new(Arc::new(settings), Budget::new(1 << 20), false, None);
        converse(session, stream.as_bytes(), std::iter::repeat(usize::MAX)).1.replies
    };
    let replies = remote(AuthPolicy::Required, "EHLO c\r\nAUTH PLAIN\r\nMAIL FROM:<a@b.example>\r\n");
    assert!(replies[0].contains("STARTTLS") && !replies[0].contains("AUTH"), "{replies:?}");
    assert!(replies[1].starts_with("538 5.7.11") && replies[2].starts_with("530 5.7.0"), "{replies:?}");
    let replies = remote(AuthPolicy::Required, "EHLO c\r\nSTARTTLS\r\nEHLO c\r\nHELO c\r\nAUTH PLAIN\r\n");
    assert!(!replies[2].contains("STARTTLS") && replies[2].contains("AUTH PLAIN LOGIN"), "{replies:?}");
    assert!(replies[4].starts_with("503 5.5.1"), "{replies:?}");
    let replies = remote(AuthPolicy::Off, "EHLO c\r\nSTARTTLS\r\nEHLO c\r\nAUTH PLAIN\r\n");
    assert!(!replies[2].contains("AUTH") && replies[3].starts_with("502 5.5.1"), "{replies:?}");
}

#[test]
fn s2_every_way_out_of_a_transaction_gives_its_memory_back() {
    let start = "EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n";
    for end in [
        "BDAT 3\r\nabcRSET\r\n",
        "BDAT 3\r\nabcEHLO c\r\n",
        "BDAT 3\r\nabcSTARTTLS\r\n",
        "BDAT 3\r\nabcQUIT\r\n",
        "BDAT 3\r\na\nbBDAT 3\r\nabc",
        "DATA\r\nabc\r\n.\r\n",
        "DATA\r\na\0c\r\n.\r\n",
        "DATA\r\n0123456789012345678901234567890123456789\r\n.\r\n",
        "RSET\r\n",
    ] {
        let budget = Budget::new(1 << 20);
        let stream = format!("{start}{end}");
        let (session, heard) = converse(fresh(&budget), stream.as_bytes(), std::iter::repeat(usize::MAX));
        assert_eq!(budget.free(), 1 << 20, "{end:?}: {heard:?}");
        drop(session);
    }
    // And while it lasts, it is taken.
    let budget = Budget::new(1 << 20);
    let stream = format!("{start}BDAT 3\r\nabc");
    let (session, _) = converse(fresh(&budget), stream.as_bytes(), std::iter::repeat(usize::MAX));
    assert!(budget.free() < 1 << 20);
    drop(session);
    assert_eq!(budget.free(), 1 << 20);
}

#[test]
fn an_answer_to_nothing_that_was_asked_ends_the_session() {
    let (session, action) = fresh(&Budget::new(1)).step(Input::Decided(Reply::bare(250, "queued")));
    assert!(matches!(action, Action::Close(reply) if reply.code == 421));
    let (_, action) = session.step(Input::Line(b"NOOP", NOW));
    assert!(matches!(action, Action::Close(reply) if reply.code == 421));
}

/// Pieces from which conversations are made: right ones, wrong ones, and the stuff of smuggling.
fn fragment() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "EHLO c\r\n",
        "HELO c\r\n",
        "MAIL FROM:<a@b.example>\r\n",
        "MAIL FROM:<a@b.example> SIZE=41\r\n",
        "RCPT TO:<c@d.example>\r\n",
        "DATA\r\n",
        "BDAT 7\r\n",
        "BDAT 3 LAST\r\n",
        "BDAT 0 LAST\r\n",
        "RSET\r\n",
        "QUIT\r\n",
        "AUTH LOGIN\r\n",
        "AUTH PLAIN AGFubgByaWdodA==\r\n",
        "AGFubgByaWdodA==\r\n",
        "*\r\n",
        "text",
        "\r\n",
        "\r\n.\r\n",
        ".\r\n",
        "..",
        "\r",
        "\n",
        "\0",
    ])
}

/// RFC 2034 §4: the class agrees with the code. EHLO's reply and 3yz have none.
fn carries_enhanced_code(reply: &str) -> bool {
    match reply.split_at(4) {
        (code, _) if code.starts_with('3') => true,
        ("250 ", text) if text.starts_with("relay.example") => true,
        (code, text) => text.starts_with(&format!("{}.", &code[..1])),
    }
}

proptest! {
    #[test]
    fn s1_a_conversation_does_not_depend_on_packet_sizes(
        fragments in proptest::collection::vec(fragment(), 0..40),
        sizes in proptest::collection::vec(1usize..30, 0..60),
    ) {
        // Sent into a transaction, where it gets interesting.
        let stream = format!("EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n{}", fragments.concat());
        let budget = Budget::new(1 << 20);
        let whole = converse(fresh(&budget), stream.as_bytes(), std::iter::repeat(usize::MAX)).1;
        let slow = converse(fresh(&budget), stream.as_bytes(), std::iter::repeat(1)).1;
        let mixed = converse(fresh(&budget), stream.as_bytes(), sizes.into_iter()).1;
        prop_assert_eq!(&whole, &slow);
        prop_assert_eq!(&whole, &mixed);
        for reply in &whole.replies {
            prop_assert!(carries_enhanced_code(reply), "{}", reply);
        }
        // Nothing that leaves here holds a bare line end or a NUL.
        for (_, content, _) in &whole.messages {
            let text = String::from_utf8_lossy(content).replace("\r\n", "");
            prop_assert!(!text.contains(['\r', '\n', '\0']));
            prop_assert!(content.is_empty() || content.ends_with(b"\r\n"));
        }
        prop_assert_eq!(budget.free(), 1 << 20);
    }

    #[test]
    fn any_octets_get_replies_and_never_a_panic(stream in proptest::collection::vec(any::<u8>(), 0..300)) {
        converse(fresh(&Budget::new(1 << 20)), &stream, std::iter::repeat(usize::MAX));
    }
}
