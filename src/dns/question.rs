//! One question and what its answer means: records, a lasting "there is none", or trouble.
//!
//! Only records that belong to the question count: those of its name, or of the name that a chain of CNAMEs leads to
//! from there. Whatever else a server sends along is never looked at.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SOA;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordRef, RecordType};
use rand::seq::SliceRandom;

use super::{MailHost, Tlsa, name};
use crate::chance::Chance;

/// Links of a chain of CNAMEs that are followed.
const MAX_LINKS: usize = 16;
/// Records of one answer that are kept: the best mail hosts, and any others.
pub(super) const MAX_RECORDS: usize = 20;

/// The records of one answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) records: Vec<Rr>,
    /// DNSSEC vouches for them, and for each CNAME on the way.
    pub(super) secure: bool,
    /// Where a chain of CNAMEs has led; none where there is none.
    pub(super) end: Option<String>,
}

/// What we make of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Rr {
    Address(IpAddr),
    /// `None` for the root: no mail (RFC 7505).
    Mail(u16, Option<String>),
    Tlsa(Tlsa),
    Text(String),
    /// Where a CNAME leads, or a PTR.
    Alias(String),
}

/// There is none, and that lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Missing {
    /// NXDOMAIN.
    NoSuchDomain,
    /// The name has no such record.
    NoRecords {
        /// DNSSEC vouches for that.
        secure: bool,
        /// The server proved nothing, not even by an SOA: it may be the end of a chain that does not end.
        bare: bool,
    },
}

/// What an answer comes to.
pub(super) enum Meaning {
    Found(Found, Duration),
    Missing(Missing, Duration),
    /// A sentence without the name and the server.
    Trouble(String),
}

impl Found {
    /// About how much memory it takes, bytes.
    pub(super) fn size(&self) -> usize {
        let size = |record: &Rr| match record {
            Rr::Address(_) | Rr::Mail(_, None) => 0,
            Rr::Mail(_, Some(text)) | Rr::Text(text) | Rr::Alias(text) => text.len(),
            Rr::Tlsa(tlsa) => tlsa.association.len(),
        };
        let end = self.end.as_ref().map_or(0, String::len);
        self.records.iter().map(|record| size_of::<Rr>() + size(record)).sum::<usize>() + end
    }
}

/// What the answer to a question about `asked` comes to.
pub(super) fn meaning(asked: &Name, kind: RecordType, answer: Result<Lookup, NetError>) -> Meaning {
    match answer {
        Ok(lookup) => found(asked, kind, &lookup),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => no_records(&none),
        Err(NetError::Dns(DnsError::Nsec { response, proof: Proof::Insecure, .. })) => {
            let soa = response.soa().map(|soa| RecordRef::to_owned(&soa));
            missing(response.response_code, soa.as_ref(), false)
        }
        Err(error) => Meaning::Trouble(words(&error)),
    }
}

fn found(asked: &Name, kind: RecordType, lookup: &Lookup) -> Meaning {
    let (answers, answered) = (lookup.answers(), lookup.query());
    let unrelated = || Meaning::Trouble("the answer has nothing to do with the question".to_owned());
    let (mut owner, mut secure, mut ttl) = (asked, true, u32::MAX);
    // The resolver asks on along a chain, and the last question is the one that it hands back. Over TCP it does not
    // compare it with its own.
    let mut is_related = false;
    for _ in 0..MAX_LINKS {
        is_related |= answered.name() == owner && answered.query_type() == kind;
        let of_kind =
            || answers.iter().filter(|record| record.name == *owner && record.record_type() == kind);
        if of_kind().next().is_some() {
            if !is_related {
                return unrelated();
            }
            for record in of_kind() {
                secure &= record.proof == Proof::Secure;
                ttl = ttl.min(record.ttl);
            }
            let records = best(of_kind().filter_map(|record| rr(&record.data)).collect());
            let end = (owner != asked).then(|| name::from_record(owner)).flatten();
            return Meaning::Found(Found { records, secure, end }, Duration::from_secs(ttl.into()));
        }
        let alias = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *owner => Some((record, &target.0)),
            _ => None,
        });
        let Some((record, target)) = alias else {
            return unrelated();
        };
        secure &= record.proof == Proof::Secure;
        ttl = ttl.min(record.ttl);
        owner = target;
    }
    Meaning::Trouble(ENDLESS.to_owned())
}

