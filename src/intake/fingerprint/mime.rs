//! The structure of a message: its parts, in order, without a copy of their bytes.
//!
//! Our own walk and not mail-parser's, for two reasons: it is not recursive, so that no depth of nesting can overflow
//! the stack, and it is strict. A lenient parser repairs a broken structure in one of several ways and drops what it
//! has no place for; two different mails could then hash equal. Here whatever is ambiguous is unclean, and the
//! caller falls back to the raw bytes.

use memchr::memmem;

use super::media_type::Parameterised;
use super::transfer::Transfer;
use crate::mail::header::{Header, HeaderEnd};

/// Parts within parts.
const MAX_DEPTH: usize = 100;
/// Parts of a message.
const MAX_PARTS: usize = 10_000;
/// Fields of all parts together.
const MAX_FIELDS: usize = 10_000;
/// Octets of all headers together.
const MAX_HEADER_BYTES: usize = 1 << 20;
/// Octets read in the search for boundaries: nested multiparts are read once for each that they lie in.
const MAX_SEARCHED_BYTES: usize = 256 << 20;
/// RFC 2046 §5.1.1 says 70; some libraries write more.
const MAX_BOUNDARY: usize = 200;

/// Why a message has no parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoParts {
    /// The structure is broken or ambiguous.
    Unclean,
    /// It is larger than the limits above.
    TooLarge,
}

use NoParts::{TooLarge, Unclean};

/// One part. The message itself is the first.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// Its header.
    pub header: Header<'a>,
    /// Whose header it is.
    pub role: Role,
    /// What it is.
    pub kind: Kind<'a>,
}

/// Whose header a part has: different fields mean something in each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The message that was submitted.
    Own,
    /// A message within it.
    Nested,
    /// A piece of a multipart: only its `Content-` fields mean anything (RFC 2046 §5.1).
    Piece,
}

/// What a part is.
#[derive(Debug)]
pub(super) enum Kind<'a> {
    /// So many parts follow that belong to it, each with all of its own.
    Multipart(usize),
    /// One part follows: the message within.
    Message,
    /// Bytes.
    Leaf(Leaf<'a>),
    /// A part of `multipart/signed`: the signature covers these very bytes, header and all (RFC 1847 §2.1). Or a message
    /// within that is not clean.
    Sealed(&'a [u8]),
}

/// A part without parts.
#[derive(Debug)]
pub(super) struct Leaf<'a> {
    /// Whether it is some `text/…`.
    pub is_text: bool,
    /// Charset of a text; empty when not told.
    pub charset: String,
    /// How the body is encoded.
    pub transfer: Transfer,
    /// As it came.
    pub body: &'a [u8],
}

/// What a part is when it does not say so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Default {
    /// RFC 2045 §5.2.
    Text,
    /// In `multipart/digest` (RFC 2046 §5.1.5).
    Message,
    /// See [`Kind::Sealed`].
    Sealed,
}

struct Pending<'a> {
    bytes: &'a [u8],
    depth: usize,
    role: Role,
    default: Default,
}

/// The parts of a message, each before the parts that it contains.
///
/// A message within that is [`NoParts::Unclean`] is sealed: it is somebody else's mail, and is passed on byte by byte.
///
/// # Errors
/// [`NoParts`].
pub(super) fn parts(content: &[u8]) -> Result<Vec<Part<'_>>, NoParts> {
    let mut walk = Walk::default();
    walk.pending.push(Pending { bytes: content, depth: 0, role: Role::Own, default: Default::Text });
    while let Some(next) = walk.pending.pop() {
        let waiting = walk.pending.len();
        while walk.open.pop_if(|open| open.waiting > waiting).is_some() {}
        if next.role == Role::Nested {
            walk.open.push(Open { bytes: next.bytes, parts: walk.parts.len(), waiting });
        }
        match walk.take(&next) {
            Err(Unclean) => walk.seal()?,
            other => other?,
        }
    }
    Ok(walk.parts)
}

/// A message within, while its parts are being taken.
struct Open<'a> {
    bytes: &'a [u8],
    /// How many parts there were before it.
    parts: usize,
    /// How many were pending then: when fewer are, it has ended.
    waiting: usize,
}

#[derive(Default)]
struct Walk<'a> {
    parts: Vec<Part<'a>>,
    /// The next part last.
    pending: Vec<Pending<'a>>,
    /// The innermost message within last.
    open: Vec<Open<'a>>,
    fields: usize,
    header_bytes: usize,
    searched: usize,
}

