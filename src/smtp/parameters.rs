//! What may follow a path in MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), RET, ENVID, NOTIFY
//! and ORCPT (RFC 3461), AUTH= (RFC 4954 §5), HOLDFOR and HOLDUNTIL (RFC 4865), MT-PRIORITY (RFC 6710), REQUIRETLS
//! (RFC 8689).
//!
//! Values go on to the next hop as they came, so what could do harm there is refused here: decoded xtext must not hold
//! a control character, and no parameter may be given twice.

use std::time::Duration;

use super::date_time;
use super::reply::Reply;
use crate::clock::Timestamp;
use crate::mail::{Body, Notify, Ret};

/// RFC 3461 §4.4.
const MAX_ENVID: usize = 100;
/// RFC 3461 §4.2.
const MAX_ORCPT: usize = 500;
/// RFC 1870 §4: `1*20DIGIT`.
const MAX_SIZE_DIGITS: usize = 20;
/// RFC 4954 §5 on top of RFC 5321 §4.5.3.1.3.
const MAX_AUTH: usize = 500;
/// RFC 4865 §3: `1*9DIGIT`.
const MAX_HOLD_DIGITS: usize = 9;
/// The longest time that a message may be held back before it is relayed: what EHLO says (RFC 4865 §3).
pub const MAX_HOLD: Duration = Duration::from_secs(30 * 86_400);

/// What followed MAIL's path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MailParameters {
    /// Whether anything followed at all; HELO sessions have no parameters.
    pub any: bool,
    /// SIZE=, octets; a number that no machine can hold reads as the largest one.
    pub size: Option<u64>,
    /// BODY=.
    pub body: Option<Body>,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// RET=.
    pub ret: Option<Ret>,
    /// ENVID=, as it came.
    pub envid: Option<String>,
    /// HOLDFOR= or HOLDUNTIL=.
    pub hold: Option<Hold>,
    /// MT-PRIORITY=, −9 to 9.
    pub priority: Option<i8>,
    /// REQUIRETLS.
    pub require_tls: bool,
}

/// When a message may be relayed at the earliest (RFC 4865 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// HOLDFOR=, from now on.
    For(Duration),
    /// HOLDUNTIL=.
    Until(Timestamp),
}

/// What followed RCPT's path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RcptParameters {
    /// Whether anything followed at all; HELO sessions have no parameters.
    pub any: bool,
    /// NOTIFY=.
    pub notify: Option<Notify>,
    /// ORCPT=, as it came.
    pub orcpt: Option<String>,
}

/// What is wrong with a parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParameterError {
    /// No such parameter for this command.
    Unknown,
    /// Given twice.
    Repeated,
    /// The value is not what the RFC allows; which parameter.
    Value(&'static str),
    /// BODY=BINARYMIME: known, not done.
    BinaryMime,
    /// Longer than [`MAX_HOLD`]; which parameter.
    HoldTooLong(&'static str),
}

impl MailParameters {
    /// Takes everything after the path's `>`.
    ///
    /// # Errors
    /// The first parameter that cannot be taken.
    pub fn parse(text: &str) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        let mut sender_auth = None;
        for (keyword, value) in pairs(text) {
            parameters.any = true;
            match keyword.to_ascii_uppercase().as_str() {
                "SIZE" => once(&mut parameters.size, size(value))?,
                "BODY" => once(&mut parameters.body, body(value))?,
                "RET" => once(&mut parameters.ret, ret(value))?,
                "ENVID" => once(&mut parameters.envid, envid(value))?,
                // Whoever authenticated upstream is not our concern: accepted and dropped (RFC 4954 §5).
                "AUTH" => once(&mut sender_auth, auth(value))?,
                "SMTPUTF8" => flag(&mut parameters.smtputf8, value, "SMTPUTF8")?,
                // One slot for both: only one of them may be given.
                "HOLDFOR" => once(&mut parameters.hold, hold_for(value))?,
                "HOLDUNTIL" => once(&mut parameters.hold, hold_until(value))?,
                "MT-PRIORITY" => once(&mut parameters.priority, priority(value))?,
                "REQUIRETLS" => flag(&mut parameters.require_tls, value, "REQUIRETLS")?,
                _ => return Err(ParameterError::Unknown),
            }
        }
        Ok(parameters)
    }
}

impl Hold {
    /// When the message may be relayed, for a MAIL that comes `now`. A time that has passed is fine: a client that
    /// repeats a scheduled message after its time, because it never saw our 250, must be able to hear of it.
    ///
    /// # Errors
    /// It would be held longer than [`MAX_HOLD`].
    pub fn release_at(self, now: Timestamp) -> Result<Timestamp, ParameterError> {
        let latest = now.plus(MAX_HOLD);
        let (name, release_at) = match self {
            Self::For(interval) => ("HOLDFOR", now.plus(interval)),
            Self::Until(time) => ("HOLDUNTIL", time),
        };
        if release_at > latest { Err(ParameterError::HoldTooLong(name)) } else { Ok(release_at) }
    }
}

