//! Failed AUTH commands of each client address.
//!
//! A governor limiter cannot be asked without being charged, and here only failures are charged while every attempt
//! must ask first; so this is the same algorithm (GCRA) with the two apart.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::Quota;

use crate::clock::{Clock, Timestamp};

/// Addresses remembered at most; beyond it those that are nearest to being forgiven are forgotten.
const MAX_ADDRESSES: usize = 16_384;

/// Counts failures. See the module.
#[derive(Debug)]
pub(super) struct Failures {
    clock: Clock,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// One failure is forgiven after this.
    interval: Duration,
    /// So many failures at once are borne.
    burst: u32,
    /// When all failures of an address will be forgiven.
    forgiven_at: HashMap<IpAddr, Timestamp>,
}

impl Failures {
    pub(super) fn new(quota: Quota, clock: Clock) -> Self {
        let (interval, burst) = (quota.replenish_interval(), quota.burst_size().get());
        Self { clock, table: Mutex::new(Table { interval, burst, forgiven_at: HashMap::new() }) }
    }

    /// Counts by another quota from now on. Nobody's failures are forgotten, and nobody is kept out for longer than it says.
    pub(super) fn change(&self, quota: Quota) {
        let now = self.clock.now();
        let mut table = self.table();
        (table.interval, table.burst) = (quota.replenish_interval(), quota.burst_size().get());
        let latest = now.plus(table.longest());
        table.forgiven_at.values_mut().for_each(|at| *at = (*at).min(latest));
    }

    /// Whether this client has to wait before it may try again.
    pub(super) fn are_too_many(&self, client: IpAddr) -> bool {
        let table = self.table();
        let forgiven_at = table.forgiven_at.get(&network(client)).copied().unwrap_or_default();
        let left = forgiven_at.since(self.clock.now());
        // More than all of it is left only when the clock was set back; nobody is kept out by that.
        left > table.interval * table.burst.saturating_sub(1) && left <= table.longest()
    }

    /// Counts one failure.
    pub(super) fn note(&self, client: IpAddr) {
        let now = self.clock.now();
        let mut table = self.table();
        if table.forgiven_at.len() >= MAX_ADDRESSES {
            make_room(&mut table.forgiven_at, now);
        }
        let (interval, latest) = (table.interval, now.plus(table.longest()));
        let forgiven_at = table.forgiven_at.entry(network(client)).or_default();
        *forgiven_at = (*forgiven_at).max(now).plus(interval).min(latest);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn longest(&self) -> Duration {
        self.interval * self.burst
    }
}

fn make_room(table: &mut HashMap<IpAddr, Timestamp>, now: Timestamp) {
    table.retain(|_, forgiven_at| *forgiven_at > now);
    if table.len() >= MAX_ADDRESSES {
        let mut times: Vec<Timestamp> = table.values().copied().collect();
        let (_, middle, _) = times.select_nth_unstable(MAX_ADDRESSES / 2);
        let middle = *middle;
        table.retain(|_, forgiven_at| *forgiven_at > middle);
    }
}

/// One client usually holds a whole /64 of IPv6 addresses.
pub(super) fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn failures_over_the_quota_block_until_one_is_forgiven() {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let failures = Failures::new(Quota::per_minute(const { NonZeroU32::new(2).unwrap() }), clock.clone());
        let client = IpAddr::from([192, 0, 2, 1]);
        failures.note(client);
        assert!(!failures.are_too_many(client));
        failures.note(client);
        assert!(failures.are_too_many(client));
        assert!(!failures.are_too_many(IpAddr::from([192, 0, 2, 2])));
        clock.advance(Duration::from_secs(30));
        assert!(!failures.are_too_many(client));
        failures.note(client);
        assert!(failures.are_too_many(client));
    }

    #[test]
    fn a_changed_quota_forgets_nobody_and_holds_for_all() {
        let minute = |n: u32| Quota::per_minute(NonZeroU32::new(n).unwrap());
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let failures = Failures::new(Quota::per_hour(NonZeroU32::MIN), clock.clone());
        let client = IpAddr::from([192, 0, 2, 1]);
        failures.note(client);
        assert!(failures.are_too_many(client));
        failures.change(minute(2));
        assert!(failures.are_too_many(client));
        clock.advance(Duration::from_secs(30));
        assert!(!failures.are_too_many(client));
        failures.change(minute(1));
        assert!(failures.are_too_many(client));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_out() {
        let clock = Clock::manual(Timestamp::from_millis(100_000_000));
        let failures = Failures::new(Quota::per_minute(const { NonZeroU32::new(2).unwrap() }), clock.clone());
        let client = IpAddr::from([192, 0, 2, 1]);
        (0..5).for_each(|_| failures.note(client));
        assert!(failures.are_too_many(client));
        clock.set(Timestamp::from_millis(1_000_000));
        assert!(!failures.are_too_many(client));
        (0..2).for_each(|_| failures.note(client));
        assert!(failures.are_too_many(client));
        clock.advance(Duration::from_secs(30));
        assert!(!failures.are_too_many(client));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let failures =
            Failures::new(Quota::per_hour(NonZeroU32::MIN), Clock::manual(Timestamp::from_millis(1)));
        failures.note("2001:db8::1".parse().unwrap());
        assert!(failures.are_too_many("2001:db8::ffff:2".parse().unwrap()));
        assert!(!failures.are_too_many("2001:db8:0:1::1".parse().unwrap()));
    }

    #[test]
    fn s2_the_table_is_bounded() {
        let failures =
            Failures::new(Quota::per_hour(NonZeroU32::MIN), Clock::manual(Timestamp::from_millis(1)));
        for n in 0..(MAX_ADDRESSES as u32 * 2) {
            failures.note(IpAddr::V4(n.into()));
        }
        assert!(failures.table().forgiven_at.len() <= MAX_ADDRESSES);
    }
}
