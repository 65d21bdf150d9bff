//! SMTP to other hosts, configured ones or those of a domain: which to ask, on which connection, and what a failure means
//! for the next.
//!
//! Hosts are tried in order within one attempt, as long as none has taken the message. A host whose breaker is open is
//! not asked; when none may be asked, the attempt has not happened. What only one host cannot carry goes to the next.

mod probe;
mod reach;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use governor::DefaultKeyedRateLimiter;
use governor::clock::Clock as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::auth::Authenticator;
use super::breakers::{Breakers, Permit};
use super::classify::{is_about_account, is_crowded};
use super::concurrency::Load;
use super::counters::Counters;
use super::dial::Dial;
use super::mx::{Own, Refusal};
use super::opening::Trouble;
use super::options::{self, Host, Hosts, Timeouts};
use super::plan::Tally;
use super::security::Security;
use super::surroundings::Surroundings;
use super::tls::Trust;
use super::transaction::{Answer, By, Ended, Parcel, Session};
use crate::dns::Dns;
use crate::metrics::Present;
use crate::queue::End;
pub(in crate::relay) use reach::lookup;

/// For a rate that allows the next message only after this, the lane waits, and not a connection with the message.
const LONG_WAIT: Duration = Duration::from_secs(1);
/// The far side closes the connection (RFC 5321 §3.8).
const CLOSING: u16 = 421;

/// One route over SMTP.
pub(super) struct Smarthost {
    pub(super) options: options::Smtp,
    route: String,
    hostname: String,
    own_addresses: Vec<SocketAddr>,
    timeouts: Timeouts,
    trust: Trust,
    dns: Arc<Dns>,
    security: Security,
    auth: Option<Authenticator>,
    breakers: Arc<Breakers>,
    counters: Arc<Counters>,
    dialer: Option<Arc<dyn Dial>>,
    /// By destination.
    limiter: Option<DefaultKeyedRateLimiter<Arc<str>>>,
    /// Source addresses take turns.
    turn: AtomicUsize,
}

/// A connection that is kept between transactions.
pub(super) struct Link {
    session: Session,
    host: Host,
    transactions: u32,
    opened_at: Instant,
    /// Good enough for REQUIRETLS (RFC 8689 §4.2.1), as far as host and certificate are concerned.
    is_verified: bool,
    /// Counts it.
    _open: Present<Counters>,
}

/// The end of an attempt.
pub(super) enum Attempt {
    /// Each recipient has its answer.
    Answered {
        /// Whose.
        by: By,
        /// In the order of the recipients.
        answers: Vec<Answer>,
        /// What it says about the number of connections.
        load: Load,
    },
    /// No host may be asked before this time.
    Blocked {
        until: Instant,
        /// Those that would have been asked.
        hosts: Vec<Host>,
    },
    /// Nobody was asked, because the route's rate allows it only at this time.
    Paced(Instant),
    /// The far side has too many connections of ours, and said nothing about the message.
    Crowded,
    /// The relay is shutting down.
    Stopped,
}

/// Why there is no connection.
enum NoLink {
    /// Nobody is left; the time at which a host may be asked that is left alone now.
    NobodyLeft(Option<Instant>),
    /// The destination has no hosts, or they cannot be found out.
    NoPlan(Refusal),
    Stopped,
}

impl Smarthost {
    pub(super) fn new(
        route: String,
        options: options::Smtp,
        relay: &options::Options,
        trust: Trust,
        dns: Arc<Dns>,
        surroundings: &Surroundings,
    ) -> Self {
        let security = Security::new(&options, &trust, &dns, &surroundings.tls_report);
        let auth = options.auth.clone().map(|auth| Authenticator::new(auth, &trust, &dns));
        let (clock, counters) = (surroundings.clock.clone(), surroundings.counters.clone());
        let breakers = Arc::new(Breakers::new(route.clone(), relay.breaker, clock, counters.clone()));
        counters.watch(&breakers);
        Self {
            breakers,
            counters,
            dialer: surroundings.dialer.clone(),
            limiter: options.rate.map(governor::RateLimiter::keyed),
            options,
            route,
            hostname: relay.hostname.clone(),
            own_addresses: relay.own_addresses.clone(),
            timeouts: relay.timeouts,
            trust,
            dns,
            security,
            auth,
            turn: AtomicUsize::new(0),
        }
    }

