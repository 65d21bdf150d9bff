//! What an operator wants done with a message, and when that happens: at once, or with the outcome of the attempt that
//! is under way, which is never cut off (R1).
//!
//! Whoever changes a message has its lease. An order takes the lease of a message that waits or is held; one that is leased
//! it stands in line for, and asks the relay to hand back what nobody carries. A lease that ends with an order in line is
//! the order's next (no attempt comes in between), and one that is closed by an attempt carries the orders out in the same
//! save. Where a message is, who is in line for it and whether it is leased is decided under one lock, so of an order and
//! an attempt, or of two orders, one is always first. An order that cannot be saved leaves everything as it was.

mod obey;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::lease::Lease;
use super::register::{AT_ONCE, Standing, Wanted};
use super::{Queue, State};
use crate::mail::QueueId;
use crate::store::StoreError;

/// How long an answer waits for the attempt that is under way.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long at least, when the messages before took all of that.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);
/// Messages that are taken at a time, at least: one pass over the lanes for so many …
const BATCH: usize = 1_024;
/// … and so many at most, whose orders are in memory at a time (S2).
const LARGEST_BATCH: usize = 16 * BATCH;
/// Passes over the lanes that are thought enough: a lane may hold as many messages as there are orders.
const PASSES: usize = 64;
/// Messages that are read and saved at a time, so that many share a commit (S2).
const AT_A_TIME: usize = 256;

const WITH_THE_RELAY: &str = "it is being tried, or it waits for its destination and is tried as soon as that takes \
     mail: where the breaker is open, a reset of the destination has it tried now";
const BROKE_OFF: &str = "an attempt for it has just broken off in doubt";
const NOBODY_QUEUED: &str = "no recipient of it is queued";

/// An operator's wish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// What.
    pub action: Action,
    /// Who said so; for the log, and kept with the message.
    pub by: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
}

/// See [`Order::action`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Queued recipients are tried now.
    Retry,
    /// Queued recipients are held.
    Hold,
    /// Held recipients are queued again, with their time starting anew.
    Release,
    /// Queued and held recipients fail, and the sender is told.
    Bounce,
    /// Queued and held recipients are forgotten, and nobody is told.
    Discard,
}

/// What became of an order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Done, and durable.
    Done,
    /// An attempt is under way; it happens with that attempt's outcome, unless the process ends before.
    Pending,
    /// Nothing of the message is in a state that the action applies to; with a sentence that says why.
    Unchanged(&'static str),
    /// It is not in the queue (any more).
    Gone,
    /// It could not be made durable; the message stands as it was.
    Failed(StoreError),
}

impl Action {
    /// Where messages stand that it applies to: what a filter should ask for that names no state. A message that is partly
    /// queued counts as queued, and a release of what is held of it has to name it.
    pub fn applies_to(self) -> &'static [Standing] {
        match self {
            Self::Retry => &[Standing::Queued],
            Self::Hold => &[Standing::Queued, Standing::Active],
            Self::Release => &[Standing::Held],
            Self::Bounce | Self::Discard => &[Standing::Queued, Standing::Active, Standing::Held],
        }
    }

    /// Its name in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Bounce => "bounce",
            Self::Discard => "discard",
        }
    }
}

/// Has the relay hand back what it has of these messages and nobody carries.
pub type Recall = Arc<dyn Fn(&HashSet<QueueId>) + Send + Sync>;

/// The same order for many messages.
struct Errand {
    order: Order,
    /// Whom it is for, asked again of the message itself.
    wanted: Wanted,
    room: Semaphore,
}

/// An order that stands in line for a message.
pub(super) struct Attached {
    errand: Arc<Errand>,
    /// Dropped: look again where the message is.
    answer: oneshot::Sender<Verdict>,
}

/// What becomes of an order in line.
enum Verdict {
    /// It was carried out with the end of an attempt.
    Effect(Effect),
    /// It is its turn.
    Yours(Box<Lease>),
}

/// Where an order finds its message.
enum Claim {
    Settled(Effect),
    Yours(Box<Lease>),
    InLine(oneshot::Receiver<Verdict>),
}

/// Orders in line, by message.
#[derive(Default)]
pub(super) struct Line(HashMap<QueueId, VecDeque<Attached>>);

impl Line {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn has(&self, id: QueueId) -> bool {
        self.0.contains_key(&id)
    }

    fn add(&mut self, id: QueueId, attached: Attached) {
        self.0.entry(id).or_default().push_back(attached);
    }

    /// The first of a message that somebody still waits for.
    pub(super) fn pop(&mut self, id: QueueId) -> Option<Attached> {
        let orders = self.0.get_mut(&id)?;
        let first = std::iter::from_fn(|| orders.pop_front()).find(|order| !order.answer.is_closed());
        if orders.is_empty() {
            self.0.remove(&id);
        }
        first
    }

