//! Every write and every sync may fail, and the power may go at every one of them.

mod beside;
mod copies;
mod cuts;
mod errors;
mod oracle;
mod workload;

use std::collections::HashSet;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use oncemail::clock::Clock;
use oncemail::mail::QueueId;
use oncemail::store::files::RealFiles;
use oncemail::store::{Acceptance, Status, Store, StoreError};

use crate::common::faulty_files::FaultyFiles;
use crate::common::history::{History, accept, finished, message, open, start};
use crate::common::memory_disk::MemoryDisk;
use crate::common::platter::{Cut, Platter};

/// Runs with the n-th operation failing; false when the run has no n-th.
async fn fail_at(n: usize, kind: io::ErrorKind) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(start());
    let files = FaultyFiles::new(n, kind);
    let counted = files.clone();
    let mut history = History::default();
    match open(dir.path(), files.clone(), &clock) {
        Err(_) => assert!(files.has_failed(), "opening fails only when told to"),
        Ok((store, _)) => {
            history = History::run(&store, clock.now(), || counted.operations()).await;
            if !files.has_failed() {
                return false;
            }
            if kind == io::ErrorKind::StorageFull {
                // Undone or latched: what matters is what is left.
                drop(store);
                let (store, recovery) = open(dir.path(), Arc::new(RealFiles), &clock).unwrap();
                history.check(usize::MAX, &store, &recovery).await;
                return true;
            }
            // It may have been the index thread's operation, which nobody waited for: its end is waited for here.
            assert!(
                matches!(store.close().await, Err(StoreError::Latched(_))),
                "D3: {}",
                files.failed_operation()
            );
            let after = files.operations();
            assert!(matches!(store.status(), Status::Latched { .. }));
            let refused = accept(&store, &message(clock.now(), Some("after"), 10)).await;
            assert!(matches!(refused, Err(StoreError::Latched(_))));
            drop(store);
            assert_eq!(files.operations(), after, "D3: nothing is written any more");
        }
    }
    let (store, recovery) = open(dir.path(), Arc::new(RealFiles), &clock).unwrap();
    history.check(usize::MAX, &store, &recovery).await;
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d3_i4_each_write_and_sync_in_turn_may_fail() {
    let mut n = 0;
    while fail_at(n, io::ErrorKind::Other).await {
        n += 1;
    }
    assert!(n > 100, "only {n} operations");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_each_operation_in_turn_may_find_the_disk_full() {
    let mut n = 0;
    while fail_at(n, io::ErrorKind::StorageFull).await {
        n += 1;
    }
    assert!(n > 100, "only {n} operations");
}

async fn cut(cut: Cut, with_index: bool) {
    let (root, clock) = (Path::new("/store"), Clock::manual(start()));
    let disk = MemoryDisk::new(root);
    let (store, _) = open(root, Arc::new(disk.clone()), &clock).unwrap();
    let opened = disk.operations();
    let history = History::run(&store, clock.now(), || disk.operations()).await;
    drop(store);
    assert!(disk.operations() > opened + 50);
    assert_eq!(disk.len(&root.join("journal/00000001.seg")), None, "the run reclaims segments");
    let (mut platter, log) = disk.recording();
    for at in 0..=log.len() {
        log[at.saturating_sub(1)..at].iter().for_each(|op| platter.apply(op));
        let chances = if matches!(cut, Cut::Torn(_)) { 2 } else { 1 };
        for chance in 0..chances {
            let mut after = platter.after(cut, at as u64 * 7919 + chance * 104_729 + 1);
            if !with_index {
                after.lose(&root.join("index"));
            }
            check_after(&history, at, after, root, &clock, with_index).await;
        }
    }
}

async fn check_after(
    history: &History,
    at: usize,
    after: Platter,
    root: &Path,
    clock: &Clock,
    with_index: bool,
) {
    let disk = MemoryDisk::from(after);
    let has_checkpoint = disk.len(&root.join("checkpoint")).is_some();
    // Twice: what the first start leaves must do for the second.
    let (_, recovery) = open(root, Arc::new(disk.clone()), clock).unwrap();
    assert!(!(with_index && has_checkpoint && recovery.index_rebuilt), "a checkpoint names synced runs only");
    let (store, recovery) = open(root, Arc::new(disk), clock).unwrap();
    history.check(at, &store, &recovery).await;
    assert_eq!(store.status(), Status::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d2_d6_a_power_cut_that_loses_what_was_not_synced() {
    cut(Cut::Lost, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d2_d6_a_power_cut_that_keeps_what_was_not_synced() {
    cut(Cut::Kept, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d2_d6_i1_a_power_cut_that_takes_the_index_along() {
    cut(Cut::Lost, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d2_d4_a_power_cut_that_tears_at_512_bytes() {
    cut(Cut::Torn(512), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d2_d4_a_power_cut_that_tears_at_4096_bytes() {
    cut(Cut::Torn(4096), true).await;
}

/// Set in the child process of the test below: where its store is.
const CHILD_DIR: &str = "ONCEMAIL_TEST_STORE";

/// Not a promise by itself: what the child process of the next test does. It accepts until it is killed, and says which
/// key got which queue id, each time after the store has said so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_accepts_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let clock = Clock::system();
    let (store, _) = open(Path::new(&dir), Arc::new(RealFiles), &clock).unwrap();
    let store = Arc::new(store);
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (store, clock) = (store.clone(), clock.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    let key = format!("{} {writer} {n}", std::process::id());
                    let message = message(clock.now(), Some(&key), 300 * (n % 4));
                    accept(&*store, &message).await.unwrap();
                    let open = n % 5 != 0;
                    if !open {
                        store.save(message.id, finished(clock.now())).await.unwrap();
                    }
                    let line = format!("{} {} {key}\n", message.id, u8::from(open));
                    io::stdout().write_all(line.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Starts the child, reads what it says until it has said `lines`, and kills it.
fn run_and_kill(dir: &Path, lines: usize) -> Vec<(QueueId, bool, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_that_accepts_until_it_is_killed", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.splitn(3, ' ');
        // The first line is the test runner's, the last one may be cut short.
        let Some(Ok(id)) = words.next().map(str::parse) else { continue };
        let (Some(open), Some(key)) = (words.next(), words.next()) else { continue };
        said.push((id, open == "1", key.to_owned()));
        if said.len() == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_i1_i2_kill_9_twenty_times_loses_nothing_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let mut all = Vec::new();
    for round in 0..20 {
        all.extend(run_and_kill(dir.path(), 20 + round * 17));
        let (store, recovery) = open(dir.path(), Arc::new(RealFiles), &clock).unwrap();
        assert!(recovery.set_aside.is_empty(), "{recovery}");
        let living: HashSet<_> = recovery.messages.iter().map(|m| m.id).collect();
        // The last line may have been cut short, so its key and id are looked at as a pair.
        for (id, open, key) in all.iter().rev().take(600) {
            assert_eq!(living.contains(id), *open, "{id}");
            let retry = message(clock.now(), Some(key), 10);
            match accept(&store, &retry).await.unwrap() {
                Acceptance::Existing(record) => assert_eq!(record.id, *id),
                Acceptance::Queued => panic!("{key} was forgotten"),
            }
        }
        if round % 3 == 0 {
            store.settle().await.unwrap();
        }
    }
}
