//! What the embedded store promises while nothing fails, and after damage.

use std::collections::HashSet;
use std::io::IoSlice;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::{Message, QueueId};
use oncemail::store::embedded::Options;
use oncemail::store::files::{Files, RealFiles};
use oncemail::store::{Acceptance, Arrivals, EmbeddedStore, OpenError, Recovery, Status, Store, StoreError};

use crate::common::faulty_files::FaultyFiles;
use crate::common::history::{
    NoArrivals, TTL, accept, deferred, finished, held, key, message, open, options, start,
};

struct Bed {
    dir: tempfile::TempDir,
    clock: Clock,
}

impl Bed {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Clock::manual(start()) }
    }

    fn open(&self) -> (EmbeddedStore, Recovery) {
        open(self.dir.path(), Arc::new(RealFiles), &self.clock).unwrap()
    }

    async fn queue(&self, store: &EmbeddedStore, key: Option<&str>) -> Arc<Message> {
        let message = message(self.clock.now(), key, 700);
        assert_eq!(accept(store, &message).await, Ok(Acceptance::Queued));
        message
    }

    async fn finish(&self, store: &EmbeddedStore, id: QueueId) {
        store.save(id, finished(self.clock.now())).await.unwrap();
    }

    /// Flips one bit of the content of `message`, which is in the first segment.
    fn damage(&self, message: &Message) {
        let path = self.dir.path().join("journal/00000001.seg");
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(26 * 8).position(|w| w == &message.content[..26 * 8]).unwrap();
        let file = RealFiles.open(&path).unwrap();
        file.write_at(at as u64, &[IoSlice::new(&[bytes[at] ^ 1])]).unwrap();
    }

    fn journal_bytes(&self) -> u64 {
        let entries = std::fs::read_dir(self.dir.path().join("journal")).unwrap();
        entries.map(|e| e.unwrap().metadata().unwrap().len()).sum()
    }
}

#[tokio::test]
async fn d1_i1_what_was_acknowledged_outlives_a_crash_and_the_loss_of_the_index() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let first = bed.queue(&store, Some("k1")).await;
    let gone = bed.queue(&store, Some("k2")).await;
    let kept = bed.queue(&store, None).await;
    store.save(first.id, deferred(bed.clock.now(), 3)).await.unwrap();
    store.save(kept.id, held(bed.clock.now())).await.unwrap();
    bed.finish(&store, gone.id).await;
    drop(store);
    for lose_index in [false, true, false] {
        if lose_index {
            std::fs::remove_dir_all(bed.dir.path().join("index")).unwrap();
        }
        let (store, recovery) = bed.open();
        assert_eq!(recovery.messages.len(), 2);
        let due: Vec<_> = recovery.messages.iter().map(|m| m.next_attempt).collect();
        assert!(due.contains(&None) && due.contains(&Some(deferred(bed.clock.now(), 3).next_attempt)));
        let loaded = store.load(first.id).await.unwrap().unwrap();
        assert_eq!(loaded, (first.clone(), deferred(bed.clock.now(), 3)));
        for (text, id) in [("k1", first.id), ("k2", gone.id)] {
            assert_eq!(store.find_key(&key(text)).await.unwrap().unwrap().id, id);
        }
        store.settle().await.unwrap();
    }
}

