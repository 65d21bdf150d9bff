//! What a submission server promises beyond the words of a dialogue: time, limits, users, the log.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use governor::Quota;
use oncemail::clock::Clock;
use oncemail::mail::{Body, Handling, Message, Notify, Progress, QueueId, Ret, ScopedKey};
use oncemail::store::memory::MemoryStore;
use oncemail::store::{Acceptance, Forgotten, KeyClaim, KeyRecord, Status, Store, StoreError, StoreFuture};
use oncemail::submission::options::{AuthMode, TlsMode};
use oncemail::submission::{BindError, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::common::client::{AUTH, Client};
use crate::common::listener::{Running, options, recipients, serve, user, write, write_certificate};
use crate::common::log::Log;

const SHORT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_message_is_handed_over_as_it_was_sent() {
    let server = Running::start(|_| ()).await;
    let mut client = server.client().await;
    let mail = "MAIL FROM:<A@Example.com> BODY=8BITMIME RET=HDRS ENVID=id+20x SIZE=99";
    assert!(client.ask(mail).await.starts_with("250"));
    let rcpt = "RCPT TO:<@route.example:B@Example.org> NOTIFY=FAILURE ORCPT=rfc822;B@Example.org";
    assert!(client.ask(rcpt).await.starts_with("250"));
    client.ask("DATA").await;
    let reply = client.ask("Subject: x\r\n\r\n..dot\r\n\u{fc}\t\r\n.").await;
    let [message] = server.messages().try_into().unwrap();
    assert_eq!(reply, format!("250 2.0.0 OK Message queued as {}", message.id));
    assert!(message.content.ends_with("Subject: x\r\n\r\n.dot\r\n\u{fc}\t\r\n".as_bytes()));
    let envelope = &message.envelope;
    assert_eq!(envelope.reverse_path.as_str(), "A@Example.com");
    assert_eq!(
        (envelope.body, envelope.smtputf8, envelope.ret),
        (Body::EightBitMime, false, Some(Ret::Headers))
    );
    assert_eq!(envelope.envid.as_deref(), Some("id+20x"));
    assert_eq!(envelope.recipients[0].forward_path.as_str(), "B@Example.org");
    assert_eq!(envelope.recipients[0].notify, Some(Notify { failure: true, ..Notify::default() }));
    assert_eq!(envelope.recipients[0].orcpt.as_deref(), Some("rfc822;B@Example.org"));
    assert_eq!(message.origin.listener, "test");
    assert!(message.origin.client.unwrap().is_loopback());
}

#[tokio::test]
async fn how_a_message_wants_to_be_carried_is_handed_over() {
    let (log, _guard) = Log::start();
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let server = Running::start(|options| {
        options.listeners[0].tls = TlsMode::Implicit;
        options.tls = Some(tls);
    })
    .await;
    let mut client = Client::connect(server.address).await.encrypt(&root).await.unwrap();
    assert!(client.reply().await.starts_with("220"));
    let ehlo = client.ask("EHLO client.example").await;
    assert!(ehlo.lines().any(|line| line.get(4..) == Some("REQUIRETLS")), "{ehlo}");
    let mail = "MAIL FROM:<a@example.com> REQUIRETLS MT-PRIORITY=-4 HOLDUNTIL=2026-11-23T10:30:00Z";
    assert!(client.ask(mail).await.starts_with("250 2.1.0"));
    client.ask("RCPT TO:<b@example.org>").await;
    client.ask("DATA").await;
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
    let [message] = server.messages().try_into().unwrap();
    let release_at = Some(server.clock.now().plus(Duration::from_secs(86_400)));
    assert_eq!(message.envelope.handling, Handling { require_tls: true, priority: -4, release_at });
    let events = log.events();
    let line = &events.iter().find(|e| e["fields"]["message"] == "submission").unwrap()["fields"];
    assert_eq!(line["release_at"], "2026-11-23T10:30:00Z", "{line}");
    assert_eq!((&line["priority"], &line["require_tls"]), (&(-4).into(), &true.into()), "{line}");
}

#[tokio::test]
async fn i1_a_keyed_scheduled_message_replays_like_any_other() {
    let server = Running::start(|_| ()).await;
    let mut client = server.client().await;
    let mut submit = async |parameters: &str| {
        client.ask(&format!("MAIL FROM:<a@example.com>{parameters}")).await;
        client.ask("RCPT TO:<b@example.org>").await;
        client.ask("DATA").await;
        client.ask("X-Idempotency-Key: monday\r\nSubject: x\r\n\r\nhello\r\n.").await
    };
    let until = " HOLDUNTIL=2026-11-22T11:30:00Z";
    let first = submit(until).await;
    let [message] = server.messages().try_into().unwrap();
    assert_eq!(first, format!("250 2.0.0 OK Message queued as {}", message.id));
    let hour = Duration::from_secs(3_600);
    assert_eq!(message.envelope.handling.release_at, Some(server.clock.now().plus(hour)));
    let replayed = format!("250 2.0.0 OK Message already queued as {} (idempotent replay)", message.id);
    assert_eq!(submit(until).await, replayed);
    // How it is to be carried is no part of what it is: the first word holds.
    assert_eq!(submit(" HOLDFOR=60 MT-PRIORITY=9").await, replayed);
    assert_eq!(submit("").await, replayed);
    // A retry that comes after the hour.
    server.clock.advance(2 * hour);
    assert_eq!(submit(until).await, replayed);
    assert_eq!(server.messages().len(), 1);
    assert_eq!(server.messages()[0].envelope.handling, message.envelope.handling);
}

#[tokio::test]
async fn received_records_the_priority_that_mail_asked_for() {
    let server = Running::start(|_| ()).await;
    let mut client = server.client().await;
    for parameter in ["", " MT-PRIORITY=0", " MT-PRIORITY=-3"] {
        server.clock.advance(Duration::from_millis(1));
        client.ask(&format!("MAIL FROM:<a@example.com>{parameter}")).await;
        client.ask("RCPT TO:<b@example.org>").await;
        client.ask("DATA").await;
        assert!(client.ask("Subject: x\r\n\r\nhello\r\n.").await.starts_with("250 2.0.0"));
    }
    let traces = server.messages().into_iter().map(|message| {
        let content = String::from_utf8(message.content.to_vec()).unwrap();
        content.split_once(';').unwrap().0.replace("\r\n\t", " ")
    });
    let priority = |trace: String| trace.split_once(" PRIORITY ").map(|(_, priority)| priority.to_owned());
    assert_eq!(traces.map(priority).collect::<Vec<_>>(), [None, None, Some("-3".to_owned())]);
}

#[tokio::test]
async fn every_wait_for_the_client_ends() {
    let server = Running::start(|options| options.limits.command_timeout = SHORT).await;
    let mut client = Client::connect(server.address).await;
    assert!(client.reply().await.starts_with("220"));
    assert!(client.reply().await.starts_with("421 4.4.2"));
    assert!(client.is_closed().await);

    let server = Running::start(|options| options.limits.data_block_timeout = SHORT).await;
    let mut client = server.client().await;
    client.begin().await;
    assert!(client.reply().await.starts_with("421 4.4.2"));
    assert!(client.is_closed().await);

    let server = Running::start(|options| options.limits.data_timeout = SHORT).await;
    let mut client = server.client().await;
    client.send("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nBDAT 3\r\nabc").await;
    for _ in 0..3 {
        assert!(client.reply().await.starts_with("250"));
    }
    // Between two chunks the clock of the whole message goes on.
    assert!(client.reply().await.starts_with("421 4.4.2"));
    assert!(client.is_closed().await);
    assert!(server.messages().is_empty());
}

/// Sends `octet` again and again, never long after the last one, and gives back what the server says until it closes.
async fn trickle(client: Client, octet: u8) -> String {
    let (mut reader, mut writer) = tokio::io::split(client.into_stream());
    let trickling = tokio::spawn(async move {
        while writer.write_all(&[octet]).await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let mut said = Vec::new();
    // The end may be a reset: the client is still talking.
    let _ = timeout(Duration::from_secs(20), reader.read_to_end(&mut said)).await.expect("an end");
    trickling.abort();
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn s2_a_client_that_sends_an_octet_now_and_then_is_given_up() {
    // In time for each block of DATA, but not for the whole.
    let server = Running::start(|options| options.limits.data_timeout = 2 * SHORT).await;
    let mut client = server.client().await;
    client.begin().await;
    assert!(trickle(client, b'x').await.starts_with("421 4.4.2"));
    // A chunk that nobody asked for.
    let mut client = server.client().await;
    client.send("BDAT 18446744073709551615\r\n").await;
    assert!(trickle(client, b'x').await.starts_with("421 4.4.2"));
    // A command has one time for all of its octets, and so has the rest of a line that was refused.
    let server = Running::start(|options| options.limits.command_timeout = 2 * SHORT).await;
    assert!(trickle(server.client().await, b'x').await.starts_with("421 4.4.2"));
    let mut client = server.client().await;
    client.send("x\n").await;
    assert!(client.reply().await.starts_with("500 5.5.2"));
    assert!(trickle(client, b'x').await.starts_with("421 4.4.2"));
    assert!(server.messages().is_empty());
}

#[tokio::test]
async fn fifty_new_connections_with_auth_cost_one_password_hash() {
    let (log, _guard) = Log::start();
    let server = Running::start(|options| {
        options.listeners[0].auth = AuthMode::Required;
        options.users = vec![user("ann")];
    })
    .await;
    let hashed =
        || log.events().iter().filter(|e| e["fields"]["message"] == "a password is being hashed").count();
    // All at once, before anything is remembered.
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = server.client().await;
        client.send(format!("{AUTH}\r\n")).await;
        clients.push(client);
    }
    for mut client in clients {
        assert!(client.reply().await.starts_with("235"));
    }
    assert_eq!(hashed(), 1);
    // And one after the other.
    for _ in 0..50 {
        assert!(server.client().await.ask(AUTH).await.starts_with("235"));
    }
    assert_eq!(hashed(), 1);
    // A wrong password is not remembered as anything.
    assert!(server.client().await.ask("AUTH PLAIN AGFubgB3cm9uZw==").await.starts_with("535"));
    assert_eq!(hashed(), 2);
}

#[tokio::test]
async fn s2_a_client_that_never_reads_is_given_up() {
    let server = Running::start(|options| options.limits.command_timeout = SHORT).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    let begun = "EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
    client.write_all(begun.as_bytes()).await.unwrap();
    let commands = "BDAT 1\r\nx".repeat(10_000);
    // Our replies fill the buffers of both sockets, then the server waits; writing fails once it has given up.
    let mut given_up = Ok(());
    while given_up.is_ok() {
        let write = client.write_all(commands.as_bytes());
        given_up = timeout(Duration::from_secs(20), write).await.expect("the server still waits");
    }
}

#[tokio::test]
async fn s2_the_place_and_memory_of_a_lost_client_are_free_again() {
    let server = Running::start(|options| {
        options.limits.receive_memory = 20_000;
        options.limits.connections = 1;
    })
    .await;
    let mut lost = server.client().await;
    lost.begin().await;
    lost.send("x".repeat(15_000)).await;
    let mut turned_away = Client::connect(server.address).await;
    assert!(turned_away.reply().await.starts_with("421 4.3.2"));
    drop(lost);
    for _ in 0..1_000 {
        let mut next = Client::connect(server.address).await;
        if next.reply().await.starts_with("220") {
            next.ask("EHLO client.example").await;
            next.begin().await;
            next.send("x".repeat(15_000)).await;
            assert!(next.ask("\r\n.").await.starts_with("250 2.0.0"));
            return;
        }
    }
    panic!("the lost client's place is still taken");
}

/// A store that breaks its caller, once.
struct Panicking {
    store: MemoryStore,
    armed: AtomicBool,
}

impl Store for Panicking {
    fn find_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Option<KeyRecord>> {
        self.store.find_key(key)
    }
    fn accept(&self, message: Arc<Message>, claim: Option<KeyClaim>) -> StoreFuture<'_, Acceptance> {
        self.store.accept(message, claim)
    }
    fn save_with(&self, id: QueueId, progress: Progress, notices: Vec<Arc<Message>>) -> StoreFuture<'_, ()> {
        self.store.save_with(id, progress, notices)
    }
    fn load(&self, id: QueueId) -> StoreFuture<'_, Option<(Arc<Message>, Progress)>> {
        self.store.load(id)
    }
    fn forget_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Forgotten> {
        self.store.forget_key(key)
    }
    fn status(&self) -> Status {
        assert!(!self.armed.swap(false, Ordering::SeqCst), "this panic belongs to the test");
        self.store.status()
    }
    fn close(&self) -> StoreFuture<'_, ()> {
        self.store.close()
    }
}

