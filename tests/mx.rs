//! What DNS means for mail: which hosts take it, at which addresses, and that trouble with DNS never fails mail.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::proto::rr::RecordType;
use oncemail::dns::{Dns, Family, Fault, Options};
use oncemail::relay::options::{Breaker, Host, Hosts};
use tokio::time::Instant;

use crate::common::dns_server::{DnsServer, Lie};
use crate::common::far_side::FarSide;
use crate::common::relay_rig::{Rig, changed, queue_options, replies};

fn names(hosts: &oncemail::dns::Answer<Vec<oncemail::dns::MailHost>>) -> Vec<String> {
    hosts.found.iter().map(|host| host.name.clone()).collect()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn mail_hosts_come_best_first_and_at_random_within_a_preference() {
    let server = DnsServer::new()
        .mx("x.example", 20, "last.x.example")
        .mx("x.example", 5, "first.x.example")
        .mx("x.example", 10, "a.x.example")
        .mx("x.example", 10, "b.x.example")
        .mx("x.example", 7, ".")
        .mx("x.example", 1, "192.0.2.1")
        .start()
        .await;
    let dns = server.dns();
    let mut orders = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let hosts = dns.mail_hosts("X.Example").await.unwrap();
        assert!(!hosts.secure);
        let names = names(&hosts);
        assert_eq!(
            (names.len(), names[0].as_str(), names[3].as_str()),
            (4, "first.x.example", "last.x.example")
        );
        orders.insert(names);
    }
    assert_eq!(orders.len(), 2);
}

