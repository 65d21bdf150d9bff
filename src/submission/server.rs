//! Binds the listeners, lets clients in, and ends in order.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::admission::admit;
use super::metrics::SubmissionMetrics;
use super::options::{Options, TlsMode};
use super::passwords::BadHash;
use super::reception::{Furnishing, Place, Reception};
use super::recipients::Recipients;
use super::tls::TlsError;
use crate::clock::Clock;
use crate::intake::Intake;

/// After a failed accept, such as for want of file descriptors, the next is tried this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// And the log says so no more often than this.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Listeners that are bound and wait to be run.
pub struct Server {
    listeners: Vec<(TcpListener, SocketAddr, Arc<ArcSwap<Place>>)>,
    reception: Reception,
}

/// Sockets that are bound already and were handed to this process, by the names of their listeners.
pub type Inherited = Vec<(String, std::net::TcpListener)>;

/// Why the listeners could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, not ours, or not allowed. As in all of these, the source says why.
    #[error("listener {listener:?} cannot listen on {address}")]
    Address {
        /// `[[listener]] name`.
        listener: String,
        /// Its address.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// A socket was handed over for a listener that belongs elsewhere: its rules are for another address.
    #[error(
        "listener {listener:?} is to listen on {address}, and the socket handed over for it is on {bound}"
    )]
    Elsewhere {
        /// `[[listener]] name`.
        listener: String,
        /// Its address.
        address: SocketAddr,
        /// Where the socket is.
        bound: SocketAddr,
    },
    /// A socket was handed over under a name that no listener has.
    #[error("a socket named {name:?} was handed over, and it is no [[listener]]'s (FileDescriptorName=)")]
    Nobodys {
        /// Its name.
        name: String,
    },
    /// A listener offers TLS and there is no certificate.
    #[error("listener {listener:?} offers TLS, and [tls] is missing")]
    TlsMissing {
        /// `[[listener]] name`.
        listener: String,
    },
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A user's password hash cannot be used.
    #[error("user {user:?}")]
    PasswordHash {
        /// `[[user]] name`.
        user: String,
        /// What is wrong with it.
        source: BadHash,
    },
    /// `verify.disposable_file` cannot be read.
    #[error("verify.disposable_file {file:?} cannot be read")]
    DisposableFile {
        /// Which.
        file: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

impl Server {
    /// Reads the certificate and the file of disposable domains, and binds every listener.
    ///
    /// # Errors
    /// Names the listener and address, the file, or the user that stands in the way; nothing stays bound.
    pub async fn bind(
        options: Options,
        intake: Arc<Intake>,
        clock: Clock,
        recipients: Recipients,
    ) -> Result<Self, BindError> {
        Self::bind_with(options, Inherited::new(), intake, clock, recipients).await
    }

    /// The same, with sockets that are bound already, each under the name of its listener.
    ///
    /// # Errors
    /// As [`Server::bind`], and names a socket that is not where its listener should be, or nobody's.
    pub async fn bind_with(
        options: Options,
        mut inherited: Inherited,
        intake: Arc<Intake>,
        clock: Clock,
        recipients: Recipients,
    ) -> Result<Self, BindError> {
        let furnishing = Furnishing::new(options, recipients, &clock)?;
        let mut listeners = Vec::new();
        for listener in &furnishing.options.listeners {
            if listener.tls != TlsMode::None && furnishing.certificate.is_none() {
                return Err(BindError::TlsMissing { listener: listener.name.clone() });
            }
            let bind_error = |source| BindError::Address {
                listener: listener.name.clone(),
                address: listener.address,
                source,
            };
            let handed = inherited.iter().position(|(name, _)| *name == listener.name);
            let socket = match handed.map(|at| inherited.swap_remove(at)) {
                Some((_, socket)) => adopt(socket).map_err(bind_error)?,
                None => TcpListener::bind(listener.address).await.map_err(bind_error)?,
            };
            let address = socket.local_addr().map_err(bind_error)?;
            if handed.is_some() && !is_same(listener.address, address) {
                let (listener, configured) = (listener.name.clone(), listener.address);
                return Err(BindError::Elsewhere { listener, address: configured, bound: address });
            }
            listeners.push((socket, address));
        }
        if let Some((name, _)) = inherited.pop() {
            return Err(BindError::Nobodys { name });
        }
        let reception = Reception::open(furnishing, intake, clock)?;
        let places = reception.places();
        let listeners =
            listeners.into_iter().zip(places).map(|((socket, address), place)| (socket, address, place));
        Ok(Self { listeners: listeners.collect(), reception })
    }

    /// Where new connections find what they are told; for a change while the server runs.
    pub fn reception(&self) -> Reception {
        self.reception.clone()
    }

    /// Each listener's name and the address that it is bound to.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.listeners
            .iter()
            .map(|(_, address, place)| (place.load().entrance.listener.name.clone(), *address))
            .collect()
    }

    /// What is counted while the server runs.
    pub fn metrics(&self) -> Arc<SubmissionMetrics> {
        self.reception.metrics()
    }

    /// Serves until `shutdown`, then lets messages that are being received come to their end, no longer than `grace`.
    /// Gives back when every session has ended; earlier only when a listener has broken down.
    pub async fn run(self, shutdown: CancellationToken, grace: Duration) {
        self.run_within(shutdown, || grace).await;
    }

    /// The same, with a `grace` that is asked for when the end has come.
    pub async fn run_within(self, shutdown: CancellationToken, grace: impl Fn() -> Duration) {
        // A child, so that one listener's end can end the others.
        let shutdown = shutdown.child_token();
        let cut = CancellationToken::new();
        let mut running = JoinSet::new();
        for (socket, _, place) in self.listeners {
            let port = Port { socket, place };
            running.spawn(port.run(shutdown.clone(), cut.clone()));
        }
        watch_over(running, shutdown, cut, grace).await;
    }
}

