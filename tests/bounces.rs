//! What senders are told: each failure once, in the same commit as the failure itself; a delay once; a delivery where it
//! was asked for and nobody else can tell. Nobody is told of a bounce, and nothing of what is in doubt.

use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{HoldCause, Message, Notify, Progress, QueueId, RecipientState, ReversePath};
use oncemail::queue::{Action, Effect, End, Jitter, Lease, OnFailure, Options, Order, Queue};
use oncemail::store::{Recovered, Store, StoreError};

use crate::common::far_side::{FarSide, PATIENCE, say};
use crate::common::outcomes::outcome;
use crate::common::relay_rig::{DELIVERED, Rig, directory, message, queue_options, relay_options, to_hosts};
use crate::common::watched_store::WatchedStore;

const HOUR: Duration = Duration::from_secs(3600);
const EXPIRED: RecipientState = RecipientState::Held(HoldCause::Expired);
const NEVER: Notify = Notify { success: false, failure: false, delay: false };

/// A queue over a memory store, and the messages that a test works on one by one.
struct Bed {
    queue: Arc<Queue>,
    store: Arc<WatchedStore>,
    clock: Clock,
}

fn telling() -> Options {
    Options {
        base: HOUR,
        cap: HOUR,
        jitter: Jitter::None,
        on_failure: OnFailure::Bounce,
        warn_after: Some(4 * HOUR),
        hostname: "relay.example".into(),
        ..queue_options()
    }
}

impl Bed {
    fn new(options: Options) -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
        let queue = Queue::new(options, clock.clone());
        let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
        queue.start(store.clone(), Vec::new());
        Self { queue, store, clock }
    }

    /// A new process over the same store.
    fn restart(self, options: Options) -> Self {
        let queue = Queue::new(options, self.clock.clone());
        let recovered = self.store.messages().into_iter().map(|(message, progress)| Recovered {
            id: message.id,
            next_attempt: progress.is_queued().then_some(progress.next_attempt),
            priority: 0,
            held_back: false,
        });
        queue.start(self.store.clone(), recovered.collect());
        Self { queue, ..self }
    }

    async fn accept(&self, change: impl FnOnce(&mut Message)) -> QueueId {
        let mut message = message(&self.clock, &["b@x.example", "c@y.example"], "the body");
        change(&mut message);
        let id = message.id;
        self.store.accept(Arc::new(message), None).await.unwrap();
        id
    }

    async fn next(&self) -> Lease {
        let lease = tokio::time::timeout(PATIENCE, self.queue.next(1)).await.unwrap().remove(0);
        lease.open().await.unwrap();
        lease
    }

    /// One attempt at the message that is due, with these ends for its recipients.
    async fn attempt(&self, ends: &[End]) -> Progress {
        let outcomes: Vec<_> = ends.iter().enumerate().map(|(n, end)| outcome(n, *end)).collect();
        self.next().await.settle(&outcomes, None).await.unwrap().progress
    }

    /// What the store holds beside `original`, which are the notices.
    fn notices(&self, original: QueueId) -> Vec<String> {
        let all = self.store.messages();
        let notices = all.iter().filter(|(message, _)| message.id != original);
        notices
            .map(|(message, progress)| {
                assert_eq!(message.envelope.reverse_path, ReversePath::Null);
                assert!(progress.is_queued());
                String::from_utf8(message.content.to_vec()).unwrap()
            })
            .collect()
    }
}

fn states(progress: &Progress) -> Vec<RecipientState> {
    progress.recipients.iter().map(|recipient| recipient.state).collect()
}

