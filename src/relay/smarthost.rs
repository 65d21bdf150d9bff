//! The `smarthost` transport: which host to ask, on which connection, and what a failure means for the next.
//!
//! Hosts are tried in order within one attempt, as long as none has taken the message. A host whose breaker is open is
//! not asked; when none may be asked, the attempt has not happened.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::DefaultDirectRateLimiter;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::auth::Authenticator;
use super::breaker::{Admission, Breaker, Transition};
use super::opening::{Opening, Trouble};
use super::options::{self, Host, Hosts, Timeouts};
use super::security::{Candidate, Security};
use super::tls::Trust;
use super::tls_report::TlsReport;
use super::transaction::{Answer, By, Ended, Parcel, Session};
use crate::dns::{Dns, Family};
use crate::queue::End;

/// A host that loses this many connections in one attempt is not asked again in it.
const LOSSES_PER_HOST: u32 = 3;

/// One route to configured hosts.
pub(super) struct Smarthost {
    pub(super) options: options::Smtp,
    pub(super) hosts: Vec<Host>,
    pub(super) route: String,
    pub(super) hostname: String,
    pub(super) timeouts: Timeouts,
    pub(super) trust: Trust,
    pub(super) dns: Arc<Dns>,
    security: Security,
    auth: Option<Authenticator>,
    /// One per host, in their order.
    breakers: Vec<Mutex<Breaker>>,
    limiter: Option<DefaultDirectRateLimiter>,
}

/// A connection that is kept between transactions.
pub(super) struct Link {
    session: Session,
    host: usize,
    transactions: u32,
}

/// The end of an attempt.
pub(super) enum Attempt {
    /// Each recipient has its answer, from this host.
    Answered(By, Vec<Answer>),
    /// No host may be asked before this time.
    Blocked(Instant),
    /// The relay is shutting down.
    Stopped,
}

/// What this attempt knows of the hosts.
struct Tally {
    losses: Vec<u32>,
    last: Option<(usize, Trouble)>,
}

/// The right to ask a host once. Dropped without a word it tells the breaker nothing.
struct Permit<'a> {
    smarthost: &'a Smarthost,
    host: usize,
    admission: Admission,
    told: bool,
}

/// Why there is no connection.
enum NoLink {
    Blocked(Instant),
    AllFailed,
    Stopped,
}

impl Smarthost {
    pub(super) fn new(
        route: String,
        options: options::Smtp,
        relay: &options::Options,
        trust: Trust,
        dns: Arc<Dns>,
        tls_report: &Arc<TlsReport>,
    ) -> Self {
        let hosts = match &options.hosts {
            Hosts::Fixed { hosts, .. } => hosts.clone(),
            Hosts::Mx(_) => Vec::new(),
        };
        let security = Security::new(&options, &trust, &dns, tls_report);
        let auth = options.auth.clone().map(Authenticator::new);
        let breakers = hosts.iter().map(|_| Mutex::new(Breaker::new(relay.breaker))).collect();
        let limiter = options.rate.map(governor::RateLimiter::direct);
        let (hostname, timeouts) = (relay.hostname.clone(), relay.timeouts);
        Self { options, hosts, route, hostname, timeouts, trust, dns, security, auth, breakers, limiter }
    }