    /// All of a message.
    pub(super) fn take(&mut self, id: QueueId) -> VecDeque<Attached> {
        self.0.remove(&id).unwrap_or_default()
    }
}

impl Attached {
    /// Hands the message over. Nobody there any more: the lease goes on to the next, or back to the queue.
    pub(super) fn hand_over(self, lease: Lease) {
        // Dropped, if it comes back.
        let _ = self.answer.send(Verdict::Yours(Box::new(lease)));
    }

    fn tell(self, effect: Effect) {
        let _ = self.answer.send(Verdict::Effect(effect));
    }
}

impl Queue {
    /// Does it, and comes back when it is durable or has to wait for an attempt.
    ///
    /// # Cancel safety
    /// A dropped future loses only the answer.
    pub async fn order(self: &Arc<Self>, id: QueueId, order: Order) -> Effect {
        let mut effects = self.order_all(vec![id], order, Wanted::default()).await;
        effects.pop().map_or(Effect::Gone, |(_, effect)| effect)
    }

    /// The same for many messages, in their order, with many in one commit. Those that turn out not to be `wanted`, now
    /// that they are read, are left alone: the register may take one address for another.
    ///
    /// # Cancel safety
    /// A dropped future leaves some thousand messages at most that it is done for, and the rest as they were.
    pub async fn order_all(
        self: &Arc<Self>,
        ids: Vec<QueueId>,
        order: Order,
        wanted: Wanted,
    ) -> Vec<(QueueId, Effect)> {
        self.order_within(PATIENCE, ids, order, wanted).await
    }

    /// As [`Queue::order_all`], with so much patience for attempts that are under way.
    pub async fn order_within(
        self: &Arc<Self>,
        patience: Duration,
        ids: Vec<QueueId>,
        order: Order,
        wanted: Wanted,
    ) -> Vec<(QueueId, Effect)> {
        let least = LEAST_PATIENCE.min(patience);
        let begun = Instant::now();
        let errand = Arc::new(Errand { order, wanted, room: Semaphore::new(AT_A_TIME) });
        let mut effects = Vec::with_capacity(ids.len());
        let at_a_time = (ids.len() / PASSES).clamp(BATCH, LARGEST_BATCH);
        for batch in ids.chunks(at_a_time) {
            let claims = self.claim_all(batch, &errand);
            let in_line = claims.iter().filter(|(_, claim)| matches!(claim, Claim::InLine(_)));
            self.recall(&in_line.map(|(id, _)| *id).collect());
            let tasks: Vec<_> = claims
                .into_iter()
                .map(|(id, claim)| {
                    let waits = Arc::<AtomicBool>::default();
                    let task = self.clone().carry_out(id, errand.clone(), claim, waits.clone());
                    (id, tokio::spawn(task), waits)
                })
                .collect();
            let deadline = (begun + patience).max(Instant::now() + least);
            for (id, task, waits) in tasks {
                let effect = answer(task, &waits, deadline, least).await;
                if effect == Effect::Pending {
                    log(id, &errand.order, &effect);
                }
                effects.push((id, effect));
            }
        }
        effects
    }

    /// Calls `recall` with the messages for which an order stands in line: whoever has legs of them that nobody carries is
    /// to hand them back. It must not wait for anything. A later call takes the place of an earlier one.
    pub fn on_recall(&self, recall: Recall) {
        *self.recall.lock().unwrap_or_else(PoisonError::into_inner) = Some(recall);
    }

    fn recall(&self, ids: &HashSet<QueueId>) {
        let recall = self.recall.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(recall) = recall.filter(|_| !ids.is_empty()) {
            recall(ids);
        }
    }

    /// Whether an order stands in line for a message. Cheap while there is none at all.
    pub(super) fn is_ordered(&self, id: QueueId) -> bool {
        self.ordered.load(Ordering::SeqCst) > 0 && self.state().line.has(id)
    }

    /// All orders that stand in line for a message, for whoever closes its lease.
    pub(super) fn take_orders(&self, id: QueueId) -> VecDeque<Attached> {
        if self.ordered.load(Ordering::SeqCst) == 0 {
            return VecDeque::new();
        }
        let mut state = self.state();
        let orders = state.line.take(id);
        self.ordered.store(state.line.len(), Ordering::SeqCst);
        orders
    }

    /// R1: an attempt has broken off in doubt. What was wanted of the message before anybody knew of that is not done now:
    /// a release would send it twice.
    pub(super) fn refuse_orders(&self, id: QueueId) {
        self.take_orders(id).into_iter().for_each(|order| order.tell(Effect::Unchanged(BROKE_OFF)));
    }

