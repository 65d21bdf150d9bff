//! AUTH at the next hop: PLAIN and LOGIN with a password, XOAUTH2 with a token.
//!
//! A refusal is about us (R2): it defers. A password that was refused is not tried at another address of the host, because
//! that may lock the account. A token that was refused is fetched anew, once.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::oauth::{Token, Tokens};
use super::opening::Trouble;
use super::options::{Auth, Password, Secret};
use super::tls::Trust;
use super::wire::{Wire, WireError};
use crate::dns::Dns;
use crate::smtp::Reply;
use crate::smtp::capabilities::Capabilities;

/// RFC 4954 §4: "Unrecognized authentication type".
const UNKNOWN_MECHANISM: u16 = 504;
const CRLF: &[u8] = b"\r\n";

/// Proves who we are over an open connection.
pub(super) struct Authenticator {
    username: String,
    with: With,
}

enum With {
    Password(Password),
    Tokens(Box<Tokens>),
}

impl Authenticator {
    /// Tokens are fetched from a server that `trust` vouches for, found by `dns`.
    pub(super) fn new(auth: Auth, trust: &Trust, dns: &Arc<Dns>) -> Self {
        let with = match auth.with {
            Secret::Password(password) => With::Password(password),
            Secret::OAuth2(options) => {
                With::Tokens(Box::new(Tokens::new(options, trust.clone(), dns.clone())))
            }
        };
        Self { username: auth.username, with }
    }

    /// Authenticates, each step within `limit`.
    ///
    /// # Errors
    /// Names what was said.
    pub(super) async fn authenticate(
        &self,
        wire: Wire,
        capabilities: &Capabilities,
        limit: Duration,
    ) -> Result<Wire, Trouble> {
        match &self.with {
            With::Password(password) => self.by_password(password, wire, capabilities, limit).await,
            With::Tokens(tokens) => self.by_token(tokens, wire, capabilities, limit).await,
        }
    }

    /// PLAIN where it is offered: one command. LOGIN else, or where PLAIN turns out not to be known (RFC 4954 §4). After
    /// any other refusal no second mechanism is tried: it would be the same password again.
    async fn by_password(
        &self,
        password: &str,
        mut wire: Wire,
        capabilities: &Capabilities,
        limit: Duration,
    ) -> Result<Wire, Trouble> {
        let Capabilities { auth_plain, auth_login, .. } = *capabilities;
        let mut reply = match (auth_plain, auth_login) {
            (true, _) => self.plain(&mut wire, password, limit).await?,
            (false, true) => self.login(&mut wire, password, limit).await?,
            (false, false) => {
                return Err(Trouble::local("AUTH: the far side offers neither PLAIN nor LOGIN"));
            }
        };
        if auth_plain && auth_login && reply.code == UNKNOWN_MECHANISM {
            reply = self.login(&mut wire, password, limit).await?;
        }
        match reply.code {
            235 => {
                // S1: what comes early would be taken for the answer to MAIL.
                wire.expect_quiet().map_err(lost)?;
                Ok(wire)
            }
            // Whatever it wants to know next, there is nothing more to say.
            code if code < 400 => Err(Trouble::local(format!("AUTH: the far side answered with {code}"))),
            _ => Err(Trouble { is_about_password: true, ..Trouble::refused("AUTH", &reply) }),
        }
    }

    /// RFC 4616 §2.
    async fn plain(&self, wire: &mut Wire, password: &str, limit: Duration) -> Result<Reply, Trouble> {
        let response = secret(&["\0", &self.username, "\0", password]);
        let reply = ask(wire, "AUTH PLAIN ", &response, limit).await?;
        // A server that knows no initial response asks for it (RFC 2554 §4).
        if reply.code == 334 { ask(wire, "", &response, limit).await } else { Ok(reply) }
    }

