//! Names to addresses, mail hosts, TLSA and TXT records.
//!
//! A lookup ends as an answer, as a lasting "there is none", or as trouble that may pass; the three are never mixed up,
//! because the second fails mail and the third makes it wait. Every lookup is bounded in time and in what it gives back.
//! Names are taken as fully qualified, but for hosts that an operator has named: those are found as the system finds them.

mod cache;
mod flights;
#[cfg(test)]
mod flights_model;
#[cfg(test)]
mod flights_tests;
mod metrics;
mod name;
mod question;
mod resolver;
mod search;
mod servers;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{self, Arc}; // `flights_model` puts another `super::sync` in its place.
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use rand::seq::SliceRandom;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::chance::Chance;
use cache::Cache;
use flights::Flights;
use metrics::DnsMetrics;
use question::{ENDLESS, Found, MAX_RECORDS, Meaning, Missing, Rr};
use resolver::{Resolver, Resolvers};

pub use servers::{Asking, Servers};

/// `[dns]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Name servers; empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// One question to one server.
    pub timeout: Duration,
    /// Whether answers are validated (RFC 4035); DANE needs it.
    pub dnssec: bool,
    /// Root keys to start from, a file of DNSKEY records; the built-in ones when absent.
    pub trust_anchor_file: Option<PathBuf>,
    /// What the system says, for what is not said here.
    pub system: System,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(5),
            dnssec: false,
            trust_anchor_file: None,
            system: System::default(),
        }
    }
}

/// Where the system's own configuration is: not elsewhere, but for tests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct System {
    /// Name servers, and search domains for hosts that an operator has named.
    pub resolv_conf: PathBuf,
    /// What is known without asking.
    pub hosts: PathBuf,
    /// Where those name servers are asked.
    pub port: u16,
}

impl Default for System {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), port: 53 }
    }
}

impl Options {
    /// Reads the files that it names, so that a mistake in one is seen at the start.
    ///
    /// # Errors
    /// Names the file.
    pub fn check(&self) -> Result<(), String> {
        resolver::trust_anchors(self).map(|_| ())
    }
}

/// Looks names up. Reads the system's configuration when it is first asked, and again when it changes.
pub struct Dns {
    resolvers: Resolvers,
    cache: Cache,
    flights: Flights<Result<Asked, Miss>>,
    /// Bounds the questions that are out at a time.
    asking: Semaphore,
    metrics: Arc<DnsMetrics>,
}

/// An answer, and whether DNSSEC vouches for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer<T> {
    /// What was found.
    pub found: T,
    /// Validated by DNSSEC; false also where nothing is validated.
    pub secure: bool,
}

/// One host that takes mail for a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailHost {
    /// Lower first (RFC 5321 §5.1); 0 for an implicit MX.
    pub preference: u16,
    /// Its name, lower case, without the last dot, as A-labels.
    pub name: String,
}

/// A TLSA record (RFC 6698 §2.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tlsa {
    /// Certificate usage.
    pub usage: u8,
    /// Selector: 0 the certificate, 1 its public key.
    pub selector: u8,
    /// Matching type: 0 itself, 1 SHA-256, 2 SHA-512.
    pub matching: u8,
    /// Certificate association.
    pub association: Vec<u8>,
}

/// Which addresses are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Family {
    /// Both; IPv6 and IPv4 take turns.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// NXDOMAIN: lasting.
    #[error("the domain {0} does not exist")]
    NoSuchDomain(String),
    /// The name exists and has nothing of this kind: lasting.
    #[error("{0}")]
    NoRecords(String),
    /// The domain says that it takes no mail (RFC 7505): lasting.
    #[error("the domain {0} takes no mail (null MX)")]
    NullMx(String),
    /// No answer, an answer that cannot be trusted, or one that makes no sense: it may pass.
    #[error("{0}")]
    Temporary(String),
}

/// One question, with all repeats of the resolver and every CNAME on the way.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// Questions that are out at a time.
const MAX_ASKING: usize = 128;
/// More addresses of one name are not given back.
const MAX_ADDRESSES: usize = 8;
/// CNAMEs that are followed to see whether they end.
const MAX_ALIASES: usize = 10;

/// Why a question has no records.
#[derive(Clone)]
enum Miss {
    Missing(Missing),
    /// A whole sentence.
    Trouble(String),
}

impl Dns {
    /// Nothing is asked yet.
    pub fn new(options: Options) -> Self {
        Self::over(Resolvers::new(options))
    }

    /// The same, with `servers` in the place of all name servers, and without the system's table of hosts.
    pub fn asking(servers: Arc<dyn Servers>) -> Self {
        Self::over(Resolvers::fixed(servers))
    }

