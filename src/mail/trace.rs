//! The trace that a message belongs to, as its sender's programs tell it (W3C Trace Context).

use super::header::Header;

/// `version-trace_id-parent_id-flags` (W3C Trace Context §3.2.2).
const LEN: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// The value of the field `traceparent` in a message's header; `None` when it is not there exactly once, or is not as
/// W3C Trace Context §3.2 says. Of a later version only the parts that it shares with this one are given back.
pub fn traceparent(content: &[u8]) -> Option<String> {
    let header = Header::split(content);
    let mut fields = header.fields().filter(|field| field.is("traceparent"));
    let value = fields.next()?.unfolded();
    if fields.next().is_some() {
        return None;
    }
    parse(str::from_utf8(&value).ok()?)
}

fn parse(value: &str) -> Option<String> {
    let mut parts = value.splitn(5, '-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
    let is_whole = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    let is_of_this_version = version != "00" || parts.next().is_none();
    let is_valid = is_whole && is_of_this_version && version != "ff" && !is_zero(trace) && !is_zero(parent);
    is_valid.then(|| value.get(..LEN).map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_field_is_found_in_the_messages_own_header_only() {
        let message = format!("Subject: x\r\nTraceParent:\r\n {VALID} \r\n\r\nbody\r\n");
        assert_eq!(traceparent(message.as_bytes()).as_deref(), Some(VALID));
        let below = format!("Subject: x\r\n\r\ntraceparent: {VALID}\r\n");
        assert_eq!(traceparent(below.as_bytes()), None);
        let twice = format!("traceparent: {VALID}\r\ntraceparent: {VALID}\r\n\r\n");
        assert_eq!(traceparent(twice.as_bytes()), None);
    }

    #[test]
    fn what_is_no_trace_context_is_none() {
        let later = format!("cc{}-what-comes-later", &VALID[2..]);
        assert_eq!(parse(&later).as_deref(), Some(&later[..LEN]));
        for wrong in [
            "",
            "00",
            &VALID[..LEN - 1],
            &format!("{VALID}0"),
            &format!("{VALID}-more"),
            &format!("ff{}", &VALID[2..]),
            &VALID.to_uppercase(),
            &VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &VALID.replace("4bf9", "4bg9"),
            &VALID.replace('-', "_"),
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
