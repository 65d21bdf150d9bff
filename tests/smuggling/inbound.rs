//! S1 on the way in: each ending is content of the one message, or the message is refused; either way there is one reply
//! to it, and what came behind it in the same packet is read as what it is.

use oncemail::submission::Options;

use super::{endings, is_acceptable, shown};
use crate::common::client::Client;
use crate::common::listener::Running;

const ENVELOPE: &str = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
/// What an attacker wants to be read as commands.
const SMUGGLED: &str = "MAIL FROM:<smuggled@evil.example>\r\nRCPT TO:<c@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled";
/// Behind the true end, in the same packet.
const NEXT: &str = "NOOP\r\n";

/// Where in the message an ending stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    AtTheStart,
    InTheHeader,
    InTheBody,
}

const PLACES: [Place; 3] = [Place::AtTheStart, Place::InTheHeader, Place::InTheBody];

/// What goes over the wire for a message with `ending` in it, but for the true end.
fn message(ending: &[u8], place: Place) -> Vec<u8> {
    let before: &[u8] = match place {
        Place::AtTheStart => b"",
        Place::InTheHeader => b"Subject: x",
        Place::InTheBody => b"Subject: x\r\n\r\ntext",
    };
    [before, ending, SMUGGLED.as_bytes(), b"\r\n"].concat()
}

/// RFC 5321 §4.5.2.
fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let (mut content, mut at) = (Vec::new(), 0);
    while at < wire.len() {
        let starts_line = at == 0 || wire[..at].ends_with(b"\r\n");
        at += usize::from(starts_line && wire[at] == b'.');
        let end = memchr::memmem::find(&wire[at..], b"\r\n").map_or(wire.len(), |end| at + end + 2);
        content.extend_from_slice(&wire[at..end]);
        at = end;
    }
    content
}

fn patient(options: &mut Options) {
    options.limits.messages_per_connection = 1_000_000;
}

/// Everything of it that no reading of line ends can turn into something else.
const TAIL: &str = "RCPT TO:<c@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled\r\n";

/// Reads the reply to the one message that was sent, and the one to the command behind it.
async fn is_one_message(client: &mut Client, server: &Running, sent: &[u8], before: usize) {
    let reply = client.reply().await;
    assert_eq!(client.reply().await, "250 2.0.0 OK", "{}", shown(sent));
    let messages = server.messages();
    if !is_acceptable(sent) {
        let is_told = reply.starts_with("550 5.6.11 ") || reply == "550 5.6.0 NUL in the message";
        assert!(is_told, "{reply}: {}", shown(sent));
        assert_eq!(messages.len(), before, "{}", shown(sent));
        return;
    }
    let id = reply.strip_prefix("250 2.0.0 OK Message queued as ").unwrap_or_else(|| panic!("{reply}"));
    assert_eq!(messages.len(), before + 1, "{}", shown(sent));
    let message = messages.iter().find(|message| message.id.to_string() == id).unwrap();
    assert_eq!(message.envelope.reverse_path.as_str(), "a@example.com", "{}", shown(sent));
    assert!(message.content.ends_with(TAIL.as_bytes()), "{}", shown(sent));
    if sent.starts_with(b"Subject: x\r\n\r\n") {
        assert!(message.content.ends_with(&unstuffed(sent)), "{}", shown(sent));
    }
}

/// The endings that are none at this place.
fn false_endings(place: Place) -> Vec<Vec<u8>> {
    let mut endings = endings();
    // The CRLF of the DATA command itself begins the first line.
    endings.retain(|ending| place != Place::AtTheStart || !ending.starts_with(b".\r\n"));
    endings
}

#[tokio::test]
async fn s1_no_ending_but_the_true_one_ends_data_wherever_it_stands() {
    for place in PLACES {
        let server = Running::start(patient).await;
        let mut client = server.client().await;
        for (before, ending) in false_endings(place).iter().enumerate() {
            let queued = server.messages().len();
            assert!(queued <= before);
            client.begin().await;
            let sent = message(ending, place);
            client.send([&sent, &b".\r\n"[..], NEXT.as_bytes()].concat()).await;
            is_one_message(&mut client, &server, &sent, queued).await;
        }
    }
}

#[tokio::test]
async fn s1_no_ending_ends_data_when_everything_comes_in_one_packet() {
    let server = Running::start(patient).await;
    let mut client = server.client().await;
    for ending in false_endings(Place::InTheBody) {
        let queued = server.messages().len();
        let sent = message(&ending, Place::InTheBody);
        let all = [ENVELOPE.as_bytes(), b"DATA\r\n", &sent, b".\r\n", NEXT.as_bytes()].concat();
        client.send(all).await;
        for code in ["250 2.1.0 ", "250 2.1.5 ", "354 "] {
            assert!(client.reply().await.starts_with(code), "{}", shown(&sent));
        }
        is_one_message(&mut client, &server, &sent, queued).await;
    }
}

#[tokio::test]
async fn s1_no_ending_ends_data_when_packets_cut_it_anywhere() {
    let server = Running::start(patient).await;
    let mut client = server.client().await;
    for ending in false_endings(Place::InTheBody) {
        let queued = server.messages().len();
        client.begin().await;
        let sent = message(&ending, Place::InTheBody);
        let start = sent.len() - 2 - SMUGGLED.len() - ending.len();
        client.send(&sent[..start]).await;
        client.send_slowly(&sent[start..start + ending.len() + 1]).await;
        client.send(&sent[start + ending.len() + 1..]).await;
        client.send_slowly(b".\r\n").await;
        client.send(NEXT).await;
        is_one_message(&mut client, &server, &sent, queued).await;
    }
}

