//! Attacks on a listener, and too much of a good thing: each has a bounded effect, and an honest message goes through while it
//! lasts. `cargo bench --bench load -- scenario besieged overload` is the long form, with figures.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::intake::Intake;
use oncemail::mail::{Message, Progress, QueueId, ScopedKey};
use oncemail::store::memory::MemoryStore;
use oncemail::store::{Acceptance, Forgotten, KeyClaim, KeyRecord, Status, Store, StoreFuture};
use oncemail::submission::Reception;
use oncemail::submission::options::AuthMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::common::client::{AUTH, Client};
use crate::common::listener::{Running, intake_options, options, recipients, serve, user};

const PATIENCE: Duration = Duration::from_secs(30);
/// `\0ann\0` and something else.
const WRONG: &str = "AUTH PLAIN AGFubgB3cm9uZw==";

/// Hands over one message on a connection that is ready for it.
async fn submit(client: &mut Client) -> String {
    client.begin().await;
    client.ask("Subject: x\r\n\r\nhello\r\n.").await
}

/// A connection from the loopback address with this number.
async fn from(number: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 1, number), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn s2_where_places_run_out_whoever_only_sits_there_goes_and_the_others_stay() {
    let server = Running::start(|options| {
        options.limits.connections = 4;
        options.listeners[0].auth = AuthMode::Optional;
        options.users = vec![user("ann")];
    })
    .await;
    let mut known = server.client().await;
    assert!(known.ask(AUTH).await.starts_with("235"));
    let mut idle = server.client().await;
    let mut slow = server.client().await;
    slow.begin().await;
    let mut writer = slow.into_stream();
    let trickling = tokio::spawn(async move {
        let mut said = Vec::new();
        while !said.starts_with(b"421 4.4.2") {
            let _ = writer.write_all(b"x").await;
            if let Ok(read) = timeout(Duration::from_millis(100), writer.read_buf(&mut said)).await {
                assert!(read.unwrap() > 0, "it is told why");
            }
        }
    });
    // An octet now and then keeps a place no longer than a minute; nothing at all for some seconds.
    assert!(timeout(PATIENCE, idle.reply()).await.unwrap().starts_with("421 4.4.2"));
    assert!(idle.is_closed().await);
    drop(idle);
    let mut honest = server.client().await;
    assert!(submit(&mut honest).await.starts_with("250 2.0.0"));
    assert!(known.ask("NOOP").await.starts_with("250"));
    assert!(!trickling.is_finished());
    trickling.abort();
    assert_eq!(server.messages().len(), 1);
}

#[tokio::test]
async fn s2_guesses_from_many_addresses_end_and_an_honest_login_goes_through() {
    let server = Running::start(|options| {
        options.limits.connections = 1_000;
        options.listeners[0].auth = AuthMode::Required;
        options.users = vec![user("ann")];
    })
    .await;
    let guess = |number: usize| {
        let address = server.address;
        async move {
            let mut stream = from((number % 250 + 1) as u8, address).await;
            stream.write_all(format!("EHLO x\r\n{WRONG}{number:04}\r\nQUIT\r\n").as_bytes()).await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            said
        }
    };
    let guesses: Vec<_> = (0..200).map(|number| tokio::spawn(guess(number))).collect();
    // Its first login is a stranger's, and may be told to come again.
    let mut honest = server.client().await;
    while !honest.ask(AUTH).await.starts_with("235") {
        honest = server.client().await;
    }
    assert!(submit(&mut honest).await.starts_with("250 2.0.0"));
    for guess in guesses {
        let said = timeout(PATIENCE, guess).await.unwrap().unwrap();
        let is_refused = ["535 5.7.8", "454 4.7.0", "501 5.5.2"].iter().any(|word| said.contains(word));
        assert!(is_refused && !said.contains("235 "), "{said}");
    }
    assert_eq!(server.messages().len(), 1);
}

#[tokio::test]
async fn s2_floods_of_small_commands_and_of_connections_leave_room_for_an_honest_message() {
    let server = Running::start(|options| options.limits.connections_per_ip = 8).await;
    let mut attackers = Vec::new();
    for (number, flood) in
        ["NOOP\r\n", "RSET\r\n", "EHLO x\r\n", "VRFY x\r\n", "BDAT 1\r\nx"].into_iter().enumerate()
    {
        let address = server.address;
        attackers.push(tokio::spawn(async move {
            let mut served = 0_u32;
            loop {
                let mut stream = from(number as u8 + 1, address).await;
                // Whoever makes too many errors is closed, and comes again; nobody reads what is said.
                while stream.write_all(flood.repeat(50).as_bytes()).await.is_ok() {
                    served += 1;
                    let mut some = [0; 4_096];
                    let _ = timeout(Duration::from_millis(1), stream.read(&mut some)).await;
                }
                if served == u32::MAX {
                    return;
                }
            }
        }));
    }
    for number in 0..200 {
        drop(from(number % 250 + 1, server.address).await);
    }
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(from(200, server.address).await);
    }
    for _ in 0..3 {
        let mut honest = server.client().await;
        assert!(submit(&mut honest).await.starts_with("250 2.0.0"));
    }
    attackers.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(server.messages().len(), 3);
}

