//! What one start tells of must be there at the next, also when the processes before have died at their start.

use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::{
    Body, Envelope, Handling, KeyKind, Message, Origin, Progress, QueueId, RecipientState, ReversePath,
    Scope, ScopedKey,
};
use oncemail::store::files::Files;
use oncemail::store::{Arrivals, EmbeddedStore, OpenError, Recovery, Store, embedded};

use super::disk::Disk;
use super::store::{beginning, now};
use super::world::World;

struct Nobody;

impl Arrivals for Nobody {
    fn arrived(&self, _: Vec<Arc<Message>>) {}
}

fn open(disk: &Disk) -> Result<(EmbeddedStore, Recovery), OpenError> {
    let options = embedded::Options {
        segment_bytes: 24 << 10,
        upkeep_every: Duration::from_secs(86_400),
        ..embedded::Options::new("/simulated")
    };
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    EmbeddedStore::open(options, files, Clock::manual(beginning()), Arc::new(Nobody))
}

fn message() -> Arc<Message> {
    let key = ScopedKey { scope: Scope::anonymous(), kind: KeyKind::Header, key: "k".to_owned() };
    Arc::new(Message {
        id: QueueId::new(beginning()),
        accepted_at: beginning(),
        envelope: Envelope {
            reverse_path: ReversePath::Null,
            recipients: Vec::new(),
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
        },
        origin: Origin { listener: "main".to_owned(), user: None, client: None },
        key: Some(key),
        message_id: String::new(),
        content: vec![b'x'; 3_000].into(),
    })
}

/// The process dies between writing and syncing a message, the next one at any step of its start. The third tells what it
/// has found, and so may its clients have been told. Then the power goes.
#[tokio::test]
async fn d1_what_a_start_has_found_is_durable_from_then_on() {
    let mut found = 0;
    for dies_after in 0..40 {
        let disk = Disk::new(World::new(1));
        let (store, _) = open(&disk).unwrap();
        // The write is done, and its sync is not.
        disk.die_after(1);
        now(store.accept(message(), None)).unwrap_err();
        drop(store);
        disk.start(false);
        disk.die_after(dies_after);
        drop(open(&disk));
        disk.start(false);
        let (store, third) = open(&disk).unwrap();
        drop(store);
        disk.start_with_what_was_synced();
        let (_store, fourth) = open(&disk).unwrap();
        assert_eq!(third.messages, fourth.messages, "the second start died after {dies_after} steps");
        assert!(fourth.set_aside.is_empty(), "the second start died after {dies_after} steps: {fourth}");
        found += fourth.messages.len();
    }
    assert!(found > 30, "the write is to be there without a power cut: {found}");
}

/// Nobody makes room on a full disk but the relay itself, by relaying what it has; for that it has to start.
#[tokio::test]
async fn a_start_on_a_full_disk_uses_the_room_that_was_kept_back() {
    let disk = Disk::new(World::new(1));
    let (store, _) = open(&disk).unwrap();
    let message = message();
    now(store.accept(message.clone(), None)).unwrap();
    drop(store);
    disk.start(false);
    disk.fill_up_to(1_000);
    let (store, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.messages.len(), 1);
    let mut progress = Progress::fresh(1, beginning());
    progress.recipients[0].state = RecipientState::Delivered;
    now(store.save(message.id, progress)).unwrap();
    assert_eq!(now(store.load(message.id)), Ok(None));
}