#[tokio::test]
async fn d2_one_bounce_tells_of_all_recipients_in_the_save_that_ends_them() {
    let bed = Bed::new(telling());
    let id = bed.accept(|_| {}).await;
    let progress = bed.attempt(&[End::Failed, End::Failed]).await;
    assert_eq!(states(&progress), [RecipientState::Bounced; 2]);
    // One save: the message is gone, and the bounce is there, and due.
    assert_eq!(bed.store.seen().saves.len(), 1);
    let notices = bed.notices(id);
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].matches("Final-Recipient: ").count(), 2);
    assert_eq!((bed.store.messages().len(), bed.queue.depth().queued, bed.queue.depth().held), (1, 1, 0));
    let bounce = bed.next().await.open().await.unwrap();
    assert_eq!(bounce.envelope.recipients[0].forward_path.as_str(), "a@shop.example");
}

#[tokio::test]
async fn d2_a_save_that_fails_queues_no_bounce() {
    let bed = Bed::new(telling());
    let id = bed.accept(|_| {}).await;
    let lease = bed.next().await;
    bed.store.fail_with(Some(StoreError::Latched("test".into())));
    let settled = lease.settle(&[outcome(0, End::Failed), outcome(1, End::Failed)], None).await.unwrap();
    assert!(settled.saved.is_err());
    assert!(bed.notices(id).is_empty() && bed.store.messages()[0].1.is_queued());
}

#[tokio::test]
async fn d2_a_bounce_that_waits_for_room_on_the_disk_is_one_bounce() {
    let bed = Bed::new(telling());
    let id = bed.accept(|_| {}).await;
    let lease = bed.next().await;
    bed.store.fail_with(Some(StoreError::LowDisk { free_bytes: 0 }));
    let outcomes = [outcome(0, End::Failed), outcome(1, End::Failed)];
    let store = bed.store.clone();
    let room = async {
        store.wait(|seen| seen.failed_saves >= 2).await;
        store.fail_with(None);
    };
    let (settled, ()) = tokio::join!(lease.settle(&outcomes, None), room);
    assert!(settled.unwrap().saved.is_ok());
    assert_eq!(bed.notices(id).len(), 1);
}

#[tokio::test]
async fn a_split_message_gives_one_bounce_when_its_last_leg_has_ended() {
    let bed = Bed::new(telling());
    let id = bed.accept(|_| {}).await;
    let lease = bed.next().await;
    lease.split(2);
    lease.settle(&[outcome(1, End::Failed)], None).await.unwrap();
    assert_eq!(bed.notices(id).len(), 0);
    let settled = lease.settle(&[outcome(0, End::Failed)], None).await.unwrap();
    assert_eq!(states(&settled.progress), [RecipientState::Bounced; 2]);
    // The log has a line for both.
    assert_eq!(settled.ended, [0, 1]);
    let notices = bed.notices(id);
    assert_eq!((notices.len(), notices[0].matches("Action: failed").count()), (1, 2));
}

#[tokio::test]
async fn d6_a_failure_of_which_nobody_was_told_before_a_crash_is_told_after_it() {
    let bed = Bed::new(telling());
    let id = bed.accept(|_| {}).await;
    let lease = bed.next().await;
    lease.split(2);
    lease.settle(&[outcome(1, End::Failed)], None).await.unwrap();
    let bed = bed.restart(telling());
    let lease = bed.next().await;
    assert_eq!(lease.queued().await, [0]);
    let progress = lease.settle(&[outcome(0, End::Delivered)], None).await.unwrap().progress;
    assert_eq!(states(&progress), [DELIVERED, RecipientState::Bounced]);
    let notices = bed.notices(id);
    assert_eq!(notices.len(), 1);
    assert!(notices[0].contains("c@y.example") && !notices[0].contains("rfc822; b@x.example"));
}

