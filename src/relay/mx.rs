//! Which hosts to ask for a domain's mail, at which addresses, and when nobody may be asked.
//!
//! A refusal fails the recipients only where the domain itself says so; trouble with DNS makes them wait. We never send to
//! ourselves (RFC 5321 §5.1, §6.3), and not to addresses that only look public from inside a network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::time::Instant;

use super::options::{self, Host};
use super::security::Candidate;
use crate::dns::{Answer, Dns, Family, Fault, MailHost};
use crate::mail::address;
use crate::queue::End;

/// Looking for ourselves among the hosts of a domain goes on for this long.
const OWN_LOOK: Duration = Duration::from_secs(30);

/// What is ours.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    /// Our name in EHLO.
    pub(super) hostname: &'a str,
    /// Where our listeners are.
    pub(super) addresses: &'a [SocketAddr],
}

/// Nobody is to be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// `Deferred` or `Failed`.
    pub(super) end: End,
    /// It says something about the recipient's address itself (5.1.x).
    pub(super) hard_bounce: bool,
    /// Enhanced code and sentence.
    pub(super) text: String,
}

impl Refusal {
    fn failed(code: &str, sentence: &str) -> Self {
        Self { end: End::Failed, hard_bounce: code.starts_with("5.1."), text: format!("{code} {sentence}") }
    }

    fn deferred(code: &str, sentence: &str) -> Self {
        Self { end: End::Deferred, hard_bounce: false, text: format!("{code} {sentence}") }
    }
}

/// The hosts for a domain, in the order in which to try them, at least one. `domain` may be an address literal with its
/// brackets (RFC 5321 §4.1.3).
///
/// # Errors
/// There are none, they cannot be found out, or we are the best of them ourselves.
pub(super) async fn plan(
    dns: &Dns,
    mx: &options::Mx,
    own: &Own<'_>,
    domain: &str,
) -> Result<Vec<Candidate>, Refusal> {
    if let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address = address::literal(literal)
            .map_err(|_| Refusal::failed("5.1.3", &format!("{domain} is no address")))?;
        let host = Host { name: address.to_string(), port: mx.port };
        return Ok(vec![Candidate { host, secure: false }]);
    }
    let Answer { found, secure } = dns.mail_hosts(domain).await.map_err(about_domain)?;
    let best = found.first().map_or_else(String::new, |host| host.name.clone());
    let mut hosts = before_us(found, |host| host.name.eq_ignore_ascii_case(own.hostname));
    // The same by address, where we listen on the port that mail for the domain goes to.
    if own.addresses.iter().any(|listener| listener.port() == mx.port) {
        let (mut ours, began) = (Vec::new(), Instant::now());
        // Twenty hosts whose names nobody answers for must not hold up a connection for long; whom this leaves out is
        // looked at again before a connection is made.
        for host in hosts.iter().take_while(|_| began.elapsed() < OWN_LOOK) {
            let found = dns.addresses(&host.name, mx.family).await.map(|answer| answer.found);
            let at = found.unwrap_or_default().into_iter().map(|ip| SocketAddr::new(ip, mx.port));
            if at.into_iter().any(|address| is_ours(own, address)) {
                ours.push(host.name.clone());
            }
        }
        hosts = before_us(hosts, |host| ours.contains(&host.name));
    }
    if hosts.is_empty() {
        return Err(Refusal::failed(
            LOOP,
            &format!("mail for {domain} would come back to us: {best} is this relay"),
        ));
    }
    let port = mx.port;
    Ok(hosts
        .into_iter()
        .map(|MailHost { name, .. }| Candidate { host: Host { name, port }, secure })
        .collect())
}

/// The addresses of one candidate, in the order in which to try them, at least one. `mx` is none for a configured host.
///
/// # Errors
/// There are none, they cannot be found out, or they must not be used.
pub(super) async fn addresses(
    dns: &Dns,
    mx: Option<&options::Mx>,
    own: &Own<'_>,
    candidate: &Candidate,
) -> Result<Vec<SocketAddr>, Refusal> {
    let Host { name, port } = &candidate.host;
    let found = match name.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => {
            let found = match mx {
                Some(mx) => dns.addresses(name, mx.family).await,
                None => dns.configured_addresses(name, Family::Any).await,
            };
            found.map_err(|fault| about_host(mx, fault))?.found
        }
    };
    usable(mx, own, name, found.into_iter().map(|ip| SocketAddr::new(ip, *port)).collect())
}

/// RFC 3463 §3.5, routing loop detected.
const LOOP: &str = "5.4.6";

