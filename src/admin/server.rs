//! Serves the API over the unix socket and, where it is wanted, over TCP.
//!
//! HTTP/1.1 only. Every connection is bounded: in number, in the time that a request's head and body may take, and in
//! the time that an answer may wait for its reader.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Peer};
use super::counts::Counts;
use super::crowd::Crowd;
use super::gate::Gate;
use super::live::{Live, STREAMS};
use super::options::{Options, Token};
use super::patient::Patient;
use super::ports::{Outbound, Process};
use super::routes::router;
use super::socket::{ADMIN_SOCKET, Socket, SocketError};
use crate::clock::Clock;
use crate::metrics::Registry;
use crate::queue::Queue;
use crate::store::Store;
use crate::store::history::History;
use crate::store::suppression::Suppressions;

/// Connections over TCP …
const CONNECTIONS: usize = 256;
/// … and over the unix socket, so that whoever fills the first does not shut out the machine's own operator.
const LOCAL_CONNECTIONS: usize = 64;
/// … of which one client may have this many: a proxy needs some, and whoever opens them and says nothing leaves the
/// others to those who ask whether we are ready.
const CONNECTIONS_EACH: usize = 64;
/// What a client beyond that is told.
const TURNED_AWAY: &str = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\n\
    Content-Length: 122\r\nRetry-After: 1\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Too Many Requests\",\"status\":429,\
    \"detail\":\"too many connections are open from this address\"}";
/// A request's head has come by then; also how long a connection may stay without a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// No head is longer, in bytes.
const MAX_HEAD: usize = 32 * 1024;
/// After a failed accept, such as for want of file descriptors, the next is tried this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the administration looks at and acts on.
pub struct Parts {
    /// Messages that wait.
    pub queue: Arc<Queue>,
    /// Keys.
    pub store: Arc<dyn Store>,
    /// Messages that are over, if they are remembered.
    pub history: Option<Arc<History>>,
    /// Addresses that refused for good, if they are remembered.
    pub suppressions: Option<Arc<Suppressions>>,
    /// The way out.
    pub outbound: Arc<dyn Outbound>,
    /// The process.
    pub process: Arc<dyn Process>,
    /// The time.
    pub clock: Clock,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, not ours, or not allowed.
    #[error("the HTTP API cannot listen on {address}")]
    Address {
        /// `[admin] address`.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// The unix socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// What handlers share.
pub(super) struct Shared {
    pub queue: Arc<Queue>,
    pub store: Arc<dyn Store>,
    pub history: Option<Arc<History>>,
    pub suppressions: Option<Arc<Suppressions>>,
    pub outbound: Arc<dyn Outbound>,
    pub process: Arc<dyn Process>,
    pub clock: Clock,
    pub hostname: String,
    pub access: Access,
    pub counts: Counts,
    pub live: Live,
    /// What reads the disk.
    pub reads: Gate,
    /// What goes through all that there is.
    pub scans: Gate,
    /// What asks DNS.
    pub explains: Gate,
    /// What changes many messages.
    pub bulk: Gate,
    pub streams: Arc<Semaphore>,
    /// Ends streams.
    pub shutdown: CancellationToken,
}

/// The API, bound and waiting to be run.
pub struct Admin {
    tcp: Option<(TcpListener, SocketAddr)>,
    socket: Socket,
    shared: Arc<Shared>,
}

/// Changes a running API.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

impl Control {
    /// Other tokens from now on; browser sessions of those that are gone end. Without any, everybody who reaches the
    /// address may come in: the caller sees to it that it is a loopback one.
    pub fn set_tokens(&self, tokens: Vec<Token>) {
        self.0.access.replace(tokens);
    }
}

impl Admin {
    /// Makes the unix socket and binds the address.
    ///
    /// # Errors
    /// Names what stands in the way; nothing stays bound.
    pub async fn bind(options: Options, parts: Parts) -> Result<Self, BindError> {
        let tcp = match options.address {
            None => None,
            Some(address) => {
                let failed = |source| BindError::Address { address, source };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                Some((listener, address))
            }
        };
        let socket = Socket::bind(&options.data_dir, ADMIN_SOCKET).await?;
        let shared = Shared {
            queue: parts.queue,
            store: parts.store,
            history: parts.history,
            suppressions: parts.suppressions,
            outbound: parts.outbound,
            process: parts.process,
            hostname: options.hostname,
            access: Access::new(options.tokens, parts.clock.clone()),
            clock: parts.clock,
            counts: Counts::default(),
            live: Live::new(),
            reads: Gate::new(16, "reads"),
            scans: Gate::new(4, "searches"),
            explains: Gate::new(8, "explanations"),
            bulk: Gate::new(1, "orders for many messages"),
            streams: Arc::new(Semaphore::new(STREAMS)),
            shutdown: CancellationToken::new(),
        };
        Ok(Self { tcp, socket, shared: Arc::new(shared) })
    }

    /// Where HTTP is served over TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|(_, address)| *address)
    }

    /// What changes it while it runs.
    pub fn control(&self) -> Control {
        Control(self.shared.clone())
    }

    /// Shows what it counts of itself.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.counts.register(registry);
    }