    fn over(resolvers: Resolvers) -> Self {
        Self {
            resolvers,
            cache: Cache::default(),
            flights: Flights::default(),
            asking: Semaphore::new(MAX_ASKING),
            metrics: Arc::default(),
        }
    }

    /// The addresses of a host, in the order in which to try them, at least one and at most 8. An address is its own.
    ///
    /// # Errors
    /// A sentence that names the cause.
    ///
    /// # Cancel safety
    /// Nothing is lost but the answer.
    pub async fn addresses(&self, name: &str, family: Family) -> Result<Answer<Vec<IpAddr>>, Fault> {
        if let Ok(address) = name.parse() {
            return Ok(Answer { found: vec![address], secure: false });
        }
        let found = self.families(&name::to_ascii(name)?, family).await?;
        let secure = found.iter().all(|answer| answer.secure);
        Ok(Answer { found: by_turns(found), secure })
    }

    /// The name of a host with addresses behind every alias, in A-labels; where they differ, its own. Secure as those are.
    ///
    /// # Errors
    /// As [`Dns::addresses`].
    ///
    /// # Cancel safety
    /// Nothing is lost but the answer.
    pub async fn canonical(&self, name: &str) -> Result<Answer<String>, Fault> {
        let name = name::to_ascii(name)?;
        let found = self.families(&name, Family::Any).await?;
        let secure = found.iter().all(|answer| answer.secure);
        let mut ends = found.into_iter().map(|answer| answer.end);
        let end = ends.next().flatten().filter(|end| ends.all(|other| other.as_ref() == Some(end)));
        Ok(Answer { found: end.unwrap_or(name), secure })
    }

    /// What is found of the wanted families, at least one address.
    async fn families(&self, name: &str, family: Family) -> Result<Vec<Found>, Fault> {
        let (v6, v4) = match family {
            Family::Any => {
                let both = tokio::join!(self.ask(name, RecordType::AAAA), self.ask(name, RecordType::A));
                (Some(both.0), Some(both.1))
            }
            Family::V4 => (None, Some(self.ask(name, RecordType::A).await)),
            Family::V6 => (Some(self.ask(name, RecordType::AAAA).await), None),
        };
        // One family is enough: a server that answers for the other with an error is no rarity.
        let (mut found, mut misses) = (Vec::new(), Vec::new());
        for answer in [v6, v4].into_iter().flatten() {
            match answer {
                Ok(answer) => found.push(answer),
                Err(miss) => misses.push(miss),
            }
        }
        if found.is_empty() {
            let what = match family {
                Family::Any => "address",
                Family::V4 => "IPv4 address",
                Family::V6 => "IPv6 address",
            };
            return Err(worst(misses, name, || format!("{name} has no {what}")));
        }
        Ok(found)
    }

