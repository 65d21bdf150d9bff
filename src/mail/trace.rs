//! The trace context that a message carries in its header, as other systems write it into HTTP requests.
//!
//! What is not exactly as the specification has it is not there: it goes into log lines and requests as it is.

use super::header::Header;

/// Length of version 00, and of what any later version begins with.
const LEN: usize = 55;
const NAME: &str = "traceparent";

/// The `traceparent` of a message (W3C Trace Context §3.2.2); `None` when it has none, several, or one that is not valid.
///
/// Of a later version only the fields that version 00 has are taken (§4.3).
pub fn traceparent(content: &[u8]) -> Option<String> {
    // Asked for each message, and few have one: no line that begins with the name, no field of it.
    may_have_one(content).then(|| in_header(&Header::split(content)))?
}

fn may_have_one(content: &[u8]) -> bool {
    let mut rest = content;
    while !rest.is_empty() && !rest.starts_with(b"\r\n") {
        if rest.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME.as_bytes())) {
            return true;
        }
        let Some(end) = memchr::memchr(b'\n', rest) else { return false };
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    false
}

/// The same, of a header that has been found already.
pub fn in_header(header: &Header<'_>) -> Option<String> {
    let mut found = header.fields().filter(|field| field.is(NAME));
    let (Some(field), None) = (found.next(), found.next()) else { return None };
    let value = field.unfolded();
    let text = str::from_utf8(&value).ok()?.trim();
    let (known, rest) = text.split_at_checked(LEN)?;
    let [version, trace_id, parent_id, flags] = fields(known)?;
    let is_whole = rest.is_empty() || (version != "00" && rest.starts_with('-'));
    let is_valid = version != "ff" && !is_zero(trace_id) && !is_zero(parent_id);
    (is_whole && is_valid).then(|| format!("00-{trace_id}-{parent_id}-{flags}"))
}

/// The four fields, each of lower-case hexadecimal digits.
fn fields(text: &str) -> Option<[&str; 4]> {
    let mut parts = text.split('-');
    let mut field = |len: usize| {
        let is_hex = |part: &&str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        parts.next().filter(|part| part.len() == len).filter(is_hex)
    };
    Some([field(2)?, field(32)?, field(16)?, field(2)?])
}

fn is_zero(text: &str) -> bool {
    text.bytes().all(|b| b == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(value: &str) -> Option<String> {
        traceparent(format!("Subject: x\r\nTraceParent: {value}\r\n\r\ntraceparent: {VALID}\r\n").as_bytes())
    }

    #[test]
    fn a_valid_one_is_taken_also_folded_and_of_a_later_version() {
        assert_eq!(of(VALID).as_deref(), Some(VALID));
        assert_eq!(of(&format!("\r\n {VALID} ")).as_deref(), Some(VALID));
        let later = VALID.replacen("00-", "cc-", 1);
        assert_eq!(of(&later).as_deref(), Some(VALID));
        assert_eq!(of(&format!("{later}-what-is-to-come")).as_deref(), Some(VALID));
    }

    #[test]
    fn what_is_not_valid_is_not_there() {
        for bad in [
            String::new(),
            VALID.to_uppercase(),
            VALID.replacen("00-", "ff-", 1),
            VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            VALID.replace('b', "g"),
            VALID.replace('-', "_"),
            format!("{VALID}-more"),
            format!("{}x", VALID.replacen("00-", "cc-", 1)),
            VALID.trim_end_matches('1').to_owned(),
            "é".repeat(40),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
        assert_eq!(traceparent(b"\r\n"), None);
        let twice = format!("traceparent: {VALID}\r\ntraceparent: {VALID}\r\n\r\n");
        assert_eq!(traceparent(twice.as_bytes()), None);
    }
}
