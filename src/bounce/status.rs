//! The second part: what programs read (RFC 3464 §2, RFC 3461 §6.3, RFC 6533 §3).

use super::encoding::{encoded_utf8_address, folded, from_xtext, one_line, plain, utf8_address};
use super::{Fate, Kind, Report, Subject};
use crate::mail::received::date;
use crate::mail::{AttemptReply, Recipient};

/// Of a longer list, in octets, the rest is told without what was said of it, so that the report gets through.
const MAX_DETAILED: usize = 1 << 20;
/// RFC 5321 §4.5.3.1.6, without CRLF.
const MAX_LINE: usize = 998;

/// The part with its MIME header.
pub(super) fn part(report: &Report<'_>, subjects: &[Subject<'_>], smtputf8: bool) -> Vec<u8> {
    let (kind, encoding) = if smtputf8 {
        ("message/global-delivery-status", "8bit")
    } else {
        ("message/delivery-status", "7bit")
    };
    let mut lines = vec![
        "Content-Description: Delivery report".to_owned(),
        format!("Content-Type: {kind}"),
        format!("Content-Transfer-Encoding: {encoding}"),
        String::new(),
        format!("Reporting-MTA: dns; {}", plain(report.hostname)),
    ];
    if let Some(envid) = &report.original.envelope.envid {
        lines.push(format!("Original-Envelope-Id: {}", plain(&from_xtext(envid))));
    }
    lines.push(format!("X-Oncemail-Queue-Id: {}", report.original.id));
    lines.push(format!("Arrival-Date: {}", date(report.original.accepted_at)));
    let mut octets = 0;
    for subject in subjects {
        let mut fields = vec![String::new()];
        recipient_fields(subject, smtputf8, &mut fields);
        if octets < MAX_DETAILED {
            attempt_fields(report, subject, smtputf8, &mut fields);
        }
        octets += fields.iter().map(String::len).sum::<usize>();
        lines.append(&mut fields);
    }
    lines.into_iter().flat_map(|line| (line + "\r\n").into_bytes()).collect()
}

fn recipient_fields(subject: &Subject<'_>, smtputf8: bool, lines: &mut Vec<String>) {
    if let Some(orcpt) = &subject.recipient.orcpt {
        lines.extend(original_recipient(orcpt, smtputf8));
    }
    lines.push(format!("Final-Recipient: {}", final_recipient(subject.recipient, smtputf8)));
    lines.push(format!("Action: {}", action(subject.fate)));
    lines.push(format!("Status: {}", code(subject.fate, subject.progress.last_answer())));
}

/// What is known of the last attempt; all of it may be left out (RFC 3464 §2.3).
fn attempt_fields(report: &Report<'_>, subject: &Subject<'_>, smtputf8: bool, lines: &mut Vec<String>) {
    let Some(last) = subject.progress.last_answer() else { return };
    let text = if smtputf8 { one_line(&last.text) } else { plain(&last.text) };
    if last.code == 0 {
        // Nobody out there said this: it is ours, or the network's.
        lines.push(folded("Diagnostic-Code: X-Oncemail;", &text));
    } else {
        if let Some(host) = host_name(&last.host) {
            lines.push(format!("Remote-MTA: dns; {host}"));
        }
        lines.push(folded("Diagnostic-Code: smtp;", &format!("{} {text}", last.code)));
    }
    lines.push(format!("Last-Attempt-Date: {}", date(last.at)));
    if let Kind::Delay { until } = report.kind {
        lines.push(format!("Will-Retry-Until: {}", date(until)));
    }
}

/// RFC 3464 §2.3.1: as the sender spelled it, xtext decoded. One that is too long for a line once it is spelled out in
/// US-ASCII is left out: nobody would take the report.
fn original_recipient(orcpt: &str, smtputf8: bool) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    let address = if kind.eq_ignore_ascii_case("utf-8") {
        encoded_utf8_address(address, smtputf8)
    } else {
        plain(&from_xtext(address))
    };
    let field = format!("Original-Recipient: {}; {}", plain(kind), one_line(&address));
    Some(field).filter(|field| field.len() <= MAX_LINE)
}