/// Waits for the end of every listener. One that ends before `shutdown` ends all: whoever runs the server must hear of
/// it, instead of serving on with a part of what was configured.
async fn watch_over(
    mut running: JoinSet<()>,
    shutdown: CancellationToken,
    cut: CancellationToken,
    grace: impl Fn() -> Duration,
) {
    tokio::select! {
        // First, because listeners end as soon as it is so.
        biased;
        () = shutdown.cancelled() => {}
        Some(_) = running.join_next() => {
            if !shutdown.is_cancelled() {
                tracing::error!("a listener broke down");
                shutdown.cancel();
            }
        }
    }
    let all_ended = async { while running.join_next().await.is_some() {} };
    if timeout(grace(), all_ended).await.is_err() {
        tracing::warn!("sessions that did not end in time are cut off");
        cut.cancel();
        while running.join_next().await.is_some() {}
    }
}

/// One listener at work.
struct Port {
    socket: TcpListener,
    place: Arc<ArcSwap<Place>>,
}

impl Port {
    async fn run(self, shutdown: CancellationToken, cut: CancellationToken) {
        let mut sessions = JoinSet::new();
        let mut warned_at: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = sessions.join_next() => note_end(ended),
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, peer)) => {
                        // As it is now; the connection keeps it to its end.
                        admit(&self.place.load(), stream, peer, &shutdown, &mut sessions);
                    }
                    Err(error) if is_clients_fault(&error) => {}
                    Err(error) => {
                        if warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                            warned_at = Some(Instant::now());
                            let listener = &self.place.load().entrance.listener.name;
                            tracing::warn!(listener, %error, "accept failed");
                        }
                        let _ = timeout(ACCEPT_PAUSE, shutdown.cancelled()).await;
                    }
                },
            }
        }
        // Stop listening before the wait, so that clients go elsewhere.
        drop(self.socket);
        loop {
            tokio::select! {
                ended = sessions.join_next() => match ended {
                    Some(ended) => note_end(ended),
                    None => return,
                },
                () = cut.cancelled() => return sessions.shutdown().await,
            }
        }
    }
}

fn adopt(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Port 0 is any port.
fn is_same(configured: SocketAddr, bound: SocketAddr) -> bool {
    configured.ip() == bound.ip() && [0, bound.port()].contains(&configured.port())
}

fn note_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a session panicked; its connection is closed, the others go on");
    }
}