#[tokio::test]
async fn a_clean_end_leaves_nothing_to_replay() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let first = bed.queue(&store, Some("k")).await;
    store.close().await.unwrap();
    assert_eq!(store.status(), Status::Closed);
    assert_eq!(accept(&store, &message(bed.clock.now(), None, 9)).await, Err(StoreError::Closed));
    drop(store);
    let (store, recovery) = bed.open();
    assert_eq!((recovery.replayed_records, recovery.index_rebuilt, recovery.messages.len()), (0, false, 1));
    assert_eq!(store.find_key(&key("k")).await.unwrap().unwrap().id, first.id);
}

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
    assert_eq!(bed.open().1.torn_bytes, 0, "cut once");
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
async fn d5_a_data_directory_belongs_to_one_process() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let options = Options { lock_wait: Duration::from_millis(100), ..options(bed.dir.path()) };
    let second = EmbeddedStore::open(options, Arc::new(RealFiles), bed.clock.clone(), Arc::new(NoArrivals));
    let Err(OpenError::Locked { path, pid }) = second.map(|_| ()) else { panic!("opened twice") };
    assert_eq!((path, pid), (bed.dir.path().join("lock"), std::process::id().to_string()));
    drop(store);
    bed.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i2_of_many_at_once_with_one_key_one_is_queued() {
    let bed = Bed::new();
    let store = Arc::new(bed.open().0);
    for round in 0..20 {
        let text = format!("key {round}");
        let tries: Vec<_> = (0..16)
            .map(|_| {
                let (store, message) = (store.clone(), message(bed.clock.now(), Some(&text), 50));
                tokio::spawn(async move { (message.id, accept(&*store, &message).await.unwrap()) })
            })
            .collect();
        let (mut queued, mut existing) = (Vec::new(), HashSet::new());
        for one in tries {
            match one.await.unwrap() {
                (id, Acceptance::Queued) => queued.push(id),
                (_, Acceptance::Existing(record)) => _ = existing.insert(record.id),
            }
            if round % 4 == 0 {
                // Keys move into the index while others ask for them.
                store.settle().await.unwrap();
            }
        }
        assert_eq!(queued.len(), 1);
        assert_eq!(existing, HashSet::from([queued[0]]));
    }
}

#[tokio::test]
async fn i3_a_key_outlives_its_expiry_while_its_message_is_queued() {
    let bed = Bed::new();
    let (mut store, _) = bed.open();
    let queued = bed.queue(&store, Some("queued")).await;
    let done = bed.queue(&store, Some("done")).await;
    bed.finish(&store, done.id).await;
    for _ in 0..3 {
        bed.clock.advance(TTL);
        store.settle().await.unwrap();
        assert_eq!(store.find_key(&key("queued")).await.unwrap().unwrap().id, queued.id);
        assert_eq!(store.find_key(&key("done")).await.unwrap(), None);
        drop(store);
        store = bed.open().0;
    }
    let again = bed.queue(&store, Some("done")).await;
    bed.finish(&store, queued.id).await;
    assert_eq!(store.find_key(&key("queued")).await.unwrap(), None, "expired, and nothing holds it");
    assert_eq!(store.find_key(&key("done")).await.unwrap().unwrap().id, again.id);
    store.settle().await.unwrap();
    assert_eq!(store.find_key(&key("done")).await.unwrap().unwrap().id, again.id);
}

#[tokio::test]
async fn a_clock_that_is_set_back_loses_nothing() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let first = bed.queue(&store, Some("k")).await;
    bed.clock.set(oncemail::clock::Timestamp::from_millis(1000));
    let second = bed.queue(&store, Some("other")).await;
    store.settle().await.unwrap();
    drop(store);
    let (store, recovery) = bed.open();
    assert_eq!(recovery.messages.len(), 2);
    assert_eq!(store.find_key(&key("k")).await.unwrap().unwrap().id, first.id);
    assert_eq!(store.find_key(&key("other")).await.unwrap().unwrap().id, second.id);
}

#[tokio::test]
async fn i4_low_disk_refuses_new_mail_takes_outcomes_and_ends_by_itself() {
    let bed = Bed::new();
    let files = FaultyFiles::sound();
    let options = Options { min_free: 1000, ..options(bed.dir.path()) };
    let (store, _) =
        EmbeddedStore::open(options, files.clone(), bed.clock.clone(), Arc::new(NoArrivals)).unwrap();
    let early = bed.queue(&store, Some("early")).await;
    files.set_free(999);
    bed.clock.advance(Duration::from_secs(2));
    let refused = message(bed.clock.now(), Some("late"), 100);
    assert_eq!(accept(&store, &refused).await, Err(StoreError::LowDisk { free_bytes: 999 }));
    assert_eq!(store.status(), Status::LowDisk { free_bytes: 999 });
    store.save(early.id, deferred(bed.clock.now(), 1)).await.unwrap();
    bed.finish(&store, early.id).await;
    files.set_free(1000);
    assert_eq!(store.status(), Status::Ready);
    assert_eq!(accept(&store, &refused).await, Ok(Acceptance::Queued), "its key is free");
}

