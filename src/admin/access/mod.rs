//! Who calls, and what they may do.
//!
//! Whoever reaches the unix socket is the server's own user, and may do everything. Over the network a token says who
//! it is: in an `Authorization` field, or once at `POST /session`, which gives a browser a cookie. Without any token
//! the address is a loopback one (the configuration sees to that), and who reaches it may act, but not read contents.
//! Tokens are compared as hashes, all of them, in constant time. An address that brings wrong ones has to wait, also
//! with a right one: else it could go on guessing.

mod attempts;
mod sessions;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::{HeaderMap, HeaderValue};

use self::attempts::Attempts;
pub(super) use self::sessions::LIFETIME;
use self::sessions::Sessions;
use super::options::{Role, Token, digest};
use super::refusal::Refusal;
use crate::clock::Clock;

/// The cookie of a browser session.
pub(super) const COOKIE_NAME: &str = "oncemail_session";
/// Whoever comes over the unix socket.
const LOCAL: &str = "local";
/// Whoever comes over a loopback address when there is no token.
const LOOPBACK: &str = "loopback";

/// From where a request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Over the unix socket.
    Local,
    /// Over the network.
    Network(SocketAddr),
}

impl Peer {
    /// The address, for the log.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Local => None,
            // An IPv4 client of an IPv6 socket is an IPv4 client.
            Self::Network(address) => Some(address.ip().to_canonical()),
        }
    }
}

/// Who calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Caller {
    /// The token's name; for the log.
    pub name: Arc<str>,
    /// What they may do.
    pub role: Role,
    /// Whether they may read contents.
    pub contents: bool,
    /// From where.
    pub peer: Peer,
}

/// See the module.
pub(super) struct Access {
    tokens: ArcSwap<Vec<Token>>,
    attempts: Attempts,
    sessions: Sessions,
}

impl Access {
    /// These tokens, and no session.
    pub fn new(tokens: Vec<Token>, clock: Clock) -> Self {
        Self {
            tokens: ArcSwap::from_pointee(tokens),
            attempts: Attempts::new(clock.clone()),
            sessions: Sessions::new(clock),
        }
    }

    /// Other tokens from now on; sessions that were opened with one that is gone end.
    pub fn replace(&self, tokens: Vec<Token>) {
        self.tokens.store(Arc::new(tokens));
    }

    /// Whether anybody who reaches the address may come in.
    pub fn is_open(&self) -> bool {
        self.tokens.load().is_empty()
    }

    /// Who it is.
    ///
    /// # Errors
    /// 401 without a token or with a wrong one, 429 after too many wrong ones.
    pub fn identify(&self, peer: Peer, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let Peer::Network(_) = peer else { return Ok(caller(LOCAL, Role::Operate, true, peer)) };
        if self.is_open() {
            return Ok(caller(LOOPBACK, Role::Operate, false, peer));
        }
        if let Some(field) = headers.get(AUTHORIZATION) {
            return self.with_token(peer, bearer(field).unwrap_or_default());
        }
        let token = cookie(headers).and_then(|cookie| self.sessions.find(cookie));
        let token = token.and_then(|digest| self.token(&digest));
        token.map(|token| caller(&token.name, token.role, token.contents, peer)).ok_or_else(|| {
            Refusal::unknown_caller(
                "a token is needed: `Authorization: Bearer …`, or a session from POST /session",
            )
        })
    }

    /// Opens a browser session; the cookie's value and who it is.
    ///
    /// # Errors
    /// As [`Access::identify`].
    pub fn open_session(&self, peer: Peer, secret: &str) -> Result<(String, Caller), Refusal> {
        let caller = self.with_token(peer, secret)?;
        Ok((self.sessions.open(digest(secret)), caller))
    }

    /// Ends the session of a request, if it has one.
    pub fn close_session(&self, headers: &HeaderMap) {
        if let Some(cookie) = cookie(headers) {
            self.sessions.close(cookie);
        }
    }

