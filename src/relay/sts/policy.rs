//! The record and the policy file of MTA-STS, as text (RFC 8461 §3.1, §3.2). Pure.

use std::time::Duration;

use super::Response;

/// RFC 8461 §3.2: a year and a bit.
const MAX_AGE: u64 = 31_557_600;
/// Octets of all `mx` patterns of one policy (S2): about a hundred; published policies have ten.
const MAX_PATTERNS: usize = 4096;

/// What a domain has published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::relay) struct Policy {
    pub(in crate::relay) mode: Mode,
    /// Names, or `*.` and a name; lower case.
    mx: Vec<String>,
    pub(super) max_age: Duration,
}

/// `mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::relay) enum Mode {
    /// Other hosts and bad certificates get no mail.
    Enforce,
    /// They get it, and it is counted.
    Testing,
    /// As if there were no policy.
    None,
}

impl Policy {
    /// RFC 8461 §3.2. Of a field that is repeated the first counts, but for `mx`; unknown ones are ignored.
    ///
    /// # Errors
    /// Says what is missing or wrong.
    pub(in crate::relay) fn parse(text: &str) -> Result<Self, String> {
        let first =
            |wanted: &str| fields(text, '\n').find(|(name, _)| *name == wanted).map(|(_, value)| value);
        if first("version") != Some("STSv1") {
            return Err("the policy has no `version: STSv1`".to_owned());
        }
        let mode = match first("mode") {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err("the policy has no valid `mode`".to_owned()),
        };
        let max_age = first("max_age")
            .filter(|value| !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()))
            .ok_or("the policy has no valid `max_age`")?;
        // More digits than a number can hold are more than a year.
        let max_age = Duration::from_secs(max_age.parse().unwrap_or(MAX_AGE).min(MAX_AGE));
        let mut mx = Vec::new();
        let mut octets = 0;
        for (_, pattern) in fields(text, '\n').filter(|(name, _)| *name == "mx") {
            let pattern = pattern.trim_end_matches('.').to_ascii_lowercase();
            if !is_pattern(&pattern) {
                return Err("the policy has an `mx` that is no name".to_owned());
            }
            octets += pattern.len();
            if octets > MAX_PATTERNS {
                return Err(format!("the policy's `mx` are more than {MAX_PATTERNS} octets"));
            }
            mx.push(pattern);
        }
        if mx.is_empty() && mode != Mode::None {
            return Err("the policy has no `mx`".to_owned());
        }
        Ok(Self { mode, mx, max_age })
    }

    /// Whether a host is one of the domain's (RFC 8461 §4.1): a `*` stands for one label, the first.
    pub(in crate::relay) fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(suffix) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix)),
            None => host.eq_ignore_ascii_case(pattern),
        })
    }
}

