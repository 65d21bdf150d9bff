//! What the relay promises between the final dot and its reply (R1) on a route with `in_doubt = "hold"`: never a second
//! copy, whatever ends, and no outcome that nobody spoke.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::{AttemptReply, HoldCause, Progress, RecipientState};
use oncemail::queue::{End, Lease, Outcome, Queue};
use oncemail::relay::options::{InDoubt, Options};
use oncemail::store::{Store, StoreError};
use tokio::sync::Semaphore;

use crate::common::client::Client;
use crate::common::far_side::{Act, FarSide, FarSideBuilder, Log, PATIENCE, say};
use crate::common::outcomes;
use crate::common::program::{Relay, Setup};
use crate::common::relay_rig::{
    DELIVERED, FAILED, Rig, changed, message, patient, queue_options, replies, to_hosts,
};
use crate::common::watched_store::WatchedStore;

const IN_DOUBT: RecipientState = RecipientState::Held(HoldCause::InDoubt);
/// More than both sides' buffers hold.
const LARGE: usize = 12 << 20;

fn holding(address: SocketAddr) -> Options {
    held(to_hosts(&[address]))
}

fn held(mut options: Options) -> Options {
    options.routes[0].in_doubt = InDoubt::Hold;
    options.timeouts.data_termination = Duration::from_millis(300);
    options
}

fn outcome(recipient: usize, end: End) -> Outcome {
    Outcome { end, ..outcomes::outcome(recipient, End::Delivered) }
}

fn doubtful(text: &str) -> AttemptReply {
    outcomes::reply(0, text)
}

/// A lease of a message, and the store under it.
async fn leased(recipients: &[&str]) -> (Arc<Queue>, Arc<WatchedStore>, Lease) {
    let clock = Clock::system();
    let queue = Queue::new(queue_options(), clock.clone());
    let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
    queue.start(store.clone(), Vec::new());
    store.accept(Arc::new(message(&clock, recipients, "x")), None).await.unwrap();
    let lease = tokio::time::timeout(PATIENCE, queue.next(1)).await.unwrap().remove(0);
    lease.open().await.unwrap();
    (queue, store, lease)
}

fn states(progress: &Progress) -> Vec<RecipientState> {
    progress.recipients.iter().map(|r| r.state).collect()
}

#[tokio::test]
async fn r1_what_ends_in_doubt_is_held_and_never_sent_again() {
    for act in [
        Act::Close,
        Act::Silence,
        say("354 go on"),
        Act::Bytes(b"hello\r\n".to_vec()),
        Act::Bytes(b"250 half a rep".to_vec()),
    ] {
        let far = FarSide::new().on_times(1, ".", act).start().await;
        let rig = Rig::start(holding(far.address));
        let id = rig.send(&["b@x.example"], "doubtful").await;
        let progress = rig.store.saved(id, 2).await;
        assert_eq!((states(&progress), progress.attempts), (vec![IN_DOUBT], 1));
        assert_eq!((replies(&progress).len(), progress.recipients[0].attempts), (1, 1), "{progress:?}");
        assert!(replies(&progress)[0].starts_with("in doubt: the message was sent"), "{progress:?}");
        // The next one goes out on the same route, the first does not.
        let next = rig.send(&["b@x.example"], "next").await;
        assert!(rig.store.saved(next, 2).await.is_finished());
        let depth = rig.queue.depth();
        assert_eq!((depth.queued, depth.held, far.log().wire.len()), (0, 1, 2));
        // Nor after a restart, which has nothing to try.
        let rig = Rig::restart(holding(far.address), queue_options(), rig.stop().await);
        assert_eq!((rig.queue.depth().queued, rig.queue.depth().held), (0, 1));
        rig.stop().await;
        assert_eq!(far.log().wire.len(), 2);
    }
}

