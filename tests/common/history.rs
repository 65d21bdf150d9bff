//! A run of a store, what it has acknowledged, and what must therefore be true after a crash.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{
    Address, AttemptReply, Body, Envelope, Fingerprint, FingerprintMode, Handling, HoldCause, KeyKind,
    Message, Origin, Progress, QueueId, Recipient, RecipientState, ReversePath, Scope, ScopedKey,
};
use oncemail::store::embedded::Options;
use oncemail::store::files::Files;
use oncemail::store::{
    Acceptance, Arrivals, EmbeddedStore, KeyClaim, OpenError, Recovery, Store, StoreError,
};

/// Nobody listens.
pub struct NoArrivals;

impl Arrivals for NoArrivals {
    fn arrived(&self, _messages: Vec<Arc<Message>>) {}
}

pub const TTL: Duration = Duration::from_secs(24 * 3600);

pub fn start() -> Timestamp {
    Timestamp::from_millis(1_795_343_400_000)
}

/// Small segments, so that a short run has many.
pub fn options(dir: &Path) -> Options {
    Options { segment_bytes: 4096, min_free: 0, ..Options::new(dir) }
}

pub fn open(
    dir: &Path,
    files: Arc<dyn Files>,
    clock: &Clock,
) -> Result<(EmbeddedStore, Recovery), OpenError> {
    EmbeddedStore::open(options(dir), files, clock.clone(), Arc::new(NoArrivals))
}

pub fn key(text: &str) -> ScopedKey {
    ScopedKey { scope: Scope::named("app"), kind: KeyKind::Header, key: text.into() }
}

pub fn message(now: Timestamp, key_text: Option<&str>, size: usize) -> Arc<Message> {
    let id = QueueId::new(now);
    let recipient = |text| Recipient {
        forward_path: Address::parse(text).unwrap(),
        notify: None,
        orcpt: None,
        unverified: false,
    };
    Arc::new(Message {
        id,
        accepted_at: now,
        envelope: Envelope {
            reverse_path: ReversePath::Mailbox(Address::parse("a@example.org").unwrap()),
            recipients: vec![recipient("b@example.net"), recipient("c@example.net")],
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
        },
        origin: Origin { listener: "main".into(), user: Some("app".into()), client: None },
        key: key_text.map(key),
        message_id: format!("<{id}@example.org>"),
        content: Bytes::from(id.to_string().repeat(size / 26 + 1)),
    })
}

pub fn claim(now: Timestamp) -> KeyClaim {
    let fingerprint =
        Fingerprint { version: 1, mode: FingerprintMode::Content, envelope: [1; 32], content: [2; 32] };
    KeyClaim { fingerprint, expires_at: now.plus(TTL) }
}

pub async fn accept(store: &dyn Store, message: &Arc<Message>) -> Result<Acceptance, StoreError> {
    let claim = message.key.as_ref().map(|_| claim(message.accepted_at));
    store.accept(message.clone(), claim).await
}

/// One recipient is delivered, the other deferred `attempt` times.
pub fn deferred(now: Timestamp, attempt: u32) -> Progress {
    let mut progress = Progress::fresh(2, now.plus(Duration::from_secs(attempt.into())));
    progress.attempts = attempt;
    progress.recipients[0].state = RecipientState::Delivered;
    progress.recipients[1].note(AttemptReply {
        at: now,
        route: "r".into(),
        host: "h:25".into(),
        code: 451,
        text: format!("busy {attempt}"),
        times: 1,
        tls: String::new(),
    });
    progress
}

/// A report about another message: from nobody, without a key. It has two recipients, so that any progress here fits it.
pub fn notice(now: Timestamp, size: usize) -> Arc<Message> {
    let mut notice = Message::clone(&message(now, None, size));
    notice.envelope.reverse_path = ReversePath::Null;
    notice.origin = Origin { listener: String::new(), user: None, client: None };
    Arc::new(notice)
}

