//! Certificates of every kind, good and bad, made as they are needed.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Who signs.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a host shows: its chain, itself first, and its key.
pub struct Presented {
    pub chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn write(&self, file: &Path) {
        write(file, &self.0.pem());
    }

    /// A good certificate for these names and addresses.
    pub fn signs(&self, names: &[&str]) -> Presented {
        self.sign(named("a host", names))
    }

    /// One that was good until 2020.
    pub fn signed_long_ago(&self, names: &[&str]) -> Presented {
        let mut params = named("a host", names);
        (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Presented {
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.0).unwrap();
        Presented { chain: vec![made.der().clone(), self.0.der().clone()], key, pem: made.pem() }
    }
}

impl Presented {
    /// Nobody signs but itself.
    pub fn self_signed(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let made = named("a host", names).self_signed(&key).unwrap();
        Self { chain: vec![made.der().clone()], key, pem: made.pem() }
    }

    /// For a server that asks nobody for a certificate.
    pub fn server(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.private_key());
        Arc::new(config.unwrap())
    }

    /// For a server that takes nobody without a certificate by `clients`, in TLS 1.2, where it says so at once.
    pub fn server_that_asks(&self, clients: &Authority) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(clients.0.der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.private_key());
        Arc::new(config.unwrap())
    }

    /// As PEM files.
    pub fn write(&self, certificate_file: &Path, key_file: &Path) {
        write(certificate_file, &self.pem);
        write(key_file, &self.key.serialize_pem());
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

fn named(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn write(file: &Path, text: &str) {
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(file, text).unwrap();
}
