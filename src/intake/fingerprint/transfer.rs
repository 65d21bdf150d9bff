//! Content-Transfer-Encodings (RFC 2045 §6), read strictly: a body that is not quite in its encoding is not decoded,
//! because programs differ in what they make of it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::intake::encoded_word::hex;

/// Characters decoded at a time; a multiple of four.
const CHUNK: usize = 4096;

/// `Content-Transfer-Encoding`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transfer {
    /// `7bit`, `8bit`, `binary`, or nothing said.
    Identity,
    /// `quoted-printable`.
    QuotedPrintable,
    /// `base64`.
    Base64,
    /// Anything else: the body stays as it is.
    Unknown,
}

impl Transfer {
    /// From the field's unfolded value.
    pub(super) fn parse(value: &[u8]) -> Self {
        let is = |name: &str| value.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        if is("") || is("7bit") || is("8bit") || is("binary") {
            Self::Identity
        } else if is("quoted-printable") {
            Self::QuotedPrintable
        } else if is("base64") {
            Self::Base64
        } else {
            Self::Unknown
        }
    }

    /// The whole decoded body; `None` when it is not in this encoding.
    pub(super) fn decode(self, body: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Identity => Some(Cow::Borrowed(body)),
            Self::QuotedPrintable => quoted_printable(body).map(Cow::Owned),
            Self::Base64 => {
                let mut decoded = Vec::with_capacity(body.len() / 4 * 3 + 3);
                base64(body, |chunk| decoded.extend_from_slice(chunk))?;
                Some(Cow::Owned(decoded))
            }
            Self::Unknown => None,
        }
    }

    /// Hands the decoded body on piece by piece, so that a large attachment is never in memory twice; `None` when it
    /// is not in this encoding (some pieces may have been handed on by then).
    pub(super) fn decode_to(self, body: &[u8], mut sink: impl FnMut(&[u8])) -> Option<()> {
        if self == Self::Base64 {
            return base64(body, sink);
        }
        self.decode(body).map(|decoded| sink(&decoded))
    }
}

/// RFC 2045 §6.8; white space is skipped, anything else beyond the alphabet is refused.
fn base64(body: &[u8], mut sink: impl FnMut(&[u8])) -> Option<()> {
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut decoded = [0; CHUNK];
    let mut padded = false;
    let mut flush = |chunk: &mut Vec<u8>| {
        // Padding ends the data; what comes after it is read by some programs and dropped by others.
        if padded && !chunk.is_empty() {
            return None;
        }
        padded = chunk.last() == Some(&b'=');
        let len = STANDARD.decode_slice(&*chunk, &mut decoded).ok()?;
        sink(decoded.get(..len)?);
        chunk.clear();
        Some(())
    };
    for line in body.split(|b| *b == b'\n') {
        for byte in line.iter().filter(|b| !b.is_ascii_whitespace()) {
            chunk.push(*byte);
            if chunk.len() == CHUNK {
                flush(&mut chunk)?;
            }
        }
    }
    flush(&mut chunk)
}

/// RFC 2045 §6.7; spaces and tabs at the end of a line are no content.
fn quoted_printable(body: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(body.len());
    let mut rest = body;
    while !rest.is_empty() {
        let end = memchr::memmem::find(rest, b"\r\n");
        let line = rest.get(..end.unwrap_or(rest.len()))?;
        rest = rest.get(end.map_or(rest.len(), |end| end + 2)..)?;
        let is_soft = quoted_printable_line(without_blanks(line), &mut decoded)?;
        if end.is_some() && !is_soft {
            decoded.extend_from_slice(b"\r\n");
        }
    }
    Some(decoded)
}

/// Without the spaces and tabs at its end. A form feed there is content: readers keep it.
fn without_blanks(line: &[u8]) -> &[u8] {
    let len = line.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |last| last + 1);
    line.get(..len).unwrap_or_default()
}

/// Whether the line goes on with the next one.
fn quoted_printable_line(line: &[u8], decoded: &mut Vec<u8>) -> Option<bool> {
    let mut rest = line;
    loop {
        let plain = memchr::memchr(b'=', rest).unwrap_or(rest.len());
        let (text, after) = rest.split_at_checked(plain)?;
        if !text.is_ascii() {
            return None;
        }
        decoded.extend_from_slice(text);
        match after {
            [] => return Some(false),
            [b'='] => return Some(true),
            [b'=', high, low, after @ ..] => {
                decoded.push(hex(*high, *low)?);
                rest = after;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(transfer: &str, body: &[u8]) -> Option<Vec<u8>> {
        Transfer::parse(transfer.as_bytes()).decode(body).map(Cow::into_owned)
    }

    #[test]
    fn bodies_are_decoded() {
        assert_eq!(decoded(" 8BIT ", b"a=\r\n").unwrap(), b"a=\r\n");
        assert_eq!(
            decoded("quoted-printable", b"a=3D=\r\nb \t\r\n=c3=A9= \r\n").unwrap(),
            "a=b\r\né".as_bytes()
        );
        assert_eq!(decoded("quoted-printable", b"a\x0c \r\nb\x0c").unwrap(), b"a\x0c\r\nb\x0c");
        assert_eq!(decoded("Base64", b"aGVs\r\nbG8=\r\n").unwrap(), b"hello");
        assert_eq!(decoded("base64", b"").unwrap(), b"");
        let large: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(decoded("base64", STANDARD.encode(&large).as_bytes()).unwrap(), large);
    }

    #[test]
    fn what_is_not_in_its_encoding_is_refused() {
        for (transfer, body) in [
            ("x-uuencode", &b"a"[..]),
            ("base64", b"a"),
            ("base64", b"aGVsbG8=aGVsbG8="),
            ("base64", b"aGVs*bG8="),
            ("base64", b"aGVsbG9="),
            ("quoted-printable", b"=4"),
            ("quoted-printable", b"=zz"),
            ("quoted-printable", b"\xff"),
        ] {
            assert_eq!(decoded(transfer, body), None, "{transfer} {body:?}");
        }
        let ends_with_a_chunk = [STANDARD.encode([0; CHUNK / 4 * 3 - 1]), "AAAA".to_owned()].concat();
        assert_eq!(decoded("base64", ends_with_a_chunk.as_bytes()), None);
    }
}
