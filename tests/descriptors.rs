//! When the system allows few file descriptors: the real binary, with its limit lowered.

use crate::common::child::Relay;
use crate::common::client::Client;

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
    let directory = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(directory.path(), "", "true").await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", relay.pid())).unwrap().count() as u64;
    relay.allow(open + 3);
    let mut served = Vec::new();
    let unsure = loop {
        let mut client = Client::connect(relay.address).await;
        tokio::select! {
            biased;
            _ = relay.says("accept failed") => break client,
            greeting = client.reply() => assert!(greeting.starts_with("220"), "{greeting}"),
        }
        served.push(client);
        assert!(served.len() < 50, "the limit is not felt");
    };
    // The system looks for a descriptor first and for a client second, so that the last one may be in or not.
    let mut waiting = Client::connect(relay.address).await;
    // Those that are in are served on; whoever waits comes in when they go.
    assert!(served[0].ask("NOOP").await.starts_with("250"));
    drop((served, unsure));
    assert!(waiting.reply().await.starts_with("220"));
    relay.allow(open + 100);
    let reply = submit(&mut waiting).await;
    assert!(reply.starts_with("250 2.0.0 OK Message queued"), "{reply}");
}

#[tokio::test]
async fn the_limit_of_descriptors_is_raised_as_far_as_it_goes() {
    let directory = tempfile::tempdir().unwrap();
    let relay = Relay::start(directory.path(), "", "ulimit -S -n 200").await;
    let (soft, hard) = relay.limits();
    assert_eq!(soft, hard);
}
