//! A disk that is full: new mail is refused for now, what is queued goes on, and everything is as before once there is room.
//! `benches/diskfull.sh` is the long form, with the real binary on a real small disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::Message;
use oncemail::queue::Queue;
use oncemail::relay::Relay;
use oncemail::store::embedded::Options;
use oncemail::store::files::Files as _;
use oncemail::store::{Acceptance, EmbeddedStore, Recovery, Store, StoreError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::common::client::Client;
use crate::common::far_side::{Act, FarSide, PATIENCE};
use crate::common::faulty_files::FaultyFiles;
use crate::common::history::{self, NoArrivals, accept, finished, held, key, message};
use crate::common::listener::{options, serve};
use crate::common::memory_disk::MemoryDisk;
use crate::common::relay_rig::{dns, queue_options, to_hosts};

/// Hands over one message with this text.
async fn submit(client: &mut Client, text: &str) -> String {
    client.begin().await;
    client.ask(&format!("Subject: x\r\n\r\n{text};\r\n.")).await
}

#[tokio::test]
async fn i4_d6_a_full_disk_refuses_relays_what_is_queued_and_recovers_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, shutdown, files) = (Clock::system(), CancellationToken::new(), FaultyFiles::sound());
    let gate = Arc::new(Semaphore::new(0));
    let far = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let queue = Queue::new(queue_options(), clock.clone());
    let (store, recovery) =
        EmbeddedStore::open(history::options(directory.path()), files.clone(), clock.clone(), queue.clone())
            .unwrap();
    let store = Arc::new(store);
    queue.start(store.clone(), recovery.messages);
    let relay = Relay::new(to_hosts(&[far.address]), dns(), queue.clone(), clock.clone()).unwrap();
    let relaying = tokio::spawn(relay.run(shutdown.clone(), Duration::from_secs(5)));
    let (address, _ended) = serve(options(), store, &clock, &shutdown, Duration::from_secs(5)).await;
    let (mut client, _) = Client::greeted(address).await;
    for n in 0..3 {
        assert!(submit(&mut client, &format!("early {n}")).await.starts_with("250 2.0.0"));
    }
    // Two connections have one each, and their outcomes will have to wait.
    far.wait(|log| log.taken.len() == 2).await;
    files.set_full(true);
    for _ in 0..3 {
        let reply = submit(&mut client, "refused").await;
        assert!(reply.starts_with("452 4.3.1"), "{reply}");
    }
    // The far side takes them; what became of them is noted when that can be.
    gate.add_permits(100);
    files.set_full(false);
    let empty = async {
        while queue.depth().queued > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, empty).await.expect("the outcomes are saved");
    // The same connection, without a restart.
    assert!(submit(&mut client, "late").await.starts_with("250 2.0.0"));
    far.wait(|log| log.taken.len() >= 4).await;
    let log = far.log();
    assert!(["early 0;", "early 1;", "early 2;", "late;"].iter().all(|text| log.copies(text) == 1));
    assert_eq!(log.copies("refused;"), 0);
    shutdown.cancel();
    relaying.await.unwrap();
}

/// Its segments are as long as the disk, a megabyte.
fn open_small(disk: &MemoryDisk, clock: &Clock) -> (EmbeddedStore, Recovery) {
    let root = Path::new("/var/oncemail");
    let options = Options {
        segment_bytes: 1 << 20,
        min_free: 100_000,
        upkeep_every: Duration::from_secs(86_400),
        ..Options::new(root)
    };
    EmbeddedStore::open(options, Arc::new(disk.clone()), clock.clone(), Arc::new(NoArrivals)).unwrap()
}

/// I1: each has the key that is named by its number.
async fn all_keys_stand(store: &EmbeddedStore, messages: &[Arc<Message>]) {
    for (number, message) in messages.iter().enumerate() {
        let record = store.find_key(&key(&format!("k{number}"))).await.unwrap();
        assert_eq!(record.map(|record| record.id), Some(message.id), "I1");
    }
}

#[tokio::test]
async fn d4_i1_a_disk_that_one_segment_fills_has_room_again_once_its_messages_have_ended() {
    let clock = Clock::manual(history::start());
    let disk = MemoryDisk::new(Path::new("/var"));
    disk.set_can_allocate(false);
    disk.set_capacity(1 << 20);
    let (store, _) = open_small(&disk, &clock);
    let mut messages = Vec::new();
    loop {
        clock.advance(Duration::from_secs(1));
        let next = message(clock.now(), Some(&format!("k{}", messages.len())), 20_000);
        match accept(&store, &next).await {
            Ok(_) => messages.push(next),
            Err(StoreError::LowDisk { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(
        disk.list(Path::new("/var/oncemail/journal")).unwrap().len(),
        1,
        "all of it is in one segment"
    );
    // One of them is held and must stay; the others have ended, and their keys must stay.
    let (one, others) = messages.split_first().unwrap();
    store.save(one.id, held(clock.now())).await.unwrap();
    for other in others {
        store.save(other.id, finished(clock.now())).await.unwrap();
    }
    store.settle().await.unwrap();
    let late = message(clock.now(), None, 20_000);
    assert_eq!(accept(&store, &late).await, Ok(Acceptance::Queued));
    all_keys_stand(&store, &messages).await;
    store.close().await.unwrap();
    let (store, recovery) = open_small(&disk, &clock);
    all_keys_stand(&store, &messages).await;
    let mut living: Vec<_> = recovery.messages.iter().map(|message| message.id).collect();
    living.sort_unstable();
    assert_eq!(living, [one.id, late.id]);
}
