//! One SMTP client connection that takes the replies as they come and keeps the text of the last one.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::generate::Pipelining;
use crate::message::{Draft, Shape};
use crate::target::{self, Stream};

/// No reply line of a sane server is longer (RFC 5321 §4.5.3.1.5 says 512).
const MAX_LINE: usize = 8192;
/// As much as a far side may send at once before it must be read.
const READ_BUFFER: usize = 4096;

/// Why a connection ended without the reply that was due.
#[derive(thiserror::Error, Debug)]
pub enum Failure {
    /// The network's.
    #[error("{}", .0.kind())]
    Io(#[from] std::io::Error),
    /// The far side's.
    #[error("connection closed")]
    Closed,
    /// The far side's.
    #[error("not an SMTP reply")]
    Garbage,
    /// The far side does not want us: greeting, EHLO, STARTTLS or AUTH.
    #[error("{0}")]
    Refused(String),
}

/// What became of one submission.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Of the reply that decided.
    pub code: u16,
    /// From writing the content, final dot included, to its reply; none when it was refused before.
    pub from_dot: Option<Duration>,
}

/// A connection that is ready for MAIL.
pub struct Client<S = Box<dyn Stream>> {
    stream: S,
    input: Vec<u8>,
    /// How much of `input` has been taken.
    taken: usize,
    /// The last reply's last line, without its line end.
    line: Vec<u8>,
    output: Vec<u8>,
}

/// Connects, and says whatever must be said before MAIL.
///
/// # Errors
/// When any of it is refused.
pub async fn open(greeting: &Greeting) -> Result<Client, Failure> {
    let mut stream: Box<dyn Stream> = match &greeting.tls {
        Encryption::None => Box::new(target::connect(greeting.address).await?),
        Encryption::Implicit(tls) => {
            Box::new(target::encrypt(target::connect(greeting.address).await?, tls).await?)
        }
        Encryption::StartTls(tls) => {
            let mut plain = Client::new(target::connect(greeting.address).await?);
            plain.expect(2).await?;
            plain.command("EHLO load.invalid", 2).await?;
            plain.command("STARTTLS", 2).await?;
            Box::new(target::encrypt(plain.stream, tls).await?)
        }
    };
    stream.flush().await?;
    let mut client = Client::new(stream);
    if !matches!(greeting.tls, Encryption::StartTls(_)) {
        client.expect(2).await?;
    }
    client.command("EHLO load.invalid", 2).await?;
    if let Some((user, password)) = &greeting.login {
        let response = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
        client.command(&format!("AUTH PLAIN {response}"), 2).await?;
    }
    Ok(client)
}

/// What every connection begins with.
pub struct Greeting {
    /// Where to.
    pub address: std::net::SocketAddr,
    /// Before anything else is said.
    pub tls: Encryption,
    /// User and password for AUTH PLAIN.
    pub login: Option<(String, String)>,
}

/// The connector beside the moment at which it is used.
pub enum Encryption {
    /// Plain text.
    None,
    /// After STARTTLS.
    StartTls(TlsConnector),
    /// At once.
    Implicit(TlsConnector),
}

impl<S: Stream> Client<S> {
    fn new(stream: S) -> Self {
        let input = Vec::with_capacity(READ_BUFFER);
        Self { stream, input, taken: 0, line: Vec::new(), output: Vec::new() }
    }

    /// The last line of the last reply.
    pub fn last_reply(&self) -> &[u8] {
        &self.line
    }

    /// One transaction.
    ///
    /// # Errors
    /// When the connection breaks; whether the message was taken is then not known.
    pub async fn submit(
        &mut self,
        shape: &Shape,
        draft: Draft,
        pipelining: Pipelining,
    ) -> Result<Outcome, Failure> {
        let refused = match pipelining {
            Pipelining::On => self.envelope_at_once(shape, draft.id).await?,
            Pipelining::Off => self.envelope_in_steps(shape, draft.id).await?,
        };
        if let Some(code) = refused {
            return Ok(Outcome { code, from_dot: None });
        }
        self.output.clear();
        shape.write_content(draft, &mut self.output);
        let sent = Instant::now();
        self.send().await?;
        let code = self.reply().await?;
        Ok(Outcome { code, from_dot: Some(sent.elapsed()) })
    }

