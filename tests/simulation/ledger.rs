//! What must be true of every message: kept from what the store has confirmed and what far sides and clients have seen.
//!
//! The store's confirmations are the only truth (D1). A call that a crash cut off may have happened or not, as a whole
//! (D2); the next start shows which, and everything else must be exactly as it was confirmed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use oncemail::clock::Timestamp;
use oncemail::mail::{HoldCause, Message, Progress, QueueId, RecipientState};
use oncemail::queue::Action;
use oncemail::store::KeyClaim;

use super::settings::KEY_LIFE;
use super::world::World;

/// A call of the store that changes something.
#[derive(Clone)]
pub enum Call {
    Accept(Arc<Message>, Option<KeyClaim>),
    Save(QueueId, Progress, Vec<Arc<Message>>),
}

/// One message that the store has, or had.
pub struct Entry {
    pub message: Arc<Message>,
    pub claim: Option<KeyClaim>,
    /// As confirmed last.
    pub progress: Progress,
    pub is_gone: bool,
    /// What operators wanted, and of which process, whether it was done or not.
    orders: Vec<(Action, u64)>,
    /// Replies with this id.
    pub acknowledged: u32,
    /// Failure reports by recipient.
    reports: BTreeMap<usize, u32>,
    delays: u32,
    /// The process that has made a delivery durable, by recipient.
    pub delivered_by: BTreeMap<usize, u64>,
}

/// See the module.
pub struct Ledger {
    world: Arc<World>,
    expire_after_ms: u64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub struct Inner {
    pub entries: BTreeMap<QueueId, Entry>,
    by_content: HashMap<blake3::Hash, QueueId>,
    /// Who had a key, one after the other.
    owners: BTreeMap<String, Vec<QueueId>>,
    under_way: Option<Call>,
    uncertain: Option<Call>,
    /// The process that runs.
    life: u64,
    /// The latest time that any process has believed its clock.
    pub latest: Timestamp,
    pub sayings: super::takes::Sayings,
}

impl Entry {
    fn new(message: Arc<Message>, claim: Option<KeyClaim>) -> Self {
        let progress =
            Progress::fresh(message.envelope.recipients.len(), message.envelope.due_at(message.accepted_at));
        Self {
            message,
            claim,
            progress,
            is_gone: false,
            orders: Vec::new(),
            acknowledged: 0,
            reports: BTreeMap::new(),
            delays: 0,
            delivered_by: BTreeMap::new(),
        }
    }

    pub fn recipient(&self, number: usize) -> &str {
        self.message.envelope.recipients[number].forward_path.as_str()
    }

    pub fn number_of(&self, address: &str) -> Option<usize> {
        (0..self.message.envelope.recipients.len()).find(|number| self.recipient(*number) == address)
    }

    /// As in MAIL; empty for the null sender.
    pub fn sender(&self) -> String {
        self.message.envelope.reverse_path.mailbox().map_or_else(String::new, |from| from.as_str().to_owned())
    }

    pub fn was_ordered(&self, action: Action) -> bool {
        self.orders.iter().any(|(wanted, _)| *wanted == action)
    }

    pub fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// How often it was to be released before what this process sent, even if that arrives after the next one's orders.
    pub fn releases_until(&self, life: u64) -> usize {
        self.orders.iter().filter(|(wanted, of)| *wanted == Action::Release && *of <= life).count()
    }

