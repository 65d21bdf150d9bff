//! A point in time as a parameter of a command spells it (RFC 3339 §5.6 `date-time`).
//!
//! Strict: what is not that grammar, or no day of the calendar, is no time. Nothing is guessed.

use crate::clock::Timestamp;

/// Reads `2026-11-22T10:30:00Z`, also with a fraction of a second or an offset from UTC. `None` for everything else,
/// and for times before 1970.
pub fn parse(text: &str) -> Option<Timestamp> {
    let mut rest = Rest(text.as_bytes());
    let year = rest.number(4)?;
    rest.one_of(b"-")?;
    let month = rest.number(2).filter(|month| (1..=12).contains(month))?;
    rest.one_of(b"-")?;
    let day = rest.number(2).filter(|day| (1..=days_in(month, year)).contains(day))?;
    rest.one_of(b"Tt")?;
    let hour = rest.number(2).filter(|hour| *hour < 24)?;
    rest.one_of(b":")?;
    let minute = rest.number(2).filter(|minute| *minute < 60)?;
    rest.one_of(b":")?;
    // RFC 3339 §5.7: 60 in a leap second.
    let second = rest.number(2).filter(|second| *second <= 60)?;
    let millis = rest.fraction()?;
    let offset_minutes = rest.offset()?;
    if !rest.0.is_empty() {
        return None;
    }
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    u64::try_from((minutes * 60 + second) * 1000 + millis).ok().map(Timestamp::from_millis)
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn one_of(&mut self, expected: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        expected.contains(first).then(|| self.0 = rest)?;
        Some(*first)
    }

    /// Exactly so many digits.
    fn number(&mut self, digits: usize) -> Option<i64> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        number.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
    }

    /// `.123…` as milliseconds; later digits are read and dropped.
    fn fraction(&mut self) -> Option<i64> {
        if self.one_of(b".").is_none() {
            return Some(0);
        }
        let len = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(len).filter(|_| len > 0)?;
        self.0 = rest;
        let thousandths = digits.iter().chain(b"00").take(3);
        Some(thousandths.fold(0, |sum, b| sum * 10 + i64::from(b - b'0')))
    }

    /// `Z`, `+01:00`, `-03:30` as minutes.
    fn offset(&mut self) -> Option<i64> {
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let hours = self.number(2).filter(|hours| *hours < 24)?;
        self.one_of(b":")?;
        let minutes = self.number(2).filter(|minutes| *minutes < 60)?;
        Some(sign * (hours * 60 + minutes))
    }
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_in(month: i64, year: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// In the Gregorian calendar; negative before 1970.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    /// Days from the year 1 to 1970.
    const EPOCH: i64 = 719_162;
    let years = year - 1;
    let before_this_year = years * 365 + years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
    let before_this_month: i64 = (1..month).map(|month| days_in(month, year)).sum();
    before_this_year + before_this_month + day - 1 - EPOCH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_is_read_with_its_offset_and_fraction() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-22T10:30:00Z", 1_795_343_400_000),
            ("2026-11-22t10:30:00z", 1_795_343_400_000),
            ("2026-11-22T11:30:00+01:00", 1_795_343_400_000),
            ("2026-11-22T07:00:00-03:30", 1_795_343_400_000),
            ("2026-11-22T10:30:00.5Z", 1_795_343_400_500),
            ("2026-11-22T10:30:00.123456789Z", 1_795_343_400_123),
            ("2024-02-29T23:59:60Z", 1_709_251_200_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000),
        ] {
            assert_eq!(parse(text), Some(Timestamp::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_not_guessed_at() {
        for text in [
            "",
            "2026-11-22",
            "2026-11-22T10:30Z",
            "2026-11-22T10:30:00",
            "2026-11-22 10:30:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T10:60:00Z",
            "2026-11-22T10:30:61Z",
            "2026-11-22T10:30:00.Z",
            "2026-11-22T10:30:00+0100",
            "2026-11-22T10:30:00+24:00",
            "2026-11-22T10:30:00Z ",
            "2026-11-22T10:30:00Zx",
            "26-11-22T10:30:00Z",
            "+026-11-22T10:30:00Z",
            "1969-12-31T23:59:59Z",
            "0000-01-01T00:00:00Z",
            "2026-1١-22T10:30:00Z",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_timestamp_prints_is_read_back(secs in 0u64..253_402_300_800) {
            let time = Timestamp::from_millis(secs * 1000);
            prop_assert_eq!(parse(&time.to_string()), Some(time));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,40}") {
            parse(&text);
        }
    }
}
