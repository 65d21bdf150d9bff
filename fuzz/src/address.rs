//! Mailboxes, domains and address literals: what is taken is kept as it came, and can be written into a command, a
//! header or a log without ending it.

use std::net::IpAddr;

use oncemail::mail::{Address, ReversePath, domain};

/// The whole input is a mailbox, a domain, and the inside of a literal.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok((address, rest)) = Address::parse_prefix(text) {
        check(&address);
        assert_eq!(format!("{address}{rest}"), text, "what was not taken follows");
        assert_eq!(Address::parse(text).is_ok(), rest.is_empty());
    } else {
        assert!(Address::parse(text).is_err());
    }
    domains(text);
}

/// What holds for every mailbox.
pub fn check(address: &Address) {
    let text = address.as_str();
    assert_eq!(Address::parse(text).as_ref(), Ok(address));
    assert!(!text.contains(|c: char| c.is_control()), "a control character in {text:?}");
    assert!(text.len() <= 64 + 1 + 255);
    assert_eq!(address.is_ascii(), text.is_ascii());
    let local = address.local_part();
    let is_quoted = local.starts_with('"');
    assert!(
        is_quoted || !local.contains([' ', '<', '>', '@', '"', ',', ';', ':', '\\', '(', ')']),
        "{text:?}"
    );
    match address.domain() {
        Some(domain) => {
            assert_eq!(format!("{local}@{domain}"), text);
            assert!(
                !domain.is_empty() && !domain.contains([' ', '<', '>', '@', '"', ',', ';', '(', ')', '\\'])
            );
        }
        None => assert!(text.eq_ignore_ascii_case("postmaster")),
    }
    // Two addresses are one mailbox when these are equal.
    let canonical = address.canonical();
    assert!(!canonical.contains(|c: char| c.is_control()));
    if text.is_ascii() {
        let again = Address::parse(&canonical).expect("the canonical form is an address");
        assert_eq!(again.canonical(), canonical);
        assert_eq!(again.domain().is_some(), address.domain().is_some());
    }
    assert_eq!(ReversePath::Mailbox(address.clone()).as_str(), text);
}

fn domains(text: &str) {
    if let Some(ascii) = domain::to_ascii(text) {
        assert!(ascii.is_ascii(), "{ascii:?}");
        assert!(!ascii.contains(|c: char| c.is_control()), "{ascii:?}");
    }
    let canonical = domain::canonical(text);
    assert_eq!(domain::canonical(&canonical), canonical, "twice is once");
    assert_eq!(domain::canonical(&text.to_ascii_uppercase()), canonical, "case does not matter");
    assert_eq!(domain::is_name(text), domain::is_name(&text.to_ascii_uppercase()));
    if domain::is_name(text) {
        assert_eq!(domain::to_ascii(text).as_deref(), Some(text.to_ascii_lowercase().as_str()));
    }
    if let Ok(ip) = oncemail::mail::address::literal(text) {
        let again = match ip {
            IpAddr::V4(ip) => format!("a@[{ip}]"),
            IpAddr::V6(ip) => format!("a@[IPv6:{ip}]"),
        };
        assert!(Address::parse(&again).is_ok(), "{again}");
    }
}
