//! Delivery to the hosts of the recipient's domain, end to end: in the order of its MX records, never to ourselves, and
//! failing only where the domain itself says so.

use std::net::SocketAddr;
use std::sync::Arc;

use oncemail::dns::Dns;
use oncemail::mail::RecipientState;
use oncemail::relay::options::{Breaker, Hosts, Options, Transport};

use crate::common::client::Client;
use crate::common::dns_server::{DnsServer, DnsServerBuilder, Lie};
use crate::common::far_side::FarSide;
use crate::common::program::{Setup, oncemail};
use crate::common::relay_rig::{
    DELIVERED, FAILED, Rig, mail_hosts, queue_options, relay_options, replies, route,
};

fn options(port: u16) -> Options {
    let mut options = relay_options(vec![route("mx", Transport::Smtp(mail_hosts(port)))]);
    options.breaker = Breaker { failures: u32::MAX, ..options.breaker };
    options
}

fn start(options: Options, dns: Arc<Dns>) -> Rig {
    Rig::start_with_dns(options, queue_options(), dns)
}

/// Where an attempt for `recipient` ends, and with what words.
async fn ends(options: Options, server: &DnsServer, recipient: &str) -> (RecipientState, String) {
    let rig = start(options, server.dns());
    let id = rig.send(&[recipient], "x").await;
    let progress = rig.store.saved(id, 1).await;
    (progress.recipients[0].state, replies(&progress)[0].clone())
}

#[tokio::test]
async fn hosts_are_tried_in_the_order_of_their_preference() {
    let far = FarSide::new().start().await;
    let server = DnsServer::new()
        .mx("x.example", 10, "gone.x.example")
        .mx("x.example", 20, "dead.x.example")
        .mx("x.example", 30, "live.x.example")
        .a("dead.x.example", "127.0.0.2")
        .a("live.x.example", "127.0.0.1")
        .start()
        .await;
    let rig = start(options(far.address.port()), server.dns());
    let id = rig.send(&["b@X.Example"], "hello").await;
    let progress = rig.store.saved(id, 1).await;
    assert_eq!((progress.recipients[0].state, progress.attempts), (DELIVERED, 1), "{progress:?}");
    assert_eq!(far.log().copies("hello"), 1);
}

#[tokio::test]
async fn each_domain_of_a_message_gets_one_copy_at_its_own_host() {
    let far = FarSide::new().start().await;
    let server = DnsServer::new()
        .mx("x.example", 10, "mx.x.example")
        .a("mx.x.example", "127.0.0.1")
        .a("y.example", "127.0.0.1")
        .mx("xn--bcher-kva.example", 10, "mx.x.example")
        .start()
        .await;
    let rig = start(options(far.address.port()), server.dns());
    let id = rig
        .send(&["a@x.example", "b@y.example", "c@x.example", "d@bücher.example", "e@[127.0.0.1]"], "one")
        .await;
    assert!(rig.store.saved(id, 4).await.is_finished());
    let mut taken: Vec<_> = far.log().taken.iter().map(|taken| taken.rcpts.join(" ")).collect();
    taken.sort();
    assert_eq!(
        taken,
        [
            "RCPT TO:<a@x.example> RCPT TO:<c@x.example>",
            "RCPT TO:<b@y.example>",
            "RCPT TO:<d@bücher.example>",
            "RCPT TO:<e@[127.0.0.1]>",
        ]
    );
}

fn zone() -> DnsServerBuilder {
    DnsServer::new()
        .mx("null.example", 0, ".")
        .txt("bare.example", &["no mail"])
        .mx("us.example", 10, "relay.example")
        .mx("us.example", 20, "mx.us.example")
        .a("relay.example", "127.0.0.1")
        .a("mx.us.example", "127.0.0.1")
        .a("here.example", "127.0.0.1")
        .a("inside.example", "10.0.0.1")
}

