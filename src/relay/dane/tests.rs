//! Real handshakes in memory, with every usage, selector and matching type.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::relay::security::Verify;
use crate::relay::tls::{Trust, words};

const HOST: &str = "mx.x.example";

/// A root, an authority under it, and a host under that.
struct Chain {
    root: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    host: CertificateDer<'static>,
    key: KeyPair,
}

fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Chain {
    fn new(host: &str) -> Self {
        Self::of(params("host", &[host]))
    }

    fn expired() -> Self {
        let mut params = params("host", &[HOST]);
        (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
        Self::of(params)
    }

    fn of(host: CertificateParams) -> Self {
        let root = CertifiedIssuer::self_signed(authority("root"), KeyPair::generate().unwrap()).unwrap();
        let between =
            CertifiedIssuer::signed_by(authority("between"), KeyPair::generate().unwrap(), &root).unwrap();
        let key = KeyPair::generate().unwrap();
        let made = host.signed_by(&key, &between).unwrap();
        let (root, authority) = (root.der().clone(), between.der().clone());
        Self { root, authority, host: made.der().clone(), key }
    }

    /// Sends all but the root, which hosts leave out.
    fn sent(&self) -> Vec<CertificateDer<'static>> {
        vec![self.host.clone(), self.authority.clone()]
    }

    async fn meets(&self, records: Vec<Tlsa>) -> Result<(), String> {
        shake(self.sent(), &self.key, records).await
    }
}

/// A handshake with a host that shows `sent` and signs with `key`.
async fn shake(sent: Vec<CertificateDer<'static>>, key: &KeyPair, records: Vec<Tlsa>) -> Result<(), String> {
    let anchors = Anchors::new(records, &[HOST, "x.example"]).expect("usable records");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = provider.key_provider.load_private_key(key).unwrap();
    let shown = Arc::new(SingleCertAndKey::from(CertifiedKey::new(sent, key)));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(shown);
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(TlsAcceptor::from(Arc::new(config)).accept(far));
    let trust = Trust::system(Arc::default());
    let handshake = trust.handshake(&Verify::Dane(Arc::new(anchors)), false).await.unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    handshake.connector.connect(name, near).await.map(drop).map_err(|error| {
        let inner = error.into_inner().expect("an error of rustls");
        words(inner.downcast_ref::<Error>().unwrap())
    })
}

fn record(usage: u8, selector: u8, matching: u8, certificate: &CertificateDer<'_>) -> Tlsa {
    let selected = match selector {
        0 => certificate.to_vec(),
        _ => ParsedCertificate::try_from(certificate).unwrap().subject_public_key_info().to_vec(),
    };
    let association = match matching {
        0 => selected,
        1 => digest(&SHA256, &selected).as_ref().to_vec(),
        _ => digest(&SHA512, &selected).as_ref().to_vec(),
    };
    Tlsa { usage, selector, matching, association }
}

const KINDS: [(u8, u8); 6] = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];

#[tokio::test]
async fn the_hosts_own_certificate_or_key_is_enough_without_name_or_date() {
    let (good, expired, other) = (Chain::new(HOST), Chain::expired(), Chain::new("other.example"));
    for (selector, matching) in KINDS {
        for chain in [&good, &expired, &other] {
            let met = chain.meets(vec![record(DANE_EE, selector, matching, &chain.host)]).await;
            assert_eq!(met, Ok(()), "3 {selector} {matching}");
        }
        let met = good.meets(vec![record(DANE_EE, selector, matching, &other.host)]).await;
        assert!(met.unwrap_err().contains("none of the host's TLSA records"));
        // An authority is no end entity.
        assert!(good.meets(vec![record(DANE_EE, selector, matching, &good.authority)]).await.is_err());
    }
}