/// All of the flood is there before anybody else says a word, and there is one thread for both.
#[tokio::test]
async fn s2_a_flood_that_never_has_to_be_waited_for_leaves_others_their_turn() {
    const CHUNKS: usize = 5_000;
    let (clock, shutdown) = (Clock::system(), CancellationToken::new());
    let store = Arc::new(MemoryStore::new(clock.clone(), None));
    let intake = Arc::new(Intake::new(store, intake_options(), clock.clone()));
    let reception = Reception::unbound(options(), intake, clock, recipients()).unwrap();
    let attend = |stream| {
        let (reception, shutdown) = (reception.clone(), shutdown.clone());
        tokio::spawn(async move { reception.attend(stream, ([127, 0, 0, 1], 1).into(), &shutdown).await })
    };
    let (mut attacker, flooded) = duplex(1 << 20);
    let begun = "EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
    let flood = format!("{begun}{}", "BDAT 1\r\nx".repeat(CHUNKS));
    attacker.write_all(flood.as_bytes()).await.unwrap();
    let (mut honest, served) = duplex(1 << 12);
    honest.write_all(b"NOOP\r\nQUIT\r\n").await.unwrap();
    let (flooding, serving) = (attend(flooded), attend(served));
    let mut said = String::new();
    timeout(PATIENCE, honest.read_to_string(&mut said)).await.unwrap().unwrap();
    assert!(said.contains("\r\n250 2.0.0 OK\r\n221 "), "{said}");
    assert!(!flooding.is_finished());
    // What there is by now, without a pause in which more could come; and then all of it.
    let mut replies = Vec::with_capacity(1 << 20);
    timeout(PATIENCE, attacker.read_buf(&mut replies)).await.unwrap().unwrap();
    let answered = |replies: &[u8]| replies.windows(17).filter(|at| *at == b"1 octets received").count();
    assert!(answered(&replies) < CHUNKS / 2, "{} of {CHUNKS} were answered first", answered(&replies));
    while answered(&replies) < CHUNKS {
        assert!(timeout(PATIENCE, attacker.read_buf(&mut replies)).await.unwrap().unwrap() > 0);
    }
    drop(attacker);
    timeout(PATIENCE, async { (flooding.await.unwrap(), serving.await.unwrap()) }).await.unwrap();
}

/// Each connection begins a message, sends some of it and no more, so long as there is memory; gives back how much is held.
async fn fill(clients: &mut [TcpStream]) -> usize {
    let mut held = 0;
    let mut idle: Vec<_> = clients.iter_mut().collect();
    for octets in [100_000, 20_000, 4_000] {
        let begin = "EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
        let some = format!("{begin}BDAT {octets}\r\n{}VRFY mark\r\n", "x".repeat(octets));
        let mut refused = Vec::new();
        for client in idle {
            client.write_all(some.as_bytes()).await.unwrap();
            let mut said = String::new();
            while !said.contains("252 2.5.2") {
                let mut more = [0; 4_096];
                let read = timeout(PATIENCE, client.read(&mut more)).await.unwrap().unwrap();
                assert!(read > 0, "{said}");
                said.push_str(&String::from_utf8_lossy(&more[..read]));
            }
            match said.contains("octets received") {
                true => held += octets,
                false => refused.push(client),
            }
        }
        idle = refused;
    }
    held
}

/// Half-sent messages of one client, or of a few, that will never end.
#[tokio::test]
async fn s2_a_client_that_fills_the_memory_with_half_messages_keeps_no_honest_one_out() {
    for (addresses, connections) in [(1, 60), (4, 15)] {
        let server = Running::start(|options| {
            options.limits.receive_memory = 4 << 20;
            options.limits.connections = 1_000;
        })
        .await;
        let mut attackers = Vec::new();
        for number in 0..addresses {
            for _ in 0..connections {
                attackers.push(from(number + 1, server.address).await);
            }
        }
        let held = fill(&mut attackers).await;
        assert!(held > 1_500_000, "{held}: most of the memory may be used");
        let body = format!("Subject: x\r\n\r\n{}\r\n.", "hello\r\n".repeat(50_000 / 7));
        for _ in 0..3 {
            let mut honest = server.client().await;
            assert!(honest.ask("MAIL FROM:<a@example.com> SIZE=50100").await.starts_with("250"));
            honest.ask("RCPT TO:<b@example.org>").await;
            honest.ask("DATA").await;
            let reply = honest.ask(&body).await;
            assert!(reply.starts_with("250 2.0.0"), "{addresses} addresses: {reply}");
        }
        // Whoever has taken so much hears of it before more has come for nothing.
        let mut late = from(1, server.address).await;
        late.write_all(b"EHLO x\r\nMAIL FROM:<a@example.com> SIZE=1000000\r\nQUIT\r\n").await.unwrap();
        let mut said = String::new();
        late.read_to_string(&mut said).await.unwrap();
        assert!(said.contains("452 4.3.1"), "{said}");
        // Its memory is there again when it has gone.
        drop(attackers);
        timeout(PATIENCE, async { while !late_is_welcome(&server).await {} }).await.unwrap();
        assert_eq!(server.messages().len(), 3);
    }
}

