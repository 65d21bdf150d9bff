//! How many connections are open, in all and per client address (S2).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts connections. Clones share the count.
#[derive(Clone, Debug)]
pub(super) struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections: AtomicUsize,
    connections_per_ip: AtomicUsize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// One open connection; its place is free again when this is dropped, panic or not.
#[derive(Debug)]
pub(super) struct Pass {
    door: Door,
    client: IpAddr,
}

/// Which limit is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    /// `limits.connections`.
    Total,
    /// `limits.connections_per_ip`.
    Client,
}

impl Door {
    pub(super) fn new(connections: usize, connections_per_ip: usize) -> Self {
        let (connections, connections_per_ip) = (connections.into(), connections_per_ip.into());
        Self(Arc::new(Inner { connections, connections_per_ip, open: Mutex::default() }))
    }

    /// Has other limits from now on; who is in stays.
    pub(super) fn resize(&self, connections: usize, connections_per_ip: usize) {
        self.0.connections.store(connections, Ordering::Relaxed);
        self.0.connections_per_ip.store(connections_per_ip, Ordering::Relaxed);
    }

    /// Lets a client in, or says which limit keeps it out.
    pub(super) fn enter(&self, client: IpAddr) -> Result<Pass, Full> {
        let mut open = self.open();
        if open.total >= self.0.connections.load(Ordering::Relaxed) {
            return Err(Full::Total);
        }
        let of_client = open.by_client.entry(client).or_default();
        if *of_client >= self.0.connections_per_ip.load(Ordering::Relaxed) {
            return Err(Full::Client);
        }
        *of_client += 1;
        open.total += 1;
        Ok(Pass { door: self.clone(), client })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut open = self.door.open();
        open.total = open.total.saturating_sub(1);
        // An entry goes with its last connection, so the map is no longer than the connections are many.
        if let Some(of_client) = open.by_client.get_mut(&self.client) {
            *of_client = of_client.saturating_sub(1);
            if *of_client == 0 {
                open.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_places_are_limited_and_given_back() {
        let door = Door::new(3, 2);
        let client = |last| IpAddr::from([192, 0, 2, last]);
        let first = door.enter(client(1)).unwrap();
        let _second = door.enter(client(1)).unwrap();
        assert_eq!(door.enter(client(1)).err(), Some(Full::Client));
        let _third = door.enter(client(2)).unwrap();
        assert_eq!(door.enter(client(3)).err(), Some(Full::Total));
        drop(first);
        let fourth = door.enter(client(3)).unwrap();
        drop(fourth);
        assert_eq!(door.open().by_client.len(), 2);
        door.resize(1, 1);
        assert_eq!(door.enter(client(4)).err(), Some(Full::Total));
        door.resize(10, 3);
        assert!(door.enter(client(2)).is_ok());
    }
}
