//! What strangers say in replies, headers, keys and certificates, on its way into reports, fields and files of ours.

use std::fmt::Write as _;

use mail_parser::{MessageParser, MimeHeaders};
use oncemail::mail::{Address, Envelope, Message, ReversePath};
use oncemail::queue::{self, OnFailure};
use oncemail::relay::options::{DkimKey, Options, TlsPolicy};

use super::is_hostile;
use crate::common::certificates::Authority;
use crate::common::client::Client;
use crate::common::far_side::{Act, FarSide, Tls};
use crate::common::relay_rig::{
    Rig, changed, directory, message, patient, queue_options, relay_options, replies, to_hosts,
};
use crate::common::whole::Plan;

/// Refusals of a far side that wants to be more than one line of a report.
fn refusals() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        &b"550 5.1.1 \x1b[2J\x1b]0;owned\x07 \x9b31m \x00\x7f\r\n"[..],
        b"550 5.1.1 \xc2\x9b2J \xc2\x85X-Evil: 1 \xe2\x80\xa8X-Evil: 1 \xe2\x80\xae1\r\n",
        b"550-5.1.1 one\r\n550-5.1.1 \r\n550-\r\n550-X-Evil: 1\r\n550 5.1.1 \r\n",
        b"550-5.1.1 --=_oncemail_\r\n550-5.1.1 Content-Type: text/html\r\n550 5.1.1 <script>alert(1)</script>\r\n",
        b"550 5.1.1 =?utf-8?q?=0D=0AX-Evil:=201?= =?utf-8?b?DQpYLUV2aWw6IDE=?=\r\n",
        b"550 5.1.1 Final-Recipient: rfc822; other@x.example Action: delivered Status: 2.0.0\r\n",
        b"550 5.1.1 %0d%0aX-Evil:%201 &#13;&#10;X-Evil: 1 \\r\\nX-Evil: 1\r\n",
        b"550 5.1.1\r\n",
        b"550\r\n",
        b"550 \xff\xfe\xc0\xaf\xed\xa0\x80 \xf4\x90\x80\x80\r\n",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    all.push([b"550 5.1.1 ".as_slice(), &[b'x'; 4_000], b"\r\n"].concat());
    all.push(
        (0..90)
            .flat_map(|n| format!("550{}5.1.1 line {n}\r\n", if n == 89 { ' ' } else { '-' }).into_bytes())
            .collect(),
    );
    all
}

/// Field names of a block of lines, folds left out.
fn names(block: &str) -> Vec<&str> {
    let is_start = |line: &&str| !line.starts_with([' ', '\t']);
    block.lines().filter(is_start).map(|line| line.split_once(':').map_or(line, |(name, _)| name)).collect()
}

fn bouncing() -> queue::Options {
    queue::Options { on_failure: OnFailure::Bounce, hostname: "relay.example".into(), ..queue_options() }
}

/// A message whose sender, recipient, parameters and header want the same.
fn hostile_message(rig: &Rig) -> Message {
    let mut message = message(&rig.clock, &["\"gone> X-Evil: 1\"@x.example"], "");
    let Envelope { envid, recipients, reverse_path, .. } = &mut message.envelope;
    *reverse_path = ReversePath::Mailbox(Address::parse("\"a b> X-Evil: 1\"@shop.example").unwrap());
    // No client gets these in any more; a journal may have them.
    *envid = Some("e+0D+0AX-Evil:+201+0D+0A+0D+0A".into());
    recipients[0].orcpt = Some("rfc822;c+0D+0AX-Evil:+201+0D+0A+0D+0A".into());
    message.message_id = "<1@x>\r\nX-Evil: 1\r\n\r\n--=_oncemail_".into();
    message.content =
        "Subject: --=_oncemail_\r\nX-Folded: a\r\n \r\n\tb\r\nTo: =?utf-8?q?=0D=0AX-Evil:=201?=\r\n\r\n\
                       --=_oncemail_\r\nContent-Type: text/html\r\n\r\n.\r\n"
            .into();
    message
}

