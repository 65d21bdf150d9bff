//! From a host name to a connection that is ready for MAIL: TCP, greeting, EHLO, STARTTLS, AUTH.
//!
//! mail-send connects, does the TLS handshake and AUTH. Greeting, EHLO and STARTTLS are read here, because its reader
//! drops what it has read beyond a reply (S1 needs to see that), keeps no text of some refusals and has one time-out
//! for all steps; `docs/relay.md` says more. TLS that is required is never done without. Every failure is about us or
//! the far side, never about a message (R2): it defers.

use std::net::{IpAddr, SocketAddr};

use mail_send::SmtpClient;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::auth::Authenticator;
use super::options::{Host, Timeouts};
use super::security::{Demand, Verify};
use super::tls::Trust;
use super::wire::{Duplex, Wire, WireError};
use crate::mail::AttemptReply;
use crate::smtp::Reply;
use crate::smtp::capabilities::Capabilities;

/// What a connection needs to be opened.
pub(super) struct Opening<'a> {
    pub(super) host: &'a Host,
    pub(super) hostname: &'a str,
    pub(super) demand: &'a Demand,
    pub(super) trust: &'a Trust,
    pub(super) auth: Option<&'a Authenticator>,
    pub(super) timeouts: &'a Timeouts,
    /// Where to connect from; the system's choice when absent.
    pub(super) source: Option<IpAddr>,
}

/// Why a host cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Code of the reply, or 0.
    pub(super) code: u16,
    /// Reply without its code, or error, with the step in which it came.
    pub(super) text: String,
    /// The password was refused: trying it again at another address may lock the account.
    pub(super) is_about_password: bool,
}

/// A connection that is ready for MAIL.
pub(super) struct Ready {
    pub(super) wire: Wire,
    pub(super) capabilities: Capabilities,
    /// The encryption, for log and record: `TLSv1.3 (verified)`; empty for none.
    pub(super) tls: String,
    /// The certificate was verified, by whatever the demand asked for: only then REQUIRETLS can be honoured.
    pub(super) is_verified: bool,
}

impl Trouble {
    /// A failure without a reply.
    pub(super) fn local(text: impl Into<String>) -> Self {
        let mut text = text.into();
        AttemptReply::cut(&mut text);
        Self { code: 0, text, is_about_password: false }
    }

    /// A step that was answered with a refusal.
    pub(super) fn refused(step: &str, reply: &Reply) -> Self {
        Self { code: reply.code, ..Self::local(format!("{} (in reply to {step})", reply.text())) }
    }

    /// A step that ended the connection.
    pub(super) fn lost(step: &str, error: &WireError) -> Self {
        Self::local(format!("{step}: {error}"))
    }
}

