//! The header of a message: where it ends, and its fields, without a copy (RFC 5322 §2.2).
//!
//! Only CRLF ends a line here. The header ends at the first empty line, and also at the first line that is neither a
//! field nor the continuation of one: nothing below such a line is ever taken for a field, because the mail servers
//! after us read it as body. Scanning never fails: any bytes have a header, maybe an empty one.

use std::borrow::Cow;

use memchr::memchr_iter;

/// A message cut into header and body.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    fields: &'a [u8],
    /// What follows the header, without the empty line.
    pub body: &'a [u8],
    /// What ended the header.
    pub end: HeaderEnd,
}

/// What ended a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderEnd {
    /// The empty line of RFC 5322 §2.1.
    EmptyLine,
    /// The message ended with its last field.
    EndOfMessage,
    /// A line that is no field: the body begins with it.
    NoField,
}

/// One field, folded as it came.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// The name as it came, without the white space that obsolete syntax allows before the colon.
    pub name: &'a [u8],
    /// What follows the colon, folds inside, without the last line end.
    pub value: &'a [u8],
    /// All of it, line ends included.
    pub raw: &'a [u8],
}

impl<'a> Header<'a> {
    /// Cuts `content` where its header ends.
    pub fn split(content: &'a [u8]) -> Self {
        let mut at = 0;
        let (end, body) = loop {
            let rest = tail(content, at);
            if rest.is_empty() {
                break (HeaderEnd::EndOfMessage, rest);
            }
            if let Some(body) = rest.strip_prefix(b"\r\n") {
                break (HeaderEnd::EmptyLine, body);
            }
            let line = head(rest, line_len(rest));
            let continues = at > 0 && is_continuation(line);
            if !continues && field_name(line).is_none() {
                break (HeaderEnd::NoField, rest);
            }
            at += line.len();
        };
        Self { fields: head(content, at), body, end }
    }

    /// The fields from top to bottom.
    pub fn fields(&self) -> Fields<'a> {
        Fields { rest: self.fields }
    }

    /// Octets of all fields together.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field at all.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

impl<'a> Field<'a> {
    /// Whether this is the field `name`, compared without case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Whether some programs end the header at this field, or in it: white space stands before the colon, or is all
    /// that there is on one of its lines (RFC 5322 §4.2 and §4.5 call both obsolete).
    pub fn is_obsolete(&self) -> bool {
        let has_blank_line = || {
            let mut lines = self.value.split(|b| *b == b'\n').skip(1);
            lines.any(|line| line.iter().all(u8::is_ascii_whitespace))
        };
        self.raw.get(self.name.len()) != Some(&b':')
            || (memchr::memchr(b'\n', self.value).is_some() && has_blank_line())
    }

    /// The value on one line, without white space at its ends (RFC 5322 §2.2.3). A tab that begins a continuation
    /// line stands for the space that it was folded at.
    pub fn unfolded(&self) -> Cow<'a, [u8]> {
        if memchr::memchr(b'\n', self.value).is_none() {
            return Cow::Borrowed(trim(self.value));
        }
        let mut line = Vec::with_capacity(self.value.len());
        let mut rest = self.value;
        while !rest.is_empty() {
            let len = line_len(rest);
            let part = head(rest, len);
            let part = part.strip_suffix(b"\r\n").unwrap_or(part);
            match part.strip_prefix(b"\t") {
                Some(part) if !line.is_empty() => {
                    line.push(b' ');
                    line.extend_from_slice(part);
                }
                _ => line.extend_from_slice(part),
            }
            rest = tail(rest, len);
        }
        Cow::Owned(trim(&line).to_vec())
    }
}

/// See [`Header::fields`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let mut len = line_len(self.rest);
        let (name_len, colon) = field_name(head(self.rest, len))?;
        while is_continuation(tail(self.rest, len)) {
            len += line_len(tail(self.rest, len));
        }
        let raw = head(self.rest, len);
        self.rest = tail(self.rest, len);
        let value = tail(raw, colon + 1);
        Some(Field { name: head(raw, name_len), value: value.strip_suffix(b"\r\n").unwrap_or(value), raw })
    }
}

/// Without spaces and tabs at both ends.
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Octets of the first line with its CRLF; all there is when no CRLF follows.
fn line_len(bytes: &[u8]) -> usize {
    memchr_iter(b'\n', bytes)
        .find(|&at| at.checked_sub(1).and_then(|before| bytes.get(before)) == Some(&b'\r'))
        .map_or(bytes.len(), |at| at + 1)
}

