//! The routes in force and their ways; exchanged as a whole while mail is under way.
//!
//! A way whose route says what it said before is kept as it is: its lanes, connections and breakers live on. One that is
//! gone, or changed, ends (`way.rs`): what waits in it goes back to the queue at once and is routed anew, and what is in
//! doubt gets its reply (R1). Everything that can fail happens before the exchange, which cannot.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::directory::Directory;
use super::dkim::Signers;
use super::options::{
    self, Breaker, ClientCertificate, InDoubt, Matches, Options, Route, Sink, SinkTransport, Timeouts,
};
use super::smarthost::Smarthost;
use super::surroundings::Surroundings;
use super::tls::{SystemTrust, Trust};
use super::way::{Transport, Way};
use super::{Relay, SetupError};
use crate::dns::Dns;

/// No certificate file is longer, octets; what is, is refused when it is read in earnest.
const MAX_FILE: u64 = 16 << 20;

/// See the module.
pub(super) struct Routing {
    /// In the order in which they are asked.
    pub(super) routes: Vec<Route>,
    /// One number per route; routes into one directory share a way, because they share its files.
    pub(super) way_of_route: Vec<usize>,
    pub(super) ways: Vec<Arc<Way>>,
    /// Where events go: the way of each sink, by name.
    pub(super) sinks: HashMap<String, usize>,
}

/// What ways are built with.
pub(super) struct Builder {
    pub(super) system: Arc<SystemTrust>,
    pub(super) surroundings: Surroundings,
    /// Exchanged in place, so that a new key ends no connection.
    pub(super) signers: Arc<ArcSwap<Signers>>,
}

/// What makes a way the one that it is. Two that are alike are interchangeable.
pub(super) struct Makeup {
    /// Without its conditions, which are not the way's.
    route: Route,
    hostname: String,
    breaker: Breaker,
    timeouts: Timeouts,
    own_addresses: Vec<SocketAddr>,
    /// Of the files that it reads once.
    files: Vec<Option<blake3::Hash>>,
    /// Where events go, instead of mail.
    sink: Option<Sink>,
    dns: Arc<Dns>,
}

/// Routes that are ready to be brought into force.
pub struct Prepared {
    routing: Routing,
    signers: Signers,
}

impl Relay {
    /// Makes everything that other options need, and changes nothing: reads the files that routes name, and makes their
    /// directories. Blocks while it reads. What was prepared must be brought into force before anything else is prepared.
    ///
    /// # Errors
    /// Names the route and the file.
    pub fn prepare(&self, options: Options, dns: &Arc<Dns>) -> Result<Prepared, SetupError> {
        let signers = Signers::new(&options.dkim).map_err(SetupError::Dkim)?;
        let known = self.routing.load_full();
        let routing = self.builder.routing(options, dns, &known.ways)?;
        Ok(Prepared { routing, signers })
    }

    /// Brings into force what was prepared. A message that is being routed at this moment goes the old way or the new one.
    pub fn commit(&self, prepared: Prepared) {
        let Prepared { routing, signers } = prepared;
        let routing = Arc::new(routing);
        self.builder.signers.store(Arc::new(signers));
        // First the new ways, then the end of the old ones: what comes back finds the new ways.
        let before = self.routing.swap(routing.clone());
        for way in before.ways.iter().filter(|way| !routing.has(way)) {
            way.end();
        }
    }
}

impl Routing {
    fn has(&self, way: &Arc<Way>) -> bool {
        self.ways.iter().any(|own| Arc::ptr_eq(own, way))
    }
}

impl Builder {
    /// Ways for all routes, those of `known` that are as they should be among them.
    pub(super) fn routing(
        &self,
        options: Options,
        dns: &Arc<Dns>,
        known: &[Arc<Way>],
    ) -> Result<Routing, SetupError> {
        let mut ways: Vec<Arc<Way>> = Vec::new();
        let mut way_of_route = Vec::new();
        for route in &options.routes {
            let way = self.way(route, &options, dns, known)?;
            let shared = ways.iter().position(|other| other.writes_into(&way.transport));
            way_of_route.push(shared.unwrap_or(ways.len()));
            if shared.is_none() {
                ways.push(way);
            }
        }
        let mut sinks = HashMap::new();
        for sink in &options.sinks {
            sinks.insert(sink.name.clone(), ways.len());
            ways.push(self.sink_way(sink, &options, dns, known)?);
        }
        Ok(Routing { routes: options.routes, way_of_route, ways, sinks })
    }

