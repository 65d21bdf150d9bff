//! Every message of the queue with what people ask for it by, so that a list of a million needs no disk.
//!
//! An entry holds no text of its own: names are shared, addresses are hashed; whoever shows a message reads it from the
//! store, a page at a time, and who changes one asks again whether it is wanted ([`Wanted::is_met_by`]). A start knows only
//! ids, times and priorities; the messages are read in the background, and are *unread* until then. It must never hold the
//! queue's lock for longer than a few thousand entries take.

mod entry;
mod judge;
mod names;
mod shelf;

pub(super) use entry::{AT_ONCE, Entry, Facts};

use std::sync::{Arc, PoisonError};

use super::{Depth, Queue};
use crate::clock::Timestamp;
use crate::mail::{Message, Progress, QueueId};
use crate::store::StoreError;
use judge::Judge;
use names::Names;
use shelf::Shelf;

/// Entries that are looked at, at least, before the queue is let go for others.
const PART: usize = 4_096;
/// Messages that are read at a time after a start.
const READ_AT_A_TIME: usize = 256;

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
    /// How many match in all, this page or not. Two addresses of one domain may look alike here, once in four thousand
    /// million: whoever shows or changes a message reads it, and asks [`Wanted::is_met_by`].
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
    /// As it was saved last: an attempt under way saves what it finds out leg by leg.
    pub progress: Progress,
    /// Where it stands.
    pub standing: Standing,
}

/// Every message of the queue, in the order of their ids.
///
/// A message with one recipient takes 64 bytes here, and a further one 8; a name takes some 80 and stands here once,
/// however many messages share it.
#[derive(Default)]
pub(super) struct Register {
    shelf: Shelf,
    names: Names,
    depth: Depth,
}

impl Register {
    /// Adds a message that has just come.
    pub(super) fn add(&mut self, id: QueueId, facts: &Facts<'_>, due_ms: u64, priority: i8) {
        let mut entry = Entry::unread(id, Standing::Queued, due_ms, priority);
        entry.fill(facts, &mut self.names);
        self.put(entry);
    }

    /// Adds a message of which only the id is known.
    pub(super) fn add_unread(&mut self, id: QueueId, standing: Standing, due_ms: u64, priority: i8) {
        self.put(Entry::unread(id, standing, due_ms, priority));
    }

    fn put(&mut self, entry: Entry) {
        self.depth.count(&entry);
        if let Some(before) = self.shelf.insert(entry) {
            self.depth.discount(&before);
            before.clear(&mut self.names);
        }
    }

    pub(super) fn get(&self, id: QueueId) -> Option<&Entry> {
        self.shelf.get(&id.to_bytes())
    }

    /// Changes where a message stands, or when it is due; `None` when it is not here.
    pub(super) fn change<R>(&mut self, id: QueueId, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let Self { shelf, depth, .. } = self;
        shelf.change(&id.to_bytes(), |entry| {
            depth.discount(entry);
            let result = change(entry);
            depth.count(entry);
            result
        })
    }

    /// The message has ended.
    pub(super) fn remove(&mut self, id: QueueId) {
        if let Some(entry) = self.shelf.remove(&id.to_bytes()) {
            self.depth.discount(&entry);
            entry.clear(&mut self.names);
        }
    }

    /// A message that was unread has been read.
    fn fill(&mut self, id: QueueId, facts: &Facts<'_>) {
        let Self { shelf, names, depth } = self;
        shelf.change(&id.to_bytes(), |entry| {
            if entry.kind.is_none() {
                depth.discount(entry);
                entry.fill(facts, names);
                depth.count(entry);
            }
        });
    }

    pub(super) fn depth(&self) -> Depth {
        self.depth
    }
}

impl Depth {
    fn place(&mut self, entry: &Entry) -> &mut usize {
        match entry.standing {
            _ if entry.is_event() => &mut self.events,
            Standing::Queued | Standing::Active => &mut self.queued,
            Standing::Held => &mut self.held,
        }
    }

    fn count(&mut self, entry: &Entry) {
        *self.place(entry) += 1;
    }

    fn discount(&mut self, entry: &Entry) {
        let place = self.place(entry);
        *place = place.saturating_sub(1);
    }
}

/// While it is there, numbers keep the names that they stand for.
struct Looking<'a>(&'a Queue);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.state().register.names.unhold();
    }
}

impl Queue {
    /// Looks through the whole queue. Takes tens of milliseconds for a million messages, and waits for others that do: not
    /// for a tokio worker. What comes or changes meanwhile may be in it or not.
    ///
    /// `most` may be `usize::MAX`. Messages come newest first, those below `after` only.
    pub fn find(&self, wanted: &Wanted, routes: &dyn Routes, after: Option<QueueId>, most: usize) -> Found {
        let _alone = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut judge = {
            let mut state = self.state();
            state.register.names.hold();
            Judge::new(wanted, &state.register.names, &self.hashing, after, most)
        };
        let _looking = Looking(self);
        let mut below = None;
        loop {
            let state = self.state();
            let Register { shelf, names, .. } = &state.register;
            below = shelf.walk(below, PART, |entry| judge.see(entry, names));
            drop(state);
            judge.ask(routes);
            if below.is_none() {
                return judge.found();
            }
        }
    }

    /// One message as it was saved last; `None`: it is not in the queue (any more).
    ///
    /// # Errors
    /// When the store cannot read it.
    pub async fn look(&self, id: QueueId) -> Result<Option<Look>, StoreError> {
        let Some(store) = self.store() else { return Ok(None) };
        let found = store.load(id).await?;
        let standing = self.state().register.get(id).map(|entry| entry.standing);
        Ok(found.zip(standing).map(|((message, progress), standing)| Look { message, progress, standing }))
    }

    /// When the oldest message that is queued was accepted. Events are none.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.state().register.shelf.oldest().map(|entry| QueueId::from_bytes(entry.id).accepted_at())
    }

    /// Reads the messages that a start has found, newest first and a few at a time, so that filters find them. To be run
    /// beside everything else, once after [`Queue::start`]; ends by itself, or with the store.
    ///
    /// # Cancel safety
    /// A dropped future leaves the rest unread.
    pub async fn read_register(&self) {
        let Some(store) = self.store() else { return };
        let mut below = None;
        loop {
            let mut ids = Vec::with_capacity(READ_AT_A_TIME);
            below = self.state().register.shelf.walk(below, READ_AT_A_TIME, |entry| {
                if entry.kind.is_none() {
                    ids.push(QueueId::from_bytes(entry.id));
                }
            });
            if !ids.is_empty() {
                match store.describe(ids).await {
                    Ok(found) => found.iter().for_each(|one| {
                        let progress = Some(&one.progress);
                        let facts = Facts::new(&one.envelope, &one.origin, progress, &self.hashing);
                        self.state().register.fill(one.id, &facts);
                    }),
                    Err(StoreError::Closed) => return,
                    Err(error) => {
                        tracing::warn!(target: "oncemail::queue", %error,
                            "messages of an earlier process cannot be read; filters do not find them");
                    }
                }
            }
            if below.is_none() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Notes for which recipients of a message nothing is left to do, for filters.
    pub(super) fn register_progress(&self, id: QueueId, progress: &Progress) {
        // With one recipient the message itself ends.
        if progress.recipients.len() > 1 {
            self.state().register.change(id, |entry| entry.note(progress));
        }
    }
}