#[tokio::test]
async fn nothing_that_anybody_said_becomes_a_line_a_field_or_a_part_of_a_report() {
    for refusal in refusals() {
        let about = refusal.escape_ascii().to_string();
        let far = FarSide::new().on("RCPT TO:<\"gone", Act::Bytes(refusal)).start().await;
        let rig = Rig::start_with(to_hosts(&[far.address]), bouncing());
        rig.submit(hostile_message(&rig)).await;
        let log = far.wait(|log| !log.taken.is_empty()).await;
        let report = &log.taken[0];
        assert!(report.mail.starts_with("MAIL FROM:<>"), "{about}");
        assert_eq!(report.rcpts, ["RCPT TO:<\"a b> X-Evil: 1\"@shop.example>"]);
        let text = String::from_utf8(report.content.clone()).unwrap();
        assert!(text.is_ascii() && !text.replace("\r\n", "\n").contains(is_hostile), "{about}: {text}");
        assert!(text.lines().all(|line| line.len() <= 998), "{about}");
        let (header, _) = text.split_once("\r\n\r\n").unwrap();
        let expected =
            ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"];
        assert_eq!(names(header), expected, "{about}: {header}");
        let parsed = MessageParser::default().parse(&report.content).unwrap();
        let parts: Vec<_> = parsed.parts[1..4]
            .iter()
            .map(|part| {
                part.content_type().map(|kind| (kind.ctype().to_owned(), kind.subtype().map(str::to_owned)))
            })
            .collect();
        let kind = |main: &str, sub: &str| Some((main.to_owned(), Some(sub.to_owned())));
        let expected =
            [kind("text", "plain"), kind("message", "delivery-status"), kind("text", "rfc822-headers")];
        assert_eq!(parts, expected, "{about}: {text}");
        assert_eq!(parsed.parts.len(), 4, "{about}: {text}");
        // The fields that programs read: of the message, and of its one recipient.
        let status = text.split_once("Reporting-MTA: ").unwrap().1.split_once("\r\n--=_oncemail_").unwrap().0;
        let (message, recipient) = status.split_once("\r\n\r\n").unwrap();
        let of_message =
            ["dns; relay.example", "Original-Envelope-Id", "X-Oncemail-Queue-Id", "Arrival-Date"];
        assert_eq!(names(message), of_message, "{about}: {status}");
        assert!(!recipient.contains("\r\n\r\n"), "{about}: {status}");
        let of_recipient = [
            "Original-Recipient",
            "Final-Recipient",
            "Action",
            "Status",
            "Remote-MTA",
            "Diagnostic-Code",
            "Last-Attempt-Date",
        ];
        assert_eq!(names(recipient.trim_end()), of_recipient, "{about}: {status}");
        assert!(recipient.contains("\r\nAction: failed\r\nStatus: 5."), "{about}: {status}");
    }
}

/// A client, a key in a field of this form, and the reply to the message.
async fn submitted(client: &mut Client, field: &[u8]) -> String {
    client.begin().await;
    client.send([field, b"\r\nSubject: x\r\n\r\nx\r\n.\r\n"].concat()).await;
    client.reply().await
}

#[tokio::test]
async fn a_key_is_one_plain_word_for_the_next_hop_or_is_refused() {
    let far = FarSide::new().start().await;
    let mut options = to_hosts(&[far.address]);
    options.routes[0].forward_key_as = Some("X-Next-Key".into());
    let whole = Plan::new(options).start().await;
    let (mut client, _) = Client::greeted(whole.addresses[0]).await;
    let hidden = [
        &b"=?utf-8?q?a=0D=0AX-Evil:=201?="[..],
        b"=?utf-8?b?YQ0KWC1FdmlsOiAx?=",
        b"=?utf-8?q?a=0A?= =?utf-8?q?b?=",
        b"=?utf-8?q?a=00b?=",
        b"=?utf-8?q?a=1B[2J?=",
        b"=?utf-8?q?a=7F?=",
        b"=?utf-8?q?a=C2=85b?=",
        b"=?utf-8?q?a=C2=9B2J?=",
        b"=?iso-8859-1?q?a=9B2J?=",
        b"=?iso-8859-1?q?a=85b?=",
        b"=?utf-16le?b?YQANAAoAYgA=?=",
        b"=?utf-7?q?a+AA0ACg-b?=",
        b"a\x0bb",
        b"a\x1b[2J",
        b"a\xc2\x85b",
        b"a\xffb",
    ];
    for value in hidden {
        let reply = submitted(&mut client, &[b"X-Idempotency-Key: ", value].concat()).await;
        let expected = "554 5.5.0 Invalid X-Idempotency-Key (characters)";
        assert_eq!(reply, expected, "{}", value.escape_ascii());
    }
    let odd = [
        "k: v",
        "k\r\n folded",
        "k;X-Evil: 1",
        "=?utf-8?q?k=20=C3=A9?=",
        "clé \u{202e}\u{2028}X-Evil: 1",
        "../../../etc/passwd",
        "<script>alert(1)</script>",
        "'; DROP TABLE keys; --",
        "${jndi:ldap://evil.example}",
        "a/b:0.0123456789abcdef",
        "oncemail-key-0123456789abcdef0123456789abcdef",
    ];
    for value in odd {
        let reply = submitted(&mut client, format!("X-Idempotency-Key: {value}").as_bytes()).await;
        assert!(reply.starts_with("250 2.0.0 OK Message queued"), "{value:?}: {reply}");
    }
    whole.store.wait(|_| whole.store.messages().is_empty()).await;
    let log = far.log();
    assert_eq!(log.taken.len(), odd.len());
    let mut keys = std::collections::BTreeSet::new();
    for taken in &log.taken {
        let content = String::from_utf8(taken.content.clone()).unwrap();
        let (header, _) = content.split_once("\r\n\r\n").unwrap();
        assert_eq!(names(header), ["X-Next-Key", "Received", "Message-ID", "Date", "Subject"], "{header}");
        let key = header.lines().next().unwrap();
        assert!(key.is_ascii() && !key.contains(is_hostile), "{key}");
        keys.insert(key.to_owned());
    }
    assert_eq!(keys.len(), odd.len(), "two of them became one: {keys:#?}");
}

