//! A key between its lookup, its commit, and its way into the index: whoever looks and whoever moves may stand still
//! between any two steps, and the decision is still the one that a single list of keys would give (I1, I2).
//!
//! The steps are the product's own, taken one at a time on one thread, so that every failing order comes again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::super::codec::encode_accepted;
use super::super::embedded::Options;
use super::super::files::RealFiles;
use super::super::keys::{Bucket, hash};
use super::super::reclaim::encode_finished;
use super::super::record::Kind;
use super::super::recovery::{self, Opened};
use super::super::{Acceptance, KeyClaim};
use super::*;
use crate::clock::{Clock, Timestamp};
use crate::mail::{
    Body, Envelope, Fingerprint, FingerprintMode, Handling, KeyKind, Message, Origin, ReversePath, Scope,
    ScopedKey,
};

const KEYS: usize = 2;
const START: Timestamp = Timestamp::from_millis(1_795_343_400_000);
const TTL: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A submission looks into memory for its key.
    Look(usize),
    /// The first of those that memory did not tell reads the index.
    ReadIndex,
    /// So many of those that found nothing are committed together.
    Commit(usize),
    Forget(usize),
    /// The message that has a key ends.
    Finish(usize),
    /// All keys expire, but for those whose message lives.
    Expire,
    BeginMove,
    /// What is on its way is put into the index …
    Insert,
    /// … and leaves memory.
    EndMove,
    /// The index could not take it.
    CancelMove,
    Tidy,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..KEYS).prop_map(Step::Look),
        5 => Just(Step::ReadIndex),
        5 => (1..4usize).prop_map(Step::Commit),
        2 => (0..KEYS).prop_map(Step::Forget),
        3 => (0..KEYS).prop_map(Step::Finish),
        1 => Just(Step::Expire),
        4 => Just(Step::BeginMove),
        4 => Just(Step::Insert),
        4 => Just(Step::EndMove),
        1 => Just(Step::CancelMove),
        1 => Just(Step::Tidy),
    ]
}

/// Nobody listens.
struct Nobody;

impl Arrivals for Nobody {
    fn arrived(&self, _messages: Vec<Arc<Message>>) {}
}

/// Where the keys of one [`Step::BeginMove`] are.
enum Moving {
    No,
    Begun(Arc<HashMap<KeyHash, KeyRecord>>),
    Inserted,
}

struct Bench {
    committer: Committer,
    clock: Clock,
    moving: Moving,
    /// Submissions that have to read the index, and with what number of moves.
    reading: Vec<(usize, u64)>,
    /// Submissions that found nothing.
    found_nothing: Vec<(usize, u64)>,
    /// Who has a key: the model.
    owners: HashMap<usize, Owner>,
    /// Messages whose keys were forgotten while they lived.
    forgotten: Vec<QueueId>,
    _dir: tempfile::TempDir,
    _lock: Box<dyn std::any::Any + Send + Sync>,
}

#[derive(Clone, Copy)]
struct Owner {
    id: QueueId,
    expires_at: Timestamp,
    lives: bool,
}

fn key(number: usize) -> ScopedKey {
    ScopedKey { scope: Scope::named("app"), kind: KeyKind::Header, key: number.to_string() }
}

