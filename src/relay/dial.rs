//! Who makes connections to next hops that stay in clear: the system, unless a simulation of the whole has them made in
//! memory. Everything above the bytes is the same then.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use super::wire::Duplex;

/// A connection that is being made.
pub type Dialled<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>> + Send + 'a>>;

/// See the module.
pub trait Dial: Send + Sync {
    /// Connects to an address. The caller bounds the time.
    ///
    /// # Cancel safety
    /// A connection that nobody waits for any more is dropped.
    fn dial(&self, address: SocketAddr) -> Dialled<'_>;
}
