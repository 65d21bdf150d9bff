//! Domain names as DNS has them: A-labels, lower case, no last dot. Pure.

use std::net::Ipv4Addr;

use hickory_resolver::proto::rr::Name;
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use super::Fault;

/// RFC 1035 §2.3.4, octets without the root's.
const MAX_NAME: usize = 253;
/// RFC 1035 §2.3.4, octets.
const MAX_LABEL: usize = 63;

/// A domain or host name in lower case, U-labels as A-labels (UTS #46, non-transitional).
///
/// # Errors
/// A name that cannot exist does not exist.
pub(super) fn to_ascii(name: &str) -> Result<String, Fault> {
    let impossible = || Fault::NoSuchDomain(name.to_owned());
    let bare = name.strip_suffix('.').unwrap_or(name);
    let ascii = if bare.is_ascii() {
        bare.to_ascii_lowercase()
    } else {
        // No hyphen rules: what is registered is for DNS to say.
        Uts46::new()
            .to_ascii(bare.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Verify)
            .map_err(|_| impossible())?
            .into_owned()
    };
    if is_host_name(&ascii) { Ok(ascii) } else { Err(impossible()) }
}

/// Letters, digits, hyphens and the underscore that real names have; nothing that has to be escaped.
pub(super) fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= MAX_NAME && name.split('.').all(is_label)
}

/// A name from a record, as in [`to_ascii`]; none for the root, for an IPv4 address, which is no name (RFC 5321 §5.1),
/// and for what no host is called.
pub(super) fn from_record(name: &Name) -> Option<String> {
    let text = name.to_lowercase().to_ascii();
    let bare = text.strip_suffix('.').unwrap_or(&text);
    (is_host_name(bare) && bare.parse::<Ipv4Addr>().is_err()).then(|| bare.to_owned())
}

/// The question's name, fully qualified: search domains never apply.
pub(super) fn to_question(ascii: &str) -> Result<Name, Fault> {
    Name::from_ascii(format!("{ascii}.")).map_err(|_| Fault::NoSuchDomain(ascii.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_a_labels_in_lower_case() {
        for (name, ascii) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("Bücher.example", "xn--bcher-kva.example"),
            // Non-transitional: ß stays itself.
            ("straße.example", "xn--strae-oqa.example"),
            ("例子.example", "xn--fsqu00a.example"),
            ("under_score.example", "under_score.example"),
            ("a。b.example", "a.b.example"),
        ] {
            assert_eq!(to_ascii(name), Ok(ascii.to_owned()), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_a_name_does_not_exist() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = ["a"; 200].join(".");
        let long_u_label = format!("{}.example", "ü".repeat(70));
        for name in
            ["", ".", "a..b", "a b", "a\u{ad}..b", "\u{2028}.example", &long_label, &long_name, &long_u_label]
        {
            assert_eq!(to_ascii(name), Err(Fault::NoSuchDomain(name.to_owned())), "{name:?}");
        }
    }

    #[test]
    fn names_from_records_are_host_names_or_nothing() {
        let taken = |text: &str| from_record(&Name::from_ascii(text).unwrap());
        assert_eq!(taken("MX.Example."), Some("mx.example".to_owned()));
        for text in [".", "192.0.2.1.", "*.example."] {
            assert_eq!(taken(text), None, "{text}");
        }
        let odd = Name::from_labels([b"a b".as_slice(), b"\0\r\n", b"example"]).unwrap();
        assert_eq!(from_record(&odd), None);
    }
}