    fn with_token(&self, peer: Peer, secret: &str) -> Result<Caller, Refusal> {
        let address = peer.address();
        if let Some(seconds) = address.and_then(|address| self.attempts.wait(address)) {
            return Err(Refusal::too_many(seconds, "too many wrong tokens came from this address"));
        }
        if let Some(token) = self.token(&digest(secret)) {
            return Ok(caller(&token.name, token.role, token.contents, peer));
        }
        if let Some(address) = address {
            self.attempts.note(address);
            tracing::warn!(target: "oncemail::admin", client = %address, "a wrong token");
        }
        Err(Refusal::unknown_caller("the token is not one of [admin] or [[admin_token]]"))
    }

    /// The token with this digest. Looks at all of them, so that the time says nothing.
    fn token(&self, digest: &blake3::Hash) -> Option<Token> {
        let tokens = self.tokens.load();
        tokens
            .iter()
            .fold(None, |found, token| if token.digest() == *digest { Some(token.clone()) } else { found })
    }
}

/// What is counted as one client: of IPv6 it usually holds a whole /64.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

fn caller(name: &str, role: Role, contents: bool, peer: Peer) -> Caller {
    Caller { name: name.into(), role, contents, peer }
}

/// RFC 6750 §2.1; the scheme in any case (RFC 9110 §11.1).
fn bearer(field: &HeaderValue) -> Option<&str> {
    let (scheme, secret) = field.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim_start_matches(' '))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let fields = headers.get_all(COOKIE).into_iter().filter_map(|field| field.to_str().ok());
    let mut pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    const SECRET: &str = "0123456789abcdef";

    fn access(clock: &Clock) -> Access {
        Access::new(vec![Token::new("ops", SECRET, Role::Read, false)], clock.clone())
    }

    fn peer() -> Peer {
        Peer::Network("192.0.2.1:4000".parse().unwrap())
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(axum::http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    fn clock() -> Clock {
        Clock::manual(Timestamp::from_millis(1_795_343_400_000))
    }

    #[test]
    fn a_token_is_known_by_its_name_and_nothing_else_is_taken() {
        let access = access(&clock());
        let known = access.identify(peer(), &with("authorization", "bearer  0123456789abcdef")).unwrap();
        assert_eq!((&*known.name, known.role, known.contents), ("ops", Role::Read, false));
        for wrong in ["Bearer 0123456789abcde", "Basic 0123456789abcdef", "0123456789abcdef", "Bearer"] {
            assert!(access.identify(peer(), &with("authorization", wrong)).is_err(), "{wrong}");
        }
        assert!(access.identify(peer(), &HeaderMap::new()).is_err());
        assert_eq!(&*access.identify(Peer::Local, &HeaderMap::new()).unwrap().name, "local");
    }

    #[test]
    fn ten_wrong_tokens_in_a_minute_are_too_many_also_for_a_right_one() {
        let clock = clock();
        let access = access(&clock);
        let wrong = with("authorization", "Bearer wrong");
        for _ in 0..10 {
            assert_eq!(access.identify(peer(), &wrong).unwrap_err().problem().status, 401);
        }
        let right = with("authorization", "Bearer 0123456789abcdef");
        assert_eq!(access.identify(peer(), &right).unwrap_err().problem().status, 429);
        let other = Peer::Network("192.0.2.2:1".parse().unwrap());
        assert!(access.identify(other, &right).is_ok());
        clock.advance(std::time::Duration::from_secs(6));
        assert!(access.identify(peer(), &right).is_ok());
    }

    #[test]
    fn a_session_lasts_until_it_is_closed_or_expires_or_its_token_is_gone() {
        let clock = clock();
        let access = access(&clock);
        let open = || {
            let (cookie, _) = access.open_session(peer(), SECRET).unwrap();
            with("cookie", &format!("theme=dark; {COOKIE_NAME}={cookie}"))
        };
        assert!(access.open_session(peer(), "wrong").is_err());
        let headers = open();
        assert_eq!(&*access.identify(peer(), &headers).unwrap().name, "ops");
        access.close_session(&headers);
        assert!(access.identify(peer(), &headers).is_err());
        let headers = open();
        clock.advance(LIFETIME);
        assert!(access.identify(peer(), &headers).is_err());
        let headers = open();
        access.replace(vec![Token::new("ops", "another-secret-00", Role::Read, false)]);
        assert!(access.identify(peer(), &headers).is_err());
    }
}
