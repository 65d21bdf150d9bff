//! What operators' orders promise: they are durable before they are done, they never cut off an attempt or send twice, and
//! they lose nobody.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{AttemptReply, HoldCause, Message, Progress, QueueId, RecipientState};
use oncemail::queue::{Action, Effect, End, Lease, Options, Order, Outcome, Queue, Standing, Wanted};
use oncemail::relay::options::Breaker;
use oncemail::store::files::RealFiles;
use oncemail::store::history::{self as past, History};
use oncemail::store::{Recovered, Store, StoreError};

use crate::common::far_side::{Act, FarSide, PATIENCE, say};
use crate::common::outcomes;
use crate::common::relay_rig::{Rig, message, nobody, patient, queue_options, to_hosts};
use crate::common::watched_store::WatchedStore;

pub const START: Timestamp = Timestamp::from_millis(1_795_343_400_000);
pub const BY_OPERATOR: RecipientState = RecipientState::Held(HoldCause::Operator);

pub fn order(action: Action) -> Order {
    Order { action, by: "ops".into(), reason: Some("as asked".into()) }
}

/// With no patience for attempts, which a test ends itself.
pub async fn within_no_time(queue: &Arc<Queue>, id: QueueId, action: Action) -> Effect {
    let patience = Duration::from_millis(1);
    queue.order_within(patience, vec![id], order(action), Wanted::default()).await.remove(0).1
}

struct Bed {
    queue: Arc<Queue>,
    store: Arc<WatchedStore>,
    clock: Clock,
}

impl Bed {
    fn new(options: Options) -> Self {
        let clock = Clock::manual(START);
        let queue = Queue::new(options, clock.clone());
        let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
        queue.start(store.clone(), Vec::new());
        Self { queue, store, clock }
    }

    /// A new process over the same store.
    fn restart(self, options: Options) -> Self {
        let queue = Queue::new(options, self.clock.clone());
        queue.start(self.store.clone(), self.store.messages().iter().map(recovered).collect());
        Self { queue, ..self }
    }

    async fn accept(&self, recipients: &[&str]) -> QueueId {
        let sent = message(&self.clock, recipients, "x");
        let id = sent.id;
        self.store.accept(Arc::new(sent), None).await.unwrap();
        id
    }

    async fn order(&self, id: QueueId, action: Action) -> Effect {
        within_no_time(&self.queue, id, action).await
    }

    async fn lease(&self) -> Lease {
        tokio::time::timeout(PATIENCE, self.queue.next(1)).await.unwrap().remove(0)
    }

    async fn nothing_is_due(&self) {
        // The first look decides: it waits for what is due, or it has it.
        let next = self.queue.next(1).now_or_never();
        assert!(next.is_none(), "{next:?}");
    }

    fn progress(&self, id: QueueId) -> Option<Progress> {
        self.store.messages().into_iter().find(|(message, _)| message.id == id).map(|(_, progress)| progress)
    }

    fn states(&self, id: QueueId) -> Vec<RecipientState> {
        self.progress(id).unwrap().recipients.iter().map(|recipient| recipient.state).collect()
    }

    fn depth(&self) -> (usize, usize) {
        (self.queue.depth().queued, self.queue.depth().held)
    }
}

pub fn recovered((message, progress): &(Arc<Message>, Progress)) -> Recovered {
    Recovered {
        id: message.id,
        next_attempt: progress.is_queued().then_some(progress.next_attempt),
        priority: message.envelope.handling.priority,
        held_back: false,
    }
}

pub fn outcome(recipient: usize, end: End) -> Outcome {
    Outcome { end, ..outcomes::outcome(recipient, End::Deferred) }
}

