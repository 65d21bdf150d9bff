//! Whether the DNS has the public half of a DKIM key (RFC 6376 §3.6.1, RFC 8463 §4), so that receivers can verify.

use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{GeneralPurposeConfig, STANDARD as BASE64};
use ring::rsa;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::dns::{Dns, Fault};
use crate::relay::options::DkimKey;

/// AlgorithmIdentifier of an RSA key (RFC 3279 §2.3.1), in DER.
const RSA_ALGORITHM: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unverifiable {
    /// The private key cannot be read.
    #[error("the private key cannot be used: {0}")]
    Key(String),
    /// There is none.
    #[error("{0}")]
    Missing(Fault),
    /// DNS is in trouble.
    #[error("{0}")]
    Unknown(Fault),
    /// RFC 6376 §3.6.1: receivers take one.
    #[error("there are {0} records, and receivers take one")]
    Several(usize),
    /// `p=` is empty.
    #[error("the record says that the key is revoked (p= is empty)")]
    Revoked,
    /// `k=`.
    #[error("the record is for {0} keys, and this is a key for {1}")]
    Kind(String, &'static str),
    /// `h=` has no SHA-256.
    #[error("the record allows no SHA-256 (h={0})")]
    Hash(String),
    /// `s=` is about something else.
    #[error("the record is not for mail (s={0})")]
    Service(String),
    /// No `p=`, or one that is no base64, or another version.
    #[error("the record cannot be read: {0}")]
    Malformed(&'static str),
    /// It is another key's.
    #[error("the record has another public key")]
    Other,
}

/// A record that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// `rsa` or `ed25519`.
    pub kind: &'static str,
    /// Of an RSA key.
    pub bits: Option<usize>,
    /// `t=y`: receivers are asked not to rely on it.
    pub testing: bool,
}

/// The public half.
struct Public {
    kind: &'static str,
    bits: Option<usize>,
    /// What `p=` may be: SubjectPublicKeyInfo, which everybody writes, or what RFC 6376 says.
    forms: Vec<Vec<u8>>,
}

/// Where the DNS has the key's public half.
pub fn name(key: &DkimKey) -> String {
    format!("{}._domainkey.{}", key.selector, key.domain)
}

/// What is to be published for a key.
///
/// # Errors
/// The key cannot be used.
pub fn record(key: &DkimKey) -> Result<String, Unverifiable> {
    let public = Public::of(&key.key)?;
    let encoded = public.forms.first().map(|form| BASE64.encode(form)).unwrap_or_default();
    Ok(format!("v=DKIM1; k={}; p={encoded}", public.kind))
}

/// Looks the record up and compares it.
///
/// # Errors
/// It is not there, or of no use to receivers.
pub async fn check(key: &DkimKey, dns: &Dns) -> Result<Published, Unverifiable> {
    let public = Public::of(&key.key)?;
    let found = dns.txt(&name(key)).await.map_err(|fault| match fault {
        Fault::Temporary(_) => Unverifiable::Unknown(fault),
        fault => Unverifiable::Missing(fault),
    })?;
    match found.found.as_slice() {
        [record] => public.compare(record),
        records => Err(Unverifiable::Several(records.len())),
    }
}

impl Public {
    fn of(pem: &[u8]) -> Result<Self, Unverifiable> {
        let unusable = |error: &dyn std::fmt::Display| Unverifiable::Key(error.to_string());
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| unusable(&error))?;
        let key = match &der {
            PrivateKeyDer::Pkcs8(pkcs8) => {
                let pkcs8 = pkcs8.secret_pkcs8_der();
                if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8) {
                    let form = key.public_key().as_ref().to_vec();
                    return Ok(Self { kind: "ed25519", bits: None, forms: vec![form] });
                }
                rsa::KeyPair::from_pkcs8(pkcs8)
            }
            PrivateKeyDer::Pkcs1(pkcs1) => rsa::KeyPair::from_der(pkcs1.secret_pkcs1_der()),
            _ => return Err(unusable(&"it is neither PKCS#8 nor PKCS#1")),
        };
        let key = key.map_err(|error| unusable(&error))?;
        let bare = key.public().as_ref().to_vec();
        let bits = Some(key.public().modulus_len() * 8);
        Ok(Self { kind: "rsa", bits, forms: vec![public_key_info(&bare), bare] })
    }

    fn compare(&self, record: &str) -> Result<Published, Unverifiable> {
        let tag = |wanted: &str| {
            let tags = record.split(';').filter_map(|tag| tag.split_once('='));
            let mut named = tags.filter(|(name, _)| name.trim() == wanted).map(|(_, value)| value.trim());
            named.next()
        };
        let lists = |list: &str, word: &str| list.split(':').any(|other| other.trim() == word);
        if tag("v").is_some_and(|version| version != "DKIM1") {
            return Err(Unverifiable::Malformed("its version is not DKIM1"));
        }
        let kind = tag("k").unwrap_or("rsa");
        if kind != self.kind {
            return Err(Unverifiable::Kind(kind.to_owned(), self.kind));
        }
        if let Some(hashes) = tag("h").filter(|hashes| !lists(hashes, "sha256")) {
            return Err(Unverifiable::Hash(hashes.to_owned()));
        }
        if let Some(services) = tag("s").filter(|services| !lists(services, "*") && !lists(services, "email"))
        {
            return Err(Unverifiable::Service(services.to_owned()));
        }
        let published = tag("p").ok_or(Unverifiable::Malformed("it has no p="))?;
        let published: String = published.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if published.is_empty() {
            return Err(Unverifiable::Revoked);
        }
        let config = GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
        let lenient = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
        let published =
            lenient.decode(published).map_err(|_| Unverifiable::Malformed("its p= is no base64"))?;
        if !self.forms.contains(&published) {
            return Err(Unverifiable::Other);
        }
        let testing = tag("t").is_some_and(|flags| lists(flags, "y"));
        Ok(Published { kind: self.kind, bits: self.bits, testing })
    }
}

/// SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) around an RSAPublicKey.
fn public_key_info(key: &[u8]) -> Vec<u8> {
    // No bits of the last octet are unused.
    let bits = element(0x03, &[&[0], key].concat());
    element(0x30, &[RSA_ALGORITHM.as_slice(), &bits].concat())
}

/// Tag, length, content (X.690 §8.1.3).
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let octets = content.len().to_be_bytes();
    let length: Vec<u8> = octets.into_iter().skip_while(|octet| *octet == 0).collect();
    let mut element = vec![tag];
    match length.as_slice() {
        [] => element.push(0),
        [short] if *short < 0x80 => element.push(*short),
        long => {
            element.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            element.extend_from_slice(long);
        }
    }
    element.extend_from_slice(content);
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = include_str!("../../../tests/fixtures/dkim/rsa.pem");
    const RSA_PKCS1: &str = include_str!("../../../tests/fixtures/dkim/rsa_pkcs1.pem");
    const RSA_PUBLIC: &str = include_str!("../../../tests/fixtures/dkim/rsa.pub");
    const ED25519: &str = include_str!("../../../tests/fixtures/dkim/ed25519.pem");
    const ED25519_PUBLIC: &str = include_str!("../../../tests/fixtures/dkim/ed25519.pub");

    fn compared(pem: &str, record: &str) -> Result<Published, Unverifiable> {
        Public::of(pem.as_bytes()).unwrap().compare(record)
    }

    #[test]
    fn a_record_fits_its_key_and_no_other() {
        let (rsa, ed) = (RSA_PUBLIC.trim(), ED25519_PUBLIC.trim());
        let found = compared(RSA, &format!("v=DKIM1; k=rsa; t=s; p={rsa}")).unwrap();
        assert_eq!((found.kind, found.bits, found.testing), ("rsa", Some(2048), false));
        // Without its tags, in pieces, without padding: all of it is a record.
        let (one, other) = rsa.split_at(99);
        let bare = format!("p={one} \t{}", other.trim_end_matches('='));
        assert!(compared(RSA_PKCS1, &bare).is_ok() || compared(RSA, &bare).is_ok());
        assert!(compared(ED25519, &format!("k=ed25519;t=y:s;p={ed};")).unwrap().testing);
        assert_eq!(compared(RSA, &format!("k=rsa; p={ed}")), Err(Unverifiable::Other));
        let wrong_kind = compared(ED25519, &format!("p={ed}"));
        assert_eq!(wrong_kind, Err(Unverifiable::Kind("rsa".to_owned(), "ed25519")));
    }

    #[test]
    fn what_is_published_is_what_openssl_prints() {
        let of = |pem: &str| {
            let key = zeroize::Zeroizing::new(pem.as_bytes().to_vec());
            record(&DkimKey { domain: "d.example".into(), selector: "s".into(), key }).unwrap()
        };
        assert_eq!(of(RSA), format!("v=DKIM1; k=rsa; p={}", RSA_PUBLIC.trim()));
        assert_eq!(of(ED25519), format!("v=DKIM1; k=ed25519; p={}", ED25519_PUBLIC.trim()));
    }

    #[test]
    fn a_record_that_helps_no_receiver_says_why() {
        let rsa = RSA_PUBLIC.trim();
        for (record, expected) in [
            ("v=DKIM1; p=", Unverifiable::Revoked),
            ("v=DKIM1; k=rsa", Unverifiable::Malformed("it has no p=")),
            ("p=!!", Unverifiable::Malformed("its p= is no base64")),
            ("v=DKIM2; p=x", Unverifiable::Malformed("its version is not DKIM1")),
            (&format!("h=sha1; p={rsa}"), Unverifiable::Hash("sha1".to_owned())),
            (&format!("s=tlsrpt; p={rsa}"), Unverifiable::Service("tlsrpt".to_owned())),
        ] {
            assert_eq!(compared(RSA, record), Err(expected), "{record}");
        }
        assert!(matches!(Public::of(b"no key"), Err(Unverifiable::Key(_))));
    }
}
