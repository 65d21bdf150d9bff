//! Wrong tokens of each client address: ten are borne at once, and one is forgiven every six seconds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::network;
use crate::clock::{Clock, Timestamp};

/// So many at once are borne.
const BORNE: u32 = 10;
/// One is forgiven after this.
const INTERVAL: Duration = Duration::from_secs(6);
/// Addresses remembered at most (S2); beyond it those that will be forgiven first are forgotten.
const MOST: usize = 4096;

/// See the module.
pub(super) struct Attempts {
    clock: Clock,
    /// When all failures of an address will be forgiven.
    forgiven_at: Mutex<HashMap<IpAddr, Timestamp>>,
}

impl Attempts {
    pub fn new(clock: Clock) -> Self {
        Self { clock, forgiven_at: Mutex::default() }
    }

    /// For how many seconds an address has to wait, if it has to.
    pub fn wait(&self, address: IpAddr) -> Option<u64> {
        let until = self.table().get(&network(address)).copied()?;
        let left = until.since(self.clock.now());
        // More than all of it is left only when the clock was set back; nobody is kept out by that.
        let is_kept_out = left > INTERVAL * (BORNE - 1) && left <= INTERVAL * BORNE;
        is_kept_out.then(|| (left - INTERVAL * (BORNE - 1)).as_secs() + 1)
    }

    /// Counts one.
    pub fn note(&self, address: IpAddr) {
        let now = self.clock.now();
        let mut table = self.table();
        if table.len() >= MOST {
            make_room(&mut table, now);
        }
        let until = table.entry(network(address)).or_default();
        *until = (*until).max(now).plus(INTERVAL).min(now.plus(INTERVAL * BORNE));
    }

    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, Timestamp>> {
        self.forgiven_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(table: &mut HashMap<IpAddr, Timestamp>, now: Timestamp) {
    table.retain(|_, until| *until > now);
    if table.len() >= MOST
        && let Some(first) = table.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address)
    {
        table.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_the_table_is_bounded() {
        let attempts = Attempts::new(Clock::manual(Timestamp::from_millis(1)));
        for n in 0..u32::try_from(MOST * 2).unwrap() {
            attempts.note(IpAddr::V4(n.into()));
        }
        assert!(attempts.table().len() <= MOST);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let attempts = Attempts::new(Clock::manual(Timestamp::from_millis(1)));
        (0..BORNE).for_each(|_| attempts.note("2001:db8::1".parse().unwrap()));
        assert_eq!(attempts.wait("2001:db8::ffff:2".parse().unwrap()), Some(7));
        assert_eq!(attempts.wait("2001:db8:0:1::1".parse().unwrap()), None);
    }
}
