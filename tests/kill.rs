//! kill -9 under load, for real: a child process, clients that retry, a next hop that counts.
//!
//! Promised: what was acknowledged arrives; a key has one queue id for ever; nothing is queued twice. A copy that the
//! next hop sees twice must have the same queue id: it was in doubt when the process died (R1, `in_doubt = "resend"`).

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::common::program::Setup;

const ROUNDS: usize = 20;
const CLIENTS: usize = 8;
/// Acknowledgements between two kills; the exact number differs from round to round.
const PER_ROUND: usize = 150;
/// A client gives up on an answer after this, and tries again: that is what keys are for.
const PATIENCE: Duration = Duration::from_secs(10);
/// What takes longer than this will never happen: some seconds are usual, on a machine with nothing else to do.
const ROUND_LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn d1_i1_i2_nothing_acknowledged_is_lost_or_queued_twice_over_kill_9() {
    let sink = Sink::start().await;
    let setup = Setup::with(&format!(
        "[retry]\nbase = \"1s\"\ncap = \"1s\"\n\
         [[route]]\nname = \"next\"\ntransport = \"smarthost\"\nhosts = [\"{}\"]\ntls = \"none\"\n",
        sink.address
    ));
    let ledger = Arc::new(Ledger::default());
    let (address_tx, address) = watch::channel(None);

    let clients: Vec<_> =
        (0..CLIENTS).map(|n| tokio::spawn(submit_all(n, address.clone(), ledger.clone()))).collect();
    let mut target = 0;
    for round in 0..ROUNDS {
        let mut relay = setup.serve().await;
        address_tx.send_replace(Some(relay.address()));
        target += PER_ROUND + (round * 37) % 50;
        ledger.reached(target).await;
        relay.kill().await;
        address_tx.send_replace(None);
    }
    let mut relay = setup.serve().await;
    ledger.stop.send_replace(true);
    address_tx.send_replace(Some(relay.address()));
    for client in clients {
        client.await.unwrap();
    }
    let acknowledged = ledger.acknowledged.lock().unwrap().clone();
    sink.has_all(acknowledged.keys().cloned().collect()).await;
    assert_eq!(relay.stop().await, Some(0));

    let arrived = sink.arrived.lock().unwrap().clone();
    for (key, id) in &acknowledged {
        let ids: HashSet<_> = arrived[key].iter().collect();
        assert_eq!(ids, HashSet::from([id]), "{key} was queued under other ids than its 250 named");
    }
    assert_eq!(arrived.len(), acknowledged.len(), "the next hop has mail that nobody was told of");
}

/// What the clients were told.
#[derive(Default)]
struct Ledger {
    acknowledged: Mutex<HashMap<String, String>>,
    count: watch::Sender<usize>,
    stop: watch::Sender<bool>,
}

impl Ledger {
    /// A 250 for `key`: every one must name the same queue id (I1).
    fn acknowledge(&self, key: &str, id: String) {
        let mut acknowledged = self.acknowledged.lock().unwrap();
        if let Some(first) = acknowledged.insert(key.to_owned(), id.clone()) {
            assert_eq!(first, id, "{key} was answered with two queue ids");
        }
        self.count.send_modify(|count| *count += 1);
    }

    async fn reached(&self, target: usize) {
        let mut count = self.count.subscribe();
        if timeout(ROUND_LIMIT, count.wait_for(|count| *count >= target)).await.is_err() {
            panic!("{} of {target} acknowledgements have come", *count.borrow());
        }
    }
}

/// One application: numbered mails, each retried until it has its 250; every fifth is sent again after it.
async fn submit_all(client: usize, mut address: watch::Receiver<Option<SocketAddr>>, ledger: Arc<Ledger>) {
    let mut connection = None;
    let mut number = 0;
    while !*ledger.stop.borrow() {
        let key = format!("client-{client}-{number}");
        let times = if number % 5 == 0 { 2 } else { 1 };
        for _ in 0..times {
            let id = submit_until_acknowledged(&mut connection, &mut address, &key).await;
            ledger.acknowledge(&key, id);
        }
        number += 1;
    }
}

