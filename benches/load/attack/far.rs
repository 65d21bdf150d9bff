//! Far sides that mean it ill. They serve until the program ends.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::Attack;

/// One that listens.
pub struct FarSide {
    /// Where.
    pub address: SocketAddr,
    reached: Arc<AtomicU64>,
}

impl FarSide {
    /// Begins to listen; each connection has a thread, and a relay opens few.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(attack: Attack) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let reached = Arc::<AtomicU64>::default();
        let counts = reached.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counts.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || match attack {
                    Attack::TarPit => drip(stream),
                    _ => talk(stream),
                });
            }
        });
        Ok(Self { address, reached })
    }

    /// Connections to it.
    pub fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }
}

/// An octet a minute.
fn drip(mut stream: TcpStream) {
    while stream.write_all(b"2").is_ok() {
        thread::sleep(Duration::from_secs(60));
    }
}

/// Lines that go on.
fn talk(mut stream: TcpStream) {
    while stream.write_all(b"220-and another thing\r\n").is_ok() {}
}
