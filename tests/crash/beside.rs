//! What stands beside the journal in the data directory: the suppression list and the history. Whatever is wrong with
//! them, they open, invent nothing, and cost no mail. And the few cases of a start that deserve a name of their own.

use std::io::ErrorKind::{Other, StorageFull};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::{Address, Message};
use oncemail::store::files::Files as _;
use oncemail::store::history::{self, History};
use oncemail::store::suppression::Suppressions;
use oncemail::store::{Acceptance, Store};
use tokio::runtime::Runtime;

use super::cuts::{asked, runtime};
use super::workload::{claim, open_disk, root};
use crate::common::history::{accept, finished, message, open, start};
use crate::common::memory_disk::{MemoryDisk, Trouble};
use crate::common::platter::{Chance, Cut, Op};

const CUTS: [Cut; 4] = [Cut::Killed, Cut::Lost, Cut::Torn(512), Cut::Hollow(4096)];

fn bed() -> MemoryDisk {
    let disk = MemoryDisk::new(&root());
    disk.set_can_allocate(false);
    disk
}

fn address(number: usize) -> Address {
    Address::parse(&format!("user{number}@example.net")).unwrap()
}

fn list(disk: &MemoryDisk) -> Arc<Suppressions> {
    let clock = Clock::manual(start());
    Suppressions::open(Arc::new(disk.clone()), &root(), Duration::from_secs(86_400), clock)
        .expect("a suppression list never stops a start")
}

/// Opens it twice and adds to it; what goes wrong in the file is its own matter.
fn use_list(disk: &MemoryDisk) {
    for round in 0..2 {
        let list = list(disk);
        (0..5).for_each(|number| list.add(&address(round * 5 + number), "550 no such user"));
        list.remove(&address(round * 3));
    }
}

fn check_list(disk: &MemoryDisk, what: &str) {
    let list = list(disk);
    let known: Vec<String> = (0..10).map(|number| address(number).canonical()).collect();
    for (address, _) in list.entries() {
        assert!(known.contains(&address), "{what}: nobody added {address}");
    }
    // It works, in memory at least.
    list.add(&address(3), "again");
    assert!(list.find(&address(3)).is_some());
}

fn past(disk: &MemoryDisk) -> Arc<History> {
    let options =
        history::Options { retention: Duration::from_secs(86_400), max_bytes: 2 << 20, min_free: 0 };
    History::open(Arc::new(disk.clone()), &root(), options, Clock::manual(start()))
        .expect("a history never stops a start")
}

fn use_past(disk: &MemoryDisk) {
    for _ in 0..2 {
        let past = past(disk);
        for _ in 0..5 {
            past.ended(&message(start(), None, 100), &finished(start()));
        }
        past.close();
    }
}

fn check_past(disk: &MemoryDisk, what: &str) {
    let past = past(disk);
    let ended = message(start(), None, 100);
    assert!(past.find(ended.id).unwrap().is_none(), "{what}");
    past.ended(&ended, &finished(start()));
    past.close();
}

/// Every operation fails in every way, and the crash after it leaves every kind of disk.
fn in_turn(work: fn(&MemoryDisk), check: fn(&MemoryDisk, &str)) {
    let clean = bed();
    work(&clean);
    let (changes, reads) = clean.asked();
    let mut troubles: Vec<Trouble> = (0..reads).map(Trouble::Unreadable).collect();
    for at in 0..changes {
        troubles.push(Trouble::Fails(at, Other));
        troubles.push(Trouble::BreaksOff(at, Other, at as u64));
        troubles.push(Trouble::BreaksOff(at, StorageFull, at as u64));
    }
    for trouble in troubles {
        let disk = bed();
        disk.set_trouble(trouble);
        work(&disk);
        for cut in CUTS {
            check(&MemoryDisk::from(disk.platter().after(cut, 7)), &format!("{trouble:?}, {cut:?}"));
        }
    }
    let (mut platter, log) = clean.recording();
    for (at, op) in log.iter().enumerate() {
        platter.apply(op);
        for cut in CUTS {
            check(&MemoryDisk::from(platter.after(cut, at as u64)), &format!("{cut:?} after operation {at}"));
        }
    }
}

