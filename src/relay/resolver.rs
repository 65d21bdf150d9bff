//! Names of smarthosts to addresses: by the system's configuration, with its hosts file.
//!
//! No answer is final here: a smarthost without an address says something about us or our DNS, never about a message.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::options::Host;

/// One lookup, with all retries of the resolver.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// More addresses of one name are not tried in one attempt.
const MAX_ADDRESSES: usize = 8;

/// Reads the system's configuration when a name is first looked up.
#[derive(Default)]
pub(super) struct Resolver(OnceCell<TokioResolver>);

impl Resolver {
    /// The addresses of a host, in the order in which to try them, at least one.
    ///
    /// # Errors
    /// A sentence that names the cause.
    pub(super) async fn addresses(&self, host: &Host) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = host.name.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, host.port)]);
        }
        let failed = |reason: String| format!("{} cannot be looked up: {reason}", host.name);
        let resolver = self.0.get_or_try_init(system_resolver).await.map_err(failed)?;
        let found = timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(host.name.as_str()))
            .await
            .map_err(|_| failed(format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        let addresses: Vec<_> =
            found.iter().take(MAX_ADDRESSES).map(|address| SocketAddr::new(address, host.port)).collect();
        if addresses.is_empty() { Err(failed("it has no address".to_owned())) } else { Ok(addresses) }
    }
}

async fn system_resolver() -> Result<TokioResolver, String> {
    let built = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    built.map_err(|error| format!("the system's DNS configuration cannot be used: {error}"))
}
