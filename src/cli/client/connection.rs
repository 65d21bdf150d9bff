//! From a target to a stream that HTTP can be spoken on.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::target::{Server, Target};
use crate::admin::socket::{ADMIN_SOCKET, connect};

/// A byte stream of any kind.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Connects.
///
/// # Errors
/// A sentence with what to do about it.
pub(super) async fn open(target: &Target) -> Result<Box<dyn Duplex>, String> {
    match target {
        Target::Socket(directory) => match connect(directory, ADMIN_SOCKET).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(no_socket(target, &error)),
        },
        Target::Network(server) => {
            let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
            let stream = stream.map_err(|error| format!("cannot connect to {}: {error}", target.name()))?;
            if server.tls { secure(server, stream).await } else { Ok(Box::new(stream)) }
        }
    }
}

fn no_socket(target: &Target, error: &io::Error) -> String {
    let name = target.name();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no oncemail is running on {name}: {error}\nstart it with `oncemail serve`, or name another one with --config or --server"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "cannot open {name}: {error}\nit belongs to the user that the server runs as: use sudo, or --server with a token"
        ),
        _ => format!("cannot open {name}: {error}"),
    }
}

/// TLS with the authorities that the system trusts; there is no way to do without.
async fn secure(server: &Server, stream: TcpStream) -> Result<Box<dyn Duplex>, String> {
    let mut roots = RootCertStore::empty();
    // A system's store has certificates that no library likes; they must not take the good ones with them.
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let found = found.map_err(|error| format!("cannot read the system's certificates: {error}"))?;
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(
            "the system has no certificate authorities: install ca-certificates, or set SSL_CERT_FILE".into(),
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(server.host.clone())
        .map_err(|_| format!("{} is no name that a certificate can have", server.host))?;
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(format!("TLS with {}: {error}", server.host)),
    }
}
