//! A web server that answers each request with the octets that a test gives it, over TLS or in clear.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::far_side::PATIENCE;

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Request line and header.
    pub head: String,
    pub body: String,
}

pub struct HttpsServer {
    pub address: SocketAddr,
    /// Certificate for `localhost` and the given names that signs itself, to trust.
    pub ca_file: PathBuf,
    asked: watch::Receiver<Vec<Asked>>,
    _directory: tempfile::TempDir,
}

impl HttpsServer {
    /// `answer` gets the request and how many came before it; an answer without octets closes the connection.
    pub async fn start(
        tls: bool,
        names: &[&str],
        answer: impl Fn(&Asked, usize) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        let acceptor = acceptor(names, &ca_file);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = watch::channel(Vec::new());
        let shared = Arc::new((answer, sender));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    if tls {
                        let mut stream = acceptor.accept(stream).await?;
                        serve(&mut stream, &shared.0, &shared.1).await
                    } else {
                        let mut stream = stream;
                        serve(&mut stream, &shared.0, &shared.1).await
                    }
                });
            }
        });
        Self { address, ca_file, asked, _directory: directory }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.borrow().clone()
    }

    /// Waits until so many requests came.
    pub async fn wait(&self, requests: usize) -> Vec<Asked> {
        let mut asked = self.asked.clone();
        let seen = asked.wait_for(|asked| asked.len() >= requests);
        tokio::time::timeout(PATIENCE, seen).await.expect("it was not asked").unwrap().clone()
    }
}

/// An answer with a body.
pub fn http(status: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// One request and its answer.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    answer: &(impl Fn(&Asked, usize) -> Vec<u8> + Send + Sync),
    log: &watch::Sender<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut input = Vec::new();
    let end = loop {
        if let Some(end) = memchr::memmem::find(&input, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&input[..end]).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    while input.len() < end + length.unwrap_or(0) {
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
    let asked = Asked { head, body: String::from_utf8_lossy(&input[end..]).into_owned() };
    let mut before = 0;
    log.send_modify(|log| {
        before = log.len();
        log.push(asked.clone());
    });
    stream.write_all(&answer(&asked, before)).await?;
    stream.flush().await?;
    stream.shutdown().await
}

fn acceptor(names: &[&str], ca_file: &std::path::Path) -> TlsAcceptor {
    let names = names.iter().chain(&["localhost"]).map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(ca_file, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