#[tokio::test]
async fn r2_only_what_the_domain_says_fails_mail() {
    let server = zone().start().await;
    let far = FarSide::new().start().await;
    let open = options(far.address.port());
    let mut closed = open.clone();
    for route in &mut closed.routes {
        if let Transport::Smtp(smtp) = &mut route.transport
            && let Hosts::Mx(mx) = &mut smtp.hosts
        {
            mx.allow_private = false;
        }
    }
    let mut ours = open.clone();
    ours.own_addresses = vec![SocketAddr::from(([0, 0, 0, 0], far.address.port()))];
    for (options, recipient, state, text) in [
        (&open, "b@null.example", FAILED, "5.1.10 the domain null.example takes no mail (null MX)"),
        (&open, "b@gone.example", FAILED, "5.1.2 the domain gone.example does not exist"),
        (&open, "b@bare.example", FAILED, "5.4.4 bare.example has neither an MX record nor an address"),
        (&open, "b@us.example", FAILED, "5.4.6 mail for us.example would come back to us"),
        (&ours, "b@here.example", FAILED, "5.4.6 mail for here.example would come back to us"),
        (&closed, "b@here.example", FAILED, "5.4.4 here.example has the address 127.0.0.1"),
        (
            &closed,
            "b@inside.example",
            RecipientState::Queued,
            "4.4.4 inside.example has the private address 10.0.0.1",
        ),
    ] {
        let (ended, said) = ends(options.clone(), &server, recipient).await;
        assert_eq!(ended, state, "{recipient}: {said}");
        assert!(said.starts_with(text), "{recipient}: {said}");
    }
    for lie in [Lie::ServFail, Lie::Silence, Lie::Garbage, Lie::Truncated, Lie::ManyMx(10_000)] {
        server.lie("here.example", lie);
        let (ended, said) = ends(open.clone(), &server, "b@here.example").await;
        assert_eq!(ended, RecipientState::Queued, "{lie:?}: {said}");
        assert!(
            said.starts_with("4.4.3 the MX records of here.example cannot be looked up: "),
            "{lie:?}: {said}"
        );
    }
    assert_eq!(far.log().connections, 0);
}

#[tokio::test]
async fn r2_an_outage_of_dns_only_makes_mail_for_domains_wait() {
    let far = FarSide::new().start().await;
    let mut builder = DnsServer::new();
    for number in 0..20 {
        builder = builder.mx(&format!("d{number}.example"), 10, "mx.example");
    }
    let mut server = builder.a("mx.example", "127.0.0.1").start().await;
    server.stop().await;
    let rig = start(options(far.address.port()), server.dns());
    let mut waiting = Vec::new();
    for number in 0..20 {
        waiting.push(rig.send(&[&format!("b@d{number}.example")], &format!("message {number}.")).await);
    }
    for id in &waiting {
        let progress = rig.store.saved(*id, 1).await;
        assert!(progress.is_queued() && replies(&progress)[0].starts_with("4.4.3 "), "{progress:?}");
    }
    server.start_again().await;
    let log = far.wait(|log| log.taken.len() == waiting.len()).await;
    for number in 0..20 {
        assert_eq!(log.copies(&format!("message {number}.")), 1);
    }
}

/// All of it by TOML, in the real binary.
#[tokio::test]
async fn a_configured_route_delivers_to_the_hosts_of_domains_and_to_literals() {
    let far = FarSide::new().start().await;
    let server =
        DnsServer::new().mx("x.example", 10, "mx.x.example").a("mx.x.example", "127.0.0.1").start().await;
    let setup = Setup::with(&format!(
        r#"
[[route]]
name = "world"
transport = "mx"
port = {}
allow_private_addresses = true
[dns]
servers = ["{}"]
timeout = "5s"
"#,
        far.address.port(),
        server.address
    ));
    let check = oncemail(&["check-config", "--config", &setup.config()]).output().unwrap();
    let summary = String::from_utf8(check.stdout).unwrap();
    let expected = format!(
        "the hosts of the recipient's domain, port {}, TLS where it can be had, MTA-STS, private addresses too",
        far.address.port()
    );
    assert!(check.status.success() && summary.contains(&expected), "{summary}");
    let mut relay = setup.serve().await;
    let (mut client, _) = Client::greeted(relay.address()).await;
    client
        .send("MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@X.example>\r\nRCPT TO:<c@[127.0.0.1]>\r\nDATA\r\n")
        .await;
    for expected in ["250", "250", "250", "354"] {
        assert!(client.reply().await.starts_with(expected));
    }
    assert!(client.ask("Subject: x\r\n\r\nhello\r\n.").await.starts_with("250 2.0.0"));
    let log = far.wait(|log| log.taken.len() == 2).await;
    let mut taken: Vec<_> = log.taken.iter().flat_map(|taken| taken.rcpts.clone()).collect();
    taken.sort();
    assert_eq!(taken, ["RCPT TO:<b@X.example>", "RCPT TO:<c@[127.0.0.1]>"]);
    assert_eq!(relay.stop().await, Some(0));
}
