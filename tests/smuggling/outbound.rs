//! S1 on the way out: a next hop that takes anything for the end of a message, and anything for the end of a line, still
//! sees one message for each that was accepted, whatever is in it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{endings, is_acceptable, shown};
use crate::common::client::Client;
use crate::common::far_side::{FarSide, Taken};
use crate::common::relay_rig::to_hosts;
use crate::common::whole::{Plan, Whole};

/// What ends DATA for some server or other. One that also takes NEL or LINE SEPARATOR for a line end is not known; no
/// sender of UTF-8 could be safe from it.
const LAX: [&[u8]; 14] = [
    b"\r\n.\r\n",
    b"\n.\n",
    b"\n.\r\n",
    b"\n.\r",
    b"\r.\r",
    b"\r.\n",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n\0.\0\r\n",
];

/// A next hop that ends messages and lines at the first thing that could be an end.
#[derive(Clone)]
struct LaxSink {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default, Clone, Debug)]
struct Seen {
    /// Every line that was taken for a command.
    commands: Vec<String>,
    messages: Vec<Vec<u8>>,
}

impl LaxSink {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sink = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let seen = sink.seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, seen.clone()));
            }
        });
        sink
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) -> std::io::Result<()> {
    stream.write_all(b"220 lax.example ESMTP\r\n").await?;
    let mut input = Vec::new();
    loop {
        let Some(line) = until(&mut stream, &mut input, &[b"\r\n", b"\n", b"\r"]).await? else {
            return Ok(());
        };
        let command = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        seen.lock().unwrap().commands.push(command);
        let reply = match &*verb {
            "EHLO" => "250-lax.example\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250 8BITMIME\r\n",
            "QUIT" => "221 2.0.0 bye\r\n",
            "DATA" => "354 go ahead\r\n",
            _ => "250 2.0.0 ok\r\n",
        };
        stream.write_all(reply.as_bytes()).await?;
        if verb == "DATA" {
            // The line end of DATA begins the first line of the message.
            input.splice(0..0, *b"\r\n");
            let Some(message) = until(&mut stream, &mut input, &LAX).await? else { return Ok(()) };
            seen.lock().unwrap().messages.push(message);
            stream.write_all(b"250 2.0.0 taken\r\n").await?;
        }
    }
}

/// Everything up to the first of `ends`, with it; of those that begin at one place the longest that has come.
async fn until(
    stream: &mut TcpStream,
    input: &mut Vec<u8>,
    ends: &[&[u8]],
) -> std::io::Result<Option<Vec<u8>>> {
    loop {
        let found = ends.iter().filter_map(|end| memchr::memmem::find(input, end).map(|at| (at, end.len())));
        let first = found.min_by_key(|(at, len)| (*at, std::cmp::Reverse(*len)));
        // The rest of a CRLF may still be on its way: this side writes lines whole, and ends whole.
        if let Some((at, len)) = first {
            return Ok(Some(input.drain(..at + len).collect()));
        }
        if stream.read_buf(input).await? == 0 {
            return Ok(None);
        }
    }
}

/// Every content with an ending in it that may be accepted, as it is meant to arrive.
fn contents() -> Vec<Vec<u8>> {
    let smuggled =
        b"MAIL FROM:<smuggled@evil.example>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n\r\nsmuggled\r\n";
    let with = |ending: &[u8]| [b"Subject: x\r\n\r\ntext", ending, smuggled].concat();
    let mut all: Vec<_> = endings().iter().map(|ending| with(ending)).collect();
    // Only a chunk can carry these.
    for ending in [
        &b"\r\n.\r\n"[..],
        b"\r\n.\r\n.\r\n",
        b"\r\n..\r\n",
        b"\r\n.\r\n..\r\n...\r\n",
        b"\r\n.\r\nQUIT\r\n",
        b"\r\n\r\n.\r\n\r\n",
    ] {
        all.push(with(ending));
    }
    all.extend([
        b".\r\n".to_vec(),
        b".".to_vec(),
        b"..".to_vec(),
        b".\r\n.".to_vec(),
        b"Subject: x\r\n.\r\n".to_vec(),
        b"Subject: x\r\n\r\n.".to_vec(),
        b"Subject: x\r\n\r\n.\r\n.".to_vec(),
        b"Subject: x\r\n\r\nno end of line".to_vec(),
        b"Subject: x\r\n\r\n..\r\n.\r\n".to_vec(),
        Vec::new(),
        b"\r\n".to_vec(),
        // All that is no line end and no NUL.
        [b"Subject: x\r\n\r\n".to_vec(), (1..=255).filter(|octet| !b"\r\n".contains(octet)).collect()]
            .concat(),
    ]);
    all.retain(|content| is_acceptable(content));
    all
}

