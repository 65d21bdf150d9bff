//! The embedded store, restarted and robbed of its index at any moment, answers as one that never crashes.

use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::store::Store;
use oncemail::store::files::RealFiles;
use oncemail::store::memory::MemoryStore;
use proptest::prelude::*;

use crate::common::history::{claim, deferred, finished, key, message, open, start};

#[derive(Clone, Debug)]
enum Call {
    Accept(Option<u8>),
    Save(usize, u32),
    Finish(usize),
    Find(u8),
    Advance(u8),
    Settle,
    Restart,
    LoseIndex,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => prop::option::of(0..12u8).prop_map(Call::Accept),
        3 => (0..40usize, 1..9u32).prop_map(|(n, attempt)| Call::Save(n, attempt)),
        4 => (0..40usize).prop_map(Call::Finish),
        3 => (0..12u8).prop_map(Call::Find),
        1 => (0..20u8).prop_map(Call::Advance),
        1 => Just(Call::Settle),
        1 => Just(Call::Restart),
        1 => Just(Call::LoseIndex),
    ]
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
            Call::Accept(n) => {
                let text = n.map(|n| format!("key {n}"));
                let message = message(clock.now(), text.as_deref(), 300);
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
            Call::Find(n) => {
                let key = key(&format!("key {n}"));
                assert_eq!(real.find_key(&key).await, model.find_key(&key).await);
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
    assert_eq!(
        recovery.messages.iter().map(|m| m.id).collect::<Vec<_>>(),
        expected.iter().map(|(m, _)| m.id).collect::<Vec<_>>()
    );
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
    fn i1_d6_it_answers_as_a_store_that_never_crashes(calls in prop::collection::vec(call(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(compare(calls));
    }
}