pub fn finished(now: Timestamp) -> Progress {
    let mut progress = Progress::fresh(2, now);
    progress.recipients.iter_mut().for_each(|r| r.state = RecipientState::Delivered);
    progress
}

pub fn held(now: Timestamp) -> Progress {
    let mut progress = finished(now);
    progress.recipients[1].state = RecipientState::Held(HoldCause::Failed);
    progress
}

/// What was asked for.
#[derive(Clone)]
pub enum Action {
    Accept(Arc<Message>),
    Save(QueueId, Progress, Vec<Arc<Message>>),
    Settle,
}

impl Action {
    /// The messages that it changes, each with how it stands afterwards.
    fn ends(&self) -> Vec<(QueueId, Option<Progress>)> {
        let fresh = |m: &Arc<Message>| {
            let due = m.envelope.due_at(m.accepted_at);
            (m.id, Some(Progress::fresh(m.envelope.recipients.len(), due)))
        };
        match self {
            Self::Accept(message) => vec![fresh(message)],
            Self::Save(id, progress, notices) => {
                let after = Some(progress.clone()).filter(|progress| !progress.is_finished());
                std::iter::once((*id, after)).chain(notices.iter().map(fresh)).collect()
            }
            Self::Settle => Vec::new(),
        }
    }
}

/// One step of a run: `acknowledged` is the number of file operations at that moment, if it was.
pub struct Step {
    pub action: Action,
    pub issued: usize,
    pub acknowledged: Option<usize>,
}

/// See the module.
#[derive(Default)]
pub struct History(pub Vec<Step>);

impl History {
    async fn step(&mut self, store: &EmbeddedStore, action: Action, operations: &impl Fn() -> usize) {
        let issued = operations();
        let result = match &action {
            Action::Accept(message) => accept(store, message).await.map(|answer| {
                assert_eq!(answer, Acceptance::Queued);
            }),
            Action::Save(id, progress, notices) => {
                store.save_with(*id, progress.clone(), notices.clone()).await
            }
            Action::Settle => store.settle().await,
        };
        let acknowledged = result.is_ok().then(operations);
        self.0.push(Step { action, issued, acknowledged });
    }

    /// A run that has everything in it: keys, progress, ends, several segments, checkpoints, copies, removals.
    pub async fn run(store: &EmbeddedStore, now: Timestamp, operations: impl Fn() -> usize) -> Self {
        let mut run = Self::default();
        let messages: Vec<_> = (0..14)
            .map(|n| {
                let text = format!("key {n}");
                message(
                    now,
                    (n % 3 != 0).then_some(text.as_str()),
                    if (2..=11).contains(&n) { 1500 } else { 500 },
                )
            })
            .collect();
        for (n, message) in messages.iter().enumerate() {
            run.step(store, Action::Accept(message.clone()), &operations).await;
            let (progress, notices) = match n {
                0 => (held(now), vec![]),
                1 => (deferred(now, 1), vec![]),
                4 => (finished(now), vec![notice(now, 500)]),
                7 => (deferred(now, 1), vec![notice(now, 100), notice(now, 200)]),
                2..=11 => (finished(now), vec![]),
                _ => continue,
            };
            let told = notices.first().map(|notice| notice.id);
            run.step(store, Action::Save(message.id, progress, notices), &operations).await;
            if n == 5 {
                run.step(store, Action::Settle, &operations).await;
                run.step(store, Action::Save(messages[1].id, deferred(now, 2), vec![]), &operations).await;
            }
            if let (7, Some(told)) = (n, told) {
                run.step(store, Action::Save(told, finished(now), vec![]), &operations).await;
            }
        }
        run.step(store, Action::Settle, &operations).await;
        run.step(store, Action::Save(messages[13].id, deferred(now, 3), vec![notice(now, 400)]), &operations)
            .await;
        run.step(store, Action::Save(messages[12].id, finished(now), vec![]), &operations).await;
        run.step(store, Action::Accept(message(now, Some("last"), 1500)), &operations).await;
        run.step(store, Action::Settle, &operations).await;
        run
    }

