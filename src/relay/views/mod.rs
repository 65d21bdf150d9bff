//! What the relay shows of itself, and what an operator may do to it: destinations, breakers, the way of an address.
//!
//! Looking changes nothing, and holds each lock for a moment only.

mod explain;

pub use super::breaker::Phase;
pub use explain::{Asked, Explained, ExplainedHost};

use std::sync::Arc;

use tokio::time::Instant;

use super::Relay;
use super::breakers::Breakers;
use super::lane::{Glance, Lane};
use super::options::{Host, Hosts, Route};
use super::route;
use super::smarthost::Smarthost;
use super::way::{Transport, Way};
use crate::clock::{Clock, Timestamp};
use crate::queue;

/// One line in which mail waits for where it goes.
#[derive(Clone, PartialEq, Debug)]
pub struct Destination {
    /// The route's name.
    pub route: String,
    /// `smarthost`, `mx`, `directory`, `discard`, `webhook` or `file`.
    pub transport: &'static str,
    /// The domain, where that decides; else empty.
    pub destination: String,
    /// The worst breaker of its hosts; open, too, while nobody knows when it comes back.
    pub breaker: Phase,
    /// Legs that wait.
    pub waiting: usize,
    /// Connections now.
    pub connections: usize,
    /// How many there may be now.
    pub connection_limit: usize,
    /// Nothing is tried before.
    pub paused_until: Option<Timestamp>,
    /// Recipients delivered since the lane was made.
    pub delivered: u64,
    /// Attempts deferred.
    pub deferred: u64,
    /// Recipients refused for good.
    pub failed: u64,
    /// Recipients delivered a minute, over the last minute or so.
    pub rate_per_minute: f64,
    /// What was said last that was no success.
    pub last_trouble: Option<String>,
    /// Those that are configured, or that were asked last.
    pub hosts: Vec<HostState>,
}

/// A host and its breaker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostState {
    /// Name and port.
    pub host: String,
    /// What its breaker does.
    pub breaker: Phase,
    /// Nothing passes before.
    pub open_until: Option<Timestamp>,
}

/// What a reset has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reset {
    /// Breakers that were not closed.
    pub breakers: usize,
    /// Lanes that were paused.
    pub destinations: usize,
}

/// Of the whole relay, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    /// Connections to far sides.
    pub connections: usize,
    /// Breakers that are not closed.
    pub open_breakers: usize,
    /// Lanes.
    pub destinations: usize,
}

impl Relay {
    /// Where mail waits or goes, those with most waiting first, at most `most`; and how many there are.
    pub fn destinations(&self, most: usize) -> (Vec<Destination>, usize) {
        let routing = self.routing.load_full();
        let mut lanes: Vec<(usize, usize, Arc<Lane>)> = Vec::new();
        for (number, way) in routing.ways.iter().enumerate() {
            let mine = way.all_lanes().into_iter();
            lanes.extend(mine.map(|lane| (lane.glance(|_| ()).waiting, number, lane)));
        }
        let total = lanes.len();
        lanes.sort_by(|(a, _, one), (b, _, other)| {
            b.cmp(a).then_with(|| one.destination().cmp(other.destination()))
        });
        let shown = lanes.into_iter().take(most);
        let view = |(_, number, lane): (usize, usize, Arc<Lane>)| Some(routing.ways.get(number)?.view(&lane));
        (shown.filter_map(view).collect(), total)
    }

    /// Closes the breakers of a route, or of one destination of it, and lets go on what is paused. `None`: there is no such
    /// route, or nothing is known of the destination.
    pub fn reset(&self, route: &str, destination: Option<&str>) -> Option<Reset> {
        let routing = self.routing.load_full();
        let of_route = || routing.way(routing.routes.iter().position(|known| known.name == route)?);
        let way = of_route().or_else(|| routing.ways.get(*routing.sinks.get(route)?))?;
        let lanes = match destination {
            None => way.all_lanes(),
            Some(destination) => vec![way.lane(destination)?],
        };
        let breakers = way.reset(&lanes, destination);
        let destinations = lanes.iter().filter(|lane| lane.go_on()).count();
        tracing::info!(target: "oncemail::relay", route, destination, breakers, destinations, "destinations reset");
        Some(Reset { breakers, destinations })
    }

    /// All of it in three numbers.
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        for way in &self.routing.load().ways {
            sum.open_breakers += way.breakers().map_or(0, Breakers::not_closed);
            if way.smarthost().is_none() {
                continue;
            }
            for lane in way.all_lanes() {
                sum.connections += lane.glance(|_| ()).connections;
                sum.destinations += 1;
            }
        }
        sum
    }

    /// Whether some route can be used now: one that is no SMTP, or that has a host whose breaker lets something pass.
    ///
    /// # Errors
    /// A sentence that names the routes that cannot.
    pub fn is_usable(&self) -> Result<(), String> {
        let routing = self.routing.load_full();
        // Those of events are no way for mail.
        let of_routes = || routing.way_of_route.iter().filter_map(|way| routing.ways.get(*way));
        let is_blocked =
            |way: &Arc<Way>| way.smarthost().is_some_and(|smarthost| smarthost.blocked_until("").is_some());
        if of_routes().any(|way| !is_blocked(way)) {
            return Ok(());
        }
        let names: Vec<_> = of_routes().map(|way| way.name.as_str()).collect();
        Err(format!("no route can be used: every host of {} is left alone after failures", names.join(", ")))
    }
}

