//! What oncemail and the one that supervises it (systemd, sd_notify(3) and sd_listen_fds(3)) tell each other.
//!
//! READY=1 when the listeners are bound and the store is open, RELOADING=1 around a reload, STOPPING=1 at the end, STATUS=
//! in the words of the health check, and WATCHDOG=1 for as long as the runtime runs tasks and the store answers a question.
//! A store that refuses mail but answers is alive: a restart would cut attempts that are in doubt (R1), and is the
//! operator's to decide. Where nobody supervises, nothing of this does anything; telling never waits and never fails.

use std::env;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use listenfd::ListenFd;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock::monotonic_micros;
use crate::submission::Inherited;

/// How often STATUS= is looked at when there is no watchdog.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// More sockets than this are a mistake.
const MOST_SOCKETS: usize = 64;

/// Tells the supervisor, if there is one. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say. What cannot be used is logged, and nobody is told.
    pub fn from_environment() -> Self {
        let Ok(address) = env::var("NOTIFY_SOCKET") else { return Self::default() };
        let socket = match open(&address) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(error) => {
                tracing::warn!(address, %error, "NOTIFY_SOCKET cannot be used");
                None
            }
        };
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0);
        Self { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// Everything that was promised to be there is there.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// A reload begins (`true`), or has ended in either way.
    pub fn reloading(&self, begins: bool) {
        match begins {
            true => self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros())),
            false => self.ready(),
        }
    }

    /// Says that we are alive, as often as it takes, and how we are, until `stop`. We are alive when `answer` has come.
    pub async fn follow<A: Future<Output = ()>>(
        self,
        answer: impl Fn() -> A,
        status: impl Fn() -> String,
        stop: CancellationToken,
    ) {
        let alive = async {
            if self.socket.is_none() {
                return std::future::pending().await;
            }
            // Two may be late or lost before it counts as dead.
            let every = self.watchdog.map_or(STATUS_EVERY, |limit| limit / 3);
            let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut said = String::new();
            loop {
                ticks.tick().await;
                answer().await;
                if self.watchdog.is_some() {
                    self.tell("WATCHDOG=1");
                }
                let now = status();
                if now != said {
                    // One line: what comes after a line end would be read as a message of its own.
                    self.tell(&format!("STATUS={}", now.replace(['\n', '\r'], " ")));
                    said = now;
                }
            }
        };
        let _: Option<()> = stop.run_until_cancelled(alive).await;
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = self.socket.as_deref()
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::debug!(%error, state, "the supervisor could not be told");
        }
    }
}

/// `/path`, or `@name` for an abstract one.
fn open(address: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match address.strip_prefix('@') {
        Some(name) => abstract_address(name)?,
        None if address.starts_with('/') => SocketAddr::from_pathname(address)?,
        None => return Err(io::ErrorKind::Unsupported.into()),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &str) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &str) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Takes over the sockets that `LISTEN_FDS` hands to this process, with their names. Must be called before there are other
/// threads, because it changes the environment, and once.
///
/// # Errors
/// When one of them is no TCP socket, or they are not all named.
pub fn sockets() -> anyhow::Result<Inherited> {
    let Ok(count) = env::var("LISTEN_FDS") else { return Ok(Inherited::new()) };
    let is_usable = count.parse::<usize>().is_ok_and(|count| count <= MOST_SOCKETS);
    ensure!(is_usable, "LISTEN_FDS={count:?} is not the number of a few sockets");
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut handed = ListenFd::from_env();
    let names: Vec<&str> = names.split(':').filter(|name| !name.is_empty()).collect();
    ensure!(
        handed.len() == 0 || handed.len() == names.len(),
        "{} sockets were handed over, with {} names (FileDescriptorName=)",
        handed.len(),
        names.len()
    );
    let take = |(index, name): (usize, &str)| -> anyhow::Result<Option<(String, TcpListener)>> {
        let socket = handed
            .take_tcp_listener(index)
            .with_context(|| format!("the socket {name:?} that was handed over cannot be used"))?;
        Ok(socket.map(|socket| (name.to_owned(), socket)))
    };
    names.into_iter().enumerate().map(take).filter_map(Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    #[cfg(target_os = "linux")]
    fn pair() -> (UnixDatagram, Supervisor) {
        let name = format!("oncemail-test-{}-watchdog", std::process::id());
        let receiver = UnixDatagram::bind_addr(&abstract_address(&name).unwrap()).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let socket = Some(Arc::new(open(&format!("@{name}")).unwrap()));
        (receiver, Supervisor { socket, watchdog: Some(Duration::from_millis(3)) })
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_store_that_does_not_answer_is_not_said_to_be_alive() {
        let (receiver, supervisor) = pair();
        let hear = || {
            let mut buffer = [0; 1_000];
            let read = receiver.recv(&mut buffer).expect("something is said");
            String::from_utf8_lossy(&buffer[..read]).into_owned()
        };
        // The store answers as often as there are permits.
        let answers = Arc::new(Semaphore::new(2));
        let (ask, mut asked) = mpsc::unbounded_channel();
        let status = Arc::new(Mutex::new("takes mail".to_owned()));
        let (permits, told, stop) = (answers.clone(), status.clone(), CancellationToken::new());
        let answer = move || {
            let (permits, ask) = (permits.clone(), ask.clone());
            async move {
                ask.send(()).unwrap();
                permits.acquire().await.unwrap().forget();
            }
        };
        let say = move || told.lock().unwrap().clone();
        let following = tokio::spawn(supervisor.follow(answer, say, stop.clone()));
        assert_eq!([hear(), hear(), hear()], ["WATCHDOG=1", "STATUS=takes mail", "WATCHDOG=1"]);
        for _ in 0..3 {
            asked.recv().await.unwrap();
        }
        // The third question has been asked and is not answered.
        receiver.set_nonblocking(true).unwrap();
        assert!(receiver.recv(&mut [0; 1_000]).is_err());
        receiver.set_nonblocking(false).unwrap();
        *status.lock().unwrap() = "refuses it\nREADY=1".to_owned();
        answers.add_permits(1);
        assert_eq!([hear(), hear()], ["WATCHDOG=1", "STATUS=refuses it READY=1"]);
        stop.cancel();
        following.await.unwrap();
        assert_eq!(hear(), "STOPPING=1\nSTATUS=stopping");
    }

    #[tokio::test]
    async fn where_nobody_supervises_nothing_happens() {
        let stop = CancellationToken::new();
        stop.cancel();
        Supervisor::default().reloading(true);
        Supervisor::default().follow(|| async {}, String::new, stop).await;
        assert!(open("vsock:2:1").is_err());
    }
}
