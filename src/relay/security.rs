//! What TLS must achieve with one host, decided before a connection to it is opened.
//!
//! The route's policy is the least; a message with REQUIRETLS (RFC 8689), a domain's MTA-STS policy (RFC 8461) and a host's
//! TLSA records (RFC 7672) can only ask for more. What cannot be found out, or cannot be had, is trouble with that host: it
//! is not asked, and the mail waits (R2).

use std::sync::Arc;

use super::dane::Anchors;
use super::opening::Trouble;
use super::options::{self, Host, Hosts, TlsPolicy};
use super::sts::{Live, Mode, Sts};
use super::tls::Trust;
use super::tls_report::{Failure, Policy, TlsReport};
use crate::dns::{Dns, Fault};

/// What TLS must achieve with one host, and where it is counted how it went.
#[derive(Clone, Debug)]
pub(super) struct Demand {
    pub(super) level: Level,
    /// Nothing is counted where no TLS is wanted.
    pub(super) account: Option<Account>,
    /// The host is known to be one of the destination's, as REQUIRETLS asks (RFC 8689 §4.2.1).
    pub(super) is_known: bool,
}

/// What TLS must achieve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Level {
    /// No TLS.
    Plain,
    /// STARTTLS with any certificate where it is offered and works, else plain.
    Opportunistic,
    /// STARTTLS, and a certificate as said.
    StartTls(Verify),
    /// TLS from the first byte, and a certificate as said.
    Implicit(Verify),
}

/// When a certificate is good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verify {
    /// Always: encryption is all that can be had (RFC 7672 §2.2, where no TLSA record is usable).
    Nothing,
    /// A trusted authority vouches for this name.
    Name(String),
    /// It is one that the host's TLSA records name.
    Dane(Arc<Anchors>),
}

impl Verify {
    /// For the log: what a session that was let through has been proven to be.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Nothing => "unverified",
            Self::Name(_) => "verified",
            Self::Dane(_) => "dane",
        }
    }

    fn in_words(&self) -> String {
        match self {
            Self::Nothing => "any certificate".to_owned(),
            Self::Name(name) => format!("a certificate for {name}"),
            Self::Dane(_) => "a certificate that its TLSA records name".to_owned(),
        }
    }
}

/// A line of the TLS report.
#[derive(Clone)]
pub(super) struct Account {
    report: Arc<TlsReport>,
    line: Line,
}

/// What is counted, and as what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    pub(super) domain: Arc<str>,
    pub(super) policy: Policy,
    /// Known to fail the policy before anything was tried, and tried all the same.
    pub(super) fails: Option<Failure>,
    /// The certificate is looked at though nobody asks for a good one (MTA-STS in testing).
    pub(super) watched: bool,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.line.fmt(f)
    }
}

impl Account {
    pub(super) fn new(report: Arc<TlsReport>, line: Line) -> Self {
        Self { report, line }
    }

    /// Counts a session.
    pub(super) fn count(&self, failure: Option<Failure>) {
        self.report.count(&self.line.domain, self.line.policy, self.line.fails.or(failure));
    }

    pub(super) fn is_watched(&self) -> bool {
        self.line.watched
    }
}

/// A host to be tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Candidate {
    /// Name and port.
    pub(super) host: Host,
    /// DNSSEC vouches for its being a host of the destination: true for a configured one.
    pub(super) secure: bool,
}

/// Decides for the hosts of one route.
pub(super) struct Security {
    policy: TlsPolicy,
    dns: Arc<Dns>,
    sts: Option<Sts<Live>>,
    report: Arc<TlsReport>,
}

/// TLSA records of a host, as far as they count.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Records {
    /// There are none, or DNSSEC does not vouch for them.
    None,
    /// There are, and none can be used.
    Unusable,
    Usable(Arc<Anchors>),
}

/// All that one decision depends on.
struct Question<'a> {
    policy: TlsPolicy,
    host: &'a str,
    /// The recipient's, with [`Hosts::Mx`] only.
    domain: Option<&'a str>,
    /// As in [`Candidate`].
    secure: bool,
    require_tls: bool,
    records: Records,
    sts: Option<&'a super::sts::Policy>,
}

/// What is asked of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Decision {
    level: Level,
    /// Where it is counted.
    line: Line,
    /// As in [`Demand`].
    is_known: bool,
}

/// Why a host is not to be asked, and where and as what that is counted.
struct Unmet {
    text: String,
    line: Option<Line>,
    failure: Option<Failure>,
}

