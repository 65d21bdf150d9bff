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
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Nothing in a test takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What to do instead of the usual.
#[derive(Clone)]
pub enum Act {
    /// Answer with these lines.
    Say(String),
    /// Answer with these octets.
    Bytes(Vec<u8>),
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

/// What has happened so far.
#[derive(Clone, Default, Debug)]
pub struct Log {
    pub connections: usize,
    pub open: usize,
    /// All lines outside of messages, with the connection's number.
    pub lines: Vec<(usize, String)>,
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

struct Connection {
    number: usize,
    rules: Arc<Vec<Rule>>,
    capabilities: Vec<&'static str>,
    log: Arc<watch::Sender<Log>>,
    acceptor: TlsAcceptor,
    tls: Tls,
    capabilities_in_tls: Option<Vec<&'static str>>,
    injected: &'static [u8],
    encrypted: bool,
    input: Vec<u8>,
    mail: String,
    rcpts: Vec<String>,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl FarSide {
    #[allow(clippy::new_ret_no_self, reason = "a test reads FarSide::new().on(…).start()")]
    pub fn new() -> FarSideBuilder {
        FarSideBuilder {
            rules: Vec::new(),
            capabilities: vec!["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 100000", "ENHANCEDSTATUSCODES"],
            tls: Tls::None,
            capabilities_in_tls: None,
            injected: b"",
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
    /// Does `act` at every line that starts with `prefix`. `CONNECT` is the greeting, `.` the final dot.
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

    /// Does TLS with this instead of a certificate of its own that signs itself.
    pub fn presents(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.presented = Some(config);
        self
    }

    pub async fn start(self) -> FarSide {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.start_on(listener)
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
        let rules = Arc::new(self.rules);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let mut number = 0;
                sender.send_modify(|log| {
                    log.connections += 1;
                    log.open += 1;
                    number = log.connections;
                });
                let connection = Connection {
                    number,
                    rules: rules.clone(),
                    capabilities: self.capabilities.clone(),
                    log: sender.clone(),
                    acceptor: acceptor.clone(),
                    tls: self.tls,
                    capabilities_in_tls: self.capabilities_in_tls.clone(),
                    injected: self.injected,
                    encrypted: false,
                    input: Vec::new(),
                    mail: String::new(),
                    rcpts: Vec::new(),
                };
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

type Step = std::io::Result<bool>;

impl Connection {
    async fn run(mut self, stream: TcpStream) -> std::io::Result<()> {
        if self.tls == Tls::Implicit {
            let stream = self.acceptor.clone().accept(stream).await?;
            self.encrypted = true;
            self.greet(&mut { stream }).await
        } else {
            let mut stream = stream;
            if !self.answer(&mut stream, "CONNECT", "220 far.example ESMTP").await? {
                return Ok(());
            }
            if self.commands(&mut stream).await? {
                let mut stream = self.acceptor.clone().accept(stream).await?;
                self.encrypted = true;
                self.capabilities = self.capabilities_in_tls.take().unwrap_or(self.capabilities);
                self.commands(&mut stream).await?;
            }
            Ok(())
        }
    }

    async fn greet(&mut self, stream: &mut dyn Duplex) -> std::io::Result<()> {
        if self.answer(stream, "CONNECT", "220 far.example ESMTP").await? {
            self.commands(stream).await?;
        }
        Ok(())
    }

    /// True when TLS is to start.
    async fn commands(&mut self, stream: &mut dyn Duplex) -> Step {
        loop {
            let Some(line) = self.line(stream).await? else { return Ok(false) };
            self.log.send_modify(|log| log.lines.push((self.number, line.clone())));
            let go_on = match line.split([' ', ':']).next().unwrap_or_default() {
                "EHLO" => {
                    let mut offered = vec!["far.example".to_owned()];
                    offered.extend(self.capabilities.iter().map(|c| (*c).to_owned()));
                    if self.tls == Tls::Upgrade && !self.encrypted {
                        offered.push("STARTTLS".to_owned());
                    }
                    let last = offered.len() - 1;
                    let lines: Vec<_> = offered
                        .iter()
                        .enumerate()
                        .map(|(n, text)| format!("250{}{text}", if n == last { ' ' } else { '-' }))
                        .collect();
                    self.answer(stream, &line, &lines.join("\r\n")).await?
                }
                "STARTTLS" => {
                    let go_on = self.answer(stream, &line, "220 2.0.0 go ahead").await?;
                    if go_on && self.rule(&line, false).is_none() {
                        stream.write_all(self.injected).await?;
                        return Ok(true);
                    }
                    go_on
                }
                "AUTH" if line == "AUTH LOGIN" => self.answer(stream, &line, "334 VXNlcm5hbWU6").await?,
                "AUTH" => self.answer(stream, &line, "235 2.7.0 ok").await?,
                "MAIL" => {
                    self.rcpts.clear();
                    self.mail = line.clone();
                    self.answer(stream, &line, "250 2.1.0 ok").await?
                }
                "RCPT" => {
                    if self.rule(&line, false).is_none() {
                        self.rcpts.push(line.clone());
                    }
                    self.answer(stream, &line, "250 2.1.5 ok").await?
                }
                "DATA" => self.data(stream, &line).await?,
                "RSET" | "NOOP" => self.answer(stream, &line, "250 2.0.0 ok").await?,
                "QUIT" => {
                    self.answer(stream, &line, "221 2.0.0 bye").await?;
                    false
                }
                _ => self.answer(stream, &line, "500 5.5.1 what?").await?,
            };
            if !go_on {
                return Ok(false);
            }
        }
    }

    async fn data(&mut self, stream: &mut dyn Duplex, line: &str) -> Step {
        let forced = matches!(self.rule(line, false), Some(Act::Say(text)) if text.starts_with("354"));
        if self.rcpts.is_empty() && !forced && self.rule(line, false).is_none() {
            stream.write_all(b"554 5.5.1 no valid recipients\r\n").await?;
            return Ok(true);
        }
        let gives_up = self.rule(line, false).is_some_and(|act| !matches!(act, Act::Gate(_))) && !forced;
        let go_on = self.answer(stream, line, "354 go ahead").await?;
        if gives_up || !go_on {
            return Ok(go_on);
        }
        let Some(wire) = self.message(stream).await? else { return Ok(false) };
        let content = unstuffed(&wire);
        self.log.send_modify(|log| log.wire.push(wire));
        let taken = Taken {
            connection: self.number,
            mail: self.mail.clone(),
            rcpts: std::mem::take(&mut self.rcpts),
            content,
            encrypted: self.encrypted,
        };
        let takes = match self.rule(".", false) {
            None | Some(Act::Close | Act::Silence | Act::Gate(_)) => true,
            Some(Act::Say(text) | Act::SayThenClose(text)) => text.starts_with('2'),
            Some(Act::Bytes(_)) => true,
        };
        if takes {
            self.log.send_modify(|log| log.taken.push(taken));
        }
        self.answer(stream, ".", "250 2.0.0 taken").await
    }

    /// Does what the script says, or the usual; false when the connection is over.
    async fn answer(&mut self, stream: &mut dyn Duplex, line: &str, usual: &str) -> Step {
        let usual = format!("{usual}\r\n");
        match self.rule(line, true) {
            None => stream.write_all(usual.as_bytes()).await?,
            Some(Act::Say(text)) => stream.write_all(format!("{text}\r\n").as_bytes()).await?,
            Some(Act::Bytes(bytes)) => stream.write_all(&bytes).await?,
            Some(Act::SayThenClose(text)) => {
                stream.write_all(format!("{text}\r\n").as_bytes()).await?;
                stream.flush().await?;
                return Ok(false);
            }
            Some(Act::Close) => return Ok(false),
            Some(Act::Silence) => {
                let mut ignored = vec![0; 4096];
                while stream.read(&mut ignored).await? > 0 {}
                return Ok(false);
            }
            Some(Act::Gate(gate)) => {
                gate.acquire().await.expect("gates stay open").forget();
                stream.write_all(usual.as_bytes()).await?;
            }
        }
        stream.flush().await?;
        Ok(true)
    }

    /// The first rule for a line that has uses left.
    fn rule(&self, line: &str, using: bool) -> Option<Act> {
        self.rules.iter().filter(|rule| line.starts_with(&rule.prefix)).find_map(|rule| {
            let mut left = rule.left.lock().unwrap();
            if *left == 0 {
                return None;
            }
            *left -= usize::from(using && *left != usize::MAX);
            Some(rule.act.clone())
        })
    }

    async fn line(&mut self, stream: &mut dyn Duplex) -> std::io::Result<Option<String>> {
        Ok(self
            .until(stream, b"\r\n")
            .await?
            .map(|line| String::from_utf8_lossy(&line[..line.len() - 2]).into_owned()))
    }

    /// A message up to its final dot, which may come at once.
    async fn message(&mut self, stream: &mut dyn Duplex) -> std::io::Result<Option<Vec<u8>>> {
        while self.input.len() < 3 {
            if !self.fill(stream).await? {
                return Ok(None);
            }
        }
        if self.input.starts_with(b".\r\n") {
            return Ok(Some(self.input.drain(..3).collect()));
        }
        self.until(stream, b"\r\n.\r\n").await
    }

    async fn until(&mut self, stream: &mut dyn Duplex, end: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.input, end) {
                return Ok(Some(self.input.drain(..at + end.len()).collect()));
            }
            if !self.fill(stream).await? {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self, stream: &mut dyn Duplex) -> Step {
        let mut buffer = vec![0; 16 * 1024];
        let read = stream.read(&mut buffer).await?;
        self.input.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }
}

fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let body = &wire[..wire.len() - 3];
    let mut content = Vec::new();
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    content
}
