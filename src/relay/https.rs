//! One request to an HTTPS server: for MTA-STS policies and OAuth 2 tokens. No redirects, no cookies, no state.

use std::time::Duration;

use super::tls::Trust;
use crate::dns::Dns;

/// What to ask.
pub(super) struct Request<'a> {
    /// Whether TLS is used; plain only to loopback.
    pub(super) tls: bool,
    /// Name of the server, verified against its certificate.
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// Path with query.
    pub(super) path: &'a str,
    /// Content type and body of a POST; a GET without.
    pub(super) body: Option<(&'static str, Vec<u8>)>,
    /// Octets of the answer's body; more is an error.
    pub(super) most: usize,
    /// For all of it.
    pub(super) limit: Duration,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Media type without parameters, lower case.
    pub(super) content_type: Option<String>,
    pub(super) body: Vec<u8>,
}

/// Asks.
///
/// # Errors
/// A sentence that names the step.
pub(super) async fn fetch(trust: &Trust, dns: &Dns, request: Request<'_>) -> Result<Response, String> {
    let _ = (trust, dns, request.limit);
    Err(format!("{}:{}{}", request.host, request.port, request.path))
}