impl<'a> Walk<'a> {
    /// Puts the innermost message in the place of its parts.
    ///
    /// # Errors
    /// There is none: it is the message itself that is unclean.
    fn seal(&mut self) -> Result<(), NoParts> {
        let open = self.open.pop().ok_or(Unclean)?;
        self.parts.truncate(open.parts);
        self.pending.truncate(open.waiting);
        let header = Header::split(b"");
        self.parts.push(Part { header, role: Role::Nested, kind: Kind::Sealed(open.bytes) });
        Ok(())
    }

    fn take(&mut self, next: &Pending<'a>) -> Result<(), NoParts> {
        if next.depth > MAX_DEPTH || self.parts.len() + self.pending.len() >= MAX_PARTS {
            return Err(TooLarge);
        }
        if next.default == Default::Sealed {
            let header = Header::split(b"");
            self.parts.push(Part { header, role: next.role, kind: Kind::Sealed(next.bytes) });
            return Ok(());
        }
        let header = Header::split(next.bytes);
        // Only the outermost header is given an empty line on its way out.
        if next.depth > 0 && header.end == HeaderEnd::NoField {
            return Err(Unclean);
        }
        self.count(&header)?;
        let kind = self.kind(&header, next)?;
        self.parts.push(Part { header, role: next.role, kind });
        Ok(())
    }

    fn count(&mut self, header: &Header<'a>) -> Result<(), NoParts> {
        self.header_bytes += header.len();
        if self.header_bytes > MAX_HEADER_BYTES {
            return Err(TooLarge);
        }
        self.fields += header.fields().count();
        if self.fields > MAX_FIELDS { Err(TooLarge) } else { Ok(()) }
    }

    fn kind(&mut self, header: &Header<'a>, next: &Pending<'a>) -> Result<Kind<'a>, NoParts> {
        let transfer = only_field(header, "Content-Transfer-Encoding")?;
        let transfer = Transfer::parse(transfer.as_deref().unwrap_or_default());
        let content_type = only_field(header, "Content-Type")?;
        let default: &[u8] = if next.default == Default::Message { b"message/rfc822" } else { b"text/plain" };
        let media = Parameterised::parse(content_type.as_deref().unwrap_or(default)).ok_or(Unclean)?;
        // Sloppy applications call a file `pdf`; nobody takes that for more than bytes.
        let (main, sub) = match media.word.split_once('/') {
            None if matches!(media.word.as_str(), "multipart" | "message") => return Err(Unclean),
            None => ("", ""),
            Some(split) => split,
        };
        if main == "multipart" {
            return self.multipart(&media, sub, transfer, header.body, next.depth);
        }
        if main == "message" && matches!(sub, "rfc822" | "global") && transfer == Transfer::Identity {
            let (depth, role) = (next.depth + 1, Role::Nested);
            self.pending.push(Pending { bytes: header.body, depth, role, default: Default::Text });
            return Ok(Kind::Message);
        }
        let charset = media.only("charset").map_err(|_| Unclean)?.unwrap_or_default();
        let charset = String::from_utf8_lossy(charset).into_owned();
        Ok(Kind::Leaf(Leaf { is_text: main == "text", charset, transfer, body: header.body }))
    }

    fn multipart(
        &mut self,
        media: &Parameterised<'_>,
        sub: &str,
        transfer: Transfer,
        body: &'a [u8],
        depth: usize,
    ) -> Result<Kind<'a>, NoParts> {
        let boundary = media.only("boundary").map_err(|_| Unclean)?.ok_or(Unclean)?;
        let is_usable = !boundary.is_empty() && boundary.len() <= MAX_BOUNDARY && !boundary.ends_with(b" ");
        self.searched += body.len();
        if self.searched > MAX_SEARCHED_BYTES {
            return Err(TooLarge);
        }
        // RFC 2045 §6.4: a multipart itself is never encoded.
        if transfer != Transfer::Identity || !is_usable {
            return Err(Unclean);
        }
        let children = split(body, boundary)?;
        let default = match sub {
            "digest" => Default::Message,
            "signed" => Default::Sealed,
            _ => Default::Text,
        };
        let (depth, role) = (depth + 1, Role::Piece);
        let pending = children.iter().rev().map(|bytes| Pending { bytes, depth, role, default });
        self.pending.extend(pending);
        Ok(Kind::Multipart(children.len()))
    }
}

