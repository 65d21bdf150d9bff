//! How many connections are open, in all and per client address (S2), and what messages of each client take.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failures::network;
use crate::smtp::content::Share;

/// Counts connections. Clones share the count.
#[derive(Clone, Debug)]
pub(super) struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections: AtomicUsize,
    connections_per_ip: AtomicUsize,
    /// As in `open`, for those who need not be exact.
    taken: AtomicUsize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
    /// Whoever has one IPv6 address has a network full of them.
    by_network: HashMap<IpAddr, Present>,
}

/// A network that connections are open from.
#[derive(Debug, Default)]
struct Present {
    connections: usize,
    share: Share,
}

/// One open connection; its place is free again when this is dropped, panic or not.
#[derive(Debug)]
pub(super) struct Pass {
    door: Door,
    /// `None` as long as it is not known.
    client: Option<IpAddr>,
    share: Share,
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
        Self(Arc::new(Inner { connections, connections_per_ip, taken: 0.into(), open: Mutex::default() }))
    }

    /// Has other limits from now on; who is in stays.
    pub(super) fn resize(&self, connections: usize, connections_per_ip: usize) {
        self.0.connections.store(connections, Ordering::Relaxed);
        self.0.connections_per_ip.store(connections_per_ip, Ordering::Relaxed);
    }

    /// Lets a client in, or says which limit keeps it out.
    pub(super) fn enter(&self, client: IpAddr) -> Result<Pass, Full> {
        let mut pass = self.enter_unknown()?;
        pass.name(client)?;
        Ok(pass)
    }

    /// Lets somebody in of whom nothing is known yet, and who counts towards `limits.connections` alone.
    pub(super) fn enter_unknown(&self) -> Result<Pass, Full> {
        let mut open = self.open();
        if open.total >= self.0.connections.load(Ordering::Relaxed) {
            return Err(Full::Total);
        }
        open.total += 1;
        self.0.taken.store(open.total, Ordering::Relaxed);
        Ok(Pass { door: self.clone(), client: None, share: Share::default() })
    }

    /// Whether places are running out: three of four are taken. Those who only sit there are hurried then.
    pub(super) fn is_crowded(&self) -> bool {
        let most = self.0.connections.load(Ordering::Relaxed);
        // A load, not the lock: every connection asks this now and then.
        self.0.taken.load(Ordering::Relaxed) >= most - most / 4
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// From now on it counts as a connection of `client`, if there may be one more. Said once.
    pub(super) fn name(&mut self, client: IpAddr) -> Result<(), Full> {
        let mut open = self.door.open();
        let of_client = open.by_client.get(&client).copied().unwrap_or_default();
        if of_client >= self.door.0.connections_per_ip.load(Ordering::Relaxed) {
            return Err(Full::Client);
        }
        open.by_client.insert(client, of_client + 1);
        let present = open.by_network.entry(network(client)).or_default();
        present.connections += 1;
        self.share = present.share.clone();
        self.client = Some(client);
        Ok(())
    }

    /// What messages of the client take, over all its connections.
    pub(super) fn share(&self) -> Share {
        self.share.clone()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut open = self.door.open();
        open.total = open.total.saturating_sub(1);
        self.door.0.taken.store(open.total, Ordering::Relaxed);
        // An entry goes with its last connection, so the maps are no longer than the connections are many.
        let Some(client) = self.client else { return };
        if let Entry::Occupied(mut of_client) = open.by_client.entry(client) {
            *of_client.get_mut() = of_client.get().saturating_sub(1);
            if *of_client.get() == 0 {
                of_client.remove();
            }
        }
        if let Entry::Occupied(mut present) = open.by_network.entry(network(client)) {
            present.get_mut().connections = present.get().connections.saturating_sub(1);
            if present.get().connections == 0 {
                present.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::content::{Budget, Reservation};

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
        let left = door.open();
        assert_eq!((left.by_client.len(), left.by_network.len()), (2, 2));
        drop(left);
        door.resize(1, 1);
        assert_eq!(door.enter(client(4)).err(), Some(Full::Total));
        door.resize(10, 3);
        assert!(door.enter(client(2)).is_ok());
    }

    #[test]
    fn a_door_is_crowded_when_three_of_four_places_are_taken() {
        let door = Door::new(8, 8);
        let mut passes: Vec<_> = (0..5).map(|_| door.enter_unknown().unwrap()).collect();
        assert!(!door.is_crowded());
        passes.push(door.enter_unknown().unwrap());
        assert!(door.is_crowded());
        passes.pop();
        assert!(!door.is_crowded());
        door.resize(4, 4);
        assert!(door.is_crowded());
    }

    #[test]
    fn s2_somebody_unknown_has_a_place_and_is_counted_when_named() {
        let door = Door::new(2, 1);
        let client = |last| IpAddr::from([192, 0, 2, last]);
        let mut unknown = door.enter_unknown().unwrap();
        let named = door.enter(client(1)).unwrap();
        assert_eq!(door.enter_unknown().err(), Some(Full::Total));
        assert_eq!(unknown.name(client(1)), Err(Full::Client));
        unknown.name(client(2)).unwrap();
        drop(named);
        assert_eq!(door.enter(client(2)).err(), Some(Full::Client));
        drop(unknown);
        let left = door.open();
        assert_eq!((left.total, left.by_client.len(), left.by_network.len()), (0, 0, 0));
    }

    #[test]
    fn s2_the_connections_of_one_network_share_what_their_messages_take() {
        let door = Door::new(10, 10);
        let whole = Budget::new(1_000_000);
        let enter = |address: &str| door.enter(address.parse().unwrap()).unwrap();
        let passes = ["192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::ffff:2", "192.0.2.2"].map(enter);
        let budgets = passes.each_ref().map(|pass| whole.of(pass.share()));
        let room = |octets| budgets.each_ref().map(|budget| budget.has_room_for(octets));
        let mut taken = budgets.each_ref().map(Reservation::empty);
        assert!(taken[0].grow(400_000) && taken[2].grow(100_000));
        assert_eq!(room(100_000), [true; 5]);
        assert!(taken[4].grow(150_000));
        assert_eq!(room(100_000), [false, false, true, true, true]);
        assert!(taken[3].grow(100_000));
        assert_eq!(room(50_000), [false, false, false, false, true]);
        drop((taken, passes));
        assert_eq!((whole.free(), door.open().by_network.len()), (1_000_000, 0));
    }
}
