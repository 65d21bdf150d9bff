//! Every write and every sync may fail, and the power may go at every one of them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use oncemail::clock::Clock;
use oncemail::store::files::RealFiles;
use oncemail::store::{Status, Store, StoreError};

use crate::common::faulty_files::FaultyFiles;
use crate::common::history::{History, accept, message, open, start};
use crate::common::recording_files::{RecordingFiles, Unsynced};

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
            let after = files.operations();
            let latched = matches!(store.status(), Status::Latched { .. });
            assert!(latched, "D3: {} failed and the store goes on", files.failed_operation());
            let refused = accept(&store, &message(clock.now(), Some("after"), 10)).await;
            assert!(matches!(refused, Err(StoreError::Latched(_))));
            assert!(store.close().await.is_err());
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

async fn cut(unsynced: Unsynced, with_index: bool, step: usize) {
    let dir = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let clock = Clock::manual(start());
    let files = RecordingFiles::new(dir.path(), copies.path());
    let (store, _) = open(dir.path(), files.clone(), &clock).unwrap();
    let opened = files.operations();
    let history = History::run(&store, clock.now(), || files.operations()).await;
    drop(store);
    assert!(files.operations() > opened + 50);
    assert!(!dir.path().join("journal/00000001.seg").exists(), "the run reclaims segments");
    for at in (0..=files.operations()).step_by(step) {
        let after = tempfile::tempdir().unwrap();
        files.rebuild(at, unsynced, with_index, at as u64 * 7919 + 1, after.path());
        check_after(&history, at, after.path(), &clock).await;
    }
}

async fn check_after(history: &History, at: usize, dir: &Path, clock: &Clock) {
    let (store, recovery) = open(dir, Arc::new(RealFiles), clock).unwrap();
    history.check(at, &store, &recovery).await;
    assert_eq!(store.status(), Status::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d2_d6_a_power_cut_that_loses_what_was_not_synced() {
    cut(Unsynced::Lost, false, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d2_d6_a_power_cut_that_keeps_what_was_not_synced() {
    cut(Unsynced::Kept, true, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d2_d4_a_power_cut_that_tears_at_512_bytes() {
    cut(Unsynced::Torn(512), true, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d2_d4_a_power_cut_that_tears_at_4096_bytes() {
    cut(Unsynced::Torn(4096), false, 1).await;
}