/// The files are there, with any bytes of them changed, or are something else altogether.
fn damaged(work: fn(&MemoryDisk), check: fn(&MemoryDisk, &str), seeds: u64) {
    let clean = bed();
    work(&clean);
    let names: Vec<_> = clean.platter().names().map(|(path, content)| (path.clone(), content.len)).collect();
    assert!(!names.is_empty());
    for seed in 0..seeds {
        let disk = MemoryDisk::from(clean.platter());
        let mut chance = Chance(seed);
        for _ in 0..1 + chance.below(3) {
            let (path, len) = &names[chance.below(names.len())];
            let at = chance.next() % (len + 1);
            let bytes: Vec<u8> = (0..1 + chance.below(40)).map(|_| chance.next() as u8).collect();
            disk.damage(path, at, &bytes);
        }
        check(&disk, &format!("seed {seed}"));
        check(&disk, &format!("seed {seed}, again"));
    }
}

#[test]
fn d4_a_suppression_list_opens_whatever_fails_and_whatever_a_crash_leaves() {
    in_turn(use_list, check_list);
    damaged(use_list, check_list, asked("ONCEMAIL_SEEDS", 200));
}

#[test]
fn d4_a_history_opens_whatever_fails_and_whatever_a_crash_leaves() {
    in_turn(use_past, check_past);
    damaged(use_past, check_past, asked("ONCEMAIL_SEEDS", 200));
}

fn contents(disk: &MemoryDisk) -> Vec<(PathBuf, Vec<u8>)> {
    disk.platter().names().map(|(path, content)| (path.clone(), content.bytes.clone())).collect()
}

#[test]
fn d4_a_history_that_cannot_be_listed_is_not_written_over() {
    let clean = bed();
    use_past(&clean);
    let disk = MemoryDisk::from(clean.platter());
    disk.set_trouble(Trouble::Unreadable(0));
    let history = past(&disk);
    assert!(disk.struck().unwrap().starts_with("list"), "{:?}", disk.struck());
    history.ended(&message(start(), None, 100), &finished(start()));
    history.close();
    drop(history);
    assert_eq!(contents(&disk), contents(&clean));
}

#[test]
fn d4_a_suppression_list_that_cannot_be_read_is_kept_beside_the_new_one() {
    let clean = bed();
    use_list(&clean);
    let disk = MemoryDisk::from(clean.platter());
    disk.set_trouble(Trouble::Unreadable(2));
    let clock = Clock::manual(start());
    let ttl = Duration::from_secs(86_400);
    let list = Suppressions::open(Arc::new(disk.clone()), &root(), ttl, clock.clone()).unwrap();
    assert!(disk.struck().unwrap().starts_with("read"), "{:?}", disk.struck());
    clock.advance(Duration::from_secs(61));
    list.add(&address(1), "550");
    drop(list);
    let old = disk.len(&root().join("suppressed.damaged"));
    assert_eq!(old, clean.len(&root().join("suppressed")));
}

#[test]
fn d1_a_key_is_not_replayed_from_what_only_the_cache_has() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let disk = bed();
    let (store, _) = open_disk(&disk, &clock).unwrap();
    let number = disk.asked().0;
    // The sync of its commit fails, and nothing of it has arrived.
    disk.set_trouble(Trouble::BreaksOff(number + 1, Other, 4));
    runtime.block_on(accept(&store, &message(clock.now(), Some("k"), 300))).unwrap_err();
    assert!(disk.struck().unwrap().starts_with("sync_data"));
    drop(store);
    // The machine keeps running, and the retry comes.
    let (store, _) = open_disk(&disk, &clock).unwrap();
    let retry = message(clock.now(), Some("k"), 300);
    let answer = runtime.block_on(store.accept(retry.clone(), Some(claim(&retry)))).unwrap();
    assert_eq!(answer, Acceptance::Queued, "what is not on the disk is nobody's key");
    drop(store);
    let disk = MemoryDisk::from(disk.platter().after(Cut::Lost, 1));
    let (_, recovery) = open_disk(&disk, &clock).unwrap();
    assert_eq!(recovery.messages.len(), 1);
}

