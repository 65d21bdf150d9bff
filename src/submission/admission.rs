//! Lets clients in or turns them away, and serves those that are in.
//!
//! Where load balancers stand in front (`trusted_proxies`), nobody else may connect, and a connection is one of the client
//! that its PROXY header names: the networks, the limits and the log are about that client. While the header has not
//! come, the connection counts towards `limits.connections`, and that is for a few seconds at most (S2).
//!
//! Nobody becomes a client of this machine by a header: AUTH in plain text is not for those who come through a proxy, and
//! whoever is said to come from a loopback address is turned away, for it would be another machine's.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, End};
use super::door::{Full, Pass};
use super::metrics::{ListenerMetrics, Refusal};
use super::options::{Listener, TlsMode};
use super::proxy::{self, Origin};
use super::reception::Place;
use super::tls::describe;
use super::visit::{Entrance, Visit};
use crate::metrics::Present;
use crate::smtp::session::{Input, Session};

/// A TLS handshake takes no longer than this.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// A proxy says within this time for whom it connects.
const HEADER: Duration = Duration::from_secs(5);

/// A handshake has this long where places run out.
const HURRIED_HANDSHAKE: Duration = Duration::from_secs(5);

const STRANGER: Rebuff = (Refusal::Network, "554 This client may not connect here\r\n");
const CROWD: Rebuff = (Refusal::Full, "421 4.3.2 Too many connections; retry later\r\n");
const CROWD_OF_ONE: Rebuff =
    (Refusal::PerClient, "421 4.7.0 Too many connections from this address; retry later\r\n");
const BUSY: Rebuff = (Refusal::Busy, "421 4.4.5 Too busy; retry later\r\n");
/// What is no header may be anything, so there are no words for it.
const NO_HEADER: Rebuff = (Refusal::Proxy, "");

/// Why somebody is turned away, and what it is told.
type Rebuff = (Refusal, &'static str);

/// Somebody who has come in.
struct Guest {
    visit: Visit,
    pass: Pass,
    open: Present<ListenerMetrics>,
}

/// Has a new connection served among `sessions`, or turns it away.
pub(super) fn admit(
    place: &Place,
    stream: TcpStream,
    peer: SocketAddr,
    shutdown: &CancellationToken,
    sessions: &mut JoinSet<()>,
) {
    let (visit, entered) = enter(place, peer, shutdown);
    let guest = match entered {
        Ok(pass) => Guest::new(visit, pass),
        Err(rebuff) => return turn_away(&visit, stream, rebuff),
    };
    sessions.spawn(async move {
        let mut stream = stream;
        match introduce(&mut stream, guest).await {
            Ok(guest) => {
                // Fails only for one that has gone, which the first read will tell.
                let _ = stream.set_nodelay(true);
                guest.attend(stream).await;
            }
            Err((visit, rebuff)) => turn_away(&visit, stream, rebuff),
        }
    });
}

/// Serves a client that comes over any stream to its end, or turns it away.
pub(super) async fn attend_stream<S: AsyncRead + AsyncWrite + Unpin>(
    place: &Place,
    mut stream: S,
    peer: SocketAddr,
    shutdown: &CancellationToken,
) {
    let (visit, entered) = enter(place, peer, shutdown);
    let introduced = match entered {
        Ok(pass) => introduce(&mut stream, Guest::new(visit, pass)).await,
        Err(rebuff) => Err((visit, rebuff)),
    };
    match introduced {
        Ok(guest) => guest.attend(stream).await,
        Err((visit, rebuff)) => {
            let words = refuse(&visit, rebuff);
            let _ = timeout(HEADER, stream.write_all(words.as_bytes())).await;
        }
    }
}

/// Lets somebody in, or says why not: the same rules for whatever a connection comes over.
fn enter(place: &Place, peer: SocketAddr, shutdown: &CancellationToken) -> (Visit, Result<Pass, Rebuff>) {
    let Place { shared, entrance } = place;
    let client = canonical(peer);
    let proxies = &entrance.listener.trusted_proxies;
    let is_proxied = !proxies.is_empty();
    let entered = match is_proxied {
        true if !is_in(proxies, client) => Err(STRANGER),
        false if !is_allowed(&entrance.listener, client) => Err(STRANGER),
        // Sooner than at MAIL: this costs next to nothing.
        _ if shared.pressure.is_too_high() => Err(BUSY),
        true => shared.door.enter_unknown().map_err(rebuff),
        false => shared.door.enter(client).map_err(rebuff),
    };
    let budget = match &entered {
        Ok(pass) => shared.budget.of(pass.share()),
        Err(_) => shared.budget.clone(),
    };
    // A token of its own, so that sessions do not meet at one lock.
    let shutdown = shutdown.child_token();
    let (shared, entrance) = (shared.clone(), entrance.clone());
    (Visit { shared, entrance, client, is_proxied, budget, shutdown }, entered)
}

/// Whoever comes through a proxy is treated as the client that the proxy names from then on; others come as they are.
async fn introduce<S: AsyncRead + Unpin>(stream: &mut S, mut guest: Guest) -> Result<Guest, (Visit, Rebuff)> {
    let Guest { visit, pass, .. } = &mut guest;
    match visit.is_proxied {
        true => match name(stream, visit, pass).await {
            Ok(()) => Ok(guest),
            Err(rebuff) => Err((guest.visit, rebuff)),
        },
        false => Ok(guest),
    }
}

/// Reads for whom a proxy connects.
async fn name<S: AsyncRead + Unpin>(
    stream: &mut S,
    visit: &mut Visit,
    pass: &mut Pass,
) -> Result<(), Rebuff> {
    let proxy = visit.client;
    let read = tokio::select! {
        read = timeout(HEADER, proxy::read(stream)) => {
            read.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
        }
        () = visit.shutdown.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    let origin = read.map_err(|error| {
        tracing::debug!(%proxy, %error, "a proxy did not say for whom it connects");
        NO_HEADER
    })?;
    if let Origin::Client(address) = origin {
        visit.client = canonical(address);
        if visit.client.is_loopback() {
            return Err(STRANGER);
        }
    }
    if !is_allowed(&visit.entrance.listener, visit.client) {
        return Err(STRANGER);
    }
    pass.name(visit.client).map_err(rebuff)?;
    visit.budget = visit.shared.budget.of(pass.share());
    Ok(())
}

impl Guest {
    fn new(visit: Visit, pass: Pass) -> Self {
        let open = Present::new(visit.entrance.metrics.clone());
        Self { visit, pass, open }
    }

    /// Serves it to its end, and gives its place back.
    async fn attend<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) {
        let Self { visit, pass, open } = self;
        let _until_it_has_gone = (pass, open);
        visit.entrance.metrics.connected();
        let client = visit.client;
        if let Err(error) = attend(stream, visit).await {
            tracing::debug!(%client, %error, "connection ended");
        }
    }
}

fn rebuff(full: Full) -> Rebuff {
    match full {
        Full::Total => CROWD,
        Full::Client => CROWD_OF_ONE,
    }
}

/// Takes note of a refusal; gives back the words for it, which are none where they would have to be encrypted.
fn refuse(visit: &Visit, (why, words): Rebuff) -> &'static str {
    let (Entrance { listener, .. }, client) = (&*visit.entrance, visit.client);
    visit.shared.metrics.turned_away(why);
    tracing::debug!(%client, listener = listener.name, refusal = words, "connection refused");
    if listener.tls == TlsMode::Implicit { "" } else { words }
}

