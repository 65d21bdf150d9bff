//! Header fields without what folding, encoding and spacing change about them.

use std::borrow::Cow;

use crate::intake::encoded_word::{self, Segment};

/// A field's value as it is hashed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Canonical<'a> {
    /// Encoded words decoded, white space collapsed.
    Text(Cow<'a, [u8]>),
    /// White space collapsed only: decoding could make two different values equal.
    Raw(Cow<'a, [u8]>),
}

/// Fields that are plain text all through (RFC 5322 §2.2.1); so is every `X-` field. In all others an encoded comma
/// is not a comma.
const UNSTRUCTURED: [&str; 4] = ["Subject", "Comments", "Content-Description", "Thread-Topic"];

/// Characters that mean something in a structured field when they are not encoded, and those that could imitate an
/// encoded word.
const SPECIALS: &str = "()<>[]:;@\\,.\"=?";

/// The value of the field `name`, already unfolded.
pub(super) fn canonical<'a>(name: &[u8], value: &'a [u8]) -> Canonical<'a> {
    if !encoded_word::may_be_encoded(value) {
        return Canonical::Text(collapse(value));
    }
    let Ok(segments) = encoded_word::segments(value) else {
        return Canonical::Raw(collapse(value));
    };
    if !is_unstructured(name) && segments.iter().any(changes_structure) {
        return Canonical::Raw(collapse(value));
    }
    let mut text = Vec::with_capacity(value.len());
    for segment in &segments {
        match segment {
            Segment::Literal(bytes) => text.extend_from_slice(bytes),
            Segment::Decoded(decoded) => text.extend_from_slice(decoded.as_bytes()),
        }
    }
    Canonical::Text(Cow::Owned(collapse(&text).into_owned()))
}

fn changes_structure(segment: &Segment<'_>) -> bool {
    match segment {
        // Within quotes and comments programs disagree on whether encoded words are decoded.
        Segment::Literal(bytes) => bytes.iter().any(|b| b"\"()\\".contains(b)),
        Segment::Decoded(text) => text.chars().any(|c| c.is_control() || SPECIALS.contains(c)),
    }
}

fn is_unstructured(name: &[u8]) -> bool {
    name.get(..2).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"X-"))
        || UNSTRUCTURED.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// Runs of spaces and tabs become one space, none at the ends.
fn collapse(value: &[u8]) -> Cow<'_, [u8]> {
    let is_white = |b: &u8| matches!(b, b' ' | b'\t');
    let is_plain = !value.first().is_some_and(is_white)
        && !value.last().is_some_and(is_white)
        && !value.contains(&b'\t')
        && memchr::memmem::find(value, b"  ").is_none();
    if is_plain {
        return Cow::Borrowed(value);
    }
    let mut collapsed = Vec::with_capacity(value.len());
    for word in value.split(is_white).filter(|word| !word.is_empty()) {
        if !collapsed.is_empty() {
            collapsed.push(b' ');
        }
        collapsed.extend_from_slice(word);
    }
    Cow::Owned(collapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, value: &str) -> Option<String> {
        match canonical(name.as_bytes(), value.as_bytes()) {
            Canonical::Text(text) => Some(String::from_utf8(text.into_owned()).unwrap()),
            Canonical::Raw(_) => None,
        }
    }

    #[test]
    fn spacing_and_encoding_do_not_count() {
        for (name, value, expected) in [
            ("Subject", "  a \t b  ", "a b"),
            ("Subject", "=?utf-8?q?caf=C3=A9?= =?utf-8?b?IGF1?= lait", "café au lait"),
            ("To", "=?utf-8?q?Ren=C3=A9?= <r@example>", "René <r@example>"),
            ("X-Any", "=?utf-8?q?a=2Cb?=", "a,b"),
            ("Subject", "", ""),
        ] {
            assert_eq!(text(name, value).as_deref(), Some(expected), "{value:?}");
        }
    }

    #[test]
    fn decoding_never_makes_different_values_equal() {
        assert_eq!(text("To", "=?utf-8?q?a=2C_b?= <x@y>"), None);
        assert_eq!(text("To", "\"=?utf-8?q?a?= \" <x@y>"), None);
        assert_eq!(text("To", "=?utf-8?q?=3D=3Futf-8=3Fq=3Fa=3F=3D?= <x@y>"), None);
        assert_eq!(text("Subject", "=?x-none?q?a?="), None);
    }
}
