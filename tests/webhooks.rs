//! Webhooks get every event at least once, signed, whatever they answer, and mail never waits for them.

use std::path::PathBuf;
use std::time::Duration;

use oncemail::mail::RecipientState;
use oncemail::queue::{Announcer, EventKind, Options};
use oncemail::relay::options::{self, EventFile, Host, Sink, SinkTransport, Transport, Webhook};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::common::client::Client;
use crate::common::far_side::{FarSide, PATIENCE};
use crate::common::https_server::{Asked, HttpsServer, http};
use crate::common::program::Setup;
use crate::common::relay_rig::{Rig, patient, queue_options, relay_options, route, to_hosts};

const SECRET: &str = "whsec-of-the-test";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn webhook(server: &HttpsServer, tls: bool) -> Webhook {
    at(server.address, tls, tls.then(|| server.ca_file.clone()))
}

fn at(address: std::net::SocketAddr, tls: bool, ca_file: Option<PathBuf>) -> Webhook {
    let name = if tls { "localhost".to_owned() } else { address.ip().to_string() };
    Webhook {
        tls,
        host: Host { name, port: address.port() },
        path: "/events?for=shop".into(),
        allow_http: false,
        secret: SECRET.to_owned().into(),
        ca_file,
        timeout: Duration::from_secs(10),
    }
}

/// With a webhook named `app` beside the routes.
fn telling(mut options: options::Options, webhook: Webhook) -> options::Options {
    options.sinks.push(Sink { name: "app".into(), transport: SinkTransport::Webhook(webhook) });
    options
}

fn discarding() -> options::Options {
    relay_options(vec![route("nowhere", Transport::Discard)])
}

fn start(options: options::Options, queue: Options) -> Rig {
    let sinks: Vec<_> = options.sinks.iter().map(|sink| sink.name.clone()).collect();
    let rig = Rig::start_with(options, queue);
    let mut announcer = Announcer::new(1000);
    sinks.iter().for_each(|name| assert!(announcer.add(name, &EventKind::ALL)));
    rig.queue.announce_to(Some(announcer));
    rig
}

fn field<'a>(asked: &'a Asked, name: &str) -> &'a str {
    let start = format!("{}: ", name.to_ascii_lowercase());
    let line = asked.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&start));
    line.unwrap_or_else(|| panic!("no {name} in {}", asked.head)).split_once(": ").unwrap().1
}