#[tokio::test]
async fn what_is_held_is_not_offered_also_after_a_restart_until_it_is_released() {
    let bed = Bed::new(patient());
    let id = bed.accept(&["a@x.example", "b@x.example"]).await;
    assert_eq!(bed.order(id, Action::Hold).await, Effect::Done);
    assert_eq!((bed.states(id), bed.depth()), (vec![BY_OPERATOR; 2], (0, 1)));
    bed.nothing_is_due().await;
    let bed = bed.restart(patient());
    bed.nothing_is_due().await;
    assert_eq!(bed.queue.look(id).await.unwrap().unwrap().standing, Standing::Held);
    assert!(matches!(bed.order(id, Action::Hold).await, Effect::Unchanged(_)));
    assert_eq!(bed.order(id, Action::Release).await, Effect::Done);
    assert_eq!((bed.lease().await.id(), bed.depth()), (id, (1, 0)));
    let replies = bed.progress(id).unwrap().recipients[1].replies.clone();
    let texts: Vec<_> = replies.iter().map(|reply| reply.text.as_str()).collect();
    assert_eq!(texts, ["held by ops: as asked", "released by ops: as asked"]);
}

#[tokio::test]
async fn what_was_released_expires_as_if_it_were_new_also_after_a_restart() {
    let bed = Bed::new(patient());
    let id = bed.accept(&["b@x.example"]).await;
    bed.order(id, Action::Hold).await;
    bed.clock.advance(Duration::from_secs(6 * 86_400));
    assert_eq!(bed.order(id, Action::Release).await, Effect::Done);
    let bed = bed.restart(patient());
    let lease = bed.lease().await;
    lease.open().await.unwrap();
    assert!(!lease.is_expired());
    lease.settle(&[outcome(0, End::Deferred)], None).await.unwrap();
    assert_eq!(bed.states(id), [RecipientState::Queued]);
    drop(lease);
    bed.clock.advance(Duration::from_secs(6 * 86_400));
    assert_eq!(bed.order(id, Action::Retry).await, Effect::Done);
    let lease = bed.lease().await;
    lease.open().await.unwrap();
    lease.settle(&[outcome(0, End::Deferred)], None).await.unwrap();
    assert_eq!(bed.states(id), [RecipientState::Held(HoldCause::Expired)]);
}

#[tokio::test]
async fn a_retry_is_due_at_once_and_costs_nothing() {
    let bed = Bed::new(patient());
    let id = bed.accept(&["b@x.example"]).await;
    let lease = bed.lease().await;
    lease.open().await.unwrap();
    lease.settle(&[outcome(0, End::Deferred)], None).await.unwrap();
    drop(lease);
    bed.nothing_is_due().await;
    assert_eq!(bed.order(id, Action::Retry).await, Effect::Done);
    let progress = bed.progress(id).unwrap();
    assert_eq!(progress.next_attempt, START);
    let recipient = &progress.recipients[0];
    let texts: Vec<_> = recipient.replies.iter().map(|reply| reply.text.as_str()).collect();
    assert_eq!(texts, ["4.3.0 later", "retried by ops: as asked"], "its story shows who did it");
    // A report to its sender has what the far side said.
    assert_eq!(recipient.last_answer().unwrap().text, "4.3.0 later");
    let lease = bed.lease().await;
    assert_eq!((lease.id(), bed.progress(id).unwrap().attempts), (id, 1));
    assert!(matches!(bed.order(id, Action::Retry).await, Effect::Unchanged(why) if why.contains("reset")));
}

#[tokio::test]
async fn what_an_order_ends_is_remembered_as_what_an_attempt_ends() {
    let bed = Bed::new(patient());
    let dir = tempfile::tempdir().unwrap();
    let kept = past::Options { retention: Duration::from_secs(86_400), max_bytes: 8 << 20, min_free: 0 };
    let history = History::open(Arc::new(RealFiles), dir.path(), kept, bed.clock.clone()).unwrap();
    bed.queue.remember_into(history.clone());
    for (action, state) in
        [(Action::Discard, RecipientState::Discarded), (Action::Bounce, RecipientState::Bounced)]
    {
        let id = bed.accept(&["b@x.example"]).await;
        assert_eq!(bed.order(id, Action::Hold).await, Effect::Done);
        assert!(history.find(id).unwrap().is_none(), "it has not ended");
        assert_eq!(bed.order(id, action).await, Effect::Done);
        let ended = history.find(id).unwrap().unwrap().ended.unwrap();
        assert_eq!(ended.recipients[0].1.state, state);
    }
}

