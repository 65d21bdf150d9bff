//! The generator: many connections on few threads, bounded by a count or a time.
//!
//! Each connection sends its next message when the last one is answered, so the rate is what the target takes
//! (closed loop). A connection that breaks is opened again; what it was sending counts as not acknowledged.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::client::{self, Client, Encryption, Greeting, Outcome};
use crate::message::{Draft, KEY, Keys, Shape};
use crate::report::Measured;
use crate::target::{self, Tls};
use crate::usage;

/// A connection gives up after this many failures without an answer in between.
const MAX_FAILURES_IN_A_ROW: u32 = 20;
/// A connection repeats one of its last messages when it repeats one.
const HISTORY: usize = 64;
/// How long after the run's time the last replies may come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before a connection that was refused is tried again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// Whether MAIL, RCPT and DATA go out together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Pipelining {
    /// In one write.
    #[default]
    On,
    /// Each waits for the reply to the one before.
    Off,
}

/// `load generate`.
#[derive(Args)]
pub struct Cli {
    /// host:port of the relay or sink, on loopback.
    #[arg(value_parser = target::parse_loopback)]
    target: SocketAddr,
    /// Connections at a time.
    #[arg(long, short, default_value_t = 50)]
    connections: usize,
    /// Threads; each drives its share of the connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Submissions, repetitions included.
    #[arg(long, short, default_value_t = 100_000)]
    messages: u64,
    /// Stops after this time, whatever is left.
    #[arg(long = "for", default_value = "5m", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Octets of a message, header included.
    #[arg(long, short, default_value_t = 2048)]
    size: usize,
    /// Recipients of a message.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    recipients: u32,
    /// Messages per connection; 0: it stays open.
    #[arg(long, default_value_t = 0)]
    per_connection: u64,
    /// MAIL, RCPT and DATA in one write.
    #[arg(long, value_enum, default_value_t)]
    pipelining: Pipelining,
    /// Idempotency keys.
    #[arg(long, value_enum, default_value_t)]
    keys: Keys,
    /// The part of the messages that are duplicates or mismatches.
    #[arg(long, default_value_t = 0.5)]
    ratio: f64,
    /// The key's header field.
    #[arg(long, default_value = KEY)]
    key_header: String,
    /// Encryption.
    #[arg(long, value_enum, default_value_t)]
    tls: Tls,
    /// AUTH PLAIN.
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// AUTH PLAIN.
    #[arg(long, requires = "user")]
    password: Option<String>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What a run does; `Load::new` has the common case.
pub struct Load {
    /// Where to, and how a connection begins.
    pub greeting: Greeting,
    /// Connections at a time.
    pub connections: usize,
    /// Threads.
    pub threads: usize,
    /// Submissions.
    pub messages: u64,
    /// No message is begun after this time.
    pub duration: Duration,
    /// Messages per connection; none: it stays open.
    pub per_connection: Option<u64>,
    /// How the envelope goes out.
    pub pipelining: Pipelining,
    /// The messages.
    pub shape: Shape,
    /// Their keys.
    pub keys: Keys,
    /// The part that repeats.
    pub ratio: f64,
}

impl Load {
    /// Distinct keys, plain text, one recipient, connections that stay open.
    pub fn new(address: SocketAddr, connections: usize, messages: u64, size: usize) -> Self {
        Self {
            greeting: Greeting { address, tls: Encryption::None, login: None },
            connections,
            threads: 1,
            messages,
            duration: Duration::from_secs(600),
            per_connection: None,
            pipelining: Pipelining::On,
            shape: Shape::new(new_run(), size, 1, Some(KEY.to_owned())),
            keys: Keys::Distinct,
            ratio: 0.0,
        }
    }
}

/// A finished run.
pub struct Finished {
    /// All threads' counts.
    pub measured: Measured,
    /// The first connect.
    pub began: Instant,
    /// To the last reply.
    pub elapsed: Duration,
}

/// Runs `load generate`.
///
/// # Errors
/// When nothing was answered at all.
pub fn main(cli: &Cli) -> Result<()> {
    let encryption = match cli.tls {
        Tls::None => Encryption::None,
        Tls::Starttls => Encryption::StartTls(target::connector()?),
        Tls::Implicit => Encryption::Implicit(target::connector()?),
    };
    let key_header = (cli.keys != Keys::None).then(|| cli.key_header.clone());
    let load = Load {
        greeting: Greeting {
            address: cli.target,
            tls: encryption,
            login: cli.user.clone().zip(cli.password.clone()),
        },
        connections: cli.connections.max(1),
        threads: usize::from(cli.threads),
        messages: cli.messages,
        duration: cli.duration,
        per_connection: (cli.per_connection > 0).then_some(cli.per_connection),
        pipelining: cli.pipelining,
        shape: Shape::new(new_run(), cli.size, cli.recipients, key_header),
        keys: cli.keys,
        ratio: cli.ratio.clamp(0.0, 1.0),
    };
    let load = Arc::new(load);
    let finished = run(&load)?;
    let report = finished.measured.report(load.shape.run, finished.elapsed);
    if cli.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    if report.answered == 0 {
        bail!("{} answered nothing", cli.target);
    }
    Ok(())
}

/// Sends everything and waits for the replies.
///
/// # Errors
/// When a thread cannot be set up.
pub fn run(load: &Arc<Load>) -> Result<Finished> {
    let began = Instant::now();
    let plan = Arc::new(Plan {
        load: Arc::clone(load),
        deadline: began + load.duration,
        begun: AtomicU64::new(0),
        next_id: AtomicU64::new(0),
    });
    let threads: Vec<_> = (0..load.threads)
        .map(|number| {
            let plan = Arc::clone(&plan);
            thread::spawn(move || run_thread(&plan, number))
        })
        .collect();
    let mut measured = Measured::new()?;
    for thread in threads {
        measured.merge(thread.join().map_err(|_| anyhow!("a generator thread panicked"))??);
    }
    Ok(Finished { measured, began, elapsed: began.elapsed() })
}

/// Tells this run's messages from all others at a sink.
pub fn new_run() -> u64 {
    u64::from(rand::random::<u32>())
}

/// What the connections of all threads share.
struct Plan {
    load: Arc<Load>,
    deadline: Instant,
    begun: AtomicU64,
    next_id: AtomicU64,
}

impl Plan {
    /// The number of the next submission, until count or time is used up.
    fn begin(&self) -> Option<u64> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        (number < self.load.messages && Instant::now() < self.deadline).then_some(number)
    }
}

