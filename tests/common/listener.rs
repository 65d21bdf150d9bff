//! A submission server over a store in memory, as a test wants it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, Version};
use governor::Quota;
use oncemail::clock::{Clock, Timestamp};
use oncemail::dns::{self, Dns};
use oncemail::intake::{self, Intake};
use oncemail::mail::{FingerprintMode, Message, Scope};
use oncemail::store::Store;
use oncemail::store::memory::MemoryStore;
use oncemail::submission::options::{AuthMode, Limits, Listener, Tls, TlsMode, User, Verify};
use oncemail::submission::{Options, Recipients, Server};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::client::Client;

/// The password of every user made here.
pub const PASSWORD: &str = "secret";

/// Of [`PASSWORD`]; the cheapest parameters, since tests are not attacked.
pub static PASSWORD_HASH: LazyLock<String> = LazyLock::new(|| {
    let params = Params::new(Params::MIN_M_COST, 1, 1, None).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password(PASSWORD.as_bytes()).unwrap().to_string()
});

/// A running server. Dropping it cuts it off.
pub struct Running {
    pub address: SocketAddr,
    /// Of every listener, by name.
    pub addresses: Vec<(String, SocketAddr)>,
    pub store: Arc<MemoryStore>,
    pub clock: Clock,
    pub shutdown: CancellationToken,
    pub ended: JoinHandle<()>,
}

impl Running {
    /// Everything plain and open, unless `adjust` says otherwise.
    pub async fn start(adjust: impl FnOnce(&mut Options)) -> Self {
        Self::start_with_grace(Duration::from_secs(30), adjust).await
    }

    /// Asks these about recipients.
    pub async fn start_with(recipients: Recipients, adjust: impl FnOnce(&mut Options)) -> Self {
        Self::start_whole(recipients, Duration::from_secs(30), adjust).await
    }

    pub async fn start_with_grace(grace: Duration, adjust: impl FnOnce(&mut Options)) -> Self {
        Self::start_whole(recipients(), grace, adjust).await
    }

    async fn start_whole(recipients: Recipients, grace: Duration, adjust: impl FnOnce(&mut Options)) -> Self {
        let mut options = options();
        adjust(&mut options);
        let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
        let store = Arc::new(MemoryStore::new(clock.clone(), None));
        let shutdown = CancellationToken::new();
        let (addresses, ended) =
            serve_all(options, store.clone(), &clock, recipients, &shutdown, grace).await;
        Self { address: addresses[0].1, addresses, store, clock, shutdown, ended }
    }

    pub async fn client(&self) -> Client {
        Client::greeted(self.address).await.0
    }

    /// What has been queued, oldest first.
    pub fn messages(&self) -> Vec<Arc<Message>> {
        self.store.messages().into_iter().map(|(message, _)| message).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended.abort();
    }
}

/// Runs a server over any store; gives back its first address.
pub async fn serve(
    options: Options,
    store: Arc<dyn Store>,
    clock: &Clock,
    shutdown: &CancellationToken,
    grace: Duration,
) -> (SocketAddr, JoinHandle<()>) {
    let (addresses, ended) = serve_all(options, store, clock, recipients(), shutdown, grace).await;
    (addresses[0].1, ended)
}

async fn serve_all(
    options: Options,
    store: Arc<dyn Store>,
    clock: &Clock,
    recipients: Recipients,
    shutdown: &CancellationToken,
    grace: Duration,
) -> (Vec<(String, SocketAddr)>, JoinHandle<()>) {
    let intake = Arc::new(Intake::new(store, intake_options(), clock.clone()));
    let server = Server::bind(options, intake, clock.clone(), recipients).await.unwrap();
    (server.addresses(), tokio::spawn(server.run(shutdown.clone(), grace)))
}

/// Nothing is remembered, and nothing is asked unless `verify.mx` is on.
pub fn recipients() -> Recipients {
    Recipients { dns: Arc::new(Dns::new(dns::Options::default())), suppressions: None }
}

pub fn options() -> Options {
    let many = NonZeroU32::new(1_000).unwrap();
    Options {
        hostname: "relay.example".into(),
        listeners: vec![Listener {
            name: "test".into(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: TlsMode::None,
            auth: AuthMode::None,
            allow: vec!["0.0.0.0/0".parse().unwrap()],
            trusted_proxies: Vec::new(),
        }],
        tls: None,
        users: Vec::new(),
        limits: Limits {
            message_size: 1 << 20,
            recipients: 100,
            messages_per_connection: 1_000,
            connections: 100,
            connections_per_ip: 100,
            receive_memory: 8 << 20,
            auth_failures: Quota::per_second(many),
            command_timeout: Duration::from_secs(60),
            data_timeout: Duration::from_secs(60),
            data_block_timeout: Duration::from_secs(60),
        },
        verify: Verify::default(),
    }
}

pub fn user(name: &str) -> User {
    User {
        name: name.into(),
        password_hash: PASSWORD_HASH.clone(),
        senders: Vec::new(),
        scope: Scope::named(name),
        rate: None,
    }
}

/// Writes a new self-signed certificate for `relay.example`, and gives it back for the client to trust.
pub fn write_certificate(directory: &Path) -> (Tls, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["relay.example".to_owned()]).unwrap();
    let tls = Tls {
        certificate_file: directory.join("certificate.pem"),
        key_file: directory.join("key.pem"),
        only_tls13: false,
    };
    write(&tls.key_file, &made.signing_key.serialize_pem());
    write(&tls.certificate_file, &made.cert.pem());
    (tls, made.cert.der().clone())
}

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
pub fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

pub fn intake_options() -> intake::Options {
    intake::Options {
        hostname: "relay.example".into(),
        header: "X-Idempotency-Key".into(),
        ttl: Duration::from_secs(86_400),
        fingerprint: FingerprintMode::Content,
        ignore_headers: Vec::new(),
        fallback: intake::Fallback::None,
        observe: false,
        drop_bcc: false,
    }
}
