//! What the relay shows of its destinations is what an attempt would meet, and a reset is felt at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use oncemail::mail::Address;
use oncemail::queue::Routes;
use oncemail::relay::options::{Breaker, Hosts, Mx, Route, Smtp, TlsPolicy, Transport};
use oncemail::relay::views::{Asked, Phase, Reset};

use crate::common::dns_server::DnsServer;
use crate::common::eventually::eventually_so;
use crate::common::far_side::{FarSide, say};
use crate::common::relay_rig::{
    Rig, changed, directory, mail_hosts, patient, queue_options, relay_options, route, smarthost, to,
};

fn asked(to: &str) -> Asked {
    Asked { to: Address::parse(to).unwrap(), sender_domain: None, user: None, listener: None }
}

/// A breaker that opens at the first failure, and stays open for as long as a test runs.
fn touchy() -> Breaker {
    Breaker { failures: 1, open_for: Duration::from_secs(3600), ..Breaker::default() }
}

#[tokio::test]
async fn a_destination_shows_its_breaker_and_a_reset_sends_what_waits() {
    let far = FarSide::new().on_times(1, "MAIL", say("451 4.3.0 not now, we are closed")).start().await;
    let mut options = changed(&[far.address], |smarthost| smarthost.connections = 1);
    options.breaker = touchy();
    let rig = Rig::start(options);
    // What says something about us counts against the host: R2.
    let far_busy = rig.send(&["b@x.example"], "first").await;
    rig.store.saved(far_busy, 1).await;
    let (lines, total) = rig.relay.destinations(10);
    assert_eq!((total, lines[0].route.as_str(), lines[0].transport), (1, "hosts", "smarthost"));
    assert_eq!(lines[0].hosts[0].host, far.address.to_string());
    assert_eq!(
        (lines[0].deferred, lines[0].last_trouble.as_deref().unwrap_or_default().contains("closed")),
        (1, true)
    );
    rig.stop().await;
}

#[tokio::test]
async fn an_open_breaker_is_shown_with_its_end_and_closed_by_a_reset_at_once() {
    let far = FarSide::new().on_times(1, "MAIL", say("550 5.7.1 not you")).start().await;
    let mut options = changed(&[far.address], |smarthost| smarthost.connections = 1);
    options.breaker = touchy();
    let rig = Rig::start(options);
    let id = rig.send(&["b@x.example"], "kept").await;
    let saved = rig.store.saved(id, 1).await;
    assert!(saved.is_queued());
    // A second attempt finds the breaker open, and the lane pauses.
    let is_paused = || rig.relay.destinations(1).0[0].paused_until.is_some();
    eventually_so("the lane pauses", is_paused).await;
    let line = rig.relay.destinations(1).0.remove(0);
    assert_eq!((line.breaker, line.waiting, line.hosts[0].breaker), (Phase::Open, 1, Phase::Open));
    assert!(line.hosts[0].open_until.unwrap() > rig.clock.now().plus(Duration::from_secs(3500)));
    assert_eq!(rig.relay.sum().open_breakers, 1);
    let unusable = rig.relay.is_usable().unwrap_err();
    assert!(unusable.contains("hosts"), "{unusable}");
    assert_eq!(rig.relay.reset("nosuch", None), None);
    assert_eq!(rig.relay.reset("hosts", Some("nosuch")), None);
    assert_eq!(rig.relay.reset("hosts", None), Some(Reset { breakers: 1, destinations: 1 }));
    assert!(rig.store.saved(id, 2).await.is_finished());
    assert_eq!(rig.relay.reset("hosts", None), Some(Reset::default()));
    let line = rig.relay.destinations(1).0.remove(0);
    assert_eq!((line.breaker, line.waiting, line.delivered), (Phase::Closed, 0, 1));
    assert!(line.rate_per_minute > 0.5 && rig.relay.is_usable().is_ok());
    rig.stop().await;
}