#[tokio::test]
async fn d2_d6_a_failure_of_which_nobody_was_told_before_a_crash_is_told_with_the_order_that_comes_first() {
    const BY_OPERATOR: RecipientState = RecipientState::Held(HoldCause::Operator);
    const FAILED: RecipientState = RecipientState::Held(HoldCause::Failed);
    for (on_failure, action, expected, told) in [
        (OnFailure::Bounce, Action::Hold, [BY_OPERATOR, RecipientState::Bounced], 1),
        (OnFailure::Discard, Action::Hold, [BY_OPERATOR, RecipientState::Discarded], 0),
        (OnFailure::Hold, Action::Hold, [BY_OPERATOR, FAILED], 0),
        // It is offered again, so that there is nothing to tell.
        (OnFailure::Bounce, Action::Release, [RecipientState::Queued; 2], 0),
    ] {
        let options = || Options { on_failure, ..telling() };
        let bed = Bed::new(options());
        let id = bed.accept(|_| {}).await;
        let lease = bed.next().await;
        lease.split(2);
        lease.settle(&[outcome(1, End::Failed)], None).await.unwrap();
        let bed = bed.restart(options());
        let saves = bed.store.seen().saves.len();
        let order = Order { action, by: "ops".into(), reason: None };
        assert_eq!(bed.queue.order(id, order).await, Effect::Done);
        // One save for both.
        assert_eq!(bed.store.seen().saves.len(), saves + 1);
        let saved = bed.store.messages().into_iter().find(|(message, _)| message.id == id).unwrap().1;
        assert_eq!(states(&saved), expected, "{on_failure:?}");
        let notices = bed.notices(id);
        assert_eq!(notices.len(), told, "{on_failure:?}");
        let is_about = |whom: &str| notices.iter().all(|text| text.contains(&format!("rfc822; {whom}")));
        assert!(is_about("c@y.example") && (told == 0 || !is_about("b@x.example")), "{notices:?}");
    }
}

#[tokio::test]
async fn a_failure_is_told_while_others_go_on_and_is_not_told_again() {
    let bed = Bed::new(Options { base: Duration::ZERO, ..telling() });
    let id = bed.accept(|_| {}).await;
    let progress = bed.attempt(&[End::Failed, End::Deferred]).await;
    assert_eq!(states(&progress), [RecipientState::Bounced, RecipientState::Queued]);
    assert_eq!(bed.notices(id).len(), 1);
    let mut leases = tokio::time::timeout(PATIENCE, bed.queue.next(10)).await.unwrap();
    while leases.len() < 2 {
        leases.extend(tokio::time::timeout(PATIENCE, bed.queue.next(10)).await.unwrap());
    }
    let original = leases.iter().find(|lease| lease.id() == id).unwrap();
    original.open().await.unwrap();
    original.settle(&[outcome(1, End::Delivered)], None).await.unwrap();
    assert_eq!(bed.notices(id).len(), 1);
}

#[tokio::test]
async fn who_is_told_of_a_failure_is_what_notify_says() {
    let notify = |success, failure, delay| Some(Notify { success, failure, delay });
    for (notify, told) in [
        (None, true),
        (Some(NEVER), false),
        (notify(false, true, false), true),
        (notify(true, false, false), false),
        (notify(false, false, true), false),
        (notify(true, true, true), true),
    ] {
        let bed = Bed::new(telling());
        let id = bed.accept(|message| message.envelope.recipients[0].notify = notify).await;
        let progress = bed.attempt(&[End::Failed, End::Delivered]).await;
        let state = if told { RecipientState::Bounced } else { RecipientState::Discarded };
        assert_eq!(states(&progress), [state, DELIVERED], "{notify:?}");
        assert_eq!(bed.notices(id).len(), usize::from(told), "{notify:?}");
    }
}

#[tokio::test]
async fn nobody_is_told_of_a_bounce_that_fails_or_is_late() {
    let bed = Bed::new(telling());
    let id = bed
        .accept(|message| {
            message.envelope.reverse_path = ReversePath::Null;
            message.envelope.recipients[1].notify = Some(Notify { success: true, ..NEVER });
        })
        .await;
    bed.clock.advance(5 * HOUR);
    let progress = bed.attempt(&[End::Failed, End::Delivered]).await;
    assert_eq!(states(&progress), [RecipientState::Discarded, DELIVERED]);
    assert!(bed.notices(id).is_empty() && bed.store.messages().is_empty());
    assert_eq!((bed.queue.depth().queued, bed.queue.depth().held), (0, 0));
}

