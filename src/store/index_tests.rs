//! The index keeps every key that it should, whatever becomes of the runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::KeyRecord;
use super::files::RealFiles;
use super::index::*;
use super::keys::{Bucket, KeyHash};
use crate::clock::Timestamp;
use crate::mail::{Fingerprint, FingerprintMode, QueueId};

const NOW: Bucket = Bucket(100);

fn hash(n: u64) -> KeyHash {
    let mut hash = KeyHash::default();
    blake3::Hasher::new().update(&n.to_be_bytes()).finalize_xof().fill(&mut hash);
    hash
}

fn record(n: u64, expires_at: u64) -> KeyRecord {
    let fingerprint =
        Fingerprint { version: 1, mode: FingerprintMode::Exact, envelope: [1; 32], content: [2; 32] };
    let id = QueueId::from_bytes(u128::from(n).to_be_bytes());
    let expires_at = Timestamp::from_millis(expires_at);
    KeyRecord { id, fingerprint, accepted_at: Timestamp::from_millis(5), expires_at }
}

fn index(dir: &Path) -> Index {
    Index::open(Arc::new(RealFiles), dir, &[], 0).unwrap()
}

fn insert(index: &Index, bucket: Bucket, keys: std::ops::Range<u64>) {
    let all: Vec<_> = keys.map(|n| (hash(n), record(n, 9))).collect();
    index.insert(all.iter().map(|(hash, record)| (bucket, hash, record))).unwrap();
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn i1_no_key_is_missed_while_runs_are_merged_and_swept() {
    let dir = tempfile::tempdir().unwrap();
    let index = index(dir.path());
    insert(&index, Bucket(3), 0..500);
    for part in 0..64 {
        insert(&index, NOW, 500 + part * 300..800 + part * 300);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while index.sweep(NOW, |_| true).unwrap() || index.merge(NOW, |_| false).unwrap() {
                index.remove_obsolete().unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        let mut n = 0;
        while !done.load(Ordering::SeqCst) || n < 19_700 {
            n += 1;
            let key = n % 19_700;
            assert!(index.may_contain(&hash(key)), "{key}");
            assert_eq!(index.read(&hash(key)).unwrap(), [record(key, 9)], "{key}");
        }
    });
    index.remove_obsolete().unwrap();
    assert!(files(dir.path()) < 16, "{} runs are left of 65", files(dir.path()));
    assert!((20_000..20_100).all(|n| index.read(&hash(n)).unwrap().is_empty()));
}

#[test]
fn i3_the_sweep_keeps_the_keys_of_living_messages_only() {
    let dir = tempfile::tempdir().unwrap();
    let index = index(dir.path());
    insert(&index, Bucket(3), 0..40_000);
    insert(&index, NOW, 40_000..40_010);
    let lives = |id: QueueId| u128::from_be_bytes(id.to_bytes()).is_multiple_of(10);
    while index.sweep(NOW, lives).unwrap() {}
    for n in 0..40_010 {
        let stays = n % 10 == 0 || n >= 40_000;
        assert_eq!(index.read(&hash(n)).unwrap().len(), usize::from(stays), "{n}");
    }
    // Another four hours on, and all of them are finished.
    while index.sweep(Bucket(NOW.0 + 2), |_| false).unwrap() {}
    index.remove_obsolete().unwrap();
    assert_eq!(files(dir.path()), 0, "expired keys take no room");
}

#[test]
fn i1_of_two_records_of_a_key_the_one_that_expires_later_outlives_a_merge() {
    for turn in 0..FAN_IN as u64 {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path());
        for n in 0..FAN_IN as u64 {
            let expires_at = if n == turn { 70 } else { 60 };
            index.insert([(NOW, &hash(1), &record(n, expires_at))].into_iter()).unwrap();
        }
        while index.merge(NOW, |_| false).unwrap() {}
        assert_eq!(index.read(&hash(1)).unwrap(), [record(turn, 70)]);
    }
}

#[test]
fn a_clock_that_is_set_back_stops_the_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let index = index(dir.path());
    insert(&index, NOW, 0..40_000);
    assert!(index.sweep(Bucket(NOW.0 + 1), |_| false).unwrap(), "begun, and far from its end");
    assert!(index.sweep(Bucket(NOW.0 + 1), |_| false).unwrap());
    while index.sweep(NOW, |_| false).unwrap() {}
    assert!((0..40_000).all(|n| index.may_contain(&hash(n))));
}

#[test]
fn a_run_that_a_checkpoint_may_name_stays_until_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let index = index(dir.path());
    (0..8).for_each(|n| insert(&index, NOW, n * 10..n * 10 + 10));
    let named = index.checkpoint().unwrap();
    while index.merge(NOW, |_| false).unwrap() {}
    insert(&index, NOW, 80..90);
    drop(index);
    let index = Index::open(Arc::new(RealFiles), dir.path(), &named, 8).unwrap();
    assert!((0..80).all(|n| index.read(&hash(n)).unwrap().len() == 1));
    assert!((80..90).all(|n| index.read(&hash(n)).unwrap().is_empty()), "they come with the replay");
    assert_eq!(files(dir.path()), 8, "what no checkpoint names has gone");
}

#[test]
fn a_sector_that_cannot_be_read_is_damage_and_a_missing_descriptor_is_not() {
    use rustix::io::Errno;
    assert!(is_damage(&Errno::IO.into()));
    assert!(!is_damage(&Errno::MFILE.into()) && !is_damage(&Errno::NOENT.into()));
}