#[tokio::test]
async fn an_authority_of_the_hosts_choice_vouches_for_its_name_and_date() {
    let (good, expired, other) = (Chain::new(HOST), Chain::expired(), Chain::new("other.example"));
    // RFC 7672 §3.2.2: the domain's name is as good as the host's.
    let for_domain = Chain::new("x.example");
    for (selector, matching) in KINDS {
        let of = |chain: &Chain| vec![record(DANE_TA, selector, matching, &chain.authority)];
        assert_eq!(good.meets(of(&good)).await, Ok(()), "2 {selector} {matching}");
        assert_eq!(for_domain.meets(of(&for_domain)).await, Ok(()));
        assert!(expired.meets(of(&expired)).await.unwrap_err().contains("expired"));
        assert!(other.meets(of(&other)).await.unwrap_err().contains("not valid for name"));
        assert!(good.meets(of(&other)).await.is_err(), "an authority of the same name");
        // A certificate does not become an authority by being shown first.
        assert!(good.meets(vec![record(DANE_TA, selector, matching, &good.host)]).await.is_err());
    }
}

#[tokio::test]
async fn an_authority_that_is_not_sent_counts_only_when_dns_has_it_in_full() {
    let good = Chain::new(HOST);
    assert_eq!(good.meets(vec![record(DANE_TA, 0, 0, &good.root)]).await, Ok(()));
    assert!(good.meets(vec![record(DANE_TA, 0, 1, &good.root)]).await.is_err());
    let all = vec![good.host.clone(), good.authority.clone(), good.root.clone()];
    assert_eq!(shake(all, &good.key, vec![record(DANE_TA, 0, 1, &good.root)]).await, Ok(()));
}

#[tokio::test]
async fn an_authority_that_is_sent_along_vouches_only_for_what_it_has_signed() {
    let (good, impostor) = (Chain::new(HOST), Chain::new(HOST));
    let sent = vec![impostor.host.clone(), good.authority.clone()];
    let met = shake(sent, &impostor.key, vec![record(DANE_TA, 0, 1, &good.authority)]).await;
    assert!(met.is_err(), "{met:?}");
}

#[tokio::test]
async fn a_copied_certificate_without_its_key_is_refused() {
    let (good, thief) = (Chain::new(HOST), KeyPair::generate().unwrap());
    let met = shake(good.sent(), &thief, vec![record(DANE_EE, 0, 0, &good.host)]).await;
    assert!(met.is_err(), "{met:?}");
}

#[tokio::test]
async fn one_record_that_matches_is_enough() {
    let (good, other) = (Chain::new(HOST), Chain::new(HOST));
    let records = vec![record(DANE_EE, 1, 1, &other.host), record(DANE_TA, 0, 1, &good.authority)];
    assert_eq!(good.meets(records).await, Ok(()));
}

#[test]
fn records_that_cannot_be_used_are_as_good_as_none() {
    let with =
        |usage, selector, matching, length| Tlsa { usage, selector, matching, association: vec![7; length] };
    for unusable in [
        with(0, 0, 1, 32),
        with(1, 1, 1, 32),
        with(4, 0, 1, 32),
        with(3, 2, 1, 32),
        with(3, 1, 3, 32),
        with(3, 1, 1, 31),
        with(3, 1, 2, 32),
        with(3, 1, 0, 0),
    ] {
        assert_eq!(Anchors::new(vec![unusable.clone()], &[HOST]), None, "{unusable:?}");
    }
    assert!(Anchors::new(vec![with(0, 0, 1, 32), with(3, 1, 1, 32)], &[HOST]).is_some());
    assert_eq!(Anchors::new(Vec::new(), &[HOST]), None);
}

#[test]
fn of_two_digests_of_one_thing_the_stronger_counts() {
    let chain = Chain::new(HOST);
    let (weak, strong) = (record(DANE_EE, 1, 1, &chain.host), record(DANE_EE, 1, 2, &chain.host));
    let elsewhere = record(DANE_TA, 1, 1, &chain.authority);
    let kept = usable(vec![weak, elsewhere.clone(), strong.clone()]);
    assert_eq!(kept, [elsewhere, strong]);
}

#[test]
fn s2_records_are_bounded() {
    let record = Tlsa { usage: 3, selector: 1, matching: 1, association: vec![7; 32] };
    assert_eq!(usable(vec![record; 10_000]).len(), MAX_RECORDS);
}