impl Bench {
    fn new() -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
        let options = Options { min_free: 0, ..Options::new(dir.path()) };
        let Opened { shared, journal, lock, .. } =
            recovery::open(options, Arc::new(RealFiles), clock.clone()).unwrap();
        let (_, requests) = mpsc::channel(1);
        let (upkeep, _) = std::sync::mpsc::sync_channel(1);
        let committer =
            Committer { shared: Arc::new(shared), journal, requests, arrivals: Arc::new(Nobody), upkeep };
        let (reading, found_nothing, owners, forgotten) = Default::default();
        Self {
            committer,
            clock,
            moving: Moving::No,
            reading,
            found_nothing,
            owners,
            forgotten,
            _dir: dir,
            _lock: lock,
        }
    }

    /// Whose a key is, by the model.
    fn owner(&self, key: usize) -> Option<QueueId> {
        let is_alive = |owner: &&Owner| owner.lives || self.clock.now() < owner.expires_at;
        self.owners.get(&key).filter(is_alive).map(|owner| owner.id)
    }

    fn take(&mut self, step: Step) {
        let shared = self.committer.shared.clone();
        match step {
            Step::Look(number) => match shared.look_up(&hash(&key(number))) {
                (Lookup::ReadIndex, seen) => self.reading.push((number, seen)),
                (Lookup::Decided(found), seen) => self.looked(number, found, seen),
            },
            Step::ReadIndex if !self.reading.is_empty() => {
                let (number, seen) = self.reading.remove(0);
                let found = shared.look_up_index(&hash(&key(number))).unwrap();
                self.looked(number, found, seen);
            }
            Step::Commit(most) => {
                let count = most.min(self.found_nothing.len());
                let batch: Vec<_> = self.found_nothing.drain(..count).collect();
                self.commit(batch);
            }
            Step::Forget(number) => {
                let expected = self.owner(number);
                match self.committer.forget(&hash(&key(number))).unwrap() {
                    Forgotten::Key(record) => assert_eq!(Some(record.id), expected),
                    other => assert_eq!((other, expected), (Forgotten::Unknown, None)),
                }
                self.forgotten
                    .extend(self.owners.remove(&number).filter(|owner| owner.lives).map(|owner| owner.id));
            }
            Step::Finish(number) => self.finish(number),
            Step::Expire => self.clock.advance(TTL + Duration::from_secs(5 * 3600)),
            Step::BeginMove => {
                if let Moving::No = self.moving {
                    self.moving = Moving::Begun(shared.state().overlay.begin_move());
                }
            }
            Step::Insert => {
                if let Moving::Begun(keys) = &self.moving {
                    let records = keys.iter().map(|(hash, r)| (Bucket::of(r.expires_at), hash, r));
                    shared.index.insert(records).unwrap();
                    self.moving = Moving::Inserted;
                }
            }
            Step::EndMove => {
                if let Moving::Inserted = self.moving {
                    shared.state().overlay.finish_move();
                    self.moving = Moving::No;
                }
            }
            Step::CancelMove => {
                if let Moving::Begun(_) = self.moving {
                    self.moving = Moving::No;
                    shared.state().overlay.cancel_move();
                }
            }
            Step::Tidy => {
                let now = Bucket::of(self.clock.now());
                let lives = |id| shared.state().ledger.live.contains_key(&id);
                while shared.index.sweep(now, lives).unwrap() {}
                shared.state().ledger.drop_forgotten(self.clock.now());
            }
            Step::ReadIndex => {}
        }
    }

    /// A lookup has ended.
    fn looked(&mut self, number: usize, found: Option<KeyRecord>, seen: u64) {
        match found {
            Some(record) => assert_eq!(Some(record.id), self.owner(number), "somebody else's key"),
            None => self.found_nothing.push((number, seen)),
        }
    }

    fn commit(&mut self, submissions: Vec<(usize, u64)>) {
        let mut answers = Vec::new();
        let mut requests = Vec::new();
        for (number, seen) in &submissions {
            let (request, id, answer) = self.request(*number, *seen);
            requests.push(request);
            answers.push((*number, id, answer));
        }
        if requests.is_empty() {
            return;
        }
        self.committer.commit(requests);
        for (number, id, mut answer) in answers {
            let answer = answer.try_recv().expect("an answer at the end of the commit").unwrap();
            match self.owner(number) {
                Some(owner) => {
                    let Acceptance::Existing(record) = answer else { panic!("a second message under a key") };
                    assert_eq!(record.id, owner);
                }
                None => {
                    assert_eq!(answer, Acceptance::Queued);
                    let expires_at = self.clock.now().plus(TTL);
                    self.owners.insert(number, Owner { id, expires_at, lives: true });
                }
            }
        }
    }

    fn request(
        &self,
        number: usize,
        seen: u64,
    ) -> (Request, QueueId, oneshot::Receiver<Result<Acceptance, StoreError>>) {
        let now = self.clock.now();
        let message = Arc::new(message(now, key(number)));
        let fingerprint =
            Fingerprint { version: 1, mode: FingerprintMode::Content, envelope: [1; 32], content: [2; 32] };
        let claim = KeyClaim { fingerprint, expires_at: now.plus(TTL) };
        let claimed = Claimed { hash: hash(&key(number)), record: claim.record(&message), seen };
        let head = encode_accepted(Encoded::start(Kind::Accepted, 512), &message, Some(&claim));
        let record = Encoded::new(head, message.content.clone());
        let (id, (reply, answer)) = (message.id, oneshot::channel());
        (Request::Accept { message, record, key: Some(claimed), reply }, id, answer)
    }

    /// Ends the message that has a key, and those whose keys were forgotten.
    fn finish(&mut self, number: usize) {
        let mut ending = std::mem::take(&mut self.forgotten);
        if let Some(owner) = self.owners.get_mut(&number) {
            owner.lives = false;
            ending.push(owner.id);
        }
        for id in ending {
            let (reply, mut answer) = oneshot::channel();
            let record = encode_finished(id, 0);
            let save = Request::Save { id, notices: Vec::new(), record, outcome: Outcome::Finished, reply };
            self.committer.commit(vec![save]);
            answer.try_recv().unwrap().unwrap();
        }
    }
}

fn message(now: Timestamp, key: ScopedKey) -> Message {
    Message {
        id: QueueId::new(now),
        accepted_at: now,
        envelope: Envelope {
            reverse_path: ReversePath::Null,
            recipients: Vec::new(),
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
        },
        origin: Origin { listener: String::new(), user: None, client: None },
        key: Some(key),
        message_id: String::new(),
        content: Bytes::from_static(b"x\r\n"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i1_i2_a_key_has_one_owner_however_lookups_commits_and_moves_interleave(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut bench = Bench::new();
        for step in steps {
            bench.take(step);
        }
        // Nobody is left without an answer.
        while !bench.reading.is_empty() {
            bench.take(Step::ReadIndex);
        }
        bench.take(Step::Commit(usize::MAX));
        for number in 0..KEYS {
            let (found, _) = bench.committer.shared.look_up(&hash(&key(number)));
            let found = match found {
                Lookup::Decided(found) => found,
                Lookup::ReadIndex => bench.committer.shared.look_up_index(&hash(&key(number))).unwrap(),
            };
            prop_assert_eq!(found.map(|record| record.id), bench.owner(number));
        }
    }
}