    /// The same for a host that an operator has named, as the system finds it: in its table of hosts, and then, unless
    /// `servers` says whom to ask or the name ends with a dot, by its search domains too.
    ///
    /// # Errors
    /// A sentence that names the cause.
    ///
    /// # Cancel safety
    /// Nothing is lost but the answer.
    pub async fn configured_addresses(
        &self,
        name: &str,
        family: Family,
    ) -> Result<Answer<Vec<IpAddr>>, Fault> {
        if let Ok(address) = name.parse() {
            return Ok(Answer { found: vec![address], secure: false });
        }
        let ascii = name::to_ascii(name)?;
        let search = self
            .resolver()
            .map_err(|reason| Fault::Temporary(sentence(&ascii, RecordType::A, &reason)))?
            .search;
        let known = search.known(&ascii, family);
        if !known.is_empty() {
            return Ok(Answer { found: known, secure: false });
        }
        if name.ends_with('.') {
            return self.addresses(&ascii, family).await;
        }
        let trying = timeout(LOOKUP_TIMEOUT, async {
            let mut worst = Fault::NoSuchDomain(ascii.clone());
            for name in search.names(&ascii) {
                match self.addresses(&name, family).await {
                    Ok(found) => return Ok(found),
                    // One domain's trouble does not hide what another one has; but what is not found then may be there.
                    Err(fault @ Fault::Temporary(_)) => worst = fault,
                    Err(fault) if name == ascii && !matches!(worst, Fault::Temporary(_)) => worst = fault,
                    Err(_) => {}
                }
            }
            Err(worst)
        });
        trying.await.unwrap_or_else(|_| {
            let reason = format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs());
            Err(Fault::Temporary(sentence(&ascii, RecordType::A, &reason)))
        })
    }

    /// The hosts that take mail for a domain (RFC 5321 §5.1): the best 20 of its MX records, best preference first, in
    /// random order within one; or the domain itself when it has no MX record but an address.
    ///
    /// # Errors
    /// There are none, or they could not be found out.
    ///
    /// # Cancel safety
    /// Nothing is lost but the answer.
    pub async fn mail_hosts(&self, domain: &str) -> Result<Answer<Vec<MailHost>>, Fault> {
        let name = name::to_ascii(domain)?;
        match self.ask(&name, RecordType::MX).await {
            Ok(Found { records, .. }) if question::is_null_mx(&records) => Err(Fault::NullMx(name)),
            Ok(Found { records, secure, .. }) => match question::mail_hosts(&records) {
                hosts if hosts.is_empty() => {
                    Err(Fault::NoRecords(format!("the MX records of {name} name no host that could exist")))
                }
                found => Ok(Answer { found, secure }),
            },
            // Only what is known to be missing is replaced; trouble with MX records is never read as their absence.
            Err(Miss::Missing(Missing::NoRecords { secure, .. })) => {
                match self.addresses(&name, Family::Any).await {
                    Ok(_) => Ok(Answer { found: vec![MailHost { preference: 0, name }], secure }),
                    Err(Fault::NoRecords(_)) => {
                        Err(Fault::NoRecords(format!("{name} has neither an MX record nor an address")))
                    }
                    Err(fault) => Err(fault),
                }
            }
            Err(miss) => Err(fault(miss, &name, String::new)),
        }
    }

    /// The TLSA records of `_port._tcp.host`; only validated ones count (RFC 7672 §2.2).
    ///
    /// # Errors
    /// There are none, or they could not be found out.
    ///
    /// # Cancel safety
    /// Nothing is lost but the answer.
    pub async fn tlsa(&self, host: &str, port: u16) -> Result<Answer<Vec<Tlsa>>, Fault> {
        let name = name::to_ascii(&format!("_{port}._tcp.{}", name::to_ascii(host)?))?;
        let found = self.ask(&name, RecordType::TLSA).await;
        let found = found.map_err(|miss| fault(miss, &name, || format!("{name} has no TLSA record")))?;
        let tlsa = |record| if let Rr::Tlsa(tlsa) = record { Some(tlsa) } else { None };
        Ok(Answer { found: found.records.into_iter().filter_map(tlsa).collect(), secure: found.secure })
    }

    /// The TXT records of a name, each with its strings joined; not in order, and what is no UTF-8 replaced.
    ///
    /// # Errors
    /// There are none, or they could not be found out.
    ///
    /// # Cancel safety
    /// Nothing is lost but the answer.
    pub async fn txt(&self, name: &str) -> Result<Answer<Vec<String>>, Fault> {
        let name = name::to_ascii(name)?;
        let found = self.ask(&name, RecordType::TXT).await;
        let found = found.map_err(|miss| fault(miss, &name, || format!("{name} has no TXT record")))?;
        let text = |record| if let Rr::Text(text) = record { Some(text) } else { None };
        Ok(Answer { found: found.records.into_iter().filter_map(text).collect(), secure: found.secure })
    }

    /// The names that an address says it has (RFC 1035 §3.5, RFC 3596 §2.5); anybody can say anything there.
    ///
    /// # Errors
    /// There are none, or they could not be found out.
    ///
    /// # Cancel safety
    /// Nothing is lost but the answer.
    pub async fn pointers(&self, address: IpAddr) -> Result<Answer<Vec<String>>, Fault> {
        let name = hickory_resolver::proto::rr::Name::from(address).to_ascii();
        let name = name::to_ascii(name.trim_end_matches('.'))?;
        let found = self.ask(&name, RecordType::PTR).await;
        let found = found.map_err(|miss| fault(miss, &name, || format!("{address} has no PTR record")))?;
        let host = |record| if let Rr::Alias(name) = record { Some(name) } else { None };
        Ok(Answer { found: found.records.into_iter().filter_map(host).collect(), secure: found.secure })
    }

    /// One question about a name in A-labels, from the cache or the name servers.
    async fn ask(&self, name: &str, kind: RecordType) -> Result<Found, Miss> {
        let (lasting, ttl) = match self.ask_once(name, kind).await? {
            Asked::Kept(lasting) => return lasting.map_err(Miss::Missing),
            Asked::New(lasting, ttl) => (lasting, ttl),
        };
        // The end of a chain of CNAMEs that does not end looks like a name without records. It must not fail mail.
        if let Err(Missing::NoRecords { bare: true, .. }) = lasting {
            self.expect_an_end(name, kind).await?;
        }
        self.cache.keep(name, kind, &lasting, ttl, Instant::now());
        lasting.map_err(Miss::Missing)
    }

    async fn expect_an_end(&self, name: &str, kind: RecordType) -> Result<(), Miss> {
        let mut at = name.to_owned();
        for _ in 0..MAX_ALIASES {
            let (Asked::Kept(found) | Asked::New(found, _)) = self.ask_once(&at, RecordType::CNAME).await?;
            match found.ok().and_then(|found| found.records.into_iter().next()) {
                Some(Rr::Alias(target)) => at = target,
                _ => return Ok(()),
            }
        }
        Err(Miss::Trouble(sentence(name, kind, ENDLESS)))
    }

    async fn ask_once(&self, name: &str, kind: RecordType) -> Result<Asked, Miss> {
        let resolver = self.resolver().map_err(|reason| Miss::Trouble(sentence(name, kind, &reason)))?;
        if let Some(kept) = self.cache.get(name, kind, Instant::now()) {
            self.metrics.known();
            return Ok(Asked::Kept(kept));
        }
        // Most are answered from the cache; a client's connection has room for one of these all the time.
        Box::pin(self.flights.share(name, kind, self.ask_servers(resolver, name, kind))).await
    }

    async fn ask_servers(&self, resolver: Resolver, name: &str, kind: RecordType) -> Result<Asked, Miss> {
        let trouble = |reason: &str| Miss::Trouble(sentence(name, kind, reason));
        let asked = name::to_question(name).map_err(|_| Miss::Missing(Missing::NoSuchDomain))?;
        let servers = &resolver.servers;
        // Never closed. The wait ends: every question before this one has its time-out. It is no trouble with the name.
        let _place = self.asking.acquire().await;
        let began = Instant::now();
        let answer = timeout(LOOKUP_TIMEOUT, resolver.asks.lookup(asked.clone(), kind)).await;
        let meaning = answer.map_or_else(
            |_| Meaning::Trouble(format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs())),
            |answer| question::meaning(&asked, kind, answer),
        );
        self.metrics.asked(kind, began.elapsed(), !matches!(meaning, Meaning::Trouble(_)));
        match meaning {
            Meaning::Found(found, ttl) => Ok(Asked::New(Ok(found), ttl)),
            Meaning::Missing(missing, ttl) => Ok(Asked::New(Err(missing), ttl)),
            Meaning::Trouble(reason) => Err(trouble(&format!("{reason} (asked {servers})"))),
        }
    }

    /// Whom to ask now.
    fn resolver(&self) -> Result<Resolver, String> {
        let (resolver, is_new) = self.resolvers.current(Instant::now())?;
        if is_new {
            self.cache.clear();
        }
        Ok(resolver)
    }
}

