//! From a host name to a connection that is ready for MAIL: TCP, greeting, EHLO, STARTTLS, AUTH.
//!
//! mail-send does the TLS handshake. Greeting, EHLO, STARTTLS and AUTH are read here, because its reader drops what it
//! has read beyond a reply (S1 needs to see that), keeps no text of some refusals and has one time-out for all steps;
//! `docs/relay.md` says more. TLS that is required is never done without; only
//! [`Level::Opportunistic`] may end in clear. Every failure is about us or the far side, never about a message (R2): it
//! defers.

use std::net::{IpAddr, SocketAddr};

use mail_send::SmtpClient;
use rustls::ProtocolVersion;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::auth::Authenticator;
use super::dial::Dial;
use super::options::{Host, Timeouts};
use super::security::{Account, Demand, Level, Verify};
use super::tls::{self, Trust};
use super::tls_report::Failure;
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
    /// Who makes connections that stay in clear; the system when absent.
    pub(super) dialer: Option<&'a dyn Dial>,
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
    /// The encryption, for log and record: `TLSv1.3 verified`, `TLSv1.3 dane`, `TLSv1.2 unverified`; empty for none.
    pub(super) tls: String,
    /// The certificate was verified, by whatever the demand asked for: only then REQUIRETLS can be honoured.
    pub(super) is_verified: bool,
    /// What the far side has shown of itself, in DER.
    pub(super) certificate: Option<CertificateDer<'static>>,
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

/// How STARTTLS ended, where it did not end well.
enum NoTls {
    /// It is not offered; the connection is as good as it was.
    NotOffered(Wire<TcpStream>, Capabilities),
    /// It was refused, or the handshake failed: this connection is of no more use.
    Failed(Trouble),
    /// The connection was lost or garbled, which says nothing about TLS.
    Lost(Trouble),
}

/// What a connection turned out to be.
struct Opened {
    wire: Wire,
    capabilities: Capabilities,
    /// As in [`Ready`].
    tls: String,
    is_verified: bool,
    certificate: Option<CertificateDer<'static>>,
}

/// A stream with TLS.
struct Secured {
    stream: Box<dyn Duplex>,
    /// As in [`Ready`].
    tls: String,
    certificate: Option<CertificateDer<'static>>,
}

impl From<Trouble> for NoTls {
    fn from(trouble: Trouble) -> Self {
        Self::Lost(trouble)
    }
}

