//! The canonical form that is hashed and signed: `relaxed`, of a field (RFC 6376 §3.4.2) and of a body (§3.4.4).
//!
//! Done here and not by mail-auth 0.13.3: it takes lines of nothing but white space at a body's end for text, so that
//! every other verifier would find another hash.

use mail_auth::common::headers::{Writable, Writer};

/// A body, to be hashed in its canonical form.
pub(super) struct Body<'a>(pub(super) &'a [u8]);

impl Writable for Body<'_> {
    fn write(self, writer: &mut impl Writer) {
        // Empty lines count only when something follows them.
        let mut empty_lines = 0;
        let mut rest = self.0;
        while !rest.is_empty() {
            let (line, after) = split_line(rest);
            rest = after;
            let line = without_spaces_at_the_end(line);
            if line.is_empty() {
                empty_lines += 1;
                continue;
            }
            for _ in 0..std::mem::take(&mut empty_lines) {
                writer.write(b"\r\n");
            }
            write_collapsed(line, writer);
            writer.write(b"\r\n");
        }
    }
}

/// Appends a field, with its CRLF. `value` is what follows the colon, folds inside.
pub(super) fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend(name.to_ascii_lowercase());
    out.push(b':');
    push_value(out, value);
    out.extend_from_slice(b"\r\n");
}

/// The same for a value alone: unfolded, each run of white space one space, none at the ends.
pub(super) fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    let start = out.len();
    let mut after_space = false;
    let mut rest = value;
    while let Some((octet, after)) = rest.split_first() {
        rest = after;
        if *octet == b'\r' && rest.first() == Some(&b'\n') {
            rest = rest.get(1..).unwrap_or_default();
        } else if is_space(*octet) {
            after_space = true;
        } else {
            if std::mem::take(&mut after_space) && out.len() > start {
                out.push(b' ');
            }
            out.push(*octet);
        }
    }
}

/// A line of a body with each run of white space as one space; its end has none.
fn write_collapsed(line: &[u8], writer: &mut impl Writer) {
    // Most lines are as they should be, and go in one piece.
    let (mut written, mut at) = (0, 0);
    while let Some(found) = memchr::memchr2(b' ', b'\t', line.get(at..).unwrap_or_default()) {
        let start = at + found;
        let run = line.get(start..).unwrap_or_default();
        let len = run.iter().take_while(|octet| is_space(**octet)).count();
        at = start + len;
        if run.get(..len) != Some(b" ") {
            writer.write(line.get(written..start).unwrap_or_default());
            writer.write(b" ");
            written = at;
        }
    }
    writer.write(line.get(written..).unwrap_or_default());
}

/// The first line without its CRLF, and what follows. Only CRLF ends a line (S1).
fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    for end in memchr::memchr_iter(b'\n', text) {
        if let Some(line) = text.get(..end).and_then(|line| line.strip_suffix(b"\r")) {
            return (line, text.get(end + 1..).unwrap_or_default());
        }
    }
    (text, b"")
}

/// RFC 6376 §2.8 `WSP`.
fn is_space(octet: u8) -> bool {
    octet == b' ' || octet == b'\t'
}

fn without_spaces_at_the_end(line: &[u8]) -> &[u8] {
    let len = line.iter().rposition(|octet| !is_space(*octet)).map_or(0, |last| last + 1);
    line.get(..len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Collected(Vec<u8>);

    impl Writer for Collected {
        fn write(&mut self, octets: &[u8]) {
            self.0.extend_from_slice(octets);
        }
    }

    fn body(text: &str) -> String {
        let mut collected = Collected::default();
        Body(text.as_bytes()).write(&mut collected);
        String::from_utf8(collected.0).unwrap()
    }

    #[test]
    fn a_body_loses_the_white_space_that_relays_change() {
        for (text, canonical) in [
            // RFC 6376 §3.4.5.
            (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"),
            ("", ""),
            ("\r\n", ""),
            ("\r\n\r\n\r\n", ""),
            (" ", ""),
            (" \t\r\n", ""),
            ("a", "a\r\n"),
            ("a\r\n", "a\r\n"),
            ("a \t ", "a\r\n"),
            ("a\r\n \r\n", "a\r\n"),
            ("a\r\n \r\n\t\r\n\r\n", "a\r\n"),
            ("\r\n\r\na\r\n", "\r\n\r\na\r\n"),
            ("a\r\n \r\nb\r\n", "a\r\n\r\nb\r\n"),
            ("\ta\r\n  b  c\td e\r\n", " a\r\n b c d e\r\n"),
            (".\r\n..\r\n", ".\r\n..\r\n"),
            ("bare \n lf \r cr\r\n", "bare \n lf \r cr\r\n"),
        ] {
            assert_eq!(body(text), canonical, "{text:?}");
        }
    }

    #[test]
    fn a_field_loses_case_folds_and_spare_white_space() {
        for (name, value, canonical) in [
            ("A", " X", "a:X\r\n"),
            ("B", " Y\t\r\n\tZ  ", "b:Y Z\r\n"),
            ("Subject", "", "subject:\r\n"),
            ("SUBJECT", " \r\n \r\n x", "subject:x\r\n"),
            ("To", "a@b ,\r\n   c@d", "to:a@b , c@d\r\n"),
            ("X", "gr\u{fc}n \u{20ac}", "x:gr\u{fc}n \u{20ac}\r\n"),
        ] {
            let mut out = Vec::new();
            push_field(&mut out, name.as_bytes(), value.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), canonical, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_canonical_stays_as_it_is(text in "[ab \\t\\r\\n.]{0,60}") {
            let once = body(&text);
            prop_assert_eq!(body(&once), once.clone());
            prop_assert!(!once.ends_with("\r\n\r\n") && !once.contains("  ") && !once.contains(" \r\n"));
        }
    }
}
