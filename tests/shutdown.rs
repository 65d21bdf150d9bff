//! What clients see when a submission server is told to stop: `421` when nothing of theirs is on the way, the end of the
//! message when something is.

use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::submission::options::{AuthMode, TlsMode};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::common::client::Client;
use crate::common::gated::Gated;
use crate::common::listener::{Running, intake_options, options, serve, user, write_certificate};

const SHORT: Duration = Duration::from_millis(150);
const MESSAGE: &str = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nBDAT 5 LAST\r\nabc\r\n";

#[tokio::test]
async fn shutdown_ends_idle_sessions_and_lets_a_message_come_to_its_end() {
    let server = Running::start(|_| ()).await;
    let (mut idle, mut busy, mut chunks) =
        (server.client().await, server.client().await, server.client().await);
    busy.begin().await;
    chunks.send("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nBDAT 3\r\nabc").await;
    for _ in 0..3 {
        assert!(chunks.reply().await.starts_with("250"));
    }
    server.shutdown.cancel();
    assert!(idle.reply().await.starts_with("421 4.3.2"));
    assert!(idle.is_closed().await);
    assert!(busy.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0 OK Message queued"));
    assert!(busy.reply().await.starts_with("421 4.3.2"));
    assert!(chunks.ask("BDAT 2 LAST\r\n").await.starts_with("250 2.0.0 OK Message queued"));
    assert!(chunks.reply().await.starts_with("421 4.3.2"));
    assert!(TcpStream::connect(server.address).await.is_err());
    drop((busy, chunks));
    let mut server = server;
    (&mut server.ended).await.unwrap();
    assert_eq!(server.messages().len(), 2);
}

#[tokio::test]
async fn shutdown_waits_no_longer_than_the_grace() {
    let mut server = Running::start_with_grace(SHORT, |_| ()).await;
    let mut client = server.client().await;
    client.begin().await;
    server.shutdown.cancel();
    (&mut server.ended).await.unwrap();
    assert!(client.is_closed().await);
    assert!(server.messages().is_empty());
}

#[tokio::test]
async fn whoever_has_no_message_on_the_way_hears_421() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let mut server = Running::start(|options| {
        let mut implicit = options.listeners[0].clone();
        (implicit.name, implicit.tls) = ("implicit".into(), TlsMode::Implicit);
        options.listeners[0].auth = AuthMode::Optional;
        options.listeners.push(implicit);
        options.users = vec![user("ann")];
        options.tls = Some(tls);
    })
    .await;
    let mut clients = Vec::new();
    let mut silent = Client::connect(server.address).await;
    silent.reply().await;
    clients.push(silent);
    for said in [
        "AUTH LOGIN",
        "MAIL FROM:<a@example.com>",
        "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>",
        // Half a command has been sent when it is over.
        "NOOP\r\nMAIL FR",
    ] {
        let mut client = server.client().await;
        client.send(said).await;
        if !said.ends_with("FR") {
            client.send("\r\n").await;
        }
        for _ in said.lines().filter(|line| !line.ends_with("FR")) {
            client.reply().await;
        }
        clients.push(client);
    }
    let mut served = server.client().await;
    served.begin().await;
    assert!(served.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
    clients.push(served);
    let implicit = server.addresses[1].1;
    let mut encrypted = Client::connect(implicit).await.encrypt(&root).await.unwrap();
    encrypted.reply().await;
    clients.push(encrypted);
    // No word can be said inside a handshake.
    let mut before_handshake = Client::connect(implicit).await;

    server.shutdown.cancel();
    for client in &mut clients {
        let reply = client.reply().await;
        assert!(reply.starts_with("421 4.3.2"), "{reply}");
        assert!(client.is_closed().await);
    }
    assert!(before_handshake.is_closed().await);
    (&mut server.ended).await.unwrap();
}

#[tokio::test]
async fn a_message_that_waits_for_the_store_is_answered_and_the_one_behind_it_is_not_begun() {
    let (clock, shutdown) = (Clock::system(), CancellationToken::new());
    let (store, _) = Gated::bench(intake_options());
    let grace = Duration::from_secs(30);
    let (address, ended) = serve(options(), store.clone(), &clock, &shutdown, grace).await;
    let (mut client, _) = Client::greeted(address).await;
    client.send(MESSAGE.repeat(2)).await;
    store.commit_waits().await;
    shutdown.cancel();
    store.gate.add_permits(2);
    for expected in ["250 2.1.0", "250 2.1.5", "250 2.0.0 OK Message queued", "421 4.3.2"] {
        let reply = client.reply().await;
        assert!(reply.starts_with(expected), "{reply}");
    }
    assert!(client.is_closed().await);
    drop(client);
    ended.await.unwrap();
    assert_eq!(store.inner.messages().len(), 1);
}

#[tokio::test]
async fn d1_a_message_that_the_store_does_not_finish_in_time_gets_no_answer() {
    let (clock, shutdown) = (Clock::system(), CancellationToken::new());
    let (store, _) = Gated::bench(intake_options());
    let (address, ended) = serve(options(), store.clone(), &clock, &shutdown, SHORT).await;
    let (mut client, _) = Client::greeted(address).await;
    client.send(MESSAGE).await;
    store.commit_waits().await;
    shutdown.cancel();
    ended.await.unwrap();
    assert_eq!(client.line().await, None);
}
