//! What holds of every address and every queue id.

use proptest::prelude::*;

use super::{Address, QueueId};
use crate::clock::Timestamp;

/// Text that is nearly an address, or not at all.
fn near_address() -> impl Strategy<Value = String> {
    let pieces = [
        "a",
        "B9",
        ".",
        "..",
        "@",
        "\"",
        "\\",
        "\\\"",
        "[",
        "]",
        "[192.0.2.1]",
        "[IPv6:2001:db8::1]",
        "-",
        "_",
        "example",
        ".net",
        " ",
        "<",
        ">",
        ",",
        "\r",
        "\n",
        "\r\n",
        "\0",
        "\u{7f}",
        "\u{85}",
        "é",
        "\u{202e}",
        "\u{2028}",
        "İ",
        "Σ",
        "postmaster",
        "x@y.example",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..12).prop_map(|pieces| pieces.concat())
}

/// An address by the grammar.
fn address() -> impl Strategy<Value = String> {
    let local = prop_oneof![
        "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~é-]{1,20}(\\.[a-z0-9é]{1,10}){0,2}",
        "\"([a-z @.,<>()]|\\\\[\\\\\" a]){0,20}\"",
    ];
    let domain = prop_oneof![
        "[a-zA-Z0-9é]{1,20}(\\.[a-z]([a-z0-9-]{0,20}[a-z0-9])?){0,3}",
        any::<std::net::Ipv4Addr>().prop_map(|ip| format!("[{ip}]")),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[IPv6:{ip}]")),
    ];
    (local, domain).prop_map(|(local, domain)| format!("{local}@{domain}"))
}

/// Whether what is between `<` and `>` could end before its end, or the line could.
fn breaks_out(text: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    text.chars().any(|c| {
        let is_quoted = quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c.is_control() || (!is_quoted && matches!(c, '<' | '>' | ' ' | ','))
    })
}

proptest! {
    #[test]
    fn an_address_is_what_it_was_parsed_from(text in address()) {
        let address = Address::parse(&text).unwrap();
        prop_assert_eq!(address.to_string(), text.as_str());
        let (local, domain) = text.rsplit_once('@').unwrap();
        prop_assert_eq!((address.local_part(), address.domain()), (local, Some(domain)));
        let (again, rest) = Address::parse_prefix(&format!("{text}> SIZE=1")).map(|(a, r)| (a, r.to_owned())).unwrap();
        prop_assert_eq!((again, rest.as_str()), (address, "> SIZE=1"));
    }

    #[test]
    fn s1_no_text_whatever_is_taken_that_could_leave_its_brackets_or_its_line(text in near_address()) {
        if let Ok(address) = Address::parse(&text) {
            prop_assert_eq!(address.as_str(), text.as_str(), "repaired");
            prop_assert!(!breaks_out(&text), "{text:?}");
            prop_assert!(address.local_part().len() <= 64);
            let parts = [address.local_part(), address.domain().unwrap_or_default()];
            prop_assert_eq!(parts.join(if address.domain().is_some() { "@" } else { "" }), text);
        }
    }

    #[test]
    fn addresses_are_one_mailbox_exactly_when_only_the_case_of_the_domain_differs(
        one in address(), other in address(), change in 0..3u8,
    ) {
        let (local, domain) = one.rsplit_once('@').unwrap();
        let other = match change {
            0 => format!("{local}@{}", domain.to_ascii_uppercase().replace("IPV6:", "IPv6:")),
            1 => format!("{}@{domain}", local.to_ascii_uppercase()),
            _ => other,
        };
        let canonical = |text: &str| Address::parse(text).unwrap().canonical();
        let (other_local, other_domain) = other.rsplit_once('@').unwrap();
        let same = local == other_local && domain.to_lowercase() == other_domain.to_lowercase();
        prop_assert_eq!(canonical(&one) == canonical(&other), same, "{} and {}", one, other);
        prop_assert_eq!(canonical(&canonical(&one)), canonical(&one));
    }

    #[test]
    fn queue_ids_sort_by_time_in_every_form(early in 0..1u64 << 47, later in 1..1u64 << 47) {
        let ids = [early, early + later].map(|millis| QueueId::new(Timestamp::from_millis(millis)));
        prop_assert!(ids[0] < ids[1]);
        prop_assert!(ids[0].to_bytes() < ids[1].to_bytes());
        prop_assert!(ids[0].to_string() < ids[1].to_string());
        prop_assert_eq!(ids[1].accepted_at().as_millis(), early + later);
    }

    /// Two texts must not name one message: whoever reads one in a log would look for it in vain.
    #[test]
    fn a_queue_id_is_the_text_that_it_was_parsed_from(text in "[0-9A-Za-z]{26}", bytes in any::<[u8; 16]>()) {
        if let Ok(id) = text.parse::<QueueId>() {
            prop_assert_eq!(id.to_string(), text.to_ascii_uppercase());
        }
        let id = QueueId::from_bytes(bytes);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        prop_assert_eq!(id.to_bytes(), bytes);
    }
}

#[test]
fn a_text_of_more_than_128_bits_is_no_queue_id() {
    let id = QueueId::from_bytes([0xff; 16]).to_string();
    assert!(id.starts_with('7') && id.parse::<QueueId>().is_ok());
    for first in ["8", "F", "Z", "z"] {
        assert!(format!("{first}{}", &id[1..]).parse::<QueueId>().is_err(), "{first}");
    }
}
