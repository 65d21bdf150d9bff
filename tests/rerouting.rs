//! Routes that are exchanged while mail is under way: nothing is lost, nothing is sent twice, and what has not changed
//! goes on as it was.

use std::sync::Arc;
use std::time::Duration;

use oncemail::mail::Progress;
use oncemail::relay::options::{Breaker, DkimKey, Options, Transport};
use tokio::sync::Semaphore;

use crate::common::eventually::eventually_so;
use crate::common::far_side::{Act, FarSide, FarSideBuilder, PATIENCE};
use crate::common::relay_rig::{
    DELIVERED, Rig, changed, directory, nobody, patient, queue_options, relay_options, route, smarthost, to,
    to_hosts,
};
use crate::common::watched_store::Seen;

/// One connection, so that all but the first message wait.
fn one_at_a_time(far: &FarSide) -> Options {
    changed(&[far.address], |smtp| smtp.connections = 1)
}

fn gated(gate: &Arc<Semaphore>) -> FarSideBuilder {
    FarSide::new().on(".", Act::Gate(gate.clone()))
}

fn attempts(progress: &Progress) -> (u32, usize) {
    (progress.attempts, progress.recipients[0].replies.len())
}

#[tokio::test]
async fn d6_r1_mail_that_waits_goes_the_new_way_at_once_and_what_is_in_doubt_gets_its_reply() {
    let gate = Arc::new(Semaphore::new(0));
    let (old, new) = (gated(&gate).start().await, FarSide::new().start().await);
    let rig = Rig::start_with(one_at_a_time(&old), patient());
    let first = rig.send(&["b@x.example"], "first").await;
    old.wait(|log| !log.wire.is_empty()).await;
    let mut waiting = Vec::new();
    for number in 0..20 {
        waiting.push(rig.send(&["b@x.example"], &format!("waiting {number}.")).await);
    }
    rig.reroute(one_at_a_time(&new));
    // Not after the minute that a dropped attempt waits, and not after the hour of a retry.
    new.wait(|log| log.taken.len() == 20).await;
    for id in waiting {
        let progress = rig.store.saved(id, 1).await;
        assert_eq!((progress.recipients[0].state, attempts(&progress)), (DELIVERED, (1, 1)));
    }
    assert!(rig.store.seen().saves.iter().all(|(id, _)| *id != first), "nobody has answered yet");
    gate.add_permits(1);
    let progress = rig.store.saved(first, 1).await;
    assert_eq!((progress.recipients[0].state, attempts(&progress)), (DELIVERED, (1, 1)));
    let log = old.wait(|log| log.open == 0).await;
    assert_eq!((log.copies("first"), log.taken.len(), new.log().copies("first")), (1, 1, 0));
    // The old lane has gone with its last connection.
    eventually_so("the old lane is gone", || rig.counters.counts().lanes == 1).await;
}

#[tokio::test]
async fn an_attempt_that_has_not_come_to_the_final_dot_is_made_on_the_new_way_and_not_counted() {
    for at in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"] {
        let (old, new) = (FarSide::new().on(at, Act::Silence).start().await, FarSide::new().start().await);
        let rig = Rig::start_with(to_hosts(&[old.address]), patient());
        let id = rig.send(&["b@x.example"], "stuck").await;
        old.wait(|log| log.connections == 1 && (at == "CONNECT" || log.said(at) > 0)).await;
        rig.reroute(to_hosts(&[new.address]));
        new.wait(|log| log.copies("stuck") == 1).await;
        assert_eq!(attempts(&rig.store.saved(id, 1).await), (1, 1), "{at}");
        old.wait(|log| log.open == 0).await;
        assert!(old.log().wire.is_empty(), "{at}");
    }
}