/// The `id` of the one valid record; where there are several, or it is malformed, there is none (RFC 8461 §3.1).
pub(super) fn record_id(records: &[String]) -> Option<String> {
    let mut found = records.iter().filter(|record| is_sts(record));
    let (Some(record), None) = (found.next(), found.next()) else { return None };
    let mut ids = fields(record, ';').filter(|(name, _)| *name == "id").map(|(_, value)| value);
    let (Some(id), None) = (ids.next(), ids.next()) else { return None };
    let is_valid = (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    is_valid.then(|| id.to_owned())
}

fn is_sts(record: &str) -> bool {
    record.split_once(';').and_then(|(first, _)| first.split_once('=')).is_some_and(|(name, value)| {
        name.trim_end_matches(BLANKS) == "v" && value.trim_matches(BLANKS) == "STSv1"
    })
}

const BLANKS: [char; 2] = [' ', '\t'];

fn fields(text: &str, end: char) -> impl Iterator<Item = (&str, &str)> {
    let split = if end == ';' { '=' } else { ':' };
    text.split(end).filter_map(move |field| {
        let (name, value) = field.trim_end_matches('\r').split_once(split)?;
        Some((name.trim_matches(BLANKS), value.trim_matches(BLANKS)))
    })
}

/// Reads what the server answered.
///
/// # Errors
/// Says why it is no policy.
pub(super) fn read(response: &Response) -> Result<Policy, String> {
    if response.status != 200 {
        return Err(format!("the policy server answered {}", response.status));
    }
    match response.content_type.as_deref() {
        Some("text/plain") => {}
        other => return Err(format!("the policy is {}, not text/plain", other.unwrap_or("of no type"))),
    }
    let text = std::str::from_utf8(&response.body).map_err(|_| "the policy is not UTF-8".to_owned())?;
    Policy::parse(text)
}

fn is_pattern(pattern: &str) -> bool {
    let name = pattern.strip_prefix("*.").unwrap_or(pattern);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Response {
        Response { status: 200, content_type: Some("text/plain".into()), body: body.into() }
    }

    fn id(records: &[&str]) -> Option<String> {
        record_id(&records.iter().map(|record| (*record).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn exactly_one_valid_record_counts() {
        assert_eq!(id(&["v=STSv1; id=20260101T0;", "spf2.0"]).as_deref(), Some("20260101T0"));
        assert_eq!(id(&["v = STSv1 ;id = a; x=y"]).as_deref(), Some("a"));
        for wrong in [
            &["v=STSv1; id=a", "v=STSv1; id=b"][..],
            &["v=STSv1; id=a; id=b"],
            &["v=STSv1"],
            &["v=STSv1;"],
            &["v=STSv1; id="],
            &["v=STSv1; id=a-b"],
            &["v=STSv1; id=0123456789012345678901234567890123"],
            &["v=stsv1; id=a"],
            &["id=a; v=STSv1"],
            &[],
        ] {
            assert_eq!(id(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_policy_is_read_with_either_line_end() {
        for end in ["\n", "\r\n"] {
            let text = [
                "version: STSv1",
                "mode:enforce",
                "mode: none",
                "mx: MX1.x.example",
                "mx:*.y.example.",
                "max_age: 604800",
                "new: ?",
            ];
            let policy = read(&answer(&text.join(end))).unwrap();
            assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, Duration::from_secs(604_800)));
            assert_eq!(policy.mx, ["mx1.x.example", "*.y.example"]);
        }
        assert_eq!(
            Policy::parse("version: STSv1\nmode: none\nmax_age: 99999999999999999999999")
                .unwrap()
                .max_age
                .as_secs(),
            MAX_AGE
        );
    }

    #[test]
    fn what_is_no_policy_is_named() {
        let good = "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 1\n";
        assert!(read(&answer(good)).is_ok());
        for (from, to, cause) in [
            ("STSv1", "STSv2", "version"),
            ("enforce", "Enforce", "mode"),
            ("mx: a.example\n", "", "no `mx`"),
            ("a.example", "*.*.example", "no name"),
            ("a.example", "a..example", "no name"),
            ("max_age: 1", "max_age: -1", "max_age"),
            ("max_age: 1", "max_age:", "max_age"),
        ] {
            let error = read(&answer(&good.replace(from, to))).unwrap_err();
            assert!(error.contains(cause), "{error}");
        }
        let moved = Response { status: 301, ..answer(good) };
        assert!(read(&moved).unwrap_err().contains("301"));
        let html = Response { content_type: Some("text/html".into()), ..answer(good) };
        assert!(read(&html).unwrap_err().contains("text/html"));
        let many = format!("{good}{}", "mx: a-long-name-for-a-host.example\n".repeat(200));
        assert!(read(&answer(&many)).unwrap_err().contains("octets"));
        assert!(read(&Response { body: vec![0xff], ..answer("") }).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn a_star_stands_for_one_label() {
        let policy =
            Policy::parse("version: STSv1\nmode: enforce\nmx: mx.a.example\nmx: *.b.example\nmax_age: 1")
                .unwrap();
        for (host, expected) in [
            ("mx.a.example", true),
            ("MX.A.example.", true),
            ("mx2.a.example", false),
            ("b.example", false),
            ("x.b.example", true),
            ("x.y.b.example", false),
            (".b.example", false),
            ("xb.example", false),
        ] {
            assert_eq!(policy.names(host), expected, "{host}");
        }
    }
}
