//! How TLS went, per UTC day and policy domain, in the words of RFC 8460.
//!
//! Counters only, in memory and bounded (S2); nothing here decides anything, and a restart forgets them. A report can be
//! built from a [`TlsReport::snapshot`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::{Clock, Timestamp};

/// Today and two days before it: a report is about the day that has just ended (RFC 8460 §4.1).
const DAYS: usize = 3;
/// Policy domains of one day; what comes on top is only counted as a sum.
const DOMAINS_PER_DAY: usize = 10_000;
const DAY_MILLIS: u64 = 86_400_000;

/// The policy that was applied (RFC 8460 §4.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Policy {
    /// MTA-STS (RFC 8461).
    Sts,
    /// DANE (RFC 7672).
    Tlsa,
    /// Neither.
    NoPolicyFound,
}

impl Policy {
    /// As a report writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sts => "sts",
            Self::Tlsa => "tlsa",
            Self::NoPolicyFound => "no-policy-found",
        }
    }
}

/// What failed (RFC 8460 §4.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Failure {
    /// Not offered, or refused.
    StarttlsNotSupported,
    /// Another name.
    CertificateHostMismatch,
    /// Too old.
    CertificateExpired,
    /// An unknown authority, itself, or none of the TLSA records.
    CertificateNotTrusted,
    /// Anything else.
    ValidationFailure,
    /// None of the TLSA records can be used.
    TlsaInvalid,
    /// The TLSA records could not be had from DNS, or not validated.
    DnssecInvalid,
    /// The policy could not be fetched.
    StsPolicyFetchError,
    /// What was fetched is no policy.
    StsPolicyInvalid,
    /// The policy's server has a wrong certificate.
    StsWebpkiInvalid,
}

impl Failure {
    /// As a report writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StarttlsNotSupported => "starttls-not-supported",
            Self::CertificateHostMismatch => "certificate-host-mismatch",
            Self::CertificateExpired => "certificate-expired",
            Self::CertificateNotTrusted => "certificate-not-trusted",
            Self::ValidationFailure => "validation-failure",
            Self::TlsaInvalid => "tlsa-invalid",
            Self::DnssecInvalid => "dnssec-invalid",
            Self::StsPolicyFetchError => "sts-policy-fetch-error",
            Self::StsPolicyInvalid => "sts-policy-invalid",
            Self::StsWebpkiInvalid => "sts-webpki-invalid",
        }
    }
}

/// Sessions under one policy of one domain on one day.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sessions {
    /// As the policy asks.
    pub successes: u64,
    /// Not so, by what failed.
    pub failures: BTreeMap<Failure, u64>,
}

/// One day.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Day {
    /// `2026-11-22`.
    pub date: String,
    /// By policy domain and policy, in order.
    pub sessions: BTreeMap<(String, Policy), Sessions>,
    /// Sessions with domains for which there was no room.
    pub beyond: u64,
}

/// The counters.
pub struct TlsReport {
    clock: Clock,
    days: Mutex<BTreeMap<u64, Counted>>,
}

#[derive(Default)]
struct Counted {
    sessions: HashMap<(Arc<str>, Policy), Sessions>,
    beyond: u64,
}

impl TlsReport {
    /// Nothing is counted yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, days: Mutex::default() }
    }

    /// By which it counts.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The days that are kept, the oldest first.
    pub fn snapshot(&self) -> Vec<Day> {
        let days = self.days.lock().unwrap_or_else(PoisonError::into_inner);
        let day = |(day, counted): (&u64, &Counted)| Day {
            date: date(*day),
            sessions: counted
                .sessions
                .iter()
                .map(|((domain, policy), sessions)| ((domain.to_string(), *policy), sessions.clone()))
                .collect(),
            beyond: counted.beyond,
        };
        days.iter().map(day).collect()
    }

    /// Counts one session.
    pub(super) fn count(&self, domain: &Arc<str>, policy: Policy, failure: Option<Failure>) {
        let today = self.clock.now().as_millis() / DAY_MILLIS;
        let mut days = self.days.lock().unwrap_or_else(PoisonError::into_inner);
        days.entry(today).or_default().count(domain, policy, failure);
        while days.len() > DAYS {
            days.pop_first();
        }
    }
}

impl Counted {
    fn count(&mut self, domain: &Arc<str>, policy: Policy, failure: Option<Failure>) {
        let key = (domain.clone(), policy);
        if self.sessions.len() >= DOMAINS_PER_DAY && !self.sessions.contains_key(&key) {
            self.beyond += 1;
            return;
        }
        let sessions = self.sessions.entry(key).or_default();
        match failure {
            None => sessions.successes += 1,
            Some(failure) => *sessions.failures.entry(failure).or_default() += 1,
        }
    }
}

fn date(day: u64) -> String {
    let mut time = Timestamp::from_millis(day.saturating_mul(DAY_MILLIS)).to_string();
    time.truncate("2026-11-22".len());
    time
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sessions_are_counted_by_day_domain_policy_and_failure() {
        let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
        let report = TlsReport::new(clock.clone());
        let domain: Arc<str> = "x.example".into();
        report.count(&domain, Policy::Sts, None);
        report.count(&domain, Policy::Sts, Some(Failure::CertificateExpired));
        report.count(&domain, Policy::Sts, Some(Failure::CertificateExpired));
        clock.advance(Duration::from_secs(86_400));
        report.count(&domain, Policy::Tlsa, None);
        let days = report.snapshot();
        assert_eq!(
            days.iter().map(|day| day.date.as_str()).collect::<Vec<_>>(),
            ["2026-11-22", "2026-11-23"]
        );
        let sessions = &days[0].sessions[&("x.example".to_owned(), Policy::Sts)];
        assert_eq!((sessions.successes, sessions.failures[&Failure::CertificateExpired]), (1, 2));
        assert_eq!(days[1].sessions.len(), 1);
    }

    #[test]
    fn s2_days_and_domains_are_bounded() {
        let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
        let report = TlsReport::new(clock.clone());
        for n in 0..DOMAINS_PER_DAY + 5 {
            report.count(&format!("{n}.example").into(), Policy::NoPolicyFound, None);
        }
        let day = report.snapshot().remove(0);
        assert_eq!((day.sessions.len(), day.beyond), (DOMAINS_PER_DAY, 5));
        for _ in 0..10 {
            clock.advance(Duration::from_secs(86_400));
            report.count(&"x.example".into(), Policy::Sts, None);
        }
        let days = report.snapshot();
        assert_eq!((days.len(), days[0].date.as_str()), (DAYS, "2026-11-30"));
    }
}
