//! What a route's configuration says is what the real binary does on the wire.

use crate::common::client::Client;
use crate::common::far_side::{FarSide, say};
use crate::common::listener::write;
use crate::common::program::Setup;
use crate::common::relay_rig::nobody;

/// The value of the first field with this name.
fn field<'a>(content: &'a str, name: &str) -> Option<&'a str> {
    let (header, _) = content.split_once("\r\n\r\n").unwrap();
    header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_past_a_dead_host_signed_split_and_with_its_key_under_the_name_that_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("s1.pem");
    write(&key, include_str!("fixtures/dkim/ed25519.pem"));
    let far = FarSide::new()
        .offers(&["PIPELINING", "DSN", "MT-PRIORITY"])
        .on_times(1, "MAIL", say("451 4.3.0 later"))
        .start()
        .await;
    let more = format!(
        r#"
[retry]
base = "1s"
cap = "1s"
[[dkim]]
domain = "shop.example"
selector = "s1"
key_file = "{}"
[[route]]
name = "next"
transport = "smarthost"
hosts = ["{}", "{}"]
tls = "none"
connections = 1
recipients_per_transaction = 2
in_doubt = "hold"
forward_key_as = "Upstream-Key"
"#,
        key.display(),
        nobody().await,
        far.address
    );
    let setup = Setup::with(&more);
    let mut relay = setup.serve().await;
    let (mut client, _) = Client::greeted(relay.address()).await;
    for line in [
        "MAIL FROM:<a@shop.example> RET=HDRS ENVID=order+3D7 MT-PRIORITY=4",
        "RCPT TO:<b@x.example> NOTIFY=NEVER",
        "RCPT TO:<c@y.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;c@y.example",
        "RCPT TO:<d@z.example>",
    ] {
        assert!(client.ask(line).await.starts_with("250 "), "{line}");
    }
    assert!(client.ask("DATA").await.starts_with("354"));
    let message = "From: a@shop.example\r\nX-Idempotency-Key: order-7\r\nSubject: x\r\n\r\n.hidden\r\n";
    let reply = client.ask(&format!("{}.", message.replace("\r\n.", "\r\n.."))).await;
    let id = reply.strip_prefix("250 2.0.0 OK Message queued as ").unwrap_or_else(|| panic!("{reply}"));

    // Where a key is told, each recipient has a transaction of its own.
    let log = far.wait(|log| log.taken.len() == 3).await;
    let mut keys = Vec::new();
    for taken in &log.taken {
        assert!(taken.mail.starts_with("MAIL FROM:<a@shop.example>"), "{}", taken.mail);
        for parameter in [" RET=HDRS", " ENVID=order+3D7", " MT-PRIORITY=4"] {
            assert!(taken.mail.contains(parameter), "{}", taken.mail);
        }
        let content = String::from_utf8(taken.content.clone()).unwrap();
        let signed = field(&content, "DKIM-Signature").unwrap_or_else(|| panic!("{content}"));
        assert!(signed.starts_with("v=1; a=ed25519-sha256; c=relaxed/relaxed;"), "{content}");
        assert!(field(&content, "X-Idempotency-Key").is_none() && content.ends_with("\r\n\r\n.hidden\r\n"));
        keys.push(field(&content, "Upstream-Key").unwrap_or_else(|| panic!("{content}")).to_owned());
    }
    keys.sort_unstable();
    keys.dedup();
    assert!(keys.len() == 3 && keys.iter().all(|key| key.starts_with("order-7:")), "{keys:?}");
    let mut rcpts: Vec<_> = log.taken.iter().flat_map(|taken| taken.rcpts.clone()).collect();
    rcpts.sort_unstable();
    assert_eq!(
        rcpts,
        [
            "RCPT TO:<b@x.example> NOTIFY=NEVER",
            "RCPT TO:<c@y.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;c@y.example",
            "RCPT TO:<d@z.example>",
        ]
    );
    // Each outcome is told with all that decided it; who was deferred is delivered at the next attempt.
    let mut told = Vec::new();
    while told.iter().filter(|outcome| *outcome == "delivered").count() < 3 {
        let event = relay.says("delivery").await;
        let said = (event["queue_id"].as_str(), event["route"].as_str(), event["host"].as_str());
        assert_eq!(said, (Some(id), Some("next"), Some(&*far.address.to_string())), "{event}");
        told.push(event["outcome"].as_str().unwrap_or_else(|| panic!("{event}")).to_owned());
    }
    assert_eq!(told.iter().filter(|outcome| *outcome == "deferred").count(), 1, "{told:?}");
    assert_eq!(relay.stop().await, Some(0));
}