/// The hosts that are better than us: RFC 5321 §5.1 has us drop ourselves, and all of the same or a worse preference.
fn before_us(hosts: Vec<MailHost>, is_us: impl Fn(&MailHost) -> bool) -> Vec<MailHost> {
    match hosts.iter().filter(|host| is_us(host)).map(|host| host.preference).min() {
        Some(ours) => hosts.into_iter().filter(|host| host.preference < ours).collect(),
        None => hosts,
    }
}

fn about_domain(fault: Fault) -> Refusal {
    let sentence = fault.to_string();
    match fault {
        // RFC 3463 §3.2: bad destination system address.
        Fault::NoSuchDomain(_) => Refusal::failed("5.1.2", &sentence),
        // RFC 7505 §4.2.
        Fault::NullMx(_) => Refusal::failed("5.1.10", &sentence),
        // RFC 3463 §3.5, unable to route: its own example is a name for which DNS has only an SOA. The address is not at
        // fault, and the domain may get its records back: no hard bounce.
        Fault::NoRecords(_) => Refusal::failed("5.4.4", &sentence),
        // RFC 3463 §3.5, directory server failure.
        Fault::Temporary(_) => Refusal::deferred("4.4.3", &sentence),
    }
}

fn about_host(mx: Option<&options::Mx>, fault: Fault) -> Refusal {
    let sentence = fault.to_string();
    match (mx, fault) {
        // R2: a configured host that cannot be found is our mistake, or its provider's.
        (None, _) | (_, Fault::Temporary(_)) => Refusal::deferred("4.4.3", &sentence),
        // R2: it may have an address that the route does not use.
        (Some(options::Mx { family: Family::V4 | Family::V6, .. }), Fault::NoRecords(_)) => {
            Refusal::deferred("4.4.4", &format!("{sentence}, and the route uses no others"))
        }
        // The domain exists; one of its hosts does not.
        (Some(_), _) => Refusal::failed("5.4.4", &sentence),
    }
}

fn usable(
    mx: Option<&options::Mx>,
    own: &Own<'_>,
    name: &str,
    addresses: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, Refusal> {
    if let Some(ours) = addresses.iter().find(|address| is_ours(own, **address)) {
        let sentence = format!("{name} would be a loop: {ours} is a listener of this relay");
        // R2: a route to ourselves is our mistake.
        return Err(match mx {
            Some(_) => Refusal::failed(LOOP, &sentence),
            None => Refusal::deferred("4.4.6", &sentence),
        });
    }
    let Some(options::Mx { allow_private: false, .. }) = mx else { return Ok(addresses) };
    let (mut usable, mut refused) = (Vec::new(), Vec::new());
    for address in addresses {
        match reserved(address.ip()) {
            None => usable.push(address),
            Some(reserved) => refused.push((address.ip(), reserved)),
        }
    }
    if !usable.is_empty() {
        return Ok(usable);
    }
    // R2: a private address is right for someone; it may well be us who look from the wrong place, or without
    // `allow_private`. Nobody's mail host is 127.0.0.1.
    let private = refused.iter().find(|(_, reserved)| *reserved == Reserved::Private);
    Err(match (private, refused.first()) {
        (Some((address, _)), _) => Refusal::deferred(
            "4.4.4",
            &format!("{name} has the private address {address}, and the route does not allow private ones"),
        ),
        (None, Some((address, _))) => {
            Refusal::failed("5.4.4", &format!("{name} has the address {address}, where no mail host can be"))
        }
        (None, None) => Refusal::deferred("4.4.4", &format!("{name} has no address")),
    })
}

/// Whether a connection to `address` would reach one of our listeners.
fn is_ours(own: &Own<'_>, address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    own.addresses.iter().filter(|listener| listener.port() == address.port()).any(|listener| {
        let at = listener.ip().to_canonical();
        at == ip || (at.is_unspecified() && is_local(ip))
    })
}

/// Whether an address is this machine's: only then can a socket have it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Why an address is not one to send to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reserved {
    /// Of use inside somebody's network: RFC 1918, RFC 4193, RFC 6598.
    Private,
    /// Of use to nobody else: loopback, link-local, multicast, documentation and the like (RFC 6890).
    Never,
}

fn reserved(ip: IpAddr) -> Option<Reserved> {
    match ip {
        IpAddr::V4(v4) => reserved_v4(v4),
        IpAddr::V6(v6) => reserved_v6(v6),
    }
}