impl RcptParameters {
    /// Takes everything after the path's `>`.
    ///
    /// # Errors
    /// The first parameter that cannot be taken.
    pub fn parse(text: &str) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        for (keyword, value) in pairs(text) {
            parameters.any = true;
            match keyword.to_ascii_uppercase().as_str() {
                "NOTIFY" => once(&mut parameters.notify, notify(value))?,
                "ORCPT" => once(&mut parameters.orcpt, orcpt(value))?,
                _ => return Err(ParameterError::Unknown),
            }
        }
        Ok(parameters)
    }
}

impl ParameterError {
    /// What the client is told.
    pub fn reply(self) -> Reply {
        match self {
            Self::Unknown => Reply::new(555, (5, 5, 4), "Parameter not recognized"),
            Self::Repeated => Reply::new(501, (5, 5, 4), "A parameter is given twice"),
            Self::Value(name) => Reply::new(501, (5, 5, 4), format!("Bad value of {name}")),
            Self::BinaryMime => Reply::new(504, (5, 5, 4), "BODY=BINARYMIME is not implemented"),
            Self::HoldTooLong(name) => {
                let most = MAX_HOLD.as_secs();
                Reply::new(501, (5, 5, 4), format!("{name} is more than {most} seconds from now"))
            }
        }
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

fn once<T>(slot: &mut Option<T>, value: Result<T, ParameterError>) -> Result<(), ParameterError> {
    match slot.replace(value?) {
        None => Ok(()),
        Some(_) => Err(ParameterError::Repeated),
    }
}

/// A parameter that has no value.
fn flag(slot: &mut bool, value: Option<&str>, name: &'static str) -> Result<(), ParameterError> {
    match std::mem::replace(slot, true) {
        true => Err(ParameterError::Repeated),
        false if value.is_some() => Err(ParameterError::Value(name)),
        false => Ok(()),
    }
}

fn size(value: Option<&str>) -> Result<u64, ParameterError> {
    let is_number =
        |v: &&str| !v.is_empty() && v.len() <= MAX_SIZE_DIGITS && v.bytes().all(|b| b.is_ascii_digit());
    let digits = value.filter(is_number).ok_or(ParameterError::Value("SIZE"))?;
    // Twenty digits can be more than 64 bits hold; such a size is over every limit, and must not wrap under it.
    Ok(digits.parse().unwrap_or(u64::MAX))
}

fn body(value: Option<&str>) -> Result<Body, ParameterError> {
    match value.unwrap_or_default().to_ascii_uppercase().as_str() {
        "7BIT" => Ok(Body::SevenBit),
        "8BITMIME" => Ok(Body::EightBitMime),
        "BINARYMIME" => Err(ParameterError::BinaryMime),
        _ => Err(ParameterError::Value("BODY")),
    }
}

fn ret(value: Option<&str>) -> Result<Ret, ParameterError> {
    match value.unwrap_or_default().to_ascii_uppercase().as_str() {
        "FULL" => Ok(Ret::Full),
        "HDRS" => Ok(Ret::Headers),
        _ => Err(ParameterError::Value("RET")),
    }
}

fn envid(value: Option<&str>) -> Result<String, ParameterError> {
    let fits = |v: &&str| !v.is_empty() && v.len() <= MAX_ENVID && is_xtext(v);
    value.filter(fits).map(str::to_owned).ok_or(ParameterError::Value("ENVID"))
}

fn auth(value: Option<&str>) -> Result<(), ParameterError> {
    let fits = |v: &&str| !v.is_empty() && v.len() <= MAX_AUTH && is_xtext(v);
    value.filter(fits).map(|_| ()).ok_or(ParameterError::Value("AUTH"))
}

fn hold_for(value: Option<&str>) -> Result<Hold, ParameterError> {
    let is_number =
        |v: &&str| (1..=MAX_HOLD_DIGITS).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_digit());
    let seconds = value.filter(is_number).and_then(|v| v.parse().ok());
    seconds.map(|seconds| Hold::For(Duration::from_secs(seconds))).ok_or(ParameterError::Value("HOLDFOR"))
}

/// RFC 4865 §3, as its erratum 2040 has it: RFC 3339 `date-time`.
fn hold_until(value: Option<&str>) -> Result<Hold, ParameterError> {
    value.and_then(date_time::parse).map(Hold::Until).ok_or(ParameterError::Value("HOLDUNTIL"))
}

/// RFC 6710 §6: `0`, or a digit from 1 to 9 with or without a minus.
fn priority(value: Option<&str>) -> Result<i8, ParameterError> {
    match value.unwrap_or_default().as_bytes() {
        b"0" => Ok(0),
        [digit @ b'1'..=b'9'] => Ok((digit - b'0').cast_signed()),
        [b'-', digit @ b'1'..=b'9'] => Ok(-(digit - b'0').cast_signed()),
        _ => Err(ParameterError::Value("MT-PRIORITY")),
    }
}

fn notify(value: Option<&str>) -> Result<Notify, ParameterError> {
    let value = value.unwrap_or_default();
    let mut notify = Notify::default();
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(notify);
    }
    for word in value.split(',') {
        match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => notify.success = true,
            "FAILURE" => notify.failure = true,
            "DELAY" => notify.delay = true,
            // NEVER beside others ends here too (RFC 3461 §4.1).
            _ => return Err(ParameterError::Value("NOTIFY")),
        }
    }
    Ok(notify)
}

