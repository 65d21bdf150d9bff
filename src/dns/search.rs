//! What the system makes of a host name that an operator wrote: the table of hosts first (hosts(5)), then the name itself
//! and its search domains (resolv.conf(5)).
//!
//! Only names from the configuration come here. A recipient's domain or an MX host is a whole name, and must never be
//! found inside the network that we happen to be in.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_resolver::Hosts;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::{Family, MAX_ADDRESSES, name};

/// Search domains beyond these are not looked at: as many as Kubernetes allows.
const MAX_DOMAINS: usize = 32;

/// What the system knows of names.
#[derive(Clone, Default)]
pub(super) struct Search {
    pub(super) hosts: Arc<Hosts>,
    /// In A-labels, in their order.
    pub(super) domains: Vec<String>,
    /// A name with this many dots is tried as it is before the search domains, another one after them.
    pub(super) ndots: usize,
}

impl Search {
    pub(super) fn new(hosts: Arc<Hosts>, config: &ResolverConfig, ndots: usize) -> Self {
        // Without a list the system takes the domain of its own name.
        let only = config.domain().filter(|_| config.search().is_empty());
        let listed = config.search().iter().chain(only);
        Self { hosts, domains: listed.filter_map(name::from_record).take(MAX_DOMAINS).collect(), ndots }
    }

    /// The addresses that the table of hosts has for a name in A-labels. Where it has one, nobody else is asked.
    pub(super) fn known(&self, ascii: &str, family: Family) -> Vec<IpAddr> {
        let kinds: &[RecordType] = match family {
            Family::Any => &[RecordType::AAAA, RecordType::A],
            Family::V4 => &[RecordType::A],
            Family::V6 => &[RecordType::AAAA],
        };
        let Ok(name) = name::to_question(ascii) else { return Vec::new() };
        let listed = kinds.iter().filter_map(|kind| {
            let lookup = self.hosts.lookup_static_host(&Query::query(name.clone(), *kind))?;
            Some(lookup.answers().iter().filter_map(|record| address(&record.data)).collect::<Vec<_>>())
        });
        listed.flatten().take(MAX_ADDRESSES).collect()
    }

    /// The whole names that a name in A-labels may stand for, in the order in which to try them.
    pub(super) fn names(&self, ascii: &str) -> Vec<String> {
        let itself = || std::iter::once(ascii.to_owned());
        // RFC 6761 §6.3: nobody is asked for it.
        if ascii == "localhost" || ascii.ends_with(".localhost") {
            return itself().collect();
        }
        let longer = self.domains.iter().map(|domain| format!("{ascii}.{domain}"));
        let longer = longer.filter(|name| name::is_host_name(name));
        let dots = ascii.bytes().filter(|octet| *octet == b'.').count();
        if dots >= self.ndots { itself().chain(longer).collect() } else { longer.chain(itself()).collect() }
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(ndots: usize) -> Search {
        Search {
            domains: vec!["ns.svc.cluster.local".to_owned(), "cluster.local".to_owned()],
            ndots,
            ..Search::default()
        }
    }

    #[test]
    fn a_short_name_is_completed_first_and_a_long_one_last() {
        let (longer, other) = ("smtp.mail.ns.svc.cluster.local", "smtp.mail.cluster.local");
        assert_eq!(search(5).names("smtp.mail"), [longer, other, "smtp.mail"]);
        assert_eq!(search(1).names("smtp.mail"), ["smtp.mail", longer, other]);
        assert_eq!(search(0).names("mailhog").first().map(String::as_str), Some("mailhog"));
        assert_eq!(Search::default().names("mailhog"), ["mailhog"]);
        for name in ["localhost", "x.localhost"] {
            assert_eq!(search(5).names(name), [name]);
        }
        let long = ["a"; 125].join(".");
        assert_eq!(search(5).names(&long), [long.as_str()], "a name that cannot exist is not asked for");
    }

    #[test]
    fn the_table_of_hosts_has_its_names_in_any_case_and_only_the_family_that_is_wanted() {
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf("127.0.0.7 MailHog other # x\n::7 mailhog\n".as_bytes()).unwrap();
        let search = Search { hosts: Arc::new(hosts), ..search(1) };
        let known = |name: &str, family| search.known(name, family);
        let (v4, v6): (IpAddr, IpAddr) = ("127.0.0.7".parse().unwrap(), "::7".parse().unwrap());
        assert_eq!(known("mailhog", Family::Any), [v6, v4]);
        assert_eq!(known("mailhog", Family::V4), [v4]);
        assert_eq!(known("other", Family::V6), Vec::<IpAddr>::new());
        assert_eq!(known("mailhog.cluster.local", Family::Any), Vec::<IpAddr>::new());
    }
}
