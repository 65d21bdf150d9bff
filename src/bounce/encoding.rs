//! How strangers' words are made fit to stand in a report.

/// RFC 5322 §2.1.1: lines should not be longer, CRLF not counted.
const MAX_COLUMN: usize = 78;
/// RFC 2045 §6.7 (5): the longest line of quoted-printable, its soft line break counted.
const MAX_QUOTED: usize = 76;

/// A text on one line: each control character and run of white space becomes one space. What is not ASCII stays.
pub(super) fn one_line(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The same in US-ASCII: what is not becomes a question mark.
pub(super) fn plain(text: &str) -> String {
    one_line(text).chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

/// `start` and a text of one line behind it, folded between its words (RFC 5322 §2.2.3). No line of it is empty or white
/// space alone, so it can never end a header.
pub(super) fn folded(start: &str, text: &str) -> String {
    let mut out = start.trim_end().to_owned();
    let mut column = out.chars().count();
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column + 1 + width > MAX_COLUMN && column > start.trim_end().len() {
            out.push_str("\r\n ");
            column = 1;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    out
}

/// RFC 3461 §4: what an xtext stands for. What is no xtext stands for itself.
pub(super) fn from_xtext(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('+') {
        out.push_str(before);
        let decoded = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match decoded.filter(u8::is_ascii) {
            Some(octet) => {
                out.push(char::from(octet));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push('+');
                rest = after;
            }
        }
    }
    out + rest
}

/// RFC 6533 §3: an address of type `utf-8`. With `smtputf8` in the form for reports that may hold UTF-8
/// (`utf-8-addr-unitext`), otherwise in US-ASCII (`utf-8-addr-xtext`).
pub(super) fn utf8_address(address: &str, smtputf8: bool) -> String {
    let mut out = String::with_capacity(address.len());
    for c in address.chars() {
        let stands_for_itself =
            if c.is_ascii() { c.is_ascii_graphic() && !"\\+=".contains(c) } else { smtputf8 };
        if stands_for_itself {
            out.push(c);
        } else {
            out.push_str(&format!("\\x{{{:02X}}}", u32::from(c)));
        }
    }
    out
}

/// An `utf-8` address that a client has encoded already: only what is not ASCII is encoded, where it must be.
pub(super) fn encoded_utf8_address(address: &str, smtputf8: bool) -> String {
    let encode = |c: char| {
        if c.is_ascii() || smtputf8 { c.to_string() } else { format!("\\x{{{:02X}}}", u32::from(c)) }
    };
    address.chars().map(encode).collect()
}

/// RFC 2045 §6.7, of text: CRLF stays a line end, every other control octet is encoded.
pub(super) fn quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 8);
    let mut column = 0;
    let mut rest = text;
    while let Some((octet, after)) = rest.split_first() {
        if let Some(next_line) = rest.strip_prefix(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            (rest, column) = (next_line, 0);
            continue;
        }
        let ends_line = after.is_empty() || after.starts_with(b"\r\n");
        let is_literal = match octet {
            b'=' => false,
            b' ' | b'\t' => !ends_line,
            _ => octet.is_ascii_graphic(),
        };
        let width = if is_literal { 1 } else { 3 };
        if column + width >= MAX_QUOTED {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if is_literal {
            out.push(*octet);
        } else {
            out.extend_from_slice(format!("={octet:02X}").as_bytes());
        }
        column += width;
        rest = after;
    }
    out
}

/// What Content-Transfer-Encoding a text needs, `None` when no encoding but `quoted-printable` will do: lines over 998
/// octets (RFC 5321 §4.5.3.1.6), NUL, bare CR or LF.
pub(super) fn natural_encoding(text: &[u8]) -> Option<&'static str> {
    const MAX_LINE: usize = 998;
    let mut rest = text;
    while !rest.is_empty() {
        let end = memchr::memmem::find(rest, b"\r\n").unwrap_or(rest.len());
        let line = rest.get(..end).unwrap_or_default();
        if line.len() > MAX_LINE || memchr::memchr3(b'\r', b'\n', 0, line).is_some() {
            return None;
        }
        rest = rest.get(end + 2..).unwrap_or_default();
    }
    Some(if text.is_ascii() { "7bit" } else { "8bit" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_is_one_line_of_words() {
        assert_eq!(one_line("5.1.1 no\r\n\tsuch\0 user  ü "), "5.1.1 no such user ü");
        assert_eq!(plain("é\u{7f}\u{85}x"), "? x");
    }

    #[test]
    fn folding_never_makes_an_empty_line() {
        let text = "word ".repeat(50);
        let field = folded("Diagnostic-Code: smtp;", &text);
        assert!(field.lines().all(|line| line.len() <= 78 && !line.trim().is_empty()));
        assert_eq!(field.replace("\r\n", ""), format!("Diagnostic-Code: smtp; {}", text.trim_end()));
        let long = "x".repeat(500);
        assert_eq!(folded("A: ", &long), format!("A: {long}"));
    }

    #[test]
    fn xtext_is_decoded_and_nonsense_is_kept() {
        assert_eq!(from_xtext("a+2Bb+3D+20c"), "a+b= c");
        assert_eq!(from_xtext("a+zz+2"), "a+zz+2");
        assert_eq!(from_xtext("+é+FF"), "+é+FF");
    }

    #[test]
    fn an_utf8_address_has_an_ascii_form() {
        assert_eq!(utf8_address("jörg+a@x.example", false), "j\\x{F6}rg\\x{2B}a@x.example");
        assert_eq!(utf8_address("jörg@x.example", true), "jörg@x.example");
        assert_eq!(encoded_utf8_address("ü\\x{20AC}@x", false), "\\x{FC}\\x{20AC}@x");
    }

    #[test]
    fn quoted_printable_keeps_lines_short_and_loses_nothing() {
        assert_eq!(quoted_printable(b"a=b \r\n\xc3\xbc\r\n"), b"a=3Db=20\r\n=C3=BC\r\n");
        let long = quoted_printable(&[b'x'; 300]);
        assert!(long.split(|b| *b == b'\n').all(|line| line.len() <= 77));
        let joined: Vec<u8> = String::from_utf8(long).unwrap().replace("=\r\n", "").into_bytes();
        assert_eq!(joined, [b'x'; 300]);
    }

    #[test]
    fn a_text_that_no_line_reader_takes_has_no_natural_encoding() {
        assert_eq!(natural_encoding(b"a\r\nb\r\n"), Some("7bit"));
        assert_eq!(natural_encoding("ü".as_bytes()), Some("8bit"));
        for bad in [&b"a\nb"[..], b"a\rb", b"a\0b", &[b'x'; 999]] {
            assert_eq!(natural_encoding(bad), None);
        }
    }
}
