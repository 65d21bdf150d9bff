//! A data directory with an embedded store on the real file system, and a clock that a test sets.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use oncemail::clock::Clock;
use oncemail::mail::{Message, QueueId};
use oncemail::store::files::{Files, RealFiles};
use oncemail::store::{Acceptance, EmbeddedStore, Recovery, Store};

use super::history::{accept, finished, message, open, start};

/// See the module.
pub struct Bed {
    pub dir: tempfile::TempDir,
    pub clock: Clock,
}

impl Bed {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Clock::manual(start()) }
    }

    pub fn open(&self) -> (EmbeddedStore, Recovery) {
        open(self.dir.path(), Arc::new(RealFiles), &self.clock).unwrap()
    }

    pub async fn queue(&self, store: &EmbeddedStore, key: Option<&str>) -> Arc<Message> {
        let message = message(self.clock.now(), key, 700);
        assert_eq!(accept(store, &message).await, Ok(Acceptance::Queued));
        message
    }

    pub async fn finish(&self, store: &EmbeddedStore, id: QueueId) {
        store.save(id, finished(self.clock.now())).await.unwrap();
    }

    /// Flips one bit of the content of `message`, which is in the first segment.
    pub fn damage(&self, message: &Message) {
        let path = self.dir.path().join("journal/00000001.seg");
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(26 * 8).position(|w| w == &message.content[..26 * 8]).unwrap();
        let file = RealFiles.open(&path).unwrap();
        file.write_at(at as u64, &[IoSlice::new(&[bytes[at] ^ 1])]).unwrap();
    }

    /// The first segment.
    pub fn segment(&self) -> PathBuf {
        self.dir.path().join("journal/00000001.seg")
    }

    /// How many bytes of the first segment are written; what follows is room that was set aside.
    pub fn written(&self) -> usize {
        let bytes = std::fs::read(self.segment()).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
    }

    pub fn journal_bytes(&self) -> u64 {
        let entries = std::fs::read_dir(self.dir.path().join("journal")).unwrap();
        entries.map(|e| e.unwrap().metadata().unwrap().len()).sum()
    }
}
