//! What a generator measured, and how it is shown.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies are kept in microseconds up to this; longer ones count as this long.
const MAX_LATENCY: Duration = Duration::from_secs(600);
/// A reply is counted under its first words; a queue id comes later in every server's text.
const REPLY_WORDS: usize = 6;

/// Counts of one thread's connections, merged at the end.
pub struct Measured {
    latency: Histogram<u64>,
    replies: HashMap<Vec<u8>, u64>,
    errors: HashMap<String, u64>,
    /// Ids that got a 2yz after the final dot; a replay's id stands here again.
    pub accepted: Vec<u64>,
    /// Final replies of any kind.
    pub answered: u64,
    /// Connections opened.
    pub connections: u64,
    /// CPU time of the threads.
    pub cpu: Duration,
}

/// What a generator measured, for people and scripts.
#[derive(Serialize, Debug)]
pub struct Report {
    /// Hexadecimal, as in the markers.
    pub run: String,
    /// Submissions that got their reply.
    pub answered: u64,
    /// Those with a 2yz after the final dot, replays included.
    pub accepted: u64,
    /// From the first connect to the last reply.
    pub seconds: f64,
    /// `accepted / seconds`.
    pub accepted_per_second: f64,
    /// From writing the final dot to its reply.
    pub p50_ms: f64,
    /// Likewise.
    pub p99_ms: f64,
    /// Likewise.
    pub max_ms: f64,
    /// Connections opened.
    pub connections: u64,
    /// The generator's own.
    pub cpu_seconds: f64,
    /// By code, enhanced code and first words.
    pub replies: BTreeMap<String, u64>,
    /// Connections that failed, by reason.
    pub errors: BTreeMap<String, u64>,
}

impl Measured {
    /// Nothing yet.
    ///
    /// # Errors
    /// When the histogram's constants contradict each other.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            latency: Histogram::new_with_max(micros(MAX_LATENCY), 3)?,
            replies: HashMap::new(),
            errors: HashMap::new(),
            accepted: Vec::new(),
            answered: 0,
            connections: 0,
            cpu: Duration::ZERO,
        })
    }

    /// One reply that decided a submission.
    pub fn reply(&mut self, line: &[u8], from_dot: Option<Duration>) {
        self.answered += 1;
        if let Some(latency) = from_dot {
            self.latency.saturating_record(micros(latency));
        }
        let text = first_words(line);
        match self.replies.get_mut(text) {
            Some(count) => *count += 1,
            None => {
                self.replies.insert(text.to_vec(), 1);
            }
        }
    }

    /// One connection that ended badly.
    pub fn error(&mut self, reason: String) {
        *self.errors.entry(reason).or_default() += 1;
    }

    /// Adds another thread's counts.
    pub fn merge(&mut self, other: Self) {
        // Both histograms have the same bounds, the one thing that could make this fail.
        let _ = self.latency.add(&other.latency);
        for (text, count) in other.replies {
            *self.replies.entry(text).or_default() += count;
        }
        for (reason, count) in other.errors {
            *self.errors.entry(reason).or_default() += count;
        }
        self.accepted.extend(other.accepted);
        self.answered += other.answered;
        self.connections += other.connections;
        self.cpu += other.cpu;
    }

    /// The figures, after a run of this length.
    pub fn report(&self, run: u64, elapsed: Duration) -> Report {
        let seconds = elapsed.as_secs_f64();
        let milliseconds = |micros: u64| micros as f64 / 1000.0;
        Report {
            run: format!("{run:x}"),
            answered: self.answered,
            accepted: self.accepted.len() as u64,
            seconds,
            accepted_per_second: self.accepted.len() as f64 / seconds.max(f64::MIN_POSITIVE),
            p50_ms: milliseconds(self.latency.value_at_quantile(0.50)),
            p99_ms: milliseconds(self.latency.value_at_quantile(0.99)),
            max_ms: milliseconds(self.latency.max()),
            connections: self.connections,
            cpu_seconds: self.cpu.as_secs_f64(),
            replies: self
                .replies
                .iter()
                .map(|(text, n)| (String::from_utf8_lossy(text).into_owned(), *n))
                .collect(),
            errors: self.errors.clone().into_iter().collect(),
        }
    }
}

impl Report {
    /// As a table on standard output.
    pub fn print(&self) {
        println!("accepted    {:>12}  of {} answered", self.accepted, self.answered);
        println!("rate        {:>12.0}  per second over {:.2} s", self.accepted_per_second, self.seconds);
        println!(
            "latency     {:>12.2}  ms p50, {:.2} ms p99, {:.2} ms max",
            self.p50_ms, self.p99_ms, self.max_ms
        );
        println!("own CPU     {:>12.2}  s", self.cpu_seconds);
        println!("connections {:>12}", self.connections);
        for (text, count) in &self.replies {
            println!("reply       {count:>12}  {text}");
        }
        for (reason, count) in &self.errors {
            println!("error       {count:>12}  {reason}");
        }
    }
}

/// The part of a reply that is the same for all messages: up to "as", which a queue id follows, or a few words.
fn first_words(line: &[u8]) -> &[u8] {
    let mut words = 0;
    let mut start = 0;
    for end in memchr::memchr_iter(b' ', line) {
        words += 1;
        if words == REPLY_WORDS || line.get(start..end) == Some(b"as") {
            return line.get(..end).unwrap_or(line);
        }
        start = end + 1;
    }
    line
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