/// The unfolded value of a field that may occur once.
fn only_field<'a>(header: &Header<'a>, name: &str) -> Result<Option<std::borrow::Cow<'a, [u8]>>, NoParts> {
    let mut fields = header.fields().filter(|field| field.is(name));
    let first = fields.next();
    match fields.next() {
        None => Ok(first.map(|field| field.unfolded())),
        Some(_) => Err(Unclean),
    }
}

/// The parts between the delimiter lines of RFC 2046 §5.1.1, without preamble and epilogue.
fn split<'a>(body: &'a [u8], boundary: &[u8]) -> Result<Vec<&'a [u8]>, NoParts> {
    let mut found = Vec::new();
    // Where the part that we are in begins, and whether the last delimiter was seen.
    let (mut part_start, mut closed) = (None, false);
    let dashes = memmem::Finder::new(b"\r\n--");
    // The next line that starts with two dashes, and whose CRLF is not before `from`.
    let next = |from: usize| dashes.find(body.get(from..)?).map(|at| from + at + 2);
    let mut line_start = if body.starts_with(b"--") { Some(0) } else { next(0) };
    while let Some(start) = line_start {
        let mut search_from = start + 2;
        if let Some(delimiter) = Delimiter::parse(body.get(start..).unwrap_or_default(), boundary)? {
            if closed {
                return Err(Unclean);
            }
            if let Some(part_start) = part_start {
                // The line end before a delimiter belongs to the delimiter.
                let part_end = start.saturating_sub(2).max(part_start);
                found.push(body.get(part_start..part_end).ok_or(Unclean)?);
            }
            closed = delimiter.is_last;
            part_start = (!closed).then_some((start + delimiter.len + 2).min(body.len()));
            search_from = start + delimiter.len;
        }
        if found.len() > MAX_PARTS {
            return Err(TooLarge);
        }
        line_start = next(search_from);
    }
    if closed && !found.is_empty() { Ok(found) } else { Err(Unclean) }
}

struct Delimiter {
    /// Octets of the line without its CRLF.
    len: usize,
    is_last: bool,
}

impl Delimiter {
    /// Reads the line that `text` starts with.
    ///
    /// # Errors
    /// The line starts like a delimiter and goes on with something else: RFC 2046 lets programs take it for one.
    fn parse(text: &[u8], boundary: &[u8]) -> Result<Option<Self>, NoParts> {
        let Some(rest) = text.strip_prefix(b"--").and_then(|rest| rest.strip_prefix(boundary)) else {
            return Ok(None);
        };
        let rest_len = memmem::find(rest, b"\r\n").unwrap_or(rest.len());
        let rest = rest.get(..rest_len).unwrap_or_default();
        let (is_last, padding) = match rest.strip_prefix(b"--") {
            Some(padding) => (true, padding),
            None => (false, rest),
        };
        if !padding.iter().all(|b| matches!(b, b' ' | b'\t')) {
            return Err(Unclean);
        }
        Ok(Some(Self { len: 2 + boundary.len() + rest_len, is_last }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<'a>(body: &'a str, boundary: &str) -> Result<Vec<&'a str>, NoParts> {
        let parts = split(body.as_bytes(), boundary.as_bytes())?;
        Ok(parts.into_iter().map(|part| std::str::from_utf8(part).unwrap()).collect())
    }

    #[test]
    fn parts_lie_between_delimiters() {
        for (body, parts) in [
            ("--b\r\none\r\n--b\r\ntwo\r\n\r\n--b--\r\n", vec!["one", "two\r\n"]),
            ("preamble\r\n--b \t\r\none\r\n--b--", vec!["one"]),
            ("--b\r\none\r\n--b-- \r\nepilogue\r\n", vec!["one"]),
            ("--b\r\n\r\n--b\r\n--b--\r\n", vec!["", ""]),
            ("--b\r\n--other\r\n-- b\r\nx--b\r\n--b--\r\n", vec!["--other\r\n-- b\r\nx--b"]),
        ] {
            assert_eq!(cut(body, "b"), Ok(parts), "{body:?}");
        }
    }

    #[test]
    fn what_programs_cut_differently_is_unclean() {
        for body in [
            "",
            "--b",
            "--b\r\none\r\n",
            "--b--\r\n",
            "--b\r\none\r\n--bb\r\ntwo\r\n--b--\r\n",
            "--b\r\none\r\n--b--x\r\n",
            "--b\r\none\r\n--b--\r\n--b\r\nhidden\r\n",
        ] {
            assert_eq!(cut(body, "b"), Err(Unclean), "{body:?}");
        }
    }
}
