//! What must be true of a store that was opened after a crash: D1, D2, D4, D6 and I1 to I4, for everything that the
//! noted answers say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{Message, Progress, QueueId};
use oncemail::store::{Acceptance, EmbeddedStore, KeyRecord, Recovery, Status, Store};

use super::workload::{Answer, Call, KEYS, Noted, claim, key_text};
use crate::common::history::{finished, key, message};

/// What is known at one operation of the disk.
pub struct Belief<'a> {
    noted: &'a [Noted],
    at: usize,
    /// How each message may stand; `None`: it is not there.
    messages: HashMap<QueueId, Vec<Option<Progress>>>,
    /// Who may have each key.
    keys: Vec<Vec<Option<QueueId>>>,
    accepted: HashMap<QueueId, Arc<Message>>,
    /// The clock, and the latest that it has been.
    now: Timestamp,
    latest: Timestamp,
}

/// What a start has found; the next one must find it too.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    messages: BTreeMap<QueueId, Progress>,
    keys: BTreeMap<usize, KeyRecord>,
}

fn fresh(message: &Message) -> Progress {
    Progress::fresh(message.envelope.recipients.len(), message.envelope.due_at(message.accepted_at))
}

/// The number of a message's key.
fn number_of(message: &Message) -> Option<usize> {
    let scoped = message.key.as_ref()?;
    (0..KEYS).find(|number| key_text(*number) == scoped.key)
}

fn ends(call: &Call) -> Vec<(QueueId, Option<Progress>)> {
    match call {
        Call::Accept(message) => vec![(message.id, Some(fresh(message)))],
        Call::Save(id, progress, notices) => {
            let after = Some(progress.clone()).filter(|progress| !progress.is_finished());
            let told = notices.iter().map(|notice| (notice.id, Some(fresh(notice))));
            std::iter::once((*id, after)).chain(told).collect()
        }
        Call::Forget(_) | Call::Clock => Vec::new(),
    }
}

impl<'a> Belief<'a> {
    /// What must be true when only the first `at` operations were done.
    pub fn new(noted: &'a [Noted], at: usize, start: Timestamp) -> Self {
        let mut belief = Self {
            noted,
            at,
            messages: HashMap::new(),
            keys: vec![vec![None]; KEYS],
            accepted: HashMap::new(),
            now: start,
            latest: start,
        };
        noted.iter().filter(|one| one.issued <= at).for_each(|one| belief.take(one));
        belief
    }

    fn is_open(&self, one: &Noted) -> bool {
        one.done > self.at || one.answer == Answer::Unknown
    }

    fn take(&mut self, one: &Noted) {
        self.now = one.at;
        self.latest = self.latest.max(one.at);
        if let Call::Accept(message) = &one.call {
            self.messages.entry(message.id).or_insert_with(|| vec![None]);
            self.accepted.insert(message.id, message.clone());
        }
        let is_open = self.is_open(one);
        if let Answer::Existing(_) = one.answer {
            return;
        }
        if one.answer == Answer::Refused && (!is_open || matches!(one.call, Call::Forget(_))) {
            return;
        }
        if let Call::Save(id, _, notices) = &one.call {
            notices.iter().for_each(|notice| {
                self.messages.entry(notice.id).or_insert_with(|| vec![None]);
                self.accepted.insert(notice.id, notice.clone());
            });
            // An outcome of a message that is not there changes nothing.
            if self.messages.get(id).is_none_or(|possible| *possible == [None]) {
                return;
            }
        }
        for (id, after) in ends(&one.call) {
            let possible = self.messages.entry(id).or_insert_with(|| vec![None]);
            if !is_open {
                possible.clear();
            }
            possible.push(after);
        }
        let (number, owner) = match &one.call {
            Call::Accept(message) => (number_of(message), Some(message.id)),
            Call::Forget(number) => (Some(*number), None),
            Call::Save(..) | Call::Clock => (None, None),
        };
        if let Some(number) = number {
            let possible = &mut self.keys[number];
            if !is_open {
                possible.clear();
            }
            possible.push(owner);
        }
    }

    /// The clock when the power went.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Checks a store; gives back what is in it.
    pub async fn check(&self, store: &EmbeddedStore, recovery: &Recovery) -> Seen {
        assert_eq!(recovery.missing_segments, Vec::<u32>::new(), "D4: no segment goes before its time");
        assert!(matches!(store.status(), Status::Ready), "{:?}", store.status());
        let mut seen = Seen { messages: BTreeMap::new(), keys: BTreeMap::new() };
        for (id, possible) in &self.messages {
            let found = store.load(*id).await.unwrap();
            if let Some((message, progress)) = found {
                assert_eq!(Some(&message), self.accepted.get(id), "D4: {id} is another message");
                seen.messages.insert(*id, progress);
            }
            let progress = seen.messages.get(id).cloned();
            assert!(possible.contains(&progress), "D6: {id}: {progress:?} is none of {possible:?}");
        }
        let listed: Vec<QueueId> = recovery.messages.iter().map(|message| message.id).collect();
        assert_eq!(
            listed,
            seen.messages.keys().copied().collect::<Vec<_>>(),
            "D6: the start lists what there is"
        );
        for one in &recovery.messages {
            let progress = &seen.messages[&one.id];
            let due = progress.is_queued().then_some(progress.next_attempt);
            assert_eq!(one.next_attempt, due, "D6: {} is due when its progress says", one.id);
        }
        self.check_units(&seen);
        for number in 0..KEYS {
            self.check_key(store, number, &mut seen).await;
        }
        self.check_open_accepts(&seen);
        seen
    }