    /// Ends the session politely.
    ///
    /// # Errors
    /// When the far side was gone already.
    pub async fn quit(mut self) -> Result<(), Failure> {
        self.command("QUIT", 2).await?;
        self.stream.shutdown().await?;
        Ok(())
    }

    /// MAIL, RCPT and DATA in one write (RFC 2920); the first refusal, if any.
    async fn envelope_at_once(&mut self, shape: &Shape, id: u64) -> Result<Option<u16>, Failure> {
        self.output.clear();
        shape.write_mail(&mut self.output);
        for number in 0..shape.recipients {
            shape.write_rcpt(number, id, &mut self.output);
        }
        self.output.extend_from_slice(b"DATA\r\n");
        self.send().await?;

        let mut refusal: Option<(u16, Vec<u8>)> = None;
        let mut code = 0;
        for _ in 0..shape.recipients + 2 {
            code = self.reply().await?;
            if code >= 400 && refusal.is_none() {
                refusal = Some((code, self.line.clone()));
            }
            if code == 421 {
                break;
            }
        }
        let Some((first, line)) = refusal else { return Ok(None) };
        // RFC 2920 §3.1: a server may say 354 although it refused every recipient; a lone dot ends that.
        if code == 354 {
            self.output.clear();
            self.output.extend_from_slice(b".\r\n");
            self.send().await?;
            self.reply().await?;
        }
        // Whatever was refused first: there is no connection any more.
        let first = if code == 421 { code } else { first };
        if code != 421 {
            self.command("RSET", 2).await?;
        }
        self.line = line;
        Ok(Some(first))
    }

    /// One command at a time, for servers and tests without PIPELINING.
    async fn envelope_in_steps(&mut self, shape: &Shape, id: u64) -> Result<Option<u16>, Failure> {
        for step in 0..shape.recipients + 2 {
            self.output.clear();
            match step {
                0 => shape.write_mail(&mut self.output),
                _ if step <= shape.recipients => shape.write_rcpt(step - 1, id, &mut self.output),
                _ => self.output.extend_from_slice(b"DATA\r\n"),
            }
            self.send().await?;
            let code = self.reply().await?;
            if code >= 400 {
                let line = self.line.clone();
                if code != 421 {
                    self.command("RSET", 2).await?;
                }
                self.line = line;
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    async fn command(&mut self, command: &str, class: u16) -> Result<(), Failure> {
        self.output.clear();
        self.output.extend_from_slice(command.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.send().await?;
        self.expect(class).await
    }

    async fn expect(&mut self, class: u16) -> Result<(), Failure> {
        let code = self.reply().await?;
        if code / 100 == class {
            return Ok(());
        }
        Err(Failure::Refused(String::from_utf8_lossy(&self.line).into_owned()))
    }

    async fn send(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.output).await?;
        // TLS keeps what it has encrypted until it is told to flush.
        self.stream.flush().await?;
        Ok(())
    }

    /// Reads one reply to its last line (RFC 5321 §4.2.1) and returns its code.
    async fn reply(&mut self) -> Result<u16, Failure> {
        loop {
            self.line().await?;
            let code = self.line.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            let code = code.ok_or(Failure::Garbage)?;
            if self.line.get(3) != Some(&b'-') {
                return Ok(code);
            }
        }
    }

    async fn line(&mut self) -> Result<(), Failure> {
        loop {
            let unread = self.input.get(self.taken..).unwrap_or_default();
            if let Some(end) = memchr::memchr(b'\n', unread) {
                self.line.clear();
                let line = unread.get(..end).unwrap_or_default();
                self.line.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                self.taken += end + 1;
                return Ok(());
            }
            if unread.len() > MAX_LINE {
                return Err(Failure::Garbage);
            }
            if unread.is_empty() {
                self.input.clear();
                self.taken = 0;
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Failure::Closed);
            }
        }
    }
}
