//! Reads the replies of a far side, strictly, from chunks of any size.
//!
//! It never keeps more than one reply of bounded size, and never guesses: what is no reply by RFC 5321 §4.2 is an
//! error, after which nothing that the far side says can be trusted and the connection has to be closed.

use std::borrow::Cow;

use super::reply::{EnhancedCode, Reply};

/// One line with its CRLF; RFC 5321 §4.5.3.1.5 asks for 512, far sides are wordier.
pub const MAX_LINE: usize = 4096;
/// Lines of one reply.
pub const MAX_LINES: usize = 100;

/// Octets of one reply: far more than any greeting or EHLO needs, and few enough to be kept by many connections.
pub const MAX_REPLY: usize = 64 << 10;

/// Collects one reply after the other.
#[derive(Default, Debug)]
pub struct ReplyReader {
    /// The start of a line whose end has not come yet.
    partial: Vec<u8>,
    /// The lines so far of a reply whose last line has not come yet.
    unfinished: Option<Reply>,
    /// Octets of these lines.
    octets: usize,
}

/// What a far side sent is no SMTP reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No end of line within [`MAX_LINE`].
    #[error("a reply line longer than {MAX_LINE} octets")]
    LineTooLong,
    /// More than [`MAX_LINES`] lines.
    #[error("a reply of more than {MAX_LINES} lines")]
    TooManyLines,
    /// More than [`MAX_REPLY`] octets.
    #[error("a reply of more than {MAX_REPLY} octets")]
    TooLong,
    /// A line that does not end in CRLF, or with a CR inside.
    #[error("a reply line with a bare CR or LF")]
    LineEnd,
    /// No code of three digits from 200 to 599 followed by a space, a hyphen or nothing.
    #[error("something that is no SMTP reply")]
    Syntax,
    /// Lines of one reply with different codes.
    #[error("a reply whose lines have different codes")]
    CodeChanged,
}

impl ReplyReader {
    /// Takes bytes up to the end of the first complete reply; gives back how many were taken, and the reply if it is
    /// complete. What was not taken belongs to the next reply.
    ///
    /// # Errors
    /// The far side does not speak SMTP; the reader must not be fed again.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Reply>), ReplyError> {
        let mut taken = 0;
        while let Some((line, rest)) = split_line(input.get(taken..).unwrap_or_default()) {
            taken = input.len() - rest.len();
            if self.partial.len() + line.len() > MAX_LINE {
                return Err(ReplyError::LineTooLong);
            }
            let complete = if self.partial.is_empty() {
                self.line(line)?
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole)?
            };
            if complete {
                return Ok((taken, self.unfinished.take()));
            }
        }
        let rest = input.get(taken..).unwrap_or_default();
        if self.partial.len() + rest.len() > MAX_LINE {
            return Err(ReplyError::LineTooLong);
        }
        self.partial.extend_from_slice(rest);
        Ok((input.len(), None))
    }

    /// Whether nothing of a next reply has come yet.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.unfinished.is_none()
    }

    /// Takes one whole line; true when it ends its reply.
    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let line = line.strip_suffix(b"\r\n").ok_or(ReplyError::LineEnd)?;
        if memchr::memchr(b'\r', line).is_some() {
            return Err(ReplyError::LineEnd);
        }
        self.octets = if self.unfinished.is_some() { self.octets + line.len() } else { line.len() };
        if self.octets > MAX_REPLY {
            return Err(ReplyError::TooLong);
        }
        let (code, last, text) = parse_line(line)?;
        let text = printable(text);
        match &mut self.unfinished {
            None => {
                let (enhanced, text) = take_enhanced(code, text);
                self.unfinished = Some(Reply { code, enhanced, lines: vec![Cow::Owned(text)] });
            }
            Some(reply) if reply.code != code => return Err(ReplyError::CodeChanged),
            Some(reply) if reply.lines.len() >= MAX_LINES => return Err(ReplyError::TooManyLines),
            Some(reply) => {
                let (enhanced, rest) = take_enhanced(code, text.clone());
                let repeated = enhanced.is_some() && enhanced == reply.enhanced;
                reply.lines.push(Cow::Owned(if repeated { rest } else { text }));
            }
        }
        Ok(last)
    }
}

/// The first line of `input`, with its LF, and what follows; `None` when no line ends in it.
fn split_line(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', input)?;
    input.split_at_checked(end + 1)
}

