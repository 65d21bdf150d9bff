//! A raw SMTP client: it sends the octets that a test says and reads replies, without knowing better.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ALL_VERSIONS, ClientConfig, RootCertStore, SupportedProtocolVersion, crypto};

/// A reply that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// `\0ann\0secret`.
pub const AUTH: &str = "AUTH PLAIN AGFubgBzZWNyZXQ=";

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub struct Client {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
}

impl Client {
    /// Connects and reads nothing.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Box::new(stream), unread: Vec::new() }
    }

    /// Connects, reads the greeting, and says EHLO; gives back EHLO's reply too.
    pub async fn greeted(address: SocketAddr) -> (Self, String) {
        let mut client = Self::connect(address).await;
        assert_eq!(client.reply().await.get(..4), Some("220 "));
        let ehlo = client.ask("EHLO client.example").await;
        (client, ehlo)
    }

    /// MAIL, RCPT and DATA, up to the go-ahead.
    pub async fn begin(&mut self) {
        self.send("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n").await;
        assert!(self.reply().await.starts_with("250 2.1.0"));
        assert!(self.reply().await.starts_with("250 2.1.5"));
        assert!(self.reply().await.starts_with("354"));
    }

    /// The bare stream, without what was read from it.
    pub fn into_stream(self) -> Box<dyn Stream> {
        self.stream
    }

    /// Sends octets as they are.
    pub async fn send(&mut self, octets: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(octets.as_ref())).await.unwrap().unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Sends octets one by one; a server that closes in the middle ends it.
    pub async fn send_slowly(&mut self, octets: &[u8]) {
        for octet in octets {
            if self.stream.write_all(&[*octet]).await.is_err() || self.stream.flush().await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Sends a line and reads a reply.
    pub async fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// Reads a whole reply; its lines are joined with `\n`.
    pub async fn reply(&mut self) -> String {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await.expect("a reply, not the end of the connection");
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if is_last {
                return lines.join("\n");
            }
        }
    }

    /// Reads a line without its CRLF; `None` when the connection ends instead.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.unread.drain(..end + 2).take(end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
            match read.expect("a line in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Whether the server closes the connection, with nothing said before that is still unread.
    pub async fn is_closed(&mut self) -> bool {
        self.line().await.is_none() && self.unread.is_empty()
    }

    /// Does a TLS handshake now, trusting `root`.
    pub async fn encrypt(self, root: &CertificateDer<'static>) -> std::io::Result<Self> {
        self.encrypt_with(root, ALL_VERSIONS).await
    }

    /// The same, with these versions of TLS only.
    pub async fn encrypt_with(
        self,
        root: &CertificateDer<'static>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("relay.example").unwrap();
        let stream = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, self.stream));
        Ok(Self { stream: Box::new(stream.await.expect("a handshake in time")?), unread: Vec::new() })
    }
}
