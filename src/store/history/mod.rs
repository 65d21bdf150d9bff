//! What became of messages that are gone from the queue, and which retries were answered: remembered for a while, so
//! that "what happened to order 123?" has an answer.
//!
//! Like the suppression list it is a memory aid and not a promise: nobody waits for it, and a power cut may take the
//! last second of it. It must never hold up mail: when its thread does not keep up, records are dropped and counted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::mail::{Message, Progress, QueueId, RecipientProgress, ReversePath, ScopedKey};

/// `[history]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Records are kept for this long …
    pub retention: Duration,
    /// … and the oldest go earlier when all take more than this, in bytes.
    pub max_bytes: u64,
}

/// A message that is gone from the queue, or what is remembered of one that is still there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Past {
    /// Its id; says when it was accepted, too.
    pub id: QueueId,
    /// Its end, if it is over.
    pub ended: Option<Ended>,
    /// Retries that were answered with its id, oldest first, at most 100.
    pub replays: Vec<(Timestamp, Option<IpAddr>)>,
    /// How many there were in all.
    pub replay_count: u64,
}

/// The end of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// When nothing was left to do.
    pub at: Timestamp,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Who it was from.
    pub reverse_path: ReversePath,
    /// Who it was for, and what became of that.
    pub recipients: Vec<(String, RecipientProgress)>,
    /// Name of the listener; empty for what was made here.
    pub listener: String,
    /// Who submitted it.
    pub user: Option<String>,
    /// From where.
    pub client: Option<IpAddr>,
    /// The key that it came under.
    pub key: Option<ScopedKey>,
    /// Message-ID with its angle brackets.
    pub message_id: String,
    /// The W3C trace context that it came with.
    pub traceparent: Option<String>,
    /// Octets.
    pub size: u64,
    /// Attempts that counted.
    pub attempts: u32,
    /// The sender was told that it took long.
    pub warned: bool,
    /// MT-PRIORITY.
    pub priority: i8,
}

/// Which ended messages; all conditions that are there have to hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PastWanted {
    /// A recipient that ended in one of these ways (delivered, bounced, discarded); empty: any.
    pub states: Vec<crate::mail::RecipientState>,
    /// As in the queue's filter.
    pub to: Option<String>,
    /// As in the queue's filter.
    pub to_domain: Option<String>,
    /// As in the queue's filter.
    pub from: Option<String>,
    /// As in the queue's filter.
    pub user: Option<String>,
    /// The route that its last reply came over.
    pub route: Option<String>,
    /// Accepted before this time.
    pub accepted_before: Option<Timestamp>,
    /// Accepted at this time or after it.
    pub accepted_from: Option<Timestamp>,
}

/// Some of the past, those that ended last first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PastPage {
    /// What was found.
    pub messages: Vec<(QueueId, Ended)>,
    /// Where to go on; opaque. There may be a next page though this one is empty: a call reads no more than so much.
    pub next: Option<String>,
}

/// See the module.
pub struct History {}

impl History {
    /// Remembers the end of a message. Never waits.
    pub fn ended(&self, message: &Arc<Message>, progress: &Progress) {
        let _ = (message, progress);
    }

    /// Remembers that a retry was answered with `first`. Never waits.
    pub fn replayed(&self, first: QueueId, client: Option<IpAddr>) {
        let _ = (first, client);
    }

    /// What is remembered of a message. Reads files: not for a tokio worker.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn find(&self, id: QueueId) -> std::io::Result<Option<Past>> {
        let _ = id;
        Ok(None)
    }

    /// Looks through what has ended, from `after` on backwards in time, for at most `most`. Reads files.
    ///
    /// # Errors
    /// When a file cannot be read, or `after` is nothing that a page has said.
    pub fn search(&self, wanted: &PastWanted, after: Option<&str>, most: usize) -> std::io::Result<PastPage> {
        let _ = (wanted, after, most);
        Ok(PastPage::default())
    }
}
