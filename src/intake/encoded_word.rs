//! RFC 2047 encoded words in an unfolded header value.
//!
//! Only a word that stands alone between white space is decoded (RFC 2047 §5), white space between two of them is
//! dropped (§6.2), and neighbours in one charset are joined before they are decoded, because some libraries cut a
//! character in two.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::charset;
use crate::mail::header::trim;

/// Some libraries leave the padding off.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A stretch of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Segment<'a> {
    /// As it came, white space at both ends included.
    Literal(&'a [u8]),
    /// What one or more encoded words say.
    Decoded(String),
}

/// A word has the form of an encoded word, but its charset is unknown or its bytes are no text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an encoded word cannot be decoded")]
pub(super) struct Undecodable;

/// Cuts an unfolded value into what came as it is and what was encoded.
///
/// # Errors
/// [`Undecodable`].
pub(super) fn segments(value: &[u8]) -> Result<Vec<Segment<'_>>, Undecodable> {
    let mut found = Vec::new();
    let mut pending: Option<Pending<'_>> = None;
    // Where the literal text that is not yet in `found` begins, and where we are.
    let (mut literal, mut at) = (0, 0);
    while at < value.len() {
        let rest = value.get(at..).unwrap_or_default();
        let white = rest.iter().take_while(|b| is_white(**b)).count();
        let word_len = rest.iter().skip(white).take_while(|b| !is_white(**b)).count();
        let word = rest.get(white..white + word_len).unwrap_or_default();
        if let Some(encoded) = EncodedWord::parse(word) {
            let before = value.get(literal..at + white).unwrap_or_default();
            if pending.is_none() || !trim(before).is_empty() {
                flush(&mut pending, &mut found)?;
                push_literal(before, &mut found);
            }
            at += white + word_len;
            literal = at;
            add(encoded, &mut pending, &mut found)?;
        } else {
            at += white + word_len;
        }
    }
    flush(&mut pending, &mut found)?;
    push_literal(value.get(literal..).unwrap_or_default(), &mut found);
    Ok(found)
}

/// The whole value decoded, as bytes: what is not encoded may be in any charset.
///
/// # Errors
/// [`Undecodable`].
pub(super) fn decode(value: &[u8]) -> Result<Vec<u8>, Undecodable> {
    let mut text = Vec::with_capacity(value.len());
    for segment in segments(value)? {
        match segment {
            Segment::Literal(bytes) => text.extend_from_slice(bytes),
            Segment::Decoded(decoded) => text.extend_from_slice(decoded.as_bytes()),
        }
    }
    Ok(text)
}

/// Whether anything in the value may need decoding; cheap.
pub(super) fn may_be_encoded(value: &[u8]) -> bool {
    memchr::memmem::find(value, b"=?").is_some()
}

struct Pending<'a> {
    charset: &'a str,
    bytes: Vec<u8>,
}

fn add<'a>(
    word: EncodedWord<'a>,
    pending: &mut Option<Pending<'a>>,
    found: &mut Vec<Segment<'a>>,
) -> Result<(), Undecodable> {
    let bytes = word.bytes()?;
    match pending {
        Some(last) if last.charset.eq_ignore_ascii_case(word.charset) => last.bytes.extend(bytes),
        _ => {
            flush(pending, found)?;
            *pending = Some(Pending { charset: word.charset, bytes });
        }
    }
    Ok(())
}

fn flush(pending: &mut Option<Pending<'_>>, found: &mut Vec<Segment<'_>>) -> Result<(), Undecodable> {
    if let Some(last) = pending.take() {
        let text = charset::decode(last.charset, &last.bytes).ok_or(Undecodable)?;
        found.push(Segment::Decoded(text.into_owned()));
    }
    Ok(())
}

fn push_literal<'a>(bytes: &'a [u8], found: &mut Vec<Segment<'a>>) {
    if !bytes.is_empty() {
        found.push(Segment::Literal(bytes));
    }
}

fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// `=?charset?encoding?text?=` (RFC 2047 §2), with the language that RFC 2231 §5 allows after the charset.
struct EncodedWord<'a> {
    charset: &'a str,
    is_base64: bool,
    text: &'a str,
}

impl<'a> EncodedWord<'a> {
    fn parse(word: &'a [u8]) -> Option<Self> {
        let inner = std::str::from_utf8(word).ok()?.strip_prefix("=?")?.strip_suffix("?=")?;
        let mut parts = inner.split('?');
        let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
        if charset.is_empty() || parts.next().is_some() {
            return None;
        }
        let is_base64 = match encoding {
            "B" | "b" => true,
            "Q" | "q" => false,
            _ => return None,
        };
        let charset = charset.split_once('*').map_or(charset, |(charset, _)| charset);
        Some(Self { charset, is_base64, text })
    }

    fn bytes(&self) -> Result<Vec<u8>, Undecodable> {
        if self.is_base64 {
            return BASE64.decode(self.text).map_err(|_| Undecodable);
        }
        let mut bytes = Vec::with_capacity(self.text.len());
        let mut rest = self.text.as_bytes();
        while let [byte, after @ ..] = rest {
            rest = after;
            match (byte, after) {
                (b'_', _) => bytes.push(b' '),
                (b'=', [high, low, after @ ..]) => {
                    bytes.push(hex(*high, *low).ok_or(Undecodable)?);
                    rest = after;
                }
                (b'=', _) => return Err(Undecodable),
                _ => bytes.push(*byte),
            }
        }
        Ok(bytes)
    }
}

/// Two hexadecimal digits of either case.
pub(super) fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Result<String, Undecodable> {
        decode(value.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn words_are_decoded_and_joined() {
        for (value, expected) in [
            ("plain  text", "plain  text"),
            ("=?utf-8?q?a=20b_c?=", "a b c"),
            ("=?UTF-8?B?w6k=?=", "é"),
            ("=?UTF-8?B?w6k?=", "é"),
            ("=?utf-8?q?one?= =?utf-8?q?two?=", "onetwo"),
            ("=?utf-8?q?one?=   =?iso-8859-1?q?=E9?=", "oneé"),
            ("x =?utf-8?q?y?= z", "x y z"),
            ("=?utf-8?b?w6k=?= and =?utf-8?q?=C3=A9?=", "é and é"),
            ("=?utf-8?q?=C3?= =?utf-8?q?=A9?=", "é"),
            ("=?us-ascii*en?Q?hi?=", "hi"),
            ("\"=?utf-8?q?a?=\"", "\"=?utf-8?q?a?=\""),
            ("a=?utf-8?q?a?=", "a=?utf-8?q?a?="),
            ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
            ("=?=", "=?="),
            ("=?utf-8?q??=", ""),
            ("", ""),
        ] {
            assert_eq!(text(value).as_deref(), Ok(expected), "{value:?}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_said_so() {
        for value in
            ["=?x-none?q?a?=", "=?utf-8?q?=FF?=", "=?utf-8?b?!!!?=", "=?utf-8?q?=G0?=", "=?utf-8?q?=4?="]
        {
            assert_eq!(text(value), Err(Undecodable), "{value:?}");
        }
    }
}
