//! What a receiver's answer means. Pure.

use std::time::Duration;

use crate::clock::Timestamp;

/// However long a receiver wants us to wait, it is asked again after this.
const LONGEST: Duration = Duration::from_secs(3600);
/// It is not asked again before this.
const SHORTEST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The event has arrived.
    Taken,
    /// The receiver is gone for good, and says so: the event is over.
    Unwanted,
    /// The receiver works, and does not take this event. It may when it is repaired.
    NotThisOne,
    /// The receiver does not work, is not there, or does not know us.
    Broken,
    /// It takes events, and wants none for this long.
    Slower(Duration),
}

/// See the module.
pub(super) fn verdict(status: u16, retry_after: Option<Duration>) -> Verdict {
    match (status, retry_after) {
        (200..=299, _) => Verdict::Taken,
        (410, _) => Verdict::Unwanted,
        (429 | 503, Some(wait)) => Verdict::Slower(wait.clamp(SHORTEST, LONGEST)),
        // What is wrong with one event is no reason to leave the receiver alone.
        (400 | 402 | 406 | 409 | 411..=424 | 426..=428 | 431..=499, _) => Verdict::NotThisOne,
        _ => Verdict::Broken,
    }
}

/// The value of Retry-After: seconds, or a date (RFC 9110 §10.2.3).
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // What does not fit is longer than anybody waits.
        return Some(value.parse().map_or(LONGEST, Duration::from_secs));
    }
    let date = mail_parser::DateTime::parse_rfc822(value).filter(mail_parser::DateTime::is_valid)?;
    let seconds = u64::try_from(date.to_timestamp()).ok()?;
    Some(Timestamp::from_millis(seconds.saturating_mul(1000)).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2yz_is_taken_and_only_410_ends_an_event() {
        let verdicts = |verdict_wanted| {
            (100..=599).filter(|status| verdict(*status, None) == verdict_wanted).collect::<Vec<u16>>()
        };
        assert_eq!(verdicts(Verdict::Taken), (200..=299).collect::<Vec<_>>());
        assert_eq!(verdicts(Verdict::Unwanted), [410]);
        let broken = verdicts(Verdict::Broken);
        for status in [301, 302, 307, 308, 401, 403, 404, 405, 407, 408, 425, 429, 430, 500, 502, 503, 504] {
            assert!(broken.contains(&status), "{status}");
        }
        for status in [400, 409, 413, 422, 451] {
            assert_eq!(verdict(status, None), Verdict::NotThisOne, "{status}");
        }
    }

    #[test]
    fn a_receiver_is_waited_for_as_it_wants_but_not_for_ever() {
        let now = Timestamp::from_millis(1_795_343_400_000);
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        let date = retry_after("Sun, 22 Nov 2026 10:31:30 GMT", now);
        assert_eq!(date, Some(Duration::from_secs(90)));
        assert_eq!(retry_after("Sun, 22 Nov 2020 10:31:30 GMT", now), Some(Duration::ZERO));
        for bad in ["", "-1", "soon", "1.5", "Sun, 99 Nov 2026 10:31:30 GMT"] {
            assert_eq!(retry_after(bad, now), None, "{bad}");
        }
        let huge = retry_after("99999999999999999999999", now);
        assert_eq!(verdict(503, huge), Verdict::Slower(LONGEST));
        assert_eq!(verdict(429, Some(Duration::ZERO)), Verdict::Slower(SHORTEST));
        assert_eq!(verdict(500, Some(SHORTEST)), Verdict::Broken);
    }
}