    /// D2: an outcome that nobody was told of is there with all its notices, or nothing of it is.
    fn check_units(&self, seen: &Seen) {
        for one in self.noted.iter().filter(|one| one.issued <= self.at && self.is_open(one)) {
            let Call::Save(id, _, notices) = &one.call else {
                continue;
            };
            if self.messages.get(id).is_none_or(|possible| *possible == [None]) {
                assert!(notices.iter().all(|notice| !seen.messages.contains_key(&notice.id)));
                continue;
            }
            let found =
                ends(&one.call).into_iter().map(|(id, after)| seen.messages.get(&id) == after.as_ref());
            let found: Vec<bool> = found.collect();
            assert!(found.iter().all(|one| *one == found[0]), "D2: half an outcome of {id}: {found:?}");
        }
    }

    async fn check_key(&self, store: &EmbeddedStore, number: usize, seen: &mut Seen) {
        let found = store.find_key(&key(&key_text(number))).await.unwrap();
        let owner = found.as_ref().map(|record| record.id);
        let allowed: BTreeSet<Option<QueueId>> = self.keys[number]
            .iter()
            .flat_map(|possible| {
                let Some(id) = possible else {
                    return vec![None];
                };
                let expires_at = claim(&self.accepted[id]).expires_at;
                let (dead, alive) = (None, Some(*id));
                if seen.messages.contains_key(id) || self.latest < expires_at {
                    vec![alive]
                } else if self.now < expires_at {
                    // It had expired when the clock was further on.
                    vec![alive, dead]
                } else {
                    vec![dead]
                }
            })
            .collect();
        assert!(allowed.contains(&owner), "I1, I3: key {number} has {owner:?}, and not one of {allowed:?}");
        if let Some(record) = found {
            let message = &self.accepted[&record.id];
            let claim = claim(message);
            assert_eq!(
                (record.fingerprint, record.expires_at, record.accepted_at),
                (claim.fingerprint, claim.expires_at, message.accepted_at),
                "I4: what a retry is compared with"
            );
            seen.keys.insert(number, record);
        }
    }

    /// I4: of a submission that nobody was told of there is a message and its key, or neither.
    fn check_open_accepts(&self, seen: &Seen) {
        for one in self.noted.iter().filter(|one| one.issued <= self.at && self.is_open(one)) {
            let Call::Accept(message) = &one.call else {
                continue;
            };
            let Some(number) = number_of(message) else {
                continue;
            };
            let has_key = seen.keys.get(&number).is_some_and(|record| record.id == message.id);
            assert_eq!(seen.messages.contains_key(&message.id), has_key, "I4: half of {}", message.id);
        }
    }

    /// The store works: a retry of each key replays or is queued, a message ends, and another comes.
    pub async fn go_on(&self, store: &EmbeddedStore, clock: &Clock, seen: &mut Seen) {
        for number in 0..KEYS {
            let retry = message(clock.now(), Some(&key_text(number)), 10);
            let answer = store.accept(retry.clone(), Some(claim(&retry))).await.unwrap();
            match seen.keys.get(&number) {
                Some(record) => {
                    assert_eq!(answer, Acceptance::Existing(record.clone()), "I1: a replay")
                }
                None => {
                    assert_eq!(answer, Acceptance::Queued, "I4: a first submission");
                    seen.messages.insert(retry.id, fresh(&retry));
                    seen.keys.insert(number, claim_record(&retry));
                }
            }
        }
        if let Some((id, _)) = seen.messages.clone().first_key_value() {
            let key = seen.keys.iter().find(|(_, record)| record.id == *id).map(|(number, _)| *number);
            store.save(*id, finished(clock.now())).await.unwrap();
            seen.messages.remove(id);
            // A key that had expired ends with its message.
            if let Some(number) = key.filter(|number| seen.keys[number].expires_at <= clock.now()) {
                seen.keys.remove(&number);
            }
        }
    }
}

fn claim_record(message: &Message) -> KeyRecord {
    let claim = claim(message);
    KeyRecord {
        id: message.id,
        fingerprint: claim.fingerprint,
        accepted_at: message.accepted_at,
        expires_at: claim.expires_at,
    }
}

/// What is there: the same as `before`.
pub async fn still(before: &Seen, store: &EmbeddedStore, recovery: &Recovery) {
    let mut messages = BTreeMap::new();
    for one in &recovery.messages {
        let (_, progress) = store.load(one.id).await.unwrap().unwrap();
        messages.insert(one.id, progress);
    }
    assert_eq!(messages, before.messages, "D1: what a start has found stays");
    for number in 0..KEYS {
        let found = store.find_key(&key(&key_text(number))).await.unwrap();
        assert_eq!(found.as_ref(), before.keys.get(&number), "D1, I1: what a start has found stays");
    }
}
