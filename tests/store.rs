//! What the embedded store promises while nothing fails.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncemail::mail::{Handling, Message, QueueId};
use oncemail::store::embedded::Options;
use oncemail::store::files::{Files, RealFiles};
use oncemail::store::{Acceptance, Arrivals, EmbeddedStore, OpenError, Recovered, Status, Store, StoreError};

use crate::common::eventually::eventually_so;
use crate::common::faulty_files::FaultyFiles;
use crate::common::history::{NoArrivals, TTL, accept, deferred, held, key, message, open, options, start};
use crate::common::store_bed::Bed;

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
async fn a_checkpoint_of_an_earlier_version_is_not_used_and_not_called_damaged() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let first = bed.queue(&store, Some("k")).await;
    store.close().await.unwrap();
    drop(store);
    // Version 2 had another layout behind its version; what counts is that nobody reads it as this one.
    let path = bed.dir.path().join("checkpoint");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 4);
    assert_eq!(bytes[8..12], 4_u32.to_be_bytes());
    bytes[11] = 2;
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    RealFiles.create(&path).unwrap().write_at(0, &[std::io::IoSlice::new(&bytes)]).unwrap();
    let (store, recovery) = bed.open();
    assert!(recovery.index_rebuilt && recovery.set_aside.is_empty(), "{recovery}");
    assert_eq!(recovery.messages.len(), 1);
    assert_eq!(store.find_key(&key("k")).await.unwrap().unwrap().id, first.id);
}

#[tokio::test]
async fn a_wait_that_the_sender_wants_and_a_priority_outlive_a_start_from_journal_or_checkpoint() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let mut wish = Message::clone(&message(bed.clock.now(), None, 10));
    let release_at = bed.clock.now().plus(Duration::from_secs(20 * 86_400));
    wish.envelope.handling = Handling { require_tls: true, priority: -3, release_at: Some(release_at) };
    store.accept(Arc::new(wish.clone()), None).await.unwrap();
    drop(store);
    let expected = |next_attempt, held_back| Recovered {
        id: wish.id,
        next_attempt: Some(next_attempt),
        priority: -3,
        held_back,
    };
    for _ in 0..2 {
        let (store, recovery) = bed.open();
        assert_eq!(recovery.messages, [expected(release_at, true)]);
        let (found, progress) = store.load(wish.id).await.unwrap().unwrap();
        assert_eq!((&*found, progress.next_attempt), (&wish, release_at));
        store.close().await.unwrap();
    }
    // An outcome names another time: a backoff like any other.
    let (store, _) = bed.open();
    store.save(wish.id, deferred(release_at, 7)).await.unwrap();
    drop(store);
    for _ in 0..2 {
        let (store, recovery) = bed.open();
        assert_eq!(recovery.messages, [expected(deferred(release_at, 7).next_attempt, false)]);
        store.close().await.unwrap();
    }
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
    assert!(matches!(store.settle().await, Err(StoreError::LowDisk { .. })), "the index has no room either");
    assert_eq!(
        store.find_key(&key("early")).await.unwrap().unwrap().id,
        early.id,
        "and its keys are not lost"
    );
    assert!(matches!(store.status(), Status::LowDisk { .. }), "they must not pile up in memory");
    files.set_full(false);
    store.settle().await.unwrap();
    assert_eq!(store.status(), Status::Ready);
    assert_eq!(store.find_key(&key("early")).await.unwrap().unwrap().id, early.id);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_a_message_can_be_read_while_it_is_copied_from_segment_to_segment() {
    let bed = Bed::new();
    let store = Arc::new(bed.open().0);
    let stays = bed.queue(&store, Some("stays")).await;
    store.save(stays.id, held(bed.clock.now())).await.unwrap();
    let (stop, progress) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), held(bed.clock.now()));
    let reader = {
        let (store, stop, stays) = (store.clone(), stop.clone(), stays.clone());
        tokio::spawn(async move {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                assert_eq!(store.load(stays.id).await, Ok(Some((stays.clone(), progress.clone()))));
            }
        })
    };
    for _ in 0..200 {
        let other = bed.queue(&store, None).await;
        bed.finish(&store, other.id).await;
        store.settle().await.unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    reader.await.unwrap();
    let oldest = std::fs::read_dir(bed.dir.path().join("journal")).unwrap();
    let oldest = oldest.map(|entry| entry.unwrap().file_name()).min().unwrap();
    assert!(oldest.as_os_str() > std::ffi::OsStr::new("00000010.seg"), "it has moved several times");
}

#[tokio::test]
async fn what_the_store_keeps_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let bed = Bed::new();
    let dir = bed.dir.path().join("new");
    let (store, _) = open(&dir, Arc::new(RealFiles), &bed.clock).unwrap();
    let message = bed.queue(&store, Some("k")).await;
    bed.finish(&store, message.id).await;
    store.settle().await.unwrap();
    let mut dirs = vec![dir];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700, "{dir:?}");
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            seen += 1;
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else {
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
            }
        }
    }
    assert!(seen >= 6, "journal, index, checkpoint, lock, reserve");
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

#[tokio::test]
async fn d3_a_panic_in_the_commit_thread_latches_and_a_restart_recovers() {
    struct Panics;
    impl Arrivals for Panics {
        fn arrived(&self, _messages: Vec<Arc<Message>>) {
            panic!("for the test");
        }
    }
    let bed = Bed::new();
    let files = Arc::new(RealFiles);
    let (store, _) =
        EmbeddedStore::open(options(bed.dir.path()), files, bed.clock.clone(), Arc::new(Panics)).unwrap();
    let first = message(bed.clock.now(), Some("k"), 700);
    assert!(
        accept(&store, &first).await.is_err(),
        "nobody hears of a message that the queue has not heard of"
    );
    eventually_so("the store is latched", || matches!(store.status(), Status::Latched { .. })).await;
    assert!(matches!(
        accept(&store, &message(bed.clock.now(), None, 700)).await,
        Err(StoreError::Latched(_))
    ));
    assert!(store.close().await.is_err());
    drop(store);
    // It was durable, so its retry is a replay, and it is sent.
    let (store, recovery) = bed.open();
    assert_eq!(recovery.messages.iter().map(|message| message.id).collect::<Vec<_>>(), [first.id]);
    let retry = message(bed.clock.now(), Some("k"), 700);
    assert!(
        matches!(accept(&store, &retry).await, Ok(Acceptance::Existing(record)) if record.id == first.id)
    );
}