    fn claim_all(self: &Arc<Self>, ids: &[QueueId], errand: &Arc<Errand>) -> Vec<(QueueId, Claim)> {
        if self.store().is_none() {
            return ids.iter().map(|id| (*id, Claim::Settled(Effect::Failed(StoreError::Closed)))).collect();
        }
        let mut state = self.state();
        let claims = ids.iter().map(|id| (*id, self.claim(&mut state, *id, errand))).collect();
        self.ordered.store(state.line.len(), Ordering::SeqCst);
        claims
    }

    /// Takes the message's lease, or stands in line for it.
    fn claim(self: &Arc<Self>, state: &mut State, id: QueueId, errand: &Arc<Errand>) -> Claim {
        let Some(entry) = state.register.get(id) else { return Claim::Settled(Effect::Gone) };
        if entry.is_stranded {
            let why = "an outcome of it could not be saved; the next start decides".to_owned();
            return Claim::Settled(Effect::Failed(StoreError::Latched(why)));
        }
        let (standing, due_ms, priority) = (entry.standing, entry.due_ms, entry.priority);
        match (standing, errand.order.action) {
            (Standing::Held, Action::Retry | Action::Hold) => {
                return Claim::Settled(Effect::Unchanged(NOBODY_QUEUED));
            }
            // It is where it can be tried as soon as anything can.
            (Standing::Active, Action::Retry) => {
                return Claim::Settled(Effect::Unchanged(WITH_THE_RELAY));
            }
            (Standing::Active, _) => {
                let (answer, verdict) = oneshot::channel();
                state.line.add(id, Attached { errand: errand.clone(), answer });
                return Claim::InLine(verdict);
            }
            (Standing::Queued | Standing::Held, _) => {}
        }
        // What was to be handed out in the order of arrival stays there, and is passed over when its turn comes.
        if standing == Standing::Queued && due_ms != AT_ONCE {
            state.schedule.remove(due_ms, id, priority);
        }
        state.register.change(id, |entry| entry.standing = Standing::Active);
        let lease = Lease::for_orders(self.clone(), id, priority, standing == Standing::Held);
        Claim::Yours(Box::new(lease))
    }

    /// Sees an order through, however long that takes.
    async fn carry_out(
        self: Arc<Self>,
        id: QueueId,
        errand: Arc<Errand>,
        mut claim: Claim,
        waits: Arc<AtomicBool>,
    ) -> Effect {
        let effect = loop {
            let lease = match claim {
                Claim::Settled(effect) => break effect,
                Claim::Yours(lease) => lease,
                Claim::InLine(verdict) => {
                    waits.store(true, Ordering::SeqCst);
                    let verdict = verdict.await;
                    waits.store(false, Ordering::SeqCst);
                    match verdict {
                        Ok(Verdict::Effect(effect)) => break effect,
                        Ok(Verdict::Yours(lease)) => lease,
                        Err(_) => {
                            claim = self.claim_again(id, &errand);
                            continue;
                        }
                    }
                }
            };
            // The semaphore is never closed.
            let _room = errand.room.acquire().await;
            break lease.obey_now(&errand).await;
        };
        log(id, &errand.order, &effect);
        effect
    }

    /// The lease has ended without the order: looks again.
    fn claim_again(self: &Arc<Self>, id: QueueId, errand: &Arc<Errand>) -> Claim {
        let claims = self.claim_all(&[id], errand);
        let claim = claims.into_iter().next().map_or(Claim::Settled(Effect::Gone), |(_, claim)| claim);
        if matches!(claim, Claim::InLine(_)) {
            self.recall(&HashSet::from([id]));
        }
        claim
    }
}

/// Waits for the end of an order; beyond the deadline only while it is being carried out.
async fn answer(
    mut task: JoinHandle<Effect>,
    waits: &AtomicBool,
    deadline: Instant,
    again: Duration,
) -> Effect {
    let mut until = deadline;
    loop {
        match timeout_at(until, &mut task).await {
            Ok(Ok(effect)) => return effect,
            Ok(Err(error)) => {
                return Effect::Failed(StoreError::Read(format!("the order broke off: {error}")));
            }
            Err(_) if waits.load(Ordering::SeqCst) => return Effect::Pending,
            Err(_) => until = Instant::now() + again,
        }
    }
}

fn log(id: QueueId, order: &Order, effect: &Effect) {
    let (effect, detail) = match effect {
        Effect::Done => ("done", None),
        Effect::Pending => ("pending", None),
        Effect::Unchanged(why) => ("unchanged", Some((*why).to_owned())),
        Effect::Gone => ("gone", None),
        Effect::Failed(error) => ("failed", Some(error.to_string())),
    };
    let (action, by, reason) = (order.action.as_str(), order.by.as_str(), order.reason.as_deref());
    tracing::info!(target: "oncemail::queue", queue_id = %id, action, by, reason, effect, detail, "order");
}