impl Opening<'_> {
    /// Opens a connection to one address of the host.
    ///
    /// # Errors
    /// Names the step that failed, and what was said.
    pub(super) async fn run(&self, address: SocketAddr) -> Result<Ready, Trouble> {
        if self.auth.is_some() && self.demand.level == Level::Plain {
            may_authenticate(address, "", false)?;
        }
        let opened = match &self.demand.level {
            Level::Plain => self.plain(self.dial(address).await?).await?,
            Level::Opportunistic => self.opportunistic(address).await?,
            Level::StartTls(verify) => match self.starttls(self.connect(address).await?, verify).await {
                Ok(opened) => opened,
                Err(NoTls::NotOffered(..)) => {
                    return Err(Trouble::local(
                        "STARTTLS: the far side does not offer it, and TLS is required",
                    ));
                }
                Err(NoTls::Failed(trouble) | NoTls::Lost(trouble)) => return Err(trouble),
            },
            Level::Implicit(verify) => self.implicit(self.connect(address).await?, verify).await?,
        };
        if self.auth.is_some() {
            may_authenticate(address, &opened.tls, opened.is_verified)?;
        }
        let Opened { wire, capabilities, tls, is_verified, certificate } = opened;
        let wire = match self.auth {
            Some(auth) => auth.authenticate(wire, &capabilities, self.timeouts.command).await?,
            None => wire,
        };
        Ok(Ready { wire, capabilities, tls, is_verified, certificate })
    }

    async fn plain(&self, stream: Box<dyn Duplex>) -> Result<Opened, Trouble> {
        let mut wire = Wire::new(stream);
        self.greeting(&mut wire).await?;
        let capabilities = self.ehlo(&mut wire).await?;
        Ok(Opened { wire, capabilities, tls: String::new(), is_verified: false, certificate: None })
    }

    async fn implicit(&self, stream: TcpStream, verify: &Verify) -> Result<Opened, Trouble> {
        let Secured { stream, tls, certificate } = self.handshake(stream, verify).await?;
        let mut wire = Wire::new(stream);
        self.greeting(&mut wire).await?;
        let capabilities = self.ehlo(&mut wire).await?;
        Ok(Opened { wire, capabilities, tls, is_verified: *verify != Verify::Nothing, certificate })
    }

    /// The only way that ends without TLS where TLS was tried (RFC 7435): on the same connection where it is not offered,
    /// on a fresh one where it failed. A connection that is merely lost is not taken for a failure of TLS.
    async fn opportunistic(&self, address: SocketAddr) -> Result<Opened, Trouble> {
        let ended = self.starttls(self.connect(address).await?, &Verify::Nothing).await;
        let fault = match ended {
            Ok(opened) => return Ok(opened),
            Err(NoTls::NotOffered(wire, capabilities)) => {
                let stream = wire.into_stream().map_err(|error| Trouble::lost("EHLO", &error))?;
                let wire = Wire::new(boxed(stream));
                let tls = String::new();
                return Ok(Opened { wire, capabilities, tls, is_verified: false, certificate: None });
            }
            Err(NoTls::Lost(trouble)) => return Err(trouble),
            Err(NoTls::Failed(trouble)) => trouble,
        };
        tracing::info!(target: "oncemail::relay", host = %self.host, %address, error = %fault.text,
            "no TLS with this host: going on without, as its route allows");
        self.plain(boxed(self.connect(address).await?)).await
    }

    /// For a connection that stays in clear: TLS needs a socket.
    async fn dial(&self, address: SocketAddr) -> Result<Box<dyn Duplex>, Trouble> {
        let Some(dialer) = self.dialer else { return Ok(boxed(self.connect(address).await?)) };
        let failed = |why: &str| Trouble::local(format!("connecting to {address}: {why}"));
        let dialling = timeout(self.timeouts.connect, dialer.dial(address)).await;
        dialling.map_err(|_| failed("no answer in time"))?.map_err(|error| failed(&error.to_string()))
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

    async fn starttls(&self, stream: TcpStream, verify: &Verify) -> Result<Opened, NoTls> {
        let step = "STARTTLS";
        let mut wire = Wire::new(stream);
        self.greeting(&mut wire).await?;
        let offered = self.ehlo(&mut wire).await?;
        if !offered.starttls {
            self.count(Some(Failure::StarttlsNotSupported));
            return Err(NoTls::NotOffered(wire, offered));
        }
        let reply = self.command(&mut wire, step, "STARTTLS\r\n").await?;
        match reply.code {
            220 => {}
            400..=599 => {
                self.count(Some(Failure::StarttlsNotSupported));
                return Err(NoTls::Failed(Trouble::refused(step, &reply)));
            }
            _ => return Err(NoTls::Lost(Trouble::refused(step, &reply))),
        }
        // S1: a reply that was put behind this one in clear text must not be taken for one that came encrypted.
        let stream = wire.into_stream().map_err(|error| Trouble::lost(step, &error))?;
        let Secured { stream, tls, certificate } =
            self.handshake(stream, verify).await.map_err(NoTls::Failed)?;
        let mut wire = Wire::new(stream);
        // RFC 3207 §4.2: what was offered before the handshake is forgotten.
        let capabilities = self.ehlo(&mut wire).await?;
        Ok(Opened { wire, capabilities, tls, is_verified: *verify != Verify::Nothing, certificate })
    }

    async fn handshake(&self, stream: TcpStream, verify: &Verify) -> Result<Secured, Trouble> {
        let watched = self.demand.account.as_ref().is_some_and(Account::is_watched);
        let set_up = self.trust.handshake(verify, watched).await;
        let set_up = set_up.map_err(|error| Trouble::local(format!("TLS: {error}")))?;
        // Where anyone will do, a name that no certificate could have is no obstacle.
        let address = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
        let base = if let Verify::Dane(anchors) = verify { anchors.base() } else { None };
        let name = base.as_deref().unwrap_or(&self.host.name).trim_end_matches('.');
        let is_name = ServerName::try_from(name).is_ok();
        let name = if is_name || *verify != Verify::Nothing { name } else { address.as_str() };
        let client = SmtpClient { stream, timeout: self.timeouts.connect };
        match client.into_tls(&set_up.connector, name).await {
            Ok(client) => {
                let seen = set_up.verdict.as_ref().and_then(|verdict| verdict.fault());
                self.count(seen.map(tls::failure));
                let connection = client.tls_connection();
                let version = version(connection.protocol_version());
                let shown = connection.peer_certificates().and_then(<[_]>::first);
                let certificate = shown.map(|leaf| leaf.clone().into_owned());
                let tls = format!("{version} {}", verify.word());
                Ok(Secured { stream: boxed(client.stream), tls, certificate })
            }
            Err(error) => {
                self.count(Some(match &error {
                    mail_send::Error::Tls(error) => tls::failure(error),
                    _ => Failure::ValidationFailure,
                }));
                Err(Trouble::local(format!("TLS with {}: {}", self.host, describe(&error))))
            }
        }
    }

    fn count(&self, failure: Option<Failure>) {
        if let Some(account) = &self.demand.account {
            account.count(failure);
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

/// RFC 8314: what proves who we are is for the smarthost alone, and neither a listener nor an impostor is that.
fn may_authenticate(address: SocketAddr, tls: &str, is_verified: bool) -> Result<(), Trouble> {
    if is_verified || address.ip().is_loopback() {
        Ok(())
    } else if tls.is_empty() {
        Err(Trouble::local("AUTH: refused to send a password without TLS"))
    } else {
        Err(Trouble::local("AUTH: refused to send a password to a host that TLS has not verified"))
    }
}

fn version(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    }
}

fn boxed(stream: impl Duplex + 'static) -> Box<dyn Duplex> {
    Box::new(stream)
}

/// mail-send's errors in words that say what happened: it has one for end of file and for garbage.
pub(super) fn describe(error: &mail_send::Error) -> String {
    match error {
        mail_send::Error::Io(error) => error.to_string(),
        mail_send::Error::Tls(error) => tls::words(error),
        mail_send::Error::InvalidTLSName => "the host has no name that a certificate could have".to_owned(),
        mail_send::Error::UnparseableReply => {
            "the far side closed the connection or sent no SMTP reply".to_owned()
        }
        mail_send::Error::Timeout => "no answer in time".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
