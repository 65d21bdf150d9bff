//! What the process and systemd tell each other: state, life, and sockets that are bound already.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::client::Client;
use crate::common::listener::write;
use crate::common::program::{Relay, Setup};

/// A supervisor that listens.
struct Listening(UnixDatagram);

impl Listening {
    fn at(address: &UnixAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(socket)
    }

    /// Waits for a message that starts so.
    fn hear(&self, start: &str) -> String {
        let mut buffer = [0; 1_000];
        loop {
            let read = self.0.recv(&mut buffer).unwrap_or_else(|error| panic!("no {start}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            if text.starts_with(start) {
                return text;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_hears_of_start_life_reload_and_end() {
    let setup = Setup::new();
    let path = setup.dir.path().join("notify");
    let supervisor = Listening::at(&UnixAddr::from_pathname(&path).unwrap());
    let mut command = setup.command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    let mut relay = Relay::start(command);
    supervisor.hear("READY=1");
    supervisor.hear("WATCHDOG=1");
    supervisor.hear("STATUS=takes and relays mail");
    // Ready is: a client finds an open port and a store that takes its message.
    let (mut client, _) = Client::greeted(relay.listens().await).await;
    client.begin().await;
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 "));
    for (text, config) in [("", setup.config()), ("nonsense = 1\n", setup.config())] {
        // A reload that fails is over too.
        let before = std::fs::read_to_string(&config).unwrap();
        write(config.as_ref(), &format!("{text}{before}"));
        relay.hang_up();
        let reloading = supervisor.hear("RELOADING=1");
        let micros: u64 = reloading.split("MONOTONIC_USEC=").nth(1).unwrap().parse().unwrap();
        assert!(micros > 0);
        supervisor.hear("READY=1");
    }
    supervisor.hear("WATCHDOG=1");
    relay.signal(Signal::TERM);
    supervisor.hear("STOPPING=1");
    assert_eq!(relay.ends().await.code(), Some(0));
}

#[tokio::test]
async fn an_abstract_socket_is_told_and_another_process_watchdog_is_not_ours() {
    let setup = Setup::new();
    let name = format!("oncemail-{}-abstract", std::process::id());
    let supervisor = Listening::at(&UnixAddr::from_abstract_name(&name).unwrap());
    let mut command = setup.command();
    command.env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let mut relay = Relay::start(command);
    supervisor.hear("READY=1");
    relay.signal(Signal::TERM);
    let mut buffer = [0; 1_000];
    loop {
        let read = supervisor.0.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        assert_ne!(text, "WATCHDOG=1");
        if text.starts_with("STOPPING=1") {
            break;
        }
    }
    assert_eq!(relay.ends().await.code(), Some(0));
}

/// The binary with `socket` as its descriptor 3, under this name.
fn with_socket(setup: &Setup, socket: TcpListener, name: &str) -> Command {
    let mut command = setup.command_after("exec 3<&0 0</dev/null; export LISTEN_PID=$$");
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name).stdin(OwnedFd::from(socket));
    command
}

fn bound() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_handed_over_is_the_listener_of_its_name() {
    let setup = Setup::new();
    let (socket, address) = bound();
    let kept = socket.try_clone().unwrap();
    // Before the process is there: the connection waits in the socket's queue.
    let early = tokio::spawn(Client::greeted(address));
    let mut relay = Relay::start(with_socket(&setup, socket, "in"));
    assert_eq!(relay.listens().await, address);
    let (mut client, _) = early.await.unwrap();
    client.begin().await;
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 "));
    client.ask("QUIT").await;
    assert_eq!(relay.stop().await, Some(0));
    // And the next process is found at the same place by a client that did not wait for it.
    let waiting = tokio::spawn(Client::greeted(address));
    let next = Relay::start(with_socket(&setup, kept, "in"));
    waiting.await.unwrap();
    next.signal(Signal::TERM);
}

#[test]
fn a_socket_that_is_nobodys_or_elsewhere_keeps_the_process_from_starting() {
    let setup = Setup::new();
    let fails = |socket: TcpListener, name: &str, said: &str| {
        let output = with_socket(&setup, socket, name).output().unwrap();
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(said), "{log}");
    };
    fails(bound().0, "other", "it is no [[listener]]'s");
    fails(bound().0, "in:more", "1 sockets were handed over, with 2 names");
    // A listener for this machine alone must not find itself on a socket for everybody.
    fails(TcpListener::bind("0.0.0.0:0").unwrap(), "in", "and the socket handed over for it is on 0.0.0.0");
}
