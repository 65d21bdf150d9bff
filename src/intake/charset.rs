//! Text in a named charset, as UTF-8.
//!
//! Strict where mail programs are lenient: bytes that are no text in their charset are not repaired, because two
//! different texts that are repaired to the same one would become the same message. The caller then keeps the bytes.

use std::borrow::Cow;

use encoding_rs::{Encoding, REPLACEMENT, UTF_8};

/// `bytes` as UTF-8, or `None` when the charset is unknown or they are no text in it.
pub(super) fn decode<'a>(charset: &str, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
    let charset = charset.trim();
    if charset.is_empty() || is_us_ascii(charset) {
        return ascii(bytes).map(Cow::Borrowed);
    }
    let encoding = Encoding::for_label(charset.as_bytes()).filter(|e| *e != REPLACEMENT)?;
    if encoding == UTF_8 {
        return std::str::from_utf8(bytes).ok().map(Cow::Borrowed);
    }
    // The standard behind encoding_rs reads ISO-8859-x as its Windows sister, which has letters where it has controls.
    let is_sister = encoding.name().starts_with("windows-") && !charset.eq_ignore_ascii_case(encoding.name());
    if is_sister && bytes.iter().any(|b| (0x80..0xa0).contains(b)) {
        return None;
    }
    encoding.decode_without_bom_handling_and_without_replacement(bytes)
}

fn ascii(bytes: &[u8]) -> Option<&str> {
    bytes.is_ascii().then(|| std::str::from_utf8(bytes).ok()).flatten()
}

/// Names of US-ASCII (RFC 2046 §4.1.2 and the IANA register's aliases that mail uses).
fn is_us_ascii(charset: &str) -> bool {
    ["us-ascii", "ascii", "ansi_x3.4-1968", "iso646-us"].iter().any(|name| charset.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_the_same_in_every_charset() {
        assert_eq!(decode("utf-8", "é".as_bytes()).unwrap(), "é");
        assert_eq!(decode("ISO-8859-1", b"\xe9").unwrap(), "é");
        assert_eq!(decode("windows-1252", b"\xe9").unwrap(), "é");
        assert_eq!(decode("iso-2022-jp", b"\x1b$B$\"\x1b(B").unwrap(), "あ");
        assert_eq!(decode("", b"plain").unwrap(), "plain");
    }

    #[test]
    fn what_is_no_text_is_not_repaired() {
        for (charset, bytes) in [
            ("utf-8", &b"\xff"[..]),
            ("us-ascii", b"\xe9"),
            ("", b"\xe9"),
            ("x-unknown", b"a"),
            ("utf-7", b"a"),
            ("iso-2022-kr", b"a"),
            ("iso-8859-1", b"\x80"),
            ("shift_jis", b"\x81"),
        ] {
            assert_eq!(decode(charset, bytes), None, "{charset}");
        }
    }
}
