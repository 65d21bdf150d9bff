//! The first part: what people read.

use super::encoding::{folded, one_line, plain, quoted_printable};
use super::returned::Extent;
use super::status::host_name;
use super::{Fate, Kind, Report, Subject};
use crate::mail::received::date;
use crate::mail::{AttemptReply, Ret};

/// More recipients are only counted here; the second part names all.
const MAX_NAMED: usize = 100;

/// The report's Subject.
pub(super) fn subject(report: &Report<'_>) -> &'static str {
    match report.kind {
        Kind::Failure => "Mail could not be delivered",
        Kind::Delay { .. } => "Mail is delayed",
        Kind::Success => "Mail was passed on",
    }
}

/// The part with its MIME header.
pub(super) fn part(report: &Report<'_>, subjects: &[Subject<'_>]) -> Vec<u8> {
    let text = text(report, subjects);
    let (charset, encoding) =
        if text.is_ascii() { ("us-ascii", "7bit") } else { ("utf-8", "quoted-printable") };
    let mut part = format!(
        "Content-Description: Notification\r\nContent-Type: text/plain; charset={charset}\r\n\
         Content-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    .into_bytes();
    if text.is_ascii() {
        part.extend_from_slice(text.as_bytes());
    } else {
        part.extend_from_slice(&quoted_printable(text.as_bytes()));
    }
    part
}

fn text(report: &Report<'_>, subjects: &[Subject<'_>]) -> String {
    let mut lines = vec![format!("This is the mail server {}.", plain(report.hostname)), String::new()];
    lines.extend(opening(report, subjects).into_iter().map(str::to_owned));
    lines.push(String::new());
    for subject in subjects.iter().take(MAX_NAMED) {
        lines.extend(about(subject));
    }
    if subjects.len() > MAX_NAMED {
        lines
            .push(format!("... and {} more, all listed in the attached report.", subjects.len() - MAX_NAMED));
        lines.push(String::new());
    }
    lines.extend(closing(report));
    lines.push(String::new());
    lines.push(format!("Accepted: {}", date(report.original.accepted_at)));
    lines.push(format!("Queue id: {}", report.original.id));
    if !report.original.message_id.is_empty() {
        lines.push(folded("Message-ID:", &one_line(&report.original.message_id)));
    }
    lines.push(String::new());
    lines.join("\r\n")
}

/// What happened.
fn opening(report: &Report<'_>, subjects: &[Subject<'_>]) -> Vec<&'static str> {
    match report.kind {
        Kind::Failure => vec![
            "Your message could not be delivered to the recipients below, and it will",
            "not be tried again for them.",
        ],
        Kind::Delay { .. } => vec![
            "Your message has not reached the recipients below yet. It is still being",
            "tried; there is nothing you need to do, and no need to send it again.",
        ],
        Kind::Success if subjects.iter().all(|subject| subject.fate == Fate::Delivered) => {
            vec!["Your message was delivered to the recipients below."]
        }
        Kind::Success => vec![
            "You asked for a report when your message is delivered. It was handed to a",
            "mail server that sends no such reports, so this is the last one for the",
            "recipients below.",
        ],
    }
}

/// One recipient, and what was said of it.
fn about(subject: &Subject<'_>) -> Vec<String> {
    let mut lines = vec![format!("<{}>", one_line(subject.recipient.forward_path.as_str()))];
    if subject.fate == Fate::Expired {
        lines.push("  It was tried for too long without success. The last answer:".to_owned());
    }
    match subject.progress.last_answer() {
        Some(last) => lines.push(said(last)),
        None => lines.push("  No attempt could be made.".to_owned()),
    }
    lines.push(String::new());
    lines
}

fn said(last: &AttemptReply) -> String {
    let text = one_line(&last.text);
    match host_name(&last.host).filter(|_| last.code != 0) {
        Some(host) => folded(&format!("  {host} said:"), &format!("{} {text}", last.code)),
        None if last.code != 0 => indented(&format!("{} {text}", last.code)),
        None => indented(&text),
    }
}

fn indented(text: &str) -> String {
    format!(" {}", folded("", text))
}

/// What happens now.
fn closing(report: &Report<'_>) -> Vec<String> {
    if let Kind::Delay { until } = report.kind {
        return vec![format!("It is tried until {}.", date(until))];
    }
    let smtputf8 = report.original.envelope.reverse_path.mailbox().is_some_and(|sender| !sender.is_ascii());
    let sentence = match Extent::of(report, smtputf8) {
        Extent::Full => "The message is attached.",
        Extent::Header => "The header of the message is attached.",
        Extent::TooLarge => "The header of the message is attached; the whole of it is too large.",
        Extent::Unfit => "The header of the message is attached; the whole of it might not get through.",
        Extent::Nothing if report.original.envelope.ret == Some(Ret::Full) => {
            "The message is not attached: it asked not to travel without encryption."
        }
        Extent::Nothing => {
            "The header of the message is not attached: it asked not to travel without encryption."
        }
    };
    vec![sentence.to_owned()]
}