    /// Two questions, whose words differ from server to server; their order does not.
    async fn login(&self, wire: &mut Wire, password: &str, limit: Duration) -> Result<Reply, Trouble> {
        let mut reply = wire.command("AUTH LOGIN\r\n", limit).await.map_err(lost)?;
        for answer in [self.username.as_str(), password] {
            if reply.code != 334 {
                break;
            }
            reply = ask(wire, "", answer, limit).await?;
        }
        Ok(reply)
    }

    async fn by_token(
        &self,
        tokens: &Tokens,
        mut wire: Wire,
        capabilities: &Capabilities,
        limit: Duration,
    ) -> Result<Wire, Trouble> {
        if !capabilities.auth_xoauth2 {
            return Err(Trouble::local("AUTH: the far side does not offer XOAUTH2"));
        }
        let no_token = |error| Trouble::local(format!("AUTH: no OAuth 2 token from {error}"));
        let (token, is_new) = tokens.token().await.map_err(no_token)?;
        let mut reply = self.xoauth2(&mut wire, &token, limit).await?;
        if is_refusal(&reply) {
            tokens.refused(&token).await;
            // A kept one may have been taken back before its time.
            if !is_new {
                let (token, _) = tokens.token().await.map_err(no_token)?;
                reply = self.xoauth2(&mut wire, &token, limit).await?;
                if is_refusal(&reply) {
                    tokens.refused(&token).await;
                }
            }
        }
        if reply.code == 235 {
            wire.expect_quiet().map_err(lost)?;
            return Ok(wire);
        }
        Err(Trouble { is_about_password: is_refusal(&reply), ..Trouble::refused("AUTH", &reply) })
    }

    /// <https://developers.google.com/workspace/gmail/imap/xoauth2-protocol#the_sasl_xoauth2_mechanism>
    async fn xoauth2(&self, wire: &mut Wire, token: &Token, limit: Duration) -> Result<Reply, Trouble> {
        let response = secret(&["user=", &self.username, "\x01auth=Bearer ", token, "\x01\x01"]);
        let reply = ask(wire, "AUTH XOAUTH2 ", &response, limit).await?;
        if reply.code != 334 {
            return Ok(reply);
        }
        // The challenge says why it will be refused; the refusal comes after an empty line.
        let refusal = wire.command("\r\n", limit).await.map_err(lost)?;
        tracing::debug!(target: "oncemail::relay", challenge = %reply.text(), code = refusal.code, "token refused");
        Ok(refusal)
    }
}

fn is_refusal(reply: &Reply) -> bool {
    reply.code / 100 == 5
}

/// Says `response` in base64 behind `verb`. The line is wiped afterwards; it is encoded where it stands, and never
/// outgrows its first allocation: both would leave copies behind.
async fn ask(wire: &mut Wire, verb: &str, response: &str, limit: Duration) -> Result<Reply, Trouble> {
    let encoded_len = response.len().div_ceil(3) * 4;
    let mut line = Zeroizing::new(vec![0; verb.len() + encoded_len + CRLF.len()]);
    let (start, rest) = line.split_at_mut(verb.len());
    let (middle, end) = rest.split_at_mut(encoded_len);
    start.copy_from_slice(verb.as_bytes());
    let encoded = BASE64.encode_slice(response, middle);
    encoded.map_err(|error| Trouble::local(format!("AUTH: {error}")))?;
    end.copy_from_slice(CRLF);
    wire.expect_quiet().map_err(lost)?;
    wire.send(&line, limit).await.map_err(lost)?;
    wire.reply(limit).await.map_err(lost)
}

/// All in one allocation, wiped afterwards.
fn secret(parts: &[&str]) -> Zeroizing<String> {
    let len = parts.iter().map(|part| part.len()).sum();
    let mut whole = Zeroizing::new(String::with_capacity(len));
    parts.iter().for_each(|part| whole.push_str(part));
    whole
}

fn lost(error: WireError) -> Trouble {
    Trouble::lost("AUTH", &error)
}
