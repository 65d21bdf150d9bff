//! Which messages arrived, and how often.

use std::collections::HashMap;
use std::iter::Sum;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Ids beyond this are no generator's; it bounds what a stray marker can make us allocate.
const MAX_ID: u64 = 1 << 28;
/// How often a waiter looks; far below what it measures, since the times themselves are taken at arrival.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// One transaction at the sink.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Run and id.
    pub marker: Option<(u64, u64)>,
    /// Whether an idempotency key is in the header.
    pub keyed: bool,
    /// Accepted recipients.
    pub recipients: u32,
    /// Octets of content.
    pub bytes: usize,
}

/// Counts arrivals by marker; shared by all connections of a sink.
#[derive(Default)]
pub struct Tally {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Copies by run, then by id; a copy is one recipient of one transaction.
    runs: HashMap<u64, Run>,
    transactions: u64,
    unmarked: u64,
    bytes: u64,
}

#[derive(Default)]
struct Run {
    copies: Vec<u8>,
    transactions: u64,
    recipients: u64,
    keyed: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// What a sink has seen, for people and scripts.
#[derive(Serialize, Debug)]
pub struct Summary {
    /// Transactions of any kind.
    pub transactions: u64,
    /// Those without a marker.
    pub unmarked: u64,
    /// Octets of content.
    pub bytes: u64,
    /// By run, hexadecimal.
    pub runs: HashMap<String, RunSummary>,
}

/// What a sink has seen of one run.
#[derive(Serialize, Debug)]
pub struct RunSummary {
    /// Different messages.
    pub messages: u64,
    /// Transactions; more than messages when recipients were split, or something came twice.
    pub transactions: u64,
    /// Recipients of all transactions.
    pub recipients: u64,
    /// Transactions whose message had an idempotency key in its header.
    pub keyed: u64,
    /// Messages with more copies than recipients expected.
    pub duplicated: u64,
    /// Ids below the highest one seen that have fewer copies than recipients expected.
    pub missing: u64,
    /// Between the first and the last transaction.
    pub seconds: f64,
}

/// What became of the messages that a generator was told are accepted.
#[derive(Serialize, Clone, Debug, Default)]
pub struct Verdict {
    /// Acknowledged to the generator.
    pub accepted: u64,
    /// Acknowledged, and not with every recipient at the sink.
    pub missing: u64,
    /// At the sink more often than once for a recipient.
    pub duplicated: u64,
    /// At the sink, although the generator never got a 250: lost replies, which is allowed.
    pub unacknowledged: u64,
    /// Arrived with an idempotency key, which a relay that understands it keeps to itself.
    pub keyed: u64,
}

impl Sum for Verdict {
    fn sum<I: Iterator<Item = Self>>(verdicts: I) -> Self {
        verdicts.fold(Self::default(), |all, one| Self {
            accepted: all.accepted + one.accepted,
            missing: all.missing + one.missing,
            duplicated: all.duplicated + one.duplicated,
            unacknowledged: all.unacknowledged + one.unacknowledged,
            keyed: all.keyed + one.keyed,
        })
    }
}

impl Tally {
    /// One transaction with this many accepted recipients.
    pub fn record(&self, arrival: Arrival) {
        let Arrival { marker, keyed, recipients, bytes } = arrival;
        let now = Instant::now();
        let mut counts = self.lock();
        counts.transactions += 1;
        counts.bytes += bytes as u64;
        let Some((run, id)) = marker.filter(|(_, id)| *id < MAX_ID) else {
            counts.unmarked += 1;
            return;
        };
        counts.runs.entry(run).or_default().record(id, recipients, keyed, now);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        *self.lock() = Counts::default();
    }

    /// When the first and the last transaction of a run came.
    pub fn times(&self, run: u64) -> Option<(Instant, Instant)> {
        let counts = self.lock();
        let run = counts.runs.get(&run)?;
        Some((run.first?, run.last?))
    }

    /// Recipients that arrived in a run.
    pub fn recipients(&self, run: u64) -> u64 {
        self.lock().runs.get(&run).map_or(0, |run| run.recipients)
    }

    /// Waits until this many recipients of a run have arrived; false when the limit passed first.
    pub fn wait_for(&self, run: u64, recipients: u64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.recipients(run) < recipients {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        true
    }

    /// Compares what arrived with what was acknowledged.
    pub fn verify(&self, run: u64, accepted: &[u64], recipients: u32) -> Verdict {
        let counts = self.lock();
        let none = Run::default();
        let Run { copies, keyed, .. } = counts.runs.get(&run).unwrap_or(&none);
        let wanted = saturate(recipients);
        let count = |id: &u64| copies.get(usize::try_from(*id).unwrap_or(usize::MAX)).copied().unwrap_or(0);
        let mut distinct = accepted.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let arrived = copies.iter().filter(|copies| **copies > 0).count() as u64;
        let acknowledged = distinct.iter().filter(|id| count(id) > 0).count() as u64;
        Verdict {
            accepted: distinct.len() as u64,
            missing: distinct.iter().filter(|id| count(id) < wanted).count() as u64,
            duplicated: copies.iter().filter(|copies| **copies > wanted).count() as u64,
            unacknowledged: arrived - acknowledged,
            keyed: *keyed,
        }
    }

    /// Everything seen, measured against this many recipients of each message.
    pub fn summary(&self, recipients: u32) -> Summary {
        let counts = self.lock();
        let wanted = saturate(recipients);
        Summary {
            transactions: counts.transactions,
            unmarked: counts.unmarked,
            bytes: counts.bytes,
            runs: counts.runs.iter().map(|(id, run)| (format!("{id:x}"), run.summary(wanted))).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole after every line, so a panic elsewhere does not spoil them.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    fn record(&mut self, id: u64, recipients: u32, keyed: bool, now: Instant) {
        let place = usize::try_from(id).unwrap_or(usize::MAX);
        if place >= self.copies.len() {
            self.copies.resize(place + 1, 0);
        }
        if let Some(copies) = self.copies.get_mut(place) {
            *copies = copies.saturating_add(saturate(recipients));
        }
        self.transactions += 1;
        self.recipients += u64::from(recipients);
        self.keyed += u64::from(keyed);
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn summary(&self, wanted: u8) -> RunSummary {
        let count =
            |test: &dyn Fn(u8) -> bool| self.copies.iter().filter(|copies| test(**copies)).count() as u64;
        RunSummary {
            messages: count(&|copies| copies > 0),
            transactions: self.transactions,
            recipients: self.recipients,
            keyed: self.keyed,
            duplicated: count(&|copies| copies > wanted),
            missing: count(&|copies| copies < wanted),
            seconds: self.first.zip(self.last).map_or(0.0, |(first, last)| (last - first).as_secs_f64()),
        }
    }
}

/// Copies are kept in a byte, which bounds memory and is enough to tell one from many.
fn saturate(recipients: u32) -> u8 {
    u8::try_from(recipients).unwrap_or(u8::MAX)
}
