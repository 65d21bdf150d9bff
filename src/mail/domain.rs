//! Domain names as DNS and the wire have them: one spelling each, in lower case, with A-labels (RFC 5890 §2.3.2.1).

use std::borrow::Cow;

/// RFC 1035 §2.3.4, octets without the root's.
const MAX_NAME: usize = 253;
/// RFC 1035 §2.3.4, octets.
const MAX_LABEL: usize = 63;

/// A domain or host name in lower case, U-labels as A-labels (UTS #46, non-transitional), without the root's dot. There are
/// no rules for hyphens, and A-labels are not looked into: what is registered is for DNS to say. `None` for what is no name,
/// an address literal among it.
pub fn to_ascii(name: &str) -> Option<String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let ascii = if bare.is_ascii() { bare.to_ascii_lowercase() } else { idna::domain_to_ascii(bare).ok()? };
    is_name(&ascii).then_some(ascii)
}

/// One spelling for each domain, so that two that are equal so are one destination. What is no domain name is only put into
/// lower case.
pub fn canonical(domain: &str) -> Cow<'_, str> {
    let is_so_already = |b: u8| b.is_ascii() && !b.is_ascii_uppercase();
    if domain.bytes().all(is_so_already) && !domain.ends_with('.') {
        return Cow::Borrowed(domain);
    }
    Cow::Owned(to_ascii(domain).unwrap_or_else(|| domain.to_lowercase()))
}

/// Letters, digits, hyphens and the underscore that real names have; nothing that has to be escaped.
pub fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= MAX_NAME && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_domain_has_one_spelling() {
        for (domain, expected) in [
            ("corp.example", "corp.example"),
            ("Corp.EXAMPLE", "corp.example"),
            ("corp.example.", "corp.example"),
            ("Corp.example.", "corp.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("xn--BCHER-kva.example", "xn--bcher-kva.example"),
            ("ｃｏｒｐ.example", "corp.example"),
            ("[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
            ("[127.0.0.1]", "[127.0.0.1]"),
            ("..Ü", "..ü"),
        ] {
            assert_eq!(canonical(domain), expected);
        }
    }

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
            assert_eq!(to_ascii(name).as_deref(), Some(ascii), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_a_name_is_none() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = ["a"; 200].join(".");
        let long_u_label = format!("{}.example", "ü".repeat(70));
        for name in [
            "",
            ".",
            "a..b",
            "a b",
            "a\u{ad}..b",
            "\u{2028}.example",
            "[192.0.2.1]",
            &long_label,
            &long_name,
            &long_u_label,
        ] {
            assert_eq!(to_ascii(name), None, "{name:?}");
        }
    }
}
