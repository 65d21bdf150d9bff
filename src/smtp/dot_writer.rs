//! Dot-stuffing (RFC 5321 §4.5.2) without copying: a message becomes the pieces that go over the wire.
//!
//! S1: only CRLF.CRLF ends DATA. Content with a bare CR or LF must not be sent at all, because far sides disagree
//! about where its lines end: [`verify`] comes first.

use memchr::memmem;

/// A CR without LF or an LF without CR (S1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bare CR or LF at octet {position}")]
pub struct BareLineEnd {
    /// Where, from the start of the content.
    pub position: usize,
}

/// Checks that every line ends in CRLF, and that no CR or LF stands alone.
///
/// # Errors
/// Names the first bare CR or LF.
pub fn verify(content: &[u8]) -> Result<(), BareLineEnd> {
    let mut expected_lf = None;
    for position in memchr::memchr2_iter(b'\r', b'\n', content) {
        let is_lf = content.get(position) == Some(&b'\n');
        match (expected_lf.take(), is_lf) {
            (None, false) => expected_lf = Some(position + 1),
            (Some(expected), true) if expected == position => {}
            (Some(expected), _) => return Err(BareLineEnd { position: expected - 1 }),
            (None, true) => return Err(BareLineEnd { position }),
        }
    }
    match expected_lf {
        None => Ok(()),
        Some(expected) => Err(BareLineEnd { position: expected - 1 }),
    }
}

/// What ends DATA, once everything before it ended in CRLF.
pub const FINAL_DOT: &[u8] = b".\r\n";

/// The pieces of a message on the wire: runs of the fields in front of it and of its content, the dots put before its
/// own, and the final dot. Together they always end in CRLF.CRLF (or are the lone `.` CRLF after the DATA command's own
/// CRLF).
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    rest: &'a [u8],
    /// What comes after `rest`.
    later: &'a [u8],
    /// The next octet of `rest` starts a line.
    line_start: bool,
    /// The first octet of `later` starts a line.
    later_starts_line: bool,
    /// What comes last; empty when it was given, or when there is nothing.
    end: &'static [u8],
}

impl<'a> Pieces<'a> {
    /// The pieces of `content` with `fields` in front of it, both of which [`verify`] has passed.
    pub fn new(fields: &'a [u8], content: &'a [u8]) -> Self {
        let ends_a_line = |octets: &[u8]| octets.is_empty() || octets.ends_with(b"\r\n");
        let last = if content.is_empty() { fields } else { content };
        Self {
            rest: fields,
            later: content,
            line_start: true,
            later_starts_line: ends_a_line(fields),
            end: if ends_a_line(last) { FINAL_DOT } else { b"\r\n.\r\n" },
        }
    }

    /// The same, up to the [`FINAL_DOT`]: for whoever has to do something before it is written.
    pub fn without_final_dot(self) -> Self {
        let end = if self.end == FINAL_DOT { b"".as_slice() } else { b"\r\n" };
        Self { end, ..self }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() && !self.later.is_empty() {
            self.rest = std::mem::take(&mut self.later);
            self.line_start = self.later_starts_line;
        }
        if self.line_start && self.rest.first() == Some(&b'.') {
            self.line_start = false;
            return Some(b".");
        }
        if self.rest.is_empty() {
            let end = std::mem::take(&mut self.end);
            return (!end.is_empty()).then_some(end);
        }
        let end = memmem::find(self.rest, b"\r\n.").map_or(self.rest.len(), |at| at + 2);
        let (piece, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.line_start = true;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(content: &[u8]) -> Vec<u8> {
        Pieces::new(b"", content).collect::<Vec<_>>().concat()
    }

    /// A strict receiver: only CRLF.CRLF ends, a leading dot is removed.
    fn received(wire: &[u8]) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let mut rest = wire;
        loop {
            let end = memmem::find(rest, b"\r\n")? + 2;
            let (line, tail) = rest.split_at(end);
            if line == b".\r\n" {
                return tail.is_empty().then_some(content);
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            rest = tail;
        }
    }

    #[test]
    fn dots_are_doubled_only_at_the_start_of_a_line() {
        assert_eq!(wire(b""), b".\r\n");
        assert_eq!(wire(b"a.b\r\n"), b"a.b\r\n.\r\n");
        assert_eq!(wire(b".\r\n"), b"..\r\n.\r\n");
        assert_eq!(wire(b"..\r\n.\r\n"), b"...\r\n..\r\n.\r\n");
        assert_eq!(wire(b"a\r\n.\r\nMAIL FROM:<b@c>\r\n"), b"a\r\n..\r\nMAIL FROM:<b@c>\r\n.\r\n");
        assert_eq!(wire(b"no end"), b"no end\r\n.\r\n");
        assert_eq!(wire(b"\r\n\r\n"), b"\r\n\r\n.\r\n");
    }

    #[test]
    fn s1_fields_in_front_are_stuffed_like_the_content_and_end_nothing() {
        for (fields, content, expected) in [
            (&b"A: b\r\n"[..], &b".c\r\n"[..], &b"A: b\r\n..c\r\n.\r\n"[..]),
            (b"A: b\r\n.\r\n", b".\r\n", b"A: b\r\n..\r\n..\r\n.\r\n"),
            (b"A: b\r\n", b"", b"A: b\r\n.\r\n"),
            (b"A: b", b".c\r\n", b"A: b.c\r\n.\r\n"),
            (b"A: b\r\n", b"c", b"A: b\r\nc\r\n.\r\n"),
        ] {
            assert_eq!(Pieces::new(fields, content).collect::<Vec<_>>().concat(), expected);
        }
    }

    #[test]
    fn s1_bare_line_ends_are_found() {
        for (content, position) in [
            (&b"a\nb"[..], 1),
            (b"a\r.\r\n", 1),
            (b"\n.\r\n", 0),
            (b"a\r\r\n", 1),
            (b"a\r\n\n", 3),
            (b"a\r", 1),
            (b"a\r\n.\n", 4),
        ] {
            assert_eq!(verify(content), Err(BareLineEnd { position }), "{}", content.escape_ascii());
        }
        assert_eq!(verify(b"a\r\n\r\n.\r\n"), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn s1_whatever_is_sent_arrives_as_it_was_and_ends_once(
            parts in proptest::collection::vec(proptest::sample::select(vec!["\r\n", ".", "a", "\r\n.\r\n", "MAIL"]), 0..40)
        ) {
            let content = format!("{}\r\n", parts.concat()).into_bytes();
            proptest::prop_assert_eq!(verify(&content), Ok(()));
            let halves = Pieces::new(b"", &content).without_final_dot().chain([FINAL_DOT]).collect::<Vec<_>>();
            proptest::prop_assert_eq!(halves.concat(), wire(&content));
            proptest::prop_assert_eq!(received(&wire(&content)), Some(content));
        }

        #[test]
        fn s1_verify_lets_nothing_bare_through(bytes in proptest::collection::vec(proptest::sample::select(b"\r\n.a".to_vec()), 0..12)) {
            let cleaned = String::from_utf8(bytes.clone()).unwrap().replace("\r\n", "");
            proptest::prop_assert_eq!(verify(&bytes).is_ok(), !cleaned.contains(['\r', '\n']));
        }
    }
}
