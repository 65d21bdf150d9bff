//! What a connection turns out to be, by what was asked of it. The routes' policies are tested in `tests/tls_policy.rs`.

use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clock::Clock;
use crate::dns::Tlsa;
use crate::relay::dane::Anchors;
use crate::relay::security::Line;
use crate::relay::tls_report::{Policy, TlsReport};

const NAME: &str = "mx.x.example";

/// Takes one connection through STARTTLS, with a certificate for [`NAME`] that signs itself.
async fn far_side() -> (SocketAddr, CertifiedKey<KeyPair>) {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut plain = BufReader::new(listener.accept().await?.0);
        let mut line = String::new();
        for reply in ["220 far.example\r\n", "250-far.example\r\n250 STARTTLS\r\n", "220 go\r\n"] {
            plain.write_all(reply.as_bytes()).await?;
            if reply != "220 go\r\n" {
                plain.read_line(&mut line).await?;
            }
        }
        let mut stream =
            BufReader::new(TlsAcceptor::from(Arc::new(config)).accept(plain.into_inner()).await?);
        stream.read_line(&mut line).await?;
        stream.write_all(b"250-far.example\r\n250 REQUIRETLS\r\n").await?;
        stream.read_to_end(&mut Vec::new()).await
    });
    (address, made)
}

fn tlsa(association: &[u8]) -> Verify {
    let record = Tlsa { usage: 3, selector: 0, matching: 0, association: association.to_vec() };
    Verify::Dane(Arc::new(Anchors::new(vec![record], &[NAME]).unwrap()))
}

async fn open(address: SocketAddr, demand: &Demand) -> Result<Ready, Trouble> {
    open_with(address, demand, &Trust::system(Arc::default())).await
}

async fn open_with(address: SocketAddr, demand: &Demand, trust: &Trust) -> Result<Ready, Trouble> {
    let host = Host { name: NAME.to_owned(), port: address.port() };
    let (hostname, timeouts) = ("relay.example", Timeouts::default());
    Opening {
        host: &host,
        hostname,
        demand,
        trust,
        auth: None,
        source: None,
        dialer: None,
        timeouts: &timeouts,
    }
    .run(address)
    .await
}

#[tokio::test]
async fn a_host_that_its_tlsa_record_names_is_verified_by_dane() {
    let (address, made) = far_side().await;
    let demand = Demand { level: Level::StartTls(tlsa(made.cert.der())), account: None, is_known: true };
    let ready = open(address, &demand).await.unwrap_or_else(|trouble| panic!("{trouble:?}"));
    assert_eq!((ready.tls.as_str(), ready.is_verified), ("TLSv1.3 dane", true));
    assert!(ready.capabilities.requiretls && !ready.capabilities.starttls);
}

#[tokio::test]
async fn r2_a_host_that_its_tlsa_record_does_not_name_is_not_used() {
    let (address, _) = far_side().await;
    let demand = Demand { level: Level::StartTls(tlsa(b"another")), account: None, is_known: true };
    let trouble = open(address, &demand).await.err().unwrap();
    assert!(trouble.text.contains("none of the host's TLSA records"), "{trouble:?}");
    assert_eq!(trouble.code, 0);
}

#[tokio::test]
async fn encryption_without_a_name_is_not_called_verified() {
    let (address, _) = far_side().await;
    let demand = Demand { level: Level::StartTls(Verify::Nothing), account: None, is_known: true };
    let ready = open(address, &demand).await.unwrap_or_else(|trouble| panic!("{trouble:?}"));
    assert_eq!((ready.tls.as_str(), ready.is_verified), ("TLSv1.3 unverified", false));
}

#[tokio::test]
async fn a_certificate_that_is_only_watched_is_let_through_and_counted() {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
    let authority = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(&file, authority.pem()).unwrap();
    let (address, _) = far_side().await;
    let report = Arc::new(TlsReport::new(Clock::system()));
    let line = Line { domain: "x.example".into(), policy: Policy::Sts, fails: None, watched: true };
    let demand = Demand {
        level: Level::Opportunistic,
        account: Some(Account::new(report.clone(), line)),
        is_known: true,
    };
    let ready = open_with(address, &demand, &Trust::only(&file).unwrap()).await;
    let ready = ready.unwrap_or_else(|trouble| panic!("{trouble:?}"));
    assert_eq!(ready.tls, "TLSv1.3 unverified");
    let days = report.snapshot();
    let sessions = &days[0].sessions[&("x.example".to_owned(), Policy::Sts)];
    assert_eq!((sessions.successes, sessions.failures[&Failure::CertificateNotTrusted]), (0, 1));
}

#[test]
fn r2_a_password_goes_only_to_a_host_that_is_verified_or_our_own() {
    let (near, far) = ("127.0.0.1:587".parse().unwrap(), "192.0.2.1:587".parse().unwrap());
    for (address, tls, is_verified, is_fine) in [
        (far, "TLSv1.3 verified", true, true),
        (far, "TLSv1.3 unverified", false, false),
        (far, "", false, false),
        (near, "", false, true),
    ] {
        let told = may_authenticate(address, tls, is_verified);
        assert_eq!(told.is_ok(), is_fine, "{told:?}");
    }
}
