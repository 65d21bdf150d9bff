//! AUTH at the next hop: PLAIN and LOGIN with a password, XOAUTH2 with a token.
//!
//! A refusal is about us (R2): it defers. A password that was refused is not tried at another address of the host, because
//! that may lock the account.

use std::time::Duration;

use mail_send::SmtpClient;
use smtp_proto::{AUTH_LOGIN, AUTH_PLAIN, EhloResponse};

use super::opening::{Trouble, describe};
use super::options::{Auth, Secret};
use super::wire::Wire;
use crate::smtp::capabilities::Capabilities;

/// Proves who we are over an open connection.
pub(super) struct Authenticator {
    auth: Auth,
}

impl Authenticator {
    pub(super) fn new(auth: Auth) -> Self {
        Self { auth }
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
        let Secret::Password(password) = &self.auth.with else {
            return Err(Trouble::local("AUTH: no token"));
        };
        let offer = EhloResponse { auth_mechanisms, ..EhloResponse::<String>::default() };
        let secret = mail_send::Credentials::new(self.auth.username.as_str(), password.as_str());
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
}

/// A reply of mail-send as `5.7.8 text`, without controls.
fn spoken(reply: &smtp_proto::Response<String>) -> String {
    let [class, subject, detail] = reply.esc;
    let enhanced = if class == 0 { String::new() } else { format!("{class}.{subject}.{detail} ") };
    let text: String =
        reply.message.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{enhanced}{text}")
}
