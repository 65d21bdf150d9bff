//! Behind a load balancer that speaks the PROXY protocol: the client that it names counts, and nobody gains anything by
//! naming himself.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

use governor::Quota;
use oncemail::submission::options::{AuthMode, Options, TlsMode};

use crate::common::client::{AUTH, Client};
use crate::common::listener::{Running, user, write, write_certificate};
use crate::common::program::Relay;

/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// This machine is the proxy, and clients come from 192.0.2.0/24.
fn behind_us(options: &mut Options) {
    options.listeners[0].trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    options.listeners[0].allow = vec!["192.0.2.0/24".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 40000 587\r\n").into_bytes()
}

/// With extensions behind the addresses, as load balancers add them.
fn v2(client: [u8; 4]) -> Vec<u8> {
    let addresses =
        [client.as_slice(), &[198, 51, 100, 1], &40_000_u16.to_be_bytes(), &587_u16.to_be_bytes()];
    let extensions = [b"\x02\0\x0drelay.example".as_slice(), b"\xea\0\x02\x01x"].concat();
    let rest = [addresses.concat(), extensions].concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, b"\x21\x11", &length, &rest].concat()
}

/// Connects and says this at once.
async fn connect(server: &Running, header: &[u8]) -> Client {
    let mut client = Client::connect(server.address).await;
    client.send(header).await;
    client
}

/// The greeting of whoever comes with this header.
async fn greeting(server: &Running, header: &[u8]) -> String {
    connect(server, header).await.reply().await
}

#[tokio::test]
async fn the_client_that_the_header_names_is_the_one_of_the_message() {
    let server = Running::start(behind_us).await;
    for (header, client) in [(v1("192.0.2.7"), [192, 0, 2, 7]), (v2([192, 0, 2, 8]), [192, 0, 2, 8])] {
        // In as many pieces as it has octets: nothing is taken for a header that is only its beginning.
        let mut connection = Client::connect(server.address).await;
        connection.send_slowly(&header).await;
        assert!(connection.reply().await.starts_with("220 "));
        connection.ask("EHLO client.example").await;
        connection.begin().await;
        assert!(connection.ask("Subject: x\r\n\r\n.").await.starts_with("250 "));
        let client = IpAddr::from(Ipv4Addr::from(client));
        let mut messages = server.messages().into_iter();
        let message = messages.find(|message| message.origin.client == Some(client)).unwrap();
        let content = String::from_utf8_lossy(&message.content).into_owned();
        let named = format!("[{}]", client);
        assert!(content.contains(&named) && !content.contains("127.0.0.1"), "{content}");
    }
}

#[tokio::test]
async fn s1_what_comes_in_one_packet_with_the_header_is_smtp() {
    let server = Running::start(behind_us).await;
    let mut client =
        connect(&server, &[v1("192.0.2.7"), b"EHLO client.example\r\nNOOP\r\n".to_vec()].concat()).await;
    assert!(client.reply().await.starts_with("220 "));
    assert!(client.reply().await.starts_with("250-relay.example"));
    assert!(client.reply().await.starts_with("250 2.0.0"));
}

#[tokio::test]
async fn nobody_but_a_trusted_proxy_may_connect_whatever_it_says() {
    let server = Running::start(|options| {
        behind_us(options);
        options.listeners[0].trusted_proxies = vec!["198.51.100.0/24".parse().unwrap()];
    })
    .await;
    for header in [Vec::new(), v1("192.0.2.7"), v2([192, 0, 2, 7])] {
        assert!(greeting(&server, &header).await.starts_with("554 "));
    }
    assert!(server.messages().is_empty());
}

