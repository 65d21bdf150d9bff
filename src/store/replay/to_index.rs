//! The keys that a replay meets go into the index in parts, so that they need not all be in memory (S2).
//!
//! Without room for the index as many stay in memory as an earlier run may have had there. Where they are more, a start
//! fails and says what to do: without its keys a relay would send twice.

use std::io;
use std::path::PathBuf;

use super::Replay;
use crate::store::embedded::OpenError;
use crate::store::files::is_full;
use crate::store::index::Index;
use crate::store::keys::Bucket;

/// Keys moved into the index at a time.
pub(super) const REPLAY_KEYS: usize = 64 * 1024;
/// So many parts stay in memory at most when the index finds no room for them: more than an earlier run may have had there.
const MOST_PARTS: usize = 8;

impl Replay<'_> {
    /// Moves the keys that are in memory.
    pub(super) fn flush(&mut self, index: &Index) -> Result<(), OpenError> {
        let keys = self.state.overlay.begin_move();
        let records = keys.iter().map(|(hash, record)| (Bucket::of(record.expires_at), hash, record));
        let dir = self.dir.join("index");
        let inserted = index.insert(records);
        drop(keys);
        match inserted {
            Ok(()) => self.state.overlay.finish_move(),
            // They stay in memory, as they did in the run that found the disk full.
            Err(error) if is_full(&error) => {
                self.state.overlay.cancel_move();
                self.flush_at = self.state.overlay.waiting() + self.part;
                let is_borne = self.flush_at <= MOST_PARTS * self.part;
                return if is_borne { Ok(()) } else { Err(self.no_room(index, dir)) };
            }
            Err(error) => return Err(OpenError::at(&dir)(error)),
        }
        self.flush_at = self.part;
        if self.recovery.index_rebuilt {
            self.merge(index).map_err(OpenError::at(&dir))?;
        }
        Ok(())
    }

    /// A complete replay of millions of keys must not leave hundreds of small runs.
    fn merge(&self, index: &Index) -> io::Result<()> {
        let ledger = &self.state.ledger;
        let forgotten = |id| ledger.forgotten.contains_key(&id);
        let merged = loop {
            match index.merge(Bucket(0), forgotten) {
                Ok(true) => {}
                // It can wait for room.
                Err(error) if is_full(&error) => break Ok(()),
                other => break other.map(|_| ()),
            }
        };
        // No checkpoint names a run of this start: what has been merged need not take room until there is one.
        merged.and_then(|()| index.remove_obsolete())
    }

    /// Gives back what the index has taken in vain.
    fn no_room(&self, index: &Index, path: PathBuf) -> OpenError {
        match self.recovery.index_rebuilt.then(|| index.clear()) {
            Some(Err(error)) => OpenError::File { path, error },
            _ => OpenError::NoRoomForIndex { path, keys: self.recovery.keys },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::{Fingerprint, FingerprintMode, QueueId};
    use crate::store::KeyRecord;
    use crate::store::files::{Files, RealFiles, StoreFile};
    use crate::store::keys::KeyHash;

    const PART: usize = 1_000;

    /// A disk with room for so many more files.
    struct Room(AtomicUsize);

    impl Files for Room {
        fn create_dir(&self, path: &Path) -> io::Result<()> {
            RealFiles.create_dir(path)
        }
        fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
            let less = |left: usize| left.checked_sub(1);
            let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
            left.map_err(|_| io::ErrorKind::StorageFull)?;
            RealFiles.create(path)
        }
        fn open(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
            RealFiles.open(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            RealFiles.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            RealFiles.remove(path)
        }
        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            RealFiles.sync_dir(path)
        }
        fn list(&self, path: &Path) -> io::Result<Vec<String>> {
            RealFiles.list(path)
        }
        fn free_space(&self, path: &Path) -> io::Result<u64> {
            RealFiles.free_space(path)
        }
        fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
            RealFiles.lock(path)
        }
    }

    fn hash(n: u64) -> KeyHash {
        let mut hash = KeyHash::default();
        blake3::Hasher::new().update(&n.to_be_bytes()).finalize_xof().fill(&mut hash);
        hash
    }

    fn remember(replay: &mut Replay<'_>, keys: std::ops::Range<u64>) {
        let fingerprint =
            Fingerprint { version: 1, mode: FingerprintMode::Exact, envelope: [1; 32], content: [2; 32] };
        for n in keys {
            let id = QueueId::from_bytes(u128::from(n).to_be_bytes());
            let (accepted_at, expires_at) = (Timestamp::from_millis(5), Timestamp::from_millis(9));
            let record = KeyRecord { id, fingerprint, accepted_at, expires_at };
            replay.remember(Some((hash(n), record)));
        }
    }

    /// Flushes as a replay does; the number of keys after which it cannot go on.
    fn replayed(replay: &mut Replay<'_>, index: &Index, keys: u64) -> Result<(), (u64, OpenError)> {
        (replay.part, replay.flush_at) = (PART, PART);
        for key in 0..keys {
            remember(replay, key..key + 1);
            if replay.state.overlay.waiting() >= replay.flush_at {
                replay.flush(index).map_err(|error| (key + 1, error))?;
            }
        }
        Ok(())
    }

    fn bed(room: usize) -> (tempfile::TempDir, Arc<Room>, Index) {
        let dir = tempfile::tempdir().unwrap();
        let files = Arc::new(Room(room.into()));
        let index = Index::open(files.clone(), &dir.path().join("index"), &[], 0).unwrap();
        (dir, files, index)
    }

    #[test]
    fn i1_s2_without_room_for_the_index_some_keys_stay_in_memory_and_too_many_stop_the_start() {
        let (dir, files, index) = bed(1);
        let mut replay = Replay::new(&*files, dir.path(), Vec::new());
        replay.recovery.index_rebuilt = true;
        let (keys, error) = replayed(&mut replay, &index, 100_000).unwrap_err();
        // One part is in the index; the others are as many as may be in memory.
        assert_eq!(keys, 9_000);
        let said = error.to_string();
        assert!(
            said.contains("no room for the index (9000 keys") && said.contains("Nothing is lost"),
            "{said}"
        );
        let left = RealFiles.list(&dir.path().join("index")).unwrap();
        assert_eq!(left, Vec::<String>::new(), "what it has made in vain takes no room");
    }

    #[test]
    fn i1_keys_for_which_there_was_no_room_are_moved_when_there_is() {
        let (dir, files, index) = bed(0);
        let mut replay = Replay::new(&*files, dir.path(), Vec::new());
        let keys = 2_100;
        replayed(&mut replay, &index, keys).unwrap();
        assert_eq!(replay.state.overlay.waiting() as u64, keys);
        files.0.store(100, Ordering::SeqCst);
        remember(&mut replay, keys..3_000);
        replay.flush(&index).unwrap();
        assert_eq!((replay.state.overlay.waiting(), replay.flush_at), (0, PART));
        for n in 0..3_000 {
            assert_eq!(index.read(&hash(n)).unwrap().len(), 1, "{n}");
        }
    }

    #[test]
    fn i1_merging_waits_for_room_and_what_has_been_merged_takes_none() {
        for (room, files_left) in [(1_000, 3), (8, 8), (usize::MAX, 3)] {
            let (dir, files, index) = bed(room);
            let mut replay = Replay::new(&*files, dir.path(), Vec::new());
            replay.recovery.index_rebuilt = true;
            for part in 0..10 {
                remember(&mut replay, part * 100..part * 100 + 100);
                replay.flush(&index).unwrap();
            }
            assert_eq!(RealFiles.list(&dir.path().join("index")).unwrap().len(), files_left, "{room}");
            let in_memory = replay.state.overlay.waiting();
            assert_eq!(in_memory, if room == 8 { 200 } else { 0 });
            for n in 0..1_000 - in_memory as u64 {
                assert_eq!(index.read(&hash(n)).unwrap().len(), 1, "{n}");
            }
        }
    }
}