fn reserved_v4(ip: Ipv4Addr) -> Option<Reserved> {
    let [a, b, c, _] = ip.octets();
    match (a, b, c) {
        _ if ip.is_private() => Some(Reserved::Private),
        // RFC 6598, between a provider and its customers.
        (100, 64..=127, _) => Some(Reserved::Private),
        // "This network", loopback, link-local; multicast, reserved and broadcast.
        (0 | 127 | 224..=255, _, _) | (169, 254, _) => Some(Reserved::Never),
        // RFC 6890: protocol assignments, documentation, benchmarks.
        (192, 0, 0 | 2) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => Some(Reserved::Never),
        _ => None,
    }
}

fn reserved_v6(ip: Ipv6Addr) -> Option<Reserved> {
    if let Some(v4) = embedded_v4(ip) {
        return reserved_v4(v4);
    }
    match ip.segments() {
        [0xfc00..=0xfdff, ..] => Some(Reserved::Private),
        // Unspecified, loopback and what else is below ::/16 but NAT64; link-local, site-local, multicast; discard,
        // documentation (RFC 3849, RFC 9637), Teredo.
        [0 | 0xfe80..=0xfeff | 0xff00..=0xffff, ..]
        | [0x100, 0, 0, 0, ..]
        | [0x2001, 0 | 0xdb8, ..]
        | [0x3fff, 0..=0xfff, ..] => Some(Reserved::Never),
        _ => None,
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291 §2.5.5.2), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mx(allow_private: bool) -> options::Mx {
        options::Mx { port: 25, allow_private, mta_sts: false, mta_sts_port: 443, family: Family::Any }
    }

    fn own(addresses: &[SocketAddr]) -> Own<'_> {
        Own { hostname: "relay.example", addresses }
    }

    fn at(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn host(preference: u16, name: &str) -> MailHost {
        MailHost { preference, name: name.to_owned() }
    }

    /// Asks nobody in these tests.
    fn dns() -> Dns {
        Dns::new(crate::dns::Options::default())
    }

    #[tokio::test]
    async fn an_address_literal_is_its_own_host() {
        for (domain, name) in
            [("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:DB8::1]", "2001:db8::1"), ("[ipv6:::1]", "::1")]
        {
            let planned = plan(&dns(), &mx(true), &own(&[]), domain).await.unwrap();
            let host = Host { name: name.into(), port: 25 };
            assert_eq!(planned, [Candidate { host, secure: false }]);
            let found = addresses(&dns(), Some(&mx(true)), &own(&[]), &planned[0]).await.unwrap();
            assert_eq!(found, [SocketAddr::new(name.parse().unwrap(), 25)]);
        }
        let refusal = plan(&dns(), &mx(true), &own(&[]), "[nonsense]").await.unwrap_err();
        assert_eq!((refusal.end, refusal.text.as_str()), (End::Failed, "5.1.3 [nonsense] is no address"));
    }

    #[test]
    fn we_and_everyone_behind_us_are_dropped() {
        let hosts = vec![host(5, "a"), host(10, "b"), host(10, "us"), host(20, "c")];
        assert_eq!(before_us(hosts.clone(), |host| host.name == "us"), [host(5, "a")]);
        assert_eq!(before_us(hosts.clone(), |_| false), hosts);
        assert_eq!(before_us(hosts, |host| host.name != "c"), []);
    }

    #[test]
    fn r2_only_what_the_domain_says_fails_mail() {
        let name = || "x.example".to_owned();
        for (fault, end, hard_bounce, code) in [
            (Fault::NoSuchDomain(name()), End::Failed, true, "5.1.2 "),
            (Fault::NullMx(name()), End::Failed, true, "5.1.10 "),
            (Fault::NoRecords(name()), End::Failed, false, "5.4.4 "),
            (Fault::Temporary(name()), End::Deferred, false, "4.4.3 "),
        ] {
            let refusal = about_domain(fault.clone());
            assert_eq!((refusal.end, refusal.hard_bounce), (end, hard_bounce), "{fault:?}");
            assert!(refusal.text.starts_with(code) && refusal.text.contains("x.example"), "{refusal:?}");
            assert_eq!(about_host(None, fault).end, End::Deferred);
        }
        assert_eq!(about_host(Some(&mx(false)), Fault::NoSuchDomain(name())).end, End::Failed);
        assert!(!about_host(Some(&mx(false)), Fault::NoSuchDomain(name())).hard_bounce);
        assert_eq!(about_host(Some(&mx(false)), Fault::Temporary(name())).end, End::Deferred);
        assert_eq!(about_host(Some(&mx(false)), Fault::NoRecords(name())).end, End::Failed);
        for family in [Family::V4, Family::V6] {
            let half = options::Mx { family, ..mx(false) };
            assert_eq!(about_host(Some(&half), Fault::NoRecords(name())).end, End::Deferred);
            assert_eq!(about_host(Some(&half), Fault::NoSuchDomain(name())).end, End::Failed);
        }
    }

    #[test]
    fn addresses_that_are_not_public_are_refused_unless_allowed() {
        let list =
            |text: &str| text.split_whitespace().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let private = list(
            "10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.127.0.1 fd00::1 fc00::1 ::ffff:10.0.0.1 64:ff9b::10.0.0.1 2002:a00:1::1",
        );
        let never = list(
            "127.0.0.1 127.9.9.9 0.0.0.0 0.1.2.3 169.254.1.1 224.0.0.1 239.1.1.1 255.255.255.255 240.0.0.1 192.0.2.1 198.51.100.7 203.0.113.9 198.18.0.1 192.0.0.1 :: ::1 ::1.2.3.4 fe80::1 fec0::1 ff02::1 2001:db8::1 3fff::1 100::1 2001::1 ::ffff:127.0.0.1 64:ff9b::127.0.0.1 2002:7f00:1::1",
        );
        let public = list(
            "8.8.8.8 100.63.0.1 100.128.0.1 172.32.0.1 192.0.1.1 198.20.0.1 223.255.255.255 2a00:1450::1 2001:4860::1 2002:808:808::1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8",
        );
        for (addresses, expected) in
            [(private, Some(Reserved::Private)), (never, Some(Reserved::Never)), (public, None)]
        {
            for ip in addresses {
                assert_eq!(reserved(ip), expected, "{ip}");
            }
        }
        let mixed = || at(&["127.0.0.1:25", "8.8.8.8:25", "10.0.0.1:25"]);
        let usable = |allow, addresses| usable(Some(&mx(allow)), &own(&[]), "mx.x.example", addresses);
        assert_eq!(usable(false, mixed()), Ok(at(&["8.8.8.8:25"])));
        assert_eq!(usable(true, mixed()), Ok(mixed()));
        let refusal = usable(false, at(&["127.0.0.1:25"])).unwrap_err();
        assert_eq!(refusal.end, End::Failed);
        assert_eq!(refusal.text, "5.4.4 mx.x.example has the address 127.0.0.1, where no mail host can be");
        // R2: perhaps it is us who see the wrong side of a split horizon.
        let refusal = usable(false, at(&["127.0.0.1:25", "10.0.0.1:25"])).unwrap_err();
        assert_eq!((refusal.end, refusal.hard_bounce), (End::Deferred, false));
        assert!(refusal.text.starts_with("4.4.4 ") && refusal.text.contains("10.0.0.1"), "{refusal:?}");
    }

    #[tokio::test]
    async fn a_configured_host_may_be_private() {
        let candidate = Candidate { host: Host { name: "127.0.0.1".into(), port: 25 }, secure: true };
        assert_eq!(addresses(&dns(), None, &own(&[]), &candidate).await, Ok(at(&["127.0.0.1:25"])));
    }

    #[test]
    fn r2_a_loop_to_our_listeners_is_seen_and_only_a_domains_own_fails_mail() {
        let listeners = at(&["0.0.0.0:25", "192.0.2.9:587", "[::]:2525", "[::1]:99"]);
        let own = own(&listeners);
        for (address, ours) in [
            ("127.0.0.1:25", true),
            ("[::1]:25", true),
            ("0.0.0.0:25", true),
            ("[::ffff:127.0.0.1]:25", true),
            ("8.8.8.8:25", false),
            ("192.0.2.9:587", true),
            ("192.0.2.9:25", false),
            ("127.0.0.1:587", false),
            ("127.0.0.1:2525", true),
            ("127.0.0.1:99", false),
        ] {
            assert_eq!(is_ours(&own, address.parse().unwrap()), ours, "{address}");
            if ours {
                let found = at(&["8.8.8.8:25", address]);
                let refusal = usable(Some(&mx(true)), &own, "mx.x.example", found.clone()).unwrap_err();
                assert_eq!(refusal.end, End::Failed);
                assert!(refusal.text.starts_with("5.4.6 mx.x.example would be a loop"), "{refusal:?}");
                let refusal = usable(None, &own, "mx.x.example", found).unwrap_err();
                assert_eq!(refusal.end, End::Deferred);
                assert!(refusal.text.starts_with("4.4.6 mx.x.example would be a loop"), "{refusal:?}");
            }
        }
    }
}
