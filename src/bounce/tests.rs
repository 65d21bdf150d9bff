//! Reports as a mail program sees them: parsed by one that is not ours.

use mail_parser::{MessageParser, MimeHeaders};
use proptest::prelude::*;

use super::*;
use crate::mail::{AttemptReply, Ret, ReversePath};

const NOW: Timestamp = Timestamp::from_millis(1_795_343_400_000);

fn original(sender: &str, recipients: &[&str], content: &[u8]) -> Message {
    let recipient = |address: &&str| Recipient {
        forward_path: Address::parse(address).unwrap(),
        notify: None,
        orcpt: None,
        unverified: false,
    };
    let mut envelope = envelope(Address::parse("x@y.example").unwrap(), Body::SevenBit, false);
    envelope.reverse_path = ReversePath::Mailbox(Address::parse(sender).unwrap());
    envelope.recipients = recipients.iter().map(recipient).collect();
    Message {
        id: QueueId::new(NOW),
        accepted_at: NOW,
        envelope,
        origin: Origin { listener: "main".into(), user: None, client: None },
        key: None,
        message_id: "<m@shop.example>".into(),
        content: Bytes::copy_from_slice(content),
    }
}

fn small(sender: &str) -> Message {
    original(sender, &["b@x.example"], b"Subject: hello\r\nX-A: 1\r\n\r\nthe body\r\n")
}

fn reply(code: u16, text: &str) -> AttemptReply {
    AttemptReply {
        at: NOW,
        route: "r".into(),
        host: "mx.x.example:25".into(),
        code,
        text: text.into(),
        times: 1,
        tls: String::new(),
    }
}

/// A report on all recipients, each with this fate and this last reply.
fn report(original: &Message, kind: Kind, fate: Fate, said: AttemptReply) -> Option<Message> {
    let mut progress = Progress::fresh(original.envelope.recipients.len(), NOW);
    progress.recipients.iter_mut().for_each(|recipient| recipient.note(said.clone()));
    let mentions: Vec<_> =
        (0..progress.recipients.len()).map(|recipient| Mention { recipient, fate }).collect();
    let progress = &progress;
    notice(&Report { kind, hostname: "relay.example", original, progress, mentions: &mentions, at: NOW })
}

fn failure(original: &Message, text: &str) -> Message {
    report(original, Kind::Failure, Fate::Failed, reply(550, text)).unwrap()
}

fn text(message: &Message) -> String {
    String::from_utf8(message.content.to_vec()).unwrap()
}

/// The types of the parts below the outermost one, as an independent parser finds them.
fn part_types(content: &[u8]) -> Vec<String> {
    let parsed = MessageParser::default().parse(content).unwrap();
    let types = parsed.parts.iter().skip(1).filter_map(|part| part.content_type());
    types.map(|kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default())).collect()
}

#[test]
fn a_failure_is_a_report_in_three_parts_from_the_null_sender() {
    let mut original = small("a@shop.example");
    original.envelope.envid = Some("QQ+2B314".into());
    original.envelope.recipients[0].orcpt = Some("rfc822;Bob+2Btag@x.example".into());
    let notice = failure(&original, "5.1.1 no such user");
    assert_eq!(notice.envelope.reverse_path, ReversePath::Null);
    assert_eq!(notice.envelope.recipients[0].forward_path.as_str(), "a@shop.example");
    assert_eq!((notice.key.as_ref(), notice.envelope.handling.priority), (None, 0));
    assert_ne!(notice.id, original.id);
    let parsed = MessageParser::default().parse(&notice.content[..]).unwrap();
    assert_eq!(parsed.from().unwrap().first().unwrap().address(), Some("MAILER-DAEMON@relay.example"));
    assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("a@shop.example"));
    assert_eq!(parsed.header_raw("Auto-Submitted").unwrap().trim(), "auto-replied");
    assert_eq!(parsed.header_raw("In-Reply-To").unwrap().trim(), "<m@shop.example>");
    assert_eq!(format!("<{}>", parsed.message_id().unwrap()), notice.message_id);
    let kind = parsed.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    let types = part_types(&notice.content);
    assert_eq!(types, ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
    let all = text(&notice);
    for line in [
        "Reporting-MTA: dns; relay.example",
        "Original-Envelope-Id: QQ+314",
        "Arrival-Date: Sun, 22 Nov 2026 10:30:00 +0000",
        "Original-Recipient: rfc822; Bob+tag@x.example",
        "Final-Recipient: rfc822; b@x.example",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; mx.x.example",
        "Diagnostic-Code: smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date: Sun, 22 Nov 2026 10:30:00 +0000",
        "Subject: hello",
        "  mx.x.example said: 550 5.1.1 no such user",
    ] {
        assert!(all.contains(&format!("\r\n{line}\r\n")), "{line} is missing in\n{all}");
    }
    assert!(!all.contains("the body") && !all.contains("Will-Retry-Until"));
}

