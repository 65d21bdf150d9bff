//! The open-loop generator: messages come at a fixed rate, whatever the target does with those before (RFC 2544 calls it
//! offered load). A closed loop waits for the slow, and so never offers more than can be carried.
//!
//! A message takes a connection that is free, or opens one. Latency counts from the moment at which the message was due, so
//! that a generator or a target that falls behind cannot hide it; and, as everywhere, from the final dot to its reply.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::client::{self, Client, Failure, Greeting};
use crate::generate::Pipelining;
use crate::message::{Draft, Shape};

/// Messages under way at most: beyond it the generator itself is the limit, and says so.
const MOST_UNDER_WAY: usize = 6_000;
/// Free connections that are kept.
const MOST_FREE: usize = 4_000;
const TICK: Duration = Duration::from_millis(1);
/// After the last message, for the replies.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_MICROS: u64 = 600_000_000;

/// Messages at a rate.
pub struct Offer {
    /// Where to.
    pub greeting: Greeting,
    /// What is sent; connections and messages alike are new or used as it comes.
    pub shape: Shape,
    /// Messages a second.
    pub rate: f64,
    /// At most so long.
    pub duration: Duration,
    /// The number of the first message.
    pub first: u64,
}

/// What became of them.
#[derive(Debug)]
pub struct Taken {
    /// Numbers of those that were accepted.
    pub accepted: Vec<u64>,
    /// Messages that were due.
    pub offered: u64,
    /// Refused for now: 4yz at the greeting, at MAIL or at the final dot.
    pub refused: u64,
    /// Neither.
    pub failed: u64,
    /// Due, and not even begun, because the generator had too many under way.
    pub skipped: u64,
    /// By code and first words.
    pub words: BTreeMap<String, u64>,
    /// From the final dot to 250, microseconds.
    from_dot: Histogram<u64>,
    /// From when it was due to 250, microseconds.
    from_due: Histogram<u64>,
    /// From due to the refusal, microseconds.
    to_refusal: Histogram<u64>,
    /// How late the generator itself came to what it had to do, microseconds: no wait is measured more finely.
    late: Histogram<u64>,
    /// For how long messages were due.
    pub elapsed: Duration,
}

impl Taken {
    fn new() -> Result<Self> {
        let histogram = || Histogram::new_with_max(MAX_MICROS, 3);
        Ok(Self {
            accepted: Vec::new(),
            offered: 0,
            refused: 0,
            failed: 0,
            skipped: 0,
            words: BTreeMap::new(),
            from_dot: histogram()?,
            from_due: histogram()?,
            to_refusal: histogram()?,
            late: histogram()?,
            elapsed: Duration::ZERO,
        })
    }