#[tokio::test]
async fn a_domain_without_mx_is_its_own_host_and_only_when_that_is_known() {
    let server = DnsServer::new()
        .a("host.example", "192.0.2.1")
        .aaaa("six.example", "2001:db8::1")
        .txt("nothing.example", &["x"])
        .mx("null.example", 0, ".")
        .mx("odd.example", 0, "192.0.2.1")
        .cname("alias.example", "host.example")
        .cname("mailalias.example", "mail.example")
        .mx("mail.example", 10, "mx.example")
        .start()
        .await;
    let dns = server.dns();
    for (domain, host) in [
        ("host.example", "host.example"),
        ("six.example", "six.example"),
        ("alias.example", "alias.example"),
        ("mailalias.example", "mx.example"),
    ] {
        assert_eq!(names(&dns.mail_hosts(domain).await.unwrap()), [host]);
    }
    let fault = |text: &str| Fault::NoRecords(text.to_owned());
    for (domain, expected) in [
        ("nothing.example", fault("nothing.example has neither an MX record nor an address")),
        ("odd.example", fault("the MX records of odd.example name no host that could exist")),
        ("null.example", Fault::NullMx("null.example".into())),
        ("gone.example", Fault::NoSuchDomain("gone.example".into())),
        ("a..b", Fault::NoSuchDomain("a..b".into())),
    ] {
        assert_eq!(dns.mail_hosts(domain).await.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn r2_an_outage_of_dns_only_makes_mail_wait() {
    let far = FarSide::new().start().await;
    let mut server = DnsServer::new().a("smtp.x.example", "127.0.0.1").start().await;
    server.stop().await;
    let mut options = changed(&[], |smarthost| {
        smarthost.hosts =
            Hosts::in_order(vec![Host { name: "smtp.x.example".into(), port: far.address.port() }]);
    });
    options.breaker = Breaker { failures: u32::MAX, ..options.breaker };
    let rig = Rig::start_with_dns(options, queue_options(), server.dns());
    let mut waiting = Vec::new();
    for number in 0..10 {
        waiting.push(rig.send(&["b@x.example"], &format!("message {number}.")).await);
    }
    for id in &waiting {
        let progress = rig.store.saved(*id, 1).await;
        assert!(progress.is_queued());
        let reply = &replies(&progress)[0];
        assert!(reply.contains("smtp.x.example cannot be looked up"), "{reply}");
    }
    server.start_again().await;
    let log = far.wait(|log| log.taken.len() == waiting.len()).await;
    for number in 0..10 {
        assert_eq!(log.copies(&format!("message {number}.")), 1);
    }
}

/// Hostile and broken servers: each ends as a fault that may pass, in bounded time, with a sentence that names the cause.
#[tokio::test]
async fn r2_trouble_with_dns_is_never_read_as_absence() {
    let server =
        DnsServer::new().mx("x.example", 10, "mx.x.example").a("x.example", "192.0.2.1").start().await;
    let dns = server.dns();
    for (lie, cause) in [
        (Lie::ServFail, "Server Failure"),
        (Lie::Silence, "no answer"),
        (Lie::Garbage, "makes no sense"),
        (Lie::WrongSize, "makes no sense"),
        (Lie::WrongSizeOverTcp, "no answer"),
        (Lie::Truncated, "larger than DNS can carry"),
        (Lie::OtherQuestion, "nothing to do with the question"),
    ] {
        server.lie("x.example", lie);
        let start = Instant::now();
        for fault in [
            dns.mail_hosts("x.example").await.unwrap_err(),
            dns.addresses("x.example", Family::Any).await.unwrap_err(),
        ] {
            let Fault::Temporary(sentence) = fault else { panic!("{lie:?}: {fault:?}") };
            assert!(sentence.contains("x.example") && sentence.contains(cause), "{lie:?}: {sentence}");
            assert!(sentence.contains(&server.address.to_string()), "{lie:?}: {sentence}");
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{lie:?}: {:?}", start.elapsed());
    }
    server.lie("x.example", Lie::NxDomain);
    assert_eq!(dns.mail_hosts("x.example").await.unwrap_err(), Fault::NoSuchDomain("x.example".into()));
    server.tell_the_truth();
    assert_eq!(names(&dns.mail_hosts("x.example").await.unwrap()), ["mx.x.example"]);
}

#[tokio::test]
async fn records_of_other_names_are_never_used() {
    let server =
        DnsServer::new().mx("x.example", 10, "mx.x.example").a("x.example", "192.0.2.1").start().await;
    server.lie("x.example", Lie::OtherRecords);
    let dns = server.dns();
    assert!(dns.mail_hosts("x.example").await.is_err());
    assert!(dns.addresses("x.example", Family::Any).await.is_err());
}

#[tokio::test]
async fn r2_a_circle_of_cnames_ends_as_trouble_in_bounded_time() {
    let mut builder = DnsServer::new().cname("a.example", "b.example").cname("b.example", "a.example");
    builder = builder.cname("self.example", "self.example");
    for link in 0..40 {
        builder = builder.cname(&format!("l{link}.example"), &format!("l{}.example", link + 1));
    }
    let server = builder.a("l40.example", "192.0.2.1").start().await;
    let dns = server.dns();
    for domain in ["a.example", "self.example", "l0.example"] {
        let start = Instant::now();
        for fault in [
            dns.mail_hosts(domain).await.map(|_| ()).unwrap_err(),
            dns.addresses(domain, Family::Any).await.map(|_| ()).unwrap_err(),
        ] {
            assert!(
                matches!(&fault, Fault::Temporary(text) if text.contains("CNAME")),
                "{domain}: {fault:?}"
            );
        }
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(dns.addresses("l36.example", Family::Any).await.unwrap().found, ips(&["192.0.2.1"]));
}

#[tokio::test]
async fn s2_of_thousands_of_mail_hosts_the_best_are_kept() {
    let server = DnsServer::new().start().await;
    server.lie("many.example", Lie::ManyMx(2900));
    server.lie("toomany.example", Lie::ManyMx(10_000));
    let dns = server.dns();
    let hosts = dns.mail_hosts("many.example").await.unwrap();
    let expected: Vec<_> = (0..20).map(|number| format!("m{number}.many.example")).collect();
    assert_eq!(names(&hosts), expected);
    // A message of DNS has at most 65,535 octets; 10,000 names do not fit, and what is cut off is not believed.
    let fault = dns.mail_hosts("toomany.example").await.unwrap_err();
    assert!(matches!(&fault, Fault::Temporary(text) if text.contains("no answer in time")), "{fault:?}");
}

#[tokio::test]
async fn large_answers_are_fetched_over_tcp() {
    let server = DnsServer::new().mx("x.example", 10, "mx.x.example").start().await;
    server.lie("x.example", Lie::TruncatedOverUdp);
    assert_eq!(names(&server.dns().mail_hosts("x.example").await.unwrap()), ["mx.x.example"]);
    assert_eq!(server.asked("x.example", RecordType::MX), 2);
}

#[tokio::test]
async fn addresses_take_turns_by_family_and_are_at_most_eight() {
    let mut builder = DnsServer::new().a("four.example", "192.0.2.1").aaaa("six.example", "2001:db8::1");
    for number in 1..=9 {
        builder = builder
            .a("both.example", &format!("192.0.2.{number}"))
            .aaaa("both.example", &format!("2001:db8::{number}"));
    }
    let server = builder.start().await;
    let dns = server.dns();
    let both = dns.addresses("both.example", Family::Any).await.unwrap().found;
    assert_eq!(both.len(), 8);
    assert!(both.iter().enumerate().all(|(place, ip)| ip.is_ipv6() == (place % 2 == 0)), "{both:?}");
    assert!(dns.addresses("both.example", Family::V4).await.unwrap().found.iter().all(IpAddr::is_ipv4));
    assert_eq!(dns.addresses("four.example", Family::Any).await.unwrap().found, ips(&["192.0.2.1"]));
    assert_eq!(
        dns.addresses("four.example", Family::V6).await.unwrap_err(),
        Fault::NoRecords("four.example has no IPv6 address".into())
    );
    assert_eq!(dns.addresses("192.0.2.7", Family::Any).await.unwrap().found, ips(&["192.0.2.7"]));
    // One family's trouble does not keep the other back.
    assert_eq!(dns.addresses("six.example", Family::V6).await.unwrap().found, ips(&["2001:db8::1"]));
}

#[tokio::test]
async fn domains_beyond_ascii_are_asked_for_as_a_labels() {
    let server = DnsServer::new().mx("xn--bcher-kva.example", 10, "mx.xn--bcher-kva.example").start().await;
    let hosts = server.dns().mail_hosts("BÜCHER.example").await.unwrap();
    assert_eq!(names(&hosts), ["mx.xn--bcher-kva.example"]);
}

#[tokio::test]
async fn answers_are_kept_for_their_time_and_trouble_is_not() {
    let server = DnsServer::new()
        .mx("zero.example", 10, "mx.example")
        .ttl(3600)
        .mx("hour.example", 10, "mx.example")
        .start()
        .await;
    let dns = server.dns();
    for domain in ["zero.example", "hour.example"] {
        server.lie(domain, Lie::ServFail);
        assert!(dns.mail_hosts(domain).await.is_err());
        server.tell_the_truth();
        let before = server.asked(domain, RecordType::MX);
        for _ in 0..3 {
            assert_eq!(names(&dns.mail_hosts(domain).await.unwrap()), ["mx.example"]);
        }
        let asked = server.asked(domain, RecordType::MX) - before;
        assert_eq!(asked, if domain == "zero.example" { 3 } else { 1 });
    }
}

#[tokio::test]
async fn txt_records_are_joined_and_absence_is_told_apart() {
    let server = DnsServer::new()
        .txt("_mta-sts.x.example", &["v=STSv1; ", "id=1;"])
        .a("bare.example", "192.0.2.1")
        .start()
        .await;
    let dns = server.dns();
    assert_eq!(dns.txt("_mta-sts.x.example").await.unwrap().found, ["v=STSv1; id=1;"]);
    assert_eq!(
        dns.txt("bare.example").await.unwrap_err(),
        Fault::NoRecords("bare.example has no TXT record".into())
    );
    assert!(matches!(dns.txt("gone.example").await.unwrap_err(), Fault::NoSuchDomain(_)));
}

#[tokio::test]
async fn dnssec_vouches_for_signed_answers_only_and_forged_ones_are_trouble() {
    let server = DnsServer::new()
        .signed()
        .mx("x.example", 10, "mx.x.example")
        .a("mx.x.example", "192.0.2.1")
        .cname("alias.example", "mx.x.example")
        .tlsa("_25._tcp.mx.x.example", 3, 1, 1, &[7; 32])
        .a("implicit.example", "192.0.2.3")
        .plain_zone("plain.example")
        .mx("plain.example", 10, "mx.plain.example")
        .a("mx.plain.example", "192.0.2.2")
        .start()
        .await;
    let dns = server.dns();
    assert!(dns.mail_hosts("x.example").await.unwrap().secure);
    assert!(dns.mail_hosts("implicit.example").await.unwrap().secure);
    assert!(dns.addresses("mx.x.example", Family::Any).await.unwrap().secure);
    assert!(dns.addresses("alias.example", Family::Any).await.unwrap().secure);
    let tlsa = dns.tlsa("mx.x.example", 25).await.unwrap();
    assert!(tlsa.secure);
    let found = &tlsa.found[0];
    assert_eq!((found.usage, found.selector, found.matching), (3, 1, 1));
    assert_eq!(found.association, [7; 32]);
    assert!(!dns.mail_hosts("plain.example").await.unwrap().secure);
    assert!(!dns.addresses("mx.plain.example", Family::Any).await.unwrap().secure);
    assert!(matches!(dns.tlsa("mx.plain.example", 25).await.unwrap_err(), Fault::NoSuchDomain(_)));
    assert!(matches!(dns.mail_hosts("gone.example").await.unwrap_err(), Fault::NoSuchDomain(_)));
    assert!(matches!(dns.txt("mx.x.example").await.unwrap_err(), Fault::NoRecords(_)));
    for lie in [Lie::Forged, Lie::Unsigned, Lie::NxDomain] {
        for name in ["x.example", "mx.x.example", "_25._tcp.mx.x.example"] {
            server.lie(name, lie);
        }
        for fault in [
            dns.mail_hosts("x.example").await.map(|_| ()).unwrap_err(),
            dns.addresses("mx.x.example", Family::Any).await.map(|_| ()).unwrap_err(),
            dns.tlsa("mx.x.example", 25).await.map(|_| ()).unwrap_err(),
        ] {
            assert!(
                matches!(&fault, Fault::Temporary(text) if text.contains("DNSSEC")),
                "{lie:?}: {fault:?}"
            );
        }
        server.tell_the_truth();
    }
    // Where nothing is validated, nothing is vouched for.
    let unvalidated = Dns::new(Options { dnssec: false, ..server.options() });
    assert!(!unvalidated.mail_hosts("x.example").await.unwrap().secure);
}

/// What Kubernetes writes into a container.
const CLUSTER: &str = "search ns.svc.cluster.local svc.cluster.local\noptions ndots:5";

#[tokio::test]
async fn a_host_that_an_operator_has_named_is_found_as_the_system_finds_it_and_no_other_name_is() {
    let server = DnsServer::new()
        .a("smtp.mail.svc.cluster.local", "192.0.2.1")
        .mx("smtp.mail.svc.cluster.local", 10, "smtp.mail.svc.cluster.local")
        .a("mailhog.ns.svc.cluster.local", "192.0.2.2")
        .a("smtp.whole.example", "192.0.2.3")
        .a("listed.ns.svc.cluster.local", "192.0.2.4")
        .start()
        .await;
    let hosts = "127.0.0.7 listed\n::7 listed\n";
    let system = Dns::new(server.system(CLUSTER, hosts));
    let found =
        async |dns: &Dns, name: &str| dns.configured_addresses(name, Family::Any).await.map(|a| a.found);
    for (name, addresses) in [
        ("smtp.mail", ["192.0.2.1"].as_slice()),
        ("MailHog", &["192.0.2.2"]),
        ("smtp.whole.example", &["192.0.2.3"]),
        ("smtp.whole.example.", &["192.0.2.3"]),
        ("listed", &["::7", "127.0.0.7"]),
        ("192.0.2.9", &["192.0.2.9"]),
    ] {
        assert_eq!(found(&system, name).await, Ok(ips(addresses)), "{name}");
    }
    assert!(found(&system, "localhost").await.unwrap().iter().all(IpAddr::is_loopback));
    let missing = |name: &str| Fault::NoSuchDomain(name.to_owned());
    assert_eq!(found(&system, "smtp.mail.").await, Err(missing("smtp.mail")));
    assert_eq!(found(&system, "nobody").await, Err(missing("nobody")));
    // What comes from a recipient's domain is a whole name.
    for name in ["smtp.mail", "mailhog"] {
        assert_eq!(system.addresses(name, Family::Any).await, Err(missing(name)));
        assert_eq!(system.mail_hosts(name).await, Err(missing(name)));
    }
    // Whoever says whom to ask, says it all; the table of hosts still counts.
    let own = dns_with_hosts(&server, hosts);
    assert_eq!(found(&own, "smtp.mail").await, Err(missing("smtp.mail")));
    assert_eq!(found(&own, "listed").await, Ok(ips(&["::7", "127.0.0.7"])));
}

fn dns_with_hosts(server: &DnsServer, hosts: &str) -> Dns {
    Dns::new(Options { servers: vec![server.address], ..server.system("", hosts) })
}

#[tokio::test]
async fn r2_trouble_with_one_search_domain_neither_hides_the_others_nor_counts_as_absence() {
    let server = DnsServer::new().a("smtp.svc.cluster.local", "192.0.2.1").start().await;
    let dns = Dns::new(server.system(CLUSTER, ""));
    server.lie("smtp.ns.svc.cluster.local", Lie::ServFail);
    server.lie("other.ns.svc.cluster.local", Lie::ServFail);
    assert_eq!(dns.configured_addresses("smtp", Family::Any).await.unwrap().found, ips(&["192.0.2.1"]));
    let fault = dns.configured_addresses("other", Family::Any).await.unwrap_err();
    assert!(
        matches!(&fault, Fault::Temporary(text) if text.contains("other.ns.svc.cluster.local")),
        "{fault:?}"
    );
}

#[tokio::test]
async fn a_smarthost_in_a_container_network_is_found_by_its_short_name() {
    let far = FarSide::new().start().await;
    let server = DnsServer::new().a("smtp.mail.svc.cluster.local", "127.0.0.1").start().await;
    let options = changed(&[], |smarthost| {
        smarthost.hosts = Hosts::in_order(vec![Host { name: "smtp.mail".into(), port: far.address.port() }]);
    });
    let dns = Arc::new(Dns::new(server.system(CLUSTER, "")));
    let rig = Rig::start_with_dns(options, queue_options(), dns);
    let id = rig.send(&["b@x.example"], "hello").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.is_finished() && far.log().copies("hello") == 1, "{progress:?}");
}

#[tokio::test]
async fn s2_a_flood_of_domains_with_one_host_asks_for_it_once() {
    let mut builder = DnsServer::new().ttl(3600).a("mx.example", "192.0.2.1");
    for number in 0..1000 {
        builder = builder.mx(&format!("d{number}.example"), 10, "mx.example");
    }
    let server = builder.start().await;
    // It is this process, in which a thousand tasks run, that answers.
    let dns = Arc::new(Dns::new(Options { timeout: Duration::from_secs(5), ..server.options() }));
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let dns = dns.clone();
        asking.spawn(async move {
            let hosts = dns.mail_hosts(&format!("d{number}.example")).await.unwrap();
            dns.addresses(&hosts.found[0].name, Family::V4).await.unwrap().found
        });
    }
    while let Some(found) = asking.join_next().await {
        assert_eq!(found.unwrap(), ips(&["192.0.2.1"]));
    }
    assert_eq!(server.asked("mx.example", RecordType::A), 1);
    assert_eq!(server.asked("d7.example", RecordType::MX), 1);
}
