//! The sink: an SMTP server that takes everything at once, forgets the content and counts the markers.
//!
//! While it is held it accepts connections and answers nothing, so a relay's attempts wait for the greeting or the
//! next reply: that is "relaying paused" for any relay, without deferrals that would cost it work.

use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::message::{KEY, MARKER, parse_marker};
use crate::tally::{Arrival, Tally};

/// Beyond this a connection is closed: no command or message of a load test is longer.
const MAX_BUFFER: usize = 128 << 20;
const READ_BUFFER: usize = 16 * 1024;
const EHLO: &[u8] = b"250-sink.invalid\r\n250-PIPELINING\r\n250-SIZE 134217728\r\n250-8BITMIME\r\n\
    250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8\r\n";

/// `load sink`.
#[derive(Args)]
pub struct Cli {
    /// Port on 127.0.0.1; 0 lets the system choose.
    #[arg(long, short, default_value_t = 0)]
    port: u16,
    /// Threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Stops after this time; without it, when standard input ends.
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Waits this long before it answers what one read brought.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    delay: Duration,
    /// Starts held: connections are accepted, and nothing is answered until "release".
    #[arg(long)]
    held: bool,
    /// Recipients that each message should arrive with.
    #[arg(long, default_value_t = 1)]
    recipients: u32,
}

/// A sink that runs on its own threads.
pub struct Sink {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it has seen.
    pub tally: Arc<Tally>,
    answers: watch::Sender<bool>,
    /// Microseconds.
    delay: Arc<AtomicU64>,
}

/// Runs `load sink` until `quit`, or its time is over, or, without a time, standard input ends. Commands, one a line:
/// `report`, `reset`, `hold`, `release`, `quit`. The first line printed is its address.
///
/// # Errors
/// When it cannot listen.
pub fn main(cli: &Cli) -> Result<()> {
    let sink = Sink::start(cli.port, cli.threads, cli.delay)?;
    if cli.held {
        sink.hold();
    }
    println!("{}", sink.address);
    let (lines, commands) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    let print = || -> Result<()> {
        println!("{}", serde_json::to_string(&sink.tally.summary(cli.recipients))?);
        Ok(())
    };
    let deadline = cli.duration.map(|duration| Instant::now() + duration);
    loop {
        let command = match deadline {
            None => commands.recv().ok(),
            Some(deadline) => next_command(&commands, deadline),
        };
        match command.as_deref().map(str::trim) {
            None | Some("quit") => return print(),
            Some("report") => print()?,
            Some("reset") => sink.tally.reset(),
            Some("hold") => sink.hold(),
            Some("release") => sink.release(),
            Some(other) => eprintln!("load: {other:?} is none of report, reset, hold, release, quit"),
        }
    }
}

/// The next command before the deadline. Standard input that ended, as in the background, is not the end.
fn next_command(commands: &mpsc::Receiver<String>, deadline: Instant) -> Option<String> {
    match commands.recv_timeout(deadline.duration_since(Instant::now())) {
        Err(RecvTimeoutError::Disconnected) => {
            thread::sleep(deadline.duration_since(Instant::now()));
            None
        }
        received => received.ok(),
    }
}

impl Sink {
    /// Listens on this port and serves on this many threads until the program ends.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(port: u16, threads: u16, delay: Duration) -> Result<Self> {
        let listener =
            StdListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tally = Arc::new(Tally::default());
        let (answers, released) = watch::channel(true);
        let delay = Arc::new(AtomicU64::new(micros(delay)));
        for _ in 0..threads {
            let (tally, delay) = (Arc::clone(&tally), Arc::clone(&delay));
            let server = Server { tally, answers: released.clone(), delay };
            let listener = listener.try_clone()?;
            thread::spawn(move || {
                if let Err(error) = server.run(listener) {
                    eprintln!("load: sink: {error:#}");
                }
            });
        }
        Ok(Self { address, tally, answers, delay })
    }

    /// From now on what one read brings is answered after this time, as if the way were long.
    pub fn delay(&self, delay: Duration) {
        self.delay.store(micros(delay), Ordering::Relaxed);
    }

    /// From now on nothing is answered.
    pub fn hold(&self) {
        self.answers.send_replace(false);
    }

    /// Answers those that wait, and all later ones.
    pub fn release(&self) {
        self.answers.send_replace(true);
    }
}