    /// Offers a message to the first host that takes it.
    pub(super) async fn attempt(
        &self,
        link: &mut Option<Link>,
        parcel: &Parcel<'_>,
        stop: &CancellationToken,
    ) -> Attempt {
        // Before a connection is opened, which might not outlive the wait.
        if !self.within_rate(stop).await {
            return Attempt::Stopped;
        }
        let mut tally = Tally { losses: vec![0; self.hosts.len()], last: None };
        loop {
            let reused = link.is_some();
            let (mut current, permit) = match self.link(link, &mut tally, stop).await {
                Ok(found) => found,
                Err(NoLink::Stopped) => return Attempt::Stopped,
                Err(NoLink::Blocked(until)) => match tally.last {
                    None => return Attempt::Blocked(until),
                    Some(last) => return self.deferred(last, parcel.recipients.len()),
                },
                Err(NoLink::AllFailed) => {
                    let nobody = || (0, Trouble::local("there is no host to ask"));
                    return self.deferred(tally.last.unwrap_or_else(nobody), parcel.recipients.len());
                }
            };
            let host = current.host;
            let reused = reused && current.transactions > 0;
            current.transactions += 1;
            match current.session.transact(parcel, &self.timeouts, stop).await {
                Ended::Answered { answers, usable, healthy } => {
                    permit.tell(healthy);
                    let by = current.session.by(self.host_name(host));
                    if usable {
                        *link = Some(current);
                    }
                    return Attempt::Answered(by, answers);
                }
                Ended::Lost(_) if stop.is_cancelled() => return Attempt::Stopped,
                // A kept connection may have been closed long ago: that says nothing.
                Ended::Lost(_) if reused => {}
                Ended::Refused(trouble) if reused && trouble.code == 421 => {}
                Ended::Lost(trouble) => {
                    permit.tell(Some(false));
                    tally.lost(host, trouble);
                }
                Ended::Refused(trouble) => {
                    permit.tell(Some(false));
                    tally.exhausted(host, trouble);
                }
            }
        }
    }

