//! Text on a terminal: how wide it is, and what of it must not get there.
//!
//! Addresses, subjects, replies and names come from strangers. None of them may move the cursor, colour the screen, set
//! a title, or turn the order of what stands beside them: each character that could is shown as its number. A character
//! counts for what it may take at most, so a line never gets longer than the terminal.

use unicode_width::UnicodeWidthChar;

/// Makes "VS16" of the character before it a picture, which is one cell wider than the character was.
const PICTURE: char = '\u{fe0f}';
/// Characters of no width that are let through for each cell: a letter has a few accents, not a thousand.
const MARKS_PER_CELL: usize = 4;
/// Stands for what was cut off.
const ELLIPSIS: char = '…';

/// The text with everything that would act on a terminal written as `\u{1b}`.
pub(super) fn escaped(text: &str) -> String {
    if !text.chars().any(is_hostile) {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hostile(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    clean
}

/// A JSON document with the same characters in JSON's own notation; it says the same. Outside of strings there are none
/// but line ends and tabs, which stay.
pub(super) fn escaped_json(document: &str) -> String {
    let mut clean = String::with_capacity(document.len());
    for c in document.chars() {
        if !is_hostile(c) || c.is_ascii() && c != '\x7f' {
            clean.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            clean.push_str(&format!("\\u{unit:04x}"));
        }
    }
    clean
}

/// Control characters (C0, DEL, C1), line and paragraph separators, what turns the direction of text, and what nobody
/// sees but a search does not find.
pub(super) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Cells that a text takes at most.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(cells).sum()
}

fn cells(c: char) -> usize {
    if c == PICTURE { 1 } else { c.width().unwrap_or(0) }
}

/// The text in at most `most` cells, with an ellipsis for what does not fit.
pub(super) fn cut(text: &str, most: usize) -> String {
    if width(text) <= most && text.chars().count() <= most.saturating_mul(MARKS_PER_CELL) {
        return text.to_owned();
    }
    let (mut short, mut taken, mut marks) = (String::new(), 0, 0);
    for c in text.chars() {
        let more = cells(c);
        marks += usize::from(more == 0);
        if taken + more + 1 > most || marks > most.saturating_mul(MARKS_PER_CELL) {
            break;
        }
        short.push(c);
        taken += more;
    }
    if most > 0 {
        short.push(ELLIPSIS);
    }
    short
}

/// Lines of at most `most` cells, broken at spaces where that can be. Never empty.
pub(super) fn wrapped(text: &str, most: usize) -> Vec<String> {
    let most = most.max(1);
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        let with_gap = width(&line) + usize::from(!line.is_empty()) + width(word);
        if with_gap <= most {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for c in word.chars() {
            if width(&line) + cells(c) > most && !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_stranger_wrote_speaks_to_the_terminal() {
        let hostile =
            "\x1b]0;owned\x07 a\rb\nc \u{9b}31m \u{202e}txt.exe \u{2066}x\u{2069} \u{200b}\u{e0041}\x7f";
        let shown = escaped(hostile);
        assert!(!shown.chars().any(is_hostile), "{shown}");
        assert_eq!(escaped("\x1b[2J"), "\\u{1b}[2J");
        assert_eq!(escaped("a\r\nb"), "a\\r\\nb");
        // What people write stays as it is.
        for plain in ["Grüße, 世界 👩‍👩‍👧 ❤️", "שלום", "a\\b \"c\""] {
            assert_eq!(escaped(plain), plain);
        }
    }

    #[test]
    fn a_document_says_the_same_after_it_was_made_harmless() {
        let document = "{\"a\":\"x\u{9b}2J\u{202e}\u{7f}\u{e0041}\",\n\t\"b\":\"\\u001b é\"}";
        let clean = escaped_json(document);
        assert!(!clean.chars().any(|c| is_hostile(c) && !matches!(c, '\n' | '\t')), "{clean}");
        let read = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&clean), read(document));
    }

    #[test]
    fn width_is_in_cells_and_a_cut_never_exceeds_it() {
        assert_eq!((width("世界"), width("é"), width("e\u{301}"), width("❤\u{fe0f}")), (4, 1, 1, 2));
        assert_eq!(cut("世界人民", 5), "世界…");
        assert_eq!(cut("世界人民", 4), "世…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!((cut("abc", 1), cut("abc", 0)), ("…".to_owned(), String::new()));
        let zalgo = format!("a{}", "\u{301}".repeat(10_000));
        assert!(cut(&zalgo, 5).chars().count() <= 5 * MARKS_PER_CELL + 2);
        for most in 0..12 {
            assert!(width(&cut("a世b界c👩‍👩‍👧d", most)) <= most);
        }
    }

    #[test]
    fn lines_break_at_spaces_and_within_words_only_when_they_must() {
        assert_eq!(wrapped("451 4.7.1 try again later", 13), ["451 4.7.1 try", "again later"]);
        assert_eq!(wrapped("abcdefgh ij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("世界", 1), ["世", "界"]);
        assert_eq!(wrapped("", 10), [""]);
        assert_eq!(wrapped("a b", 0), ["a", "b"]);
    }
}
