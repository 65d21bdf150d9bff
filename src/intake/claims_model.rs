//! Every order in which submissions under one key can claim it, look it up, commit and let go (loom).

use std::sync::Arc;

use loom::sync;
use loom::thread;

use crate::mail::{KeyKind, QueueId, Scope, ScopedKey};

#[allow(clippy::duplicate_mod, reason = "the same source once more, over the locks of the model")]
#[path = "claims.rs"]
mod claims;

use claims::Claims;

#[derive(PartialEq, Debug)]
enum Decision {
    Queued,
    Replayed(u8),
    InFlight,
}

/// The key's record, as a store that looks and writes in two steps has it.
type Record = sync::Arc<sync::Mutex<Option<u8>>>;

/// What the intake does: the claim comes before the lookup, and goes after the commit.
fn submit(claims: &Arc<Claims>, record: &Record, number: u8) -> Decision {
    let key = ScopedKey { scope: Scope::anonymous(), kind: KeyKind::Header, key: "k".to_owned() };
    let Ok(claim) = claims.take(&key, QueueId::from_bytes([number; 16])) else {
        let found = *record.lock().unwrap();
        return found.map_or(Decision::InFlight, Decision::Replayed);
    };
    let found = *record.lock().unwrap();
    if let Some(first) = found {
        return Decision::Replayed(first);
    }
    let before = record.lock().unwrap().replace(number);
    assert_eq!(before, None, "two messages under one key");
    drop(claim);
    Decision::Queued
}

#[test]
fn i2_i4_one_is_queued_and_the_others_replay_it_or_come_again() {
    loom::model(|| {
        let (claims, record) = (Arc::new(Claims::default()), Record::default());
        let others: Vec<_> = [1, 2]
            .into_iter()
            .map(|number| {
                let (claims, record) = (claims.clone(), record.clone());
                thread::spawn(move || submit(&claims, &record, number))
            })
            .collect();
        let mut decisions = vec![submit(&claims, &record, 0)];
        decisions.extend(others.into_iter().map(|other| other.join().unwrap()));
        let queued: Vec<_> = (0u8..).zip(&decisions).filter(|(_, d)| **d == Decision::Queued).collect();
        let [(first, _)] = queued[..] else { panic!("{decisions:?}") };
        let fits = |d: &Decision| !matches!(d, Decision::Replayed(id) if *id != first);
        assert!(decisions.iter().all(fits), "{decisions:?}");
        // I4: nothing of them keeps the key.
        assert_eq!(submit(&claims, &record, 9), Decision::Replayed(first));
    });
}
