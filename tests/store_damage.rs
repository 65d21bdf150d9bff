//! What the embedded store does about bytes that are not as they were written, and about its own threads.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oncemail::mail::Message;
use oncemail::store::files::{Files, RealFiles};
use oncemail::store::{Acceptance, Arrivals, EmbeddedStore, KeyClaim, Status, Store, StoreError};

use crate::common::faulty_files::FaultyFiles;
use crate::common::history::{accept, claim, key, message, open, options};
use crate::common::store_bed::Bed;

#[tokio::test]
async fn d4_a_damaged_record_is_set_aside_and_the_rest_is_served() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let before = bed.queue(&store, None).await;
    let hit = bed.queue(&store, Some("hit")).await;
    let after = bed.queue(&store, Some("after")).await;
    drop(store);
    bed.damage(&hit);
    let (store, recovery) = bed.open();
    let [aside] = &recovery.set_aside[..] else { panic!("{recovery}") };
    let bytes = std::fs::read(aside).unwrap();
    assert!(bytes.windows(26).any(|w| w == hit.id.to_string().as_bytes()), "the bytes are all there");
    assert!(recovery.to_string().contains(&aside.display().to_string()));
    assert_eq!(store.load(before.id).await.unwrap().unwrap().0, before);
    assert_eq!(store.load(after.id).await.unwrap().unwrap().0, after);
    assert_eq!(store.load(hit.id).await.unwrap(), None);
    assert_eq!(store.find_key(&key("after")).await.unwrap().unwrap().id, after.id);
}

#[tokio::test]
async fn d4_damage_that_is_met_later_is_named_and_reclaim_sets_it_aside() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let hit = bed.queue(&store, None).await;
    let other = bed.queue(&store, None).await;
    bed.damage(&hit);
    assert!(
        matches!(store.load(hit.id).await, Err(StoreError::Read(what)) if what.contains(&hit.id.to_string()))
    );
    for _ in 0..40 {
        let message = bed.queue(&store, None).await;
        bed.finish(&store, message.id).await;
    }
    store.settle().await.unwrap();
    assert_eq!(store.load(other.id).await.unwrap().unwrap().0, other);
    assert_eq!(store.load(hit.id).await.unwrap(), None);
    assert_eq!(std::fs::read_dir(bed.dir.path().join("damaged")).unwrap().count(), 1);
    assert!(!bed.dir.path().join("journal/00000001.seg").exists());
}

#[tokio::test]
async fn d4_a_torn_tail_is_cut_off() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let first = bed.queue(&store, None).await;
    let second = bed.queue(&store, None).await;
    drop(store);
    let path = bed.dir.path().join("journal/00000001.seg");
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap() as u64;
    RealFiles.open(&path).unwrap().truncate(end - 100).unwrap();
    let (store, recovery) = bed.open();
    assert!(recovery.torn_bytes > 0 && recovery.set_aside.is_empty());
    assert_eq!(store.load(first.id).await.unwrap().unwrap().0, first);
    assert_eq!(store.load(second.id).await.unwrap(), None);
    drop(store);
    let again = bed.open().1;
    assert!(again.torn_bytes == 0 && again.set_aside.is_empty(), "cut once: {again}");
}

#[tokio::test]
async fn d4_a_journal_without_any_whole_header_is_kept_for_a_human() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let lost = bed.queue(&store, None).await;
    drop(store);
    let path = bed.dir.path().join("journal/00000001.seg");
    RealFiles.open(&path).unwrap().write_at(0, &[IoSlice::new(&[0; 28])]).unwrap();
    let (_store, recovery) = bed.open();
    let bytes = std::fs::read(&recovery.set_aside[0]).unwrap();
    assert!(bytes.windows(26).any(|w| w == lost.id.to_string().as_bytes()));
}

#[tokio::test]
async fn i1_an_index_that_does_not_open_is_set_aside_and_made_again() {
    for damage in [overwrite_index as fn(&Path), cut_index_short, lose_index] {
        let bed = Bed::new();
        let (store, _) = bed.open();
        let mut ids = Vec::new();
        for n in 0..30 {
            let message = bed.queue(&store, Some(&format!("key {n}"))).await;
            bed.finish(&store, message.id).await;
            ids.push(message.id);
        }
        store.settle().await.unwrap();
        drop(store);
        damage(bed.dir.path());
        let (store, recovery) = bed.open();
        assert!(recovery.index_rebuilt);
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(store.find_key(&key(&format!("key {n}"))).await.unwrap().unwrap().id, *id);
        }
    }
}

/// The files of the index, biggest last.
fn runs(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir.join("index")).unwrap().map(|entry| entry.unwrap().path());
    let mut runs: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "run")).collect();
    runs.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    assert!(!runs.is_empty());
    runs
}

/// The end of a run: what a start reads.
fn overwrite_index(dir: &Path) {
    for run in runs(dir) {
        let run = RealFiles.open(&run).unwrap();
        run.write_at(run.size().unwrap() - 60, &[IoSlice::new(b"nonsense")]).unwrap();
    }
}

