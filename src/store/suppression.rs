//! Addresses that refused mail for good: remembered for a while, so that no more is sent to them.

use crate::clock::Timestamp;
use crate::mail::Address;

/// What is remembered of one address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suppressed {
    /// When it refused.
    pub since: Timestamp,
    /// What it said.
    pub reason: String,
}

/// See the module.
pub struct Suppressions {}

impl Suppressions {
    /// What is remembered of an address, while it has not expired. Cheap.
    pub fn find(&self, address: &Address) -> Option<Suppressed> {
        let _ = address;
        None
    }

    /// Remembers an address. Never blocks; what cannot be written is said in the log and lost with the process.
    pub fn add(&self, address: &Address, reason: &str) {
        let _ = (address, reason);
    }
}
