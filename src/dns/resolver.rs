//! Which name servers are asked, and how: the configured ones or the system's, re-read when the system's files change.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::system_conf::read_system_conf;
use tokio::time::Instant;

use super::Options;

/// Where the system says whom to ask, and what it knows of its own.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// How often the system's files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A question that got no answer is asked this many times more.
const REPEATS: usize = 1;
/// Questions on one connection to a name server.
const MAX_ACTIVE: usize = 256;

/// Something that can be asked.
#[derive(Clone)]
pub(super) struct Resolver {
    pub(super) hickory: TokioResolver,
    /// The name servers, for sentences.
    pub(super) servers: Arc<str>,
}

/// Keeps a [`Resolver`] and makes a new one when it has to.
pub(super) struct Resolvers {
    options: Options,
    current: Mutex<Option<Current>>,
}

struct Current {
    resolver: Resolver,
    made_from: Stamp,
    looked_at: Instant,
}

/// When the system's files were last changed.
type Stamp = [Option<SystemTime>; SYSTEM_FILES.len()];

impl Resolvers {
    pub(super) fn new(options: Options) -> Self {
        Self { options, current: Mutex::new(None) }
    }

    /// The one to ask now, and whether it is another than the last time.
    ///
    /// # Errors
    /// The configuration cannot be used; an earlier one stays in use.
    pub(super) fn current(&self) -> Result<(Resolver, bool), String> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fixed = !self.options.servers.is_empty();
        if let Some(kept) = current.as_mut() {
            let now = Instant::now();
            if is_fixed || now.duration_since(kept.looked_at) < LOOK_AGAIN {
                return Ok((kept.resolver.clone(), false));
            }
            kept.looked_at = now;
            if kept.made_from == stamp() {
                return Ok((kept.resolver.clone(), false));
            }
        }
        let made_from = stamp();
        match (build(&self.options), current.as_mut()) {
            (Ok(resolver), _) => {
                *current = Some(Current { resolver: resolver.clone(), made_from, looked_at: Instant::now() });
                Ok((resolver, true))
            }
            // A file may be read while it is being written.
            (Err(error), Some(kept)) => {
                tracing::warn!(target: "oncemail::dns", %error, "the name servers stay as they were");
                Ok((kept.resolver.clone(), false))
            }
            (Err(error), None) => Err(error),
        }
    }
}

fn stamp() -> Stamp {
    SYSTEM_FILES.map(|file| std::fs::metadata(file).and_then(|found| found.modified()).ok())
}

fn build(options: &Options) -> Result<Resolver, String> {
    let (config, mut settings) = if options.servers.is_empty() {
        read_system_conf()
            .map_err(|error| format!("the system's DNS configuration cannot be used: {error}"))?
    } else {
        let servers = options.servers.iter().map(|address| server(*address)).collect();
        (ResolverConfig::from_name_servers(servers), ResolverOpts::default())
    };
    settings.timeout = options.timeout;
    settings.attempts = REPEATS;
    settings.max_active_requests = MAX_ACTIVE;
    // What is kept is kept in our own cache: hickory's counts answers, and one answer may have 64 KiB.
    settings.cache_size = 0;
    settings.preserve_intermediates = true;
    settings.validate = options.dnssec;
    let servers = names(&config).into();
    let mut builder =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(settings);
    if options.dnssec {
        builder = builder.with_trust_anchor(Arc::new(trust_anchors(options)?));
    }
    let hickory = builder.build().map_err(|error| format!("DNS cannot be set up: {error}"))?;
    Ok(Resolver { hickory, servers })
}

fn server(address: SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    // UDP first; TCP for answers that do not fit.
    NameServerConfig::new(address.ip(), true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
}

fn names(config: &ResolverConfig) -> String {
    let name = |server: &NameServerConfig| {
        let port = server.connections.first().map_or(53, |connection| connection.port);
        SocketAddr::new(server.ip, port).to_string()
    };
    config.name_servers().iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The keys that validation starts from.
///
/// # Errors
/// The file cannot be read, or has no keys in it.
pub(super) fn trust_anchors(options: &Options) -> Result<TrustAnchors, String> {
    let Some(file) = &options.trust_anchor_file else { return Ok(TrustAnchors::default()) };
    let wrong = |reason: &dyn std::fmt::Display| format!("trust_anchor_file {}: {reason}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    if text.trim().is_empty() {
        return Err(wrong(&"there is no DNSKEY record in it"));
    }
    text.parse().map_err(|error| wrong(&error))
}