impl queue::Routes for Relay {
    fn route(
        &self,
        recipient_domain: Option<&str>,
        sender_domain: Option<&str>,
        user: Option<&str>,
        listener: &str,
    ) -> Option<Arc<str>> {
        let asked = route::Asked { recipient_domain, sender_domain, user, listener };
        let routing = self.routing.load();
        let number = route::first_for(&routing.routes, &asked)?;
        routing.routes.get(number).map(|route: &Route| route.name.as_str().into())
    }
}

impl Way {
    fn smarthost(&self) -> Option<&Smarthost> {
        match &self.transport {
            Transport::Smarthost(smarthost) => Some(smarthost),
            Transport::Directory(_) | Transport::Discard | Transport::Hook(_) | Transport::EventFile(_) => {
                None
            }
        }
    }

    fn breakers(&self) -> Option<&Breakers> {
        match &self.transport {
            Transport::Smarthost(smarthost) => Some(smarthost.breakers()),
            Transport::Hook(hook) => Some(hook.breakers()),
            Transport::Directory(_) | Transport::Discard | Transport::EventFile(_) => None,
        }
    }

    /// Configured hosts, or those of `asked`.
    fn host_states(&self, asked: &[String]) -> Vec<HostState> {
        let hosts = match &self.transport {
            Transport::Smarthost(smarthost) => smarthost.shown_hosts(asked),
            Transport::Hook(hook) => vec![hook.host().clone()],
            Transport::Directory(_) | Transport::Discard | Transport::EventFile(_) => Vec::new(),
        };
        let Some(breakers) = self.breakers() else { return Vec::new() };
        let state = |host: Host| {
            let (breaker, until) = breakers.state(&host);
            let open_until = until.map(|until| wall(&self.surroundings.clock, until));
            HostState { host: host.to_string(), breaker, open_until }
        };
        hosts.into_iter().map(state).collect()
    }

    /// Closes the breakers of all hosts, or of those that stand for one domain.
    fn reset(&self, lanes: &[Arc<Lane>], destination: Option<&str>) -> usize {
        match (self.smarthost(), self.breakers()) {
            (Some(smarthost), _) => smarthost.reset(lanes, destination),
            (None, breakers) => breakers.map_or(0, |breakers| breakers.reset(|_| true)),
        }
    }

    fn kind(&self) -> &'static str {
        match &self.transport {
            Transport::Smarthost(smarthost) if smarthost.is_by_domain() => "mx",
            Transport::Smarthost(_) => "smarthost",
            Transport::Directory(_) => "directory",
            Transport::Discard => "discard",
            Transport::Hook(_) => "webhook",
            Transport::EventFile(_) => "file",
        }
    }

    fn view(&self, lane: &Lane) -> Destination {
        let clock = &self.surroundings.clock;
        let Glance { waiting, connections, connection_limit, paused_until, is_away, figures } =
            lane.glance(|figures| {
                let of_host = figures.hosts.iter().map(|host| host.to_string()).collect::<Vec<_>>();
                let counts = (figures.delivered, figures.deferred, figures.failed);
                (
                    counts,
                    figures.rate_per_minute(),
                    figures.last_trouble.as_deref().map(str::to_owned),
                    of_host,
                )
            });
        let ((delivered, deferred, failed), rate_per_minute, last_trouble, asked) = figures;
        let hosts = self.host_states(&asked);
        let worst = hosts.iter().map(|host| host.breaker).max().unwrap_or(Phase::Closed);
        Destination {
            route: self.name.clone(),
            transport: self.kind(),
            destination: lane.destination().to_owned(),
            breaker: if is_away { Phase::Open } else { worst },
            waiting,
            connections,
            connection_limit,
            paused_until: paused_until.map(|until| wall(clock, until)),
            delivered,
            deferred,
            failed,
            rate_per_minute,
            last_trouble,
            hosts,
        }
    }
}

impl Smarthost {
    /// Configured hosts, or those of `asked`.
    fn shown_hosts(&self, asked: &[String]) -> Vec<Host> {
        match &self.options.hosts {
            Hosts::Fixed { hosts, .. } => hosts.clone(),
            Hosts::Mx(_) => asked.iter().filter_map(|text| host_of(text)).collect(),
        }
    }

    /// Closes the breakers of all hosts, or of those that stand for one domain.
    fn reset(&self, lanes: &[Arc<Lane>], destination: Option<&str>) -> usize {
        let (Hosts::Mx(mx), Some(domain)) = (&self.options.hosts, destination) else {
            return self.breakers().reset(|_| true);
        };
        let names = |lane: &Arc<Lane>| lane.glance(|figures| figures.hosts.clone()).figures;
        let mut hosts: Vec<Host> = lanes.iter().flat_map(names).filter_map(|text| host_of(&text)).collect();
        hosts.push(super::smarthost::lookup(domain, mx));
        self.breakers().reset(|host| hosts.contains(host))
    }
}

/// A host as a reply names it.
fn host_of(text: &str) -> Option<Host> {
    let (name, port) = text.rsplit_once(':')?;
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    Some(Host { name: name.to_owned(), port: port.parse().ok()? })
}

/// A time of the monotonic clock on the wall.
fn wall(clock: &Clock, until: Instant) -> Timestamp {
    clock.now().plus(until.saturating_duration_since(Instant::now()))
}
