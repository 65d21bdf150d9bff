//! What far sides have said and taken: the other half of the truth.

use std::collections::BTreeMap;
use std::sync::Arc;

use oncemail::mail::{HoldCause, QueueId, RecipientState};

use super::ledger::{Inner, Ledger};
use super::net::Connection;
use super::world::World;

/// What was said about a recipient of a sender's messages, by anybody.
#[derive(Clone, Copy, Default)]
pub struct Said {
    pub refused_for_good: bool,
}

#[derive(Default)]
pub struct Sayings {
    said: BTreeMap<(String, String), Said>,
    takes: Vec<Take>,
}

/// A final dot that the far side has read, and the message with it.
struct Take {
    id: QueueId,
    whom: String,
    life: u64,
    /// A field that the next hop knows the message by, where the route forwards keys.
    forwarded: Option<String>,
    /// Its 2yz, and where that ends in what was written.
    reply: Option<(Arc<Connection>, u64)>,
    /// Releases until it was sent.
    releases: usize,
}

impl Sayings {
    pub fn of(&self, from: &str, whom: &str) -> Said {
        let known = |whom: &str| self.said.get(&(from.to_owned(), whom.to_owned())).copied();
        // A sender may have been refused, whoever it writes to.
        known(whom).or_else(|| known("*")).unwrap_or_default()
    }

    pub fn refuse_for_good(&mut self, from: &str, whom: &str) {
        let said = self.said.entry((from.to_owned(), whom.to_owned())).or_default();
        said.refused_for_good = true;
    }

    /// Whether somebody has said 2yz.
    pub fn was_taken(&self, id: QueueId, whom: &str) -> bool {
        self.takes.iter().any(|take| take.id == id && take.whom == whom && take.reply.is_some())
    }

    /// Times that somebody has the message.
    pub fn copies(&self, id: QueueId, whom: &str) -> usize {
        self.takes.iter().filter(|take| take.id == id && take.whom == whom).count()
    }
}

impl Ledger {
    /// A far side takes a message for these recipients: is that allowed?
    pub fn take(&self, world: &World, life: u64, content: &[u8], recipients: &[String]) -> Option<QueueId> {
        let Some((id, front)) = self.identify(content) else {
            world.wrong(format!(
                "S1: a far side has a message that nobody sent: {:?}",
                String::from_utf8_lossy(content)
            ));
            return None;
        };
        let forwarded = forwarded(&front);
        let mut inner = self.inner();
        for whom in recipients {
            let entry = &inner.entries[&id];
            let Some(number) = entry.number_of(whom) else {
                world.wrong(format!("{id} was sent to {whom}, who is no recipient of it"));
                continue;
            };
            let state = entry.progress.recipients[number].state;
            let releases = entry.releases_until(life);
            let before: Vec<_> =
                inner.sayings.takes.iter().filter(|take| take.id == id && take.whom == *whom).collect();
            let is_held = whom.ends_with("@hold.example");
            // What an earlier process had sent may have been under way all the time.
            if entry.delivered_by.get(&number).is_some_and(|durable_in| life >= *durable_in) {
                world.wrong(format!("{id} is sent to {whom} again after its delivery was durable"));
            }
            if is_held && state != RecipientState::Held(HoldCause::InDoubt) && !entry.has_orders() {
                world.wrong(format!("R1: {id} is sent to {whom} without a doubt in the journal: {state:?}"));
            }
            if is_held && before.iter().any(|take| take.releases == releases) {
                world.wrong(format!("R1: {id} is sent to {whom} twice, on a route that holds"));
            }
            for take in before {
                let was_read =
                    |(connection, end): &(Arc<Connection>, u64)| connection.relay_has_read() >= *end;
                if take.life == life && take.reply.as_ref().is_some_and(was_read) {
                    world.wrong(format!("{id} is sent to {whom} again, and its delivery was known"));
                }
                if take.forwarded != forwarded {
                    world.wrong(format!(
                        "{id} is sent to {whom} as {forwarded:?}, and was as {:?}",
                        take.forwarded
                    ));
                }
            }
        }
        if let Some(key) = &forwarded {
            self.check_forwarded(world, &inner, key, id, recipients);
        }
        for whom in recipients {
            let releases = inner.entries[&id].releases_until(life);
            let take =
                Take { id, whom: whom.clone(), life, forwarded: forwarded.clone(), reply: None, releases };
            inner.sayings.takes.push(take);
        }
        Some(id)
    }

    /// Two messages, or the same for others, must never come under one forwarded key.
    fn check_forwarded(&self, world: &World, inner: &Inner, key: &str, id: QueueId, recipients: &[String]) {
        let Inner { entries, sayings, latest, .. } = inner;
        let latest = *latest;
        for take in sayings.takes.iter().filter(|take| take.forwarded.as_deref() == Some(key)) {
            let has_lapsed = entries[&take.id].has_lapsed(latest);
            if (take.id != id && !has_lapsed) || (take.id == id && !recipients.contains(&take.whom)) {
                world.wrong(format!(
                    "{key} stands for {} to {} and for {id} to {recipients:?}",
                    take.id, take.whom
                ));
            }
        }
    }

    /// What was taken last of this message for these has its 2yz, which ends there.
    pub fn say_taken(&self, id: QueueId, recipients: &[String], connection: &Arc<Connection>, end: u64) {
        let mut inner = self.inner();
        for whom in recipients {
            let takes = inner.sayings.takes.iter_mut().rev();
            if let Some(take) = takes.into_iter().find(|take| take.id == id && take.whom == *whom) {
                take.reply = Some((connection.clone(), end));
            }
        }
    }

    pub fn refuse_for_good(&self, from: &str, recipients: &[String]) {
        let mut inner = self.inner();
        recipients.iter().for_each(|whom| inner.sayings.refuse_for_good(from, whom));
    }
}

fn forwarded(front: &[u8]) -> Option<String> {
    let front = String::from_utf8_lossy(front).into_owned();
    front.lines().find_map(|line| line.strip_prefix("X-Upstream-Key: ").map(str::to_owned))
}