/// A chain of CNAMEs that is followed no further.
pub(super) const ENDLESS: &str = "its CNAME records lead in a circle, or too far";

/// At most [`MAX_RECORDS`]; of mail hosts the ones with the best preference, chosen at random within one.
fn best(mut records: Vec<Rr>) -> Vec<Rr> {
    records.shuffle(&mut Chance);
    records.sort_by_key(|record| match record {
        // What cannot be used must not push out what can.
        Rr::Mail(_, None) => u32::MAX,
        Rr::Mail(preference, _) => u32::from(*preference),
        _ => 0,
    });
    records.truncate(MAX_RECORDS);
    records
}

fn rr(data: &RData) -> Option<Rr> {
    match data {
        RData::A(address) => Some(Rr::Address(IpAddr::V4(address.0))),
        RData::AAAA(address) => Some(Rr::Address(IpAddr::V6(address.0))),
        RData::MX(mx) if mx.exchange.is_root() => Some(Rr::Mail(mx.preference, None)),
        RData::MX(mx) => name::from_record(&mx.exchange).map(|name| Rr::Mail(mx.preference, Some(name))),
        RData::CNAME(target) => name::from_record(&target.0).map(Rr::Alias),
        RData::PTR(target) => name::from_record(&target.0).map(Rr::Alias),
        RData::TXT(text) => {
            let whole: Vec<u8> = text.txt_data.iter().flat_map(|part| part.iter().copied()).collect();
            Some(Rr::Text(String::from_utf8_lossy(&whole).into_owned()))
        }
        RData::TLSA(tlsa) => Some(Rr::Tlsa(Tlsa {
            usage: tlsa.cert_usage.into(),
            selector: tlsa.selector.into(),
            matching: tlsa.matching.into(),
            association: tlsa.cert_data.clone(),
        })),
        _ => None,
    }
}

/// The mail hosts of an MX answer in the order in which to try them; none of use: empty.
pub(super) fn mail_hosts(records: &[Rr]) -> Vec<MailHost> {
    let host = |record: &Rr| match record {
        Rr::Mail(preference, Some(name)) => Some(MailHost { preference: *preference, name: name.clone() }),
        _ => None,
    };
    let mut hosts: Vec<_> = records.iter().filter_map(host).collect();
    // RFC 5321 §5.1: at random within a preference, anew each time, so that load is spread.
    hosts.shuffle(&mut Chance);
    hosts.sort_by_key(|host| host.preference);
    hosts
}

/// Whether an MX answer says that there is no mail (RFC 7505 §3); among others the root is no host and ignored.
pub(super) fn is_null_mx(records: &[Rr]) -> bool {
    !records.is_empty() && records.iter().all(|record| matches!(record, Rr::Mail(_, None)))
}

fn no_records(none: &NoRecords) -> Meaning {
    let proven = none.authorities.as_deref().unwrap_or_default();
    let secure = !proven.is_empty() && proven.iter().all(|record| record.proof == Proof::Secure);
    missing(none.response_code, none.soa.as_deref(), secure)
}

fn missing(code: ResponseCode, soa: Option<&Record<SOA>>, secure: bool) -> Meaning {
    // RFC 2308 §5; without an SOA it is not to be kept.
    let ttl = soa.map_or(0, |soa| soa.ttl.min(soa.data.minimum));
    let ttl = Duration::from_secs(ttl.into());
    match code {
        ResponseCode::NXDomain => Meaning::Missing(Missing::NoSuchDomain, ttl),
        ResponseCode::NoError => Meaning::Missing(Missing::NoRecords { secure, bare: soa.is_none() }, ttl),
        other => Meaning::Trouble(format!("the answer was {other}")),
    }
}

fn words(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no answer in time".to_owned(),
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the answer was {code}"),
        NetError::Dns(DnsError::DnssecBogus | DnsError::Nsec { .. }) => {
            "the answer is not signed as DNSSEC demands".to_owned()
        }
        NetError::Truncated => "the answer is larger than DNS can carry".to_owned(),
        NetError::Proto(error) => format!("the answer makes no sense ({error})"),
        NetError::NoConnections => "no name server could be asked".to_owned(),
        other => other.to_string(),
    }
}