/// Code, whether it is the last line, and text.
fn parse_line(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Syntax)?;
    let code = digits.iter().try_fold(0u16, |code, digit| {
        digit.is_ascii_digit().then(|| code * 10 + u16::from(digit - b'0')).ok_or(ReplyError::Syntax)
    })?;
    if !(200..600).contains(&code) {
        return Err(ReplyError::Syntax);
    }
    match rest.split_first() {
        // RFC 5321 §4.2: a code without text is a whole reply.
        None => Ok((code, true, rest)),
        Some((b' ', text)) => Ok((code, true, text)),
        Some((b'-', text)) => Ok((code, false, text)),
        Some(_) => Err(ReplyError::Syntax),
    }
}

/// Text fit for logs and records: controls (a terminal's escape among them) and broken UTF-8 are replaced.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars()
        .map(|c| {
            if c == '\t' {
                ' '
            } else if c.is_control() {
                '?'
            } else {
                c
            }
        })
        .collect()
}

/// Splits `5.1.1 text` when its class fits the code (RFC 2034 §4).
fn take_enhanced(code: u16, text: String) -> (Option<EnhancedCode>, String) {
    let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let mut parts = word.split('.').map(|part| {
        (part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit()))
            .then(|| part.parse::<u16>().ok())
            .flatten()
    });
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Some(class)), Some(Some(subject)), Some(Some(detail)), None) if class == code / 100 => {
            let class = u8::try_from(class).unwrap_or_default();
            (Some(EnhancedCode(class, subject, detail)), rest.to_owned())
        }
        _ => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(input: &[u8], chunk: usize) -> Result<Vec<String>, ReplyError> {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        for mut piece in input.chunks(chunk) {
            while !piece.is_empty() {
                let (taken, reply) = reader.feed(piece)?;
                replies.extend(reply.map(|r| r.to_string()));
                piece = &piece[taken..];
            }
        }
        Ok(replies)
    }

    #[test]
    fn replies_are_the_same_in_any_chunks() {
        let input =
            b"220 hi\r\n250-2.0.0 a\r\n250-b\r\n250 2.0.0 c\r\n354\r\n550 5.1.1\r\n451 5.1.1 class\r\n";
        let expected = ["220 hi", "250 2.0.0 a; b; c", "354 ", "550 5.1.1 ", "451 5.1.1 class"]
            .map(str::to_owned)
            .to_vec();
        for chunk in 1..=input.len() {
            assert_eq!(read_all(input, chunk).unwrap(), expected, "chunks of {chunk}");
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for (input, error) in [
            (&b"250 a\n"[..], ReplyError::LineEnd),
            (b"250 a\rb\r\n", ReplyError::LineEnd),
            (b"2x0 a\r\n", ReplyError::Syntax),
            (b"25\r\n", ReplyError::Syntax),
            (b"\r\n", ReplyError::Syntax),
            (b"150 a\r\n", ReplyError::Syntax),
            (b"600 a\r\n", ReplyError::Syntax),
            (b"2500 a\r\n", ReplyError::Syntax),
            (b"250-a\r\n251 b\r\n", ReplyError::CodeChanged),
        ] {
            for chunk in 1..=input.len() {
                assert_eq!(read_all(input, chunk), Err(error), "{}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn s2_an_endless_banner_is_cut_off() {
        let endless = vec![b'2'; MAX_LINE + 1];
        assert_eq!(read_all(&endless, 100), Err(ReplyError::LineTooLong));
        assert_eq!(read_all(&endless, endless.len()), Err(ReplyError::LineTooLong));
        let lines = b"220-more\r\n".repeat(MAX_LINES + 1);
        assert_eq!(read_all(&lines, 64), Err(ReplyError::TooManyLines));
        let long_line = format!("250-{}\r\n", "x".repeat(4000));
        assert_eq!(read_all(long_line.repeat(99).as_bytes(), 2048), Err(ReplyError::TooLong));
        let short = format!("250-{}\r\n250 end\r\n", "x".repeat(4000));
        assert_eq!(read_all(short.repeat(99).as_bytes(), 2048).unwrap().len(), 99);
    }

    #[test]
    fn texts_are_fit_for_a_log() {
        assert_eq!(read_all(b"250 \x1b[31m\xff\t!\r\n", 99).unwrap(), ["250 ?[31m\u{fffd} !"]);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_pile_up(bytes: Vec<u8>, chunk in 1usize..64) {
            let _ = read_all(&bytes, chunk);
        }
    }
}
