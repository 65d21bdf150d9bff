//! What a client, a far side or a certificate says stays where it belongs: no word of a stranger becomes a line, a field, a
//! command, a header or an order to a terminal, wherever it is sent on or shown.

mod envelope;
mod shown;
mod words;

/// What a terminal, a log or a header would obey, or what turns the order of text: control characters but for line
/// ends and tabs, line separators, directions, and what nobody sees.
pub fn is_hostile(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