#[tokio::test]
async fn what_a_certificate_has_written_in_it_is_words_in_a_sentence() {
    let authority = Authority::new("trusted\r\nX-Evil: 1");
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    authority.write(&ca_file);
    let shown = authority.signs(&["x\r\n250 2.0.0 ok", "\x1b[2J\x1b]0;owned\x07", "a\0b"]);
    let far = FarSide::new().tls(Tls::Upgrade).presents(shown.server()).start().await;
    let options = changed(&[far.address], |smtp| {
        (smtp.tls, smtp.ca_file) = (TlsPolicy::Required, Some(ca_file));
    });
    let rig = Rig::start_with(options, patient());
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    let [reply] = <[String; 1]>::try_from(replies(&progress)).unwrap();
    assert!(reply.starts_with("TLS with 127.0.0.1"), "{reply:?}");
    assert!(!reply.contains(is_hostile) && !reply.contains('\n'), "{reply:?}");
}

/// The domain, the selector and the names of fields are ours; of the header only the hash is in a signature.
#[tokio::test]
async fn no_field_of_a_message_writes_into_its_signature() {
    let far = FarSide::new().start().await;
    let pem = include_str!("../fixtures/dkim/ed25519.pem").as_bytes().to_vec();
    let key = DkimKey { domain: "shop.example".into(), selector: "ed".into(), key: pem.into() };
    let rig = Rig::start(Options { dkim: vec![key], ..to_hosts(&[far.address]) });
    let mut hostile = message(&rig.clock, &["b@x.example"], "");
    hostile.content = "From: \"a; d=evil.example; h=from; b=AAAA\"\r\n\t<a@shop.example>,\r\n <b@evil.example>\r\n\
                       From: c@evil.example\r\nSubject: x; bh=AAAA\r\n \r\n\tDKIM-Signature: v=1; d=evil.example\r\n\
                       To: =?utf-8?q?=0D=0ADKIM-Signature:?=\r\n\r\nx\r\n"
        .into();
    rig.submit(hostile).await;
    let log = far.wait(|log| !log.taken.is_empty()).await;
    let content = String::from_utf8(log.taken[0].content.clone()).unwrap();
    let (header, _) = content.split_once("\r\n\r\n").unwrap();
    assert_eq!(names(header), ["DKIM-Signature", "From", "From", "Subject", "To"], "{header}");
    let (signature, _) = header.split_once("\r\nFrom:").unwrap();
    let tags: Vec<_> = signature.split_once(':').unwrap().1.split(';').map(str::trim).collect();
    let tag = |name: &str| tags.iter().filter(|tag| tag.starts_with(&format!("{name}="))).collect::<Vec<_>>();
    assert_eq!((tag("d"), tag("s")), (vec![&"d=shop.example"], vec![&"s=ed"]), "{signature}");
    // Both From fields are covered, and a third would break it.
    let covered = tag("h")[0].replace("\r\n\t", "").to_lowercase();
    assert!(covered.split([':', '=']).filter(|name| *name == "from").count() == 3, "{covered}");
    assert!(["v", "a", "h", "bh", "b", "t"].iter().all(|name| tag(name).len() == 1), "{signature}");
}

/// Whatever a message is called, its files are called by its queue id.
#[tokio::test]
async fn no_name_of_a_message_is_the_name_of_a_file() {
    let directory_of_mail = tempfile::tempdir().unwrap();
    let mail = directory_of_mail.path().join("mail");
    let options = || -> Options { relay_options(vec![directory("files", &mail)]) };
    let whole = Plan::new(options()).start().await;
    let (mut client, _) = Client::greeted(whole.addresses[0]).await;
    let names = [
        "../../evil",
        "/tmp/evil",
        "evil\\..\\evil",
        "CON",
        ".",
        "..",
        "a/b",
        "evil.eml",
        "-rf",
        "%2e%2e%2fevil",
    ];
    for name in names {
        client.ask(&format!("MAIL FROM:<\"{}\"@x.example>", name.replace('\\', "/"))).await;
        client.ask(&format!("RCPT TO:<\"{}\"@x.example>", name.replace('\\', "/"))).await;
        assert!(client.ask("DATA").await.starts_with("354 "), "{name}");
        let mut content = String::new();
        for field in ["X-Idempotency-Key", "Message-ID", "Subject", "traceparent"] {
            let _ = write!(content, "{field}: {name}\r\n");
        }
        assert!(client.ask(&format!("{content}\r\n.")).await.starts_with("250 "), "{name}");
    }
    whole.store.wait(|_| whole.store.messages().is_empty()).await;
    let above: Vec<_> = std::fs::read_dir(directory_of_mail.path()).unwrap().collect();
    assert_eq!(above.len(), 1, "{above:?}");
    let mut files: Vec<_> = std::fs::read_dir(&mail)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files.len(), 2 * names.len());
    for file in files {
        let (id, kind) = file.split_once('.').unwrap();
        assert!(id.parse::<oncemail::mail::QueueId>().is_ok() && ["eml", "json"].contains(&kind), "{file}");
    }
}