/// RFC 2104, from the hash function up: not with what made it.
fn hmac_sha256(key: &[u8], text: &[u8]) -> String {
    use ring::digest::{SHA256, digest};
    let pad = |with: u8| (0..64).map(|n| key.get(n).unwrap_or(&0) ^ with).collect::<Vec<u8>>();
    let inner = digest(&SHA256, &[&pad(0x36), text].concat());
    let outer = digest(&SHA256, &[&pad(0x5c), inner.as_ref()].concat());
    outer.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until nothing is queued, events included.
async fn empty(rig: &Rig) {
    rig.store.wait(|_| rig.store.messages().is_empty()).await;
}

#[tokio::test]
async fn an_event_is_posted_over_tls_with_its_signature_its_key_and_its_trace() {
    let server = HttpsServer::start(true, &[], |_, _| http("204 No Content", "text/plain", "")).await;
    let rig = start(telling(discarding(), webhook(&server, true)), queue_options());
    let mut mail = crate::common::relay_rig::message(&rig.clock, &["b@x.example"], "the body");
    mail.content = format!("Traceparent: {TRACEPARENT}\r\n\r\nx\r\n").into();
    let id = rig.submit(mail).await;
    let asked = server.wait(1).await.remove(0);
    assert!(asked.head.starts_with("POST /events?for=shop HTTP/1.1\r\n"), "{}", asked.head);
    let event: Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!((&event["type"], &event["message"]["id"]), (&"delivered".into(), &id.to_string().into()));
    assert_eq!(field(&asked, "Idempotency-Key"), event["id"]);
    assert_eq!(field(&asked, "traceparent"), TRACEPARENT);
    assert_eq!(field(&asked, "Content-Type"), "application/json");
    assert_eq!(field(&asked, "User-Agent"), concat!("oncemail/", env!("CARGO_PKG_VERSION")));
    assert_eq!(field(&asked, "Host"), format!("localhost:{}", server.address.port()));
    let signed = format!("{}.{}", field(&asked, "X-Oncemail-Timestamp"), asked.body);
    let expected = format!("v1={}", hmac_sha256(SECRET.as_bytes(), signed.as_bytes()));
    assert_eq!(field(&asked, "X-Oncemail-Signature"), expected);
    empty(&rig).await;
    assert_eq!(rig.counters.counts().delivered, 1, "an event is no mail");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_nothing() {
    let server = HttpsServer::start(true, &[], |_, _| http("200 OK", "text/plain", "")).await;
    let other = HttpsServer::start(true, &[], |_, _| Vec::new()).await;
    let untrusted = Webhook { ca_file: Some(other.ca_file.clone()), ..webhook(&server, true) };
    let rig = start(telling(discarding(), untrusted), patient());
    rig.send(&["b@x.example"], "x").await;
    let seen = rig.store.wait(|seen| seen.saves.len() == 2).await;
    let event = &seen.saves[1].1.recipients[0];
    assert_eq!(event.state, RecipientState::Queued);
    assert!(event.replies[0].text.contains("TLS"), "{:?}", event.replies);
    assert_eq!(server.asked().len(), 0);
}

#[tokio::test]
async fn s2_whatever_a_receiver_answers_the_event_comes_again_until_it_is_taken() {
    let elsewhere = HttpsServer::start(false, &[], |_, _| http("200 OK", "text/plain", "")).await;
    let redirect =
        format!("HTTP/1.1 307 Moved\r\nLocation: http://{}/\r\nContent-Length: 0\r\n\r\n", elsewhere.address);
    let lies: Vec<Vec<u8>> = vec![
        http("500 Oops", "text/html", "<h1>no"),
        http("404 Not Found", "text/html", ""),
        http("422 No", "text/plain", ""),
        redirect.into_bytes(),
        // A connection that is closed without a word, and one in the middle of the head.
        Vec::new(),
        b"HTTP/1.1 200 O".to_vec(),
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 100_000]].concat(),
    ];
    let most = lies.len();
    let server = HttpsServer::start(false, &[], move |_, before| {
        let last = || [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[b'x'; 100_000]].concat();
        lies.get(before).cloned().unwrap_or_else(last)
    })
    .await;
    let rig = start(telling(discarding(), webhook(&server, false)), queue_options());
    rig.send(&["b@x.example"], "x").await;
    let asked = server.wait(most + 1).await;
    empty(&rig).await;
    let ids: Vec<_> = asked.iter().map(|asked| field(asked, "Idempotency-Key")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    // A body without end changes nothing, and nobody was followed elsewhere.
    assert_eq!((server.asked().len(), elsewhere.asked().len()), (most + 1, 0));
}

#[tokio::test]
async fn only_410_ends_an_event_and_429_only_makes_it_wait() {
    let server = HttpsServer::start(false, &[], |_, before| match before {
        0 => b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => http("410 Gone", "text/plain", ""),
    })
    .await;
    let rig = start(telling(discarding(), webhook(&server, false)), patient());
    rig.send(&["b@x.example"], "x").await;
    // With a back-off of an hour it would not come in time.
    server.wait(2).await;
    empty(&rig).await;
    let seen = rig.store.seen();
    let (_, event) = &seen.saves[1];
    assert_eq!((seen.saves.len(), event.recipients[0].attempts), (2, 1), "being asked to wait is no attempt");
    assert_eq!(event.recipients[0].state, RecipientState::Discarded);
}

#[tokio::test]
async fn mail_goes_on_while_a_webhook_hangs() {
    let far = FarSide::new().start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = at(silent.local_addr().unwrap(), false, None);
    let rig = start(telling(to_hosts(&[far.address]), hanging), queue_options());
    rig.send(&["b@x.example"], "first").await;
    // Nobody answers the event of the first one …
    let (_open, _) = timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
    for n in 0..100 {
        rig.send(&["b@x.example"], &format!("number {n}")).await;
    }
    // … and all the others are delivered meanwhile.
    far.wait(|log| log.taken.len() == 101).await;
    rig.store.wait(|_| rig.queue.event_counts().queued == 101).await;
    rig.running.abort();
}

#[tokio::test]
async fn s2_a_receiver_that_hangs_is_left_after_its_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging =
        Webhook { timeout: Duration::from_millis(100), ..at(silent.local_addr().unwrap(), false, None) };
    let rig = start(telling(discarding(), hanging), patient());
    rig.send(&["b@x.example"], "x").await;
    let seen = rig.store.wait(|seen| seen.saves.len() == 2).await;
    let reply = &seen.saves[1].1.recipients[0].replies[0];
    assert!(reply.code == 0 && reply.text.contains("no answer within 0.1 s"), "{reply:?}");
}

