//! Times, ages, sizes and states as people say them.

use mail_parser::DateTime;

use super::paper::Paint;
use crate::admin::model::{BreakerState, Kind, State};
use crate::clock::{Clock, Timestamp};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A point in time of a document; `None` when it is no such text.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let parsed = DateTime::parse_rfc3339(text).filter(DateTime::is_valid)?;
    let seconds = u64::try_from(parsed.to_timestamp()).ok()?;
    Some(Timestamp::from_millis(seconds.checked_mul(1000)?))
}

/// `2026-11-22 10:30:00`, without the letters that a time line has no room for; what is no time stays as it is.
pub(super) fn plain_time(text: &str) -> String {
    time(text).map_or_else(|| text.to_owned(), |time| time.to_string().replace('T', " ").replace('Z', ""))
}

/// How far a time is from now: `in 5 min`, `2 h ago`, `now`.
pub(super) fn distance(text: &str, now: Timestamp) -> String {
    let Some(then) = time(text) else { return text.to_owned() };
    let (ahead, behind) = (then.since(now).as_secs(), now.since(then).as_secs());
    match (ahead, behind) {
        (0, 0) => "now".to_owned(),
        (0, behind) => format!("{} ago", long(behind)),
        (ahead, _) => format!("in {}", long(ahead)),
    }
}

/// The same for a column: `5m`, `-` for what is over.
pub(super) fn until(text: Option<&str>, now: Timestamp) -> String {
    match text.and_then(time) {
        None => "-".to_owned(),
        Some(then) if then <= now => "now".to_owned(),
        Some(then) => short(then.since(now).as_secs()),
    }
}

/// The time now, for [`distance`].
pub(super) fn now() -> Timestamp {
    Clock::system().now()
}

/// For a column: `45s`, `12m`, `3h`, `2d`.
pub(super) fn short(seconds: u64) -> String {
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{}m", seconds / MINUTE),
        HOUR..DAY => format!("{}h", seconds / HOUR),
        _ => format!("{}d", seconds / DAY),
    }
}

/// For a sentence: `45 s`, `12 min`, `3 h 20 min`, `2 days 5 h`.
pub(super) fn long(seconds: u64) -> String {
    let with = |whole: String, rest: u64, unit: &str| match rest {
        0 => whole,
        rest => format!("{whole} {rest} {unit}"),
    };
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => with(format!("{} h", seconds / HOUR), seconds % HOUR / MINUTE, "min"),
        _ => with(counted(seconds / DAY, "day"), seconds % DAY / HOUR, "h"),
    }
}

/// `1 message`, `1,234 messages`.
pub(super) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{} {what}s", grouped(count)) }
}

/// `1,234,567`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `812 B`, `1.2 KB`, `34 MB`.
pub(super) fn size(octets: u64) -> String {
    bytesize::ByteSize::b(octets).display().si().to_string()
}

/// A duration that may be small: `0.8 ms`, `12 ms`, `1.3 s`, `4 min`.
pub(super) fn latency(seconds: f64) -> String {
    if !seconds.is_finite() || seconds <= 0.0 {
        return "-".to_owned();
    }
    if seconds < 0.01 {
        format!("{:.1} ms", seconds * 1000.0)
    } else if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is positive, and saturates"
        )]
        long(seconds as u64)
    }
}

/// As the API names it.
pub(super) fn state(state: State) -> (&'static str, Paint) {
    match state {
        State::Queued => ("queued", Paint::Plain),
        State::Active => ("active", Paint::Good),
        State::Held => ("held", Paint::Warning),
        State::Delivered => ("delivered", Paint::Good),
        State::Bounced => ("bounced", Paint::Bad),
        State::Discarded => ("discarded", Paint::Aside),
    }
}

/// As the API names it.
pub(super) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Mail => "mail",
        Kind::Notice => "notice",
        Kind::Event => "event",
    }
}

/// As people say it.
pub(super) fn breaker(state: BreakerState) -> (&'static str, Paint) {
    match state {
        BreakerState::Closed => ("closed", Paint::Good),
        BreakerState::HalfOpen => ("half open", Paint::Warning),
        BreakerState::Open => ("open", Paint::Bad),
    }
}

/// A reverse-path: `<>` for the null sender.
pub(super) fn sender(from: &str) -> &str {
    if from.is_empty() { "<>" } else { from }
}

/// The first recipients, and how many more there are.
pub(super) fn recipients(first: &[String], count: u32) -> String {
    let more = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(first.len());
    let list = first.join(", ");
    if more == 0 { list } else { format!("{list} +{more}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_people_say_them() {
        for (seconds, in_column, in_words) in [
            (0, "0s", "0 s"),
            (59, "59s", "59 s"),
            (60, "1m", "1 min"),
            (3_600, "1h", "1 h"),
            (12_000, "3h", "3 h 20 min"),
            (86_400, "1d", "1 day"),
            (190_800, "2d", "2 days 5 h"),
        ] {
            assert_eq!((short(seconds).as_str(), long(seconds).as_str()), (in_column, in_words));
        }
        let now = time("2026-11-22T10:30:00Z").unwrap();
        assert_eq!(distance("2026-11-22T10:35:00Z", now), "in 5 min");
        assert_eq!(distance("2026-11-22T08:30:00Z", now), "2 h ago");
        assert_eq!(distance("2026-11-22T10:30:00Z", now), "now");
        assert_eq!(distance("\x1bsoon", now), "\x1bsoon");
        assert_eq!(until(Some("2026-11-22T10:35:00Z"), now), "5m");
        assert_eq!((until(None, now), until(Some("2026-11-22T10:29:00Z"), now)), ("-".into(), "now".into()));
        assert_eq!(plain_time("2026-11-22T10:30:00Z"), "2026-11-22 10:30:00");
        assert_eq!(plain_time("never"), "never");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            (grouped(0), grouped(999), grouped(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!(
            (counted(1, "message"), counted(1000, "message")),
            ("1 message".into(), "1,000 messages".into())
        );
        assert_eq!((size(812), size(1_234)), ("812 B".into(), "1.2 kB".into()));
        let latencies = [0.0008, 0.012, 1.34, 240.0, 0.0, f64::NAN].map(latency);
        assert_eq!(latencies, ["0.8 ms", "12 ms", "1.3 s", "4 min", "-", "-"]);
    }

    #[test]
    fn more_recipients_than_are_named_are_counted() {
        let first = ["a@x".to_owned(), "b@x".to_owned()];
        assert_eq!(recipients(&first, 2), "a@x, b@x");
        assert_eq!(recipients(&first, 10), "a@x, b@x +8");
        assert_eq!((sender(""), sender("a@x")), ("<>", "a@x"));
    }
}
