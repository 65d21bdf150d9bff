//! An outcome and the notices that it causes are one, over crashes, damage and a full disk (D2).

use std::io::IoSlice;
use std::path::Path;
use std::sync::{Arc, Mutex};

use oncemail::mail::{HoldCause, Message, Progress, QueueId, RecipientState};
use oncemail::store::files::{Files, RealFiles};
use oncemail::store::{Arrivals, EmbeddedStore, Store, StoreError};

use crate::common::faulty_files::FaultyFiles;
use crate::common::history::{deferred, finished, held, notice, open, options};
use crate::common::store_bed::Bed;

/// A journal of one segment: `before` and `original` are queued, `original` ends (or is deferred) with two notices, and
/// `after` is queued behind that.
struct Told {
    bed: Bed,
    before: Arc<Message>,
    original: Arc<Message>,
    /// How `original` stands behind the outcome; `None` when it has ended.
    outcome: Option<Progress>,
    notices: [Arc<Message>; 2],
    after: Arc<Message>,
    segment: Vec<u8>,
    /// Where the records of the outcome and its notices stand.
    unit: std::ops::Range<usize>,
}

impl Told {
    async fn new(ends: bool) -> Self {
        let bed = Bed::new();
        let now = bed.clock.now();
        let (store, _) = bed.open();
        let queue = async |size| {
            let message = crate::common::history::message(now, None, size);
            store.accept(message.clone(), None).await.unwrap();
            message
        };
        let (before, original) = (queue(30).await, queue(30).await);
        let start = bed.written();
        let notices = [notice(now, 30), notice(now, 60)];
        let progress = if ends { finished(now) } else { deferred(now, 1) };
        store.save_with(original.id, progress.clone(), notices.to_vec()).await.unwrap();
        let unit = start..bed.written();
        let after = queue(30).await;
        drop(store);
        let segment = std::fs::read(bed.segment()).unwrap();
        let outcome = Some(progress).filter(|_| !ends);
        Self { bed, before, original, outcome, notices, after, segment, unit }
    }

    /// Checks what is there: the outcome and its notices, or neither.
    async fn check(&self, store: &EmbeddedStore, is_whole: bool, with_after: bool) {
        let now = self.bed.clock.now();
        let fresh = Some(Progress::fresh(2, now));
        let expect = async |id, progress: &Option<Progress>| {
            let found = store.load(id).await.unwrap().map(|(_, progress)| progress);
            assert_eq!(&found, progress, "{id}");
        };
        expect(self.before.id, &fresh).await;
        expect(self.original.id, if is_whole { &self.outcome } else { &fresh }).await;
        for notice in &self.notices {
            expect(notice.id, if is_whole { &fresh } else { &None }).await;
        }
        expect(self.after.id, if with_after { &fresh } else { &None }).await;
    }

    /// A directory with a segment of these bytes and nothing else.
    fn place(&self, bytes: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        RealFiles.create_dir(&dir.path().join("journal")).unwrap();
        let file = RealFiles.create(&dir.path().join("journal/00000001.seg")).unwrap();
        file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
        dir
    }
}

#[tokio::test]
async fn d2_a_tail_torn_at_any_byte_leaves_an_outcome_with_its_notices_or_neither() {
    for ends in [true, false] {
        let told = Told::new(ends).await;
        // Three neighbours of each place are enough: the frame, the ends and the inside of each record are met.
        for cut in (told.unit.start..=told.unit.end).step_by(3).chain([told.unit.end - 1, told.unit.end]) {
            let dir = told.place(&told.segment[..cut]);
            let (store, recovery) = open(dir.path(), Arc::new(RealFiles), &told.bed.clock).unwrap();
            let is_whole = cut == told.unit.end;
            told.check(&store, is_whole, false).await;
            assert!(recovery.set_aside.is_empty(), "{cut}: {recovery}");
            let torn = if is_whole { 0 } else { cut - told.unit.start };
            assert!(recovery.torn_bytes <= torn as u64, "{cut}: {recovery}");
            drop(store);
            // The tail is gone: what is written now is never taken for a part of that outcome.
            let (_store, recovery) = open(dir.path(), Arc::new(RealFiles), &told.bed.clock).unwrap();
            assert_eq!((recovery.torn_bytes, recovery.set_aside.len()), (0, 0), "{cut}: {recovery}");
        }
    }
}

#[tokio::test]
async fn d2_d4_one_damaged_byte_anywhere_takes_the_outcome_and_its_notices_back_together() {
    for ends in [true, false] {
        let told = Told::new(ends).await;
        for at in told.unit.clone().step_by(7) {
            let mut bytes = told.segment.clone();
            bytes[at] ^= 4;
            let dir = told.place(&bytes);
            for _ in 0..2 {
                let (store, recovery) = open(dir.path(), Arc::new(RealFiles), &told.bed.clock).unwrap();
                told.check(&store, false, true).await;
                let aside: u64 = recovery.set_aside.iter().map(|p| std::fs::metadata(p).unwrap().len()).sum();
                assert_eq!(aside, told.unit.len() as u64, "{at}: all of it is kept and named: {recovery}");
            }
        }
    }
}

