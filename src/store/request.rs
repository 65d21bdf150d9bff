//! What the commit thread is asked for: the records of each request, and what becomes of them.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::keys::{Bucket, KeyHash};
use super::ledger::Entry;
use super::reclaim::{encode_forgotten, encode_keys};
use super::record::{Encoded, Place};
use super::shared::{Shared, State};
use super::{Acceptance, Forgotten, KeyRecord, StoreError};
use crate::clock::Timestamp;
use crate::mail::{Message, QueueId};

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the commit thread is asked for.
pub enum Request {
    /// A new message.
    Accept { message: Arc<Message>, record: Encoded, key: Option<Claimed>, reply: Reply<Acceptance> },
    /// An outcome, and the notices that stand or fall with it (D2).
    Save {
        id: QueueId,
        notices: Vec<(Arc<Message>, Encoded)>,
        record: Encoded,
        outcome: Outcome,
        reply: Reply<()>,
    },
    /// Records from a segment that is to go; answered with those whose progress was not the latest any more.
    Copy { items: Vec<CopyItem>, reply: Reply<Vec<QueueId>> },
    /// A key is to be forgotten, whoever has it when its turn comes.
    Forget { hash: KeyHash, reply: Reply<Forgotten> },
    /// What comes next goes into a new segment, so that this one can be given back.
    Roll { reply: Reply<()> },
    /// Nothing comes after this.
    Close,
}

/// A key as its submission found it.
pub struct Claimed {
    pub hash: KeyHash,
    pub record: KeyRecord,
    /// The overlay's number of moves when the key was looked up and not found.
    pub seen: u64,
}

/// What an outcome means for the schedule.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// The message is forgotten.
    Finished,
    /// It stays.
    Open { queued: bool, next_attempt: Timestamp },
}

/// Something that lives in a segment that is to go.
pub enum CopyItem {
    /// A message.
    Message(MessageCopy),
    /// Keys of finished messages, for one record.
    Keys { keys: Vec<(KeyHash, KeyRecord)>, encoded: Encoded },
}

/// A message with its progress, and where they were read.
pub struct MessageCopy {
    pub id: QueueId,
    /// Stands in front when its key was forgotten: what forgets a key must not go before what brings it back.
    pub forgotten: Option<Encoded>,
    pub accepted: (Place, Encoded),
    pub attempted: Option<(Place, Encoded)>,
}

/// What is done about a request.
pub enum Verdict {
    /// It is written and made visible.
    Write,
    /// Another submission has the key.
    Existing(KeyRecord),
    /// Its message is gone.
    Nothing,
    /// It cannot be told who has the key.
    Fail(StoreError),
}

impl Request {
    /// What it adds to a commit.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Accept { record, .. } => record.len(),
            Self::Save { notices, record, .. } => {
                record.len() + notices.iter().map(|(_, notice)| notice.len()).sum::<usize>()
            }
            Self::Copy { .. } | Self::Forget { .. } | Self::Roll { .. } | Self::Close => 0,
        }
    }

    /// Whether it is an outcome with notices.
    pub fn has_notices(&self) -> bool {
        matches!(self, Self::Save { notices, .. } if !notices.is_empty())
    }

    /// The records to write, in order. An outcome stands directly behind its notices (D2).
    pub fn records_for(&mut self, verdict: &Verdict) -> impl Iterator<Item = &mut Encoded> {
        let (notices, record) = match (self, verdict) {
            (Self::Accept { record, .. }, Verdict::Write) => (Default::default(), Some(record)),
            (Self::Save { notices, record, .. }, Verdict::Write) => (notices.as_mut_slice(), Some(record)),
            _ => (Default::default(), None),
        };
        notices.iter_mut().map(|(_, notice)| notice).chain(record)
    }

    /// Makes what was written visible in memory; notes the messages that the queue has to hear of.
    pub fn publish(
        &self,
        state: &mut State,
        places: &mut impl Iterator<Item = Place>,
        arrived: &mut Vec<Arc<Message>>,
    ) {
        match self {
            Self::Accept { message, key, .. } => {
                let Some(place) = places.next() else { return };
                let bucket = key.as_ref().map(|key| Bucket::of(key.record.expires_at));
                state.ledger.accepted(message.id, fresh(message, place, bucket));
                if let Some(key) = key {
                    state.overlay.insert(key.hash, key.record.clone());
                }
                arrived.push(message.clone());
            }
            Self::Save { id, notices, outcome, .. } => {
                for (notice, _) in notices {
                    let Some(place) = places.next() else { return };
                    state.ledger.accepted(notice.id, fresh(notice, place, None));
                    arrived.push(notice.clone());
                }
                match (outcome, places.next()) {
                    (Outcome::Finished, _) => state.ledger.finished(*id),
                    (Outcome::Open { queued, next_attempt }, Some(place)) => {
                        state.ledger.attempted(*id, place, *queued, *next_attempt);
                    }
                    (Outcome::Open { .. }, None) => {}
                }
            }
            Self::Copy { .. } | Self::Forget { .. } | Self::Roll { .. } | Self::Close => {}
        }
    }

    // Whoever asked may be gone; what was handed over happens all the same.
    pub fn answer(self, verdict: Verdict) {
        match self {
            Self::Accept { reply, .. } => {
                let _ = reply.send(match verdict {
                    Verdict::Existing(record) => Ok(Acceptance::Existing(record)),
                    Verdict::Write | Verdict::Nothing => Ok(Acceptance::Queued),
                    Verdict::Fail(error) => Err(error),
                });
            }
            Self::Save { reply, .. } => {
                let _ = reply.send(Ok(()));
            }
            Self::Copy { .. } | Self::Forget { .. } | Self::Roll { .. } | Self::Close => {}
        }
    }

    pub fn fail(self, error: &StoreError) {
        match self {
            Self::Accept { reply, .. } => {
                let _ = reply.send(Err(error.clone()));
            }
            Self::Save { reply, .. } | Self::Roll { reply } => {
                let _ = reply.send(Err(error.clone()));
            }
            Self::Copy { reply, .. } => {
                let _ = reply.send(Err(error.clone()));
            }
            Self::Forget { reply, .. } => {
                let _ = reply.send(Err(error.clone()));
            }
            Self::Close => {}
        }
    }
}

