//! What both sides have seen: what applications were told, what far sides were given, what the relay said of itself.
//!
//! It only writes down. What it means is decided in `accounts.rs`, when everything has come to rest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::events::Events;
use crate::message::{Draft, Route};
use crate::operator::Hold;
use crate::trap::{Moment, Trap};

/// Faults beyond these are counted, not kept.
const MOST_FAULTS: usize = 200;

/// See the module.
#[derive(Default)]
pub struct Book {
    pages: Mutex<Pages>,
    pub trap: Trap,
}

/// What is in a book.
#[derive(Default)]
pub struct Pages {
    /// By what the message calls itself.
    pub submissions: HashMap<String, Submission>,
    /// Messages that a far side may have taken.
    pub copies: Vec<Copy>,
    /// Queue id and recipient that the log has called delivered, and by which process: that outcome was durable by then.
    pub delivered: HashMap<(String, String), u64>,
    /// What an operator has held, and when.
    pub holds: Vec<Hold>,
    /// What was told of outcomes; read at the end of a round.
    pub events: Events,
    /// How each process of the relay has ended, by number.
    pub ends: HashMap<u64, End>,
    /// Lines of the log at WARN, by message.
    pub warnings: BTreeMap<String, u64>,
    /// What must not have happened.
    pub faults: Vec<String>,
    /// Those and more.
    pub fault_count: u64,
    /// What is only counted.
    pub counts: BTreeMap<&'static str, u64>,
    /// What each far side was told to do, and did.
    pub far_sides: BTreeMap<(Route, &'static str), u64>,
    /// How often each recipient and message was put off, so that it is taken in the end.
    pub put_off: HashMap<String, u32>,
}

/// One message of an application, and what it was told.
pub struct Submission {
    pub draft: Draft,
    /// Which content counts: the one that was acknowledged.
    pub variant: Option<char>,
    /// Each queue id that a 250 named.
    pub ids: HashSet<String>,
    /// 250s that said "queued", and not "already".
    pub fresh: u32,
    pub replays: u32,
    /// Submissions whose final dot may have arrived, and whose reply never came.
    pub unanswered: u32,
}

/// A message at a far side, whole: its final dot was read, and it was not refused.
pub struct Copy {
    pub route: Route,
    /// From our mark; none on a report.
    pub uid: Option<String>,
    pub variant: Option<char>,
    pub id: String,
    pub recipients: Vec<String>,
    /// When its final dot was read.
    pub at: Instant,
    /// Which process of the relay has sent it.
    pub process: u64,
    pub reply: Reply,
    /// Whom a report is about: queue id and recipients that failed.
    pub report: Option<(String, Vec<String>)>,
}

/// What became of the far side's reply.
#[derive(Clone, std::marker::Copy, PartialEq, Debug)]
pub enum Reply {
    /// It is still to come, or could not be written.
    None,
    /// Written to the connection at this time.
    Written(Instant),
    /// The far side broke off instead.
    Withheld,
}

/// The end of a process.
#[derive(Clone, std::marker::Copy, Debug)]
pub struct End {
    pub at: Instant,
    /// kill -9; else it has ended by itself, in order.
    pub is_killed: bool,
    /// For how long it stood still before.
    pub stopped: Duration,
}

impl Book {
    pub fn lock(&self) -> MutexGuard<'_, Pages> {
        // A panic elsewhere fails the run anyway.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that must not happen.
    pub fn fault(&self, what: String) {
        self.lock().fault(what);
    }

    pub fn count(&self, what: &'static str) {
        *self.lock().counts.entry(what).or_default() += 1;
    }

    /// A message that is about to be submitted for the first time.
    pub fn open(&self, draft: &Draft) {
        let submission = Submission {
            draft: draft.clone(),
            variant: None,
            ids: HashSet::new(),
            fresh: 0,
            replays: 0,
            unanswered: 0,
        };
        self.lock().submissions.insert(draft.uid.clone(), submission);
    }

    /// A 250 for a message of this book, or of an earlier one.
    pub fn acknowledged(&self, uid: &str, variant: char, id: &str, is_replay: bool) {
        if !is_replay {
            self.trap.spring(Moment::Acknowledged);
        }
        let mut pages = self.lock();
        *pages.counts.entry(if is_replay { "replays" } else { "acknowledged" }).or_default() += 1;
        let Some(submission) = pages.submissions.get_mut(uid) else { return };
        submission.ids.insert(id.to_owned());
        if is_replay {
            submission.replays += 1;
        } else {
            submission.fresh += 1;
        }
        let first = *submission.variant.get_or_insert(variant);
        if first != variant {
            pages.fault(format!("{uid}: acknowledged with two contents, {first} and {variant}"));
        }
    }

    /// The final dot may have arrived, and nobody knows what came of it.
    pub fn unanswered(&self, uid: &str) {
        let mut pages = self.lock();
        *pages.counts.entry("unanswered").or_default() += 1;
        if let Some(submission) = pages.submissions.get_mut(uid) {
            submission.unanswered += 1;
        }
    }

    /// A copy at a far side; gives back its number.
    pub fn copy(&self, copy: Copy) -> usize {
        let mut pages = self.lock();
        pages.copies.push(copy);
        pages.copies.len() - 1
    }

    pub fn replied(&self, copy: usize, reply: Reply) {
        if let Some(copy) = self.lock().copies.get_mut(copy) {
            copy.reply = reply;
        }
    }

    pub fn far_side(&self, route: Route, what: &'static str) {
        *self.lock().far_sides.entry((route, what)).or_default() += 1;
    }

    /// Whether to put this one off once more; true the first `times`.
    pub fn put_off(&self, who: &str, times: u32) -> bool {
        let mut pages = self.lock();
        let so_far = pages.put_off.entry(who.to_owned()).or_default();
        *so_far += 1;
        *so_far <= times
    }
}

impl Pages {
    pub fn fault(&mut self, what: String) {
        self.fault_count += 1;
        if self.faults.len() < MOST_FAULTS {
            eprintln!("soak: FAULT: {what}");
            self.faults.push(what);
        }
    }

    /// Forgets what has been accounted for, and keeps what is only counted.
    pub fn turn_over(&mut self) {
        self.submissions.clear();
        self.copies.clear();
        self.delivered.clear();
        self.put_off.clear();
        self.holds.clear();
        self.events = Events::default();
    }
}