#[tokio::test]
async fn on_failure_hold_keeps_every_reply_and_discard_forgets() {
    let bed = Bed::new(Options { on_failure: OnFailure::Hold, ..telling() });
    let id = bed.accept(|_| {}).await;
    let progress = bed.attempt(&[End::Failed, End::Delivered]).await;
    assert_eq!(states(&progress), [RecipientState::Held(HoldCause::Failed), DELIVERED]);
    assert_eq!(bed.store.messages()[0].1.recipients[0].replies[0].text, "5.1.1 no such user");
    assert!(bed.notices(id).is_empty() && bed.queue.depth().held == 1);
    let bed = Bed::new(Options { on_failure: OnFailure::Discard, ..telling() });
    bed.accept(|_| {}).await;
    let progress = bed.attempt(&[End::Failed, End::Failed]).await;
    assert_eq!(states(&progress), [RecipientState::Discarded; 2]);
    assert!(bed.store.messages().is_empty() && bed.queue.depth().held == 0);
}

#[tokio::test]
async fn r1_what_is_in_doubt_is_never_bounced_or_discarded() {
    for on_failure in [OnFailure::Bounce, OnFailure::Discard, OnFailure::Hold] {
        let bed = Bed::new(Options { on_failure, ..telling() });
        let id = bed.accept(|_| {}).await;
        bed.clock.advance(6 * 24 * HOUR);
        let progress = bed.attempt(&[End::InDoubt, End::Delivered]).await;
        assert_eq!(states(&progress), [RecipientState::Held(HoldCause::InDoubt), DELIVERED]);
        assert!(bed.notices(id).is_empty() && bed.queue.depth().held == 1);
    }
}

#[tokio::test]
async fn what_expires_after_its_last_attempt_or_in_its_lane_is_bounced() {
    let bed = Bed::new(telling());
    let id = bed.accept(|_| {}).await;
    let lease = bed.next().await;
    bed.clock.advance(5 * 24 * HOUR);
    lease.settle(&[outcome(0, End::Deferred), outcome(1, End::Delivered)], None).await.unwrap();
    let notices = bed.notices(id);
    assert!(notices[0].contains("Action: failed\r\nStatus: 5.4.7\r\n"), "{}", notices[0]);
    let bed = Bed::new(telling());
    let id = bed.accept(|_| {}).await;
    let lease = bed.next().await;
    lease.park();
    bed.clock.advance(5 * 24 * HOUR);
    assert!(lease.is_expired());
    let settled = lease.expire().await.unwrap();
    assert_eq!((settled.expired, states(&settled.progress)), (vec![0, 1], vec![RecipientState::Bounced; 2]));
    assert_eq!(bed.notices(id).len(), 1);
    assert_eq!((bed.queue.depth().queued, bed.queue.depth().held), (1, 0));
}

#[tokio::test]
async fn what_expires_is_held_where_failures_are_held() {
    let bed = Bed::new(Options { on_failure: OnFailure::Hold, ..telling() });
    bed.accept(|_| {}).await;
    let lease = bed.next().await;
    bed.clock.advance(5 * 24 * HOUR);
    assert_eq!(states(&lease.expire().await.unwrap().progress), [EXPIRED; 2]);
}