#[tokio::test]
async fn d2_a_bounce_and_the_end_of_its_recipients_are_one_commit() {
    let bed = Bed::new(patient());
    let id = bed.accept(&["a@x.example", "b@x.example"]).await;
    bed.store.fail_with(Some(StoreError::LowDisk { free_bytes: 0 }));
    let failed = bed.order(id, Action::Bounce).await;
    assert_eq!(failed, Effect::Failed(StoreError::LowDisk { free_bytes: 0 }));
    bed.store.fail_with(None);
    assert_eq!((bed.states(id), bed.depth()), (vec![RecipientState::Queued; 2], (1, 0)));
    assert_eq!(bed.order(id, Action::Bounce).await, Effect::Done);
    let left = bed.store.messages();
    let [(notice, _)] = left.as_slice() else { panic!("{left:?}") };
    let text = String::from_utf8_lossy(&notice.content).into_owned();
    assert!(text.contains("<a@x.example>") && text.contains("bounced by ops: as asked"), "{text}");
    let saves = bed.store.seen().saves;
    assert_eq!(saves.len(), 1);
    assert!(saves[0].1.recipients.iter().all(|recipient| recipient.state == RecipientState::Bounced));
    assert_eq!((bed.order(id, Action::Retry).await, bed.depth()), (Effect::Gone, (1, 0)));
}

#[tokio::test]
async fn a_discard_tells_nobody() {
    let bed = Bed::new(patient());
    let id = bed.accept(&["a@x.example"]).await;
    bed.order(id, Action::Hold).await;
    assert_eq!(bed.order(id, Action::Discard).await, Effect::Done);
    assert_eq!((bed.store.messages().len(), bed.depth()), (0, (0, 0)));
    bed.nothing_is_due().await;
}

#[tokio::test]
async fn d6_an_order_that_cannot_be_saved_leaves_the_message_where_it_was() {
    let bed = Bed::new(patient());
    let (queued, held) = (bed.accept(&["a@x.example"]).await, bed.accept(&["b@x.example"]).await);
    bed.order(held, Action::Hold).await;
    bed.store.fail_with(Some(StoreError::LowDisk { free_bytes: 0 }));
    for (id, action) in [(queued, Action::Hold), (held, Action::Release), (held, Action::Discard)] {
        assert!(matches!(bed.order(id, action).await, Effect::Failed(_)));
    }
    bed.store.fail_with(None);
    assert_eq!(bed.depth(), (1, 1));
    assert_eq!(bed.lease().await.id(), queued);
    bed.nothing_is_due().await;
    assert_eq!(bed.order(held, Action::Release).await, Effect::Done);
}

#[tokio::test]
async fn r1_an_attempt_is_not_cut_off_and_the_order_comes_with_its_outcome() {
    let bed = Bed::new(patient());
    let id = bed.accept(&["a@x.example", "b@x.example"]).await;
    let lease = bed.lease().await;
    lease.open().await.unwrap();
    lease.split(2);
    assert_eq!(bed.order(id, Action::Discard).await, Effect::Pending);
    lease.settle(&[outcome(0, End::Delivered)], None).await.unwrap();
    // The other leg is still under way.
    assert_eq!(bed.states(id), [RecipientState::Delivered, RecipientState::Queued]);
    let settled = lease.settle(&[outcome(1, End::Deferred)], None).await.unwrap();
    assert_eq!(settled.progress.recipients[1].state, RecipientState::Discarded);
    assert_eq!((settled.ended, bed.store.seen().saves.len(), bed.depth()), (vec![1], 2, (0, 0)));
}

