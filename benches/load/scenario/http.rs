//! What operators and Prometheus do beside the mail: requests over HTTP, a page that follows a stream, and their times.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

/// No answer takes longer; and how soon a follower of a stream notices that it is over.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_UP: Duration = Duration::from_millis(50);
/// How often a watcher asks.
const EVERY: Duration = Duration::from_secs(1);
/// What a watcher asks for, besides the stream.
const ASKED: [&str; 2] = ["/metrics", "/api/v1/messages?to_domain=d1.load.invalid&limit=50"];

/// One request on a connection of its own: the answer's header and body, and what it took, connecting included.
///
/// # Errors
/// When there is none, or none that begins with 200.
pub fn get(address: SocketAddr, target: &str) -> Result<(String, Duration)> {
    let began = Instant::now();
    let mut stream = ask(address, target)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("GET {target}"))?;
    let took = began.elapsed();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(
        answer.starts_with("HTTP/1.1 200 "),
        "GET {target}: {}",
        answer.lines().next().unwrap_or("nothing")
    );
    Ok((answer, took))
}

fn ask(address: SocketAddr, target: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

/// Somebody who scrapes the metrics and lists messages each second, and somebody with the dashboard open.
pub struct Watchers {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<u64>>>,
}

impl Watchers {
    /// Begin to watch.
    pub fn start(address: SocketAddr) -> Self {
        let over = Arc::<AtomicBool>::default();
        let (asks, follows) = (over.clone(), over.clone());
        let threads = vec![
            thread::spawn(move || keep_asking(address, &asks)),
            thread::spawn(move || follow(address, &follows)),
        ];
        Self { over, threads }
    }

    /// End; how many answers and events there were.
    ///
    /// # Errors
    /// When one of them got something that it should not get.
    pub fn stop(self) -> Result<u64> {
        self.over.store(true, Ordering::SeqCst);
        let mut all = 0;
        for thread in self.threads {
            all += thread.join().map_err(|_| anyhow!("a watcher panicked"))??;
        }
        Ok(all)
    }
}

fn keep_asking(address: SocketAddr, over: &AtomicBool) -> Result<u64> {
    let mut count = 0;
    let mut next = Instant::now();
    while !over.load(Ordering::SeqCst) {
        for target in ASKED {
            get(address, target)?;
            count += 1;
        }
        next += EVERY;
        while !over.load(Ordering::SeqCst) && Instant::now() < next {
            thread::sleep(LOOK_UP.min(next.saturating_duration_since(Instant::now())));
        }
    }
    Ok(count)
}

/// Reads events as they come.
fn follow(address: SocketAddr, over: &AtomicBool) -> Result<u64> {
    let mut stream = ask(address, "/api/v1/stream")?;
    stream.set_read_timeout(Some(LOOK_UP))?;
    let (mut events, mut some) = (0, [0; 16 * 1024]);
    while !over.load(Ordering::SeqCst) {
        match stream.read(&mut some) {
            Ok(0) => break,
            Ok(len) => {
                events += memchr::memmem::find_iter(some.get(..len).unwrap_or_default(), b"data:").count()
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(events as u64)
}
