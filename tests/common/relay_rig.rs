//! A queue and a relay over a watched store, with messages to send.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncemail::clock::Clock;
use oncemail::dns::{self, Dns};
use oncemail::mail::{
    Address, Body, Envelope, Handling, HoldCause, Message, Origin, Progress, QueueId, Recipient,
    RecipientState, ReversePath,
};
use oncemail::queue::{self, OnFailure, Queue};
use oncemail::relay::options::{
    Breaker, Host, Hosts, InDoubt, Matches, Mx, Options, Route, Smtp, Timeouts, TlsPolicy, Transport,
};
use oncemail::relay::{Counters, Relay};
use oncemail::store::{Recovered, Store};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::watched_store::WatchedStore;

pub struct Rig {
    pub store: Arc<WatchedStore>,
    pub queue: Arc<Queue>,
    pub clock: Clock,
    pub shutdown: CancellationToken,
    pub running: JoinHandle<()>,
    pub counters: Arc<Counters>,
    pub relay: Arc<Relay>,
    dns: Arc<Dns>,
}

pub const DELIVERED: RecipientState = RecipientState::Delivered;
pub const FAILED: RecipientState = RecipientState::Held(HoldCause::Failed);

/// Like `to_hosts`, with a change.
pub fn changed(addresses: &[SocketAddr], change: impl FnOnce(&mut Smtp)) -> Options {
    let mut smarthost = smarthost(addresses);
    change(&mut smarthost);
    relay_options(vec![route("hosts", Transport::Smtp(smarthost))])
}

/// Every reply that the first recipient got.
pub fn replies(progress: &Progress) -> Vec<String> {
    progress.recipients[0].replies.iter().map(|reply| reply.text.clone()).collect()
}

/// An address at which nothing listens.
pub async fn nobody() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Retries come at once, unless a test says otherwise.
pub fn queue_options() -> queue::Options {
    queue::Options {
        base: Duration::from_millis(1),
        cap: Duration::from_millis(1),
        on_failure: OnFailure::Hold,
        warn_after: None,
        fresh_bytes: 1 << 20,
        ..queue::Options::default()
    }
}

/// No second attempt while a test looks at the first.
pub fn patient() -> queue::Options {
    let hour = Duration::from_secs(3600);
    queue::Options { base: hour, cap: hour, jitter: queue::Jitter::None, ..queue_options() }
}

pub fn relay_options(routes: Vec<Route>) -> Options {
    Options {
        hostname: "relay.example".into(),
        routes,
        breaker: Breaker { failures: 1000, ..Breaker::default() },
        timeouts: Timeouts::default(),
        dkim: Vec::new(),
        own_addresses: Vec::new(),
        sinks: Vec::new(),
    }
}

/// No patience: for far sides that say nothing.
pub fn hurried(mut options: Options) -> Options {
    let short = Duration::from_millis(150);
    options.timeouts = Timeouts {
        connect: short,
        command: short,
        data_initiation: short,
        data_block: short,
        data_termination: short,
    };
    options
}

pub fn smarthost(addresses: &[SocketAddr]) -> Smtp {
    let hosts = addresses.iter().map(|a| Host { name: a.ip().to_string(), port: a.port() }).collect();
    Smtp { tls: TlsPolicy::None, connections: 2, ..Smtp::new(Hosts::in_order(hosts)) }
}

/// One host by its name, at the port of `address`.
pub fn named(name: &str, address: SocketAddr) -> Hosts {
    Hosts::in_order(vec![Host { name: name.to_owned(), port: address.port() }])
}

/// To the hosts of the recipient's domain, which in a test is an address in brackets.
pub fn mail_hosts(port: u16) -> Smtp {
    let mx = Mx { port, allow_private: true, mta_sts: false, mta_sts_port: 443, family: dns::Family::Any };
    Smtp { hosts: Hosts::Mx(mx), ..smarthost(&[]) }
}

/// Nothing is asked unless a name has to be looked up.
pub fn dns() -> Arc<Dns> {
    Arc::new(Dns::new(dns::Options::default()))
}

pub fn route(name: &str, transport: Transport) -> Route {
    Route {
        name: name.into(),
        matches: Matches::default(),
        transport,
        in_doubt: InDoubt::Resend,
        forward_key_as: None,
    }
}

pub fn to(domains: &[&str], mut route: Route) -> Route {
    route.matches.recipient_domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    route
}

