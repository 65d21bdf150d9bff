//! Replies: a code, an enhanced code (RFC 3463, RFC 2034) and one or more lines of text.

use std::borrow::Cow;
use std::fmt;

/// RFC 3463 §2: class, subject, detail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One reply, as we send it or as a far side sent it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// Every 2yz, 4yz and 5yz reply of ours has one, but for the greeting and EHLO's.
    pub enhanced: Option<EnhancedCode>,
    /// Text lines without code and line end; never empty, and without CR, LF or other controls.
    pub lines: Vec<Cow<'static, str>>,
}

impl Reply {
    /// A one-line reply with an enhanced code.
    pub fn new(code: u16, enhanced: (u8, u16, u16), text: impl Into<Cow<'static, str>>) -> Self {
        let (class, subject, detail) = enhanced;
        Self { code, enhanced: Some(EnhancedCode(class, subject, detail)), lines: vec![text.into()] }
    }

    /// A one-line reply without an enhanced code: greetings, 3yz and EHLO only.
    pub fn bare(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, enhanced: None, lines: vec![text.into()] }
    }

    /// 2yz.
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 4yz.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// What follows the code, in one line: `5.1.1 text; more text`.
    pub fn text(&self) -> String {
        let lines = self.lines.join("; ");
        self.enhanced.map_or_else(|| lines.clone(), |enhanced| format!("{enhanced} {lines}"))
    }

    /// Appends the reply as it goes over the wire (RFC 5321 §4.2.1): `250-…`, last line `250 …`, each with CRLF.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let last = self.lines.len().saturating_sub(1);
        for (index, line) in self.lines.iter().enumerate() {
            let separator = if index == last { ' ' } else { '-' };
            out.extend_from_slice(format!("{}{separator}", self.code).as_bytes());
            if let Some(enhanced) = self.enhanced {
                out.extend_from_slice(format!("{enhanced} ").as_bytes());
            }
            // A text that quotes a peer must not be able to end the line (S1).
            out.extend(line.bytes().map(|b| if b.is_ascii_control() { b'?' } else { b }));
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    /// One line for logs: `554 5.5.0 text; more text`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        write!(f, " {}", self.lines.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_carries_the_codes_and_no_text_can_end_a_line() {
        let mut reply = Reply::new(550, (5, 1, 1), "first\r\n250 fake");
        reply.lines.push("second".into());
        let mut out = Vec::new();
        reply.write_to(&mut out);
        assert_eq!(out, b"550-5.1.1 first??250 fake\r\n550 5.1.1 second\r\n");
    }
}
