//! How many connections each client has, so that none of them can take the places of all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::PoisonError;

use super::access::{Peer, network};
use super::sync::{Arc, Mutex, MutexGuard};

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

    /// How many clients are counted.
    #[cfg(test)]
    pub(super) fn clients(&self) -> usize {
        self.table().len()
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
