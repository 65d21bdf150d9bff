//! What the log says of people, and that it never says what they write: the real binary, through everything that can
//! become of a message.

use std::path::Path;

use oncemail::mail::QueueId;

use crate::common::client::Client;
use crate::common::eventually::eventually;
use crate::common::far_side::{FarSide, say};
use crate::common::program::Setup;

/// Local parts of everybody in here; none of them is part of anything else that is logged.
const PEOPLE: [&str; 7] = ["zsender", "zgood", "zbad", "zlater", "zsyntax", "zuser", "zcopy"];
const CONTENT: [&str; 4] = ["zsubject", "zbody", "zattachment", "zpassword"];

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn configured(far: &FarSide, addresses: &str) -> Setup {
    let hash =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";
    let setup = Setup::new();
    let base = setup.dir.path().display();
    let config = format!(
        "hostname = \"relay.example\"\ndata_dir = \"{base}/var\"\n\
         [[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"optional\"\n\
         allow = [\"127.0.0.0/8\"]\n\
         [[user]]\nname = \"zuser@shop.example\"\npassword_hash = \"{hash}\"\n\
         [[route]]\nname = \"out\"\ntransport = \"smarthost\"\nhosts = [\"{}\"]\ntls = \"none\"\n\
         [retry]\nbase = \"10ms\"\ncap = \"10ms\"\n\
         [suppression]\non_hard_bounce = true\n\
         [verify]\nsyntax = true\n\
         [limits]\nmin_free = \"1MB\"\n\
         [log]\nformat = \"json\"\nlevel = \"trace,rustls=trace,hickory_proto=trace,hickory_resolver=trace\"\n\
         addresses = \"{addresses}\"\n",
        far.address
    );
    std::fs::write(Path::new(&setup.config()), config).unwrap();
    setup
}

async fn submit(client: &mut Client, key: &str, recipients: &[&str]) -> String {
    assert!(client.ask("MAIL FROM:<zsender@shop.example>").await.starts_with("250"));
    for recipient in recipients {
        client.ask(&format!("RCPT TO:<{recipient}>")).await;
    }
    assert!(client.ask("DATA").await.starts_with("354"));
    let content = format!(
        "X-Idempotency-Key: {key}\r\nMessage-ID: <{key}@mid.example>\r\nFrom: zsender@shop.example\r\n\
         To: zcopy@example.com\r\nSubject: zsubject\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\n\
         --b\r\n\r\nzbody\r\n--b\r\nContent-Disposition: attachment; filename=\"zattachment\"\r\n\r\nzbody\r\n--b--\r\n."
    );
    client.ask(&content).await
}

/// Accept, replay, mismatch, refusals, delivery, deferral, bounce, suppression, failed login, reload; gives back the log.
async fn a_day(far: &FarSide, addresses: &str) -> (Setup, String) {
    let setup = configured(far, addresses);
    let mut relay = setup.serve().await;
    let address = relay.address();
    let (mut client, _) = Client::greeted(address).await;
    // `\0zuser@shop.example\0zpassword`, which is wrong.
    assert!(client.ask("AUTH PLAIN AHp1c2VyQHNob3AuZXhhbXBsZQB6cGFzc3dvcmQ=").await.starts_with("535"));
    let first =
        submit(&mut client, "order-1", &["zgood@example.com", "zbad@example.com", "zlater@example.com"])
            .await;
    let id = first.rsplit(' ').next().unwrap();
    assert!(id.parse::<QueueId>().is_ok(), "{first}");
    assert!(
        submit(&mut client, "order-1", &["zgood@example.com", "zbad@example.com", "zlater@example.com"])
            .await
            .contains("replay")
    );
    assert!(submit(&mut client, "order-1", &["zgood@example.com"]).await.starts_with("554"));
    assert!(client.ask("MAIL FROM:<zsender@shop.example>").await.starts_with("250"));
    assert!(client.ask("RCPT TO:<zsyntax@nodots>").await.starts_with("553"));
    // The one that was deferred at first, and the bounce, which goes out as a message of its own.
    far.wait(|log| log.taken.iter().any(|taken| taken.mail.contains("<>"))).await;
    far.wait(|log| log.taken.iter().any(|taken| taken.rcpts.iter().any(|rcpt| rcpt.contains("zlater"))))
        .await;
    let refusal = async || {
        let reply = client.ask("RCPT TO:<zbad@example.com>").await;
        reply.starts_with("550").then_some(reply)
    };
    let refused = eventually("the address that bounced is refused", refusal).await;
    assert!(refused.contains("suppressed"), "{refused}");
    relay.hang_up();
    assert_eq!(relay.stop().await, Some(0));
    let log = relay.log().await;
    (setup, log)
}

async fn far() -> FarSide {
    FarSide::new()
        .on("RCPT TO:<zbad@", say("550 5.1.1 <zbad@example.com>: user ZBAD unknown"))
        .on_times(
            1,
            "RCPT TO:<zlater@",
            say("451 4.2.1 zlater is asleep, mail from zsender@shop.example waits"),
        )
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_hashed_addresses_no_line_names_anybody_and_a_restart_changes_no_hash() {
    let far = far().await;
    let (setup, log) = a_day(&far, "hashed").await;
    for secret in PEOPLE.iter().chain(&CONTENT) {
        let told = log.lines().find(|line| line.to_lowercase().contains(secret));
        assert_eq!(told, None, "{secret} is in the log");
    }
    for (what, outcome) in [("delivery", "delivered"), ("delivery", "deferred"), ("delivery", "bounced")] {
        let line = lines(&log).find(|line| line["message"] == what && line["outcome"] == outcome);
        let recipient =
            line.unwrap_or_else(|| panic!("{outcome}: {log}"))["recipient"].as_str().unwrap().to_owned();
        assert!(recipient.starts_with("h:") && recipient.ends_with("@example.com"), "{recipient}");
    }
    assert!(log.contains("order-1@mid.example"), "Message-IDs stay");
    for line in ["recipient refused", "authentication failed", "notice", "submission"] {
        assert!(lines(&log).any(|event| event["message"] == line), "{line}: {log}");
    }
    let sender =
        |log: &str| lines(log).find_map(|line| line["reverse_path"].as_str().map(str::to_owned)).unwrap();
    let mut next = setup.serve().await;
    let (mut client, _) = Client::greeted(next.address()).await;
    submit(&mut client, "order-2", &["zgood@example.com"]).await;
    next.stop().await;
    assert_eq!(sender(&next.log().await), sender(&log));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_subject_no_body_and_no_password_is_logged_at_any_level() {
    let far = far().await;
    let (_, log) = a_day(&far, "full").await;
    assert!(lines(&log).any(|line| line["level"] == "TRACE"), "it was listened to closely");
    assert!(log.contains("zgood@example.com"));
    for secret in CONTENT {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

fn lines(log: &str) -> impl Iterator<Item = serde_json::Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap())
}