#[tokio::test]
async fn r1_a_release_is_not_for_what_the_attempt_under_way_leaves_in_doubt() {
    let bed = Bed::new(patient());
    let id = bed.accept(&["a@x.example", "b@x.example"]).await;
    let lease = bed.lease().await;
    lease.open().await.unwrap();
    lease.settle(&[outcome(0, End::Failed), outcome(1, End::Deferred)], None).await.unwrap();
    drop(lease);
    bed.order(id, Action::Retry).await;
    let lease = bed.lease().await;
    lease.open().await.unwrap();
    assert_eq!(bed.order(id, Action::Release).await, Effect::Pending);
    let doubt = outcome(1, End::InDoubt).reply;
    lease.doubt(&[1], AttemptReply { text: "in doubt: x".into(), ..doubt }).await.unwrap();
    lease.settle(&[], None).await.unwrap();
    drop(lease);
    let in_doubt = RecipientState::Held(HoldCause::InDoubt);
    assert_eq!(bed.states(id), [RecipientState::Queued, in_doubt]);
    let lease = bed.lease().await;
    lease.open().await.unwrap();
    assert_eq!(lease.queued().await, [0]);
    drop(lease);
    // Asked for again, it is what the operator has decided.
    assert_eq!(bed.order(id, Action::Release).await, Effect::Done);
    let said = bed.progress(id).unwrap().recipients[1].replies.last().unwrap().text.clone();
    assert_eq!(said, "released by ops, though it may have been delivered: as asked");
}

#[tokio::test]
async fn r1_an_attempt_that_breaks_off_in_doubt_is_not_followed_by_the_release_that_waited() {
    let bed = Bed::new(patient());
    let id = bed.accept(&["a@x.example"]).await;
    let lease = bed.lease().await;
    lease.open().await.unwrap();
    assert_eq!(bed.order(id, Action::Release).await, Effect::Pending);
    lease
        .doubt(&[0], AttemptReply { text: "in doubt: x".into(), ..outcome(0, End::InDoubt).reply })
        .await
        .unwrap();
    drop(lease);
    bed.nothing_is_due().await;
    assert_eq!(bed.states(id), [RecipientState::Held(HoldCause::InDoubt)]);
}

#[tokio::test]
async fn r1_what_is_being_sent_is_delivered_though_it_was_to_be_discarded() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let far = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let rig = Rig::start_with(to_hosts(&[far.address]), patient());
    let id = rig.send(&["b@x.example"], "once").await;
    far.wait(|log| log.copies("once") == 1).await;
    assert_eq!(rig.queue.order(id, order(Action::Discard)).await, Effect::Pending);
    gate.add_permits(1);
    let progress = rig.store.saved(id, 1).await;
    assert_eq!(progress.recipients[0].state, RecipientState::Delivered);
}

#[tokio::test]
async fn what_waits_behind_an_open_breaker_is_handed_back() {
    let mut options = to_hosts(&[nobody().await]);
    options.breaker = Breaker { failures: 1, open_for: Duration::from_secs(600), ..Breaker::default() };
    let rig = Rig::start_with(options, patient());
    let first = rig.send(&["a@x.example"], "first").await;
    let progress = rig.store.saved(first, 1).await;
    assert!(progress.is_queued());
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(rig.send(&["b@x.example"], &n.to_string()).await);
    }
    let effects = rig.queue.order_all(ids.clone(), order(Action::Hold), Wanted::default()).await;
    assert!(effects.iter().all(|(_, effect)| *effect == Effect::Done), "{effects:?}");
    assert_eq!((rig.queue.depth().queued, rig.queue.depth().held), (1, 100));
    let effects = rig.queue.order_all(ids, order(Action::Bounce), Wanted::default()).await;
    assert!(effects.iter().all(|(_, effect)| *effect == Effect::Done), "{effects:?}");
    // The reports to their sender.
    assert_eq!((rig.queue.depth().queued, rig.queue.depth().held), (101, 0));
}

