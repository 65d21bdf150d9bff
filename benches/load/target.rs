//! Where load may go, and the connection to it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// More than any loopback accept takes, unless the listener's backlog is full and SYNs are sent again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How the connection is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Tls {
    /// Not at all.
    #[default]
    None,
    /// After STARTTLS.
    Starttls,
    /// From the first byte.
    Implicit,
}

/// A byte stream, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Parses `host:port` and refuses what is not this machine: this tool must not be able to flood anyone.
///
/// # Errors
/// When it cannot be resolved, or is not a loopback address.
pub fn parse_loopback(text: &str) -> Result<SocketAddr> {
    let address = text
        .to_socket_addrs()
        .with_context(|| format!("{text} is no host:port"))?
        .next()
        .context("no address")?;
    ensure!(address.ip().is_loopback(), "{text} is not on this machine; load goes to loopback only");
    Ok(address)
}

/// Opens a TCP connection.
///
/// # Errors
/// When it is refused, or not accepted within 10 s.
pub async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Encrypts a connection; any certificate will do.
///
/// # Errors
/// When the handshake fails.
pub async fn encrypt(stream: TcpStream, connector: &TlsConnector) -> std::io::Result<impl Stream + use<>> {
    let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
    connector.connect(name, stream).await
}

/// A connector that takes any certificate.
///
/// # Errors
/// When ring offers no TLS version, which would be a build mistake.
pub fn connector() -> Result<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Trusts every certificate: the far side is on loopback, and what is measured is its work, not its name.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
