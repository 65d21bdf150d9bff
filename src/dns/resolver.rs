//! Which name servers are asked, and how: the configured ones or the system's, re-read when the system's files change.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::ResolveHosts;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use tokio::time::Instant;

use super::Options;
use super::search::Search;
use super::servers::Servers;

/// How often the system's files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A question that got no answer is asked this many times more.
const REPEATS: usize = 1;
/// Questions on one connection to a name server.
const MAX_ACTIVE: usize = 256;

/// Something that can be asked.
#[derive(Clone)]
pub(super) struct Resolver {
    pub(super) asks: Arc<dyn Servers>,
    /// The name servers, for sentences.
    pub(super) servers: Arc<str>,
    /// For names that an operator wrote.
    pub(super) search: Arc<Search>,
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

/// When the system's files were last changed, and how long they are.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Resolvers {
    pub(super) fn new(options: Options) -> Self {
        Self { options, current: Mutex::new(None) }
    }

    /// Always this one, and no file of the system is read.
    pub(super) fn fixed(asks: Arc<dyn Servers>) -> Self {
        // Any name server: it stands for "configured".
        let options = Options { servers: vec![SocketAddr::from(([0, 0, 0, 0], 53))], ..Options::default() };
        let resolver = Resolver { asks, servers: "a simulation".into(), search: Arc::default() };
        let current = Current { resolver, made_from: [None, None], looked_at: Instant::now() };
        Self { options, current: Mutex::new(Some(current)) }
    }

    /// The one to ask now, and whether it is another than the last time.
    ///
    /// # Errors
    /// The configuration cannot be used; an earlier one stays in use.
    pub(super) fn current(&self, now: Instant) -> Result<(Resolver, bool), String> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fixed = !self.options.servers.is_empty();
        if let Some(kept) = current.as_mut() {
            if is_fixed || now.duration_since(kept.looked_at) < LOOK_AGAIN {
                return Ok((kept.resolver.clone(), false));
            }
            kept.looked_at = now;
            if kept.made_from == self.stamp() {
                return Ok((kept.resolver.clone(), false));
            }
        }
        let made_from = self.stamp();
        match (self.build(), current.as_mut()) {
            (Ok(resolver), _) => {
                *current = Some(Current { resolver: resolver.clone(), made_from, looked_at: now });
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

    fn stamp(&self) -> Stamp {
        let system = &self.options.system;
        [&system.resolv_conf, &system.hosts].map(|file| {
            let found = std::fs::metadata(file).ok()?;
            Some((found.modified().ok()?, found.len()))
        })
    }

    fn build(&self) -> Result<Resolver, String> {
        let options = &self.options;
        let (system, hosts) = (&options.system, Arc::new(self.hosts()));
        let (config, mut settings, search) = if options.servers.is_empty() {
            let unusable = |error: &dyn Display| {
                let file = system.resolv_conf.display();
                format!("the system's DNS configuration {file} cannot be used: {error}")
            };
            let text = std::fs::read(&system.resolv_conf).map_err(|error| unusable(&error))?;
            let (config, settings) = parse_resolv_conf(text).map_err(|error| unusable(&error))?;
            let search = Search::new(hosts.clone(), &config, settings.ndots);
            let servers = config.name_servers().iter();
            let servers = servers.map(|listed| server(SocketAddr::new(listed.ip, system.port))).collect();
            (ResolverConfig::from_name_servers(servers), settings, search)
        } else {
            let servers = options.servers.iter().map(|address| server(*address)).collect();
            let search = Search { hosts: hosts.clone(), ..Search::default() };
            (ResolverConfig::from_name_servers(servers), ResolverOpts::default(), search)
        };
        settings.timeout = options.timeout;
        settings.attempts = REPEATS;
        settings.max_active_requests = MAX_ACTIVE;
        // What is kept is kept in our own cache: hickory's counts answers, and one answer may have 64 KiB.
        settings.cache_size = 0;
        settings.preserve_intermediates = true;
        settings.validate = options.dnssec;
        settings.use_hosts_file = ResolveHosts::Never;
        let servers = names(&config).into();
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(settings);
        if options.dnssec {
            builder = builder.with_trust_anchor(Arc::new(trust_anchors(options)?));
        }
        let mut hickory = builder.build().map_err(|error| format!("DNS cannot be set up: {error}"))?;
        hickory.set_hosts(hosts);
        Ok(Resolver { asks: Arc::new(hickory), servers, search: Arc::new(search) })
    }

    /// What the system knows without asking; nothing where that cannot be read.
    fn hosts(&self) -> Hosts {
        let mut hosts = Hosts::default();
        let read =
            std::fs::File::open(&self.options.system.hosts).and_then(|file| hosts.read_hosts_conf(file));
        match read {
            Ok(()) => hosts,
            Err(_) => Hosts::default(),
        }
    }
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
    let wrong = |reason: &dyn Display| format!("trust_anchor_file {}: {reason}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    let anchors: TrustAnchors = text.parse().map_err(|error| wrong(&error))?;
    if anchors.is_empty() { Err(wrong(&"there is no DNSKEY record of the root in it")) } else { Ok(anchors) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::System;

    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    fn write(file: &std::path::Path, text: &str) {
        std::fs::write(file, text).unwrap();
    }

    #[tokio::test]
    async fn the_systems_servers_are_read_again_when_they_change() {
        let directory = tempfile::tempdir().unwrap();
        let resolv_conf = directory.path().join("resolv.conf");
        let system = System { resolv_conf: resolv_conf.clone(), ..System::default() };
        let resolvers = Resolvers::new(Options { system, ..Options::default() });
        let start = Instant::now();
        let servers = |after: Duration| {
            resolvers.current(start + after).map(|(resolver, is_new)| (resolver.servers.to_string(), is_new))
        };
        let (first, second) = ("127.0.0.1:53".to_owned(), "192.0.2.53:53, [::1]:53".to_owned());
        let missing = servers(Duration::ZERO).unwrap_err();
        assert!(missing.contains("resolv.conf"), "{missing}");
        write(&resolv_conf, "search x.example\nnameserver 127.0.0.1\n");
        assert_eq!(servers(Duration::ZERO), Ok((first.clone(), true)));
        write(&resolv_conf, "nameserver 192.0.2.53\nnameserver ::1\n");
        assert_eq!(servers(LOOK_AGAIN / 2), Ok((first, false)));
        assert_eq!(servers(LOOK_AGAIN), Ok((second.clone(), true)));
        // Half of a file, or none, is no reason to stop.
        write(&resolv_conf, "names");
        assert_eq!(servers(LOOK_AGAIN * 2), Ok((second.clone(), false)));
        std::fs::remove_dir_all(directory.path()).unwrap();
        assert_eq!(servers(LOOK_AGAIN * 3), Ok((second, false)));
    }

    #[test]
    fn a_trust_anchor_file_is_checked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let options = |file: &std::path::Path| Options {
            trust_anchor_file: Some(file.to_owned()),
            ..Options::default()
        };
        assert!(Options::default().check().is_ok());
        for text in ["", "\n", ". IN DNSKEY nonsense", "x"] {
            write(file.path(), text);
            let error = options(file.path()).check().unwrap_err();
            assert!(error.contains("trust_anchor_file"), "{text:?}: {error}");
        }
        write(file.path(), ". 3600 IN DNSKEY 257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=\n");
        assert_eq!(options(file.path()).check(), Ok(()));
        assert!(options("/nowhere/root.key".as_ref()).check().is_err());
    }
}
