//! What is promised about recipients at RCPT: who is refused with which words, and that a failure never refuses one.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::dns::{self, Dns};
use oncemail::submission::{BindError, Recipients, Server};

use crate::common::listener::{Running, options, recipients, write};
use crate::common::log::Log;

const MAIL: &str = "MAIL FROM:<a@example.com>";

/// Asks a server that is not there.
fn without_dns() -> Recipients {
    let gone: SocketAddr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let timeout = Duration::from_millis(100);
    let options = dns::Options { servers: vec![gone], timeout, ..dns::Options::default() };
    Recipients { dns: Arc::new(Dns::new(options)), suppressions: None }
}

#[tokio::test]
async fn disposable_domains_are_refused_as_their_file_says_now() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disposable");
    write(&file, "# thrown away\nmailinator.example\nBÜCHER.example\n");
    let server = Running::start(|options| options.verify.disposable_file = Some(file.clone())).await;
    let mut client = server.client().await;
    client.ask(&format!("{MAIL} SMTPUTF8")).await;
    for (path, expected) in [
        ("b@mailinator.example", "550 5.7.1 No mail is sent to disposable addresses (mailinator.example)"),
        (
            "b@x.y.MAILINATOR.example",
            "550 5.7.1 No mail is sent to disposable addresses (x.y.mailinator.example)",
        ),
        ("b@bücher.example", "550 5.7.1 No mail is sent to disposable addresses (xn--bcher-kva.example)"),
        ("b@notmailinator.example", "250 2.1.5 Recipient OK"),
        ("b@[192.0.2.1]", "250 2.1.5 Recipient OK"),
        ("postmaster", "250 2.1.5 Recipient OK"),
    ] {
        assert_eq!(client.ask(&format!("RCPT TO:<{path}>")).await, expected);
    }
    write(&file, "other.example\n");
    server.clock.advance(Duration::from_secs(1));
    assert!(client.ask("RCPT TO:<b@mailinator.example>").await.starts_with("250"));
    assert!(client.ask("RCPT TO:<b@other.example>").await.starts_with("550 5.7.1"));
}

#[tokio::test]
async fn a_file_of_domains_that_cannot_be_read_is_named_at_the_start() {
    let mut options = options();
    options.verify.disposable_file = Some("/nowhere/disposable".into());
    let clock = Clock::system();
    let store = Arc::new(oncemail::store::memory::MemoryStore::new(clock.clone(), None));
    let intake = crate::common::listener::intake_options();
    let intake = Arc::new(oncemail::intake::Intake::new(store, intake, clock.clone()));
    let bound: Result<Server, BindError> = Server::bind(options, intake, clock, recipients()).await;
    let problem = bound.err().unwrap();
    assert!(problem.to_string().contains("\"/nowhere/disposable\""), "{problem}");
}

#[tokio::test]
async fn dns_in_trouble_refuses_nobody_and_is_told() {
    let (log, _guard) = Log::start();
    let server = Running::start_with(without_dns(), |options| options.verify.mx = true).await;
    let mut client = server.client().await;
    let rcpts = "RCPT TO:<b@one.example>\r\nRCPT TO:<b@two.example>\r\nRCPT TO:<b@[192.0.2.1]>\r\nDATA\r\n";
    client.send(format!("{MAIL}\r\n{rcpts}")).await;
    for expected in ["250 2.1.0", "250 2.1.5", "250 2.1.5", "250 2.1.5", "354"] {
        let reply = client.reply().await;
        assert!(reply.starts_with(expected), "{reply}");
    }
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
    let [message] = server.messages().try_into().unwrap();
    let marks: Vec<_> = message.envelope.recipients.iter().map(|r| r.unverified).collect();
    assert_eq!(marks, [true, true, false]);
    let events = log.events();
    let told = |name: &str| events.iter().filter(|e| e["fields"]["message"] == name).collect::<Vec<_>>();
    assert_eq!(told("recipient accepted without its check").len(), 2);
    let [line] = told("submission").try_into().unwrap();
    assert_eq!(line["fields"]["unverified"], 2, "{line}");
}

#[tokio::test]
async fn a_refused_recipient_is_told_to_the_log_and_costs_the_others_nothing() {
    let (log, _guard) = Log::start();
    let server = Running::start(|options| options.verify.syntax = true).await;
    let mut client = server.client().await;
    client.ask(MAIL).await;
    // More than a client may make errors in one session.
    for _ in 0..30 {
        assert!(client.ask("RCPT TO:<b@localhost>").await.starts_with("553 5.1.3"));
    }
    assert!(client.ask("DATA").await.starts_with("503 5.5.1"));
    assert!(client.ask("RCPT TO:<b@example.org>").await.starts_with("250 2.1.5"));
    assert!(client.ask("DATA").await.starts_with("354"));
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
    let refused: Vec<_> =
        log.events().into_iter().filter(|e| e["fields"]["message"] == "recipient refused").collect();
    assert_eq!(refused.len(), 30);
    assert_eq!(refused[0]["fields"]["recipient"], "b@localhost");
    assert!(refused[0]["fields"]["reply"].as_str().unwrap().starts_with("5.1.3 "), "{}", refused[0]);
    assert!(!log.text().contains("\"unverified\""));
}