async fn submit(client: &mut Client, content: &[u8]) {
    let mut all = b"MAIL FROM:<a@example.com> BODY=8BITMIME\r\nRCPT TO:<b@example.org>\r\n".to_vec();
    all.extend_from_slice(format!("BDAT {} LAST\r\n", content.len()).as_bytes());
    all.extend_from_slice(content);
    client.send(all).await;
    for code in ["250 2.1.0 ", "250 2.1.5 ", "250 2.0.0 OK Message queued as "] {
        let reply = client.reply().await;
        assert!(reply.starts_with(code), "{reply}: {}", shown(content));
    }
}

/// With a client whose messages all leave.
async fn relaying_to(address: SocketAddr) -> (Whole, Client) {
    let mut plan = Plan::new(to_hosts(&[address]));
    plan.submission.limits.messages_per_connection = 1_000_000;
    let whole = plan.start().await;
    let client = Client::greeted(whole.addresses[0]).await.0;
    (whole, client)
}

async fn all_gone(whole: &Whole) {
    whole.store.wait(|_| whole.store.messages().is_empty()).await;
}

#[tokio::test]
async fn s1_a_next_hop_that_takes_anything_for_an_end_sees_one_message_for_each() {
    let sink = LaxSink::start().await;
    let (whole, mut client) = relaying_to(sink.address).await;
    let contents = contents();
    assert!(contents.len() > 60, "{}", contents.len());
    for content in &contents {
        submit(&mut client, content).await;
    }
    all_gone(&whole).await;
    let seen = sink.seen();
    assert_eq!(seen.messages.len(), contents.len());
    for message in &seen.messages {
        assert!(message.ends_with(b"\r\n.\r\n"), "{}", shown(message));
    }
    // Nobody but the relay has said anything outside of messages.
    let known = |line: &str| {
        ["EHLO relay.example", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>", "DATA", "RSET", "QUIT"]
            .iter()
            .any(|own| line.starts_with(own))
    };
    assert_eq!(seen.commands.iter().find(|line| !known(line)), None);
    let data = seen.commands.iter().filter(|line| *line == "DATA").count();
    assert_eq!(data, contents.len());
}

#[tokio::test]
async fn s1_a_strict_next_hop_gets_every_content_octet_by_octet() {
    let far = FarSide::new().offers(&["PIPELINING", "8BITMIME"]).start().await;
    let (whole, mut client) = relaying_to(far.address).await;
    let contents = contents();
    for content in &contents {
        submit(&mut client, content).await;
    }
    all_gone(&whole).await;
    let log = far.log();
    assert_eq!(log.taken.len(), contents.len());
    for content in &contents {
        let line_end: &[u8] = if content.ends_with(b"\r\n") || content.is_empty() { b"" } else { b"\r\n" };
        let whole = [content, line_end].concat();
        // A line that is no field begins the body, and an empty line is put in front of it.
        let repaired =
            [b"Subject: x\r\n\r\n", whole.strip_prefix(b"Subject: x\r\n").unwrap_or(&whole)].concat();
        let is_it = |taken: &Taken| taken.content.ends_with(&whole) || taken.content.ends_with(&repaired);
        let is_there = log.taken.iter().any(is_it);
        assert!(is_there, "{}", shown(content));
    }
}

/// Lines that begin with dots at every offset of every buffer on the way.
#[tokio::test]
async fn s1_dots_are_doubled_wherever_a_buffer_ends() {
    let far = FarSide::new().offers(&["PIPELINING"]).start().await;
    let (whole, mut client) = relaying_to(far.address).await;
    // Lengths that have no factor in common with the powers of two that buffers have.
    let bodies =
        [".\r\n".repeat(70_001), "..x\r\n".repeat(30_011), format!("{}\r\n", ".".repeat(6)).repeat(20_011)];
    for body in &bodies {
        submit(&mut client, format!("Subject: x\r\n\r\n{body}").as_bytes()).await;
    }
    all_gone(&whole).await;
    let log = far.log();
    for body in &bodies {
        assert!(log.taken.iter().any(|taken| taken.content.ends_with(body.as_bytes())));
    }
    assert_eq!(log.taken.len(), bodies.len());
}