fn run_thread(plan: &Arc<Plan>, number: usize) -> Result<Measured> {
    let runtime = Builder::new_current_thread().enable_all().build().context("runtime")?;
    let measured = Rc::new(RefCell::new(Measured::new()?));
    let local = LocalSet::new();
    for index in (number..plan.load.connections).step_by(plan.load.threads) {
        let connection = Connection {
            plan: Arc::clone(plan),
            measured: Rc::clone(&measured),
            history: VecDeque::with_capacity(HISTORY),
            // Spread, so that the connections do not all repeat at the same moment.
            debt: index as f64 / plan.load.connections as f64,
        };
        local.spawn_local(connection.run());
    }
    // Replies are bounded too: a target that stops answering ends the run a minute after its time.
    let limit = plan.load.duration + PATIENCE;
    if runtime.block_on(async move { timeout(limit, local).await }).is_err() {
        measured.borrow_mut().error("no reply until the run's end".to_owned());
    }
    drop(runtime);
    let mut measured = measured.replace(Measured::new()?);
    measured.cpu = usage::thread_cpu();
    Ok(measured)
}

/// One connection at a time, and what it needs to choose its next message.
struct Connection {
    plan: Arc<Plan>,
    measured: Rc<RefCell<Measured>>,
    /// Ids that were accepted on this connection, oldest first.
    history: VecDeque<u64>,
    /// Reaches 1 when the next message should be a repetition.
    debt: f64,
}