#[tokio::test]
async fn d2_notices_and_outcome_outlive_the_segment_that_they_were_written_to() {
    let told = Told::new(false).await;
    let (store, _) = told.bed.open();
    for _ in 0..40 {
        let message = told.bed.queue(&store, None).await;
        told.bed.finish(&store, message.id).await;
    }
    store.settle().await.unwrap();
    assert!(!told.bed.segment().exists(), "it has been reclaimed");
    told.check(&store, true, true).await;
    drop(store);
    for name in ["checkpoint", "index"] {
        lose(&told.bed.dir.path().join(name));
    }
    let (store, recovery) = told.bed.open();
    assert!(recovery.index_rebuilt && recovery.set_aside.is_empty(), "{recovery}");
    told.check(&store, true, true).await;
}

fn lose(path: &Path) {
    if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { RealFiles.remove(path).unwrap() }
}

#[derive(Default)]
struct Heard(Mutex<Vec<QueueId>>);

impl Arrivals for Heard {
    fn arrived(&self, messages: Vec<Arc<Message>>) {
        self.0.lock().unwrap().extend(messages.iter().map(|m| m.id));
    }
}

#[tokio::test]
async fn d2_a_notice_reaches_the_queue_with_its_outcome_and_not_without_its_message() {
    let bed = Bed::new();
    let (now, heard) = (bed.clock.now(), Arc::new(Heard::default()));
    let (store, _) =
        EmbeddedStore::open(options(bed.dir.path()), Arc::new(RealFiles), bed.clock.clone(), heard.clone())
            .unwrap();
    let original = bed.queue(&store, None).await;
    let [first, second, late] = [10, 20, 30].map(|size| notice(now, size));
    store.save_with(original.id, deferred(now, 1), vec![first.clone()]).await.unwrap();
    store.save_with(original.id, finished(now), vec![second.clone()]).await.unwrap();
    // The message is gone by now.
    store.save_with(original.id, finished(now), vec![late.clone()]).await.unwrap();
    assert_eq!(*heard.0.lock().unwrap(), [original.id, first.id, second.id]);
    assert_eq!(store.load(second.id).await, Ok(Some((second.clone(), Progress::fresh(2, now)))));
    assert_eq!(store.load(late.id).await, Ok(None));
    drop(store);
    let (_store, recovery) = bed.open();
    let mut ids: Vec<_> = recovery.messages.iter().map(|message| message.id).collect();
    let mut expected = [first.id, second.id];
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d2_a_full_disk_refuses_an_outcome_with_its_notices_and_takes_those_without() {
    let bed = Bed::new();
    let now = bed.clock.now();
    let files = FaultyFiles::sound();
    let store = Arc::new(open(bed.dir.path(), files.clone(), &bed.clock).unwrap().0);
    let mut messages = Vec::new();
    for _ in 0..16 {
        messages.push(bed.queue(&store, None).await);
    }
    // Room for the ends of all, and for no notice.
    files.set_room(600);
    let saves: Vec<_> = messages
        .iter()
        .enumerate()
        .map(|(n, message)| {
            let (store, id) = (store.clone(), message.id);
            let notices = if n % 2 == 0 { vec![notice(now, 700)] } else { vec![] };
            let told = notices.clone();
            let save = tokio::spawn(async move { store.save_with(id, finished(now), notices).await });
            (id, told, save)
        })
        .collect();
    // All of them, before there is room for a moment.
    let mut ends = Vec::new();
    for (id, told, save) in saves {
        ends.push((id, told, save.await.unwrap()));
    }
    for (id, told, saved) in ends {
        match told.first() {
            None => assert_eq!((saved, store.load(id).await), (Ok(()), Ok(None))),
            Some(notice) => {
                assert!(matches!(saved, Err(StoreError::LowDisk { .. })), "{saved:?}");
                assert!(store.load(id).await.unwrap().is_some(), "it stands as before");
                assert_eq!(store.load(notice.id).await, Ok(None));
                files.set_room(usize::MAX);
                store.save_with(id, finished(now), told.clone()).await.unwrap();
                assert!(store.load(notice.id).await.unwrap().is_some());
                files.set_room(600);
            }
        }
    }
}

#[tokio::test]
async fn r1_a_hold_before_the_final_dot_is_not_scheduled_by_a_start_and_a_later_outcome_is() {
    let bed = Bed::new();
    let now = bed.clock.now();
    let mut in_doubt = held(now);
    in_doubt.recipients[1].state = RecipientState::Held(HoldCause::InDoubt);
    let (store, _) = bed.open();
    let message = bed.queue(&store, None).await;
    store.save(message.id, in_doubt.clone()).await.unwrap();
    drop(store);
    // From the journal, and then from a checkpoint.
    for _ in 0..2 {
        let (store, recovery) = bed.open();
        assert_eq!(recovery.messages.len(), 1);
        assert_eq!((recovery.messages[0].next_attempt, recovery.messages[0].held_back), (None, false));
        assert_eq!(store.load(message.id).await.unwrap().unwrap().1, in_doubt);
        store.close().await.unwrap();
    }
    let (store, _) = bed.open();
    let deferred = deferred(now, 9);
    store.save(message.id, deferred.clone()).await.unwrap();
    drop(store);
    for _ in 0..2 {
        let (store, recovery) = bed.open();
        assert_eq!(recovery.messages[0].next_attempt, Some(deferred.next_attempt));
        store.close().await.unwrap();
    }
}
