//! How many connections each client has, so that none of them can take the places of all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::access::{Peer, network};

/// See the module. A copy counts the same.
#[derive(Clone)]
pub(super) struct Crowd {
    most: usize,
    /// Only clients that have one (S2).
    connections: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection's place; free again when it is dropped.
pub(super) struct Place {
    crowd: Crowd,
    /// `None`: whoever comes over the unix socket is not counted.
    client: Option<IpAddr>,
}

impl Crowd {
    /// At most so many for each.
    pub fn new(most: usize) -> Self {
        Self { most, connections: Arc::default() }
    }

    /// A place for one more connection, if its client may have one.
    pub fn admit(&self, peer: Peer) -> Option<Place> {
        let client = peer.address().map(network);
        if let Some(client) = client {
            let mut connections = self.table();
            let has = connections.entry(client).or_default();
            if *has >= self.most {
                return None;
            }
            *has += 1;
        }
        Some(Place { crowd: self.clone(), client })
    }

    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(client) = self.client else { return };
        let mut connections = self.crowd.table();
        if let Some(has) = connections.get_mut(&client) {
            *has -= 1;
            if *has == 0 {
                connections.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_a_client_has_so_many_places_and_gives_them_back() {
        let crowd = Crowd::new(2);
        let from = |address: &str| crowd.admit(Peer::Network(address.parse().unwrap()));
        let first = from("[2001:db8::1]:1000");
        let second = from("[2001:db8::2]:1000");
        assert!(first.is_some() && second.is_some());
        assert!(from("[2001:db8::3]:1000").is_none());
        assert!(from("192.0.2.1:1000").is_some() && from("192.0.2.1:1001").is_some());
        drop(first);
        assert!(from("[2001:db8::3]:1000").is_some());
        drop(second);
        assert!(crowd.table().is_empty());
        let local: Vec<_> = (0..9).map(|_| crowd.admit(Peer::Local)).collect();
        assert!(local.iter().all(Option::is_some));
    }
}
