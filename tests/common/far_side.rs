//! A scripted next hop: it accepts everything, but for what a test tells it to do otherwise, in a line or two.
//!
//! ```ignore
//! let far = FarSide::new().on("RCPT TO:<bad@", say("550 5.1.1 unknown")).on(".", Act::Close).start().await;
//! far.wait(|log| log.taken.len() == 1).await;
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use connection::Connection;

mod connection;

/// Nothing in a test takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What to do instead of the usual.
#[derive(Clone)]
pub enum Act {
    /// Answer with these lines.
    Say(String),
    /// Answer with these octets.
    Bytes(Vec<u8>),
    /// Answer with this text over and over, up to so many octets, as long as they are read. Nothing of it is kept.
    Flood(&'static str, u64),
    /// Answer with this text over and over, an octet at a time with this pause between them, as long as they are read.
    Trickle(&'static str, Duration),
    /// Answer, then close.
    SayThenClose(String),
    /// Close without a word. At the final dot the message has been taken.
    Close,
    /// Read on, say nothing.
    Silence,
    /// Wait for a permit, then do the usual.
    Gate(Arc<Semaphore>),
}

pub fn say(line: &str) -> Act {
    Act::Say(line.to_owned())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    None,
    Upgrade,
    Implicit,
}

impl Act {
    fn refuses(&self) -> bool {
        matches!(self, Self::Say(text) | Self::SayThenClose(text) if text.starts_with(['4', '5']))
    }

    /// Whether a message is taken when this is done at its final dot.
    fn takes_the_message(&self) -> bool {
        match self {
            Self::Say(text) | Self::SayThenClose(text) => text.starts_with('2'),
            Self::Flood(..) | Self::Trickle(..) => false,
            Self::Bytes(_) | Self::Close | Self::Silence | Self::Gate(_) => true,
        }
    }
}

/// What has happened so far.
#[derive(Clone, Default, Debug)]
pub struct Log {
    pub connections: usize,
    pub open: usize,
    /// All lines outside of messages, with the connection's number.
    pub lines: Vec<(usize, String)>,
    /// Messages of which a first piece has come.
    pub begun: usize,
    /// Octets of messages so far, final dots included.
    pub octets: usize,
    /// Octets of floods that have left this side; some of them may lie in the buffers between.
    pub flooded: u64,
    /// Messages whose final dot was answered with 2yz, or taken without an answer.
    pub taken: Vec<Taken>,
    /// Contents of all messages, taken or not, as they came over the wire, dot-stuffed and with the final dot.
    pub wire: Vec<Vec<u8>>,
}

/// A message that the far side has.
#[derive(Clone, Debug)]
pub struct Taken {
    pub connection: usize,
    pub mail: String,
    pub rcpts: Vec<String>,
    pub content: Vec<u8>,
    pub encrypted: bool,
}

impl Log {
    /// How often a message with this text has been taken.
    pub fn copies(&self, text: &str) -> usize {
        self.taken
            .iter()
            .filter(|taken| memchr::memmem::find(&taken.content, text.as_bytes()).is_some())
            .count()
    }

    /// Lines that start with `prefix`.
    pub fn said(&self, prefix: &str) -> usize {
        self.lines.iter().filter(|(_, line)| line.starts_with(prefix)).count()
    }
}

#[derive(Clone)]
struct Rule {
    prefix: String,
    act: Act,
    /// Uses left.
    left: Arc<Mutex<usize>>,
}

pub struct FarSideBuilder {
    rules: Vec<Rule>,
    capabilities: Vec<&'static str>,
    tls: Tls,
    capabilities_in_tls: Option<Vec<&'static str>>,
    /// Sent right behind the reply to STARTTLS, in clear.
    injected: &'static [u8],
    splits: bool,
    presented: Option<Arc<rustls::ServerConfig>>,
}

#[derive(Clone)]
pub struct FarSide {
    pub address: SocketAddr,
    /// The certificate to trust.
    pub ca_file: PathBuf,
    log: watch::Receiver<Log>,
    _directory: Arc<tempfile::TempDir>,
}

impl FarSide {
    #[allow(clippy::new_ret_no_self, reason = "a test reads FarSide::new().on(…).start()")]
    pub fn new() -> FarSideBuilder {
        FarSideBuilder {
            rules: Vec::new(),
            capabilities: vec!["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 100000", "ENHANCEDSTATUSCODES"],
            tls: Tls::None,
            capabilities_in_tls: None,
            injected: b"",
            splits: false,
            presented: None,
        }
    }

    pub fn log(&self) -> Log {
        self.log.borrow().clone()
    }

    /// Waits until `happened`.
    pub async fn wait(&self, happened: impl FnMut(&Log) -> bool) -> Log {
        let mut log = self.log.clone();
        match tokio::time::timeout(PATIENCE, log.wait_for(happened)).await {
            Ok(log) => log.expect("the far side lives as long as its handle").clone(),
            Err(_) => panic!("it did not happen; the far side saw {:#?}", self.log()),
        }
    }
}

impl FarSideBuilder {
    /// Does `act` at every line that starts with `prefix`. `CONNECT` is the greeting, `.` the final dot, `CONTENT` the first
    /// piece of a message (16 KiB at most), at which nothing is said usually.
    pub fn on(self, prefix: &str, act: Act) -> Self {
        self.on_times(usize::MAX, prefix, act)
    }

    /// The same, for the first `times` lines.
    pub fn on_times(mut self, times: usize, prefix: &str, act: Act) -> Self {
        self.rules.push(Rule { prefix: prefix.to_owned(), act, left: Arc::new(Mutex::new(times)) });
        self
    }

    pub fn offers(mut self, capabilities: &[&'static str]) -> Self {
        self.capabilities = capabilities.to_vec();
        self
    }

    /// Offers something else after STARTTLS.
    pub fn offers_in_tls(mut self, capabilities: &[&'static str]) -> Self {
        self.capabilities_in_tls = Some(capabilities.to_vec());
        self
    }

    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    pub fn injects(mut self, bytes: &'static [u8]) -> Self {
        self.injected = bytes;
        self
    }

    /// Writes every reply octet by octet.
    pub fn splits_replies(mut self) -> Self {
        self.splits = true;
        self
    }

    /// Does TLS with this instead of a certificate of its own that signs itself.
    pub fn presents(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.presented = Some(config);
        self
    }

    pub async fn start(self) -> FarSide {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.start_on(listener)
    }

    /// With a receive buffer so small that a large message stays in part with its sender until it is read.
    pub fn start_narrow(self) -> FarSide {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        self.start_on(socket.listen(64).unwrap())
    }

    pub fn start_on(self, listener: TcpListener) -> FarSide {
        let address = listener.local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        let acceptor = match &self.presented {
            Some(config) => TlsAcceptor::from(config.clone()),
            None => acceptor(&ca_file),
        };
        let (sender, log) = watch::channel(Log::default());
        let sender = Arc::new(sender);
        let rules = Arc::new(self.rules.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let mut number = 0;
                sender.send_modify(|log| {
                    log.connections += 1;
                    log.open += 1;
                    number = log.connections;
                });
                let connection =
                    Connection::new(number, &self, rules.clone(), sender.clone(), acceptor.clone());
                let sender = sender.clone();
                tokio::spawn(async move {
                    let _ = connection.run(stream).await;
                    sender.send_modify(|log| log.open -= 1);
                });
            }
        });
        FarSide { address, ca_file, log, _directory: Arc::new(directory) }
    }
}

/// A certificate for `localhost` and 127.0.0.1 that signs itself.
fn acceptor(ca_file: &std::path::Path) -> TlsAcceptor {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(ca_file, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