fn final_recipient(recipient: &Recipient, smtputf8: bool) -> String {
    let address = recipient.forward_path.as_str();
    if recipient.forward_path.is_ascii() {
        format!("rfc822; {}", plain(address))
    } else {
        format!("utf-8; {}", utf8_address(address, smtputf8))
    }
}

/// RFC 3464 §2.3.3.
fn action(fate: Fate) -> &'static str {
    match fate {
        Fate::Failed | Fate::Expired => "failed",
        Fate::Delayed => "delayed",
        Fate::Relayed => "relayed",
        Fate::Delivered => "delivered",
    }
}

/// RFC 3463: what the last reply said where it speaks of the same end, and otherwise what we know ourselves.
fn code(fate: Fate, last: Option<&AttemptReply>) -> String {
    let (class, otherwise) = match fate {
        // The last reply was a transient one; what ended the message is the time (§3.5).
        Fate::Expired => return "5.4.7".to_owned(),
        Fate::Failed => ('5', "5.0.0"),
        Fate::Delayed => ('4', "4.4.7"),
        Fate::Relayed | Fate::Delivered => ('2', "2.0.0"),
    };
    let said = last.and_then(|last| enhanced_code(&last.text)).filter(|said| said.starts_with(class));
    said.unwrap_or(otherwise).to_owned()
}

/// The enhanced status code that a text begins with (RFC 2034 §4): `class.subject.detail`.
fn enhanced_code(text: &str) -> Option<&str> {
    let word = text.split(|c: char| c.is_whitespace() || c.is_control()).next()?;
    let mut numbers = word.split('.');
    let (class, subject, detail) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let is_number = |n: &str| (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
    let is_code = matches!(class, "2" | "4" | "5") && is_number(subject) && is_number(detail);
    (is_code && numbers.next().is_none()).then_some(word)
}

/// `mx.example:25`, `192.0.2.1:25` or `[2001:db8::1]:25` without the port, as RFC 3464 §2.3.5 has it.
pub(super) fn host_name(host: &str) -> Option<String> {
    let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let host = plain(host);
    let bare = host.trim_matches(['[', ']']);
    if bare.is_empty() {
        return None;
    }
    Some(match bare.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(v4)) => format!("[{v4}]"),
        Ok(std::net::IpAddr::V6(v6)) => format!("[IPv6:{v6}]"),
        Err(_) => host,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> AttemptReply {
        AttemptReply {
            at: crate::clock::Timestamp::from_millis(1),
            route: String::new(),
            host: String::new(),
            code: 550,
            text: text.to_owned(),
            times: 1,
            tls: String::new(),
        }
    }

    #[test]
    fn the_status_is_the_far_sides_where_it_speaks_of_the_same_end() {
        for (fate, text, expected) in [
            (Fate::Failed, "5.1.1 no such user", "5.1.1"),
            (Fate::Failed, "5.1.10", "5.1.10"),
            (Fate::Failed, "no such user", "5.0.0"),
            (Fate::Failed, "4.2.2 odd", "5.0.0"),
            (Fate::Failed, "5.1.1.1 odd", "5.0.0"),
            (Fate::Failed, "5.1.1111 odd", "5.0.0"),
            (Fate::Expired, "4.2.2 full", "5.4.7"),
            (Fate::Delayed, "4.2.2 full", "4.2.2"),
            (Fate::Delayed, "5.7.1 we are not liked", "4.4.7"),
            (Fate::Relayed, "2.6.0 queued", "2.6.0"),
            (Fate::Delivered, "saved", "2.0.0"),
        ] {
            assert_eq!(code(fate, Some(&said(text))), expected, "{text}");
        }
        assert_eq!(code(Fate::Failed, None), "5.0.0");
    }

    #[test]
    fn a_host_is_named_without_its_port() {
        assert_eq!(host_name("mx.example:25").as_deref(), Some("mx.example"));
        assert_eq!(host_name("192.0.2.1:25").as_deref(), Some("[192.0.2.1]"));
        assert_eq!(host_name("[2001:db8::1]:25").as_deref(), Some("[IPv6:2001:db8::1]"));
        assert_eq!(host_name("evil\r\nX: y:25").as_deref(), Some("evil X: y"));
        assert_eq!(host_name(""), None);
    }
}