    /// Milliseconds from the final dot to 250.
    pub fn after_dot(&self, quantile: f64) -> f64 {
        self.from_dot.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Milliseconds from when it was due to 250.
    pub fn after_due(&self, quantile: f64) -> f64 {
        self.from_due.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Milliseconds from when it was due to its refusal.
    pub fn to_refusal(&self, quantile: f64) -> f64 {
        self.to_refusal.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Milliseconds by which the generator itself was late.
    pub fn lateness(&self, quantile: f64) -> f64 {
        self.late.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Accepted messages a second.
    pub fn rate(&self) -> f64 {
        self.accepted.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn say(&mut self, words: &[u8]) {
        let text = String::from_utf8_lossy(words);
        let text: String = text.split_whitespace().take(5).collect::<Vec<_>>().join(" ");
        *self.words.entry(text).or_default() += 1;
    }
}

/// An offer that is made in a thread of its own until it is stopped, or its time is over.
pub struct Going {
    over: std::sync::Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<Taken>>,
}

impl Going {
    /// Begins.
    pub fn start(offer: Offer) -> Self {
        let over = std::sync::Arc::<AtomicBool>::default();
        let ends = over.clone();
        Self { over, thread: thread::spawn(move || run(offer, &ends)) }
    }

    /// Ends, or waits for the end.
    ///
    /// # Errors
    /// When the generator broke down.
    pub fn wait(self, now: bool) -> Result<Taken> {
        self.over.store(now, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow!("the generator panicked"))?
    }
}

struct Generator {
    greeting: Greeting,
    shape: Shape,
    free: RefCell<Vec<Client>>,
    taken: RefCell<Taken>,
}

fn run(offer: Offer, over: &AtomicBool) -> Result<Taken> {
    let Offer { greeting, shape, rate, duration, first } = offer;
    let runtime = Builder::new_current_thread().enable_all().build().context("runtime")?;
    let generator = Generator { greeting, shape, free: RefCell::default(), taken: Taken::new()?.into() };
    let generator = Rc::new(generator);
    let local = LocalSet::new();
    let all = generator.clone();
    runtime.block_on(local.run_until(async move {
        let (began, mut number) = (Instant::now(), 0_u64);
        while began.elapsed() < duration && !over.load(Ordering::SeqCst) {
            while began + Duration::from_secs_f64(number as f64 / rate) <= Instant::now() {
                let due = began + Duration::from_secs_f64(number as f64 / rate);
                all.offer(first + number, due);
                number += 1;
            }
            let slept = Instant::now();
            sleep(TICK).await;
            let late = micros(slept.elapsed().saturating_sub(TICK));
            all.taken.borrow_mut().late.saturating_record(late);
        }
        all.taken.borrow_mut().elapsed = began.elapsed();
        let ended = async {
            while Rc::strong_count(&all) > 2 {
                sleep(TICK).await;
            }
        };
        let _ = timeout(PATIENCE, ended).await;
    }));
    drop(local);
    let unanswered = Rc::strong_count(&generator) as u64 - 1;
    let mut taken = generator.taken.replace(Taken::new()?);
    taken.failed += unanswered;
    Ok(taken)
}

impl Generator {
    /// One message is due.
    fn offer(self: &Rc<Self>, number: u64, due: Instant) {
        let mut taken = self.taken.borrow_mut();
        taken.offered += 1;
        if Rc::strong_count(self) > MOST_UNDER_WAY {
            taken.skipped += 1;
            return;
        }
        drop(taken);
        let this = self.clone();
        tokio::task::spawn_local(async move {
            if let Err(failure) = this.send(number, due).await {
                let mut taken = this.taken.borrow_mut();
                match failure {
                    Failure::Refused(words) if words.starts_with('4') => {
                        taken.refused += 1;
                        taken.to_refusal.saturating_record(micros(due.elapsed()));
                        taken.say(words.as_bytes());
                    }
                    failure => {
                        taken.failed += 1;
                        taken.say(format!("error: {failure}").as_bytes());
                    }
                }
            }
        });
    }

    async fn send(&self, number: u64, due: Instant) -> Result<(), Failure> {
        let free = self.free.borrow_mut().pop();
        let mut client = match free {
            Some(client) => client,
            None => client::open(&self.greeting).await?,
        };
        let draft = Draft { id: number, key: number, build: number };
        let outcome = client.submit(&self.shape, draft, Pipelining::On).await?;
        let mut taken = self.taken.borrow_mut();
        match outcome.code / 100 {
            2 => {
                taken.accepted.push(number);
                taken.from_due.saturating_record(micros(due.elapsed()));
                taken.from_dot.saturating_record(micros(outcome.from_dot.unwrap_or_default()));
            }
            4 => {
                taken.refused += 1;
                taken.to_refusal.saturating_record(micros(due.elapsed()));
                taken.say(client.last_reply());
            }
            _ => {
                taken.failed += 1;
                taken.say(client.last_reply());
            }
        }
        drop(taken);
        let mut free = self.free.borrow_mut();
        if outcome.code != 421 && free.len() < MOST_FREE {
            free.push(client);
        }
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