impl Connection {
    async fn run(mut self) {
        let load = Arc::clone(&self.plan.load);
        let mut client: Option<Client> = None;
        let mut on_connection = 0;
        let mut failures = 0;
        while let Some(number) = self.plan.begin() {
            let draft = self.draft(number);
            let answered = loop {
                if failures >= MAX_FAILURES_IN_A_ROW {
                    return;
                }
                let open = match &mut client {
                    Some(open) => open,
                    None => match self.open(&load.greeting).await {
                        Some(opened) => {
                            on_connection = 0;
                            client.insert(opened)
                        }
                        None => {
                            failures += 1;
                            continue;
                        }
                    },
                };
                match open.submit(&load.shape, draft, load.pipelining).await {
                    // The server had enough of this connection, not of this message.
                    Ok(outcome) if outcome.code == 421 && outcome.from_dot.is_none() => {
                        self.measured
                            .borrow_mut()
                            .error(String::from_utf8_lossy(open.last_reply()).into_owned());
                        failures += 1;
                        client = None;
                    }
                    Ok(outcome) => {
                        self.record(draft, outcome, open.last_reply());
                        break outcome.code != 421;
                    }
                    Err(failure) => {
                        self.measured.borrow_mut().error(failure.to_string());
                        failures += 1;
                        break false;
                    }
                }
            };
            on_connection += 1;
            if !answered {
                client = None;
            } else {
                failures = 0;
                if load.per_connection == Some(on_connection)
                    && let Some(done) = client.take()
                {
                    self.close(done).await;
                }
            }
        }
        if let Some(done) = client {
            self.close(done).await;
        }
    }

    async fn open(&self, greeting: &Greeting) -> Option<Client> {
        match client::open(greeting).await {
            Ok(client) => {
                self.measured.borrow_mut().connections += 1;
                Some(client)
            }
            Err(failure) => {
                self.measured.borrow_mut().error(failure.to_string());
                // Without a pause, a target that restarts would see all attempts before it listens again.
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                None
            }
        }
    }

    async fn close(&self, client: Client) {
        if let Err(failure) = client.quit().await {
            self.measured.borrow_mut().error(format!("at QUIT: {failure}"));
        }
    }

    /// The next message: a new one, or a repetition of an accepted one.
    fn draft(&mut self, number: u64) -> Draft {
        let load = &self.plan.load;
        let repeats = matches!(load.keys, Keys::Duplicates | Keys::Mismatches);
        if repeats {
            self.debt += load.ratio;
        }
        if repeats && self.debt >= 1.0 && !self.history.is_empty() {
            self.debt -= 1.0;
            let place = usize::try_from(number).unwrap_or(0) % self.history.len();
            let earlier = self.history.get(place).copied().unwrap_or(0);
            if load.keys == Keys::Duplicates {
                return Draft { id: earlier, key: earlier, build: number };
            }
            let id = self.plan.next_id.fetch_add(1, Ordering::Relaxed);
            return Draft { id, key: earlier, build: number };
        }
        let id = self.plan.next_id.fetch_add(1, Ordering::Relaxed);
        Draft { id, key: id, build: number }
    }

    fn record(&mut self, draft: Draft, outcome: Outcome, line: &[u8]) {
        let mut measured = self.measured.borrow_mut();
        measured.reply(line, outcome.from_dot);
        if outcome.from_dot.is_some() && outcome.code / 100 == 2 {
            measured.accepted.push(draft.id);
            if draft.key == draft.id {
                if self.history.len() == HISTORY {
                    self.history.pop_front();
                }
                self.history.push_back(draft.id);
            }
        }
    }
}