/// A chunk has its count, so that even the true ending is content in it.
#[tokio::test]
async fn s1_nothing_ends_a_chunk_but_its_count() {
    let server = Running::start(patient).await;
    let mut client = server.client().await;
    let mut all = endings();
    all.extend([&b"\r\n.\r\n"[..], b"\r\n.\r\n.\r\n", b"\r\n.\r\nBDAT 0 LAST\r\n"].map(<[u8]>::to_vec));
    for (number, ending) in all.iter().enumerate() {
        let queued = server.messages().len();
        let sent = message(ending, Place::InTheBody);
        // The border falls into the ending, at another octet each time.
        let start = sent.len() - 2 - SMUGGLED.len() - ending.len();
        let (first, second) = sent.split_at(start + number % (ending.len() + 1));
        let mut all = format!("{ENVELOPE}BDAT {}\r\n", first.len()).into_bytes();
        all.extend_from_slice(first);
        all.extend_from_slice(format!("BDAT {} LAST\r\n", second.len()).as_bytes());
        all.extend_from_slice(second);
        all.extend_from_slice(NEXT.as_bytes());
        client.send(all).await;
        assert!(client.reply().await.starts_with("250 2.1.0 "));
        assert!(client.reply().await.starts_with("250 2.1.5 "));
        let first_reply = client.reply().await;
        if first_reply.starts_with("550 ") {
            // The rest of the message passes by, and is no command.
            assert!(!is_acceptable(&sent), "{}", shown(&sent));
            assert!(client.reply().await.starts_with("503 5.5.1 BDAT needs MAIL"), "{}", shown(&sent));
            assert_eq!(client.reply().await, "250 2.0.0 OK", "{}", shown(&sent));
            assert_eq!(server.messages().len(), queued);
            // Errors are counted, and there are many of them here.
            client = server.client().await;
            continue;
        }
        assert_eq!(first_reply, format!("250 2.0.0 {} octets received", first.len()), "{}", shown(&sent));
        let reply = client.reply().await;
        assert_eq!(client.reply().await, "250 2.0.0 OK", "{}", shown(&sent));
        let messages = server.messages();
        if is_acceptable(&sent) {
            assert!(reply.starts_with("250 2.0.0 OK Message queued as "), "{reply}: {}", shown(&sent));
            assert_eq!(messages.len(), queued + 1, "{}", shown(&sent));
            assert!(messages.iter().any(|message| message.content.ends_with(&sent)), "{}", shown(&sent));
        } else {
            assert!(reply.starts_with("550 5.6."), "{reply}: {}", shown(&sent));
            assert_eq!(messages.len(), queued, "{}", shown(&sent));
        }
    }
}

/// A chunk that cannot be measured may be a whole message: whatever follows it is not looked at.
#[tokio::test]
async fn s1_behind_a_chunk_of_unknown_size_nothing_is_read_as_a_command() {
    let server = Running::start(|_| ()).await;
    for command in [
        "BDAT",
        "BDAT LAST",
        "BDAT -1 LAST",
        "BDAT +86 LAST",
        "BDAT 0x56 LAST",
        "BDAT 86 LAST LAST",
        "BDAT 86 LA\0ST",
        "BDAT 86\u{b}LAST",
        "BDAT\t86 LAST",
        "BDAT\u{a0}86 LAST",
        " BDAT 86 LAST",
        "BDAT 18446744073709551616 LAST",
        "BDAT 99999999999999999999999999 LAST",
    ] {
        for envelope in [ENVELOPE, ""] {
            let mut client = server.client().await;
            let smuggled = format!("{envelope}{command}\r\nRSET\r\n{SMUGGLED}\r\n.\r\nQUIT\r\n");
            client.send(smuggled).await;
            if !envelope.is_empty() {
                assert!(client.reply().await.starts_with("250 2.1.0 "));
                assert!(client.reply().await.starts_with("250 2.1.5 "));
            }
            assert!(client.reply().await.starts_with("501 5.5.4 Expected BDAT"), "{command:?}");
            assert!(client.is_closed().await, "{command:?}");
        }
    }
    assert!(server.messages().is_empty());
}

/// The largest count that can be: the client may send on as long as the message has time, and none of it is a command.
#[tokio::test]
async fn s1_s2_a_chunk_without_end_passes_by() {
    let server = Running::start(|options| {
        options.limits.message_size = 1000;
        options.limits.data_timeout = std::time::Duration::from_millis(300);
    })
    .await;
    for envelope in [ENVELOPE, ""] {
        let mut client = server.client().await;
        client.send(format!("{envelope}BDAT {} LAST\r\n", u64::MAX)).await;
        for _ in 0..envelope.lines().count() {
            assert!(client.reply().await.starts_with("250 "));
        }
        client.send(format!("{SMUGGLED}\r\n.\r\n").repeat(100)).await;
        assert!(client.reply().await.starts_with("421 4.4.2 "));
        assert!(client.is_closed().await);
    }
    assert!(server.messages().is_empty());
}