fn is_continuation(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

/// Where the name ends and where the colon stands, if `line` begins a field (RFC 5322 §3.6.8, §4.5.8).
fn field_name(line: &[u8]) -> Option<(usize, usize)> {
    let is_ftext = |b: &u8| (33..=126).contains(b) && *b != b':';
    let name = line.iter().position(|b| !is_ftext(b))?;
    let white = tail(line, name).iter().position(|b| !matches!(b, b' ' | b'\t'))?;
    let colon = name + white;
    (name > 0 && line.get(colon) == Some(&b':')).then_some((name, colon))
}

fn head(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(..len).unwrap_or(bytes)
}

fn tail(bytes: &[u8], from: usize) -> &[u8] {
    bytes.get(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(content: &[u8]) -> Vec<String> {
        Header::split(content).fields().map(|f| String::from_utf8_lossy(f.name).into_owned()).collect()
    }

    fn value(content: &str) -> String {
        let field = Header::split(content.as_bytes()).fields().next().unwrap();
        String::from_utf8(field.unfolded().into_owned()).unwrap()
    }

    #[test]
    fn the_empty_line_ends_the_header() {
        let header = Header::split(b"A: 1\r\nB: 2\r\n\r\nC: 3\r\n");
        assert_eq!(names(b"A: 1\r\nB: 2\r\n\r\nC: 3\r\n"), ["A", "B"]);
        assert_eq!((header.body, header.end), (&b"C: 3\r\n"[..], HeaderEnd::EmptyLine));
    }

    #[test]
    fn a_line_that_is_no_field_begins_the_body() {
        for (content, fields, body) in [
            ("A: 1\r\nno field\r\nB: 2\r\n\r\n", 1, "no field\r\nB: 2\r\n\r\n"),
            ("just text\r\n\r\nA: 1\r\n", 0, "just text\r\n\r\nA: 1\r\n"),
            (" A: 1\r\nB: 2\r\n", 0, " A: 1\r\nB: 2\r\n"),
            ("X Y: 1\r\n", 0, "X Y: 1\r\n"),
            (": 1\r\n", 0, ": 1\r\n"),
            ("A\x0b: 1\r\n", 0, "A\x0b: 1\r\n"),
            ("Ä: 1\r\n", 0, "Ä: 1\r\n"),
            ("no end", 0, "no end"),
        ] {
            let header = Header::split(content.as_bytes());
            assert_eq!(header.end, HeaderEnd::NoField, "{content:?}");
            assert_eq!(header.fields().count(), fields, "{content:?}");
            assert_eq!(header.body, body.as_bytes(), "{content:?}");
        }
    }

    #[test]
    fn a_header_may_be_all_there_is() {
        for content in ["", "A: 1\r\n", "A: 1", "A: 1\r\n 2", "A:\r\n"] {
            let header = Header::split(content.as_bytes());
            assert_eq!((header.body, header.end), (&b""[..], HeaderEnd::EndOfMessage), "{content:?}");
            assert_eq!(header.fields().map(|f| f.raw.len()).sum::<usize>(), content.len());
        }
    }

    #[test]
    fn folds_are_undone_and_ends_trimmed() {
        assert_eq!(value("A: one\r\n two\r\n\r\n"), "one two");
        assert_eq!(value("A:\r\n folded first\r\n"), "folded first");
        assert_eq!(value("A: one\r\n\ttwo\r\n"), "one two");
        assert_eq!(value("A: one\ttwo \t\r\n"), "one\ttwo");
        assert_eq!(value("A: one\r\n \r\n two\r\n"), "one  two");
        assert_eq!(value("A:\r\n \r\n"), "");
    }

    #[test]
    fn white_space_before_the_colon_belongs_to_the_field() {
        let header = Header::split(b"X-Key \t: v\r\n\r\n");
        let field = header.fields().next().unwrap();
        assert!(field.is("x-KEY"));
        assert_eq!(field.raw, b"X-Key \t: v\r\n");
    }

    #[test]
    fn obsolete_fields_are_known() {
        let is_obsolete =
            |content: &str| Header::split(content.as_bytes()).fields().next().unwrap().is_obsolete();
        for content in ["A : b\r\n", "A\t:b\r\n", "A:\r\n \r\n b\r\n", "A: b\r\n\t\r\n"] {
            assert!(is_obsolete(content), "{content:?}");
        }
        for content in ["A: b\r\n", "A:\r\n", "A: \r\n b\r\n", "A:b\r\n\tc\r\n", "A:"] {
            assert!(!is_obsolete(content), "{content:?}");
        }
    }

    #[test]
    fn a_lone_lf_ends_no_line() {
        let header = Header::split(b"A: 1\nB: 2\r\n\r\nbody");
        assert_eq!(header.fields().count(), 1);
        assert_eq!(header.body, b"body");
    }
}