async fn submit_until_acknowledged(
    connection: &mut Option<Lines<BufReader<TcpStream>>>,
    address: &mut watch::Receiver<Option<SocketAddr>>,
    key: &str,
) -> String {
    loop {
        if connection.is_none() {
            let target = (*address.wait_for(Option::is_some).await.unwrap()).unwrap();
            *connection = timeout(PATIENCE, connect(target)).await.ok().flatten();
        }
        if let Some(open) = connection {
            match timeout(PATIENCE, submit(open, key)).await.ok().flatten() {
                Some(reply) if reply.starts_with("250 ") => return queue_id(&reply),
                Some(reply) => assert!(reply.starts_with('4'), "{key}: {reply}"),
                None => *connection = None,
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The first word of `OK Message queued as <id>` and of its replay that is a queue id.
fn queue_id(reply: &str) -> String {
    let (_, rest) = reply.split_once("queued as ").unwrap_or_else(|| panic!("no queue id in {reply}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

async fn connect(address: SocketAddr) -> Option<Lines<BufReader<TcpStream>>> {
    let mut lines = BufReader::new(TcpStream::connect(address).await.ok()?).lines();
    // The port of a relay that was killed may be somebody else's by now.
    if !reply(&mut lines).await?.starts_with("220 relay.example") {
        return None;
    }
    lines.get_mut().write_all(b"EHLO client.example\r\n").await.ok()?;
    reply(&mut lines).await?;
    Some(lines)
}

/// The reply after the final dot, or `None` when the connection was lost.
async fn submit(lines: &mut Lines<BufReader<TcpStream>>, key: &str) -> Option<String> {
    let envelope = "MAIL FROM:<app@shop.example>\r\nRCPT TO:<customer@example.com>\r\nDATA\r\n";
    lines.get_mut().write_all(envelope.as_bytes()).await.ok()?;
    for _ in 0..2 {
        let reply = reply(lines).await?;
        assert!(reply.starts_with("250"), "{reply}");
    }
    let reply_354 = reply(lines).await?;
    assert!(reply_354.starts_with("354"), "{reply_354}");
    let message = format!(
        "X-Idempotency-Key: {key}\r\nX-Test-Key: {key}\r\nFrom: app@shop.example\r\nTo: customer@example.com\r\n\
         Subject: Order\r\n\r\nYour order {key} is on its way.\r\n.\r\n"
    );
    lines.get_mut().write_all(message.as_bytes()).await.ok()?;
    reply(lines).await
}

/// The last line of one reply.
async fn reply(lines: &mut Lines<BufReader<TcpStream>>) -> Option<String> {
    loop {
        let line = lines.next_line().await.ok()??;
        if line.as_bytes().get(3) != Some(&b'-') {
            return Some(line);
        }
    }
}

/// A next hop that takes everything and notes which key came under which queue id.
struct Sink {
    address: SocketAddr,
    arrived: Arc<Mutex<HashMap<String, Vec<String>>>>,
    count: watch::Receiver<usize>,
}

impl Sink {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let arrived: Arc<Mutex<HashMap<String, Vec<String>>>> = Arc::default();
        let (count_tx, count) = watch::channel(0);
        let (ours, count_tx) = (arrived.clone(), Arc::new(count_tx));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take_all(stream, ours.clone(), count_tx.clone()));
            }
        });
        Self { address, arrived, count }
    }

    async fn has_all(&self, keys: HashSet<String>) {
        let complete = |_: &usize| {
            let arrived = self.arrived.lock().unwrap();
            keys.iter().all(|key| arrived.contains_key(key))
        };
        if timeout(ROUND_LIMIT, self.count.clone().wait_for(complete)).await.is_err() {
            let arrived = self.arrived.lock().unwrap();
            let missing: Vec<_> = keys.iter().filter(|key| !arrived.contains_key(*key)).collect();
            panic!("acknowledged, and never sent on: {missing:?}");
        }
    }
}

async fn take_all(
    stream: TcpStream,
    arrived: Arc<Mutex<HashMap<String, Vec<String>>>>,
    count: Arc<watch::Sender<usize>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    lines.get_mut().write_all(b"220 sink\r\n").await.ok()?;
    loop {
        let line = lines.next_line().await.ok()??;
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => lines.get_mut().write_all(b"250-sink\r\n250 PIPELINING\r\n").await.ok()?,
            "DATA" => {
                lines.get_mut().write_all(b"354 go on\r\n").await.ok()?;
                let (key, id) = take_message(&mut lines).await?;
                arrived.lock().unwrap().entry(key).or_default().push(id);
                count.send_modify(|count| *count += 1);
                lines.get_mut().write_all(b"250 taken\r\n").await.ok()?;
            }
            _ => lines.get_mut().write_all(b"250 fine\r\n").await.ok()?,
        }
    }
}

/// Reads up to the final dot: the test's own key field, and the queue id in our Received field.
async fn take_message(lines: &mut Lines<BufReader<TcpStream>>) -> Option<(String, String)> {
    let (mut key, mut id) = (None, None);
    loop {
        let line = lines.next_line().await.ok()??;
        if line == "." {
            return Some((key?, id?));
        }
        assert!(!line.to_ascii_lowercase().starts_with("x-idempotency-key"), "the key left the relay");
        if let Some(value) = line.strip_prefix("X-Test-Key: ") {
            key.get_or_insert(value.to_owned());
        }
        let mut words = line.split_whitespace();
        if id.is_none() && words.any(|word| word == "id") {
            id = words.next().map(|word| word.trim_end_matches(';').to_owned());
        }
    }
}
