//! Until when a certificate is valid, for whoever wants to be told in time. Nothing is decided by it.

use crate::clock::Timestamp;

/// Tags of DER (X.690 §8.1.2).
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate's validity (RFC 5280 §4.1.2.5); `None` for what is no certificate.
pub fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    // The version is left out of the oldest form.
    if let Some((_, after)) = expect(rest, VERSION) {
        rest = after;
    }
    // Serial number, signature algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, rest) = expect(rest, tag)?;
    }
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (_, _, rest) = element(validity)?;
    let (tag, end, _) = element(rest)?;
    time(tag, end)
}

/// `YYMMDDHHMMSSZ`, of 1950 to 2049, or the same with a whole year; RFC 5280 allows no other form.
fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number =
        |from: usize, to: usize| std::str::from_utf8(digits.get(from..to)?).ok()?.parse::<u16>().ok();
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => (number(0, 2).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let pair = |place: usize| number(rest + 2 * place, rest + 2 * place + 2)?.try_into().ok();
    let time = mail_parser::DateTime {
        year,
        month: pair(0)?,
        day: pair(1)?,
        hour: pair(2)?,
        minute: pair(3)?,
        second: pair(4)?,
        tz_before_gmt: false,
        tz_hour: 0,
        tz_minute: 0,
    };
    let is_valid = (1..=12).contains(&time.month) && (1..=31).contains(&time.day);
    if !is_valid || time.hour > 23 || time.minute > 59 || time.second > 59 {
        return None;
    }
    let seconds = u64::try_from(time.to_timestamp()).ok()?;
    Some(Timestamp::from_millis(seconds.checked_mul(1000)?))
}

/// The content of the element at the front, if it has this tag, and what follows it.
fn expect(octets: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(octets).filter(|(found, _, _)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// Tag, content, and what follows (X.690 §8.1.3); lengths of up to four octets.
fn element(octets: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = octets.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_found_in_both_forms() {
        for (year, expected) in
            [(2027, "2027-11-22T00:00:00Z"), (2070, "2070-11-22T00:00:00Z"), (4096, "4096-11-22T00:00:00Z")]
        {
            let mut parameters = rcgen::CertificateParams::new(vec!["relay.example".to_owned()]).unwrap();
            parameters.not_after = rcgen::date_time_ymd(year, 11, 22);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = parameters.self_signed(&key).unwrap();
            let found = not_after(certificate.der()).map(|end| end.to_string());
            assert_eq!(found.as_deref(), Some(expected));
            // Whatever is cut off or changed must not panic.
            for end in 0..certificate.der().len().min(400) {
                assert_eq!(not_after(&certificate.der()[..end]), None);
                let mut changed = certificate.der().to_vec();
                changed[end] ^= 0xff;
                let _ = not_after(&changed);
            }
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for (tag, text) in [
            (UTC_TIME, "271122000000"),
            (UTC_TIME, "27112200000Z"),
            (UTC_TIME, "271322000000Z"),
            (GENERALIZED_TIME, "2027112200000xZ"),
            (SEQUENCE, "271122000000Z"),
        ] {
            assert_eq!(time(tag, text.as_bytes()), None, "{text}");
        }
    }
}