#[test]
fn one_report_speaks_of_all_recipients() {
    let all = original("a@shop.example", &["b@x.example", "c@x.example"], b"Subject: x\r\n\r\n");
    let all = text(&failure(&all, "5.1.1 no"));
    assert_eq!(all.matches("Final-Recipient: ").count(), 2);
    assert_eq!(all.matches("\r\n\r\nFinal-Recipient: rfc822; c@").count(), 1);
}

#[test]
fn of_a_long_list_people_read_a_part_and_programs_all() {
    let addresses: Vec<_> = (0..250).map(|n| format!("r{n}@x.example")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let all = text(&failure(&original("a@shop.example", &addresses, b"Subject: x\r\n\r\n"), "5.1.1 no"));
    assert_eq!(all.matches("\r\n<r").count(), 100);
    assert!(all.contains("and 150 more"));
    assert_eq!(all.matches("\r\nFinal-Recipient: ").count(), 250);
}

#[test]
fn s2_a_report_on_thousands_with_long_answers_stays_small_enough_to_get_through() {
    let addresses: Vec<_> = (0..5_000).map(|n| format!("r{n}@x.example")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let original = original("a@shop.example", &addresses, b"Subject: x\r\n\r\n");
    let all = text(&failure(&original, &"5.1.1 no such user, and much more is said ".repeat(20)));
    assert_eq!(all.matches("\r\nFinal-Recipient: ").count(), 5_000);
    assert_eq!(all.matches("\r\nAction: failed\r\nStatus: 5.1.1\r\n").count(), 5_000);
    assert!((1_000..5_000).contains(&all.matches("\r\nDiagnostic-Code: ").count()));
    assert!(all.len() < 2 << 20, "{}", all.len());
}

#[test]
fn an_original_recipient_that_no_line_has_room_for_is_left_out() {
    for (sender, orcpt) in [
        ("a@shop.example", "ü".repeat(240)),
        ("dörte@shop.example", format!("{}@x", "\u{10400}".repeat(300))),
    ] {
        let mut original = small(sender);
        original.envelope.recipients[0].orcpt = Some(format!("utf-8;{orcpt}"));
        let notice = failure(&original, "5.1.1 no");
        assert!(encoding::natural_encoding(&notice.content).is_some());
        let all = text(&notice);
        assert!(all.contains("Final-Recipient: rfc822; b@x.example") && !all.contains("Original-Recipient"));
    }
}

#[test]
fn a_delay_says_until_when_and_a_success_where_to() {
    let original = small("a@shop.example");
    let until = NOW.plus(std::time::Duration::from_secs(86_400));
    let delay = report(&original, Kind::Delay { until }, Fate::Delayed, reply(0, "no route")).unwrap();
    let delay = text(&delay);
    assert!(delay.contains("\r\n<b@x.example>\r\n  no route\r\n"));
    assert!(delay.contains("Action: delayed\r\nStatus: 4.4.7\r\nDiagnostic-Code: X-Oncemail; no route\r\n"));
    assert!(delay.contains("Will-Retry-Until: Mon, 23 Nov 2026 10:30:00 +0000\r\n"));
    let relayed = report(&original, Kind::Success, Fate::Relayed, reply(250, "2.0.0 ok")).unwrap();
    assert!(text(&relayed).contains("Action: relayed\r\nStatus: 2.0.0\r\n"));
    let delivered = report(&original, Kind::Success, Fate::Delivered, reply(0, "2.0.0 saved")).unwrap();
    assert!(text(&delivered).contains("Action: delivered\r\nStatus: 2.0.0\r\n"));
    let expired = report(&original, Kind::Failure, Fate::Expired, reply(451, "4.2.2 full")).unwrap();
    assert!(text(&expired).contains("Action: failed\r\nStatus: 5.4.7\r\n"));
}

#[test]
fn ret_full_returns_the_message_and_only_in_a_failure() {
    let mut original = small("a@shop.example");
    original.envelope.ret = Some(Ret::Full);
    let notice = failure(&original, "5.1.1 no");
    assert!(part_types(&notice.content).contains(&"message/rfc822".to_owned()));
    assert!(text(&notice).contains("\r\n\r\nSubject: hello\r\nX-A: 1\r\n\r\nthe body\r\n"));
    let relayed = report(&original, Kind::Success, Fate::Relayed, reply(250, "2.0.0 ok")).unwrap();
    assert!(!text(&relayed).contains("the body"));
    original.envelope.ret = Some(Ret::Headers);
    assert!(!text(&failure(&original, "5.1.1 no")).contains("the body"));
}

#[test]
fn what_is_too_large_or_might_not_get_through_is_returned_as_its_header() {
    let eight_bit = "Subject: x\r\n\r\nü\r\n".as_bytes();
    let long_line = [b"Subject: x\r\n\r\n".as_slice(), &[b'x'; 1000], b"\r\n"].concat();
    let large = [b"Subject: x\r\n\r\n".to_vec(), b"a line\r\n".repeat(returned::MAX_FULL / 8)].concat();
    let utf8_header = "Subject: ü\r\n\r\nx\r\n".as_bytes();
    for (content, said, is_full) in [
        (eight_bit, "5.1.1 no", true),
        (eight_bit, "5.6.3 content with 8-bit octets", false),
        (&long_line, "5.1.1 no", false),
        (&large, "5.1.1 no", false),
        (utf8_header, "5.1.1 no", false),
    ] {
        let mut original = original("a@shop.example", &["b@x.example"], content);
        original.envelope.ret = Some(Ret::Full);
        let notice = failure(&original, said);
        let types = part_types(&notice.content);
        assert_eq!(types.contains(&"message/rfc822".to_owned()), is_full, "{types:?}");
        assert_eq!(notice.envelope.body == Body::EightBitMime, !notice.content.is_ascii());
        assert!(notice.content.is_ascii() || is_full);
    }
}

#[test]
fn a_message_that_asked_for_encryption_is_not_returned() {
    let mut original = small("a@shop.example");
    original.envelope.handling.require_tls = true;
    original.envelope.ret = Some(Ret::Full);
    let notice = failure(&original, "5.7.30 no REQUIRETLS");
    assert_eq!(part_types(&notice.content), ["text/plain", "message/delivery-status"]);
    assert!(!text(&notice).contains("hello"));
}

#[test]
fn an_address_beyond_ascii_is_told_in_ascii_unless_the_sender_is_beyond_it_too() {
    let to_ascii = original("a@shop.example", &["jörg@x.example"], b"Subject: x\r\n\r\n");
    let notice = failure(&to_ascii, "5.6.7 non-ASCII address");
    assert!(notice.content.is_ascii() && !notice.envelope.smtputf8);
    assert!(text(&notice).contains("Final-Recipient: utf-8; j\\x{F6}rg@x.example\r\n"));
    let mut to_utf8 =
        original("dörte@shop.example", &["jörg@x.example"], "Subject: ü\r\n\r\nx\r\n".as_bytes());
    to_utf8.envelope.recipients[0].orcpt = Some("utf-8;j\\x{F6}rg@x.example".into());
    to_utf8.envelope.ret = Some(Ret::Full);
    let notice = failure(&to_utf8, "5.1.1 nö");
    assert!(notice.envelope.smtputf8 && notice.envelope.body == Body::EightBitMime);
    let types = part_types(&notice.content);
    assert_eq!(types, ["text/plain", "message/global-delivery-status", "message/global"]);
    let all = text(&notice);
    assert!(all.contains("Final-Recipient: utf-8; jörg@x.example\r\n"));
    assert!(all.contains("Diagnostic-Code: smtp; 550 5.1.1 nö\r\n"));
}

#[test]
fn nobody_is_told_of_a_bounce_or_of_nothing() {
    let mut original = small("a@shop.example");
    let progress = Progress::fresh(1, NOW);
    let about = |original: &Message, mentions: &[Mention]| {
        notice(&Report {
            kind: Kind::Failure,
            hostname: "relay.example",
            original,
            progress: &progress,
            mentions,
            at: NOW,
        })
    };
    assert!(about(&original, &[]).is_none());
    assert!(about(&original, &[Mention { recipient: 7, fate: Fate::Failed }]).is_none());
    original.envelope.reverse_path = ReversePath::Null;
    assert!(about(&original, &[Mention { recipient: 0, fate: Fate::Failed }]).is_none());
}

#[test]
fn a_message_that_holds_the_boundary_does_not_break_the_report() {
    let parts = [b"=_oncemail_00000000000000000000000000_".to_vec()];
    let id = QueueId::from_bytes([0; 16]);
    assert_eq!(boundary(id, &parts), "=_oncemail_00000000000000000000000000__");
}

/// What a far side may say: fields, boundaries, line ends, raw octets that were made characters, anything.
fn hostile() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("\r\n".to_owned()),
        Just("\r\n\r\n".to_owned()),
        Just("\n--=_oncemail_".to_owned()),
        Just("\r\nContent-Type: text/html\r\n\r\n<b>".to_owned()),
        Just("\r\nFinal-Recipient: rfc822; evil@x.example\r\n".to_owned()),
        Just("\0\u{b}\u{85}\u{2028}\t  ".to_owned()),
        Just("5.1.1 ".to_owned()),
        Just(" =20= ".to_owned()),
        "[ -~]{0,600}",
        any::<String>(),
    ];
    prop::collection::vec(pieces, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn hostile_words_never_break_a_report(
        said in hostile(),
        host in hostile(),
        message_id in hostile(),
        code in prop_oneof![Just(0u16), Just(550)],
        orcpt in hostile(),
        envid in hostile(),
        utf8_sender in any::<bool>(),
        content in hostile(),
    ) {
        let sender = if utf8_sender { "dörte@shop.example" } else { "a@shop.example" };
        let mut original = original(sender, &["b@x.example", "c@x.example"], b"");
        original.content = Bytes::from(format!("Subject: x\r\n{content}"));
        original.message_id = message_id;
        original.envelope.ret = Some(Ret::Full);
        original.envelope.envid = Some(envid.chars().take(100).collect());
        original.envelope.recipients[0].orcpt = Some(format!("rfc822;{}", orcpt.chars().take(100).collect::<String>()));
        let mut said = reply(code, &said);
        said.host = host.chars().take(200).collect();
        let notice = report(&original, Kind::Failure, Fate::Failed, said).unwrap();
        let content = &notice.content[..];
        // S1: only CRLF ends a line, and no line is too long.
        prop_assert!(encoding::natural_encoding(content).is_some());
        prop_assert!(content.is_ascii() || notice.envelope.body == Body::EightBitMime);
        let types = part_types(content);
        prop_assert_eq!(types.len(), 3, "{:?}", &types);
        prop_assert_eq!(&types[0], "text/plain");
        let all = String::from_utf8_lossy(content).into_owned();
        let boundary = format!("\r\n--=_oncemail_{}", notice.id);
        prop_assert_eq!(all.matches(&boundary).count(), 4);
        let status = all.split(&boundary).nth(2).unwrap();
        prop_assert_eq!(status.matches("\r\nFinal-Recipient: ").count(), 2);
        prop_assert!(!status.contains("\r\nFinal-Recipient: rfc822; evil"));
        // The MIME header and four groups of fields: a stranger has added none.
        prop_assert_eq!(status.trim_end().split("\r\n\r\n").count(), 4, "{}", status);
    }
}