impl Security {
    pub(super) fn new(
        options: &options::Smtp,
        trust: &Trust,
        dns: &Arc<Dns>,
        report: &Arc<TlsReport>,
    ) -> Self {
        let sts = match &options.hosts {
            Hosts::Mx(mx) if mx.mta_sts && options.tls != TlsPolicy::None => {
                let live = Live { trust: trust.clone(), dns: dns.clone(), port: mx.mta_sts_port };
                Some(Sts::new(live, report.clone()))
            }
            _ => None,
        };
        Self { policy: options.tls, dns: dns.clone(), sts, report: report.clone() }
    }

    /// What a connection to `candidate` has to achieve for mail to `domain` (none for a configured host).
    ///
    /// # Errors
    /// It cannot be found out, or cannot be had: the host is not to be asked.
    pub(super) async fn demand(
        &self,
        domain: Option<&str>,
        candidate: &Candidate,
        require_tls: bool,
    ) -> Result<Demand, Trouble> {
        let account = |line: Line| Account::new(self.report.clone(), line);
        match self.weigh(domain, candidate, require_tls).await {
            Ok(Decision { level: Level::Plain, is_known, .. }) => {
                Ok(Demand { level: Level::Plain, account: None, is_known })
            }
            Ok(Decision { level, line, is_known }) => {
                Ok(Demand { level, account: Some(account(line)), is_known })
            }
            Err(Unmet { text, line, failure }) => {
                if let Some(line) = line {
                    account(line).count(failure);
                }
                Err(Trouble::local(text))
            }
        }
    }

    /// The same in words, for whoever asks; nothing is counted for it.
    ///
    /// # Errors
    /// Why the host would not be asked.
    pub(super) async fn in_words(
        &self,
        domain: Option<&str>,
        candidate: &Candidate,
    ) -> Result<String, String> {
        let Decision { level, line, .. } =
            self.weigh(domain, candidate, false).await.map_err(|unmet| unmet.text)?;
        let policy = match (line.policy, line.watched) {
            (Policy::Sts, false) => ", MTA-STS enforce",
            (Policy::Sts, true) => ", MTA-STS testing",
            (Policy::Tlsa, _) => ", DANE",
            (Policy::NoPolicyFound, _) => "",
        };
        let level = match level {
            Level::Plain => "no TLS".to_owned(),
            Level::Opportunistic => "STARTTLS where it is offered, any certificate".to_owned(),
            Level::StartTls(verify) => format!("STARTTLS, {}", verify.in_words()),
            Level::Implicit(verify) => format!("TLS from the first byte, {}", verify.in_words()),
        };
        Ok(format!("{level}{policy}"))
    }

    /// Weighs all that is asked of a host.
    async fn weigh(
        &self,
        domain: Option<&str>,
        candidate: &Candidate,
        require_tls: bool,
    ) -> Result<Decision, Unmet> {
        let host = candidate.host.name.as_str();
        let domain = domain.map(crate::mail::domain::canonical);
        let domain = domain.as_deref();
        let reported: Arc<str> = domain.unwrap_or(host).into();
        let records = self.records(domain, candidate).await.map_err(|trouble| Unmet {
            text: trouble.text,
            line: Some(Line { domain: reported.clone(), policy: Policy::Tlsa, fails: None, watched: false }),
            failure: Some(Failure::DnssecInvalid),
        })?;
        // RFC 8461 §2: where TLSA records can be used, they decide.
        let sts = match (&self.sts, domain, &records) {
            (Some(sts), Some(domain), Records::None | Records::Unusable) if !domain.starts_with('[') => {
                sts.policy(domain).await
            }
            _ => None,
        };
        let (policy, secure) = (self.policy, candidate.secure);
        let question = Question { policy, host, domain, secure, require_tls, records, sts: sts.as_deref() };
        question.decide(reported).map_err(|(text, line)| Unmet { text, line, failure: None })
    }

