//! The third part: the message that the report is about, or its header (RFC 6522 §3, RFC 3461 §4.3).

use super::encoding::{natural_encoding, quoted_printable};
use super::{Fate, Kind, Report};
use crate::mail::Ret;
use crate::mail::header::Header;

/// A larger message is not returned in full, octets.
pub(super) const MAX_FULL: usize = 1 << 20;
/// Of a larger header only the fields that fit are returned, octets.
const MAX_HEADER: usize = 64 << 10;
/// RFC 3463 §3.7: the next hop cannot carry octets above 127.
const CONVERSION_NEEDED: &str = "5.6.3";

/// Whether the whole message is returned, and if not, why, where the sender wanted it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// All of it.
    Full,
    /// Its header, which is all that was asked for.
    Header,
    /// Its header, because it is too large.
    TooLarge,
    /// Its header, because the rest might not get through.
    Unfit,
    /// Nothing: it must not travel without TLS (RFC 8689 §5).
    Nothing,
}

impl Extent {
    /// RFC 3461 §4.3: RET is for reports of failure; all others have the header.
    pub(super) fn of(report: &Report<'_>, smtputf8: bool) -> Self {
        let (original, envelope) = (&report.original, &report.original.envelope);
        if envelope.handling.require_tls {
            // A report that needed REQUIRETLS as well would be lost at the hop that failed the message for it.
            return Self::Nothing;
        }
        if report.kind != Kind::Failure || envelope.ret != Some(Ret::Full) {
            return Self::Header;
        }
        if original.content.len() > MAX_FULL {
            return Self::TooLarge;
        }
        let utf8_header = has_utf8_header(&original.content);
        match natural_encoding(&original.content) {
            Some("7bit") => Self::Full,
            Some(_) if !has_failed_for_8_bits(report) && (smtputf8 || !utf8_header) => Self::Full,
            _ => Self::Unfit,
        }
    }
}

/// The part with its MIME header, unless there is none.
pub(super) fn part(report: &Report<'_>, smtputf8: bool) -> Option<Vec<u8>> {
    let content = &report.original.content;
    match Extent::of(report, smtputf8) {
        Extent::Nothing => None,
        Extent::Full => Some(full(content)),
        Extent::Header | Extent::TooLarge | Extent::Unfit => Some(header_only(content)),
    }
}

/// RFC 2046 §5.2.1: a message in a message is never encoded.
fn full(content: &[u8]) -> Vec<u8> {
    let kind = if has_utf8_header(content) { "message/global" } else { "message/rfc822" };
    let encoding = natural_encoding(content).unwrap_or("8bit");
    entity(kind, encoding, "Reported message", content)
}

fn header_only(content: &[u8]) -> Vec<u8> {
    let header = returned_header(content);
    match natural_encoding(&header) {
        Some("7bit") => entity("text/rfc822-headers", "7bit", "Header of the reported message", &header),
        _ => entity(
            "text/rfc822-headers; charset=utf-8",
            "quoted-printable",
            "Header of the reported message",
            &quoted_printable(&header),
        ),
    }
}

fn entity(kind: &str, encoding: &str, what: &str, body: &[u8]) -> Vec<u8> {
    let mut part = format!(
        "Content-Description: {what}\r\nContent-Type: {kind}\r\n\
         Content-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    .into_bytes();
    part.extend_from_slice(body);
    part
}

/// The fields from the top, whole, as far as they fit.
fn returned_header(content: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    for field in Header::split(content).fields() {
        if header.len() + field.raw.len() > MAX_HEADER {
            break;
        }
        header.extend_from_slice(field.raw);
    }
    header
}

fn has_utf8_header(content: &[u8]) -> bool {
    Header::split(content).fields().any(|field| !field.raw.is_ascii())
}

/// Whether the way to the recipients could not carry this content: the way back may be the same.
fn has_failed_for_8_bits(report: &Report<'_>) -> bool {
    report.mentions.iter().filter(|mention| mention.fate == Fate::Failed).any(|mention| {
        let last =
            report.progress.recipients.get(mention.recipient).and_then(|progress| progress.last_answer());
        last.is_some_and(|last| last.text.starts_with(CONVERSION_NEEDED))
    })
}