#[tokio::test]
async fn a_leg_that_waits_is_handed_back_while_another_is_being_sent() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let far = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let other =
        FarSide::new().on_times(1, "RCPT", Act::Gate(gate.clone())).on("RCPT", say("250 ok")).start().await;
    let routes = vec![
        crate::common::relay_rig::to(&["x.example"], crate::common::relay_rig::route("x", smtp(far.address))),
        crate::common::relay_rig::route("y", smtp(other.address)),
    ];
    let rig = Rig::start_with(crate::common::relay_rig::relay_options(routes), patient());
    rig.send(&["z@y.example"], "occupies").await;
    other.wait(|log| log.said("RCPT") == 1).await;
    let id = rig.send(&["a@x.example", "b@y.example"], "split").await;
    far.wait(|log| log.copies("split") == 1).await;
    assert_eq!(rig.queue.order(id, order(Action::Hold)).await, Effect::Pending);
    gate.add_permits(100);
    let seen = rig.store.wait(|seen| seen.saves.iter().any(|(i, p)| *i == id && !p.is_queued())).await;
    let (_, progress) = seen.saves.iter().rfind(|(i, _)| *i == id).unwrap();
    let states = [progress.recipients[0].state, progress.recipients[1].state];
    assert_eq!(states, [RecipientState::Delivered, BY_OPERATOR]);
    assert_eq!(other.log().copies("split"), 0);
}

fn smtp(address: std::net::SocketAddr) -> oncemail::relay::options::Transport {
    let mut smtp = crate::common::relay_rig::smarthost(&[address]);
    smtp.connections = 1;
    oncemail::relay::options::Transport::Smtp(smtp)
}

#[tokio::test]
async fn many_orders_share_their_way_and_those_that_are_not_meant_are_left_alone() {
    let bed = Bed::new(patient());
    let mut ids = Vec::new();
    for n in 0..3_000 {
        ids.push(bed.accept(&[if n % 2 == 0 { "a@x.example" } else { "b@x.example" }]).await);
    }
    let wanted = Wanted { to: Some("a@X.example".into()), ..Wanted::default() };
    let effects = bed.queue.order_all(ids.clone(), order(Action::Hold), wanted).await;
    assert_eq!(effects.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    let done = effects.iter().filter(|(_, effect)| *effect == Effect::Done).count();
    assert_eq!((done, bed.depth()), (1_500, (1_500, 1_500)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r1_d6_orders_amid_deliveries_send_nothing_twice_and_lose_nothing() {
    const MESSAGES: usize = 200;
    let far = FarSide::new().on_times(MESSAGES / 2, "RCPT", say("451 4.3.0 later")).start().await;
    let rig = Rig::start_with(to_hosts(&[far.address]), queue_options());
    let mut ids = Vec::new();
    for n in 0..MESSAGES {
        ids.push(rig.send(&["b@x.example"], &format!("message {n};")).await);
    }
    let actions = [Action::Hold, Action::Release, Action::Retry, Action::Hold, Action::Release];
    let tasks = actions.map(|action| {
        let (queue, ids) = (rig.queue.clone(), ids.clone());
        tokio::spawn(async move { queue.order_all(ids, order(action), Wanted::default()).await })
    });
    for task in tasks {
        let effects = task.await.unwrap();
        assert!(effects.iter().all(|(_, effect)| !matches!(effect, Effect::Failed(_))), "{effects:?}");
    }
    // Whatever came of that, nothing is held after this, and everything arrives.
    rig.queue.order_all(ids, order(Action::Release), Wanted::default()).await;
    let log = far.wait(|log| log.taken.len() >= MESSAGES).await;
    assert!((0..MESSAGES).all(|n| log.copies(&format!("message {n};")) == 1));
    let queue = rig.queue.clone();
    let left = rig.stop().await.messages();
    assert_eq!((left.len(), queue.depth().queued, queue.depth().held), (0, 0, 0));
}
