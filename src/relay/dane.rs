//! DANE: a host's TLSA records say which certificate it has (RFC 6698, RFC 7671, RFC 7672).
//!
//! Only records that DNSSEC vouches for may come here. A certificate that matches none of them ends the handshake; there
//! is no other way to be let through. Chains, names and signatures are checked by rustls and webpki.

use std::collections::BTreeSet;
use std::sync::Arc;

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, SHA512, SHA512_OUTPUT_LEN, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::tls::Refused;
use crate::dns::Tlsa;

/// Certificate usage DANE-TA: an authority of the host's own choice (RFC 7671 §5.2).
const DANE_TA: u8 = 2;
/// Certificate usage DANE-EE: the host's very certificate or key (RFC 7671 §5.1).
const DANE_EE: u8 = 3;
/// More records of one host are not looked at: each costs a comparison with each certificate.
const MAX_RECORDS: usize = 64;

/// What a host's certificate is compared with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Anchors {
    /// At least one, all usable.
    records: Vec<Tlsa>,
    /// Names of which a certificate under a DANE-TA record must have one (RFC 7672 §3.2.2).
    names: Vec<ServerName<'static>>,
}

impl Anchors {
    /// From a host's validated records and the names that are its: first the one that the records were found at, then its
    /// own, and the domain's that it is a host of. `None` when no record can be used.
    pub(super) fn new(records: Vec<Tlsa>, names: &[&str]) -> Option<Self> {
        let records = usable(records);
        let names = names.iter().filter_map(|name| ServerName::try_from((*name).to_owned()).ok()).collect();
        if records.is_empty() { None } else { Some(Self { records, names }) }
    }

    /// The name that the records were found at, which the host is asked for (RFC 7672 §8.1).
    pub(super) fn base(&self) -> Option<String> {
        self.names.first().map(|name| name.to_str().into_owned())
    }
}

/// Those that mail can be sent by (RFC 7672 §3.1: usages 0 and 1 are not for SMTP), and of several digests of one thing
/// only the strongest (RFC 7671 §9).
fn usable(mut records: Vec<Tlsa>) -> Vec<Tlsa> {
    records.retain(is_usable);
    let with_sha512: BTreeSet<_> =
        records.iter().filter(|r| r.matching == 2).map(|r| (r.usage, r.selector)).collect();
    records.retain(|r| r.matching != 1 || !with_sha512.contains(&(r.usage, r.selector)));
    records.truncate(MAX_RECORDS);
    records
}

fn is_usable(record: &Tlsa) -> bool {
    let length = record.association.len();
    matches!(record.usage, DANE_TA | DANE_EE)
        && matches!(record.selector, 0 | 1)
        && match record.matching {
            0 => length > 0,
            1 => length == SHA256_OUTPUT_LEN,
            2 => length == SHA512_OUTPUT_LEN,
            _ => false,
        }
}

fn is_match(record: &Tlsa, certificate: &CertificateDer<'_>) -> bool {
    let selected = match record.selector {
        0 => certificate.to_vec(),
        _ => match ParsedCertificate::try_from(certificate) {
            Ok(parsed) => parsed.subject_public_key_info().to_vec(),
            Err(_) => return false,
        },
    };
    match record.matching {
        0 => record.association == selected,
        1 => record.association == digest(&SHA256, &selected).as_ref(),
        2 => record.association == digest(&SHA512, &selected).as_ref(),
        _ => false,
    }
}

/// Compares.
#[derive(Debug)]
pub(super) struct Verifier {
    anchors: Arc<Anchors>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(anchors: Arc<Anchors>, provider: &CryptoProvider) -> Self {
        Self { anchors, algorithms: provider.signature_verification_algorithms }
    }

    fn any(&self, usage: u8, certificate: &CertificateDer<'_>) -> bool {
        self.anchors.records.iter().any(|record| record.usage == usage && is_match(record, certificate))
    }

    /// What the DANE-TA records name, of what the host sent and of what DNS has in full (RFC 7672 §3.1.2).
    fn authorities(&self, intermediates: &[CertificateDer<'_>]) -> RootCertStore {
        let mut found = RootCertStore::empty();
        for certificate in intermediates.iter().filter(|certificate| self.any(DANE_TA, certificate)) {
            // One that cannot be parsed vouches for nobody.
            let _ = found.add(certificate.clone().into_owned());
        }
        for record in &self.anchors.records {
            if (record.usage, record.selector, record.matching) == (DANE_TA, 0, 0) {
                let _ = found.add(CertificateDer::from(record.association.clone()));
            }
        }
        found
    }

    fn has_name(&self, certificate: &ParsedCertificate<'_>) -> Result<(), Error> {
        let mut last = Err(Refused::NoTlsaMatch.into());
        for name in &self.anchors.names {
            last = verify_server_name(certificate, name);
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // RFC 7672 §3.1.1: neither names nor dates count, DNSSEC has said enough.
        if self.any(DANE_EE, end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let authorities = self.authorities(intermediates);
        if authorities.is_empty() {
            return Err(Refused::NoTlsaMatch.into());
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &authorities, intermediates, now, algorithms)?;
        self.has_name(&parsed)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
