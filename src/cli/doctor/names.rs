//! Name servers, and our own name.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::report::{Check, Status};
use crate::config::Config;
use crate::dns::{self, Dns, Family, Fault, System};
use crate::relay::options::{Hosts, Route, TlsPolicy, Transport};

/// An answer that takes longer holds up every first delivery to a domain.
const SLOW: Duration = Duration::from_secs(1);
/// Addresses of ours whose names are looked at.
const MOST_ADDRESSES: usize = 4;

/// Whether each name server answers, by a question that can have any answer.
pub(super) async fn servers(config: Arc<Config>) -> Vec<Check> {
    let given = &config.dns.servers;
    let mut asked: JoinSet<(usize, Check)> = JoinSet::new();
    let one_by_one: Vec<Option<SocketAddr>> =
        if given.is_empty() { vec![None] } else { given.iter().copied().map(Some).collect() };
    for (number, server) in one_by_one.into_iter().enumerate() {
        let config = config.clone();
        asked.spawn(async move { (number, ask(&config, server).await) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(number, _)| *number);
    let mut checks: Vec<_> = answers.into_iter().map(|(_, check)| check).collect();
    if !config.dns.dnssec && config.relay.routes.iter().any(wants_dnssec) {
        let finding = "a route has tls = \"dane\", and answers are not validated".to_owned();
        checks.push(Check::fail("DNSSEC", finding, "set dns.dnssec = true"));
    }
    checks
}

async fn ask(config: &Config, server: Option<SocketAddr>) -> Check {
    let (what, servers) = match server {
        Some(server) => (format!("name server {server}"), vec![server]),
        None => ("name servers of the system".to_owned(), Vec::new()),
    };
    let dns = Dns::new(dns::Options { servers, ..config.dns.clone() });
    let began = Instant::now();
    let answer = dns.addresses(&config.submission.hostname, Family::Any).await;
    let took = began.elapsed();
    let validated = if config.dns.dnssec { ", validated" } else { "" };
    match answer {
        Err(Fault::Temporary(reason)) => {
            let advice = "name another in dns.servers, or see whether a firewall drops port 53";
            let check = Check::fail(what, reason, advice);
            if needs_names(config) { check } else { Check { status: Status::Warn, ..check } }
        }
        _ if took > SLOW => {
            let finding = format!("answered after {:.1} s{validated}", took.as_secs_f64());
            Check::warn(what, finding, "a nearer one makes deliveries quicker")
        }
        _ => Check::ok(what, format!("answered after {} ms{validated}", took.as_millis())),
    }
}

/// Whether anything works without.
fn needs_names(config: &Config) -> bool {
    let is_name = |host: &str| host.parse::<IpAddr>().is_err();
    let by_name = |route: &Route| match &route.transport {
        Transport::Smtp(smtp) => match &smtp.hosts {
            Hosts::Mx(_) => true,
            Hosts::Fixed { hosts, .. } => hosts.iter().any(|host| is_name(&host.name)),
        },
        Transport::Directory(_) | Transport::Discard => false,
    };
    config.submission.verify.mx || config.relay.routes.iter().any(by_name)
}

fn wants_dnssec(route: &Route) -> bool {
    matches!(&route.transport, Transport::Smtp(smtp) if smtp.tls == TlsPolicy::Dane)
}

/// Whether far sides that look our name up find what they want.
pub(super) async fn own(config: Arc<Config>) -> Vec<Check> {
    let what = "own name";
    // What the system's table of hosts says of us, nobody else sees.
    let system = System { hosts: "/dev/null".into(), ..config.dns.system.clone() };
    let dns = Dns::new(dns::Options { system, ..config.dns.clone() });
    let hostname = &config.submission.hostname;
    let is_mx = |route: &Route| matches!(&route.transport, Transport::Smtp(smtp) if matches!(smtp.hosts, Hosts::Mx(_)));
    let delivers = config.relay.routes.iter().any(is_mx);
    let advice =
        "set hostname to a name that the DNS has: it is what EHLO says, and some far sides look it up";
    let addresses = match dns.addresses(hostname, Family::Any).await {
        Ok(answer) => answer.found,
        Err(fault) => return vec![Check::warn(what, fault.to_string(), advice)],
    };
    let listed = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut checks = vec![Check::ok(what, format!("{hostname} is {listed}"))];
    // Only receivers of mail from strangers ask for it.
    if delivers {
        for address in addresses.into_iter().take(MOST_ADDRESSES) {
            checks.push(if is_seen(address) {
                reverse(&dns, hostname, address).await
            } else {
                let finding = format!("{address} is private, and far sides see another");
                Check::skip("reverse DNS", finding)
            });
        }
    }
    checks
}

/// Whether far sides can see a connection come from there.
fn is_seen(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !(address.is_private() || address.is_loopback() || address.is_link_local()),
        IpAddr::V6(address) => {
            !(address.is_unique_local() || address.is_loopback() || address.is_unicast_link_local())
        }
    }
}

async fn reverse(dns: &Dns, hostname: &str, address: IpAddr) -> Check {
    let what = format!("reverse DNS of {address}");
    let advice = format!(
        "have whoever gave you the address set its PTR record to {hostname}: many refuse mail without"
    );
    match dns.pointers(address).await {
        Ok(answer) if answer.found.iter().any(|name| name.eq_ignore_ascii_case(hostname)) => {
            Check::ok(what, hostname.to_owned())
        }
        Ok(answer) => {
            let names = answer.found.join(", ");
            Check::warn(what, if names.is_empty() { "no name of use".to_owned() } else { names }, &advice)
        }
        Err(fault) => Check::warn(what, fault.to_string(), &advice),
    }
}