#[test]
fn d6_a_start_on_a_full_disk_finds_everything_and_ends_messages() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let disk = MemoryDisk::new(&root());
    let (store, _) = open_disk(&disk, &clock).unwrap();
    let one = message(clock.now(), Some("k"), 300);
    runtime.block_on(accept(&store, &one)).unwrap();
    drop(store);
    // Others have taken what the last segment, cut off where its records end, gives back.
    disk.set_capacity(disk.platter().used() - 8192);
    let (store, recovery) = open_disk(&disk, &clock).expect("what was kept back is enough for a start");
    assert_eq!(recovery.messages.len(), 1);
    runtime.block_on(store.save(one.id, finished(clock.now()))).unwrap();
}

#[test]
fn d1_the_names_above_the_data_directory_are_durable_before_mail_is_taken() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let dir = Path::new("/var/lib/mail/once");
    let disk = MemoryDisk::new(Path::new("/var"));
    // Somebody made it in an earlier run that was killed.
    disk.create_dir(dir).unwrap();
    let (store, _) = open(dir, Arc::new(disk.clone()), &clock).unwrap();
    runtime.block_on(accept(&store, &message(clock.now(), Some("k"), 300))).unwrap();
    drop(store);
    let disk = MemoryDisk::from(disk.platter().after(Cut::Lost, 1));
    let (_, recovery) = open(dir, Arc::new(disk), &clock).unwrap();
    assert_eq!(recovery.messages.len(), 1);
}

#[test]
fn d4_a_checkpoint_that_cannot_be_read_does_not_stop_a_start() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let clean = bed();
    let (store, _) = open_disk(&clean, &clock).unwrap();
    runtime.block_on(accept(&store, &message(clock.now(), Some("k"), 300))).unwrap();
    runtime.block_on(store.settle()).unwrap();
    drop(store);
    let mut times = 0;
    for at in 0..12 {
        let disk = MemoryDisk::from(clean.platter());
        disk.set_trouble(Trouble::Unreadable(at));
        let opened = open_disk(&disk, &clock);
        if disk.struck().is_some_and(|what| what.ends_with("checkpoint")) {
            let (_, recovery) = opened.expect("the journal has all of it");
            assert!(recovery.index_rebuilt && recovery.messages.len() == 1);
            times += 1;
        }
    }
    assert!(times >= 2, "opened and read");
}

/// A store that has taken `count` messages and whose first record is damaged in its middle; the messages.
fn with_damage(runtime: &Runtime, disk: &MemoryDisk, clock: &Clock, count: usize) -> Vec<Arc<Message>> {
    let (store, _) = open_disk(disk, clock).unwrap();
    let messages: Vec<_> = (0..count).map(|_| message(clock.now(), None, 300)).collect();
    for message in &messages {
        runtime.block_on(accept(&store, message)).unwrap();
    }
    drop(store);
    disk.damage(&root().join("journal/00000001.seg"), 100, b"damaged");
    messages
}

#[test]
fn d4_what_was_set_aside_is_there_when_the_start_that_did_it_was_killed() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let disk = bed();
    let messages = with_damage(&runtime, &disk, &clock, 3);
    let damaged = MemoryDisk::from(disk.platter());
    drop(open_disk(&damaged, &clock).unwrap());
    let (mut platter, log) = damaged.recording();
    // Killed between the copy's name and the sync of it.
    let named =
        log.iter().position(|op| matches!(op, Op::Rename(_, to) if to.starts_with(root().join("damaged"))));
    log[..=named.unwrap()].iter().for_each(|op| platter.apply(op));
    let disk = MemoryDisk::from(platter.after(Cut::Killed, 0));
    let (store, recovery) = open_disk(&disk, &clock).unwrap();
    let [aside] = &recovery.set_aside[..] else { panic!("{recovery}") };
    let whole = disk.len(aside).unwrap();
    assert!(whole > 300);
    // The segment goes, and the power after it.
    for message in &messages[1..] {
        runtime.block_on(store.save(message.id, finished(clock.now()))).unwrap();
    }
    runtime.block_on(store.settle()).unwrap();
    assert_eq!(disk.len(&root().join("journal/00000001.seg")), None);
    drop(store);
    let after = MemoryDisk::from(disk.platter().after(Cut::Lost, 1));
    assert_eq!(after.len(aside), Some(whole), "D4: these bytes are nowhere else any more");
}

