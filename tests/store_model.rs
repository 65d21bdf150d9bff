//! The embedded store, restarted and robbed of its index at any moment, answers as one that never crashes.

use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::{Message, Progress};
use oncemail::store::files::RealFiles;
use oncemail::store::memory::MemoryStore;
use oncemail::store::{Recovered, Store};
use proptest::prelude::*;

use crate::common::history::{claim, deferred, finished, key, message, notice, open, start};

#[derive(Clone, Debug)]
enum Call {
    /// With a key or without; the sender wants it held back for so many hours.
    Accept(Option<u8>, u8),
    Save(usize, u32),
    Finish(usize),
    /// An outcome with so many notices; the message ends with it, or not.
    Tell(usize, bool, u8),
    Find(u8),
    Forget(u8),
    Advance(u8),
    Settle,
    Restart,
    LoseIndex,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => (prop::option::of(0..12u8), 0..3u8).prop_map(|(key, hours)| Call::Accept(key, hours)),
        3 => (0..40usize, 1..9u32).prop_map(|(n, attempt)| Call::Save(n, attempt)),
        4 => (0..40usize).prop_map(Call::Finish),
        3 => (0..40usize, any::<bool>(), 1..3u8).prop_map(|(n, ends, notices)| Call::Tell(n, ends, notices)),
        3 => (0..12u8).prop_map(Call::Find),
        1 => (0..12u8).prop_map(Call::Forget),
        1 => (0..20u8).prop_map(Call::Advance),
        1 => Just(Call::Settle),
        1 => Just(Call::Restart),
        1 => Just(Call::LoseIndex),
    ]
}

/// How a start lists a message.
fn recovered((message, progress): &(Arc<Message>, Progress)) -> Recovered {
    let due_at = message.envelope.due_at(message.accepted_at);
    Recovered {
        id: message.id,
        next_attempt: progress.is_queued().then_some(progress.next_attempt),
        priority: message.envelope.handling.priority,
        held_back: due_at > message.accepted_at && progress.next_attempt == due_at && progress.is_queued(),
    }
}

async fn compare(calls: Vec<Call>) {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(start());
    let reopen = || open(dir.path(), Arc::new(RealFiles), &clock).unwrap();
    let model = MemoryStore::new(clock.clone(), None);
    let mut store = Some(reopen().0);
    let mut ids = Vec::new();
    for call in calls {
        let real = store.as_ref().unwrap();
        match call {
            Call::Accept(n, hours) => {
                let text = n.map(|n| format!("key {n}"));
                let mut message = Message::clone(&message(clock.now(), text.as_deref(), 300));
                let release_at = clock.now().plus(Duration::from_secs(3600) * hours.into());
                message.envelope.handling.release_at = Some(release_at).filter(|_| hours > 0);
                message.envelope.handling.priority = n.map_or(0, |n| n as i8 - 6);
                let message = Arc::new(message);
                let claim = message.key.as_ref().map(|_| claim(clock.now()));
                let expected = model.accept(message.clone(), claim.clone()).await;
                assert_eq!(real.accept(message.clone(), claim).await, expected);
                ids.push(message.id);
            }
            Call::Save(n, attempt) => {
                let Some(id) = ids.get(n) else { continue };
                let progress = deferred(clock.now(), attempt);
                model.save(*id, progress.clone()).await.unwrap();
                real.save(*id, progress).await.unwrap();
            }
            Call::Finish(n) => {
                let Some(id) = ids.get(n) else { continue };
                let progress = finished(clock.now());
                model.save(*id, progress.clone()).await.unwrap();
                real.save(*id, progress).await.unwrap();
            }
            Call::Tell(n, ends, count) => {
                let Some(id) = ids.get(n).copied() else { continue };
                let progress = if ends { finished(clock.now()) } else { deferred(clock.now(), 1) };
                let notices: Vec<_> = (0..count).map(|_| notice(clock.now(), 200)).collect();
                ids.extend(notices.iter().map(|notice| notice.id));
                model.save_with(id, progress.clone(), notices.clone()).await.unwrap();
                real.save_with(id, progress, notices).await.unwrap();
            }
            Call::Find(n) => {
                let key = key(&format!("key {n}"));
                assert_eq!(real.find_key(&key).await, model.find_key(&key).await);
            }
            Call::Forget(n) => {
                let key = key(&format!("key {n}"));
                assert_eq!(real.forget_key(&key).await, model.forget_key(&key).await);
            }
            Call::Advance(hours) => clock.advance(Duration::from_secs(3600) * hours.into()),
            Call::Settle => real.settle().await.unwrap(),
            Call::Restart => {
                drop(store.take());
                store = Some(reopen().0);
            }
            Call::LoseIndex => {
                drop(store.take());
                std::fs::remove_dir_all(dir.path().join("index")).unwrap();
                store = Some(reopen().0);
            }
        }
    }
    drop(store);
    let (store, recovery) = reopen();
    let expected = model.messages();
    assert_eq!(recovery.messages, expected.iter().map(recovered).collect::<Vec<_>>());
    for (message, progress) in expected {
        assert_eq!(store.load(message.id).await.unwrap(), Some((message, progress)));
    }
    for n in 0..12 {
        let key = key(&format!("key {n}"));
        assert_eq!(store.find_key(&key).await, model.find_key(&key).await);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn d2_i1_d6_it_answers_as_a_store_that_never_crashes(calls in prop::collection::vec(call(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(compare(calls));
    }
}
