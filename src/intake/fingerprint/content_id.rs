//! Content-IDs: libraries draw a new one for each inline image each time a message is built, so an id counts as the
//! number of its part, wherever it stands.

use std::borrow::Cow;
use std::collections::HashMap;

use memchr::memmem;

use super::canon::Canon;
use super::mime::Part;
use crate::intake::encoded_word::{self, hex};
use crate::mail::header::trim;

/// Never occurs in UTF-8, so that no text can imitate a replaced id.
const REPLACED: u8 = 0xff;

/// Which part each id names. Of parts with the same id the first is meant.
#[derive(Debug)]
pub(super) struct ContentIds(HashMap<Vec<u8>, usize>);

impl ContentIds {
    /// The ids of all parts.
    pub(super) fn of(parts: &[Part<'_>]) -> Self {
        let mut ids = HashMap::new();
        for (number, part) in parts.iter().enumerate() {
            for field in part.header.fields().filter(|field| field.is("Content-ID")) {
                let value = field.unfolded();
                let id = id(&value);
                if !id.is_empty() {
                    ids.entry(id.into_owned()).or_insert(number);
                }
            }
        }
        Self(ids)
    }

    /// The part that a header value names, with or without angle brackets.
    pub(super) fn find(&self, value: &[u8]) -> Option<usize> {
        self.0.get(id(value).as_ref()).copied()
    }

    /// Like [`ContentIds::find`], for values that may as well be something else, as a file name: only ids of the full
    /// form `left@right` count.
    pub(super) fn find_full(&self, value: &[u8]) -> Option<usize> {
        value.contains(&b'@').then(|| self.find(value)).flatten()
    }

    /// Hashes a text with CRLF line ends, without the last one (which a transfer encoding may or may not keep), each
    /// `cid:` reference replaced (RFC 2392).
    pub(super) fn hash_text(&self, text: &str, canon: &mut Canon) {
        let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        let text = text.as_bytes();
        // What lies before `at` was searched, what lies before `hashed` is written: each byte is looked at once,
        // however many references there are and whatever follows them.
        let (mut at, mut hashed) = (0, 0);
        let finder = memmem::Finder::new(b"cid:");
        while let Some(found) =
            tail(text, at).and_then(|rest| finder.find(rest)).filter(|_| !self.0.is_empty())
        {
            let start = at + found + 4;
            let reference = tail(text, start).unwrap_or_default();
            let len = reference.iter().position(|b| ends_url(*b)).unwrap_or(reference.len());
            at = start + len;
            let url = text.get(start..at).unwrap_or_default();
            if let Some(number) = self.0.get(percent_decoded(url).as_ref()) {
                hash_lines(text.get(hashed..start).unwrap_or_default(), canon);
                canon.tag(REPLACED);
                canon.number(*number);
                hashed = at;
            }
        }
        hash_lines(tail(text, hashed).unwrap_or_default(), canon);
    }
}

fn tail(text: &[u8], from: usize) -> Option<&[u8]> {
    text.get(from..)
}

/// Writes text as it is, each LF that no CR precedes with one.
fn hash_lines(text: &[u8], canon: &mut Canon) {
    let mut start = 0;
    for at in memchr::memchr_iter(b'\n', text) {
        let has_cr = at.checked_sub(1).and_then(|before| text.get(before)) == Some(&b'\r');
        if !has_cr {
            canon.stream(text.get(start..at).unwrap_or_default());
            canon.stream(b"\r");
            start = at;
        }
    }
    canon.stream(text.get(start..).unwrap_or_default());
}

/// Without white space and angle brackets around it, and without the encoding in which Python writes an id that is too
/// long for one line.
fn id(value: &[u8]) -> Cow<'_, [u8]> {
    if encoded_word::may_be_encoded(value)
        && let Ok(decoded) = encoded_word::decode(value)
    {
        return Cow::Owned(bare(&decoded).to_vec());
    }
    Cow::Borrowed(bare(value))
}

fn bare(value: &[u8]) -> &[u8] {
    let value = trim(value);
    value.strip_prefix(b"<").and_then(|value| value.strip_suffix(b">")).unwrap_or(value)
}

/// What ends an URL in HTML (where `&quot;` may end it), in `srcset`, CSS and plain text.
fn ends_url(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"\"'<>()[]\\`&,;".contains(&byte)
}

fn percent_decoded(url: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', url).is_none() {
        return Cow::Borrowed(url);
    }
    let mut decoded = Vec::with_capacity(url.len());
    let mut rest = url;
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'%', [high, low, after @ ..]) if hex(*high, *low).is_some() => {
                decoded.extend(hex(*high, *low));
                rest = after;
            }
            _ => decoded.push(*byte),
        }
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(ids: &[(&str, usize)], text: &str) -> [u8; 32] {
        let ids = ContentIds(ids.iter().map(|(id, number)| (id.as_bytes().to_vec(), *number)).collect());
        let mut canon = Canon::new("test");
        ids.hash_text(text, &mut canon);
        canon.finish()
    }

    #[test]
    fn a_reference_counts_as_its_part() {
        let first = hash(&[("a@x", 2)], "<img src=\"cid:a@x\"> url(cid:a%40x) cid:other");
        assert_eq!(first, hash(&[("b@y", 2)], "<img src=\"cid:b@y\"> url(cid:b@y) cid:other"));
        assert_ne!(first, hash(&[("a@x", 3)], "<img src=\"cid:a@x\"> url(cid:a@x) cid:other"));
        assert_ne!(first, hash(&[("a@x", 2)], "<img src=\"cid:a@x\"> url(cid:a@x) cid:Other"));
        assert_ne!(hash(&[], "cid:a@x"), hash(&[], "cid:b@y"));
    }

    #[test]
    fn a_reference_ends_where_html_and_css_end_it() {
        for (before, after) in [
            ("<div style=\"background:url(&quot;cid:", "&quot;)\">"),
            ("<img srcset=\"cid:", ", cid:other 2x\">"),
            ("url(cid:", ");"),
            ("[cid:", "] "),
            ("cid:", "\n"),
            ("cid:x cid:", "\r\ncid:"),
        ] {
            let text = |id: &str| format!("{before}{id}{after}");
            assert_eq!(hash(&[("a@x", 2)], &text("a@x")), hash(&[("b@y", 2)], &text("b@y")), "{before}");
            assert_ne!(hash(&[("a@x", 2)], &text("a@x")), hash(&[("a@x", 2)], &text("c@y")), "{before}");
        }
    }

    #[test]
    fn s2_references_without_an_end_cost_no_more_than_other_text() {
        // Each looked at up to the end of the text would be 10^13 steps.
        let _ = hash(&[("a@x", 2)], &"cid:".repeat(2_000_000));
    }

    #[test]
    fn only_line_ends_and_the_last_of_them_are_levelled() {
        let crlf = hash(&[], "a\r\n\r\nb\r\n");
        for text in ["a\n\nb\n", "a\r\n\nb", "a\n\r\nb"] {
            assert_eq!(hash(&[], text), crlf, "{text:?}");
        }
        for text in ["a\nb\n", "a\n\nb\n\n", "\na\n\nb", "a\r\rb\n", "a\n\nb "] {
            assert_ne!(hash(&[], text), crlf, "{text:?}");
        }
    }
}