impl Opening<'_> {
    /// Opens a connection to one address of the host.
    ///
    /// # Errors
    /// Names the step that failed, and what was said.
    pub(super) async fn run(&self, address: SocketAddr) -> Result<Ready, Trouble> {
        let stream = self.connect(address).await?;
        // R2, RFC 8314: a password is never sent over a network in clear.
        if self.auth.is_some() && *self.demand == Demand::Plain && !address.ip().is_loopback() {
            return Err(Trouble::local("AUTH: refused to send a password without TLS"));
        }
        let (wire, capabilities) = match self.demand {
            Demand::Plain | Demand::Opportunistic => {
                let mut wire = Wire::new(boxed(stream));
                self.greeting(&mut wire).await?;
                let capabilities = self.ehlo(&mut wire).await?;
                (wire, capabilities)
            }
            Demand::Implicit(verify) => {
                let mut wire = Wire::new(self.handshake(stream, verify).await?);
                self.greeting(&mut wire).await?;
                let capabilities = self.ehlo(&mut wire).await?;
                (wire, capabilities)
            }
            Demand::StartTls(verify) => {
                let mut wire = Wire::new(self.starttls(stream, verify).await?);
                // RFC 3207 §4.2: what was offered before the handshake is forgotten.
                let capabilities = self.ehlo(&mut wire).await?;
                (wire, capabilities)
            }
        };
        let wire = match self.auth {
            Some(auth) => auth.authenticate(wire, &capabilities, self.timeouts.command).await?,
            None => wire,
        };
        let is_verified = matches!(self.demand, Demand::StartTls(_) | Demand::Implicit(_));
        Ok(Ready { wire, capabilities, tls: String::new(), is_verified })
    }

    async fn connect(&self, address: SocketAddr) -> Result<TcpStream, Trouble> {
        let failed = |why: &str| Trouble::local(format!("connecting to {address}: {why}"));
        let connecting = timeout(self.timeouts.connect, connect(self.source, address)).await;
        let stream = connecting.map_err(|_| failed("no answer in time"))?.map_err(|error| failed(&error))?;
        // Commands and the final dot are written whole; waiting to fill a packet only costs time.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn greeting<S: AsyncRead + AsyncWrite + Unpin>(&self, wire: &mut Wire<S>) -> Result<(), Trouble> {
        let step = "greeting";
        let greeting =
            wire.reply(self.timeouts.command).await.map_err(|error| Trouble::lost(step, &error))?;
        if greeting.code == 220 { Ok(()) } else { Err(Trouble::refused(step, &greeting)) }
    }

    async fn ehlo<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        wire: &mut Wire<S>,
    ) -> Result<Capabilities, Trouble> {
        let reply = self.command(wire, "EHLO", &format!("EHLO {}\r\n", self.hostname)).await?;
        if reply.code == 250 {
            Ok(Capabilities::from_ehlo(&reply))
        } else {
            Err(Trouble::refused("EHLO", &reply))
        }
    }

    async fn starttls(&self, stream: TcpStream, verify: &Verify) -> Result<Box<dyn Duplex>, Trouble> {
        let step = "STARTTLS";
        let mut wire = Wire::new(stream);
        self.greeting(&mut wire).await?;
        if !self.ehlo(&mut wire).await?.starttls {
            return Err(Trouble::local("STARTTLS: the far side does not offer it, and TLS is required"));
        }
        let reply = self.command(&mut wire, step, "STARTTLS\r\n").await?;
        if reply.code != 220 {
            return Err(Trouble::refused(step, &reply));
        }
        // S1: a reply that was put behind this one in clear text must not be taken for one that came encrypted.
        let stream = wire.into_stream().map_err(|error| Trouble::lost(step, &error))?;
        self.handshake(stream, verify).await
    }

    async fn handshake(&self, stream: TcpStream, verify: &Verify) -> Result<Box<dyn Duplex>, Trouble> {
        let connector =
            self.trust.connector().await.map_err(|error| Trouble::local(format!("TLS: {error}")))?;
        let client = SmtpClient { stream, timeout: self.timeouts.connect };
        let Verify::Name(name) = verify;
        match client.into_tls(&connector, name).await {
            Ok(client) => Ok(boxed(client.stream)),
            Err(error) => Err(Trouble::local(format!("TLS with {}: {}", self.host, describe(&error)))),
        }
    }

    async fn command<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        wire: &mut Wire<S>,
        step: &str,
        line: &str,
    ) -> Result<Reply, Trouble> {
        wire.command(line, self.timeouts.command).await.map_err(|error| Trouble::lost(step, &error))
    }
}

async fn connect(source: Option<IpAddr>, address: SocketAddr) -> Result<TcpStream, String> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| error.to_string())?;
    if let Some(source) = source {
        let bound = socket.bind(SocketAddr::new(source, 0));
        bound.map_err(|error| format!("from our address {source}: {error}"))?;
    }
    socket.connect(address).await.map_err(|error| error.to_string())
}

fn boxed(stream: impl Duplex + 'static) -> Box<dyn Duplex> {
    Box::new(stream)
}

/// mail-send's errors in words that say what happened: it has one for end of file and for garbage.
pub(super) fn describe(error: &mail_send::Error) -> String {
    match error {
        mail_send::Error::Io(error) => error.to_string(),
        mail_send::Error::Tls(error) => error.to_string(),
        mail_send::Error::UnparseableReply => {
            "the far side closed the connection or sent no SMTP reply".to_owned()
        }
        mail_send::Error::Timeout => "no answer in time".to_owned(),
        other => other.to_string(),
    }
}