#[tokio::test]
async fn s2_a_session_that_panics_ends_alone_and_gives_its_place_back() {
    let (clock, shutdown) = (Clock::system(), CancellationToken::new());
    let store = Panicking { store: MemoryStore::new(clock.clone(), None), armed: AtomicBool::new(true) };
    let mut options = options();
    options.limits.connections = 2;
    let (address, ended) = serve(options, Arc::new(store), &clock, &shutdown, SHORT).await;
    let (mut bystander, _) = Client::greeted(address).await;
    let (mut client, _) = Client::greeted(address).await;
    client.send("MAIL FROM:<a@example.com>\r\n").await;
    assert!(client.is_closed().await);
    assert!(bystander.ask("MAIL FROM:<a@example.com>").await.starts_with("250"));
    Client::greeted(address).await;
    shutdown.cancel();
    ended.await.unwrap();
}

#[tokio::test]
async fn a_user_over_its_rate_is_told_to_wait() {
    let server = Running::start(|options| {
        options.listeners[0].auth = AuthMode::Required;
        options.users = vec![user("ann")];
        options.users[0].rate = Some(Quota::per_hour(NonZeroU32::new(2).unwrap()));
    })
    .await;
    let mut client = server.client().await;
    assert!(client.ask(AUTH).await.starts_with("235"));
    for expected in ["250", "250", "451 4.7.1"] {
        assert!(client.ask("MAIL FROM:<a@example.com>").await.starts_with(expected));
        client.ask("RSET").await;
    }
}

