//! Mailboxes as RFC 5321 §4.1.2 and RFC 6531 §3.3 spell them, kept exactly as they came.
//!
//! Nothing in here repairs an address: it is taken as it is or refused, and what is taken is relayed byte by byte.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// RFC 5321 §4.5.3.1.1, octets.
const MAX_LOCAL_PART: usize = 64;
/// RFC 5321 §4.5.3.1.2, octets.
const MAX_DOMAIN: usize = 255;
/// RFC 1035 §2.3.4, octets.
const MAX_LABEL: usize = 63;

/// A mailbox: `local@domain`, `"quoted"@domain`, `local@[192.0.2.1]`, or `postmaster` alone (RFC 5321 §4.1.1.3).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    raw: Box<str>,
    /// Where `@` stands; the length of `raw` when there is none.
    at: usize,
}

/// Where a failure report goes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ReversePath {
    /// `<>`: the sender of bounces; never answered.
    Null,
    /// A mailbox.
    Mailbox(Address),
}

/// What is wrong with an address; the text is fit for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing before the `@`, a bad character, or a quoted string that does not end.
    #[error("bad local part")]
    LocalPart,
    /// Over 64 octets.
    #[error("local part longer than 64 octets")]
    LocalPartLength,
    /// No `@domain`.
    #[error("domain missing")]
    DomainMissing,
    /// A label that is empty, too long, or has a bad character.
    #[error("bad domain")]
    Domain,
    /// Over 255 octets.
    #[error("domain longer than 255 octets")]
    DomainLength,
    /// `[…]` that is no IPv4 or IPv6 address.
    #[error("bad address literal")]
    Literal,
    /// Something follows the address.
    #[error("unexpected text after the address")]
    Trailing,
}

impl Address {
    /// Takes a whole text as a mailbox.
    ///
    /// # Errors
    /// Says which part does not follow the grammar.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        match Self::parse_prefix(text)? {
            (address, "") => Ok(address),
            _ => Err(AddressError::Trailing),
        }
    }

    /// Takes the mailbox that `text` starts with, and gives back what follows it.
    ///
    /// # Errors
    /// Says which part does not follow the grammar.
    pub fn parse_prefix(text: &str) -> Result<(Self, &str), AddressError> {
        let at = local_part_len(text)?;
        if at > MAX_LOCAL_PART {
            return Err(AddressError::LocalPartLength);
        }
        let (local, rest) = text.split_at(at);
        let Some(rest) = rest.strip_prefix('@') else {
            if local.eq_ignore_ascii_case("postmaster") {
                return Ok((Self { raw: local.into(), at }, rest));
            }
            return Err(AddressError::DomainMissing);
        };
        let domain_len = domain_len(rest)?;
        if domain_len > MAX_DOMAIN {
            return Err(AddressError::DomainLength);
        }
        let (raw, rest) = text.split_at(at + 1 + domain_len);
        Ok((Self { raw: raw.into(), at }, rest))
    }

    /// The address as it came.
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// What stands before the `@`, quotes included.
    pub fn local_part(&self) -> &str {
        self.raw.get(..self.at).unwrap_or_default()
    }

    /// What stands after the `@`, brackets of a literal included; `None` for `postmaster` alone.
    pub fn domain(&self) -> Option<&str> {
        self.raw.get(self.at + 1..)
    }

    /// The address with its domain in lower case: two that are equal so are the same mailbox to us.
    pub fn canonical(&self) -> String {
        match self.domain() {
            Some(domain) => format!("{}@{}", self.local_part(), domain.to_lowercase()),
            None => self.local_part().to_ascii_lowercase(),
        }
    }

    /// Whether it can be sent without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.raw.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.raw)
    }
}

impl ReversePath {
    /// The mailbox, or `None` for the null sender.
    pub fn mailbox(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Mailbox(address) => Some(address),
        }
    }

    /// The text between the angle brackets; empty for the null sender.
    pub fn as_str(&self) -> &str {
        self.mailbox().map_or("", Address::as_str)
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// RFC 5321 §4.1.2 `Local-part`, length in octets.
fn local_part_len(text: &str) -> Result<usize, AddressError> {
    if text.starts_with('"') {
        return quoted_string_len(text);
    }
    let len = text.find(|c: char| c != '.' && !is_atext(c)).unwrap_or(text.len());
    let dot_string = text.get(..len).unwrap_or_default();
    if dot_string.split('.').any(str::is_empty) {
        return Err(AddressError::LocalPart);
    }
    Ok(len)
}

/// RFC 5321 §4.1.2 `Quoted-string`, both quotes counted.
fn quoted_string_len(text: &str) -> Result<usize, AddressError> {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if c.is_control() => return Err(AddressError::LocalPart),
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok(index + 1),
            _ => {}
        }
    }
    Err(AddressError::LocalPart)
}

