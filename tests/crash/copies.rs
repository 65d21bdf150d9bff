//! What is copied forward before a segment is given back: living messages with their progress, and the key of one that
//! has ended. However the copy is torn, and although the journal alone has to say so later, it stands as it did.

use std::collections::BTreeMap;

use oncemail::clock::Clock;
use oncemail::mail::{Progress, QueueId};
use oncemail::store::files::Files as _;
use oncemail::store::{Acceptance, Store};
use tokio::runtime::Runtime;

use super::cuts::runtime;
use super::workload::{open_disk, root};
use crate::common::history::{accept, deferred, finished, key, message, start};
use crate::common::memory_disk::MemoryDisk;
use crate::common::platter::{Cut, Op};

/// What must be there at every start.
struct Standing {
    /// By id.
    living: BTreeMap<QueueId, Progress>,
    ended: QueueId,
}

/// A disk on which all but little of the journal is not needed any more, and what is.
fn bed(runtime: &Runtime, clock: &Clock) -> (MemoryDisk, Standing) {
    let disk = MemoryDisk::new(&root());
    disk.set_can_allocate(false);
    let (store, _) = open_disk(&disk, clock).unwrap();
    let now = clock.now();
    let ended = message(now, Some("ended"), 300);
    let mut living = BTreeMap::new();
    runtime.block_on(async {
        accept(&store, &ended).await.unwrap();
        store.save(ended.id, finished(now)).await.unwrap();
        // Of many sizes: one of their copies will be torn off from the copy of its progress.
        for attempt in 1..5 {
            let one = message(now, None, 100 + 200 * attempt);
            accept(&store, &one).await.unwrap();
            living.insert(one.id, deferred(now, u32::try_from(attempt).unwrap()));
        }
        for _ in 0..8 {
            let other = message(now, None, 3000);
            accept(&store, &other).await.unwrap();
            store.save(other.id, finished(now)).await.unwrap();
        }
        // Behind all that can be given back: a copy of the message alone would outlive what tells of its progress.
        for (id, progress) in &living {
            store.save(*id, progress.clone()).await.unwrap();
        }
    });
    drop(store);
    (MemoryDisk::from(disk.platter()), Standing { living, ended: ended.id })
}

/// Starts, looks, ends the messages if it `ends`, and does what upkeep there is.
fn check(runtime: &Runtime, clock: &Clock, disk: &MemoryDisk, standing: &Standing, ends: bool, what: &str) {
    let (store, recovery) = open_disk(disk, clock).unwrap_or_else(|error| panic!("{what}: {error}"));
    runtime.block_on(async {
        let mut found = BTreeMap::new();
        for one in &recovery.messages {
            let (_, progress) = store.load(one.id).await.unwrap().unwrap();
            found.insert(one.id, progress);
        }
        assert_eq!(found, standing.living, "D6: {what}");
        let record = store.find_key(&key("ended")).await.unwrap();
        assert_eq!(record.map(|record| record.id), Some(standing.ended), "I1: {what}");
        if ends {
            for id in standing.living.keys() {
                store.save(*id, finished(clock.now())).await.unwrap();
            }
        }
        // The second has a checkpoint of what the first has done.
        store.settle().await.unwrap();
        store.settle().await.unwrap();
    });
}

fn journal_alone(disk: &MemoryDisk) -> MemoryDisk {
    let mut left = disk.platter().after(Cut::Lost, 1);
    left.lose(&root().join("checkpoint"));
    left.lose(&root().join("index"));
    MemoryDisk::from(left)
}

#[test]
fn d6_i1_i3_what_is_copied_forward_stands_as_it_did_however_the_copy_is_torn() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let (disk, living) = bed(&runtime, &clock);
    let gone = Standing { living: BTreeMap::new(), ended: living.ended };
    check(&runtime, &clock, &disk, &living, false, "the upkeep that is cut below");
    assert_eq!(disk.len(&root().join("journal/00000001.seg")), None, "it was copied and given back");
    let (mut platter, log) = disk.recording();
    for (at, op) in log.iter().enumerate() {
        platter.apply(op);
        let chances = if matches!(op, Op::Write(..)) { 64 } else { 2 };
        for chance in 0..chances {
            let what = format!("chance {chance} after operation {at} of {}", log.len());
            let mut disk = MemoryDisk::from(platter.after(Cut::Torn(512), chance));
            // What one start gives back the next one does not find, and often nothing but the copies tells it.
            let starts = [(&living, false, chance % 2 == 0), (&living, true, false), (&gone, false, true)];
            for (number, (standing, ends, alone)) in starts.into_iter().enumerate() {
                check(&runtime, &clock, &disk, standing, ends, &format!("{what}, start {number}"));
                disk = if alone { journal_alone(&disk) } else { MemoryDisk::from(disk.platter()) };
            }
            let disk = journal_alone(&disk);
            check(&runtime, &clock, &disk, &gone, false, &format!("{what}, the last start"));
        }
    }
}

#[test]
fn i1_a_forgotten_key_does_not_come_back_with_the_copy_of_its_message() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let mut disk = MemoryDisk::new(&root());
    disk.set_can_allocate(false);
    let (store, _) = open_disk(&disk, &clock).unwrap();
    let now = clock.now();
    let (first, second) = (message(now, Some("k"), 300), message(now, Some("k"), 300));
    let others: Vec<_> = (0..8).map(|_| message(now, None, 3000)).collect();
    runtime.block_on(async {
        accept(&store, &first).await.unwrap();
        store.forget_key(&key("k")).await.unwrap();
        for other in &others {
            accept(&store, other).await.unwrap();
        }
        // It stands before the copy of the first, and what has forgotten the key goes with its segment.
        assert_eq!(accept(&store, &second).await, Ok(Acceptance::Queued));
    });
    let last = disk.list(&root().join("journal")).unwrap().into_iter().max().unwrap();
    runtime.block_on(async {
        for other in &others {
            store.save(other.id, finished(now)).await.unwrap();
        }
    });
    drop(store);
    for round in 0..3 {
        let (store, recovery) = open_disk(&disk, &clock).unwrap();
        assert_eq!(recovery.messages.len(), 2);
        let record = runtime.block_on(store.find_key(&key("k"))).unwrap();
        assert_eq!(record.map(|record| record.id), Some(second.id), "start {round}");
        runtime.block_on(store.settle()).unwrap();
        drop(store);
        disk = journal_alone(&disk);
    }
    assert_eq!(disk.len(&root().join("journal/00000001.seg")), None, "it was copied and given back");
    assert!(disk.len(&root().join("journal").join(last)).is_some(), "the second stands where it stood");
}