    pub(super) fn breakers(&self) -> &Breakers {
        &self.breakers
    }

    pub(super) fn dns(&self) -> &Dns {
        &self.dns
    }

    pub(super) fn security(&self) -> &Security {
        &self.security
    }

    pub(super) fn own(&self) -> Own<'_> {
        Own { hostname: &self.hostname, addresses: &self.own_addresses }
    }

    /// Whether the recipient's domain says which hosts are asked.
    pub(super) fn is_by_domain(&self) -> bool {
        matches!(self.options.hosts, Hosts::Mx(_))
    }

    /// Offers a message to the first host that takes it; `destination` is the domain, where that decides.
    pub(super) async fn attempt(
        &self,
        link: &mut Option<Link>,
        parcel: &Parcel<'_>,
        destination: &Arc<str>,
        stop: &CancellationToken,
    ) -> Attempt {
        // Before a connection is opened, which might not outlive the wait.
        if let Err(end) = self.within_rate(destination, stop).await {
            return end;
        }
        let recipients = parcel.recipients.len();
        let mut tally = Tally::default();
        loop {
            let (mut current, permit) = match self.link(link, &mut tally, parcel, destination, stop).await {
                Ok(found) => found,
                Err(NoLink::Stopped) => return Attempt::Stopped,
                Err(NoLink::NobodyLeft(reopens)) => return tally.conclude(reopens, recipients),
                Err(NoLink::NoPlan(refusal)) => return refused(&refusal, recipients),
            };
            let reused = current.transactions > 0;
            current.transactions += 1;
            let host = current.host.clone();
            match current.session.transact(parcel, &self.timeouts, stop).await {
                Ended::Answered { answers, usable, healthy } => {
                    let by = current.session.by(host.to_string());
                    if usable {
                        *link = Some(current);
                    }
                    if healthy.is_none() {
                        // It was not even asked: it cannot carry this message. Another host may.
                        tally.unfit(by, &host, answers);
                        continue;
                    }
                    return self.answered(by, answers, healthy == Some(true), permit);
                }
                Ended::Lost(_) if stop.is_cancelled() => return Attempt::Stopped,
                // A kept connection may have been closed long ago: that says nothing.
                Ended::Lost(_) if reused => {}
                Ended::Refused(trouble) if reused && trouble.code == CLOSING => {}
                Ended::Lost(trouble) => {
                    permit.failed(&trouble.text);
                    tally.lost(&host, trouble);
                }
                Ended::Refused(trouble) => {
                    blame(permit, &trouble);
                    tally.exhausted(&host, trouble);
                }
            }
        }
    }

    /// When somebody may be asked again, if it is known without a lookup that nobody may be asked now.
    pub(super) fn blocked_until(&self, destination: &str) -> Option<Instant> {
        match &self.options.hosts {
            Hosts::Fixed { hosts, .. } => {
                let blocked: Option<Vec<_>> =
                    hosts.iter().map(|host| self.breakers.blocked_until(host)).collect();
                blocked?.into_iter().min()
            }
            Hosts::Mx(mx) => self.breakers.blocked_until(&lookup(destination, mx)),
        }
    }

    /// Closes a kept connection that has carried enough, or for long enough.
    pub(super) async fn retire(&self, kept: &mut Option<Link>) {
        let (most, lifetime) = (self.options.messages_per_connection, self.options.connection_lifetime);
        let is_spent = |link: &mut Link| link.transactions >= most || link.opened_at.elapsed() >= lifetime;
        if let Some(spent) = kept.take_if(is_spent) {
            spent.quit().await;
        }
    }

    /// Forgets what no longer matters of hosts and destinations (S2).
    pub(super) fn sweep(&self) {
        self.breakers.sweep();
        if let Some(limiter) = &self.limiter {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }

    /// The far side has spoken about every recipient.
    fn answered(&self, by: By, mut answers: Vec<Answer>, is_healthy: bool, permit: Permit<'_>) -> Attempt {
        let is_healthy = is_healthy & !self.defer_what_is_about_us(&mut answers);
        let is_crowding = |answer: &Answer| is_crowded(answer.code, &answer.text);
        let is_crowded = answers.iter().any(is_crowding);
        if is_crowded && answers.iter().all(is_crowding) {
            tracing::info!(target: "oncemail::relay", route = %self.route, host = %by.host,
                reply = answers.first().map(|answer| answer.text.as_str()),
                "the far side has too many of our connections");
            return Attempt::Crowded;
        }
        let load = match answers.iter().all(|answer| answer.end == End::Deferred) {
            _ if !is_healthy || is_crowded => Load::Less,
            _ if answers.iter().any(|answer| answer.code == CLOSING) => Load::Less,
            true => Load::Same,
            false => Load::More,
        };
        if is_healthy {
            permit.worked();
        } else {
            permit.failed(answers.last().map_or("", |answer| &answer.text));
        }
        Attempt::Answered { by, answers, load }
    }

    /// R2: whether there was a refusal for good that says something about our account only.
    fn defer_what_is_about_us(&self, answers: &mut [Answer]) -> bool {
        let mut found = false;
        for answer in answers.iter_mut().filter(|answer| answer.end == End::Failed) {
            if is_about_account(self.options.preset, answer.code, &answer.text) {
                (answer.end, answer.hard_bounce, found) = (End::Deferred, false, true);
            }
        }
        found
    }

    /// The kept connection, or a new one.
    async fn link<'a>(
        &'a self,
        kept: &mut Option<Link>,
        tally: &mut Tally,
        parcel: &Parcel<'_>,
        destination: &str,
        stop: &CancellationToken,
    ) -> Result<(Link, Permit<'a>), NoLink> {
        self.retire(kept).await;
        let require_tls = parcel.message.envelope.handling.require_tls;
        let is_fit = |link: &mut Link| !tally.is_out(&link.host) && (link.is_verified || !require_tls);
        if let Some(link) = kept.take_if(is_fit) {
            match self.breakers.admit(&link.host) {
                Ok(permit) => return Ok((link, permit)),
                Err(_) => link.quit().await,
            }
        }
        let opening = async {
            if tally.plan.is_none() {
                tally.plan = Some(self.plan(destination).await?);
            }
            self.first(tally, parcel, destination, require_tls).await
        };
        let opened = tokio::select! {
            biased;
            opened = opening => opened?,
            () = stop.cancelled() => return Err(NoLink::Stopped),
        };
        // One connection at a time: the other host's goes.
        if let Some(other) = kept.take() {
            other.quit().await;
        }
        Ok(opened)
    }

    /// Waits a little for the destination's rate.
    ///
    /// # Errors
    /// It would take long, or the relay is shutting down.
    async fn within_rate(&self, destination: &Arc<str>, stop: &CancellationToken) -> Result<(), Attempt> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        while let Err(later) = limiter.check_key(destination) {
            let wait = later.wait_time_from(limiter.clock().now());
            if wait >= LONG_WAIT {
                return Err(Attempt::Paced(Instant::now() + wait));
            }
            tokio::select! {
                biased;
                () = sleep(wait) => {}
                () = stop.cancelled() => return Err(Attempt::Stopped),
            }
        }
        Ok(())
    }
}

impl Link {
    /// Says goodbye.
    pub(super) async fn quit(self) {
        self.session.quit().await;
    }
}

impl Refusal {
    /// The same for everybody.
    fn answers(&self, recipients: usize) -> Vec<Answer> {
        let answer = Answer { hard_bounce: self.hard_bounce, ..Answer::local(self.end, self.text.as_str()) };
        vec![answer; recipients]
    }
}

/// Nobody has to be asked to know it.
fn refused(refusal: &Refusal, recipients: usize) -> Attempt {
    Attempt::Answered { by: By::default(), answers: refusal.answers(recipients), load: Load::Same }
}

/// A host that has too many of our connections is well.
fn blame(permit: Permit<'_>, trouble: &Trouble) {
    if !is_crowded(trouble.code, &trouble.text) {
        permit.failed(&trouble.text);
    }
}