/// RFC 3461 §4.2 `addr-type ";" xtext`; RFC 6533 §3 adds the type `utf-8` with an encoding of its own.
fn orcpt(value: Option<&str>) -> Result<String, ParameterError> {
    let error = ParameterError::Value("ORCPT");
    let value = value.filter(|v| v.len() <= MAX_ORCPT).ok_or(error)?;
    let (kind, address) = value.split_once(';').ok_or(error)?;
    let is_atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_encoded =
        if kind.eq_ignore_ascii_case("utf-8") { is_utf8_xtext(address) } else { is_xtext(address) };
    if is_atom && is_encoded && !address.is_empty() { Ok(value.to_owned()) } else { Err(error) }
}

/// RFC 3461 §4 `xtext`. What it stands for must be printable: `+0D+0A` would become a line end in a report.
fn is_xtext(text: &str) -> bool {
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let is_fine = match octet {
            b'+' => matches!((hex(octets.next()), hex(octets.next())), (Some(high), Some(low))
                if (0x20..0x7f).contains(&(high * 16 + low))),
            b'=' => false,
            _ => octet.is_ascii_graphic(),
        };
        if !is_fine {
            return false;
        }
    }
    true
}

/// RFC 6533 §3: characters beyond ASCII as they are or as `\x{…}`; the latter must not be a control either.
fn is_utf8_xtext(text: &str) -> bool {
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        if c == '\\' {
            let Some((digits, after)) = rest.strip_prefix("x{").and_then(|r| r.split_once('}')) else {
                return false;
            };
            let is_hex = (2..=6).contains(&digits.len()) && digits.bytes().all(|b| hex(Some(b)).is_some());
            let decoded = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
            if !is_hex || decoded.is_none_or(char::is_control) {
                return false;
            }
            rest = after;
        } else if c == '+' || c == '=' || c == ' ' || c.is_control() {
            return false;
        }
    }
    true
}

