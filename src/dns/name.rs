//! Domain names as DNS has them: A-labels, lower case, no last dot. Pure.

use std::net::Ipv4Addr;

use hickory_resolver::proto::rr::Name;

use super::Fault;
use crate::mail::domain;
pub(super) use crate::mail::domain::is_name as is_host_name;

/// A domain or host name, as [`domain::to_ascii`] has it.
///
/// # Errors
/// A name that cannot exist does not exist.
pub(super) fn to_ascii(name: &str) -> Result<String, Fault> {
    domain::to_ascii(name).ok_or_else(|| Fault::NoSuchDomain(name.to_owned()))
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
    fn what_cannot_be_a_name_does_not_exist() {
        assert_eq!(to_ascii("Bücher.example."), Ok("xn--bcher-kva.example".to_owned()));
        assert_eq!(to_ascii("a..b"), Err(Fault::NoSuchDomain("a..b".to_owned())));
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
