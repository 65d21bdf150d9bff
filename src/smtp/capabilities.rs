//! What a far side offers in its reply to EHLO (RFC 5321 §4.1.1.1).

use super::reply::Reply;

/// The extensions that matter to a sender; what else is offered is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 1870.
    pub size: Size,
    /// AUTH PLAIN (RFC 4616).
    pub auth_plain: bool,
    /// AUTH LOGIN.
    pub auth_login: bool,
    /// AUTH XOAUTH2, with a token for a password.
    pub auth_xoauth2: bool,
    /// RFC 8689.
    pub requiretls: bool,
}

/// SIZE (RFC 1870 §4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Size {
    /// Not offered: MAIL must not have the parameter.
    #[default]
    NotOffered,
    /// Offered, without a limit or with one that is no number we can hold.
    Unlimited,
    /// Larger messages are refused, in octets.
    Limit(u64),
}

impl Capabilities {
    /// Reads the lines of a positive reply to EHLO; the first is a greeting.
    pub fn from_ehlo(reply: &Reply) -> Self {
        let mut found = Self::default();
        for line in reply.lines.iter().skip(1) {
            found.take(line);
        }
        found
    }

    fn take(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        match keyword.as_str() {
            "STARTTLS" => self.starttls = true,
            "PIPELINING" => self.pipelining = true,
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "DSN" => self.dsn = true,
            "REQUIRETLS" => self.requiretls = true,
            "SIZE" => self.size = size_limit(words.next()),
            "AUTH" => words.for_each(|word| self.take_mechanism(word)),
            // Some servers still offer the form of a draft from before RFC 2554: `AUTH=PLAIN LOGIN`.
            _ => {
                if let Some(first) = keyword.strip_prefix("AUTH=") {
                    self.take_mechanism(first);
                    words.for_each(|word| self.take_mechanism(word));
                }
            }
        }
    }

    fn take_mechanism(&mut self, word: &str) {
        self.auth_plain |= word.eq_ignore_ascii_case("PLAIN");
        self.auth_login |= word.eq_ignore_ascii_case("LOGIN");
        self.auth_xoauth2 |= word.eq_ignore_ascii_case("XOAUTH2");
    }
}

/// RFC 1870 §4: zero is no fixed limit.
fn size_limit(word: Option<&str>) -> Size {
    match word.and_then(|word| word.parse().ok()) {
        None | Some(0) => Size::Unlimited,
        Some(limit) => Size::Limit(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(lines: &[&'static str]) -> Capabilities {
        let mut reply = Reply::bare(250, "far.example PIPELINING");
        reply.lines.extend(lines.iter().map(|line| (*line).into()));
        Capabilities::from_ehlo(&reply)
    }

    #[test]
    fn keywords_count_in_any_case_and_never_on_the_first_line() {
        assert_eq!(offered(&[]), Capabilities::default());
        let found =
            offered(&["pipelining", "Size 1000", "AUTH LOGIN PLAIN XOAUTH2", "8BITMIME", "X-ODD", ""]);
        assert!(found.pipelining && found.auth_plain && found.auth_login && found.eight_bit_mime);
        assert!(found.auth_xoauth2 && !found.requiretls && offered(&["RequireTLS"]).requiretls);
        assert_eq!((found.size, found.dsn, found.smtputf8), (Size::Limit(1000), false, false));
        assert!(offered(&["AUTH=LOGIN"]).auth_login);
    }

    #[test]
    fn a_size_that_is_no_number_limits_nothing() {
        for line in ["SIZE", "SIZE 0", "SIZE x", "SIZE 99999999999999999999999"] {
            let mut reply = Reply::bare(250, "far.example");
            reply.lines.push(line.into());
            assert_eq!(Capabilities::from_ehlo(&reply).size, Size::Unlimited, "{line}");
        }
    }
}
