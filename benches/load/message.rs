//! What is sent: envelopes and messages with a marker that the sink can count by.

use std::io::Write;

use clap::ValueEnum;

/// The field that tells copies of one message apart from other messages: `run-sequence`, both hexadecimal.
pub const MARKER: &str = "X-Load-Id";

/// The field that oncemail takes the idempotency key from, unless told otherwise.
pub const KEY: &str = "X-Idempotency-Key";

/// The domain that a route of its own leads to, where a scenario wants one.
pub const DEAD_DOMAIN: &str = "dead.invalid";

/// Each body line with its CRLF; none starts with a dot, so nothing needs stuffing.
const LINE: &[u8] = b"The quick brown fox jumps over the lazy dog, again and again, until the end.\r\n";

/// Which idempotency keys the messages carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Keys {
    /// One for each message.
    #[default]
    Distinct,
    /// None.
    None,
    /// Some messages are sent again with their key, built anew: a replay is the right answer.
    Duplicates,
    /// Some keys come again with another body: 554 is the right answer.
    Mismatches,
}

/// Where the messages of a run go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Destinations {
    /// All to one domain.
    #[default]
    One,
    /// All to a domain of which nothing comes back.
    Dead,
    /// By turns to so many address literals in 127.0.0.0/8, at most 60,000.
    Literals(u32),
    /// By turns to so many domains.
    Domains(u32),
}

/// What all messages of a run have in common.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Tells this run's messages from those of others at the same sink.
    pub run: u64,
    /// Recipients of each message, at least 1.
    pub recipients: u32,
    /// Where they go.
    pub destinations: Destinations,
    /// Name of the key's field; none is written when absent.
    pub key_header: Option<String>,
    /// Body lines, as many as the longest message needs.
    filler: Vec<u8>,
    /// Octets of content, header included, to within a line.
    size: usize,
}

/// One message to send.
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    /// Counts from 0 within the run; what the sink counts by.
    pub id: u64,
    /// The key's number; another message's in a mismatch.
    pub key: u64,
    /// Differs whenever the message is built again, as Message-ID does in real applications.
    pub build: u64,
}

impl Shape {
    /// A shape of `size` octets.
    pub fn new(run: u64, size: usize, recipients: u32, key_header: Option<String>) -> Self {
        Self {
            run,
            recipients: recipients.max(1),
            destinations: Destinations::One,
            key_header,
            filler: LINE.repeat(size / LINE.len() + 1),
            size,
        }
    }

    /// MAIL; its CRLF included, like all of these.
    pub fn write_mail(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MAIL FROM:<sender@load.invalid>\r\n");
    }

    /// RCPT of the recipient with this number of the message with this id.
    pub fn write_rcpt(&self, number: u32, id: u64, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = match self.destinations {
            Destinations::One => write!(out, "RCPT TO:<recipient{number}@load.invalid>\r\n"),
            Destinations::Dead => write!(out, "RCPT TO:<recipient{number}@{DEAD_DOMAIN}>\r\n"),
            Destinations::Literals(count) => {
                let place = id % u64::from(count.max(1));
                let (high, low) = (place / 250 + 1, place % 250 + 1);
                write!(out, "RCPT TO:<recipient{number}@[127.1.{high}.{low}]>\r\n")
            }
            Destinations::Domains(count) => {
                let place = id % u64::from(count.max(1));
                write!(out, "RCPT TO:<recipient{number}@d{place}.load.invalid>\r\n")
            }
        };
    }

    /// Header, body and final dot.
    pub fn write_content(&self, draft: Draft, out: &mut Vec<u8>) {
        let start = out.len();
        let Draft { id, key, build } = draft;
        let run = self.run;
        let _ = write!(
            out,
            "From: Sender <sender@load.invalid>\r\nTo: Recipient <recipient0@load.invalid>\r\n\
             Subject: Order {id} confirmed\r\nDate: Sun, 01 Feb 2026 12:00:00 +0000\r\n\
             Message-ID: <{run:x}.{id:x}.{build:x}@load.invalid>\r\n{MARKER}: {run:x}-{id:x}\r\n"
        );
        if let Some(header) = &self.key_header {
            let _ = write!(out, "{header}: order-{run:x}-{key:x}\r\n");
        }
        let _ = write!(
            out,
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nOrder {id} of run {run:x}.\r\n"
        );
        let room = self.size.saturating_sub(out.len() - start);
        let body = room - room % LINE.len();
        out.extend_from_slice(self.filler.get(..body).unwrap_or_default());
        out.extend_from_slice(b".\r\n");
    }
}

/// The run and the sequence number in a marker's value.
pub fn parse_marker(value: &str) -> Option<(u64, u64)> {
    let (run, id) = value.trim().split_once('-')?;
    Some((u64::from_str_radix(run, 16).ok()?, u64::from_str_radix(id, 16).ok()?))
}
