//! Texts with a unit: `"30s"`, `"25MB"`, `"10/m"`, `"name:587"`. Pure; each error is an example of what is right.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use bytesize::ByteSize;
use governor::Quota;

use crate::mail::Address;
use crate::relay::options::Host;

/// `"30s"`, `"5m"`, `"24h"`, `"5d"`, and sums of them.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "a number with a unit: \"500ms\", \"30s\", \"5m\", \"24h\", \"5d\"".to_owned())
}

/// A duration in the words of [`duration`], with the largest unit that leaves no rest.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    units
        .into_iter()
        .find(|(_, factor)| millis >= *factor && millis.is_multiple_of(*factor))
        .map_or_else(|| format!("{millis}ms"), |(unit, factor)| format!("{}{unit}", millis / factor))
}

/// `"25MB"` (powers of ten) or `"64MiB"` (powers of two), in bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let example = || "a number with a unit: \"25MB\", \"64MiB\", \"1GB\"".to_owned();
    // A bare number is refused: whether it means bytes or megabytes is anybody's guess.
    if !text.ends_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(example());
    }
    text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| example())
}

/// A size in the words of [`size`]; never rounded to something that is not true.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [("GB", 1_000_000_000), ("GiB", 1 << 30), ("MB", 1_000_000), ("MiB", 1 << 20), ("KB", 1_000)];
    units
        .into_iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map_or_else(|| format!("{bytes}B"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// Faster than anything here can be; a limiter counts in nanoseconds.
const MAX_RATE: u32 = 1_000_000;

/// `"100/s"`, `"10/m"`, `"5000/h"`: as many at once, then evenly.
pub(super) fn rate(text: &str) -> Result<Quota, String> {
    let example =
        || "a number per second, minute or hour, from 1: \"100/s\", \"10/m\", \"5000/h\"".to_owned();
    let (count, unit) = text.split_once('/').ok_or_else(example)?;
    let count = count.trim().parse::<NonZeroU32>().ok().filter(|count| count.get() <= MAX_RATE);
    let count = count.ok_or_else(example)?;
    match unit.trim() {
        "s" | "sec" | "second" => Ok(Quota::per_second(count)),
        "m" | "min" | "minute" => Ok(Quota::per_minute(count)),
        "h" | "hour" => Ok(Quota::per_hour(count)),
        _ => Err(example()),
    }
}

/// A DNS name as it may stand after an `@` (RFC 5321 §4.1.2), and no address literal.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let is_name = !text.starts_with('[') && Address::parse(&format!("x@{text}")).is_ok();
    is_name
        .then(|| text.to_lowercase())
        .ok_or_else(|| "a domain name such as \"relay.example.com\"".to_owned())
}

/// The name of a machine: a domain in ASCII, as DNS, EHLO and certificates have it.
pub(super) fn machine(text: &str) -> Result<String, String> {
    match domain(text) {
        Ok(name) if name.is_ascii() => Ok(name),
        Ok(_) => Err("a name in its ASCII form, which starts with xn--".to_owned()),
        Err(wanted) => Err(wanted),
    }
}

/// A domain or `*.suffix`, in lower case.
pub(super) fn domain_pattern(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    domain(name)
        .map(|_| text.to_lowercase())
        .map_err(|_| "a domain or its subdomains: \"corp.example\", \"*.corp.example\"".to_owned())
}

/// `name`, `name:port`, `192.0.2.1:port`, `[2001:db8::1]:port`.
pub(super) fn host(text: &str, default_port: u16) -> Result<Host, String> {
    let example = || "a host: \"smtp.example.com:587\", \"192.0.2.1:25\", \"[2001:db8::1]:25\"".to_owned();
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok(Host { name: text.to_owned(), port: default_port });
    }
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(example)?;
            address.parse::<Ipv6Addr>().map_err(|_| example())?;
            let port = match port {
                "" => None,
                _ => Some(port.strip_prefix(':').ok_or_else(example)?),
            };
            (address.to_owned(), port)
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            (machine(name).map_err(|_| example())?, port)
        }
    };
    // Four numbers look like a domain: they must then be an address.
    let is_numeric = name.split('.').all(|label| label.bytes().all(|b| b.is_ascii_digit()));
    if is_numeric && name.parse::<Ipv4Addr>().is_err() {
        return Err(example());
    }
    let port = port.map_or(Some(default_port), |port| port.parse().ok().filter(|port| *port != 0));
    Ok(Host { name, port: port.ok_or_else(example)? })
}

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_written() {
        assert_eq!(duration("5d"), Ok(Duration::from_secs(5 * 86_400)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert!(duration("30").is_err() && duration("").is_err() && duration("soon").is_err());
        assert_eq!(
            (size("25MB"), size("64MiB"), size("1GB")),
            (Ok(25_000_000), Ok(67_108_864), Ok(1_000_000_000))
        );
        assert!(size("25").is_err() && size("many").is_err() && size("-1MB").is_err());
        assert_eq!(
            (show_size(25_000_000), show_size(67_108_864), show_size(7)),
            ("25MB".into(), "64MiB".into(), "7B".into())
        );
        let shown = [5 * 86_400_000, 90_000, 0].map(|millis| show_duration(Duration::from_millis(millis)));
        assert_eq!(shown, ["5d", "90s", "0ms"]);
        assert_eq!(rate("10/m"), Ok(Quota::per_minute(NonZeroU32::new(10).unwrap())));
        assert_eq!(rate("5000/h"), Ok(Quota::per_hour(NonZeroU32::new(5000).unwrap())));
        assert!(
            rate("0/s").is_err()
                && rate("4000000000/s").is_err()
                && rate("10").is_err()
                && rate("10/y").is_err()
        );
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port() {
        for (text, expected) in [
            ("SMTP.example.com", "smtp.example.com:587"),
            ("smtp.example.com:25", "smtp.example.com:25"),
            ("192.0.2.1:25", "192.0.2.1:25"),
            ("[2001:db8::1]:25", "[2001:db8::1]:25"),
            ("[2001:db8::1]", "[2001:db8::1]:587"),
            ("2001:db8::1", "[2001:db8::1]:587"),
            ("localhost", "localhost:587"),
        ] {
            assert_eq!(host(text, 587).map(|host| host.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in
            ["", ":25", "a:0", "a:65536", "a:b", "a b", "1.2.3", "[::1", "[::1]25", "user@host", "a:1:2"]
        {
            assert!(host(text, 587).is_err(), "{text}");
        }
    }
}