#[tokio::test]
async fn what_is_no_header_ends_the_connection_without_a_word() {
    let server = Running::start(behind_us).await;
    for wrong in [
        b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\n".as_slice(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\nEHLO x\r\n",
        &[SIGNATURE, b"\x31\x11\0\0"].concat(),
        &[SIGNATURE, b"\x21\x11\xff\xff"].concat(),
    ] {
        assert!(connect(&server, wrong).await.is_closed().await, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_header_gives_nobody_what_is_for_this_machines_own_clients() {
    let server = Running::start(|options| {
        behind_us(options);
        options.listeners[0].auth = AuthMode::Optional;
        options.users = vec![user("ann")];
    })
    .await;
    // `allow` names loopback, and yet: it would be another machine's.
    let mapped = b"PROXY TCP6 ::ffff:127.0.0.1 2001:db8::1 1 587\r\n".to_vec();
    let ipv6 = b"PROXY TCP6 ::1 2001:db8::1 1 587\r\n".to_vec();
    for header in [v1("127.0.0.1"), v2([127, 9, 9, 9]), mapped, ipv6] {
        assert!(greeting(&server, &header).await.starts_with("554 "), "{header:?}");
    }
    // The proxy itself may come, from loopback; who knows for whom.
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), [SIGNATURE, b"\x20\0\0\0"].concat()] {
        let mut client = connect(&server, &header).await;
        assert!(client.reply().await.starts_with("220 "));
        let ehlo = client.ask("EHLO client.example").await;
        assert!(!ehlo.contains("AUTH"), "{ehlo}");
        assert!(!client.ask(AUTH).await.starts_with("235"));
    }
    // And `allow` is about the client, not about the proxy.
    assert!(greeting(&server, &v1("203.0.113.1")).await.starts_with("554 "));
}

#[tokio::test]
async fn s2_who_says_nothing_has_one_of_all_places_and_not_for_long() {
    let server = Running::start(|options| {
        behind_us(options);
        (options.limits.connections, options.limits.connections_per_ip) = (3, 1);
    })
    .await;
    // More than one address may have: the proxy is not the client.
    let mut silent = Client::connect(server.address).await;
    let mut slow = connect(&server, b"PROXY TCP4 192.0.2.7 ").await;
    let mut named = connect(&server, &v1("192.0.2.7")).await;
    assert!(named.reply().await.starts_with("220 "));
    assert!(greeting(&server, &v1("192.0.2.8")).await.starts_with("421 4.3.2 "));
    // The address counts when it is known.
    slow.send("198.51.100.1 1 587\r\n").await;
    assert!(slow.reply().await.starts_with("421 4.7.0 "));
    assert!(slow.is_closed().await);
    assert!(silent.is_closed().await);
    assert!(named.ask("NOOP").await.starts_with("250 "));
    let mut others = Vec::new();
    for address in ["192.0.2.8", "192.0.2.9"] {
        let mut other = connect(&server, &v1(address)).await;
        assert!(other.reply().await.starts_with("220 "), "the places are free again");
        others.push(other);
    }
}

#[tokio::test]
async fn s1_implicit_tls_begins_behind_the_header_and_failures_are_the_clients() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let server = Running::start(|options| {
        behind_us(options);
        (options.listeners[0].tls, options.listeners[0].auth) = (TlsMode::Implicit, AuthMode::Required);
        (options.tls, options.users) = (Some(tls), vec![user("ann")]);
        options.limits.auth_failures = Quota::per_hour(NonZeroU32::MIN);
    })
    .await;
    let wrong = "AUTH PLAIN AGFubgB3cm9uZw==";
    for (client, command, expected) in
        [("192.0.2.7", wrong, "535"), ("192.0.2.7", AUTH, "421"), ("192.0.2.8", AUTH, "235")]
    {
        let mut connection = connect(&server, &v1(client)).await.encrypt(&root).await.unwrap();
        assert!(connection.reply().await.starts_with("220 "));
        connection.ask("EHLO client.example").await;
        let reply = connection.ask(command).await;
        assert!(reply.starts_with(expected), "{client}: {reply}");
    }
    assert!(connect(&server, &v1("203.0.113.1")).await.is_closed().await, "no words before TLS");
}

#[tokio::test]
async fn a_reload_turns_it_on_for_connections_that_begin_then() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("oncemail.toml");
    let text = |more: &str| {
        let base = directory.path().display();
        format!(
            "data_dir = \"{base}/var\"\n[log]\nformat = \"json\"\n[limits]\nmin_free = \"1MB\"\n\
             [[route]]\nname = \"out\"\ntransport = \"directory\"\npath = \"{base}/mail\"\n\
             [[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n{more}"
        )
    };
    write(&file, &text(""));
    let mut relay = Relay::serve(&file).await;
    let (mut before, _) = Client::greeted(relay.address()).await;
    let proxied = "allow = [\"192.0.2.0/24\"]\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\n";
    write(&file, &text(proxied));
    relay.hang_up();
    relay.says("the configuration was read again").await;
    let mut after = Client::connect(relay.address()).await;
    after.send(v1("192.0.2.7")).await;
    assert!(after.reply().await.starts_with("220 "));
    assert!(before.ask("NOOP").await.starts_with("250 "), "open sessions live on");
    let mut direct = Client::connect(relay.address()).await;
    direct.send("EHLO client.example\r\n").await;
    assert!(direct.is_closed().await);
}
