//! Reports to a message's sender: that it failed, that it takes long, that it was handed on (RFC 3464, RFC 3461). Pure.
//!
//! A report is a message like any other, from the null sender, so that nothing ever answers it. What it quotes was said
//! by strangers: no reply, address or header of theirs may become a line, a field or a boundary of the report. It is
//! made of US-ASCII and of lines that every mail server takes, wherever that is possible, because nobody is told of a
//! report that was refused. It fails in one way: a message without a sender, or without recipients to speak of, gives
//! no report.

mod encoding;
mod returned;
mod status;
#[cfg(test)]
mod tests;
mod words;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::mail::received::date;
use crate::mail::{
    Address, Body, Envelope, Handling, Message, Origin, Progress, QueueId, Recipient, RecipientProgress,
};
use encoding::{folded, plain};

/// What a report tells of, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What it says.
    pub kind: Kind,
    /// Our name: the Reporting-MTA.
    pub hostname: &'a str,
    /// The message that it is about.
    pub original: &'a Message,
    /// How far that message has come.
    pub progress: &'a Progress,
    /// The recipients that it is about; numbers that the message does not have are left out.
    pub mentions: &'a [Mention],
    /// The time of the report.
    pub at: Timestamp,
}

/// What a report says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It will not be delivered.
    Failure,
    /// It is not delivered yet, and goes on being tried until then.
    Delay {
        /// The last attempt is made then.
        until: Timestamp,
    },
    /// It has left for, or arrived at, a place that sends no reports itself.
    Success,
}

/// One recipient that a report is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mention {
    /// Its number in `Envelope::recipients`.
    pub recipient: usize,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a recipient (RFC 3464 §2.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// `failed`: refused for good.
    Failed,
    /// `failed`: it was tried for too long.
    Expired,
    /// `delayed`.
    Delayed,
    /// `relayed`: handed to a server that knows nothing of RFC 3461.
    Relayed,
    /// `delivered`: put where it was to go.
    Delivered,
}

/// A mention with all that is known of it.
struct Subject<'a> {
    recipient: &'a Recipient,
    progress: &'a RecipientProgress,
    fate: Fate,
}

impl Kind {
    /// Its name in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Delay { .. } => "delay",
            Self::Success => "success",
        }
    }
}

/// The report as a message to be queued, under a new queue id; `None` when there is nobody to tell or nothing to say.
pub fn notice(report: &Report<'_>) -> Option<Message> {
    let sender = report.original.envelope.reverse_path.mailbox()?;
    let subjects: Vec<Subject<'_>> =
        report.mentions.iter().filter_map(|mention| subject(report, *mention)).collect();
    if subjects.is_empty() {
        return None;
    }
    let id = QueueId::new(report.at);
    let message_id = format!("<{id}@{}>", plain(report.hostname));
    // RFC 6533 §3: only a sender that cannot be reached without SMTPUTF8 gets a report that needs it. The same next hop
    // may have failed the message because it has not got it.
    let smtputf8 = !sender.is_ascii();
    let mut parts = vec![words::part(report, &subjects), status::part(report, &subjects, smtputf8)];
    parts.extend(returned::part(report, smtputf8));
    let eight_bit = parts.iter().any(|part| !part.is_ascii());
    let boundary = boundary(id, &parts);
    let mut content = header(report, sender, &message_id, &boundary, eight_bit);
    for part in &parts {
        content.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        content.extend_from_slice(part);
        content.extend_from_slice(b"\r\n");
    }
    content.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let body = if content.is_ascii() { Body::SevenBit } else { Body::EightBitMime };
    Some(Message {
        id,
        accepted_at: report.at,
        envelope: envelope(sender.clone(), body, smtputf8),
        origin: Origin { listener: String::new(), user: None, client: None },
        key: None,
        message_id,
        content: Bytes::from(content),
    })
}

fn subject<'a>(report: &Report<'a>, mention: Mention) -> Option<Subject<'a>> {
    let recipient = report.original.envelope.recipients.get(mention.recipient)?;
    let progress = report.progress.recipients.get(mention.recipient)?;
    Some(Subject { recipient, progress, fate: mention.fate })
}

/// RFC 3461 §6.1: from the null sender, without wishes of its own.
fn envelope(to: Address, body: Body, smtputf8: bool) -> Envelope {
    let recipient = Recipient { forward_path: to, notify: None, orcpt: None, unverified: false };
    Envelope {
        reverse_path: crate::mail::ReversePath::Null,
        recipients: vec![recipient],
        body,
        smtputf8,
        ret: None,
        envid: None,
        handling: Handling::default(),
    }
}

fn header(
    report: &Report<'_>,
    sender: &Address,
    message_id: &str,
    boundary: &str,
    eight_bit: bool,
) -> Vec<u8> {
    let mut lines = vec![
        format!("From: \"Mail Delivery (oncemail)\" <MAILER-DAEMON@{}>", plain(report.hostname)),
        format!("To: <{sender}>"),
        format!("Subject: {}", words::subject(report)),
        format!("Date: {}", date(report.at)),
        format!("Message-ID: {message_id}"),
    ];
    if let Some(original) = quotable_id(&report.original.message_id) {
        lines.push(folded("In-Reply-To: ", original));
        lines.push(folded("References: ", original));
    }
    // RFC 3834 §5: so that no vacation program answers it.
    lines.push("Auto-Submitted: auto-replied".to_owned());
    lines.push("MIME-Version: 1.0".to_owned());
    lines.push(format!(
        "Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"{boundary}\""
    ));
    if eight_bit {
        lines.push("Content-Transfer-Encoding: 8bit".to_owned());
    }
    lines.push(String::new());
    lines.push("This is a report on the delivery of a message, in MIME format (RFC 3464).".to_owned());
    lines.push(String::new());
    lines.into_iter().flat_map(|line| (line + "\r\n").into_bytes()).collect()
}

/// A Message-ID that is what RFC 5322 §3.6.4 says, near enough to be quoted in a field.
fn quotable_id(message_id: &str) -> Option<&str> {
    const MAX: usize = 250;
    let inner = message_id.strip_prefix('<')?.strip_suffix('>')?;
    let fits = inner.bytes().all(|b| b.is_ascii_graphic() && b != b'<' && b != b'>');
    (fits && inner.contains('@') && inner.len() <= MAX).then_some(message_id)
}

/// A boundary that no part holds. Nobody can know the random id before the report is on its way; the look is for the
/// one that is returned to us in a message about itself.
fn boundary(id: QueueId, parts: &[Vec<u8>]) -> String {
    let mut boundary = format!("=_oncemail_{id}");
    while parts.iter().any(|part| memchr::memmem::find(part, boundary.as_bytes()).is_some()) {
        boundary.push('_');
    }
    boundary
}