/// The client was gone before it was let in.
fn is_clients_fault(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::Quota;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use tokio::net::TcpStream;

    use super::super::admission::canonical;
    use super::super::visit::Visit;
    use super::*;
    use crate::clock::Timestamp;
    use crate::dns::{self, Dns};
    use crate::intake;
    use crate::mail::FingerprintMode;
    use crate::smtp::session::Input;
    use crate::store::memory::MemoryStore;
    use crate::submission::options::{self, AuthMode, Limits, Listener};

    fn options() -> Options {
        let minute = Duration::from_secs(60);
        Options {
            hostname: "relay.example".into(),
            listeners: vec![Listener {
                name: "test".into(),
                address: SocketAddr::from(([127, 0, 0, 1], 0)),
                tls: TlsMode::None,
                auth: AuthMode::Optional,
                allow: vec!["192.0.2.0/24".parse().unwrap(), "127.0.0.0/8".parse().unwrap()],
                trusted_proxies: Vec::new(),
            }],
            tls: None,
            users: Vec::new(),
            limits: Limits {
                message_size: 1_000,
                recipients: 10,
                messages_per_connection: 10,
                connections: 10,
                connections_per_ip: 1,
                receive_memory: 10_000,
                auth_failures: Quota::per_minute(NonZeroU32::MIN),
                command_timeout: minute,
                data_timeout: minute,
                data_block_timeout: minute,
            },
            verify: options::Verify::default(),
        }
    }

    async fn port() -> Port {
        let clock = Clock::manual(Timestamp::from_millis(1));
        let intake = intake::Options {
            hostname: "relay.example".into(),
            header: "X-Idempotency-Key".into(),
            ttl: Duration::from_secs(60),
            fingerprint: FingerprintMode::Content,
            ignore_headers: Vec::new(),
            fallback: intake::Fallback::None,
            observe: false,
            drop_bcc: false,
        };
        let store = Arc::new(MemoryStore::new(clock.clone(), None));
        let intake = Arc::new(Intake::new(store, intake, clock.clone()));
        let dns = Arc::new(Dns::new(dns::Options::default()));
        let recipients = Recipients { dns, suppressions: None };
        let mut server = Server::bind(options(), intake, clock, recipients).await.unwrap();
        let (socket, _, place) = server.listeners.remove(0);
        Port { socket, place }
    }

    /// A dual-stack socket reports IPv4 clients as `::ffff:192.0.2.7`.
    #[tokio::test]
    async fn an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() {
        let (port, shutdown, mut sessions) = (port().await, CancellationToken::new(), JoinSet::new());
        let mut admit = async |peer: &str| {
            let (ours, theirs) =
                tokio::join!(port.socket.accept(), TcpStream::connect(port.socket.local_addr().unwrap()));
            admit(&port.place.load(), ours.unwrap().0, peer.parse().unwrap(), &shutdown, &mut sessions);
            let mut theirs = theirs.unwrap();
            theirs.write_all(b"EHLO c\r\n").await.unwrap();
            let mut said = vec![0; 1_000];
            let read = theirs.read(&mut said).await.unwrap();
            (theirs, String::from_utf8_lossy(&said[..read]).into_owned())
        };
        // `allow`, and then the limit of each address.
        let (_open, first) = admit("[::ffff:192.0.2.7]:1").await;
        assert!(first.starts_with("220 "), "{first}");
        let (_, second) = admit("192.0.2.7:2").await;
        assert!(second.starts_with("421 4.7.0 "), "{second}");
        let (_, stranger) = admit("[::ffff:198.51.100.1]:3").await;
        assert!(stranger.starts_with("554 "), "{stranger}");
        let (_, stranger) = admit("[2001:db8::1]:3").await;
        assert!(stranger.starts_with("554 "), "{stranger}");
    }

    #[tokio::test]
    async fn a_mapped_loopback_address_is_loopback() {
        let port = port().await;
        let is_offered = |client: &str, is_proxied| {
            let client = canonical(client.parse().unwrap());
            let visit = Visit {
                shared: port.place.load().shared.clone(),
                entrance: port.place.load().entrance.clone(),
                client,
                is_proxied,
                budget: port.place.load().shared.budget.clone(),
                shutdown: CancellationToken::new(),
            };
            let (_, action) = visit.session(None).step(Input::Line(b"EHLO c", Timestamp::default()));
            format!("{action:?}").contains("AUTH PLAIN LOGIN")
        };
        for (client, expected) in [
            ("[::ffff:127.0.0.1]:1", true),
            ("[::1]:1", true),
            ("127.0.0.2:1", true),
            ("[::ffff:192.0.2.7]:1", false),
            ("[2001:db8::1]:1", false),
        ] {
            assert_eq!(is_offered(client, false), expected, "{client}");
            assert!(!is_offered(client, true), "{client}: a header makes nobody a client of this machine");
        }
    }

    #[tokio::test]
    async fn a_listener_that_panics_ends_the_others_and_the_server() {
        let (shutdown, cut) = (CancellationToken::new(), CancellationToken::new());
        let mut running = JoinSet::new();
        let stop = shutdown.clone();
        running.spawn(async move { stop.cancelled().await });
        running.spawn(async { panic!("for the test") });
        watch_over(running, shutdown.clone(), cut.clone(), || Duration::from_secs(60)).await;
        assert!(shutdown.is_cancelled() && !cut.is_cancelled());
    }
}
