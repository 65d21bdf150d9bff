//! Files that a configuration names: read once when it is checked, so that a missing or broken one is told then.
//!
//! Reads are bounded: a path that leads to a device or a log must not fill the memory. What was read may be a secret, and
//! is wiped when it goes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::SignatureAlgorithm;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

/// Nothing that a configuration names is longer, in bytes.
pub(super) const MAX_FILE: u64 = 16 << 20;
/// Room behind a file's content, in bytes.
const END: usize = 64;

/// Reads a text file; the error is a sentence with the path.
pub(super) fn text(path: &Path) -> Result<Zeroizing<String>, String> {
    let mut bytes = bytes(path)?;
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        *bytes = error.into_bytes();
        format!("{} is not UTF-8 text", path.display())
    })
}

/// Reads a file; the error is a sentence with the path.
pub(super) fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(cannot)?;
    // Room for all of it and for the read that finds the end: a buffer that grows would leave copies behind.
    let len = file.metadata().map_err(cannot)?.len().min(MAX_FILE);
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(len).unwrap_or_default() + END));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    match u64::try_from(bytes.len()) {
        Ok(len) if len <= MAX_FILE => Ok(bytes),
        _ => Err(format!("{} is longer than {MAX_FILE} bytes", path.display())),
    }
}

/// Reads a secret without its trailing line end.
pub(super) fn secret(path: &Path) -> Result<Zeroizing<String>, String> {
    let mut secret = text(path)?;
    if secret.ends_with('\n') {
        secret.pop();
        if secret.ends_with('\r') {
            secret.pop();
        }
    }
    Ok(secret)
}

/// Reads a PEM file that must contain a certificate.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = bytes(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("{} contains no certificate in PEM form", path.display())),
        Err(error) => Err(format!("{} is not a PEM file: {error}", path.display())),
    }
}

/// Reads a PEM file that must contain a private key without a passphrase.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = bytes(path)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| format!("{} contains no unencrypted private key in PEM form", path.display()))
}

/// Reads a PEM file with a key to sign with, as it is. Whether it can be used is for the one who signs; here it must
/// be a private key, and of a kind that DKIM has (RFC 6376 §3.3, RFC 8463).
pub(super) fn signing_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let pem = bytes(path)?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| format!("{} contains no unencrypted private key in PEM form", path.display()))?;
    let loaded = ring::default_provider().key_provider.load_private_key(key);
    match loaded.map(|key| key.algorithm()) {
        Ok(SignatureAlgorithm::ECDSA) => {
            Err(format!("{} is an ECDSA key, and DKIM has RSA and Ed25519", path.display()))
        }
        _ => Ok(pem),
    }
}

/// Whether the key is the first certificate's.
pub(super) fn belong_together(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), String> {
    let key = ring::default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| format!("the private key cannot be used: {error}"))?;
    CertifiedKey::new(certificates, key)
        .keys_match()
        .map_err(|_| "the private key does not belong to the first certificate".to_owned())
}