#[tokio::test]
async fn d6_mail_in_a_lane_that_is_paused_goes_the_new_way_at_once() {
    let new = FarSide::new().start().await;
    let mut options = to_hosts(&[nobody().await]);
    let hour = Duration::from_secs(3600);
    options.breaker = Breaker { failures: 1, open_for: hour, ..Breaker::default() };
    let rig = Rig::start_with(options, patient());
    // It opens the breaker, and waits for its retry.
    let tried = rig.send(&["b@x.example"], "tried").await;
    rig.store.saved(tried, 1).await;
    for number in 0..5 {
        rig.send(&["b@x.example"], &format!("parked {number}.")).await;
    }
    // They are in the lane when all of them have left the queue; one that has not goes the new way in any case.
    rig.reroute(to_hosts(&[new.address]));
    let log = new.wait(|log| log.taken.len() == 5).await;
    assert_eq!(log.copies("tried"), 0);
}

#[tokio::test]
async fn what_has_not_changed_keeps_its_connection_and_what_has_does_not() {
    let (kept, moved, new) =
        (FarSide::new().start().await, FarSide::new().start().await, FarSide::new().start().await);
    let options = |other: &FarSide, more: &[&str]| {
        let (mine, other) = (smarthost(&[kept.address]), smarthost(&[other.address]));
        let domains: Vec<_> = ["k.example"].iter().chain(more).copied().collect();
        relay_options(vec![
            to(&domains, route("kept", Transport::Smtp(mine))),
            route("rest", Transport::Smtp(other)),
        ])
    };
    let rig = Rig::start_with(options(&moved, &[]), patient());
    rig.send(&["a@k.example", "a@x.example"], "before").await;
    kept.wait(|log| log.taken.len() == 1).await;
    moved.wait(|log| log.taken.len() == 1).await;
    // Another condition is no other way.
    rig.reroute(options(&new, &["also.example"]));
    moved.wait(|log| log.open == 0).await;
    rig.send(&["a@also.example", "a@x.example"], "after").await;
    let log = kept.wait(|log| log.taken.len() == 2).await;
    new.wait(|log| log.taken.len() == 1).await;
    assert_eq!((log.connections, moved.log().taken.len()), (1, 1));
}