#[tokio::test]
async fn i4_a_full_disk_is_undone_and_does_not_latch() {
    let bed = Bed::new();
    let files = FaultyFiles::sound();
    let (store, _) = open(bed.dir.path(), files.clone(), &bed.clock).unwrap();
    let early = bed.queue(&store, Some("early")).await;
    files.set_full(true);
    let refused = message(bed.clock.now(), Some("late"), 100);
    assert!(matches!(accept(&store, &refused).await, Err(StoreError::LowDisk { .. })));
    let outcome = store.save(early.id, deferred(bed.clock.now(), 1)).await;
    assert!(matches!(outcome, Err(StoreError::LowDisk { .. })), "nothing at all can be written");
    assert!(!bed.dir.path().join("reserve").exists(), "what was kept back has been given up");
    files.set_full(false);
    assert_eq!(store.status(), Status::Ready);
    store.save(early.id, deferred(bed.clock.now(), 2)).await.unwrap();
    assert_eq!(accept(&store, &refused).await, Ok(Acceptance::Queued));
    store.settle().await.unwrap();
    assert!(bed.dir.path().join("reserve").exists(), "and is kept back again");
    drop(store);
    let (store, recovery) = bed.open();
    assert_eq!((recovery.messages.len(), recovery.set_aside.len(), recovery.torn_bytes), (2, 0, 0));
    assert_eq!(store.load(early.id).await.unwrap().unwrap().1, deferred(bed.clock.now(), 2));
}

#[tokio::test]
async fn disk_use_stays_within_twice_what_lives_and_two_segments() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let segment = options(bed.dir.path()).segment_bytes;
    let mut living = 0;
    let mut keys = 0;
    for n in 0..400 {
        let text = format!("key {n}");
        let message = bed.queue(&store, (n % 4 == 0).then_some(text.as_str())).await;
        keys += u64::from(n % 4 == 0);
        if n % 50 == 7 {
            store.save(message.id, deferred(bed.clock.now(), 1)).await.unwrap();
            living += 1;
        } else {
            bed.finish(&store, message.id).await;
        }
        if n % 20 == 0 {
            store.settle().await.unwrap();
            // A message with its progress is over 1,000 bytes here, what is left of a key 131.
            assert!(bed.journal_bytes() <= 2 * (living * 1200 + keys * 131) + 2 * segment);
        }
    }
    store.settle().await.unwrap();
    assert!(bed.journal_bytes() <= 2 * (living * 1200 + keys * 131) + 2 * segment);
    for n in (0..400).step_by(4) {
        assert!(store.find_key(&key(&format!("key {n}"))).await.unwrap().is_some());
    }
    bed.clock.advance(TTL * 2);
    store.settle().await.unwrap();
    assert!(bed.journal_bytes() <= 2 * living * 1200 + 2 * segment, "expired keys take no room");
    drop(store);
    std::fs::remove_dir_all(bed.dir.path().join("index")).unwrap();
    let (store, recovery) = bed.open();
    assert_eq!(recovery.messages.len() as u64, living, "no message comes back from the dead");
    for message in &recovery.messages {
        let (_, progress) = store.load(message.id).await.unwrap().unwrap();
        assert_eq!(progress, deferred(start(), 1));
    }
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

#[derive(Default)]
struct Heard(Mutex<Vec<QueueId>>);

impl Arrivals for Heard {
    fn arrived(&self, messages: Vec<Arc<Message>>) {
        self.0.lock().unwrap().extend(messages.iter().map(|m| m.id));
    }
}

#[tokio::test]
async fn what_is_queued_is_told_once_and_replays_are_not() {
    let bed = Bed::new();
    let heard = Arc::new(Heard::default());
    let options = options(bed.dir.path());
    let (store, _) =
        EmbeddedStore::open(options, Arc::new(RealFiles), bed.clock.clone(), heard.clone()).unwrap();
    let first = bed.queue(&store, Some("k")).await;
    let retry = message(bed.clock.now(), Some("k"), 10);
    assert!(matches!(accept(&store, &retry).await, Ok(Acceptance::Existing(_))));
    // A future that is dropped after it was handed over takes nothing back.
    let dropped = message(bed.clock.now(), None, 10);
    {
        let mut call = store.accept(dropped.clone(), None);
        let _ = futures_poll_once(&mut call).await;
    }
    let last = bed.queue(&store, None).await;
    assert_eq!(*heard.0.lock().unwrap(), [first.id, dropped.id, last.id]);
}

/// Polls a future once.
async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_ready())
    })
    .await
}
