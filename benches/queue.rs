//! The queue alone: what a message takes in memory while it waits and while it is leased, and how long the next one takes
//! to be found among few and among many; and how long it takes to look through all of them. Run by hand; `docs/performance.md` has the figures.
//!
//! `cargo bench --bench queue -- [MESSAGES]`

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program run by hand, and its report")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{Address, Body, Envelope, Handling, Message, Origin, QueueId, Recipient, ReversePath};
use oncemail::queue::{Lease, Options, Queue, Routes, Wanted};
use oncemail::store::memory::MemoryStore;
use oncemail::store::{Arrivals, Recovered};
use tokio::time::Instant;

/// Messages are leased in batches of this size, as the relay does.
const BATCH: usize = 64;
/// RFC 6710 §3 has this many priorities; mail of all of them waits.
const PRIORITIES: u64 = 19;

fn main() {
    let messages = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for few in [1_000, messages] {
            measure(few).await;
            look_through(few);
        }
    });
}

async fn measure(messages: u64) {
    let before = resident_bytes();
    let clock = Clock::system();
    let recovered: Vec<_> = (0..messages).map(found).collect();
    let made = resident_bytes();
    let list_bytes = recovered.len() * size_of::<Recovered>();
    let queue = Queue::new(Options::default(), clock.clone());
    let started = Instant::now();
    queue.start(Arc::new(MemoryStore::new(clock, None)), recovered);
    let filled = started.elapsed();
    let waiting = resident_bytes().saturating_sub(before);
    // One by one: each pick looks for the most urgent of all.
    let mut leases: Vec<Lease> = Vec::with_capacity(usize::try_from(messages).unwrap());
    let picked = 1_000.min(messages);
    let started = Instant::now();
    for _ in 0..picked {
        leases.extend(queue.next(1).await);
    }
    let one = started.elapsed() / u32::try_from(picked).unwrap();
    while (leases.len() as u64) < messages {
        leases.extend(queue.next(BATCH).await);
    }
    let leased = resident_bytes().saturating_sub(made);
    let started = Instant::now();
    drop(leases);
    let put_back = started.elapsed() / u32::try_from(messages).unwrap();
    println!(
        "{messages} messages that wait ({list_bytes} bytes of it were the list that a start hands over)"
    );
    println!("  filled in {filled:?}, {} bytes of process memory each", waiting / messages);
    println!("  the next one found in {one:?}, put back in {put_back:?}");
    println!("  leased: {} bytes each ({} of them the lease)", leased / messages, size_of::<Lease>());
    assert_eq!(queue.depth().queued as u64, messages);
}

/// Every tenth domain has a route of its own.
struct SomeRoutes;

impl Routes for SomeRoutes {
    fn route(&self, to: Option<&str>, _: Option<&str>, _: Option<&str>, _: &str) -> Option<Arc<str>> {
        Some(if to.is_some_and(|to| to.starts_with("d1")) { "one".into() } else { "rest".into() })
    }
}

/// How long filters take, and what the register takes in memory.
fn look_through(messages: u64) {
    let clock = Clock::system();
    let before = resident_bytes();
    let queue = Queue::new(Options { fresh_bytes: 0, ..Options::default() }, clock.clone());
    let started = Instant::now();
    for number in 0..messages {
        queue.arrived(vec![Arc::new(arrival(number, &clock))]);
    }
    let added = started.elapsed() / u32::try_from(messages).unwrap();
    let each = resident_bytes().saturating_sub(before) / messages;
    println!("  registered in {added:?} each, made and scheduled ({each} bytes each, schedule included)");
    let filters = [
        ("everything", Wanted::default()),
        ("a domain", Wanted { to_domain: Some("d17.example".into()), ..Wanted::default() }),
        ("domains under one", Wanted { to_domain: Some("*.example".into()), ..Wanted::default() }),
        ("an address", Wanted { to: Some("r5@d5.example".into()), ..Wanted::default() }),
        ("a sender", Wanted { from: Some("@shop.example".into()), ..Wanted::default() }),
        ("a route", Wanted { route: Some("one".into()), ..Wanted::default() }),
    ];
    for (name, wanted) in filters {
        let started = Instant::now();
        let found = queue.find(&wanted, &SomeRoutes, None, 50);
        println!("  {name}: {} found in {:?}", found.matched, started.elapsed());
    }
    let started = Instant::now();
    assert!(queue.oldest().is_some());
    println!("  the oldest found in {:?}", started.elapsed());
}

/// To one of a thousand domains.
fn arrival(number: u64, clock: &Clock) -> Message {
    let forward_path = Address::parse(&format!("r{number}@d{}.example", number % 1_000)).unwrap();
    let recipient = Recipient { forward_path, notify: None, orcpt: None, unverified: false };
    let now = clock.now();
    Message {
        id: QueueId::new(now),
        accepted_at: now,
        envelope: Envelope {
            reverse_path: ReversePath::Mailbox(Address::parse("orders@shop.example").unwrap()),
            recipients: vec![recipient],
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
        },
        origin: Origin { listener: "main".into(), user: Some("shop".into()), client: None },
        key: None,
        message_id: String::new(),
        content: bytes::Bytes::new(),
    }
}

/// A message that is due, its time and priority spread.
fn found(number: u64) -> Recovered {
    let scattered = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let priority = i8::try_from(scattered % PRIORITIES).unwrap() - 9;
    let due = Timestamp::from_millis(1_000 + scattered % 86_400_000);
    let id = QueueId::new(due.plus(Duration::from_millis(number)));
    Recovered { id, next_attempt: Some(due), priority, held_back: false }
}

/// Resident memory of this process, from `/proc/self/statm`, pages of 4 KiB.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}