#[tokio::test]
async fn those_with_most_waiting_come_first_and_the_list_is_cut() {
    let far = FarSide::new().on("MAIL", say("550 5.7.1 not you")).start().await;
    let mut options = relay_options(vec![route("mx", Transport::Smtp(mail_hosts(far.address.port())))]);
    options.breaker = touchy();
    let rig = Rig::start_with(options, patient());
    for (domain, count) in [("[127.0.0.1]", 3), ("[127.0.0.2]", 2)] {
        for n in 0..count {
            let id = rig.send(&[&format!("u{n}@{domain}")], "x").await;
            if n == 0 {
                rig.store.saved(id, 1).await;
            }
        }
    }
    let waiting = || rig.relay.destinations(9).0.iter().map(|line| line.waiting).collect::<Vec<_>>();
    eventually_so("two wait for one domain and one for the other", || waiting() == [2, 1]).await;
    let (lines, total) = rig.relay.destinations(1);
    assert_eq!((lines.len(), total, lines[0].destination.as_str()), (1, 2, "[127.0.0.1]"));
    // Only that domain's host is forgotten.
    let reset = rig.relay.reset("mx", Some("[127.0.0.1]")).unwrap();
    assert_eq!(reset, Reset { breakers: 1, destinations: 1 });
    rig.stop().await;
}

#[tokio::test]
async fn the_way_of_an_address_is_told_with_hosts_addresses_and_what_tls_must_achieve() {
    let server = DnsServer::new()
        .mx("x.example", 20, "b.x.example")
        .mx("x.example", 10, "a.x.example")
        .a("a.x.example", "127.0.0.1")
        .a("b.x.example", "10.0.0.9")
        .mx("null.example", 0, ".")
        .start()
        .await;
    let mx = Mx {
        port: 25,
        allow_private: true,
        mta_sts: false,
        mta_sts_port: 443,
        family: oncemail::dns::Family::Any,
    };
    let smtp = Smtp { tls: TlsPolicy::Opportunistic, ..Smtp::new(Hosts::Mx(mx)) };
    let dir = tempfile::tempdir().unwrap();
    let routes: Vec<Route> = vec![
        to(&["corp.example"], directory("corp", &dir.path().join("m"))),
        route("world", Transport::Smtp(smtp)),
    ];
    let rig = Rig::start_with_dns(relay_options(routes), queue_options(), server.dns());
    let found = rig.relay.explain(&asked("someone@X.example")).await;
    assert_eq!(
        (found.route.as_deref(), found.transport, found.in_doubt),
        (Some("world"), Some("mx"), Some("resend"))
    );
    assert_eq!(found.passed_over, ["corp: recipient_domains does not match"]);
    let hosts: Vec<_> = found.hosts.iter().map(|host| (host.state.host.as_str(), host.preference)).collect();
    assert_eq!(hosts, [("a.x.example:25", Some(10)), ("b.x.example:25", Some(20))]);
    assert_eq!(found.hosts[0].addresses, ["127.0.0.1"]);
    assert!(found.hosts[0].policy.as_deref().unwrap().starts_with("STARTTLS where it is offered"));
    let none = rig.relay.explain(&asked("someone@null.example")).await;
    assert!(none.hosts.is_empty() && none.trouble.unwrap().contains("null MX"));
    let corp = rig.relay.explain(&asked("someone@corp.example")).await;
    assert_eq!((corp.route.as_deref(), corp.transport), (Some("corp"), Some("directory")));
    assert!(rig.relay.explain(&asked("postmaster")).await.trouble.unwrap().contains("domain"));
    assert_eq!(rig.relay.route(Some("CORP.example"), None, None, "main").as_deref(), Some("corp"));
    assert_eq!(rig.relay.route(None, None, None, "").as_deref(), Some("world"));
    rig.stop().await;
}

#[tokio::test]
async fn an_address_that_no_route_takes_says_so() {
    let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
    let only = to(&["a.example"], route("a", Transport::Smtp(smarthost(&[at]))));
    let rig = Rig::start(relay_options(vec![only]));
    let found = rig.relay.explain(&asked("u@b.example")).await;
    assert_eq!((found.route, found.passed_over.len()), (None, 1));
    assert_eq!(rig.relay.route(Some("b.example"), None, None, "main"), None);
    rig.stop().await;
}