    /// When a host may be asked again, if none may be asked now.
    pub(super) fn blocked_until(&self, retry: std::time::Duration) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        for host in 0..self.hosts.len() {
            match self.admit(host) {
                Ok(_permit) => return None,
                Err(until) => {
                    let until = until.unwrap_or_else(|| Instant::now() + retry);
                    earliest = Some(earliest.map_or(until, |earlier| earlier.min(until)));
                }
            }
        }
        earliest
    }

    /// The kept connection, or a new one.
    async fn link<'a>(
        &'a self,
        kept: &mut Option<Link>,
        tally: &mut Tally,
        stop: &CancellationToken,
    ) -> Result<(Link, Permit<'a>), NoLink> {
        self.retire(kept).await;
        if let Some(link) = kept.take() {
            match self.admit(link.host) {
                Ok(permit) => return Ok((link, permit)),
                Err(_) => link.session.quit().await,
            }
        }
        let mut reopens: Option<Instant> = None;
        for host in tally.order() {
            match self.admit(host) {
                Err(until) => {
                    let until = until.unwrap_or_else(|| Instant::now() + PROBES_OUT_WAIT);
                    reopens = Some(reopens.map_or(until, |earlier| earlier.min(until)));
                }
                Ok(permit) => {
                    let opened = tokio::select! {
                        opened = self.open(host) => opened,
                        () = stop.cancelled() => return Err(NoLink::Stopped),
                    };
                    match opened {
                        Ok(session) => return Ok((Link { session, host, transactions: 0 }, permit)),
                        Err(trouble) => {
                            permit.tell(Some(false));
                            tally.exhausted(host, trouble);
                        }
                    }
                }
            }
        }
        Err(reopens.map_or(NoLink::AllFailed, NoLink::Blocked))
    }

    /// Opens a connection to one host, at the first of its addresses that works.
    async fn open(&self, number: usize) -> Result<Session, Trouble> {
        let Some(host) = self.hosts.get(number) else {
            return Err(Trouble::local("there is no such host"));
        };
        let candidate = Candidate { host: host.clone(), secure: true };
        let demand = self.security.demand(None, &candidate, false).await?;
        let opening = Opening {
            host,
            hostname: &self.hostname,
            demand: &demand,
            trust: &self.trust,
            auth: self.auth.as_ref(),
            timeouts: &self.timeouts,
        };
        let mut last = Trouble::local("there is no address");
        let addresses = match host.name.parse() {
            Ok(address) => vec![address],
            Err(_) => {
                let found = self.dns.addresses(&host.name, Family::Any).await;
                found.map_err(|fault| Trouble::local(fault.to_string()))?.found
            }
        };
        for address in addresses.into_iter().map(|address| SocketAddr::new(address, host.port)) {
            match opening.run(address).await {
                Ok(ready) => return Ok(Session::new(ready)),
                Err(trouble) => {
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
        Err(last)
    }

    /// Closes a kept connection that has carried enough.
    pub(super) async fn retire(&self, kept: &mut Option<Link>) {
        let limit = self.options.messages_per_connection;
        if let Some(spent) = kept.take_if(|link| link.transactions >= limit) {
            spent.session.quit().await;
        }
    }

    /// False when the relay is shutting down.
    async fn within_rate(&self, stop: &CancellationToken) -> bool {
        let Some(limiter) = &self.limiter else { return true };
        tokio::select! {
            () = limiter.until_ready() => true,
            () = stop.cancelled() => false,
        }
    }

    fn deferred(&self, (host, trouble): (usize, Trouble), recipients: usize) -> Attempt {
        let answer = Answer { code: trouble.code, ..Answer::local(End::Deferred, trouble.text) };
        Attempt::Answered(By::name(self.host_name(host)), vec![answer; recipients])
    }

    fn host_name(&self, host: usize) -> String {
        self.hosts.get(host).map(Host::to_string).unwrap_or_default()
    }

    fn admit(&self, host: usize) -> Result<Permit<'_>, Option<Instant>> {
        let Some(mut breaker) = self.breaker(host) else { return Err(None) };
        match breaker.admit(Instant::now()) {
            Admission::Refused(until) => Err(until),
            admission => Ok(Permit { smarthost: self, host, admission, told: false }),
        }
    }

    fn breaker(&self, host: usize) -> Option<MutexGuard<'_, Breaker>> {
        self.breakers.get(host).map(|breaker| breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How long to wait when all probes of a half-open breaker are out.
pub(super) const PROBES_OUT_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

impl Link {
    /// Says goodbye.
    pub(super) async fn quit(self) {
        self.session.quit().await;
    }
}

impl Tally {
    /// Hosts that may be asked, the ones with the fewest losses first, then in their order.
    fn order(&self) -> Vec<usize> {
        let mut hosts: Vec<_> = self
            .losses
            .iter()
            .enumerate()
            .filter(|(_, losses)| **losses < LOSSES_PER_HOST)
            .map(|(host, losses)| (*losses, host))
            .collect();
        hosts.sort_unstable();
        hosts.into_iter().map(|(_, host)| host).collect()
    }

    fn lost(&mut self, host: usize, trouble: Trouble) {
        if let Some(losses) = self.losses.get_mut(host) {
            *losses += 1;
        }
        self.last = Some((host, trouble));
    }

    fn exhausted(&mut self, host: usize, trouble: Trouble) {
        if let Some(losses) = self.losses.get_mut(host) {
            *losses = LOSSES_PER_HOST;
        }
        self.last = Some((host, trouble));
    }
}

impl Permit<'_> {
    /// Tells the breaker how it went; `None` when nothing was learnt.
    fn tell(mut self, healthy: Option<bool>) {
        let Some(healthy) = healthy else { return };
        self.told = true;
        let Some(mut breaker) = self.smarthost.breaker(self.host) else { return };
        let changed = if healthy {
            breaker.succeeded(self.admission)
        } else {
            breaker.failed(self.admission, Instant::now())
        };
        drop(breaker);
        let (route, host) = (&self.smarthost.route, self.smarthost.host_name(self.host));
        match changed {
            Some(Transition::Opened) => {
                tracing::warn!(target: "oncemail::relay", %route, %host, "breaker opened: the host is left alone for a while");
            }
            Some(Transition::Closed) => {
                tracing::info!(target: "oncemail::relay", %route, %host, "breaker closed: the host works again");
            }
            None => {}
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.told
            && let Some(mut breaker) = self.smarthost.breaker(self.host)
        {
            breaker.abandoned(self.admission);
        }
    }
}
