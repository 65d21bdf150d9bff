//! Whom to trust for TLS towards a far side, and what we show of ourselves.
//!
//! Where a certificate has to be verified there is no way to switch that off. A set-up that accepts any certificate is
//! only ever made for [`Verify::Nothing`], which verifies nobody and says so, and its sessions are never resumed by one
//! that does. A file that cannot be used stops the start, with its name.

mod fault;
mod verifier;

pub(super) use fault::{Refused, failure, words};

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

use super::dane;
use super::options::ClientCertificate;
use super::security::Verify;
use verifier::{Anyone, Named, Verdict};

/// The certificate authorities that a route trusts, and what it shows of itself.
#[derive(Clone)]
pub(super) struct Trust {
    authorities: Authorities,
    own: Option<Arc<SingleCertAndKey>>,
    /// For SMTP with [`Verify::Name`]: one for all hosts, so that sessions can be resumed.
    named: Arc<OnceCell<TlsConnector>>,
}

#[derive(Clone)]
enum Authorities {
    /// The system's, shared by all routes.
    System(Arc<SystemTrust>),
    /// Those of `ca_file`.
    Only(Known),
}

/// The system's certificate authorities, read when they are first needed: that takes long on some systems, and a relay
/// without TLS should not pay for it.
#[derive(Default)]
pub(super) struct SystemTrust(OnceCell<Known>);

/// Authorities that have been read.
#[derive(Clone)]
struct Known {
    verifier: Arc<Named>,
    /// Without a client certificate.
    connector: TlsConnector,
}

/// What one handshake is done with.
pub(super) struct Handshake {
    pub(super) connector: TlsConnector,
    /// Where a certificate was looked at without being refused.
    pub(super) verdict: Option<Arc<Verdict>>,
}

/// A `ca_file`, or a client certificate, cannot be used.
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
    /// Trusts whom the system trusts.
    pub(super) fn system(system: Arc<SystemTrust>) -> Self {
        Self { authorities: Authorities::System(system), own: None, named: Arc::default() }
    }

    /// Reads the only authorities to trust.
    ///
    /// # Errors
    /// The file is not a list of certificates.
    pub(super) fn only(file: &Path) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| unusable(file, &error))?;
        }
        Ok(Self { authorities: Authorities::Only(Known::new(roots)?), own: None, named: Arc::default() })
    }

    /// The same, and reads the certificate to show to far sides that ask for one.
    ///
    /// # Errors
    /// A file cannot be read, or the key is not the certificate's.
    pub(super) fn showing(self, own: &ClientCertificate) -> Result<Self, TrustError> {
        let chain = certificates(&own.certificate_file)?;
        let key =
            PrivateKeyDer::from_pem_file(&own.key_file).map_err(|error| unusable(&own.key_file, &error))?;
        let own = CertifiedKey::from_der(chain, key, &PROVIDER).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TrustError::File {
                file: own.key_file.clone(),
                reason: format!("the key is not that of {}", own.certificate_file.display()),
            },
            error => unusable(&own.key_file, &error),
        })?;
        Ok(Self { own: Some(Arc::new(own.into())), named: Arc::default(), ..self })
    }

    /// What opens verified TLS connections that show nothing of ourselves: for HTTPS.
    ///
    /// # Errors
    /// The system's authorities cannot be read now.
    pub(super) async fn connector(&self) -> Result<TlsConnector, TrustError> {
        Ok(self.known().await?.connector.clone())
    }

    /// What one SMTP handshake is done with. With `watched` a certificate that nobody asked to verify is looked at all
    /// the same, for the reports.
    ///
    /// # Errors
    /// The system's authorities cannot be read now.
    pub(super) async fn handshake(&self, verify: &Verify, watched: bool) -> Result<Handshake, TrustError> {
        let connector = match verify {
            Verify::Name(_) => {
                let made = self.named.get_or_try_init(|| async {
                    let known = self.known().await?;
                    Ok::<_, TrustError>(TlsConnector::from(Arc::new(self.config(known.verifier.clone())?)))
                });
                made.await?.clone()
            }
            Verify::Dane(anchors) => {
                self.unresumed(Arc::new(dane::Verifier::new(anchors.clone(), &PROVIDER)))?
            }
            Verify::Nothing => {
                // Who has no authorities to look with does not look: that must not cost the encryption.
                let named =
                    if watched { self.known().await.ok().map(|known| known.verifier.clone()) } else { None };
                let watching = named.map(|named| (named, Arc::new(Verdict::default())));
                let verdict = watching.as_ref().map(|(_, verdict)| verdict.clone());
                let connector = self.unresumed(Arc::new(Anyone { watching, provider: &PROVIDER }))?;
                return Ok(Handshake { connector, verdict });
            }
        };
        Ok(Handshake { connector, verdict: None })
    }

    async fn known(&self) -> Result<&Known, TrustError> {
        match &self.authorities {
            Authorities::Only(known) => Ok(known),
            Authorities::System(system) => system.0.get_or_try_init(load_system).await,
        }
    }

    /// A resumed session is not verified again, so what one verifier has let through must never reach another.
    fn unresumed(
        &self,
        verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    ) -> Result<TlsConnector, TrustError> {
        let mut config = self.config(verifier)?;
        config.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn config(
        &self,
        verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    ) -> Result<ClientConfig, TrustError> {
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        Ok(match &self.own {
            Some(own) => builder.with_client_cert_resolver(own.clone()),
            None => builder.with_no_client_auth(),
        })
    }
}

impl Known {
    fn new(roots: RootCertStore) -> Result<Self, TrustError> {
        let made = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), PROVIDER.clone()).build();
        let verifier = Arc::new(Named(made.map_err(|error| TrustError::System(error.to_string()))?));
        let config = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        Ok(Self { verifier, connector: TlsConnector::from(Arc::new(config)) })
    }
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

/// At least one certificate.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|error| unusable(file, &error))?.collect();
    let found = found.map_err(|error| unusable(file, &error))?;
    if found.is_empty() {
        return Err(TrustError::File { file: file.to_owned(), reason: "no certificate in it".to_owned() });
    }
    Ok(found)
}

fn unusable(file: &Path, error: &dyn std::error::Error) -> TrustError {
    TrustError::File { file: file.to_owned(), reason: error.to_string() }
}

async fn load_system() -> Result<Known, TrustError> {
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
    Known::new(roots)
}