async fn late_is_welcome(server: &Running) -> bool {
    let mut late = from(1, server.address).await;
    late.write_all(b"EHLO x\r\nMAIL FROM:<a@example.com> SIZE=1000000\r\nQUIT\r\n").await.unwrap();
    let mut said = String::new();
    late.read_to_string(&mut said).await.unwrap();
    said.contains("250 2.1.0")
}

/// A store whose commits take their time, or wait for a permit.
struct Slow {
    store: MemoryStore,
    is_gated: AtomicBool,
    gate: Semaphore,
    waiting: watch::Sender<usize>,
}

impl Store for Slow {
    fn find_key<'a>(&'a self, key: &'a ScopedKey) -> StoreFuture<'a, Option<KeyRecord>> {
        self.store.find_key(key)
    }
    fn accept(&self, message: Arc<Message>, claim: Option<KeyClaim>) -> StoreFuture<'_, Acceptance> {
        Box::pin(async move {
            self.waiting.send_modify(|waiting| *waiting += 1);
            if self.is_gated.load(Ordering::SeqCst) {
                self.gate.acquire().await.unwrap().forget();
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.waiting.send_modify(|waiting| *waiting -= 1);
            self.store.accept(message, claim).await
        })
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
        self.store.status()
    }
    fn close(&self) -> StoreFuture<'_, ()> {
        self.store.close()
    }
}

#[tokio::test]
async fn i4_s2_what_cannot_be_committed_in_good_time_is_refused_early_and_taken_again_later() {
    let (clock, shutdown) = (Clock::system(), CancellationToken::new());
    let slow = Arc::new(Slow {
        store: MemoryStore::new(clock.clone(), None),
        is_gated: AtomicBool::new(false),
        gate: Semaphore::new(0),
        waiting: watch::Sender::new(0),
    });
    let mut options = options();
    (options.limits.connections, options.limits.connections_per_ip) = (1_000, 1_000);
    let (address, _ended) = serve(options, slow.clone(), &clock, &shutdown, Duration::from_secs(5)).await;
    let (mut bystander, _) = Client::greeted(address).await;
    let mut clients = Vec::new();
    for _ in 0..160 {
        clients.push(Client::greeted(address).await.0);
    }
    // Commits that take long teach it that so many at a time are too many.
    let mut accepted = 0;
    for _ in 0..8 {
        let sent: Vec<_> = clients
            .drain(..)
            .map(|mut client| tokio::spawn(async move { (submit_if_asked(&mut client).await, client) }))
            .collect();
        for sent in sent {
            let (reply, client) = sent.await.unwrap();
            accepted += usize::from(reply.starts_with("250 2.0.0"));
            assert!(["250 2.0.0", "451 4.4.5"].iter().any(|word| reply.starts_with(word)), "{reply}");
            clients.push(client);
        }
    }
    slow.is_gated.store(true, Ordering::SeqCst);
    let (early, late) = clients.split_at_mut(128);
    for client in early.iter_mut() {
        client.begin().await;
    }
    for client in early.iter_mut() {
        client.send("Subject: x\r\n\r\nhello\r\n.\r\n").await;
    }
    timeout(PATIENCE, slow.waiting.subscribe().wait_for(|waiting| *waiting == 128)).await.unwrap().unwrap();
    // At MAIL, and at the greeting; who is in stays in.
    assert!(bystander.ask("MAIL FROM:<a@example.com>").await.starts_with("451 4.4.5"));
    assert!(late[0].ask("MAIL FROM:<a@example.com>").await.starts_with("451 4.4.5"));
    let mut turned_away = Client::connect(address).await;
    assert!(turned_away.reply().await.starts_with("421 4.4.5"));
    // Who comes again at once is not refused again at once, which would cost those who are in: it waits for a moment.
    bystander.send("MAIL FROM:<a@example.com>\r\n").await;
    let mut turned_away = Client::connect(address).await;
    assert!(turned_away.reply().await.starts_with("421 4.4.5"));
    slow.gate.add_permits(1_000);
    for client in early.iter_mut() {
        assert!(client.reply().await.starts_with("250 2.0.0"));
    }
    // It ends by itself.
    assert!(bystander.reply().await.starts_with("250 2.1.0"));
    assert!(bystander.ask("RSET").await.starts_with("250"));
    assert!(submit(&mut bystander).await.starts_with("250 2.0.0"));
    assert!(submit(&mut Client::greeted(address).await.0).await.starts_with("250 2.0.0"));
    assert_eq!(slow.store.messages().len(), accepted + 130, "what was refused is not there");
    shutdown.cancel();
}

/// The reply to the final dot, or the refusal of MAIL.
async fn submit_if_asked(client: &mut Client) -> String {
    let reply = client.ask("MAIL FROM:<a@example.com>").await;
    if !reply.starts_with("250") {
        return reply;
    }
    client.ask("RCPT TO:<b@example.org>").await;
    client.ask("DATA").await;
    client.ask("Subject: x\r\n\r\nhello\r\n.").await
}