#[tokio::test]
async fn r1_the_final_dot_waits_until_the_doubt_is_durable() {
    let far = FarSide::new().start().await;
    let rig = Rig::start(holding(far.address));
    let gate = Arc::new(Semaphore::new(0));
    rig.store.gate_saves(gate.clone());
    let id = rig.send(&["b@x.example", "c@x.example"], "patient").await;
    rig.store.wait(|seen| seen.begun_saves == 1).await;
    let content = "Subject: test\r\n\r\npatient\r\n".len();
    // All of the message is there, and no end of it.
    let log = far.wait(|log| log.octets == content).await;
    assert!(log.wire.is_empty() && rig.store.seen().saves.is_empty());
    gate.add_permits(1);
    far.wait(|log| log.copies("patient") == 1).await;
    let journalled = rig.store.saved(id, 1).await;
    assert_eq!(states(&journalled), [IN_DOUBT, IN_DOUBT]);
    let said = &journalled.recipients[0].replies[0];
    assert!(said.text.starts_with("in doubt: the message was about to be sent"), "{said:?}");
    assert_eq!((said.route.as_str(), &said.host), ("hosts", &far.address.to_string()));
    gate.add_permits(1);
    let progress = rig.store.saved(id, 2).await;
    assert_eq!((states(&progress), replies(&progress)), (vec![DELIVERED; 2], vec!["2.0.0 taken".to_owned()]));
}

#[tokio::test]
async fn r1_an_outcome_takes_the_place_of_the_doubt_before_it_and_leaves_no_trace_of_it() {
    for (reply, state) in [
        ("250 2.0.0 taken", DELIVERED),
        ("554 5.7.1 spam", FAILED),
        ("451 4.3.0 later", RecipientState::Queued),
        ("421 4.3.2 closing", RecipientState::Queued),
    ] {
        let far = FarSide::new().on("RCPT TO:<bad@", say("550 5.1.1 no")).on(".", say(reply)).start().await;
        let rig = Rig::start_with(holding(far.address), patient());
        let id = rig.send(&["b@x.example", "bad@x.example"], "x").await;
        // Who was refused has nothing to be doubted.
        assert_eq!(states(&rig.store.saved(id, 1).await), [IN_DOUBT, RecipientState::Queued]);
        let progress = rig.store.saved(id, 2).await;
        assert_eq!(states(&progress), [state, FAILED], "{reply}");
        assert_eq!(replies(&progress), [&reply[4..]]);
        assert_eq!((progress.recipients[0].attempts, progress.attempts), (1, 1));
    }
}

#[tokio::test]
async fn r1_what_is_known_not_to_have_been_sent_is_not_in_doubt() {
    for (prefix, act) in [
        ("CONNECT", Act::Close),
        ("MAIL", Act::Close),
        ("RCPT", Act::Close),
        ("DATA", Act::Close),
        ("CONTENT", Act::Close),
        ("CONTENT", Act::SayThenClose("421 4.3.2 closing".into())),
        ("CONTENT", Act::SayThenClose("250 2.0.0 taken already".into())),
    ] {
        let far = FarSide::new().offers(&["PIPELINING"]).on_times(1, prefix, act).start_narrow();
        let rig = Rig::start(holding(far.address));
        let id = rig.send(&["b@x.example"], &"x".repeat(LARGE)).await;
        let seen = rig.store.wait(|seen| seen.saves.last().is_some_and(|(_, p)| p.is_finished())).await;
        assert!(seen.saves.iter().all(|(i, _)| *i == id), "{prefix}");
        assert_eq!((far.log().taken.len(), far.log().connections), (1, 2), "{prefix}");
    }
}

#[tokio::test]
async fn r1_a_reply_that_came_before_the_final_dot_is_not_taken_for_the_reply_to_it() {
    for (early, states) in
        [("250 2.0.0 taken already", vec![DELIVERED]), ("552 5.3.4 too large", vec![FAILED])]
    {
        let far = FarSide::new().offers(&["PIPELINING"]).on_times(1, "CONTENT", say(early)).start_narrow();
        let rig = Rig::start(holding(far.address));
        rig.send(&["b@x.example"], &"x".repeat(LARGE)).await;
        let seen = rig
            .store
            .wait(|seen| seen.saves.last().is_some_and(|(_, p)| !p.is_queued() && states == self::states(p)))
            .await;
        // The first transaction had no final dot, and nothing was journalled for it.
        let wire = usize::from(early.starts_with('2'));
        assert_eq!((far.log().wire.len(), seen.saves.len()), (wire, 1 + wire), "{early}");
    }
}