#[test]
fn d4_d6_damage_is_set_aside_on_a_full_disk_too() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let disk = MemoryDisk::new(&root());
    let messages = with_damage(&runtime, &disk, &clock, 2);
    disk.set_free(0);
    let (store, recovery) = open_disk(&disk, &clock).expect("what was kept back is enough for a start");
    let [aside] = &recovery.set_aside[..] else { panic!("{recovery}") };
    assert!(disk.len(aside).unwrap() > 300);
    assert_eq!(recovery.messages.len(), 1);
    runtime.block_on(store.save(messages[1].id, finished(clock.now()))).unwrap();
}

#[test]
fn d4_what_cannot_be_set_aside_takes_no_room() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let disk = bed();
    with_damage(&runtime, &disk, &clock, 2);
    let platter = disk.platter();
    for free in [1, 100, 250] {
        // Nothing was kept back.
        let disk = MemoryDisk::from(platter.clone());
        disk.set_free(free);
        match open_disk(&disk, &clock) {
            // Not even a new segment can be begun.
            Err(_) => assert_eq!(free, 1),
            Ok((_, recovery)) => {
                assert_eq!((recovery.messages.len(), recovery.left_in_place.len()), (1, 1), "{recovery}");
                assert!(free > 1 && recovery.set_aside.is_empty() && !recovery.is_sound());
                assert!(recovery.to_string().contains("no room to set it aside yet: "), "{recovery}");
            }
        }
        assert_eq!(disk.list(&root().join("damaged")).unwrap(), Vec::<String>::new());
        disk.set_capacity(u64::MAX);
        let (_, recovery) = open_disk(&disk, &clock).unwrap();
        assert_eq!((recovery.messages.len(), recovery.set_aside.len()), (1, 1));
        assert!(recovery.left_in_place.is_empty());
    }
}

/// Damage of more bytes than are kept back, on a disk that has no others.
#[test]
fn d4_d6_damage_that_is_larger_than_all_room_does_not_stop_a_start() {
    const LARGE: usize = 6 << 20;
    let runtime = runtime();
    let clock = Clock::manual(start());
    let disk = MemoryDisk::new(&root());
    let (store, _) = open_disk(&disk, &clock).unwrap();
    let hit = message(clock.now(), None, LARGE);
    runtime.block_on(accept(&store, &hit)).unwrap();
    let other = message(clock.now(), Some("other"), 300);
    runtime.block_on(store.accept(other.clone(), Some(claim(&other)))).unwrap();
    drop(store);
    let segment = root().join("journal/00000001.seg");
    disk.damage(&segment, 100, b"damaged");
    disk.set_free(0);
    // As often as it is tried.
    for _ in 0..3 {
        let (store, recovery) = open_disk(&disk, &clock).expect("its bytes are in their segment");
        let [left] = &recovery.left_in_place[..] else { panic!("{recovery}") };
        assert!(left.segment == 1 && left.len > LARGE as u64, "{left}");
        assert_eq!((recovery.messages.len(), recovery.set_aside.len()), (1, 0), "{recovery}");
        assert_eq!(disk.list(&root().join("damaged")).unwrap(), Vec::<String>::new());
        runtime.block_on(store.settle()).unwrap();
        runtime.block_on(store.close()).unwrap();
    }
    // What is queued ends, and nothing else needs the segment.
    let (store, recovery) = open_disk(&disk, &clock).unwrap();
    let left = recovery.left_in_place[0];
    runtime.block_on(store.save(other.id, finished(clock.now()))).unwrap();
    clock.advance(Duration::from_secs(40 * 86_400));
    runtime.block_on(store.settle()).unwrap();
    assert!(disk.len(&segment).is_some(), "D4: these bytes are nowhere else");
    // Room comes back while it runs: they are set aside, and then the segment goes.
    disk.set_capacity(u64::MAX);
    runtime.block_on(store.settle()).unwrap();
    let aside = root().join(format!("damaged/00000001-{:010}-{}.bin", left.offset, left.len));
    assert_eq!(disk.len(&aside), Some(left.len));
    runtime.block_on(store.settle()).unwrap();
    assert_eq!(disk.len(&segment), None);
    drop(store);
    let after = MemoryDisk::from(disk.platter().after(Cut::Lost, 1));
    assert_eq!(after.len(&aside), Some(left.len));
    let (_, recovery) = open_disk(&after, &clock).unwrap();
    assert!(recovery.is_sound() && recovery.messages.is_empty(), "{recovery}");
}