    /// Whether the key has ended by any clock, with its message gone (I3).
    pub fn has_lapsed(&self, latest: Timestamp) -> bool {
        self.is_gone && self.claim.as_ref().is_some_and(|claim| claim.expires_at <= latest)
    }
}

impl Ledger {
    pub fn new(world: Arc<World>, expire_after_ms: u64) -> Arc<Self> {
        Arc::new(Self { world, expire_after_ms, inner: Mutex::default() })
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// An operator wants this of the process that runs. Whether anything comes of it, a crash may hide.
    pub fn order(&self, id: QueueId, action: Action) {
        let mut inner = self.inner();
        let life = inner.life;
        inner.entries.get_mut(&id).expect("it is there").orders.push((action, life));
    }

    /// A process has believed this.
    pub fn time_was(&self, now: Timestamp) {
        let mut inner = self.inner();
        inner.latest = inner.latest.max(now);
    }

    /// Another process begins.
    pub fn lives(&self, life: u64) {
        self.inner().life = life;
    }

    pub fn begin(&self, call: Call) {
        self.inner().under_way = Some(call);
    }

    /// The call under way has ended: done, or not done, or nobody can know.
    pub fn end(&self, happened: Option<bool>) {
        let mut inner = self.inner();
        let call = inner.under_way.take();
        match (happened, call) {
            (Some(true), Some(call)) => self.confirm(&mut inner, call),
            // Only the first one has got as far as the disk.
            (None, Some(call)) => {
                inner.uncertain.get_or_insert(call);
            }
            _ => {}
        }
    }

    fn confirm(&self, inner: &mut Inner, call: Call) {
        match call {
            Call::Accept(message, claim) => self.add(inner, message, claim),
            Call::Save(id, progress, notices) => {
                let Some(entry) = inner.entries.get(&id) else {
                    return self.world.wrong(format!("an outcome of {id}, which nobody has accepted"));
                };
                if entry.is_gone {
                    return;
                }
                let states: Vec<_> = progress.recipients.iter().map(|recipient| recipient.state).collect();
                self.world.note(format!("{id} stands at {states:?}, with {} notices", notices.len()));
                self.check_outcome(inner, id, &progress, &notices);
                for notice in notices {
                    self.add(inner, notice, None);
                }
                let entry = inner.entries.get_mut(&id).expect("looked at above");
                entry.is_gone = progress.is_finished();
                for (number, recipient) in progress.recipients.iter().enumerate() {
                    if recipient.state == RecipientState::Delivered {
                        entry.delivered_by.entry(number).or_insert(inner.life);
                    }
                }
                entry.progress = progress;
            }
        }
    }

    fn add(&self, inner: &mut Inner, message: Arc<Message>, claim: Option<KeyClaim>) {
        let id = message.id;
        self.world.check(!inner.entries.contains_key(&id), || format!("{id} is there twice"));
        if let (Some(key), Some(claim)) = (&message.key, &claim) {
            let least = message.accepted_at.plus(KEY_LIFE);
            self.world.check(claim.expires_at >= least, || format!("I1: the key of {id} ends too early"));
            let latest = inner.latest;
            let owners = inner.owners.get(&key.key).cloned().unwrap_or_default();
            for owner in owners {
                let has_lapsed = inner.entries.get(&owner).is_none_or(|entry| entry.has_lapsed(latest));
                self.world.check(has_lapsed, || format!("I2: {id} is queued under the key of {owner}"));
            }
            inner.owners.entry(key.key.clone()).or_default().push(id);
        }
        inner.by_content.insert(blake3::hash(&message.content), id);
        inner.entries.insert(id, Entry::new(message, claim));
    }

    /// D6, R1: what an outcome may change.
    fn check_outcome(&self, inner: &mut Inner, id: QueueId, next: &Progress, notices: &[Arc<Message>]) {
        let (mut failed, mut delayed) = (Vec::new(), 0);
        for notice in notices {
            let text = String::from_utf8_lossy(&notice.content).into_owned();
            let told = reported(&text);
            delayed += u32::from(told.iter().any(|(_, action)| action == "delayed"));
            failed.extend(told.into_iter().filter(|(_, action)| action == "failed").map(|(whom, _)| whom));
        }
        let latest = inner.latest;
        let mut wrong = Vec::new();
        {
            let entry = &inner.entries[&id];
            let expires_at = entry.message.accepted_at.as_millis() + self.expire_after_ms;
            for (number, (old, new)) in entry.progress.recipients.iter().zip(&next.recipients).enumerate() {
                let whom = entry.recipient(number);
                let change = format!("{id} to {whom}: {:?} -> {:?}", old.state, new.state);
                if old.state == new.state {
                    continue;
                }
                use RecipientState::{Bounced, Delivered, Discarded, Held, Queued};
                if matches!(old.state, Delivered | Bounced | Discarded) {
                    wrong.push(format!("D6: what is over changes: {change}"));
                }
                let said = inner.sayings.of(&entry.sender(), whom);
                let has_expired = latest.as_millis() >= expires_at;
                let by_operator = entry.was_ordered(Action::Bounce) || entry.was_ordered(Action::Discard);
                match new.state {
                    Delivered if !inner.sayings.was_taken(id, whom) => {
                        wrong.push(format!("R1: nobody has said so: {change}"));
                    }
                    Bounced | Discarded | Held(HoldCause::Failed)
                        if !(said.refused_for_good
                            || has_expired
                            || by_operator
                            || self.world.is_denied(whom)) =>
                    {
                        wrong.push(format!("R2: nobody has refused it for good: {change}"));
                    }
                    Held(HoldCause::Expired) if !has_expired => {
                        wrong.push(format!("it is too early: {change}"));
                    }
                    Held(HoldCause::InDoubt) if !whom.ends_with("@hold.example") => {
                        wrong.push(format!("its route does not hold: {change}"));
                    }
                    Held(HoldCause::Operator) if !entry.was_ordered(Action::Hold) => {
                        wrong.push(format!("nobody wanted it held: {change}"));
                    }
                    Queued | Delivered | Bounced | Discarded | Held(_) => {}
                }
                let told = u32::try_from(failed.iter().filter(|known| *known == whom).count()).unwrap();
                if u32::from(new.state == Bounced) != told {
                    wrong.push(format!("D2: {told} reports in the commit of {change}"));
                }
            }
        }
        let entry = inner.entries.get_mut(&id).expect("looked at above");
        for whom in &failed {
            match entry.number_of(whom) {
                Some(number) => {
                    let reports = entry.reports.entry(number).or_default();
                    *reports += 1;
                    if *reports > 1 {
                        wrong.push(format!("{id} to {whom}: reported as failed {reports} times"));
                    }
                }
                None => wrong.push(format!("{id}: a report about {whom}, who is no recipient of it")),
            }
        }
        entry.delays += delayed;
        if entry.delays > 1 {
            wrong.push(format!("{id}: its sender was told {} times that it takes long", entry.delays));
        }
        wrong.iter().for_each(|what| self.world.wrong(what));
    }

    /// Who has the key of a message, for what a client heard.
    fn owners(inner: &Inner, key: &str) -> Vec<QueueId> {
        inner.owners.get(key).cloned().unwrap_or_default()
    }

    /// A client has read 250. `token` and `variant` are in the text of what it sent.
    pub fn acknowledged(&self, id: QueueId, key: Option<&str>, text: &str, recipients: &[String]) {
        let mut inner = self.inner();
        let Some(entry) = inner.entries.get_mut(&id) else {
            return self.world.wrong(format!("D1: 250 for {id}, which is not durable"));
        };
        entry.acknowledged += 1;
        let holds = memchr::memmem::find(&entry.message.content, text.as_bytes()).is_some();
        let mut theirs: Vec<_> =
            (0..entry.progress.recipients.len()).map(|n| entry.recipient(n).to_owned()).collect();
        let mut ours = recipients.to_vec();
        theirs.sort();
        ours.sort();
        self.world.check(holds, || format!("250 with {id}, which is another message"));
        self.world
            .check(theirs == ours, || format!("250 with {id}, which is for {theirs:?} and not for {ours:?}"));
        let entry = &inner.entries[&id];
        if let Some(key) = key {
            // By the clock at its latest: a key that has lapsed may have been taken anew.
            for owner in Self::owners(&inner, key).into_iter().filter(|owner| *owner != id) {
                let has_lapsed =
                    inner.entries[&owner].has_lapsed(inner.latest) || entry.has_lapsed(inner.latest);
                self.world.check(has_lapsed, || format!("I1: 250 with {id} under the key of {owner}"));
            }
            let is_owner = Self::owners(&inner, key).contains(&id);
            self.world.check(is_owner, || format!("I1: 250 with {id}, which was not queued under {key}"));
        } else {
            let times = entry.acknowledged;
            self.world.check(times == 1, || format!("{id} without a key was acknowledged {times} times"));
        }
    }

    /// A client has read 554 for what it sent under a key.
    pub fn refused(&self, key: &str, text: &str) {
        let inner = self.inner();
        let has_other = Self::owners(&inner, key).iter().any(|owner| {
            memchr::memmem::find(&inner.entries[owner].message.content, text.as_bytes()).is_none()
        });
        self.world.check(has_other, || format!("I4: 554 under {key}, which no other message has"));
    }

    /// The keys that must be known, and by whom.
    pub fn living_keys(&self) -> Vec<(Arc<Message>, Timestamp)> {
        let inner = self.inner();
        let last = inner.owners.values().filter_map(|owners| owners.last());
        let entries = last.map(|id| &inner.entries[id]).filter(|entry| !entry.has_lapsed(inner.latest));
        entries.map(|entry| (entry.message.clone(), entry.claim.as_ref().unwrap().expires_at)).collect()
    }

    /// Which message this is, and what stands in front of it.
    pub fn identify(&self, content: &[u8]) -> Option<(QueueId, Vec<u8>)> {
        let inner = self.inner();
        let starts = std::iter::once(0).chain(memchr::memmem::find_iter(content, b"\r\n").map(|at| at + 2));
        starts.take(3).find_map(|start| {
            let id = inner.by_content.get(&blake3::hash(&content[start..]))?;
            Some((*id, content[..start].to_vec()))
        })
    }

    /// What a start has found.
    pub fn recovered(&self, found: &BTreeMap<QueueId, (Arc<Message>, Progress)>) {
        let mut inner = self.inner();
        if let Some(call) = inner.uncertain.take() {
            let happened = match &call {
                Call::Accept(message, _) => found.contains_key(&message.id),
                Call::Save(id, progress, _) => match found.get(id) {
                    Some((_, now)) => now == progress,
                    None => progress.is_finished(),
                },
            };
            self.world
                .note(format!("what the crash cut off has {}happened", if happened { "" } else { "not " }));
            if happened {
                self.confirm(&mut inner, call);
            }
        }
        for (id, entry) in &inner.entries {
            match found.get(id) {
                None if entry.is_gone => {}
                None => self.world.wrong(format!("D6: {id} is lost: {:?}", entry.progress)),
                Some(_) if entry.is_gone => self.world.wrong(format!("D4: {id} was finished, and is back")),
                Some((message, progress)) => {
                    self.world.check(*message == entry.message, || format!("D4: {id} is not as it was"));
                    self.world.check(*progress == entry.progress, || {
                        format!("D4: {id} stands at {progress:?}, and stood at {:?}", entry.progress)
                    });
                }
            }
        }
        for id in found.keys().filter(|id| !inner.entries.contains_key(id)) {
            self.world.wrong(format!("D2: {id} is there, and nobody has accepted it"));
        }
    }

    /// Messages of which something is queued.
    pub fn queued(&self) -> Vec<QueueId> {
        let inner = self.inner();
        let queued = inner.entries.iter().filter(|(_, entry)| !entry.is_gone && entry.progress.is_queued());
        queued.map(|(id, _)| *id).collect()
    }
}

/// (recipient, action) of each report.
fn reported(text: &str) -> Vec<(String, String)> {
    let mut told = Vec::new();
    let mut whom = None;
    // What is returned of the original comes behind its own type.
    let text = text.split("Content-Type: message/delivery-status").nth(1).unwrap_or_default();
    let text = text.split("\r\n--").next().unwrap_or_default();
    for line in text.lines() {
        if let Some(address) = line.strip_prefix("Final-Recipient: rfc822; ") {
            whom = Some(address.to_owned());
        }
        if let (Some(action), Some(whom)) = (line.strip_prefix("Action: "), whom.clone()) {
            told.push((whom, action.to_owned()));
        }
    }
    told
}