#[tokio::test]
async fn r1_a_doubt_that_cannot_be_journalled_keeps_the_message_from_being_sent() {
    let gate = Arc::new(Semaphore::new(0));
    let far = FarSide::new().on_times(1, "DATA", Act::Gate(gate.clone())).start().await;
    let rig = Rig::start(holding(far.address));
    let id = rig.send(&["b@x.example"], "once").await;
    far.wait(|log| log.said("DATA") == 1).await;
    rig.store.fail_with(Some(StoreError::LowDisk { free_bytes: 0 }));
    gate.add_permits(1);
    // The doubt, and then the outcome, which waits for room.
    rig.store.wait(|seen| seen.failed_saves >= 2).await;
    assert!(far.log().wire.is_empty());
    rig.store.fail_with(None);
    let progress = rig.store.saved(id, 3).await;
    assert!(replies(&progress)[0].starts_with("4.3.0 not sent: "), "{progress:?}");
    assert_eq!((progress.is_finished(), far.log().copies("once"), progress.attempts), (true, 1, 2));
}

#[tokio::test]
async fn r1_a_lease_that_is_dropped_in_doubt_leaves_it_held() {
    let (queue, store, lease) = leased(&["b@x.example", "c@x.example"]).await;
    lease.doubt(&[0, 1], doubtful("in doubt: x")).await.unwrap();
    drop(lease);
    assert_eq!((queue.depth().queued, queue.depth().held), (0, 1));
    assert_eq!(states(&store.messages()[0].1), [IN_DOUBT, IN_DOUBT]);

    let (queue, store, lease) = leased(&["b@x.example", "c@x.example"]).await;
    lease.doubt(&[1], doubtful("in doubt: x")).await.unwrap();
    drop(lease);
    assert_eq!((queue.depth().queued, queue.depth().held), (1, 0));
    // Whoever takes it next offers the other one only.
    let far = FarSide::new().start().await;
    let rig = Rig::restart(holding(far.address), queue_options(), store.clone());
    let is_delivered = |(_, p): &(_, Progress)| states(p) == [DELIVERED, IN_DOUBT];
    rig.store.wait(|seen| seen.saves.last().is_some_and(is_delivered)).await;
    assert_eq!(far.log().taken[0].rcpts, ["RCPT TO:<b@x.example>"]);
    rig.stop().await;
}

#[tokio::test]
async fn r1_what_one_leg_saves_does_not_take_back_the_doubt_of_another() {
    let (queue, store, lease) = leased(&["b@x.example", "c@y.example"]).await;
    lease.split(2);
    let id = lease.id();
    lease.doubt(&[0], doubtful("in doubt: x")).await.unwrap();
    lease.settle(&[outcome(1, End::Delivered)], None).await.unwrap();
    assert_eq!(states(&store.saved(id, 2).await), [IN_DOUBT, DELIVERED]);
    lease.settle(&[outcome(0, End::Deferred)], None).await.unwrap();
    let progress = store.saved(id, 3).await;
    assert_eq!(states(&progress), [RecipientState::Queued, DELIVERED]);
    assert_eq!((replies(&progress), queue.depth().queued), (vec!["2.0.0 ok".to_owned()], 1));
}