#[tokio::test]
async fn a_delay_is_told_once_and_only_of_those_who_still_wait_and_care() {
    let bed = Bed::new(Options { base: Duration::ZERO, ..telling() });
    let id = bed.accept(|message| message.envelope.recipients[1].notify = Some(NEVER)).await;
    assert!(!bed.attempt(&[End::Deferred, End::Deferred]).await.warned);
    assert!(bed.notices(id).is_empty());
    let lease = bed.next().await;
    bed.clock.advance(4 * HOUR);
    let settled = lease.settle(&[outcome(0, End::Deferred), outcome(1, End::Deferred)], None).await.unwrap();
    assert!(settled.progress.warned && settled.progress.is_queued());
    let notices = bed.notices(id);
    assert_eq!(notices.len(), 1);
    assert!(notices[0].contains("Action: delayed\r\n") && !notices[0].contains("c@y.example"));
    // Over a restart too.
    let bed = bed.restart(Options { base: Duration::ZERO, ..telling() });
    bed.clock.advance(5 * HOUR);
    let mut leases = Vec::new();
    while leases.len() < 2 {
        leases.extend(tokio::time::timeout(PATIENCE, bed.queue.next(10)).await.unwrap());
    }
    let original = leases.iter().find(|lease| lease.id() == id).unwrap();
    original.open().await.unwrap();
    original.settle(&[outcome(0, End::Deferred), outcome(1, End::Deferred)], None).await.unwrap();
    assert_eq!(bed.notices(id).len(), 1);
}

#[tokio::test]
async fn a_delay_is_told_of_what_waits_untried_too() {
    let bed = Bed::new(telling());
    let id = bed.accept(|_| {}).await;
    let lease = bed.next().await;
    bed.clock.advance(4 * HOUR);
    let settled = lease.settle(&[], Some(Duration::from_secs(60))).await.unwrap();
    assert_eq!((settled.progress.attempts, settled.progress.warned), (0, true));
    assert_eq!((bed.notices(id).len(), bed.queue.depth().queued), (1, 2));
}

#[tokio::test]
async fn a_delay_is_told_of_what_goes_on_waiting_in_its_lane() {
    let bed = Bed::new(telling());
    let id = bed.accept(|_| {}).await;
    let lease = bed.next().await;
    bed.clock.advance(4 * HOUR);
    // Whoever carries it tells of it later.
    lease.warn().await;
    assert!(lease.is_late() && bed.notices(id).is_empty());
    lease.park();
    lease.warn().await;
    lease.warn().await;
    assert!(!lease.is_late());
    assert_eq!((bed.notices(id).len(), bed.store.seen().saves.len()), (1, 1));
    // It is still this lease's to carry, and what was told is known.
    lease.open().await.unwrap();
    assert_eq!(lease.queued().await, [0, 1]);
    let progress = lease.settle(&[outcome(0, End::Delivered)], None).await.unwrap().progress;
    assert!(progress.warned && progress.is_queued());
    lease.warn().await;
    assert_eq!((bed.notices(id).len(), bed.store.seen().saves.len()), (1, 2));
}

#[tokio::test]
async fn a_delay_of_what_was_held_back_is_told_when_it_is_late_and_not_before() {
    let bed = Bed::new(telling());
    let release_at = bed.clock.now().plus(10 * HOUR);
    let id = bed.accept(|message| message.envelope.handling.release_at = Some(release_at)).await;
    bed.clock.advance(10 * HOUR);
    let bed = bed.restart(telling());
    let lease = tokio::time::timeout(PATIENCE, bed.queue.next(1)).await.unwrap().remove(0);
    // Unread, it looks as old as its id.
    assert!(lease.is_late());
    lease.warn().await;
    assert!(bed.notices(id).is_empty() && !lease.is_late());
    bed.clock.advance(4 * HOUR);
    assert!(lease.is_late());
    lease.warn().await;
    assert_eq!(bed.notices(id).len(), 1);
}

#[tokio::test]
async fn what_expires_in_one_lane_does_not_end_what_another_one_carries() {
    let bed = Bed::new(telling());
    let id = bed.accept(|_| {}).await;
    let lease = bed.next().await;
    lease.split(2);
    bed.clock.advance(5 * 24 * HOUR);
    assert!(lease.expire().await.is_none() && bed.notices(id).is_empty());
    let progress = lease.settle(&[outcome(1, End::Delivered)], None).await.unwrap().progress;
    assert_eq!(states(&progress), [RecipientState::Bounced, DELIVERED]);
    assert_eq!(bed.notices(id).len(), 1);
}