fn cut_index_short(dir: &Path) {
    let run = RealFiles.open(runs(dir).last().unwrap()).unwrap();
    run.truncate(run.size().unwrap() - 1).unwrap();
}

fn lose_index(dir: &Path) {
    std::fs::remove_dir_all(dir.join("index")).unwrap();
}

#[tokio::test]
async fn d4_i1_a_key_that_cannot_be_read_back_is_never_guessed_and_comes_back_with_a_restart() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let first = bed.queue(&store, Some("k")).await;
    bed.finish(&store, first.id).await;
    store.settle().await.unwrap();
    for run in runs(bed.dir.path()) {
        RealFiles.open(&run).unwrap().write_at(5, &[IoSlice::new(b"nonsense")]).unwrap();
    }
    let retry = message(bed.clock.now(), Some("k"), 10);
    assert!(matches!(accept(&store, &retry).await, Err(StoreError::Latched(what)) if what.contains("index")));
    drop(store);
    let (store, recovery) = bed.open();
    assert!(recovery.index_rebuilt);
    assert!(
        matches!(accept(&store, &retry).await, Ok(Acceptance::Existing(record)) if record.id == first.id)
    );
}

#[tokio::test]
async fn d4_a_lost_header_costs_no_record_when_a_checkpoint_knows_the_journal() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let first = bed.queue(&store, Some("k")).await;
    store.settle().await.unwrap();
    drop(store);
    let path = bed.dir.path().join("journal/00000001.seg");
    RealFiles.open(&path).unwrap().write_at(0, &[IoSlice::new(&[0; 28])]).unwrap();
    let (store, recovery) = bed.open();
    assert_eq!(recovery.set_aside.len(), 1, "{recovery}");
    assert_eq!(store.load(first.id).await.unwrap().unwrap().0, first);
    assert_eq!(store.find_key(&key("k")).await.unwrap().unwrap().id, first.id);
}

/// Makes a checkpoint that names one run, loses the index, and lets operation `n` of making it again fail.
async fn fail_while_the_index_is_made_again(n: usize) -> bool {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let mut ids = Vec::new();
    for (text, hours) in [("long", 240), ("short", 1)] {
        let message = message(bed.clock.now(), Some(text), 10);
        let expires_at = bed.clock.now().plus(Duration::from_secs(hours * 3600));
        let claim = KeyClaim { expires_at, ..claim(bed.clock.now()) };
        assert_eq!(store.accept(message.clone(), Some(claim)).await, Ok(Acceptance::Queued));
        bed.finish(&store, message.id).await;
        store.settle().await.unwrap();
        ids.push(message.id);
    }
    bed.clock.advance(Duration::from_secs(9 * 3600));
    store.settle().await.unwrap();
    store.settle().await.unwrap();
    assert_eq!(runs(bed.dir.path()).len(), 1, "the short one has been swept, and its run removed");
    drop(store);
    lose_index(bed.dir.path());
    let files = FaultyFiles::new(n, std::io::ErrorKind::Other);
    if let Ok((store, _)) = open(bed.dir.path(), files.clone(), &bed.clock) {
        let _ = store.settle().await;
    }
    let (store, _) = bed.open();
    assert_eq!(store.find_key(&key("long")).await.unwrap().map(|record| record.id), Some(ids[0]), "{n}");
    files.has_failed()
}

#[tokio::test]
async fn i1_a_crash_while_the_index_is_made_again_loses_no_key() {
    let mut n = 0;
    while fail_while_the_index_is_made_again(n).await {
        n += 1;
    }
    assert!(n > 20, "only {n} operations");
}

struct Panics;

impl Arrivals for Panics {
    fn arrived(&self, _messages: Vec<Arc<Message>>) {
        panic!("told to");
    }
}

#[tokio::test]
async fn d3_a_thread_that_panics_latches_and_nobody_hangs() {
    let bed = Bed::new();
    let options = options(bed.dir.path());
    let (store, _) =
        EmbeddedStore::open(options, Arc::new(RealFiles), bed.clock.clone(), Arc::new(Panics)).unwrap();
    let first = message(bed.clock.now(), Some("k"), 10);
    assert!(matches!(accept(&store, &first).await, Err(StoreError::Latched(_))));
    let next = message(bed.clock.now(), None, 10);
    assert!(matches!(accept(&store, &next).await, Err(StoreError::Latched(_))));
    assert!(matches!(store.close().await, Err(StoreError::Latched(_))));
    assert!(matches!(store.status(), Status::Latched { .. }));
    drop(store);
    let (store, _) = bed.open();
    let retry = accept(&store, &message(bed.clock.now(), Some("k"), 10)).await;
    assert!(matches!(retry, Ok(Acceptance::Existing(record)) if record.id == first.id), "I4: no duplicate");
}