/// Upper case only, as both RFCs have it.
fn hex(octet: Option<u8>) -> Option<u8> {
    match octet? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ParameterError::*;

    #[test]
    fn every_parameter_is_kept_as_it_came() {
        let mail =
            MailParameters::parse(" size=12 BODY=8bitmime SMTPUTF8 RET=hdrs ENVID=a+20b AUTH=<>").unwrap();
        assert_eq!(mail.size, Some(12));
        assert_eq!(
            (mail.body, mail.smtputf8, mail.ret),
            (Some(Body::EightBitMime), true, Some(Ret::Headers))
        );
        assert_eq!(mail.envid.as_deref(), Some("a+20b"));
        let rcpt = RcptParameters::parse(" NOTIFY=SUCCESS,delay ORCPT=rfc822;a+2Bb@c.example").unwrap();
        assert_eq!(rcpt.notify, Some(Notify { success: true, failure: false, delay: true }));
        assert_eq!(rcpt.orcpt.as_deref(), Some("rfc822;a+2Bb@c.example"));
        let rcpt = RcptParameters::parse(" NOTIFY=NEVER ORCPT=utf-8;a\\x{20AC}ü@c.example").unwrap();
        assert_eq!((rcpt.notify, rcpt.orcpt.is_some()), (Some(Notify::default()), true));
    }

    #[test]
    fn how_a_message_wants_to_be_carried_is_read() {
        let parsed = |text: &str| MailParameters::parse(text).unwrap();
        let mail = parsed(" holdfor=86400 MT-PRIORITY=-9 requiretls");
        assert_eq!(mail.hold, Some(Hold::For(Duration::from_secs(86_400))));
        assert_eq!((mail.priority, mail.require_tls), (Some(-9), true));
        let until = Hold::Until(Timestamp::from_millis(1_795_343_400_000));
        assert_eq!(parsed(" HOLDUNTIL=2026-11-22T10:30:00Z MT-PRIORITY=9").hold, Some(until));
        assert_eq!(parsed(" MT-PRIORITY=0").priority, Some(0));
        assert_eq!(parsed("").priority, None);
    }

    #[test]
    fn a_hold_ends_within_the_longest_time_allowed() {
        let now = Timestamp::from_millis(1_795_343_400_000);
        assert_eq!(Hold::For(MAX_HOLD).release_at(now), Ok(now.plus(MAX_HOLD)));
        assert_eq!(Hold::Until(now.plus(MAX_HOLD)).release_at(now), Ok(now.plus(MAX_HOLD)));
        let longer = MAX_HOLD + Duration::from_secs(1);
        assert_eq!(Hold::For(longer).release_at(now), Err(HoldTooLong("HOLDFOR")));
        assert_eq!(Hold::Until(now.plus(longer)).release_at(now), Err(HoldTooLong("HOLDUNTIL")));
        let past = Timestamp::from_millis(5);
        assert_eq!(Hold::Until(past).release_at(now), Ok(past));
    }

    #[test]
    fn bad_parameters_are_named() {
        for (text, error) in [
            (" SIZE=", Value("SIZE")),
            (" SIZE=-1", Value("SIZE")),
            (" SIZE=100000000000000000000", Value("SIZE")),
            (" SIZE=1 SIZE=1", Repeated),
            (" SMTPUTF8 SMTPUTF8", Repeated),
            (" SMTPUTF8=yes", Value("SMTPUTF8")),
            (" BODY=BINARYMIME", BinaryMime),
            (" BODY", Value("BODY")),
            (" RET=ALL", Value("RET")),
            (" ENVID=x+0D+0A", Value("ENVID")),
            (" ENVID=x+0", Value("ENVID")),
            (" ENVID=x+2b", Value("ENVID")),
            (" ENVID=x=y", Value("ENVID")),
            (" AUTH=", Value("AUTH")),
            (" HOLDFOR", Value("HOLDFOR")),
            (" HOLDFOR=", Value("HOLDFOR")),
            (" HOLDFOR=-1", Value("HOLDFOR")),
            (" HOLDFOR=+1", Value("HOLDFOR")),
            (" HOLDFOR=1234567890", Value("HOLDFOR")),
            (" HOLDFOR=1 HOLDFOR=1", Repeated),
            (" HOLDFOR=1 HOLDUNTIL=2026-11-22T10:30:00Z", Repeated),
            (" HOLDUNTIL=2026-11-22T10:30:00Z HOLDFOR=1", Repeated),
            (" HOLDUNTIL=tomorrow", Value("HOLDUNTIL")),
            (" HOLDUNTIL", Value("HOLDUNTIL")),
            (" MT-PRIORITY", Value("MT-PRIORITY")),
            (" MT-PRIORITY=10", Value("MT-PRIORITY")),
            (" MT-PRIORITY=-10", Value("MT-PRIORITY")),
            (" MT-PRIORITY=-0", Value("MT-PRIORITY")),
            (" MT-PRIORITY=+1", Value("MT-PRIORITY")),
            (" MT-PRIORITY=01", Value("MT-PRIORITY")),
            (" MT-PRIORITY=1 MT-PRIORITY=1", Repeated),
            (" REQUIRETLS=yes", Value("REQUIRETLS")),
            (" REQUIRETLS REQUIRETLS", Repeated),
            (" NOTIFY=NEVER", Unknown),
            (" =", Unknown),
        ] {
            assert_eq!(MailParameters::parse(text), Err(error), "{text}");
        }
        for (text, error) in [
            (" NOTIFY=", Value("NOTIFY")),
            (" NOTIFY=NEVER,SUCCESS", Value("NOTIFY")),
            (" ORCPT=rfc822", Value("ORCPT")),
            (" ORCPT=rfc822;", Value("ORCPT")),
            (" ORCPT=;a", Value("ORCPT")),
            (" ORCPT=rfc822;a+00", Value("ORCPT")),
            (" ORCPT=utf-8;a\\x{0A}", Value("ORCPT")),
            (" ORCPT=rfc822;ü@c.example", Value("ORCPT")),
            (" RET=FULL", Unknown),
        ] {
            assert_eq!(RcptParameters::parse(text), Err(error), "{text}");
        }
        assert!(MailParameters::parse(&format!(" ENVID={}", "x".repeat(101))).is_err());
        assert!(RcptParameters::parse(&format!(" ORCPT=rfc822;{}", "x".repeat(500))).is_err());
    }

    #[test]
    fn a_huge_size_does_not_wrap() {
        assert_eq!(MailParameters::parse(" SIZE=99999999999999999999").unwrap().size, Some(u64::MAX));
    }
}