/// An answer that lasts, and whether it is new.
#[derive(Clone)]
enum Asked {
    Kept(cache::Lasting),
    New(cache::Lasting, Duration),
}

fn sentence(name: &str, kind: RecordType, reason: &str) -> String {
    match kind {
        RecordType::A | RecordType::AAAA => format!("{name} cannot be looked up: {reason}"),
        kind => format!("the {kind} records of {name} cannot be looked up: {reason}"),
    }
}

fn fault(miss: Miss, name: &str, none: impl FnOnce() -> String) -> Fault {
    match miss {
        Miss::Missing(Missing::NoSuchDomain) => Fault::NoSuchDomain(name.to_owned()),
        Miss::Missing(Missing::NoRecords { .. }) => Fault::NoRecords(none()),
        Miss::Trouble(sentence) => Fault::Temporary(sentence),
    }
}

/// Of several misses the one that says least: trouble before absence.
fn worst(misses: Vec<Miss>, name: &str, none: impl FnOnce() -> String) -> Fault {
    let rank = |miss: &Miss| match miss {
        Miss::Trouble(_) => 0,
        Miss::Missing(Missing::NoRecords { .. }) => 1,
        Miss::Missing(Missing::NoSuchDomain) => 2,
    };
    match misses.into_iter().min_by_key(rank) {
        Some(miss) => fault(miss, name, none),
        None => Fault::NoRecords(none()),
    }
}

/// At most [`MAX_ADDRESSES`], each answer's in random order, the answers by turns.
fn by_turns(answers: Vec<Found>) -> Vec<IpAddr> {
    let address = |record| if let Rr::Address(address) = record { Some(address) } else { None };
    let mut lists: Vec<Vec<IpAddr>> =
        answers.into_iter().map(|answer| answer.records.into_iter().filter_map(address).collect()).collect();
    for list in &mut lists {
        list.shuffle(&mut Chance);
    }
    let turn = |turn: usize| lists.iter().filter_map(move |list| list.get(turn).copied());
    (0..MAX_RECORDS).flat_map(turn).take(MAX_ADDRESSES).collect()
}
