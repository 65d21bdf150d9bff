//! Attacks on a relay on this machine, each for as long as it is wanted and from many loopback addresses, so that limits for
//! one client can be told from limits for all. What an attacker gets is nobody's affair; it is counted that it did something.
//!
//! It runs in a thread of its own, beside whatever is measured, and leaves nothing open when it ends.

mod content;
pub mod far;
mod http;
mod session;
mod tls;

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::target;

/// How soon an attack notices that it is over.
const LOOK_UP: Duration = Duration::from_millis(20);
/// After an attempt that got nowhere.
const PAUSE: Duration = Duration::from_millis(100);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What is done to the relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Attack {
    /// Connections that read the greeting and say nothing.
    Idle,
    /// Connect, read the greeting, go; 5,000 a second are tried.
    Connects,
    /// The same, and nothing is read.
    UnreadConnects,
    /// A command of which an octet comes each second.
    SlowCommand,
    /// A message of which an octet comes each second.
    SlowContent,
    /// Commands without end, and no reply is read.
    NeverReads,
    /// NOOP and RSET as fast as they are answered.
    Noops,
    /// BDAT with one octet each.
    Chunks,
    /// A ClientHello, and nothing after it.
    TlsSilence,
    /// Octets that are no handshake.
    TlsGarbage,
    /// Whole handshakes, one after the other.
    Handshakes,
    /// Wrong passwords from many addresses.
    Guesses,
    /// AUTH with a megabyte of response.
    GiantAuth,
    /// Messages with tens of thousands of header fields.
    Headers,
    /// Messages nested thousands deep.
    Nesting,
    /// Messages of ten thousand parts.
    Parts,
    /// Header fields and keys of encoded words.
    EncodedWords,
    /// Megabytes of what could be compressed, said to be compressed, in odd charsets.
    Runs,
    /// A thousand recipients a message.
    Recipients,
    /// A far side that never ends its reply.
    EndlessReply,
    /// A far side that says an octet a minute.
    TarPit,
    /// HTTP requests of which an octet comes each second.
    Slowloris,
    /// Followers of the stream who never read.
    Followers,
    /// HTTP bodies without end.
    Bodies,
    /// Wrong tokens.
    Tokens,
}

/// Where the relay is.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// SMTP without TLS and AUTH.
    pub open: SocketAddr,
    /// SMTP with AUTH.
    pub guarded: SocketAddr,
    /// SMTP inside TLS.
    pub encrypted: SocketAddr,
    /// HTTP.
    pub admin: SocketAddr,
}

/// An attack that is going on.
pub struct Assault {
    over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

/// What the tasks of an attack share.
struct Party {
    attack: Attack,
    targets: Targets,
    tls: TlsConnector,
    done: Arc<AtomicU64>,
    next: Cell<u32>,
}

impl Attack {
    /// How many connections it has at a time, of those that it may have.
    fn connections(self, most: u32) -> u32 {
        match self {
            Self::Idle => most,
            Self::SlowCommand | Self::SlowContent | Self::TlsSilence | Self::TlsGarbage | Self::Guesses => {
                most / 8
            }
            Self::NeverReads | Self::Slowloris | Self::Followers => most / 16,
            Self::Connects | Self::UnreadConnects => 50,
            Self::EndlessReply | Self::TarPit => 0,
            _ => 8,
        }
        .max(u32::from(!matches!(self, Self::EndlessReply | Self::TarPit)))
    }
}

impl Assault {
    /// Begins, with at most so many connections.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn start(attack: Attack, targets: Targets, most: u32) -> Result<Self> {
        let (over, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ends, counts, tls) = (over.clone(), done.clone(), target::connector()?);
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
            let party = Rc::new(Party { attack, targets, tls, done: counts, next: Cell::new(0) });
            let local = LocalSet::new();
            for _ in 0..attack.connections(most) {
                let party = party.clone();
                local.spawn_local(async move {
                    loop {
                        if party.once().await.is_err() {
                            sleep(PAUSE).await;
                        }
                    }
                });
            }
            runtime.block_on(local.run_until(async {
                while !ends.load(Ordering::SeqCst) {
                    sleep(LOOK_UP).await;
                }
            }));
            Ok(())
        });
        Ok(Self { over, done, thread })
    }

    /// Ends; how often it did what it does.
    ///
    /// # Errors
    /// When it broke down.
    pub fn stop(self) -> Result<u64> {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow!("an attack panicked"))??;
        Ok(self.done.load(Ordering::SeqCst))
    }
}

impl Party {
    /// From one connection's beginning to its end.
    async fn once(&self) -> io::Result<()> {
        match self.attack {
            Attack::Idle => session::idle(self).await,
            Attack::Connects => session::connect(self, true).await,
            Attack::UnreadConnects => session::connect(self, false).await,
            Attack::SlowCommand => session::slow(self, b"", b'E').await,
            Attack::SlowContent => session::slow(self, session::TO_CONTENT, b'x').await,
            Attack::NeverReads => session::never_reads(self).await,
            Attack::Noops => session::flood(self, b"", b"NOOP\r\nRSET\r\n").await,
            Attack::Chunks => session::flood(self, session::TO_CHUNKS, b"BDAT 1\r\nx").await,
            Attack::Guesses => session::guess(self).await,
            Attack::GiantAuth => session::giant_auth(self).await,
            Attack::TlsSilence => tls::silence(self).await,
            Attack::TlsGarbage => tls::garbage(self).await,
            Attack::Handshakes => tls::handshake(self).await,
            Attack::Headers
            | Attack::Nesting
            | Attack::Parts
            | Attack::EncodedWords
            | Attack::Runs
            | Attack::Recipients => content::send(self).await,
            Attack::Slowloris => http::slowly(self).await,
            Attack::Followers => http::follow(self).await,
            Attack::Bodies => http::body(self).await,
            Attack::Tokens => http::token(self).await,
            // These are the far side's.
            Attack::EndlessReply | Attack::TarPit => std::future::pending().await,
        }
    }

    /// Something was done.
    fn note(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection from the next address; `narrow`: with hardly any room for replies.
    async fn open(&self, to: SocketAddr, narrow: bool) -> io::Result<TcpStream> {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let socket = TcpSocket::new_v4()?;
        if narrow {
            socket.set_recv_buffer_size(2_048)?;
        }
        let [_, _, high, low] = (number % 50_000).to_be_bytes();
        socket.bind((IpAddr::V4(Ipv4Addr::new(127, 1, high, low.max(1))), 0).into())?;
        timeout(CONNECT_LIMIT, socket.connect(to)).await?
    }
}

/// Reads and forgets until the far side closes.
async fn drain(stream: &mut TcpStream) -> io::Result<()> {
    let mut some = vec![0; 4_096];
    while stream.read(&mut some).await? > 0 {}
    Ok(())
}
