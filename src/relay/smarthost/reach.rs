//! From a destination to a connection: its hosts, the addresses of each, and the first that works.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Link, NoLink, Smarthost, blame};
use crate::chance::Chance;
use crate::metrics::Present;
use crate::queue::End;
use crate::relay::breakers::Permit;
use crate::relay::mx::{self, Refusal};
use crate::relay::opening::{Opening, Trouble};
use crate::relay::options::{self, Host, Hosts};
use crate::relay::plan::{self, Tally};
use crate::relay::security::{Candidate, Demand};
use crate::relay::transaction::{By, Parcel, Session};

/// Connecting to one host, at all its addresses: silent ones must not keep a message from the next host for long.
const OPENING_LIMIT: Duration = Duration::from_secs(120);

/// No other host is asked in an attempt that has taken as long as this many connections may take to be made: ten minutes,
/// or five hosts that say nothing. RFC 5321 §5.1 wants at least two to be tried.
const OPENINGS: u32 = 20;

/// Why one host cannot be used.
enum Unusable {
    Trouble(Trouble),
    /// What TLS must achieve cannot be had for this domain or this message: nothing is known of the host, which others
    /// may well use.
    Policy(Trouble),
    Refused(Refusal),
}

impl Smarthost {
    /// A connection to the first host that gives one.
    pub(super) async fn first<'a>(
        &'a self,
        tally: &mut Tally,
        parcel: &Parcel<'_>,
        destination: &str,
        require_tls: bool,
    ) -> Result<(Link, Permit<'a>), NoLink> {
        let mut reopens: Option<Instant> = None;
        for candidate in tally.order() {
            if !tally.is_in_time(Instant::now(), self.timeouts.connect.saturating_mul(OPENINGS)) {
                // Nobody knows what those would have said that are left.
                reopens.get_or_insert_with(Instant::now);
                break;
            }
            let permit = match self.breakers.admit(&candidate.host) {
                Ok(permit) => permit,
                Err(until) => {
                    reopens = Some(reopens.map_or(until, |earlier| earlier.min(until)));
                    continue;
                }
            };
            let opening = timeout(OPENING_LIMIT, self.open(&candidate, destination, require_tls)).await;
            let opened = opening.unwrap_or_else(|_| {
                let text = format!("no connection within {} s", OPENING_LIMIT.as_secs());
                Err(Unusable::Trouble(Trouble::local(text)))
            });
            match opened {
                Ok(link) => return Ok((link, permit)),
                Err(Unusable::Refused(refusal)) if refusal.end == End::Failed => {
                    let by = By::name(candidate.host.to_string());
                    tally.unfit(by, &candidate.host, refusal.answers(parcel.recipients.len()));
                }
                Err(Unusable::Refused(refusal)) => {
                    permit.failed(&refusal.text);
                    tally.exhausted(&candidate.host, Trouble::local(refusal.text));
                }
                Err(Unusable::Policy(trouble)) => tally.exhausted(&candidate.host, trouble),
                // Who cannot do what one message asks with REQUIRETLS may well do what others ask.
                Err(Unusable::Trouble(trouble)) if require_tls => tally.exhausted(&candidate.host, trouble),
                Err(Unusable::Trouble(trouble)) => {
                    blame(permit, &trouble);
                    tally.exhausted(&candidate.host, trouble);
                }
            }
        }
        Err(NoLink::NobodyLeft(reopens))
    }

    /// Whom to ask, in this attempt. A domain whose names cannot be looked up has a breaker like a host, so that many such
    /// domains do not take the connections of those that work.
    pub(super) async fn plan(&self, destination: &str) -> Result<Vec<Candidate>, NoLink> {
        let mx = match &self.options.hosts {
            Hosts::Fixed { hosts, weights } => {
                return Ok(plan::configured(hosts, weights, &mut Chance));
            }
            Hosts::Mx(mx) => mx,
        };
        let permit = self.breakers.admit(&lookup(destination, mx));
        let permit = permit.map_err(|until| NoLink::NobodyLeft(Some(until)))?;
        match mx::plan(&self.dns, mx, &self.own(), destination).await {
            Ok(candidates) => {
                permit.worked();
                Ok(candidates)
            }
            Err(refusal) if refusal.end == End::Failed => {
                permit.worked();
                Err(NoLink::NoPlan(refusal))
            }
            Err(refusal) => {
                permit.failed(&refusal.text);
                Err(NoLink::NoPlan(refusal))
            }
        }
    }

    /// Opens a connection to one host, at the first of its addresses that works.
    async fn open(
        &self,
        candidate: &Candidate,
        destination: &str,
        require_tls: bool,
    ) -> Result<Link, Unusable> {
        let mx = match &self.options.hosts {
            Hosts::Fixed { .. } => None,
            Hosts::Mx(mx) => Some(mx),
        };
        let addresses = mx::addresses(&self.dns, mx, &self.own(), candidate).await;
        let addresses = addresses.map_err(Unusable::Refused)?;
        let domain = mx.map(|_| destination);
        let demand = self.security.demand(domain, candidate, require_tls).await;
        let demand = demand.map_err(Unusable::Policy)?;
        let host = &candidate.host;
        let mut last = Trouble::local("there is no address");
        for address in addresses {
            match self.opening(host, &demand, address.ip()).run(address).await {
                Ok(ready) => {
                    self.counters.connected(&ready.tls);
                    let _open = Present::new(self.counters.clone());
                    let is_verified = ready.is_verified && demand.is_known;
                    let (session, opened_at) =
                        (Session::new(ready).named(&self.route, &host.to_string()), Instant::now());
                    let host = host.clone();
                    return Ok(Link { session, host, transactions: 0, opened_at, is_verified, _open });
                }
                Err(trouble) => {
                    self.counters.not_connected.add_one();
                    tracing::debug!(target: "oncemail::relay", route = %self.route, host = %host, %address,
                        error = %trouble.text, "connection not opened");
                    let is_final = trouble.is_about_password;
                    last = trouble;
                    if is_final {
                        break;
                    }
                }
            }
        }
        Err(Unusable::Trouble(last))
    }

    /// How a connection to `host` is made, from the next source address to one of its own.
    pub(super) fn opening<'a>(&'a self, host: &'a Host, demand: &'a Demand, far: IpAddr) -> Opening<'a> {
        Opening {
            host,
            hostname: &self.hostname,
            demand,
            trust: &self.trust,
            auth: self.auth.as_ref(),
            timeouts: &self.timeouts,
            source: self.source_for(far),
            dialer: self.dialer.as_deref(),
        }
    }

    /// The next source address of the same family; `None` leaves it to the system.
    fn source_for(&self, far: IpAddr) -> Option<IpAddr> {
        let usable = self.options.source_addresses.iter().filter(|source| source.is_ipv4() == far.is_ipv4());
        let usable: Vec<_> = usable.collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(usable.len())?;
        usable.get(turn).copied().copied()
    }
}

/// What stands for the lookup of a domain's hosts among the breakers; no host has a space in its name.
pub(in crate::relay) fn lookup(domain: &str, mx: &options::Mx) -> Host {
    Host { name: format!("MX {domain}"), port: mx.port }
}