#[tokio::test]
async fn d6_r1_a_message_with_a_leg_in_doubt_loses_no_other_leg_and_sends_none_twice() {
    let gate = Arc::new(Semaphore::new(0));
    let (kept, busy, new) =
        (gated(&gate).start().await, gated(&gate).start().await, FarSide::new().start().await);
    let options = |other: &FarSide| {
        let mut other = smarthost(&[other.address]);
        other.connections = 1;
        let kept = smarthost(&[kept.address]);
        relay_options(vec![
            to(&["k.example"], route("kept", Transport::Smtp(kept))),
            route("rest", Transport::Smtp(other)),
        ])
    };
    let rig = Rig::start(options(&busy));
    rig.send(&["a@x.example"], "in the way").await;
    busy.wait(|log| !log.wire.is_empty()).await;
    let split = rig.send(&["a@k.example", "a@x.example"], "split").await;
    kept.wait(|log| !log.wire.is_empty()).await;
    rig.reroute(options(&new));
    assert_eq!(new.log().copies("split"), 0);
    gate.add_permits(2);
    new.wait(|log| log.copies("split") == 1).await;
    let done = |(id, progress): &(_, Progress)| *id == split && progress.is_finished();
    let seen = rig.store.wait(|seen| seen.saves.iter().any(done)).await;
    let (_, progress) = seen.saves.iter().find(|save| done(save)).unwrap();
    assert!(progress.recipients.iter().all(|r| r.state == DELIVERED && r.replies.len() == 1));
    let copies = [&kept, &busy, &new].map(|far| (far.log().copies("split"), far.log().copies("in the way")));
    assert_eq!(copies, [(1, 0), (0, 1), (1, 0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d6_a_storm_of_new_routes_loses_nothing_and_sends_nothing_twice() {
    const MESSAGES: usize = 200;
    let (one, two) = (FarSide::new().start().await, FarSide::new().start().await);
    let directory_of_mail = tempfile::tempdir().unwrap();
    let rig = Rig::start_with(to_hosts(&[one.address]), patient());
    let is_over =
        |seen: &Seen| seen.saves.iter().filter(|(_, progress)| progress.is_finished()).count() == MESSAGES;
    let send = async {
        for number in 0..MESSAGES {
            rig.send(&["b@x.example"], &format!("number {number}.")).await;
            // So that the routes change between two messages too.
            tokio::task::yield_now().await;
        }
        rig.store.wait(is_over).await;
    };
    let change = async {
        let kinds = [
            to_hosts(&[one.address]),
            one_at_a_time(&two),
            relay_options(vec![directory("files", directory_of_mail.path())]),
            to_hosts(&[two.address]),
        ];
        let mut changes = 0;
        for options in kinds.iter().cycle() {
            rig.reroute(options.clone());
            changes += 1;
            let begun = rig.store.seen().saves.len();
            // Something gets through each of them, or nothing is left.
            let seen = rig.store.wait(|seen| seen.saves.len() > begun || is_over(seen)).await;
            if is_over(&seen) {
                return changes;
            }
        }
        changes
    };
    let ((), changes) =
        tokio::time::timeout(3 * PATIENCE, async { tokio::join!(send, change) }).await.unwrap();
    assert!(changes > 4, "{changes}");
    let files = std::fs::read_dir(directory_of_mail.path()).unwrap();
    let files: Vec<_> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for number in 0..MESSAGES {
        let text = format!("number {number}.");
        let written = files.iter().filter(|file| file.contains(&text)).count();
        assert_eq!(one.log().copies(&text) + two.log().copies(&text) + written, 1, "{text}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_new_dkim_key_signs_on_the_connection_that_is_open() {
    let far = FarSide::new().start().await;
    let signing = |selector: &str| {
        let key = zeroize::Zeroizing::new(include_bytes!("fixtures/dkim/ed25519.pem").to_vec());
        let key = DkimKey { domain: "shop.example".into(), selector: selector.into(), key };
        Options { dkim: vec![key], ..to_hosts(&[far.address]) }
    };
    let rig = Rig::start(signing("old"));
    rig.send(&["b@x.example"], "one").await;
    far.wait(|log| log.taken.len() == 1).await;
    rig.reroute(signing("new"));
    rig.send(&["b@x.example"], "two").await;
    let log = far.wait(|log| log.taken.len() == 2).await;
    let signed_by = |number: usize, selector: &str| {
        let content = String::from_utf8_lossy(&log.taken[number].content).into_owned();
        content.contains(&format!("s={selector};"))
    };
    assert!(signed_by(0, "old") && signed_by(1, "new"));
    assert_eq!(log.connections, 1);
}

#[tokio::test]
async fn routes_that_cannot_be_had_change_nothing() {
    let (far, new) = (FarSide::new().start().await, FarSide::new().start().await);
    let rig = Rig::start(to_hosts(&[far.address]));
    rig.send(&["b@x.example"], "one").await;
    far.wait(|log| log.taken.len() == 1).await;
    let broken = changed(&[new.address], |smtp| smtp.ca_file = Some("/nowhere/ca.pem".into()));
    assert!(rig.cannot_reroute(broken).contains("route hosts: ca_file"));
    let key =
        DkimKey { domain: "d".into(), selector: "s".into(), key: zeroize::Zeroizing::new(b"x".to_vec()) };
    let broken = Options { dkim: vec![key], ..to_hosts(&[new.address]) };
    assert!(rig.cannot_reroute(broken).contains("dkim"));
    let broken = relay_options(vec![directory("files", "/dev/null/mail".as_ref())]);
    assert!(rig.cannot_reroute(broken).contains("/dev/null/mail"));
    rig.send(&["b@x.example"], "two").await;
    let log = far.wait(|log| log.taken.len() == 2).await;
    assert_eq!((log.connections, new.log().connections), (1, 0));
}

#[tokio::test]
async fn mail_that_no_route_took_goes_by_a_new_one_at_its_next_attempt() {
    let far = FarSide::new().start().await;
    let only = |domain: &str| {
        relay_options(vec![to(&[domain], route("r", Transport::Smtp(smarthost(&[far.address]))))])
    };
    let rig = Rig::start_with(only("other.example"), queue_options());
    let id = rig.send(&["b@x.example"], "stray").await;
    rig.store.wait(|seen| seen.saves.iter().any(|(saved, _)| *saved == id)).await;
    rig.reroute(only("x.example"));
    far.wait(|log| log.copies("stray") == 1).await;
}