#[tokio::test]
async fn d1_a_store_that_cannot_write_is_never_answered_with_250() {
    let server = Running::start(|_| ()).await;
    let mut client = server.client().await;
    client.begin().await;
    server.store.fail_with(Some(StoreError::Latched("sync failed".into())));
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("451 4.3.0"));
    assert!(client.ask("MAIL FROM:<a@example.com>").await.starts_with("451 4.3.0"));
    server.store.fail_with(Some(StoreError::LowDisk { free_bytes: 1 }));
    assert!(client.ask("MAIL FROM:<a@example.com>").await.starts_with("452 4.3.1"));
    server.store.fail_with(None);
    client.begin().await;
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
}

#[tokio::test]
async fn a_listener_that_cannot_be_set_up_is_named() {
    let taken = Running::start(|_| ()).await;
    let problem = async |adjust: &dyn Fn(&mut oncemail::submission::Options)| {
        let mut options = options();
        adjust(&mut options);
        let clock = Clock::system();
        let store = Arc::new(MemoryStore::new(clock.clone(), None));
        let intake =
            oncemail::intake::Intake::new(store, crate::common::listener::intake_options(), clock.clone());
        let bound: Result<Server, BindError> =
            Server::bind(options, Arc::new(intake), clock, recipients()).await;
        bound.err().unwrap().to_string()
    };
    let text = problem(&|options| options.listeners[0].address = taken.address).await;
    assert!(text.contains("\"test\"") && text.contains(&taken.address.to_string()), "{text}");
    let text = problem(&|options| options.listeners[0].tls = TlsMode::StartTls).await;
    assert!(text.contains("[tls] is missing"), "{text}");
    let directory = tempfile::tempdir().unwrap();
    let (tls, _) = write_certificate(directory.path());
    write(&tls.key_file, "not a key");
    let text = problem(&|options| options.tls = Some(tls.clone())).await;
    assert!(text.contains("key.pem"), "{text}");
    let (other, _) = write_certificate(tempfile::tempdir().unwrap().path());
    let text = problem(&|options| options.tls = Some(other.clone())).await;
    assert!(text.contains("certificate.pem: ") && text.contains("No such file"), "{text}");
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [(mut one, _), (two, _)] =
        directories.each_ref().map(|directory| write_certificate(directory.path()));
    one.key_file = two.key_file;
    let text = problem(&|options| options.tls = Some(one.clone())).await;
    assert!(text.contains("certificate.pem with ") && text.contains("key.pem: "), "{text}");
    let text = problem(&|options| {
        options.users = vec![user("ann")];
        options.users[0].password_hash = "secret".into();
    });
    assert!(text.await.contains("\"ann\""));
}

