//! Suppressed addresses: from the refusal of the far side to ours at RCPT, over restarts, until their time is up; and the
//! list while its file cannot be written.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::{Address, Envelope, Message, ReversePath};
use oncemail::queue::{OnFailure, Options};
use oncemail::store::files::RealFiles;
use oncemail::store::suppression::{Suppressed, Suppressions};
use oncemail::submission::Recipients;

use crate::common::client::Client;
use crate::common::eventually::{eventually, eventually_so};
use crate::common::far_side::{FarSide, say};
use crate::common::faulty_files::FaultyFiles;
use crate::common::history::start;
use crate::common::listener::Running;
use crate::common::program::Setup;
use crate::common::relay_rig::{Rig, dns, message, queue_options, to_hosts};

const TTL: Duration = Duration::from_secs(30 * 86_400);
const TAKEN: &str = "250 2.1.5 Recipient OK";

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn open(dir: &Path, clock: &Clock) -> Arc<Suppressions> {
    Suppressions::open(Arc::new(RealFiles), dir, TTL, clock.clone()).unwrap()
}

/// Waits until an address is remembered.
async fn remembered(list: &Suppressions, text: &str) -> Suppressed {
    eventually(&format!("{text} is remembered"), async || list.find(&address(text))).await
}

/// A server that asks this list.
async fn server(list: &Arc<Suppressions>) -> Running {
    let recipients = Recipients { dns: dns(), suppressions: Some(list.clone()) };
    Running::start_with(recipients, |_| ()).await
}

#[tokio::test]
async fn who_does_not_exist_at_the_far_side_is_refused_at_rcpt_until_the_time_is_up() {
    let far = FarSide::new()
        .on("RCPT TO:<gone@", say("550 5.1.1 User unknown"))
        .on("RCPT TO:<nobody@", say("550-5.1.1 No\r\n550 5.1.1 such user"))
        .on("RCPT TO:<blocked@", say("550 5.7.1 Not today"))
        .on("RCPT TO:<plain@", say("550 no such user"))
        .on_times(1, "RCPT TO:<later@", say("450 4.1.1 Later"))
        .start()
        .await;
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(start()));
    let list = open(dir.path(), &clock);
    let rig = Rig::start(to_hosts(&[far.address]));
    rig.queue.suppress_into(list.clone());
    let all = ["gone@x.example", "blocked@x.example", "plain@x.example", "later@x.example", "fine@x.example"];
    rig.send(&all, "hello").await;
    remembered(&list, "gone@x.example").await;
    // A message of the null sender tells as much.
    let bounce = message(&rig.clock, &["nobody@x.example"], "hello");
    let envelope = Envelope { reverse_path: ReversePath::Null, ..bounce.envelope };
    rig.submit(Message { envelope, ..bounce }).await;
    remembered(&list, "nobody@x.example").await;
    far.wait(|log| log.taken.len() == 2).await;
    assert_eq!(list.entries().len(), 2, "{:?}", list.entries());

    let server = server(&list).await;
    let mut client = server.client().await;
    let refused =
        |path: &str, reason: &str| format!("550 5.1.1 <{path}> suppressed since {}: {reason}", start());
    for sender in ["a@shop.example", ""] {
        client.ask(&format!("MAIL FROM:<{sender}>")).await;
        for (path, expected) in [
            ("gone@x.example", refused("gone@x.example", "5.1.1 User unknown")),
            ("gone@X.Example", refused("gone@X.Example", "5.1.1 User unknown")),
            ("nobody@x.example", refused("nobody@x.example", "5.1.1 No; such user")),
            ("blocked@x.example", TAKEN.to_owned()),
            ("plain@x.example", TAKEN.to_owned()),
            ("later@x.example", TAKEN.to_owned()),
            ("gone@sub.x.example", TAKEN.to_owned()),
        ] {
            assert_eq!(client.ask(&format!("RCPT TO:<{path}>")).await, expected);
        }
        client.ask("RSET").await;
    }
    client.ask("MAIL FROM:<a@shop.example>").await;
    clock.advance(TTL - Duration::from_millis(1));
    assert!(client.ask("RCPT TO:<gone@x.example>").await.starts_with("550 5.1.1 "));
    clock.advance(Duration::from_millis(1));
    assert_eq!(client.ask("RCPT TO:<gone@x.example>").await, TAKEN);
}

