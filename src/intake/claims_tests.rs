//! What a claim keeps out, and what releases it.

use std::sync::Arc;

use super::claims::Claims;
use crate::mail::{KeyKind, QueueId, Scope, ScopedKey};

fn key(scope: Scope, kind: KeyKind) -> ScopedKey {
    ScopedKey { scope, kind, key: "k".to_owned() }
}

#[test]
fn i2_a_key_is_claimed_once_until_its_guard_ends() {
    let claims = Arc::new(Claims::default());
    let (first, second) = (QueueId::from_bytes([1; 16]), QueueId::from_bytes([2; 16]));
    let mine = key(Scope::anonymous(), KeyKind::Header);
    let claim = claims.take(&mine, first).unwrap();
    assert_eq!(claims.take(&mine, second).unwrap_err(), first);
    let _other_scope = claims.take(&key(Scope::named("k"), KeyKind::Header), second).unwrap();
    let _other_kind = claims.take(&key(Scope::anonymous(), KeyKind::Content), second).unwrap();
    drop(claim);
    assert!(claims.take(&mine, second).is_ok());
}

#[test]
fn i4_a_panic_releases_the_claim() {
    let claims = Arc::new(Claims::default());
    let mine = key(Scope::anonymous(), KeyKind::Header);
    let thread = std::thread::spawn({
        let (claims, mine) = (claims.clone(), mine.clone());
        move || {
            let _claim = claims.take(&mine, QueueId::from_bytes([1; 16])).unwrap();
            panic!("as intended");
        }
    });
    assert!(thread.join().is_err());
    assert!(claims.take(&mine, QueueId::from_bytes([2; 16])).is_ok());
}