#[tokio::test]
async fn r1_a_doubt_that_no_outcome_followed_stays_when_the_message_is_closed() {
    let (queue, store, lease) = leased(&["b@x.example"]).await;
    lease.doubt(&[0], doubtful("in doubt: x")).await.unwrap();
    lease.settle(&[], None).await.unwrap();
    assert_eq!((queue.depth().queued, queue.depth().held), (0, 1));
    assert_eq!(states(&store.messages()[0].1), [IN_DOUBT]);
    drop(lease);
    assert_eq!((queue.depth().queued, queue.depth().held), (0, 1));
}

#[tokio::test]
async fn r1_what_is_in_doubt_does_not_expire() {
    let (_, store, lease) = leased(&["b@x.example", "c@x.example"]).await;
    let long_ago = oncemail::queue::Options { expire_after: Duration::ZERO, ..queue_options() };
    let queue = Queue::new(long_ago, Clock::system());
    drop(lease);
    let recovered = store.messages().into_iter().map(|(message, _)| oncemail::store::Recovered {
        id: message.id,
        next_attempt: Some(message.accepted_at),
        priority: 0,
        held_back: false,
    });
    queue.start(store.clone(), recovered.collect());
    let lease = tokio::time::timeout(PATIENCE, queue.next(1)).await.unwrap().remove(0);
    lease.doubt(&[0], doubtful("in doubt: x")).await.unwrap();
    let settled = lease.expire().await.unwrap();
    let expired = RecipientState::Held(HoldCause::Expired);
    assert_eq!((settled.expired, states(&settled.progress)), (vec![1], vec![IN_DOUBT, expired]));
}

#[tokio::test]
async fn r1_what_was_refused_is_queued_again_though_nobody_told_of_an_outcome() {
    let (queue, store, lease) = leased(&["b@x.example"]).await;
    lease.doubt(&[0], doubtful("in doubt: x")).await.unwrap();
    lease.not_taken(&[0]).await;
    lease.settle(&[], Some(Duration::from_secs(3600))).await.unwrap();
    assert_eq!((queue.depth().queued, queue.depth().held), (1, 0));
    assert_eq!(states(&store.messages()[0].1), [RecipientState::Queued]);
}

#[tokio::test]
async fn r1_a_failed_journal_changes_nothing() {
    let (queue, store, lease) = leased(&["b@x.example"]).await;
    store.fail_with(Some(StoreError::LowDisk { free_bytes: 0 }));
    assert!(lease.doubt(&[0], doubtful("in doubt: x")).await.is_err());
    store.fail_with(None);
    assert_eq!(lease.queued().await, [0]);
    drop(lease);
    assert_eq!((queue.depth().queued, states(&store.messages()[0].1)), (1, vec![RecipientState::Queued]));
}

/// Where the relay is when it is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Point {
    /// The far side has this line, or this piece of the message, and says nothing.
    At(&'static str),
    /// The far side has answered the final dot just now.
    Answered,
    /// The outcome is saved.
    Recorded,
}

const POINTS: [Point; 9] = [
    Point::At("CONNECT"),
    Point::At("EHLO"),
    Point::At("MAIL"),
    Point::At("RCPT"),
    Point::At("DATA"),
    Point::At("CONTENT"),
    Point::At("."),
    Point::Answered,
    Point::Recorded,
];

impl Point {
    fn is_reached(self, log: &Log) -> bool {
        match self {
            Self::At("CONNECT") => log.connections == 1,
            Self::At("CONTENT") => log.begun == 1,
            Self::At(".") => log.wire.len() == 1,
            Self::At(prefix) => log.said(prefix) == 1,
            Self::Answered | Self::Recorded => log.taken.len() == 1,
        }
    }

    /// Whether the far side may have the message before the kill.
    fn is_after_the_dot(self) -> bool {
        matches!(self, Self::At(".") | Self::Answered | Self::Recorded)
    }
}