fn put(disk: &MemoryDisk, name: &str) {
    let file = disk.create(&root().join(name)).unwrap();
    file.write_at(0, &[IoSlice::new(b"what a stranger has put here")]).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn d4_a_strangers_file_among_the_segments_and_runs_is_left_alone() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let names = [
        "journal/4294967295.seg",
        "journal/4294967294.seg",
        "journal/2147483648.seg",
        "journal/00000000.seg",
        "journal/+0000007.seg",
        "journal/1.seg",
        "journal/copy of 00000001.seg",
        "index/4294967295.run",
        "index/1.run",
        "index/+1.run",
    ];
    for name in names {
        let disk = bed();
        let (store, _) = open_disk(&disk, &clock).unwrap();
        let first = message(clock.now(), Some("first"), 300);
        runtime.block_on(accept(&store, &first)).unwrap();
        drop(store);
        put(&disk, name);
        let mut waiting = 1;
        for round in 0..2 {
            let (store, recovery) =
                open_disk(&disk, &clock).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(recovery.messages.len(), waiting, "{name}");
            assert!(
                recovery.set_aside.is_empty() && recovery.missing_segments.is_empty(),
                "{name}: {recovery}"
            );
            // Over the end of a segment, and with runs of the index.
            for number in 0..3 {
                let key = format!("{round} {number}");
                runtime.block_on(accept(&store, &message(clock.now(), Some(&key), 3000))).unwrap();
                waiting += 1;
            }
            runtime.block_on(store.settle()).unwrap();
        }
        assert_eq!(disk.len(&root().join(name)), Some(28), "{name}");
    }
}

#[test]
fn d4_a_segment_far_beyond_the_others_costs_neither_memory_nor_mail() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let disk = bed();
    let (store, _) = open_disk(&disk, &clock).unwrap();
    runtime.block_on(accept(&store, &message(clock.now(), None, 300))).unwrap();
    drop(store);
    put(&disk, "journal/05000000.seg");
    let (store, recovery) = open_disk(&disk, &clock).unwrap();
    assert!(recovery.missing_segments.len() <= 100, "{}", recovery.missing_segments.len());
    assert_eq!(recovery.messages.len(), 1);
    runtime.block_on(accept(&store, &message(clock.now(), None, 3000))).unwrap();
    runtime.block_on(accept(&store, &message(clock.now(), None, 3000))).unwrap();
    drop(store);
    assert_eq!(open_disk(&disk, &clock).unwrap().1.messages.len(), 3);
}

#[test]
fn i1_a_run_of_the_index_goes_only_after_the_checkpoint_that_does_without_it() {
    let runtime = runtime();
    let clock = Clock::manual(start());
    let disk = bed();
    let (store, _) = open_disk(&disk, &clock).unwrap();
    for key in ["one", "two", "three"] {
        runtime.block_on(accept(&store, &message(clock.now(), Some(key), 300))).unwrap();
        runtime.block_on(store.settle()).unwrap();
        // What has expired is swept into another run with the next upkeep, and goes with the one behind it.
        clock.advance(Duration::from_secs(2 * 86_400));
    }
    runtime.block_on(store.settle()).unwrap();
    drop(store);
    let (mut platter, log) = disk.recording();
    let is_run = |op: &Op| matches!(op, Op::Remove(path) if path.starts_with(root().join("index")));
    assert!(log.iter().filter(|op| is_run(op)).count() >= 2, "runs have gone");
    for (at, op) in log.iter().enumerate() {
        platter.apply(op);
        for cut in [Cut::Killed, Cut::Kept, Cut::Lost] {
            let disk = MemoryDisk::from(platter.after(cut, 1));
            let has_checkpoint = disk.len(&root().join("checkpoint")).is_some();
            let (_, recovery) = open_disk(&disk, &clock).unwrap();
            assert!(!(has_checkpoint && recovery.index_rebuilt), "{cut:?} after operation {at}, {op:?}");
        }
    }
}