#[tokio::test]
async fn a_sender_who_is_suppressed_is_told_of_a_failure_all_the_same() {
    let far = FarSide::new().on("RCPT TO:<gone@", say("550 5.1.1 User unknown")).start().await;
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(start()));
    let list = open(dir.path(), &clock);
    list.add(&address("a@shop.example"), "5.1.1 User unknown");
    let queue_options = Options { on_failure: OnFailure::Bounce, ..queue_options() };
    let rig = Rig::start_with(to_hosts(&[far.address]), queue_options);
    rig.queue.suppress_into(list);
    rig.send(&["gone@x.example"], "hello").await;
    let log = far.wait(|log| log.taken.len() == 1).await;
    assert!(log.taken[0].mail.starts_with("MAIL FROM:<>"), "{log:?}");
    assert_eq!(log.copies("Final-Recipient: "), 1);
}

#[tokio::test]
async fn the_program_remembers_who_does_not_exist_over_its_restarts() {
    let far = FarSide::new().on("RCPT TO:<gone@", say("550 5.1.1 User unknown")).start().await;
    let off = format!(
        "[[route]]\nname = \"out\"\ntransport = \"smarthost\"\nhosts = [\"{}\"]\ntls = \"none\"\n",
        far.address
    );
    let setup = Setup::with(&format!("{off}[suppression]\non_hard_bounce = true\nttl = \"30d\""));
    let mut relay = setup.serve().await;
    let mut client = Client::greeted(relay.address()).await.0;
    client.ask("MAIL FROM:<a@shop.example>").await;
    assert_eq!(client.ask("RCPT TO:<gone@x.example>").await, TAKEN);
    client.ask("DATA").await;
    assert!(client.ask("Subject: x\r\n\r\nhello\r\n.").await.starts_with("250 2.0.0"));
    assert_eq!(relay.says("delivery").await["outcome"], "bounced");
    client.ask("MAIL FROM:<a@shop.example>").await;
    let refused = client.ask("RCPT TO:<gone@x.example>").await;
    assert!(refused.starts_with("550 5.1.1 <gone@x.example> suppressed since 2"), "{refused}");
    assert!(refused.ends_with("Z: 5.1.1 User unknown"), "{refused}");
    let told = relay.says("recipient refused").await;
    assert_eq!((told["recipient"].as_str(), told["code"].as_u64()), (Some("gone@x.example"), Some(550)));
    assert_eq!(relay.stop().await, Some(0));
    // Also over a kill, once it is written.
    for _ in 0..2 {
        relay = setup.serve().await;
        let mut client = Client::greeted(relay.address()).await.0;
        client.ask("MAIL FROM:<a@shop.example>").await;
        assert_eq!(client.ask("RCPT TO:<gone@x.example>").await, refused);
        assert_eq!(client.ask("RCPT TO:<fine@x.example>").await, TAKEN);
        relay.kill().await;
    }
    // Off, as it is unless it is asked for, it refuses nobody.
    setup.write(&off);
    let relay = setup.serve().await;
    let mut client = Client::greeted(relay.address()).await.0;
    client.ask("MAIL FROM:<a@shop.example>").await;
    assert_eq!(client.ask("RCPT TO:<gone@x.example>").await, TAKEN);
}

#[tokio::test]
async fn a_list_that_cannot_be_written_is_kept_in_memory_and_written_when_it_can_be_again() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(start()));
    // The file is made, and then the first line of it fails.
    let files = FaultyFiles::new(1, std::io::ErrorKind::Other);
    let list = Suppressions::open(files.clone(), dir.path(), TTL, clock.clone()).unwrap();
    let first = Address::parse("first@example.net").unwrap();
    list.add(&first, "550 5.1.1 unknown");
    let file = dir.path().join("suppressed");
    let mut later = 0..;
    eventually_so("the first address is written after all", || {
        clock.advance(Duration::from_secs(61));
        let next = format!("later{}@example.net", later.next().unwrap());
        list.add(&Address::parse(&next).unwrap(), "550 5.1.1 unknown");
        files.has_failed() && std::fs::read_to_string(&file).is_ok_and(|text| text.contains("first@"))
    })
    .await;
    let found = list.find(&first).unwrap();
    drop(list);
    let list = Suppressions::open(Arc::new(RealFiles), dir.path(), TTL, clock).unwrap();
    assert_eq!(list.find(&first), Some(found));
}

#[test]
fn d4_a_list_that_cannot_be_opened_stops_no_start_and_works_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let files = FaultyFiles::new(0, std::io::ErrorKind::Other);
    let list = Suppressions::open(files.clone(), dir.path(), TTL, Clock::system()).unwrap();
    assert!(files.has_failed());
    let address = Address::parse("b@example.net").unwrap();
    list.add(&address, "550 5.1.1 unknown");
    assert!(list.find(&address).is_some());
}