    /// Checks a store that was opened after a crash at operation `at`: what was acknowledged is there, once, as it was
    /// last; what was only asked for is there whole or not at all; a retry never makes a second message.
    pub async fn check(&self, at: usize, store: &EmbeddedStore, recovery: &Recovery) {
        let mut living: HashMap<QueueId, Vec<Option<Progress>>> = HashMap::new();
        for step in self.0.iter().filter(|step| step.issued <= at) {
            // An outcome of a message that was refused is taken, and means nothing.
            let refused = matches!(&step.action, Action::Save(id, ..) if self.refused(*id));
            let certain = !refused && step.acknowledged.is_some_and(|acknowledged| acknowledged <= at);
            for (id, after) in step.action.ends() {
                let possible = living.entry(id).or_insert_with(|| vec![None]);
                if certain {
                    possible.clear();
                }
                possible.push(after);
            }
        }
        for (id, possible) in &living {
            let found = store.load(*id).await.unwrap();
            let progress = found.as_ref().map(|(_, progress)| progress.clone());
            assert!(possible.contains(&progress), "{id}: {progress:?} is none of {possible:?}");
            let listed = recovery.messages.iter().filter(|m| m.id == *id).count();
            assert_eq!(listed, usize::from(found.is_some()), "{id} is listed once if it lives");
        }
        assert!(recovery.messages.iter().all(|m| living.contains_key(&m.id)), "nobody knows this message");
        self.check_units(at, store).await;
        self.check_contents_and_retries(at, store).await;
    }

    /// D2: an outcome and its notices are all there or none of them, wherever nothing has happened to them since.
    async fn check_units(&self, at: usize, store: &EmbeddedStore) {
        for (number, step) in self.0.iter().enumerate().filter(|(_, step)| step.issued <= at) {
            let Action::Save(id, _, notices) = &step.action else {
                continue;
            };
            if self.refused(*id) {
                for notice in notices {
                    assert_eq!(store.load(notice.id).await, Ok(None), "about a message that never was");
                }
                continue;
            }
            let later = self.0[number + 1..].iter().filter(|step| step.issued <= at);
            let touched: Vec<_> = later.flat_map(|step| step.action.ends()).map(|(id, _)| id).collect();
            let mut found = Vec::new();
            for (id, after) in step.action.ends().into_iter().filter(|(id, _)| !touched.contains(id)) {
                let progress = store.load(id).await.unwrap().map(|(_, progress)| progress);
                found.push(progress == after);
            }
            assert!(found.iter().all(|one| *one == found[0]), "half an outcome of {id}: {found:?}");
            for notice in notices {
                let there = store.load(notice.id).await.unwrap();
                assert!(there.is_none_or(|(found, _)| found == *notice));
            }
        }
    }

    fn refused(&self, id: QueueId) -> bool {
        self.0.iter().any(|step| {
            matches!(&step.action, Action::Accept(m) if m.id == id) && step.acknowledged.is_none()
        })
    }

    async fn check_contents_and_retries(&self, at: usize, store: &EmbeddedStore) {
        for step in &self.0 {
            let Action::Accept(original) = &step.action else {
                continue;
            };
            if let Some((found, _)) = store.load(original.id).await.unwrap() {
                assert_eq!(&found, original);
            }
            let Some(scoped) = &original.key else {
                continue;
            };
            let remembered = store.find_key(scoped).await.unwrap();
            let retry = message(original.accepted_at, Some(&scoped.key), 10);
            let answer = accept(store, &retry).await.unwrap();
            match remembered {
                Some(record) => {
                    assert_eq!(record.id, original.id);
                    assert_eq!(answer, Acceptance::Existing(record), "a replay");
                }
                None => {
                    assert!(step.acknowledged.is_none_or(|a| a > at), "the key of {} is gone", original.id);
                    assert_eq!(answer, Acceptance::Queued);
                    assert!(store.load(original.id).await.unwrap().is_none(), "a duplicate");
                }
            }
        }
    }
}