impl CopyItem {
    /// Whether it is still as it was read, or what of it is. A message that has moved on since is noted.
    pub fn keep_current(&mut self, state: &State, shared: &Shared, stale: &mut Vec<QueueId>) -> bool {
        match self {
            Self::Message(copy) => {
                let read_at = copy.attempted.as_ref().map_or(Place::default(), |(place, _)| *place);
                let Some(entry) = state.ledger.live.get(&copy.id) else { return false };
                let current = entry.accepted == copy.accepted.0 && entry.attempted == read_at;
                let forgotten = state.ledger.forgotten.get(&copy.id);
                copy.forgotten = forgotten.map(|expires_at| encode_forgotten(copy.id, *expires_at));
                if !current {
                    stale.push(copy.id);
                }
                current
            }
            // A newer submission may have taken a key since it expired: the old one must not come back behind it.
            Self::Keys { keys, encoded } => {
                let (now, before) = (shared.clock.settled(), keys.len());
                keys.retain(|(hash, record)| {
                    let newest = state.overlay.get(hash);
                    now < record.expires_at
                        && !state.ledger.forgotten.contains_key(&record.id)
                        && newest.is_none_or(|newest| newest.id == record.id)
                });
                if keys.len() < before {
                    *encoded = encode_keys(keys);
                }
                !keys.is_empty()
            }
        }
    }

    pub fn records(&mut self) -> impl Iterator<Item = &mut Encoded> {
        let (before, first, second) = match self {
            Self::Message(copy) => {
                let attempted = copy.attempted.as_mut().map(|(_, record)| record);
                (copy.forgotten.as_mut(), &mut copy.accepted.1, attempted)
            }
            Self::Keys { encoded, .. } => (None, encoded, None),
        };
        before.into_iter().chain([first]).chain(second)
    }

    pub fn publish(&self, state: &mut State, places: &mut impl Iterator<Item = Place>) {
        if matches!(self, Self::Message(copy) if copy.forgotten.is_some()) {
            places.next();
        }
        let Some(place) = places.next() else { return };
        match self {
            Self::Message(copy) => {
                let Some(entry) = state.ledger.live.get(&copy.id).copied() else { return };
                state.ledger.accepted(copy.id, Entry { accepted: place, ..entry });
                if copy.attempted.is_some()
                    && let Some(place) = places.next()
                {
                    state.ledger.attempted(copy.id, place, entry.queued, entry.next_attempt);
                }
            }
            Self::Keys { keys, .. } => {
                let bucket = |record: &KeyRecord| Bucket::of(record.expires_at);
                for some in keys.chunk_by(|(_, one), (_, other)| bucket(one) == bucket(other)) {
                    let bucket = some.first().map_or(Bucket(0), |(_, record)| bucket(record));
                    state.ledger.keys(place.segment, bucket, some.len());
                }
            }
        }
    }
}

fn fresh(message: &Message, place: Place, key: Option<Bucket>) -> Entry {
    Entry::fresh(place, message.accepted_at, message.envelope.handling, key)
}
