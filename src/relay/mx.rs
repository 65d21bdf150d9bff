//! The hosts of a recipient's domain (RFC 5321 §5.1), and the addresses of a host.
//!
//! A domain that takes no mail fails it; a lookup that went wrong makes it wait. The two are never mixed up.

use std::net::SocketAddr;

use super::options::{self, Host};
use super::security::Candidate;
use crate::dns::{Dns, Family, Fault};
use crate::mail::address;
use crate::queue::End;

/// What would be a loop.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    /// Our name.
    pub hostname: &'a str,
    /// Our listeners.
    pub addresses: &'a [SocketAddr],
}

/// Why nobody can be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// Deferred or failed.
    pub end: End,
    /// The domain itself is why.
    pub hard_bounce: bool,
    /// A sentence, with its enhanced code.
    pub text: String,
}

/// The hosts to ask for mail to `domain`, best first.
///
/// # Errors
/// There are none, or they cannot be found out.
pub(super) async fn plan(
    dns: &Dns,
    mx: &options::Mx,
    own: &Own<'_>,
    domain: &str,
) -> Result<Vec<Candidate>, Refusal> {
    if let Some(inner) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let found = address::literal(inner);
        let address = found.map_err(|error| failed(format!("5.1.3 {domain}: {error}")))?;
        return Ok(vec![Candidate {
            host: Host { name: address.to_string(), port: mx.port },
            secure: false,
        }]);
    }
    let hosts = dns.mail_hosts(domain).await.map_err(refusal)?;
    let ours = hosts.found.iter().find(|host| host.name.eq_ignore_ascii_case(own.hostname));
    let limit = ours.map(|host| host.preference);
    let candidates: Vec<_> = hosts
        .found
        .iter()
        .filter(|host| limit.is_none_or(|limit| host.preference < limit))
        .map(|host| Candidate { host: Host { name: host.name.clone(), port: mx.port }, secure: hosts.secure })
        .collect();
    if candidates.is_empty() {
        return Err(failed(format!("5.4.6 mail for {domain} would come back to us")));
    }
    Ok(candidates)
}

/// The addresses of a host, in the order in which to try them.
///
/// # Errors
/// There are none that may be used.
pub(super) async fn addresses(
    dns: &Dns,
    mx: Option<&options::Mx>,
    own: &Own<'_>,
    candidate: &Candidate,
) -> Result<Vec<SocketAddr>, Refusal> {
    let Host { name, port } = &candidate.host;
    let family = mx.map_or(Family::Any, |mx| mx.family);
    let found = match name.parse() {
        Ok(address) => vec![address],
        Err(_) => dns.addresses(name, family).await.map_err(refusal)?.found,
    };
    let usable: Vec<_> = found
        .into_iter()
        .map(|address| SocketAddr::new(address, *port))
        .filter(|address| !own.addresses.contains(address))
        .collect();
    if usable.is_empty() {
        let end = if mx.is_some() { End::Failed } else { End::Deferred };
        return Err(Refusal { end, ..failed(format!("5.4.6 {name} is this relay itself")) });
    }
    Ok(usable)
}

fn failed(text: String) -> Refusal {
    Refusal { end: End::Failed, hard_bounce: false, text }
}

fn refusal(fault: Fault) -> Refusal {
    match fault {
        Fault::NoSuchDomain(_) => Refusal { hard_bounce: true, ..failed(format!("5.1.2 {fault}")) },
        Fault::NullMx(_) => Refusal { hard_bounce: true, ..failed(format!("5.1.10 {fault}")) },
        Fault::NoRecords(_) => failed(format!("5.4.4 {fault}")),
        Fault::Temporary(_) => {
            Refusal { end: End::Deferred, hard_bounce: false, text: format!("4.4.3 {fault}") }
        }
    }
}