/// Kills the relay at `point`, lets the far side go on, and starts the relay again.
async fn killed_at(point: Point, in_doubt: &str) -> (FarSide, Setup, Relay) {
    let gate = Arc::new(Semaphore::new(0));
    let script = |far: FarSideBuilder| match point {
        Point::At(prefix) => far.on_times(1, prefix, Act::Gate(gate.clone())),
        _ => far,
    };
    let far = script(FarSide::new().offers(&["PIPELINING"])).start_narrow();
    let setup = Setup::with(&format!(
        "[retry]\nbase = \"1s\"\ncap = \"1s\"\n\
         [[route]]\nname = \"next\"\ntransport = \"smarthost\"\nhosts = [\"{}\"]\ntls = \"none\"\n\
         connections = 1\nin_doubt = \"{in_doubt}\"\n",
        far.address
    ));
    let mut relay = setup.serve().await;
    let size = if point == Point::At("CONTENT") { LARGE } else { 100 };
    submit(relay.address(), "first", size).await;
    far.wait(|log| point.is_reached(log)).await;
    if point == Point::Recorded {
        relay.says("delivery").await;
    }
    relay.kill().await;
    // What the relay had handed to its system still arrives.
    gate.add_permits(1);
    far.wait(|log| log.open == 0).await;
    let relay = setup.serve().await;
    (far, setup, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_killed_at_any_point_a_route_that_holds_never_sends_twice() {
    for point in POINTS {
        let (far, setup, mut relay) = killed_at(point, "hold").await;
        if !point.is_after_the_dot() {
            // Nothing was sent, and that is known: it goes out now.
            far.wait(|log| log.copies("first") == 1).await;
        }
        submit(relay.address(), "second", 100).await;
        far.wait(|log| log.copies("second") == 1).await;
        assert_eq!(relay.stop().await, Some(0));
        assert_eq!((far.log().copies("first"), far.log().wire.len()), (1, 2), "{point:?}");
        let left = setup.left().await;
        match point {
            Point::At(".") => {
                assert_eq!(states(&left[0]), [IN_DOUBT], "{point:?}");
                assert!(replies(&left[0])[0].contains("may have been delivered"), "{left:?}");
                assert_eq!(left[0].recipients[0].replies[0].host, far.address.to_string());
            }
            Point::Answered => assert!(left.iter().all(|p| states(p) == [IN_DOUBT]), "{left:?}"),
            _ => assert!(left.is_empty(), "{point:?}: {left:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_killed_at_any_point_a_route_that_sends_again_loses_nothing() {
    for point in POINTS {
        let (far, setup, mut relay) = killed_at(point, "resend").await;
        let least = if point == Point::At(".") { 2 } else { 1 };
        far.wait(|log| log.copies("first") >= least).await;
        submit(relay.address(), "second", 100).await;
        far.wait(|log| log.copies("second") == 1).await;
        assert_eq!(relay.stop().await, Some(0));
        let most = if point == Point::Answered { 2 } else { least };
        assert!((least..=most).contains(&far.log().copies("first")), "{point:?}");
        assert!(setup.left().await.is_empty(), "{point:?}");
    }
}

async fn submit(address: SocketAddr, text: &str, size: usize) {
    let (mut client, _) = Client::greeted(address).await;
    client.begin().await;
    let body = "x".repeat(70) + "\r\n";
    let body = body.repeat(size / body.len());
    let reply = client.ask(&format!("Subject: {text}\r\n\r\n{text}\r\n{body}.")).await;
    assert!(reply.starts_with("250 2.0.0 OK Message queued"), "{reply}");
}

#[tokio::test]
async fn many_messages_in_doubt_are_each_held_once() {
    let far = FarSide::new().on(".", Act::Close).start().await;
    let rig = Rig::start(held(changed(&[far.address], |smarthost| smarthost.connections = 8)));
    for n in 0..50 {
        rig.send(&["b@x.example"], &format!("number {n} ")).await;
    }
    rig.store.wait(|seen| seen.saves.len() == 100).await;
    let store = rig.stop().await;
    let messages = store.messages();
    assert!(messages.len() == 50 && messages.iter().all(|(_, p)| states(p) == [IN_DOUBT]));
    assert!((0..50).all(|n| far.log().copies(&format!("number {n} ")) == 1));
}