    fn way(
        &self,
        route: &Route,
        options: &Options,
        dns: &Arc<Dns>,
        known: &[Arc<Way>],
    ) -> Result<Arc<Way>, SetupError> {
        // Before the files are read in earnest: a change in between is seen at the next time rather than never.
        let makeup = Makeup::new(route, options, dns);
        let same = known.iter().find(|way| way.makeup.is_like(&makeup));
        if let Some(same) = same.filter(|way| !matches!(way.transport, Transport::Directory(_))) {
            return Ok(same.clone());
        }
        let transport = self.transport(route, options, dns)?;
        if let Some(same) = same.filter(|way| way.writes_into(&transport)) {
            return Ok(same.clone());
        }
        Ok(Way::new(makeup, &self.signers, transport, self.surroundings.of_a_way()))
    }

    pub(super) fn transport(
        &self,
        route: &Route,
        options: &Options,
        dns: &Arc<Dns>,
    ) -> Result<Transport, SetupError> {
        match &route.transport {
            options::Transport::Directory(path) => {
                Directory::new(path).map(Transport::Directory).map_err(|error| SetupError::Directory {
                    route: route.name.clone(),
                    path: path.clone(),
                    error,
                })
            }
            options::Transport::Discard => Ok(Transport::Discard),
            options::Transport::Smtp(smarthost) => {
                let trust = match &smarthost.ca_file {
                    Some(file) => Trust::only(file)
                        .map_err(|error| SetupError::Trust { route: route.name.clone(), error })?,
                    None => Trust::system(self.system.clone()),
                };
                let trust = match &smarthost.client_certificate {
                    Some(own) => trust.showing(own).map_err(|error| SetupError::ClientCertificate {
                        route: route.name.clone(),
                        error,
                    })?,
                    None => trust,
                };
                Ok(Transport::Smarthost(Box::new(Smarthost::new(
                    route.name.clone(),
                    smarthost.clone(),
                    options,
                    trust,
                    dns.clone(),
                    &self.surroundings,
                ))))
            }
        }
    }
}

impl Makeup {
    pub(super) fn new(route: &Route, options: &Options, dns: &Arc<Dns>) -> Self {
        let files = match &route.transport {
            options::Transport::Smtp(smtp) => {
                let own = smtp.client_certificate.iter();
                let own = own.flat_map(|ClientCertificate { certificate_file, key_file }| {
                    [certificate_file.as_path(), key_file.as_path()]
                });
                smtp.ca_file.as_deref().into_iter().chain(own).map(digest).collect()
            }
            options::Transport::Directory(_) | options::Transport::Discard => Vec::new(),
        };
        Self {
            route: Route { matches: Matches::default(), ..route.clone() },
            hostname: options.hostname.clone(),
            breaker: options.breaker,
            timeouts: options.timeouts,
            own_addresses: options.own_addresses.clone(),
            files,
            sink: None,
            dns: dns.clone(),
        }
    }

    /// That of a way for events: no mail ever matches it, and nothing is put in front of an event.
    pub(super) fn of_sink(sink: &Sink, options: &Options, dns: &Arc<Dns>) -> Self {
        let route = Route {
            name: sink.name.clone(),
            matches: Matches::default(),
            transport: options::Transport::Discard,
            in_doubt: InDoubt::Resend,
            forward_key_as: None,
        };
        let ca_file = match &sink.transport {
            SinkTransport::Webhook(webhook) => webhook.ca_file.as_deref(),
            SinkTransport::File(_) => None,
        };
        let files = ca_file.into_iter().map(digest).collect();
        Self { files, sink: Some(sink.clone()), ..Self::new(&route, options, dns) }
    }

    pub(super) fn route(&self) -> &Route {
        &self.route
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        let Self { route, hostname, breaker, timeouts, own_addresses, files, sink, dns } = self;
        *route == other.route
            && *hostname == other.hostname
            && *breaker == other.breaker
            && *timeouts == other.timeouts
            && *own_addresses == other.own_addresses
            && *files == other.files
            && *sink == other.sink
            && Arc::ptr_eq(dns, &other.dns)
    }
}

/// Of what a file holds; `None` when it cannot be read.
fn digest(path: &Path) -> Option<blake3::Hash> {
    let mut octets = Vec::new();
    File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut octets).ok()?;
    Some(blake3::hash(&octets))
}