#[tokio::test]
async fn events_that_wait_are_sent_after_a_restart() {
    let gone = crate::common::relay_rig::nobody().await;
    let rig = start(telling(discarding(), at(gone, false, None)), patient());
    let id = rig.send(&["b@x.example"], "x").await;
    rig.store.wait(|seen| seen.saves.len() == 2).await;
    let store = rig.stop().await;
    let server = HttpsServer::start(false, &[], |_, _| http("200 OK", "text/plain", "")).await;
    let options = telling(discarding(), webhook(&server, false));
    // The event is due again in an hour: a new process keeps to that, but for a cap that is shorter.
    let rig = Rig::restart(options, queue_options(), store);
    let asked = server.wait(1).await.remove(0);
    let event: Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!(event["message"]["id"], id.to_string());
    empty(&rig).await;
}

#[tokio::test]
async fn the_event_file_gets_what_a_dead_webhook_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let file = EventFile { path: path.clone(), size: 1 << 20, count: 1 };
    let gone = crate::common::relay_rig::nobody().await;
    let mut options = telling(discarding(), at(gone, false, None));
    options.sinks.push(Sink { name: "event-file".into(), transport: SinkTransport::File(file) });
    let rig = start(options, patient());
    for n in 0..20 {
        rig.send(&["b@x.example"], &n.to_string()).await;
    }
    let delivered = |progress: &oncemail::mail::Progress| matches!(progress.recipients.as_slice(), [_, file] if file.state == RecipientState::Delivered);
    let written = |rig: &Rig| rig.store.messages().iter().filter(|(_, progress)| delivered(progress)).count();
    rig.store.wait(|_| written(&rig) == 20).await;
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() == 20 && lines.iter().all(|line| line["type"] == "delivered"), "{text}");
}

/// Reads one request of a connection, whole; gives back the value of its Idempotency-Key.
async fn request(stream: &mut TcpStream) -> String {
    let mut input = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&input).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let field =
                |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
            if body.len() == field("content-length: ").parse::<usize>().unwrap() {
                return field("idempotency-key: ").to_ascii_uppercase();
            }
        }
        assert_ne!(timeout(PATIENCE, stream.read_buf(&mut input)).await.unwrap().unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_an_event_outlives_kill_9_between_its_outcome_and_its_request() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", receiver.local_addr().unwrap());
    let setup = Setup::and(&format!("[[webhook]]\nurl = \"{url}\"\nsecret = \"{SECRET}\"\n"));
    let mut relay = setup.serve().await;
    let mut client = Client::connect(relay.address()).await;
    client.reply().await;
    client.ask("EHLO client.example").await;
    let mail = "X-Idempotency-Key: order-123\r\nSubject: x\r\n\r\nhello\r\n.";
    for _ in 0..2 {
        for line in ["MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA", mail] {
            let reply = client.ask(line).await;
            assert!(reply.starts_with(['2', '3']), "{reply}");
        }
    }
    // Delivered and replayed: both are on their way, and nobody has answered yet.
    let mut before = Vec::new();
    let mut open = Vec::new();
    for _ in 0..2 {
        let (mut stream, _) = timeout(PATIENCE, receiver.accept()).await.unwrap().unwrap();
        before.push(request(&mut stream).await);
        open.push(stream);
    }
    relay.kill().await;
    drop(open);
    let mut relay = setup.serve().await;
    let mut after = Vec::new();
    for _ in 0..2 {
        let (mut stream, _) = timeout(PATIENCE, receiver.accept()).await.unwrap().unwrap();
        after.push(request(&mut stream).await);
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    }
    before.sort();
    after.sort();
    assert_eq!(before, after);
    assert_ne!(before[0], before[1]);
    assert_eq!(relay.stop().await, Some(0));
}