    /// RFC 7672 §2.2: asked for only where DNSSEC vouches for the host and its addresses; what it does not vouch for is
    /// as if it were not there, and what cannot be had says nothing about whether it is there.
    async fn records(&self, domain: Option<&str>, candidate: &Candidate) -> Result<Records, Trouble> {
        let Host { name, port } = &candidate.host;
        if self.policy != TlsPolicy::Dane || !candidate.secure || name.parse::<std::net::IpAddr>().is_ok() {
            return Ok(Records::None);
        }
        let unknown = |fault: Fault| Trouble::local(format!("4.7.5 DANE: {fault}"));
        let end = match self.dns.canonical(name).await {
            Ok(found) if found.secure => found.found,
            Ok(_) | Err(Fault::NoSuchDomain(_) | Fault::NoRecords(_) | Fault::NullMx(_)) => {
                return Ok(Records::None);
            }
            Err(fault @ Fault::Temporary(_)) => return Err(unknown(fault)),
        };
        // RFC 7672 §2.2.2: those of the name that an alias leads to come first.
        let bases = [Some(end.as_str()).filter(|end| !end.eq_ignore_ascii_case(name)), Some(name.as_str())];
        for base in bases.into_iter().flatten() {
            match self.dns.tlsa(base, *port).await {
                Ok(found) if found.secure && !found.found.is_empty() => {
                    let names: Vec<_> =
                        [Some(base), Some(name.as_str()), domain].into_iter().flatten().collect();
                    let usable = Anchors::new(found.found, &names);
                    return Ok(usable.map_or(Records::Unusable, |anchors| Records::Usable(anchors.into())));
                }
                Ok(_) | Err(Fault::NoSuchDomain(_) | Fault::NoRecords(_) | Fault::NullMx(_)) => {}
                Err(fault @ Fault::Temporary(_)) => return Err(unknown(fault)),
            }
        }
        Ok(Records::None)
    }
}

impl Question<'_> {
    /// What to ask of the host; or why it is not to be asked, and where that is counted.
    fn decide(self, reported: Arc<str>) -> Result<Decision, (String, Option<Line>)> {
        let by_name = || Verify::Name(self.host.to_owned());
        let mut line = Line { domain: reported, policy: Policy::NoPolicyFound, fails: None, watched: false };
        let mut level = match self.policy {
            TlsPolicy::None => Level::Plain,
            TlsPolicy::Opportunistic | TlsPolicy::Dane => Level::Opportunistic,
            TlsPolicy::Required => Level::StartTls(by_name()),
            TlsPolicy::Implicit => Level::Implicit(by_name()),
        };
        match &self.records {
            Records::None => {}
            Records::Unusable => {
                (line.policy, line.fails) = (Policy::Tlsa, Some(Failure::TlsaInvalid));
                level = Level::StartTls(Verify::Nothing);
            }
            Records::Usable(anchors) => {
                line.policy = Policy::Tlsa;
                level = Level::StartTls(Verify::Dane(anchors.clone()));
            }
        }
        // An address needs no lookup that could be forged.
        let mut is_known = self.secure || self.domain.is_some_and(|domain| domain.starts_with('['));
        if let Some(sts) = self.sts.filter(|sts| sts.mode != Mode::None) {
            let names = sts.names(self.host);
            is_known |= names;
            let enforced = sts.mode == Mode::Enforce;
            if line.policy == Policy::NoPolicyFound || enforced {
                line.policy = Policy::Sts;
                line.fails = (!names).then_some(Failure::ValidationFailure);
                line.watched = !enforced;
            }
            if enforced && !names {
                let domain = self.domain.unwrap_or_default();
                let text = format!(
                    "4.7.5 MTA-STS: {} is not among the hosts that the policy of {domain} names",
                    self.host
                );
                return Err((text, Some(line)));
            }
            if enforced && matches!(level, Level::Opportunistic | Level::StartTls(Verify::Nothing)) {
                level = Level::StartTls(by_name());
            }
        }
        if self.require_tls {
            level = self.verified(level, is_known).map_err(|text| (text, None))?;
        }
        Ok(Decision { level, line, is_known })
    }

    /// RFC 8689 §4.2.1: a host that is known to be the destination's, and a certificate that proves it.
    fn verified(&self, level: Level, is_known: bool) -> Result<Level, String> {
        match level {
            Level::Plain => {
                Err("5.7.10 REQUIRETLS: the message must not be sent without TLS, and its route has none"
                    .to_owned())
            }
            _ if !is_known => Err(format!(
                "5.7.10 REQUIRETLS: neither DNSSEC nor MTA-STS vouches for {} as a host of {}",
                self.host,
                self.domain.unwrap_or_default()
            )),
            Level::Opportunistic | Level::StartTls(Verify::Nothing) => {
                Ok(Level::StartTls(Verify::Name(self.host.to_owned())))
            }
            level => Ok(level),
        }
    }
}

#[cfg(test)]
mod tests;
