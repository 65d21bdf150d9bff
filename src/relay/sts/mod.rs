//! MTA-STS: a domain's published policy says which hosts take its mail, and that they have good certificates (RFC 8461).
//!
//! A policy that was once fetched holds until its age, whatever becomes of DNS or of its server meanwhile: who can cut
//! those off must not be able to switch it off. Where there never was one, mail goes on without. Policies are kept in
//! memory, bounded in number and size (S2).

mod policy;

pub(super) use policy::{Mode, Policy};

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::https::{self, Response};
use super::tls::Trust;
use super::tls_report::{self, Failure, TlsReport};
use crate::clock::Timestamp;
use crate::dns::{Dns, Fault};

/// Octets of a policy file (RFC 8461 §3.3 suggests it).
const MOST: usize = 64 << 10;
/// One fetch, all of it: the message that asks waits for it. RFC 8461 §3.3 suggests a minute at most.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed fetch no other is tried (RFC 8461 §3.3).
const FETCH_PAUSE: Duration = Duration::from_secs(300);
/// A policy is fetched again after this, though its id is the same (RFC 8461 §3.3).
const REFRESH: Duration = Duration::from_secs(86_400);
/// Fetches at a time: each takes up to 100 KiB, and a slow server delays only the mail of its own domain (S2).
const MAX_FETCHES: usize = 256;
/// Domains that are remembered.
const MAX_DOMAINS: usize = 10_000;

/// Where records and policies come from.
pub(super) trait Source {
    /// The TXT records of a name.
    fn txt(&self, name: &str) -> impl Future<Output = Result<Vec<String>, Fault>> + Send;
    /// What the domain's policy server answers, or a sentence about why it does not.
    fn fetch(&self, domain: &str) -> impl Future<Output = Result<Response, String>> + Send;
}

/// DNS and HTTPS.
pub(super) struct Live {
    pub(super) trust: Trust,
    pub(super) dns: Arc<Dns>,
    /// Of the policy servers.
    pub(super) port: u16,
}

impl Source for Live {
    async fn txt(&self, name: &str) -> Result<Vec<String>, Fault> {
        self.dns.txt(name).await.map(|answer| answer.found)
    }

    async fn fetch(&self, domain: &str) -> Result<Response, String> {
        let host = format!("mta-sts.{domain}");
        let request = https::Request {
            tls: true,
            host: &host,
            is_configured: false,
            port: self.port,
            path: "/.well-known/mta-sts.txt",
            body: None,
            most: MOST,
            limit: FETCH_TIMEOUT,
        };
        https::fetch(&self.trust, &self.dns, request).await
    }
}

/// The policies of all domains that were asked for.
pub(super) struct Sts<S> {
    source: S,
    report: Arc<TlsReport>,
    /// Only domains that have, or had, a record.
    cells: Mutex<HashMap<String, Arc<Cell>>>,
    fetching: Semaphore,
}

/// One domain; locked while its policy is fetched, so that one fetch serves all who wait.
#[derive(Default)]
struct Cell {
    held: tokio::sync::Mutex<Held>,
    /// Until when it is worth keeping, in milliseconds: what is forgotten first.
    keep: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
struct Held {
    cached: Option<Cached>,
    /// No fetch before this.
    pause: Option<Timestamp>,
}

#[derive(Clone)]
struct Cached {
    policy: Arc<Policy>,
    id: String,
    fetched: Timestamp,
}

impl Cached {
    fn expires(&self) -> Timestamp {
        self.fetched.plus(self.policy.max_age)
    }

    /// Half its age at the latest, so that there is time to try again.
    fn is_due(&self, now: Timestamp) -> bool {
        now >= self.fetched.plus(REFRESH.min(self.policy.max_age / 2))
    }
}

impl<S: Source> Sts<S> {
    pub(super) fn new(source: S, report: Arc<TlsReport>) -> Self {
        Self { source, report, cells: Mutex::default(), fetching: Semaphore::new(MAX_FETCHES) }
    }

    /// The policy that holds now for a domain (A-labels, lower case).
    pub(super) async fn policy(&self, domain: &str) -> Option<Arc<Policy>> {
        // RFC 8461 §3.3: a lookup that fails is no policy, and takes none back.
        let records = self.source.txt(&format!("_mta-sts.{domain}")).await.unwrap_or_default();
        let id = policy::record_id(&records);
        let cell = self.cell(domain, id.is_some())?;
        let mut held = cell.held.lock().await;
        let now = self.report.clock().now();
        held.cached.take_if(|cached| now >= cached.expires());
        if let Some(id) = id
            && held.cached.as_ref().is_none_or(|cached| cached.id != id || cached.is_due(now))
            // A clock that was set back must not make a pause last.
            && held.pause.is_none_or(|until| now >= until || until.since(now) > FETCH_PAUSE)
        {
            match self.fetch(domain).await {
                Some(policy) => {
                    held.cached = Some(Cached { policy: Arc::new(policy), id, fetched: now });
                    held.pause = None;
                }
                None => held.pause = Some(now.plus(FETCH_PAUSE)),
            }
        }
        let keep = held.cached.as_ref().map(Cached::expires).or(held.pause).unwrap_or_default();
        cell.keep.store(keep.as_millis(), std::sync::atomic::Ordering::Relaxed);
        held.cached.as_ref().map(|cached| cached.policy.clone())
    }

    async fn fetch(&self, domain: &str) -> Option<Policy> {
        // Never closed, and every fetch ends.
        let place = self.fetching.acquire().await;
        let fetched = self.source.fetch(domain).await;
        drop(place);
        let (failure, error) = match fetched {
            Ok(response) => match policy::read(&response) {
                Ok(policy) => return Some(policy),
                Err(error) => (Failure::StsPolicyInvalid, error),
            },
            // The one thing about a fetch that a report tells apart (RFC 8460 §4.3.2.2).
            Err(error) if error.contains("certificate") => (Failure::StsWebpkiInvalid, error),
            Err(error) => (Failure::StsPolicyFetchError, error),
        };
        tracing::warn!(target: "oncemail::relay", domain, failure = failure.as_str(), %error,
            "MTA-STS policy not fetched");
        self.report.count(&domain.into(), tls_report::Policy::Sts, Some(failure));
        None
    }

    /// Makes one only for a domain that has a record: most have none.
    fn cell(&self, domain: &str, make: bool) -> Option<Arc<Cell>> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(domain) {
            return Some(cell.clone());
        }
        if !make {
            return None;
        }
        if cells.len() >= MAX_DOMAINS {
            let kept_least = |cell: &Cell| cell.keep.load(std::sync::atomic::Ordering::Relaxed);
            let spare =
                cells.iter().min_by_key(|(_, cell)| kept_least(cell)).map(|(domain, _)| domain.clone());
            spare.and_then(|domain| cells.remove(&domain));
        }
        Some(cells.entry(domain.to_owned()).or_default().clone())
    }
}

#[cfg(test)]
mod tests;
