//! Whom to trust for TLS towards a far side. Certificates are always verified; there is no way to switch that off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// The certificate authorities that a route trusts.
#[derive(Clone)]
pub(super) enum Trust {
    /// The system's, shared by all routes.
    System(Arc<SystemTrust>),
    /// Those of `ca_file`.
    Only(TlsConnector),
}

/// The system's certificate authorities, read when they are first needed: that takes long on some systems, and a relay
/// without TLS should not pay for it.
#[derive(Default)]
pub(super) struct SystemTrust(OnceCell<TlsConnector>);

/// A `ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Missing, unreadable or no PEM.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: PathBuf,
        /// The parser's or the system's words.
        reason: String,
    },
    /// The TLS library refused its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The system's certificates cannot be read.
    #[error("the system's certificate authorities cannot be read: {0}")]
    System(String),
}

impl Trust {
    /// Reads the only authorities to trust.
    ///
    /// # Errors
    /// The file is not a list of certificates.
    pub(super) fn only(file: &Path) -> Result<Self, TrustError> {
        let wrong = |reason: String| TrustError::File { file: file.to_owned(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))? {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("no certificate in it".to_owned()));
        }
        Ok(Self::Only(connector(roots)?))
    }

    /// What opens TLS connections.
    ///
    /// # Errors
    /// The system's authorities cannot be read now.
    pub(super) async fn connector(&self) -> Result<TlsConnector, TrustError> {
        match self {
            Self::Only(connector) => Ok(connector.clone()),
            Self::System(system) => system.0.get_or_try_init(load_system).await.cloned(),
        }
    }
}

async fn load_system() -> Result<TlsConnector, TrustError> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
    let found = loaded.await.map_err(|error| TrustError::System(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    // A system's store has certificates that no library likes; they must not take the good ones with them.
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    for error in &found.errors {
        tracing::warn!(target: "oncemail::relay", %error, "a system certificate store could not be read");
    }
    tracing::debug!(target: "oncemail::relay", added, ignored, "system certificate authorities loaded");
    if added == 0 {
        return Err(TrustError::System("there are none".to_owned()));
    }
    connector(roots)
}

fn connector(roots: RootCertStore) -> Result<TlsConnector, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
