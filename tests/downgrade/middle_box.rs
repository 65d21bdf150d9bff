//! A far side that somebody stands in front of: it says and does at STARTTLS what a test tells it to, and takes every
//! message that is offered to it, in clear if it gets it so.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What becomes of a connection after the reply to STARTTLS, or at once where TLS comes first.
#[derive(Clone)]
pub enum Then {
    /// It goes on in clear, as if nothing had been said.
    GoOn,
    /// It is closed.
    Close,
    /// The ClientHello is answered with these octets, and the connection is closed.
    Answer(Vec<u8>),
    /// TLS, in which the far side says more than in clear.
    Shake(Arc<ServerConfig>),
}

#[derive(Clone)]
pub struct Script {
    /// EHLO's whole reply, in clear.
    pub ehlo: &'static str,
    pub starttls: &'static str,
    pub then: Then,
    /// TLS comes first.
    pub implicit: bool,
}

impl Script {
    /// STARTTLS, then this.
    pub fn then(then: Then) -> Self {
        let ehlo = "250-far.example\r\n250-AUTH PLAIN LOGIN\r\n250-STARTTLS\r\n250 PIPELINING\r\n";
        Self { ehlo, starttls: "220 2.0.0 go ahead\r\n", then, implicit: false }
    }

    /// This reply to STARTTLS, and on in clear.
    pub fn says(starttls: &'static str) -> Self {
        Self { starttls, ..Self::then(Then::GoOn) }
    }

    /// This reply to EHLO.
    pub fn offers(ehlo: &'static str) -> Self {
        Self { ehlo, ..Self::says("220 2.0.0 go ahead\r\n") }
    }
}

#[derive(Clone, Default, Debug)]
pub struct Seen {
    pub connections: usize,
    /// Lines outside of messages, and whether they came over TLS.
    pub lines: Vec<(String, bool)>,
    /// Messages, by whether they came over TLS.
    pub messages: Vec<bool>,
}

impl Seen {
    /// How many lines like this came in clear.
    pub fn in_clear(&self, start: &str) -> usize {
        self.lines.iter().filter(|(line, encrypted)| !encrypted && line.starts_with(start)).count()
    }
}

pub struct MiddleBox {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl MiddleBox {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.lock().unwrap().connections += 1;
                let (script, seen) = (script.clone(), shared.clone());
                tokio::spawn(async move { Connection { script, seen, encrypted: false }.run(stream).await });
            }
        });
        Self { address, seen }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

struct Connection {
    script: Script,
    seen: Arc<Mutex<Seen>>,
    encrypted: bool,
}

impl Connection {
    async fn run(mut self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        if self.script.implicit {
            return self.after(stream).await;
        }
        stream.write_all(b"220 far.example ESMTP\r\n").await?;
        if self.speak(&mut stream).await? {
            return self.after(stream).await;
        }
        Ok(())
    }

    async fn after(&mut self, mut stream: TcpStream) -> std::io::Result<()> {
        match self.script.then.clone() {
            Then::Close => Ok(()),
            Then::GoOn => {
                if self.script.implicit {
                    stream.write_all(b"220 far.example ESMTP\r\n").await?;
                }
                self.speak(&mut stream).await.map(|_| ())
            }
            Then::Answer(octets) => {
                if stream.read(&mut [0; 4096]).await? == 0 {
                    return Ok(());
                }
                stream.write_all(&octets).await?;
                stream.shutdown().await?;
                // Closed with something unread it would be a reset, which may overtake the answer.
                while stream.read(&mut [0; 4096]).await? > 0 {}
                Ok(())
            }
            Then::Shake(config) => {
                let mut stream = TlsAcceptor::from(config).accept(stream).await?;
                self.encrypted = true;
                if self.script.implicit {
                    stream.write_all(b"220 far.example ESMTP\r\n").await?;
                }
                self.speak(&mut stream).await.map(|_| ())
            }
        }
    }

    /// True when the reply to STARTTLS was said and the script has more to do than go on.
    async fn speak(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<bool> {
        let mut input = Vec::new();
        while let Some(line) = until(stream, &mut input, b"\r\n").await? {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.seen.lock().unwrap().lines.push((line.clone(), self.encrypted));
            let reply = match line.split([' ', ':']).next().unwrap_or_default() {
                "EHLO" if self.encrypted => "250-far.example\r\n250-AUTH PLAIN\r\n250 REQUIRETLS\r\n",
                "EHLO" => self.script.ehlo,
                "STARTTLS" => self.script.starttls,
                "AUTH" => "235 2.7.0 welcome\r\n",
                "DATA" => "354 go ahead\r\n",
                "QUIT" => "221 2.0.0 bye\r\n",
                _ => "250 2.0.0 ok\r\n",
            };
            stream.write_all(reply.as_bytes()).await?;
            stream.flush().await?;
            if line == "STARTTLS" && !matches!(self.script.then, Then::GoOn) {
                return Ok(true);
            }
            if line == "DATA" && until(stream, &mut input, b"\r\n.\r\n").await?.is_some() {
                self.seen.lock().unwrap().messages.push(self.encrypted);
                stream.write_all(b"250 2.0.0 taken\r\n").await?;
                stream.flush().await?;
            }
        }
        Ok(false)
    }
}

async fn until(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut Vec<u8>,
    end: &[u8],
) -> std::io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(at) = memchr::memmem::find(input, end) {
            return Ok(Some(input.drain(..at + end.len()).collect()));
        }
        if stream.read_buf(input).await? == 0 {
            return Ok(None);
        }
    }
}
