//! Where events go, beside the routes.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::Host;

/// One sink: a `[[webhook]]`, or the file of `[events]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sink {
    /// Its name in logs and in the events' envelopes; different from all others.
    pub name: String,
    /// Where it leads.
    pub transport: SinkTransport,
}

/// Most connections at a time to one webhook.
pub const WEBHOOK_CONNECTIONS: usize = 8;

/// Where a sink leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SinkTransport {
    /// HTTPS POST.
    Webhook(Webhook),
    /// JSON lines.
    File(EventFile),
}

/// One `[[webhook]]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// HTTPS; without it only to this machine, unless `allow_http`.
    pub tls: bool,
    /// The receiver.
    pub host: Host,
    /// Path with query; may hold a token, and is never printed.
    pub path: String,
    /// Plain HTTP may leave this machine.
    pub allow_http: bool,
    /// What the signature is made with; never printed.
    pub secret: Zeroizing<String>,
    /// PEM file with the only certificate authorities to trust; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// For one request with its answer.
    pub timeout: Duration,
}

/// The file of `[events]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventFile {
    /// Where it is; old ones have `.1`, `.2`, … behind it.
    pub path: PathBuf,
    /// A new one is begun before it has more than this, in bytes.
    pub size: u64,
    /// Old ones that are kept, at least 1.
    pub count: u32,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("tls", &self.tls)
            .field("host", &self.host)
            .field("allow_http", &self.allow_http)
            .field("ca_file", &self.ca_file)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