    /// Serves until `shutdown`, then lets requests that are being answered come to their end, no longer than `grace`.
    pub async fn run(self, shutdown: CancellationToken, grace: Duration) {
        let Self { tcp, socket, shared } = self;
        let router = router(shared.clone());
        let _streams = shared.shutdown.clone().drop_guard();
        let crowd = Crowd::new(CONNECTIONS_EACH);
        let port =
            Port { router, crowd, streams: shared.shutdown.clone(), shutdown: shutdown.clone(), grace };
        let network = async {
            if let Some((listener, _)) = tcp {
                port.clone().serve(listener, CONNECTIONS).await;
            }
        };
        let local = port.clone().serve(socket, LOCAL_CONNECTIONS);
        let watch = shared.clone().watch(shutdown.clone());
        tokio::join!(network, local, watch);
    }
}

/// Where clients come from.
trait Accept: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = self.accept().await?;
        // Small answers are to leave at once; without it they only leave later.
        let _ = stream.set_nodelay(true);
        Ok((stream, Peer::Network(address)))
    }
}

impl Accept for Socket {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Peer)> {
        Ok((self.accept().await?, Peer::Local))
    }
}

/// What is behind each of them.
#[derive(Clone)]
struct Port {
    router: Router,
    crowd: Crowd,
    streams: CancellationToken,
    shutdown: CancellationToken,
    grace: Duration,
}

impl Port {
    /// Lets clients in, at most so many at once; those beyond it wait in the system's queue.
    async fn serve(self, clients: impl Accept, most: usize) {
        let mut running = JoinSet::new();
        loop {
            while running.try_join_next().is_some() {}
            if running.len() >= most {
                tokio::select! {
                    _ = running.join_next() => continue,
                    () = self.shutdown.cancelled() => break,
                }
            }
            match self.shutdown.run_until_cancelled(clients.next()).await {
                None => break,
                Some(Ok((mut stream, peer))) => {
                    let Some(place) = self.crowd.admit(peer) else {
                        // A new connection takes so little at once, or is not worth waiting for.
                        let _ = stream.write_all(TURNED_AWAY.as_bytes()).now_or_never();
                        continue;
                    };
                    let (router, shutdown) = (self.router.clone(), self.shutdown.clone());
                    running.spawn(async move {
                        connection(Patient::new(stream), peer, router, shutdown).await;
                        drop(place);
                    });
                }
                Some(Err(error)) => {
                    tracing::warn!(target: "oncemail::admin", %error, "the HTTP API cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // The next process may have the address at once.
        drop(clients);
        self.streams.cancel();
        // What is not answered by then is dropped with the set; orders run to their end in tasks of their own.
        let all = async { while running.join_next().await.is_some() {} };
        if timeout(self.grace, all).await.is_err() {
            tracing::warn!(target: "oncemail::admin", "requests were still being answered at the end");
        }
    }
}

async fn connection<S>(stream: S, peer: Peer, router: Router, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        service.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(target: "oncemail::admin", ?peer, %error, "a connection broke off");
    }
}