#[tokio::test]
async fn a_delivery_is_told_where_it_was_asked_for_and_the_next_hop_will_not() {
    let asked = Some(Notify { success: true, ..NEVER });
    for (notify, dsn_onward, code, action) in [
        (asked, false, 250, Some("relayed")),
        (asked, false, 0, Some("delivered")),
        (asked, true, 250, None),
        (None, false, 250, None),
    ] {
        let bed = Bed::new(telling());
        let id = bed.accept(|message| message.envelope.recipients[0].notify = notify).await;
        let mut first = outcome(0, End::Delivered);
        (first.dsn_onward, first.reply.code) = (dsn_onward, code);
        bed.next().await.settle(&[first, outcome(1, End::Delivered)], None).await.unwrap();
        let notices = bed.notices(id);
        assert_eq!(notices.len(), usize::from(action.is_some()));
        if let (Some(action), Some(notice)) = (action, notices.first()) {
            assert!(notice.contains(&format!("Action: {action}\r\n")) && !notice.contains("c@y.example"));
        }
        assert_eq!(bed.store.seen().saves.len(), 1);
    }
}

#[tokio::test]
async fn d2_each_part_of_a_list_tells_of_its_deliveries_in_its_own_save_and_only_once() {
    let bed = Bed::new(telling());
    let wants = |message: &mut Message| {
        let asked = Some(Notify { success: true, ..NEVER });
        message.envelope.recipients.iter_mut().for_each(|recipient| recipient.notify = asked);
    };
    let id = bed.accept(wants).await;
    let lease = bed.next().await;
    lease.record(&[outcome(0, End::Delivered)]).await.unwrap();
    assert_eq!(bed.notices(id).len(), 1);
    lease.settle(&[outcome(1, End::Delivered)], None).await.unwrap();
    let notices = bed.notices(id);
    assert_eq!(notices.len(), 2);
    for address in ["b@x.example", "c@y.example"] {
        let of =
            notices.iter().filter(|n| n.contains(&format!("Final-Recipient: rfc822; {address}"))).count();
        assert_eq!(of, 1);
    }
}

#[tokio::test]
async fn a_failed_recipient_comes_back_to_its_sender_over_the_relay() {
    let far = FarSide::new().on("RCPT TO:<b@", say("550 5.1.1 no such user")).start().await;
    let options = Options { base: Duration::from_millis(1), cap: Duration::from_millis(1), ..telling() };
    let rig = Rig::start_with(to_hosts(&[far.address]), options);
    rig.send(&["b@x.example"], "lost").await;
    far.wait(|log| log.taken.len() == 1).await;
    let log = far.log();
    assert_eq!(log.taken[0].rcpts, ["RCPT TO:<a@shop.example>"]);
    assert!(log.copies("Diagnostic-Code: smtp; 550 5.1.1 no such user") == 1);
    let seen = rig.store.wait(|seen| seen.saves.len() == 2).await;
    assert!(seen.saves.iter().all(|(_, progress)| progress.is_finished()));
}

#[tokio::test]
async fn a_message_that_was_put_into_a_directory_is_reported_as_delivered() {
    let directory_path = tempfile::tempdir().unwrap();
    let rig = Rig::start_with(relay_options(vec![directory("files", directory_path.path())]), telling());
    let mut sent = message(&rig.clock, &["b@x.example"], "x");
    sent.envelope.recipients[0].notify = Some(Notify { success: true, ..NEVER });
    rig.submit(sent).await;
    let seen = rig.store.wait(|seen| seen.saves.len() == 2).await;
    let report = directory_path.path().join(format!("{}.eml", seen.saves[1].0));
    assert!(std::fs::read_to_string(report).unwrap().contains("Action: delivered\r\n"));
}
