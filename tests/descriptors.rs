//! When the system allows few file descriptors: the real binary, with its limit lowered. Clients, far sides and operators
//! wait, and nothing is lost.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::client::Client;
use crate::common::far_side::{FarSide, PATIENCE};
use crate::common::program::{Relay, Setup};
use crate::common::relay_rig::nobody;

/// Hands over one message.
async fn submit(client: &mut Client) -> String {
    client.ask("EHLO client.example").await;
    client.ask("MAIL FROM:<a@example.com>").await;
    client.ask("RCPT TO:<b@example.org>").await;
    client.ask("DATA").await;
    client.ask("Subject: x\r\n\r\n.").await
}

#[tokio::test]
async fn s2_without_descriptors_clients_wait_and_then_are_served() {
    let setup = Setup::new();
    let mut relay = setup.serve().await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", relay.pid())).unwrap().count() as u64;
    relay.allow(open + 3);
    let mut served = Vec::new();
    let unsure = loop {
        let mut client = Client::connect(relay.address()).await;
        tokio::select! {
            biased;
            _ = relay.says("accept failed") => break client,
            greeting = client.reply() => assert!(greeting.starts_with("220"), "{greeting}"),
        }
        served.push(client);
        assert!(served.len() < 50, "the limit is not felt");
    };
    // The system looks for a descriptor first and for a client second, so that the last one may be in or not.
    let mut waiting = Client::connect(relay.address()).await;
    // Those that are in are served on; whoever waits comes in when they go.
    assert!(served[0].ask("NOOP").await.starts_with("250"));
    drop((served, unsure));
    assert!(waiting.reply().await.starts_with("220"));
    relay.allow(open + 100);
    let reply = submit(&mut waiting).await;
    assert!(reply.starts_with("250 2.0.0 OK Message queued"), "{reply}");
}

/// With this limit nothing more can be opened, whatever number is free below those that are.
const NONE: u64 = 3;
const ENOUGH: u64 = 1_000;

#[tokio::test]
async fn d6_without_descriptors_mail_for_a_far_side_waits_and_then_goes_once() {
    let far = FarSide::new().start().await;
    let more = format!(
        "[retry]\nbase = \"1s\"\ncap = \"1s\"\n[[route]]\nname = \"far\"\nrecipient_domains = [\"example.net\"]\n\
         transport = \"smarthost\"\nhosts = [\"{}\"]\ntls = \"none\"\n",
        far.address
    );
    let setup = Setup::with(&more);
    let mut relay = setup.serve().await;
    let mut client = Client::connect(relay.address()).await;
    assert!(client.reply().await.starts_with("220"));
    relay.allow(NONE);
    client.ask("EHLO client.example").await;
    client.ask("MAIL FROM:<a@example.com>").await;
    client.ask("RCPT TO:<b@example.net>").await;
    client.ask("DATA").await;
    let reply = client.ask("Subject: x\r\n\r\nonce;\r\n.").await;
    assert!(reply.starts_with("250 2.0.0 OK Message queued"), "{reply}");
    let deferred = relay.says("delivery").await;
    assert!(deferred.to_string().contains("deferred"), "{deferred}");
    assert!(far.log().taken.is_empty());
    relay.allow(ENOUGH);
    far.wait(|log| log.taken.len() == 1).await;
    assert_eq!(relay.stop().await, Some(0));
    assert_eq!(far.log().copies("once;"), 1);
}

#[tokio::test]
async fn s2_without_descriptors_operators_wait_and_then_are_answered() {
    let admin = nobody().await;
    let setup = Setup::and(&format!("[admin]\naddress = \"{admin}\"\n"));
    let mut relay = setup.serve().await;
    relay.allow(NONE);
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    relay.says("the HTTP API cannot accept").await;
    relay.allow(ENOUGH);
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn the_limit_of_descriptors_is_raised_as_far_as_it_goes() {
    let setup = Setup::new();
    let mut relay = Relay::start(setup.command_after("ulimit -S -n 200"));
    relay.listens().await;
    let (soft, hard) = relay.limit("Max open files");
    assert_eq!(soft, hard);
}
