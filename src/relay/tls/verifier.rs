//! Two ways to look at a far side's certificate: by its name and its authority, or not at all.
//!
//! [`super::dane`] has the third. What they let through is decided by rustls and webpki; here is only which of their
//! checks are made, and a better word for a certificate that signs itself.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::fault::Refused;

/// A trusted authority has to vouch for the name that was asked for.
#[derive(Debug)]
pub(super) struct Named(pub(super) Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify_server_cert(end_entity, intermediates, name, ocsp, now).map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) if signs_itself(end_entity) => {
                Refused::SelfSigned.into()
            }
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn signs_itself(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate).is_ok_and(|parsed| parsed.issuer() == parsed.subject())
}

/// What would have been wrong with a certificate that was let through; empty: nothing.
#[derive(Default)]
pub(in crate::relay) struct Verdict(OnceLock<Error>);

impl Verdict {
    /// Why verification would have failed.
    pub(in crate::relay) fn fault(&self) -> Option<&Error> {
        self.0.get()
    }
}

/// Anyone will do: encryption against those who only listen (RFC 7435).
pub(super) struct Anyone {
    /// Looks, and lets through what it sees.
    pub(super) watching: Option<(Arc<Named>, Arc<Verdict>)>,
    pub(super) provider: &'static CryptoProvider,
}

impl fmt::Debug for Anyone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anyone").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some((named, verdict)) = &self.watching
            && let Err(error) = named.verify_server_cert(end_entity, intermediates, name, ocsp, now)
        {
            let _ = verdict.0.set(error);
        }
        Ok(ServerCertVerified::assertion())
    }

    // A signature by a certificate that anybody could have made proves nothing; checking it would only send mail in
    // clear to hosts with old keys.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
