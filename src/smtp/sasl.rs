//! The exchanges of AUTH PLAIN (RFC 4616) and AUTH LOGIN, up to a name and a password.
//!
//! Nothing is verified here, and a password is wiped from memory when its value goes.

use base64::engine::general_purpose::STANDARD;
use base64::{Engine, decoded_len_estimate};
use zeroize::Zeroizing;

use super::reply::Reply;

/// A name and a password that wait to be verified.
pub struct Credentials {
    /// Who it says it is.
    pub user: String,
    /// Wiped when dropped; never shown.
    pub password: Zeroizing<Vec<u8>>,
}

/// What the client has to answer next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Challenge {
    /// All of PLAIN in one response.
    Plain,
    /// LOGIN: the name.
    LoginUser,
    /// LOGIN: the password for this name.
    LoginPassword(String),
}

/// Where an exchange stands.
#[derive(PartialEq, Eq, Debug)]
pub enum Exchange {
    /// The client has to answer.
    Challenge(Challenge),
    /// All is there.
    Done(Credentials),
}

/// Why an exchange ends without credentials.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SaslFault {
    /// Neither PLAIN nor LOGIN.
    Mechanism,
    /// The client sent `*` (RFC 4954 §4).
    Cancelled,
    /// Not base64.
    Encoding,
    /// Base64 of something else.
    Malformed,
    /// PLAIN asks to act for somebody else.
    Authorization,
}

impl Exchange {
    /// Starts with AUTH's arguments.
    ///
    /// # Errors
    /// When the mechanism is unknown or the initial response is bad.
    pub fn begin(mechanism: &str, initial: Option<&str>) -> Result<Self, SaslFault> {
        let challenge = if mechanism.eq_ignore_ascii_case("PLAIN") {
            Challenge::Plain
        } else if mechanism.eq_ignore_ascii_case("LOGIN") {
            Challenge::LoginUser
        } else {
            return Err(SaslFault::Mechanism);
        };
        match initial {
            None => Ok(Self::Challenge(challenge)),
            // RFC 4954 §4: a response of no octets.
            Some("=") => challenge.answer(b""),
            Some(initial) => challenge.answer(initial.as_bytes()),
        }
    }
}

impl Challenge {
    /// The text behind 334.
    pub fn prompt(&self) -> &'static str {
        match self {
            Self::Plain => "",
            // "Username:" and "Password:".
            Self::LoginUser => "VXNlcm5hbWU6",
            Self::LoginPassword(_) => "UGFzc3dvcmQ6",
        }
    }

    /// Takes the client's response line.
    ///
    /// # Errors
    /// When it cancels or cannot be read.
    pub fn answer(self, line: &[u8]) -> Result<Exchange, SaslFault> {
        if line == b"*" {
            return Err(SaslFault::Cancelled);
        }
        // Wiped also when it turns out half-way to be no base64.
        let mut decoded = Zeroizing::new(Vec::with_capacity(decoded_len_estimate(line.len())));
        STANDARD.decode_vec(line, &mut decoded).map_err(|_| SaslFault::Encoding)?;
        match self {
            Self::Plain => plain(&decoded).map(Exchange::Done),
            Self::LoginUser => Ok(Exchange::Challenge(Self::LoginPassword(name(&decoded)?))),
            Self::LoginPassword(user) => Ok(Exchange::Done(Credentials { user, password: decoded })),
        }
    }
}

impl SaslFault {
    /// What the client is told.
    pub fn reply(self) -> Reply {
        match self {
            Self::Mechanism => Reply::new(504, (5, 5, 4), "Mechanism not supported; use PLAIN or LOGIN"),
            Self::Cancelled => Reply::new(501, (5, 7, 0), "Authentication cancelled"),
            Self::Encoding => Reply::new(501, (5, 5, 2), "Bad base64"),
            Self::Malformed => Reply::new(501, (5, 5, 2), "Bad authentication response"),
            Self::Authorization => Reply::new(535, (5, 7, 8), "Acting for another user is not possible"),
        }
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user && *self.password == *other.password
    }
}

impl Eq for Credentials {}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// RFC 4616 §2: `[authzid] NUL authcid NUL passwd`.
fn plain(decoded: &[u8]) -> Result<Credentials, SaslFault> {
    let mut parts = decoded.split(|&octet| octet == 0);
    let (Some(act_as), Some(user), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(SaslFault::Malformed);
    };
    if !act_as.is_empty() && act_as != user {
        return Err(SaslFault::Authorization);
    }
    Ok(Credentials { user: name(user)?, password: Zeroizing::new(password.to_vec()) })
}

fn name(octets: &[u8]) -> Result<String, SaslFault> {
    let name = std::str::from_utf8(octets).map_err(|_| SaslFault::Malformed)?;
    if name.is_empty() || name.contains(char::is_control) {
        return Err(SaslFault::Malformed);
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(user: &str, password: &str) -> Result<Exchange, SaslFault> {
        let password = Zeroizing::new(password.as_bytes().to_vec());
        Ok(Exchange::Done(Credentials { user: user.to_owned(), password }))
    }

    fn plain(text: &str) -> Result<Exchange, SaslFault> {
        Exchange::begin("plain", Some(&STANDARD.encode(text)))
    }

    #[test]
    fn plain_takes_an_equal_or_empty_authorization_identity() {
        assert_eq!(plain("\0user\0pass word"), done("user", "pass word"));
        assert_eq!(plain("user\0user\0pass"), done("user", "pass"));
        assert_eq!(plain("boss\0user\0pass"), Err(SaslFault::Authorization));
        for text in ["", "user", "\0user", "\0\0pass", "\0a\0b\0c", "\0a\nb\0c"] {
            assert_eq!(plain(text), Err(SaslFault::Malformed), "{text:?}");
        }
        assert_eq!(Exchange::begin("PLAIN", Some("=")), Err(SaslFault::Malformed));
    }

    #[test]
    fn login_asks_for_the_name_then_the_password() {
        let Ok(Exchange::Challenge(first)) = Exchange::begin("LOGIN", None) else { panic!() };
        assert_eq!(STANDARD.decode(first.prompt()).unwrap(), b"Username:");
        let Ok(Exchange::Challenge(second)) = first.answer(b"dXNlcg==") else { panic!() };
        assert_eq!(STANDARD.decode(second.prompt()).unwrap(), b"Password:");
        assert_eq!(second.clone().answer(b"cGFzcw=="), done("user", "pass"));
        assert_eq!(second.clone().answer(b"*"), Err(SaslFault::Cancelled));
        assert_eq!(second.answer(b"cGFzcw"), Err(SaslFault::Encoding));
    }

    #[test]
    fn a_password_is_not_shown() {
        assert!(!format!("{:?}", done("user", "secret")).contains("secret"));
        assert!(!format!("{:?}", done("user", "secret")).contains("115"));
    }
}
