//! One connection of the scripted next hop.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{Act, FarSideBuilder, Log, Rule, Taken, Tls};

type Step = std::io::Result<bool>;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

pub(super) struct Connection {
    number: usize,
    rules: Arc<Vec<Rule>>,
    capabilities: Vec<&'static str>,
    log: Arc<watch::Sender<Log>>,
    acceptor: TlsAcceptor,
    tls: Tls,
    capabilities_in_tls: Option<Vec<&'static str>>,
    injected: &'static [u8],
    splits: bool,
    encrypted: bool,
    input: Vec<u8>,
    mail: String,
    rcpts: Vec<String>,
}

impl Connection {
    pub(super) fn new(
        number: usize,
        far: &FarSideBuilder,
        rules: Arc<Vec<Rule>>,
        log: Arc<watch::Sender<Log>>,
        acceptor: TlsAcceptor,
    ) -> Self {
        Self {
            number,
            rules,
            capabilities: far.capabilities.clone(),
            log,
            acceptor,
            tls: far.tls,
            capabilities_in_tls: far.capabilities_in_tls.clone(),
            injected: far.injected,
            splits: far.splits,
            encrypted: false,
            input: Vec::new(),
            mail: String::new(),
            rcpts: Vec::new(),
        }
    }

    pub(super) async fn run(mut self, stream: TcpStream) -> std::io::Result<()> {
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
                // What a client says to the challenge of a token that is refused.
                "" => self.answer(stream, "(empty)", "535 5.7.8 token refused").await?,
                "MAIL" => {
                    self.rcpts.clear();
                    let is_refused = self.rule(&line, false).is_some_and(|act| act.refuses());
                    self.mail = if is_refused { String::new() } else { line.clone() };
                    self.answer(stream, &line, "250 2.1.0 ok").await?
                }
                "RCPT" if self.mail.is_empty() => self.answer(stream, &line, "503 5.5.1 MAIL first").await?,
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
        if self.rule(".", false).is_none_or(|act| act.takes_the_message()) {
            self.log.send_modify(|log| log.taken.push(taken));
        }
        self.answer(stream, ".", "250 2.0.0 taken").await
    }

    /// Does what the script says, or the usual; false when the connection is over.
    async fn answer(&mut self, stream: &mut dyn Duplex, line: &str, usual: &str) -> Step {
        let usual = if usual.is_empty() { String::new() } else { format!("{usual}\r\n") };
        match self.rule(line, true) {
            None => self.write(stream, usual.as_bytes()).await?,
            Some(Act::Say(text)) => self.write(stream, format!("{text}\r\n").as_bytes()).await?,
            Some(Act::Bytes(bytes)) => self.write(stream, &bytes).await?,
            Some(Act::SayThenClose(text)) => {
                self.write(stream, format!("{text}\r\n").as_bytes()).await?;
                return Ok(false);
            }
            Some(Act::Flood(text, octets)) => {
                let piece = text.repeat(1 + 65_536 / text.len());
                let pieces = octets.div_ceil(u64::try_from(piece.len()).unwrap());
                for _ in 0..pieces {
                    stream.write_all(piece.as_bytes()).await?;
                    self.log.send_modify(|log| log.flooded += piece.len() as u64);
                }
            }
            Some(Act::Trickle(text, pause)) => {
                for octet in text.as_bytes().iter().cycle() {
                    stream.write_all(&[*octet]).await?;
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Some(Act::Close) => return Ok(false),
            Some(Act::Silence) => {
                let mut ignored = vec![0; 4096];
                while stream.read(&mut ignored).await? > 0 {}
                return Ok(false);
            }
            Some(Act::Gate(gate)) => {
                gate.acquire().await.expect("gates stay open").forget();
                self.write(stream, usual.as_bytes()).await?;
            }
        }
        Ok(true)
    }

    async fn write(&self, stream: &mut dyn Duplex, octets: &[u8]) -> std::io::Result<()> {
        let most = if self.splits { 1 } else { octets.len().max(1) };
        for piece in octets.chunks(most) {
            stream.write_all(piece).await?;
            stream.flush().await?;
        }
        Ok(())
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
        self.log.send_modify(|log| {
            log.begun += 1;
            log.octets += self.input.len();
        });
        if !self.answer(stream, "CONTENT", "").await? {
            return Ok(None);
        }
        let mut searched = 0usize;
        loop {
            let from = searched.saturating_sub(4);
            if let Some(at) = memchr::memmem::find(&self.input[from..], b"\r\n.\r\n") {
                return Ok(Some(self.input.drain(..from + at + 5).collect()));
            }
            let before = self.input.len();
            searched = before;
            if !self.fill(stream).await? {
                return Ok(None);
            }
            self.log.send_modify(|log| log.octets += self.input.len() - before);
        }
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