#[tokio::test]
async fn each_submission_is_one_line_in_the_log_without_content_or_password() {
    let (log, _guard) = Log::start();
    let server = Running::start(|options| {
        options.listeners[0].auth = AuthMode::Required;
        options.users = vec![user("ann")];
    })
    .await;
    let mut client = server.client().await;
    client.ask(AUTH).await;
    client.begin().await;
    client.ask("Subject: private\r\n\r\nprivate\r\n.").await;
    client.begin().await;
    client.ask("private\n\r\n.").await;
    let text = log.text();
    assert!(!text.contains("secret") && !text.contains("private") && !text.contains("AGFubg"), "{text}");
    let lines = log.events();
    let lines: Vec<_> = lines.iter().filter(|line| line["target"] == "oncemail::submission").collect();
    let [queued, refused] = lines.as_slice() else { panic!("{text}") };
    let fields = &queued["fields"];
    assert_eq!(fields["message"], "submission");
    assert_eq!((&fields["result"], &fields["code"]), (&"queued".into(), &250.into()));
    assert_eq!(fields["queue_id"], server.messages()[0].id.to_string());
    assert_eq!((&fields["user"], &fields["listener"]), (&"ann".into(), &"test".into()));
    assert_eq!((&fields["reverse_path"], &fields["client"]), (&"a@example.com".into(), &"127.0.0.1".into()));
    assert_eq!((&fields["recipients"], &fields["size"]), (&1.into(), &29.into()));
    assert!(fields["duration_ms"].is_u64());
    let fields = &refused["fields"];
    assert_eq!((&fields["result"], &fields["code"]), (&"refused".into(), &550.into()));
    assert_eq!(fields["reply"], "5.6.11 Bare CR or LF in the message");
}
