//! AUTH at the next hop: PLAIN and LOGIN with a password, XOAUTH2 with a token.
//!
//! A refusal is about us (R2): it defers. A password that was refused is not tried at another address of the host, because
//! that may lock the account. A token that was refused is fetched anew, once.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_send::SmtpClient;
use smtp_proto::{AUTH_LOGIN, AUTH_PLAIN, EhloResponse};
use zeroize::Zeroizing;

use super::oauth::{Token, Tokens};
use super::opening::{Trouble, describe};
use super::options::{Auth, Secret};
use super::tls::Trust;
use super::wire::Wire;
use crate::dns::Dns;
use crate::smtp::Reply;
use crate::smtp::capabilities::Capabilities;

/// Proves who we are over an open connection.
pub(super) struct Authenticator {
    username: String,
    with: With,
}

enum With {
    Password(Zeroizing<String>),
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

    async fn by_password(
        &self,
        password: &str,
        wire: Wire,
        capabilities: &Capabilities,
        limit: Duration,
    ) -> Result<Wire, Trouble> {
        let stream = wire.into_stream().map_err(|error| Trouble::lost("AUTH", &error))?;
        // mail-send would also start AUTH CRAM-MD5, which it is built without here, and leave it half done.
        let offered = [(capabilities.auth_plain, AUTH_PLAIN), (capabilities.auth_login, AUTH_LOGIN)];
        let auth_mechanisms = offered
            .iter()
            .filter(|(is_offered, _)| *is_offered)
            .fold(0, |all, (_, mechanism)| all | mechanism);
        if auth_mechanisms == 0 {
            return Err(Trouble::local("AUTH: the far side offers neither PLAIN nor LOGIN"));
        }
        let offer = EhloResponse { auth_mechanisms, ..EhloResponse::<String>::default() };
        let secret = mail_send::Credentials::new(self.username.as_str(), password);
        let mut client = SmtpClient { stream, timeout: limit };
        match client.authenticate(&secret, &offer).await {
            Ok(_) => Ok(Wire::new(client.stream)),
            Err(mail_send::Error::AuthenticationFailed(reply) | mail_send::Error::UnexpectedReply(reply)) => {
                let text = format!("{} (in reply to AUTH)", spoken(&reply));
                Err(Trouble { code: reply.code, text, is_about_password: true })
            }
            Err(error) => Err(Trouble::local(format!("AUTH: {}", describe(&error)))),
        }
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
            return Ok(wire);
        }
        Err(Trouble { is_about_password: is_refusal(&reply), ..Trouble::refused("AUTH", &reply) })
    }

    /// <https://developers.google.com/workspace/gmail/imap/xoauth2-protocol#the_sasl_xoauth2_mechanism>
    async fn xoauth2(&self, wire: &mut Wire, token: &Token, limit: Duration) -> Result<Reply, Trouble> {
        let lost = |error| Trouble::lost("AUTH", &error);
        let response =
            Zeroizing::new(format!("user={}\x01auth=Bearer {}\x01\x01", self.username, token.as_str()));
        let command = Zeroizing::new(format!("AUTH XOAUTH2 {}\r\n", BASE64.encode(response.as_bytes())));
        let reply = wire.command(&command, limit).await.map_err(lost)?;
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

/// A reply of mail-send as `5.7.8 text`, without controls.
fn spoken(reply: &smtp_proto::Response<String>) -> String {
    let [class, subject, detail] = reply.esc;
    let enhanced = if class == 0 { String::new() } else { format!("{class}.{subject}.{detail} ") };
    let text: String =
        reply.message.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{enhanced}{text}")
}
