//! What is promised about recipients at RCPT: who is refused with which words, and that a failure never refuses one.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_server::proto::rr::RecordType;
use oncemail::clock::Clock;
use oncemail::dns::{self, Dns};
use oncemail::submission::{BindError, Recipients, Server};

use crate::common::client::Client;
use crate::common::dns_server::{DnsServer, Lie};
use crate::common::far_side::FarSide;
use crate::common::listener::{Running, options, recipients, write};
use crate::common::log::Log;
use crate::common::program::Setup;

const MAIL: &str = "MAIL FROM:<a@example.com>";
const TAKEN: &str = "250 2.1.5 Recipient OK";

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

#[tokio::test]
async fn only_what_dns_says_for_good_refuses_a_recipient() {
    let dns = DnsServer::new()
        .mx("x.example", 10, "mx.x.example")
        .a("implicit.example", "127.0.0.1")
        .mx("xn--bcher-kva.example", 10, "mx.x.example")
        .cname("alias.example", "x.example")
        .mx("null.example", 0, ".")
        .txt("bare.example", &["no mail here"])
        .mx("xn--no-punycode.example", 10, "mx.x.example")
        .start()
        .await;
    let trouble = [
        ("servfail.example", Lie::ServFail),
        ("silent.example", Lie::Silence),
        ("garbage.example", Lie::Garbage),
        ("cut.example", Lie::Truncated),
        ("size.example", Lie::WrongSize),
        ("mixed.example", Lie::OtherQuestion),
    ];
    for (name, lie) in trouble {
        dns.lie(name, lie);
    }
    let recipients = Recipients { dns: dns.dns(), suppressions: None };
    let server = Running::start_with(recipients, |options| options.verify.mx = true).await;
    let mut client = server.client().await;
    client.ask(&format!("{MAIL} SMTPUTF8")).await;
    for (path, expected) in [
        ("b@x.example", TAKEN),
        ("b@implicit.example", TAKEN),
        ("b@bücher.example", TAKEN),
        ("b@alias.example", TAKEN),
        ("b@xn--no-punycode.example", TAKEN),
        ("b@xn--zzzzzzzzz.example", "550 5.1.2 the domain xn--zzzzzzzzz.example does not exist"),
        ("b@[192.0.2.1]", TAKEN),
        ("b@nothing.example", "550 5.1.2 the domain nothing.example does not exist"),
        ("b@bare.example", "550 5.1.2 bare.example has neither an MX record nor an address"),
        ("b@null.example", "556 5.1.10 the domain null.example takes no mail (null MX)"),
    ] {
        assert_eq!(client.ask(&format!("RCPT TO:<{path}>")).await, expected);
    }
    for (name, lie) in trouble {
        assert_eq!(client.ask(&format!("RCPT TO:<b@{name}>")).await, TAKEN, "{lie:?}");
    }
    client.ask("DATA").await;
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
    let [message] = server.messages().try_into().unwrap();
    let marked = message.envelope.recipients.iter().filter(|r| r.unverified);
    let marked: Vec<_> = marked.map(|r| r.forward_path.domain().unwrap()).collect();
    assert_eq!(marked, trouble.map(|(name, _)| name));
}

#[tokio::test]
async fn nobody_asks_dns_unless_it_is_switched_on() {
    let dns = DnsServer::new().start().await;
    let recipients = Recipients { dns: dns.dns(), suppressions: None };
    let server = Running::start_with(recipients, |_| ()).await;
    let mut client = server.client().await;
    client.ask(MAIL).await;
    for domain in ["nothing.example", "localhost", "mail.invalid"] {
        assert_eq!(client.ask(&format!("RCPT TO:<b@{domain}>")).await, TAKEN);
        assert_eq!(dns.asked(domain, RecordType::MX), 0);
    }
}

#[tokio::test]
async fn the_program_marks_who_was_not_verified_from_rcpt_to_delivery() {
    let dns = DnsServer::new().mx("x.example", 10, "mx.x.example").start().await;
    dns.lie("servfail.example", Lie::ServFail);
    let far = FarSide::new().start().await;
    let setup = Setup::with(&format!(
        r#"
[dns]
servers = ["{}"]
timeout = "1s"
[verify]
syntax = true
mx = true
disposable_file = "{{base}}/disposable"
[[route]]
name = "out"
transport = "smarthost"
hosts = ["{}"]
tls = "none"
"#,
        dns.address, far.address
    ));
    write(&setup.dir.path().join("disposable"), "thrown.example\n");
    let mut relay = setup.serve().await;
    let mut client = Client::greeted(relay.address()).await.0;
    client.ask(MAIL).await;
    for (domain, expected) in [
        ("thrown.example", "550 5.7.1 No mail is sent to disposable addresses (thrown.example)"),
        ("x.invalid", "553 5.1.3 The recipient's domain is reserved and takes no mail"),
        ("nothing.example", "550 5.1.2 the domain nothing.example does not exist"),
        ("x.example", TAKEN),
        ("servfail.example", TAKEN),
    ] {
        assert_eq!(client.ask(&format!("RCPT TO:<b@{domain}>")).await, expected);
    }
    client.ask("DATA").await;
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
    assert_eq!(relay.says("submission").await["unverified"], 1);
    let mut marks = Vec::new();
    for _ in 0..2 {
        let line = relay.says("delivery").await;
        assert_eq!(line["outcome"], "delivered");
        marks.push((line["recipient"].as_str().unwrap().to_owned(), line["unverified"].as_bool()));
    }
    marks.sort();
    assert_eq!(marks, [("b@servfail.example".to_owned(), Some(true)), ("b@x.example".to_owned(), None)]);
}