pub fn directory(name: &str, path: &Path) -> Route {
    route(name, Transport::Directory(path.to_owned()))
}

/// All mail to these far sides, in order.
pub fn to_hosts(addresses: &[SocketAddr]) -> Options {
    relay_options(vec![route("hosts", Transport::Smtp(smarthost(addresses)))])
}

impl Rig {
    pub fn start(options: Options) -> Self {
        Self::start_with(options, queue_options())
    }

    pub fn start_with(options: Options, queue_options: queue::Options) -> Self {
        let clock = Clock::system();
        let queue = Queue::new(queue_options, clock.clone());
        let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
        Self::run(options, queue, store, clock, Vec::new())
    }

    /// The same, asking this DNS.
    pub fn start_with_dns(options: Options, queue_options: queue::Options, dns: Arc<Dns>) -> Self {
        let clock = Clock::system();
        let queue = Queue::new(queue_options, clock.clone());
        let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
        Self::run_with_dns(options, queue, store, clock, Vec::new(), dns)
    }

    /// A new process over the store of an old one.
    pub fn restart(options: Options, queue_options: queue::Options, store: Arc<WatchedStore>) -> Self {
        let clock = Clock::system();
        let queue = Queue::new(queue_options, clock.clone());
        let recovered = store
            .messages()
            .iter()
            .map(|(m, p)| Recovered {
                id: m.id,
                next_attempt: p.is_queued().then_some(p.next_attempt),
                priority: m.envelope.handling.priority,
                held_back: p.next_attempt > m.accepted_at && p.attempts == 0,
            })
            .collect();
        Self::run(options, queue, store, clock, recovered)
    }

    pub fn run(
        options: Options,
        queue: Arc<Queue>,
        store: Arc<WatchedStore>,
        clock: Clock,
        recovered: Vec<Recovered>,
    ) -> Self {
        Self::run_with_dns(options, queue, store, clock, recovered, dns())
    }

    fn run_with_dns(
        options: Options,
        queue: Arc<Queue>,
        store: Arc<WatchedStore>,
        clock: Clock,
        recovered: Vec<Recovered>,
        dns: Arc<Dns>,
    ) -> Self {
        queue.start(store.clone(), recovered);
        let shutdown = CancellationToken::new();
        let relay = Relay::new(options, dns.clone(), queue.clone(), clock.clone()).unwrap();
        let counters = relay.counters();
        let running = tokio::spawn(relay.clone().run(shutdown.clone(), Duration::from_secs(10)));
        Self { store, queue, clock, shutdown, running, counters, relay, dns }
    }

    /// Has other routes in force, while everything runs.
    pub fn reroute(&self, options: Options) {
        let prepared = self.relay.prepare(options, &self.dns).unwrap();
        self.relay.commit(prepared);
    }

    /// What is wrong with other routes.
    pub fn cannot_reroute(&self, options: Options) -> String {
        self.relay.prepare(options, &self.dns).err().expect("they cannot be had").to_string()
    }

    pub async fn submit(&self, message: Message) -> QueueId {
        let id = message.id;
        self.store.accept(Arc::new(message), None).await.unwrap();
        id
    }

    /// A small message from `a@shop.example`, with a text of its own.
    pub async fn send(&self, recipients: &[&str], text: &str) -> QueueId {
        self.submit(message(&self.clock, recipients, text)).await
    }

    pub async fn stop(self) -> Arc<WatchedStore> {
        self.shutdown.cancel();
        tokio::time::timeout(super::far_side::PATIENCE, self.running).await.unwrap().unwrap();
        self.store
    }
}

pub fn message(clock: &Clock, recipients: &[&str], text: &str) -> Message {
    let now = clock.now();
    let recipient = |address: &&str| Recipient {
        forward_path: Address::parse(address).unwrap(),
        notify: None,
        orcpt: None,
        unverified: false,
    };
    Message {
        id: QueueId::new(now),
        accepted_at: now,
        envelope: Envelope {
            reverse_path: ReversePath::Mailbox(Address::parse("a@shop.example").unwrap()),
            recipients: recipients.iter().map(recipient).collect(),
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
        },
        origin: Origin { listener: "main".into(), user: None, client: None },
        key: None,
        message_id: "<m@shop.example>".into(),
        content: Bytes::from(format!("Subject: test\r\n\r\n{text}\r\n")),
    }
}