#[derive(Clone)]
struct Server {
    tally: Arc<Tally>,
    answers: watch::Receiver<bool>,
    delay: Arc<AtomicU64>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Server {
    fn run(self, listener: StdListener) -> Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await?;
                let server = self.clone();
                // A client that hangs up is its own affair; what it sent completely is counted.
                connections.spawn(async move { drop(server.serve(stream).await) });
                while connections.try_join_next().is_some() {}
            }
        })
    }

    async fn serve(mut self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        self.released().await?;
        stream.write_all(b"220 sink.invalid ESMTP\r\n").await?;
        let mut session = Session::default();
        let mut input = Vec::with_capacity(READ_BUFFER);
        let mut output = Vec::new();
        while stream.read_buf(&mut input).await? > 0 && input.len() < MAX_BUFFER {
            self.released().await?;
            let taken = session.take(&input, &mut output, &self.tally);
            if taken == input.len() {
                input.clear();
            } else {
                input.drain(..taken);
                input.reserve(READ_BUFFER);
            }
            if !output.is_empty() {
                let delay = self.delay.load(Ordering::Relaxed);
                if delay > 0 {
                    tokio::time::sleep(Duration::from_micros(delay)).await;
                }
                stream.write_all(&output).await?;
                output.clear();
            }
            if session.ended {
                break;
            }
        }
        stream.shutdown().await
    }

    /// Returns at once unless the sink is held.
    async fn released(&mut self) -> std::io::Result<()> {
        self.answers.wait_for(|answers| *answers).await.map(drop).map_err(std::io::Error::other)
    }
}

/// One connection's protocol state; no I/O.
#[derive(Default)]
struct Session {
    recipients: u32,
    content: Option<Content>,
    ended: bool,
}

/// Content that is being received: all of it stays in the input until its end is there.
#[derive(Default)]
struct Content {
    /// Octets that were looked through for the final dot already.
    searched: usize,
}

impl Session {
    /// Takes what is complete in `input`, appends the replies, and returns how many octets were taken.
    fn take(&mut self, input: &[u8], output: &mut Vec<u8>, tally: &Tally) -> usize {
        let mut taken = 0;
        while let Some(rest) = input.get(taken..).filter(|rest| !rest.is_empty() && !self.ended) {
            if let Some(content) = &mut self.content {
                let Some(length) = content.end(rest) else { break };
                let message = rest.get(..length).unwrap_or(rest);
                tally.record(arrival(message, self.recipients));
                self.content = None;
                self.recipients = 0;
                output.extend_from_slice(b"250 2.0.0 OK\r\n");
                taken += length;
            } else {
                let Some(end) = memchr::memchr(b'\n', rest) else { break };
                self.command(rest.get(..end).unwrap_or(rest), output);
                taken += end + 1;
            }
        }
        taken
    }

    fn command(&mut self, line: &[u8], output: &mut Vec<u8>) {
        let verb: [u8; 4] = line.first_chunk().copied().unwrap_or_default();
        let reply: &[u8] = match &verb.to_ascii_uppercase()[..] {
            b"MAIL" => {
                self.recipients = 0;
                b"250 2.1.0 OK\r\n"
            }
            b"RCPT" => {
                self.recipients += 1;
                b"250 2.1.5 OK\r\n"
            }
            b"DATA" if self.recipients == 0 => b"503 5.5.1 No recipients\r\n",
            b"DATA" => {
                self.content = Some(Content::default());
                b"354 Go ahead\r\n"
            }
            b"EHLO" => EHLO,
            b"HELO" => b"250 sink.invalid\r\n",
            b"RSET" => {
                self.recipients = 0;
                b"250 2.0.0 OK\r\n"
            }
            b"NOOP" => b"250 2.0.0 OK\r\n",
            b"QUIT" => {
                self.ended = true;
                b"221 2.0.0 Bye\r\n"
            }
            _ => b"502 5.5.1 Not here\r\n",
        };
        output.extend_from_slice(reply);
    }
}

impl Content {
    /// The content's length with its final dot, once that is there.
    fn end(&mut self, rest: &[u8]) -> Option<usize> {
        if rest.starts_with(b".\r\n") {
            return Some(3);
        }
        // The end may straddle what was searched before.
        let from = self.searched.saturating_sub(4);
        let found = memchr::memmem::find(rest.get(from..)?, b"\r\n.\r\n");
        self.searched = rest.len();
        found.map(|place| from + place + 5)
    }
}

/// What the tally wants to know of a message: fields are found wherever the relay's own have moved them.
fn arrival(message: &[u8], recipients: u32) -> Arrival {
    let end = memchr::memmem::find(message, b"\r\n\r\n").unwrap_or(message.len());
    let header = message.get(..end).unwrap_or(message);
    let mut arrival = Arrival { marker: None, keyed: false, recipients, bytes: message.len() };
    for line in header.split(|byte| *byte == b'\n') {
        if let Some(value) = field(line, MARKER) {
            arrival.marker = std::str::from_utf8(value).ok().and_then(parse_marker);
        }
        arrival.keyed |= field(line, KEY).is_some();
    }
    arrival
}

/// The value when this line begins the field of that name, which is compared without case (RFC 5322 §1.2.2).
fn field<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    rest.strip_prefix(b":").filter(|_| start.eq_ignore_ascii_case(name.as_bytes()))
}