/// Costs no task and no wait: the buffer of a new socket is empty, so the words fit or are not said.
fn turn_away(visit: &Visit, stream: TcpStream, rebuff: Rebuff) {
    let words = refuse(visit, rebuff);
    if !words.is_empty()
        && let Ok(mut stream) = stream.into_std()
    {
        if visit.is_proxied {
            // A header that nobody has read would make the system send RST, and the words could be lost.
            let _ = stream.read(&mut [0; 512]);
        }
        let _ = stream.write_all(words.as_bytes());
    }
}

fn is_allowed(listener: &Listener, client: IpAddr) -> bool {
    is_in(&listener.allow, client)
}

fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Serves one client, through TLS when that is how it comes or what it asks for.
async fn attend<S: AsyncRead + AsyncWrite + Unpin>(stream: S, visit: Visit) -> io::Result<()> {
    if visit.entrance.listener.tls == TlsMode::Implicit {
        let stream = handshake(stream, &visit).await?;
        let session = visit.session(Some(describe(&stream)));
        let greeted = true;
        return Box::pin(attend_encrypted(stream, visit, session, greeted)).await;
    }
    let session = visit.session(None);
    let mut connection = Connection::new(stream, visit.clone());
    connection.greet(&session);
    let End::StartTls(session) = connection.run(session).await? else { return Ok(()) };
    let stream = handshake(connection.into_stream(), &visit).await?;
    let (session, _) = session.step(Input::Encrypted(describe(&stream)));
    Box::pin(attend_encrypted(stream, visit, session, false)).await
}

async fn attend_encrypted<S: AsyncRead + AsyncWrite + Unpin>(
    stream: TlsStream<S>,
    visit: Visit,
    session: Session,
    greet: bool,
) -> io::Result<()> {
    let mut connection = Connection::new(stream, visit);
    if greet {
        connection.greet(&session);
    }
    // The session refuses STARTTLS inside TLS, so there is only one kind of end.
    connection.run(session).await.map(|_| ())
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(stream: S, visit: &Visit) -> io::Result<TlsStream<S>> {
    let certificate = visit.entrance.certificate.as_ref().ok_or(io::ErrorKind::Unsupported)?;
    let acceptor = certificate.acceptor().await;
    let patience = if visit.shared.door.is_crowded() { HURRIED_HANDSHAKE } else { HANDSHAKE };
    let shaken = tokio::select! {
        shaken = timeout(patience, acceptor.accept(stream)) => {
            shaken.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
        }
        () = visit.shutdown.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    visit.shared.metrics.handshake(shaken.as_ref().ok().map(describe).as_deref());
    shaken
}

/// `allow`, the limits of an address and the question whether it is loopback all mean the IPv4 address of a client that
/// comes over IPv4 to a socket for both.
pub(super) fn canonical(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}