/// RFC 5321 §4.1.2 `Domain / address-literal`, length in octets.
fn domain_len(text: &str) -> Result<usize, AddressError> {
    if let Some(rest) = text.strip_prefix('[') {
        let len = rest.find(']').ok_or(AddressError::Literal)?;
        literal(rest.get(..len).unwrap_or_default())?;
        return Ok(len + 2);
    }
    let len = text.find(|c: char| !(c == '.' || c == '-' || is_label_char(c))).unwrap_or(text.len());
    let domain = text.get(..len).unwrap_or_default();
    let bad_label = |label: &str| {
        label.is_empty() || label.len() > MAX_LABEL || label.starts_with('-') || label.ends_with('-')
    };
    if domain.split('.').any(bad_label) {
        return Err(AddressError::Domain);
    }
    Ok(len)
}

/// RFC 5321 §4.1.3: IPv4, or `IPv6:` and an IPv6 address. General literals are in no use and refused.
pub fn literal(text: &str) -> Result<IpAddr, AddressError> {
    let is_v6 = text.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("IPv6:"));
    let parsed = if is_v6 {
        text.get(5..).unwrap_or_default().parse::<Ipv6Addr>().map(IpAddr::V6).ok()
    } else {
        text.parse::<Ipv4Addr>().map(IpAddr::V4).ok()
    };
    parsed.ok_or(AddressError::Literal)
}

/// RFC 5322 §3.2.3, widened by RFC 6531 §3.3 to every character beyond ASCII that is not a control.
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

/// RFC 5321 §4.1.2 `sub-domain`, with the underscore that real mail has, and U-labels (RFC 6531 §3.3).
fn is_label_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || (!c.is_ascii() && !c.is_control() && !c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_addresses_are_taken_as_they_came() {
        for text in [
            "a@b.example",
            "First.Last+tag@Sub.EXAMPLE",
            "\"with space\\\" and > @\"@b.example",
            "user@[192.0.2.1]",
            "user@[IPv6:2001:db8::1]",
            "postmaster",
            "Postmaster",
            "用户@例子.example",
            "under_score@under_score.example",
            "o'neil@b",
        ] {
            assert_eq!(Address::parse(text).map(|a| a.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_part() {
        use AddressError::*;
        for (text, error) in [
            ("", LocalPart),
            ("@b", LocalPart),
            ("a..b@c", LocalPart),
            (".a@c", LocalPart),
            ("a b@c", DomainMissing),
            ("\"open@c", LocalPart),
            ("\"nul\0\"@c", LocalPart),
            ("a", DomainMissing),
            ("a@", Domain),
            ("a@b..c", Domain),
            ("a@-b.c", Domain),
            ("a@b.", Domain),
            ("a@[1.2.3]", Literal),
            ("a@[IPv6:zz]", Literal),
            ("a@[192.0.2.1", Literal),
            ("a@b c", Trailing),
            ("a@b\r\nRCPT", Trailing),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Address::parse(&format!("{}@b", "l".repeat(65))), Err(LocalPartLength));
        assert_eq!(
            Address::parse(&format!("a@{}", ["d".repeat(63).as_str(); 5].join("."))),
            Err(DomainLength)
        );
    }

    #[test]
    fn a_prefix_ends_where_the_mailbox_ends() {
        let (address, rest) = Address::parse_prefix("\"a>b\"@c.example> SIZE=1").unwrap();
        assert_eq!((address.as_str(), rest), ("\"a>b\"@c.example", "> SIZE=1"));
    }

    #[test]
    fn only_the_domain_loses_its_case() {
        let address = Address::parse("User@B.Example").unwrap();
        assert_eq!(address.canonical(), "User@b.example");
        assert_eq!((address.local_part(), address.domain()), ("User", Some("B.Example")));
    }
}
