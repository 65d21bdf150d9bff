//! TLS for clients: the certificate, re-read when its files change.
//!
//! A new certificate that cannot be used never replaces one that can: it is logged, and the old one stays.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::options::Tls;
use super::validity::not_after;
use crate::clock::{Clock, Timestamp};

/// The files are looked at no more often than this.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// A certificate or key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of its kind.
    #[error("{file}: {problem}")]
    File {
        /// Which.
        file: String,
        /// The system's or the parser's words.
        problem: String,
    },
    /// The two do not go together, or rustls cannot use them.
    #[error("{certificate_file} with {key_file}: {problem}")]
    Pair {
        /// PEM, leaf first.
        certificate_file: String,
        /// PEM.
        key_file: String,
        /// rustls's words.
        problem: String,
    },
}

/// The certificate in use. See the module.
#[derive(Debug)]
pub(super) struct Certificate {
    options: Tls,
    clock: Clock,
    current: ArcSwap<InUse>,
    watch: Mutex<Watch>,
}

#[derive(Debug)]
struct InUse {
    config: Arc<ServerConfig>,
    not_after: Option<Timestamp>,
}

#[derive(Debug)]
struct Watch {
    looked_at: Timestamp,
    /// Of the files in use.
    stamps: [Option<Stamp>; 2],
    /// Why the files that are there now cannot be used; it is logged once.
    problem: Option<TlsError>,
}

/// Changes when a file does: when it was written, and its length.
type Stamp = (SystemTime, u64);

impl Certificate {
    /// Reads the files; blocks.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(super) fn load(options: Tls, clock: Clock) -> Result<Self, TlsError> {
        // Stamped before they are read: a change in between is seen later rather than never.
        let watch = Watch { looked_at: clock.now(), stamps: stamps(&options), problem: None };
        let current = ArcSwap::new(Arc::new(config(&options)?));
        Ok(Self { options, clock, current, watch: Mutex::new(watch) })
    }

    /// What the next handshake uses; looks at the files first when it is time to.
    pub(super) async fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        if self.is_time_to_look() {
            let certificate = Arc::clone(self);
            if let Err(error) = tokio::task::spawn_blocking(move || certificate.look()).await {
                tracing::error!(%error, "the certificate files could not be looked at");
            }
        }
        TlsAcceptor::from(self.current.load().config.clone())
    }

    /// Until when the certificate in use is valid, as far as that can be read from it.
    pub(super) fn not_after(&self) -> Option<Timestamp> {
        self.current.load().not_after
    }

    fn is_time_to_look(&self) -> bool {
        let now = self.clock.now();
        let mut watch = self.watch();
        let is_time = now.since(watch.looked_at) >= CHECK_EVERY || now < watch.looked_at;
        if is_time {
            watch.looked_at = now;
        }
        is_time
    }

    fn look(&self) {
        let stamps = stamps(&self.options);
        if self.watch().stamps == stamps {
            return;
        }
        let config = config(&self.options);
        let mut watch = self.watch();
        match config {
            Ok(config) => {
                self.current.store(Arc::new(config));
                (watch.stamps, watch.problem) = (stamps, None);
                tracing::info!(file = %self.options.certificate_file.display(), "the TLS certificate was read again");
            }
            // The stamps stay those of the files in use, so that it is tried again: a file that could not be read
            // just now, for want of a descriptor or a permission, will not change when it can be.
            Err(error) if watch.problem.as_ref() != Some(&error) => {
                tracing::error!(%error, "the changed TLS certificate cannot be used; the old one stays");
                watch.problem = Some(error);
            }
            Err(_) => {}
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chain of the configured certificate, leaf first, in DER, if listeners can use it as it is now; blocks.
///
/// # Errors
/// Names the file and what is wrong with it, as at a start.
pub fn look(options: &Tls) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    config(options)?;
    certificates(&options.certificate_file)
}

/// TLS version and cipher suite of a connection: `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
pub(super) fn describe<S>(stream: &TlsStream<S>) -> String {
    let (_, connection) = stream.get_ref();
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLS",
    };
    match connection.negotiated_cipher_suite() {
        Some(suite) => format!("{version} {:?}", suite.suite()),
        None => version.to_owned(),
    }
}

fn stamps(options: &Tls) -> [Option<Stamp>; 2] {
    [&options.certificate_file, &options.key_file].map(|file| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

/// What a client may want to speak, if it says so at all (RFC 7301). One that was sent here to speak HTTP, by somebody who
/// wants our certificate to vouch for what it hears, ends in the handshake (the ALPACA attack).
const PROTOCOLS: [&[u8]; 2] = [b"smtp", b"esmtp"];

fn config(options: &Tls) -> Result<InUse, TlsError> {
    let Tls { certificate_file, key_file, only_tls13 } = options;
    let certificates = certificates(certificate_file)?;
    let not_after = certificates.first().and_then(|leaf| not_after(leaf));
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| file_error(key_file, &error))?;
    let versions: &[_] = match only_tls13 {
        true => &[&rustls::version::TLS13],
        false => &[&rustls::version::TLS12, &rustls::version::TLS13],
    };
    let pair_error = |error: rustls::Error| TlsError::Pair {
        certificate_file: certificate_file.display().to_string(),
        key_file: key_file.display().to_string(),
        problem: error.to_string(),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(pair_error)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(InUse { config: Arc::new(config), not_after })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| file_error(file, &error))?;
    if certificates.is_empty() {
        return Err(file_error(file, &"no certificate in it"));
    }
    Ok(certificates)
}

fn file_error(file: &Path, problem: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { file: file.display().to_string(), problem: problem.to_string() }
}
