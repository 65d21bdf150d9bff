//! Whether the answers to calls that overlapped could have been given by a store that does one thing at a time.
//!
//! The search of Wing and Gong: of the calls that nobody waited for when another one began, one must have come first.

use std::collections::HashSet;

use oncemail::mail::QueueId;

/// What was asked about one key, and what the answer was.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Asked {
    /// Queued under its own id.
    Queued(QueueId),
    /// Somebody else has the key.
    Existing(QueueId),
    /// Nobody waited for the answer: it may have been done, or not.
    Unanswered(QueueId),
    Found(Option<QueueId>),
    Forgot(Option<QueueId>),
}

/// A call: when it was made, and when its answer was there.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub asked: Asked,
    pub begun: u64,
    pub ended: u64,
}

/// What a key means after a call, if the call could have had its answer then.
fn after(owner: Option<QueueId>, asked: Asked) -> Option<Option<QueueId>> {
    match asked {
        Asked::Queued(id) => owner.is_none().then_some(Some(id)),
        Asked::Existing(id) => (owner == Some(id)).then_some(owner),
        Asked::Unanswered(id) => Some(owner.or(Some(id))),
        Asked::Found(found) => (owner == found).then_some(owner),
        Asked::Forgot(found) => (owner == found).then_some(None),
    }
}

/// Whether there is an order; at most 64 calls of one key.
pub fn has_an_order(calls: &[Call]) -> bool {
    assert!(calls.len() <= 64);
    let all = if calls.len() == 64 { u64::MAX } else { (1 << calls.len()) - 1 };
    // What was tried in vain: the calls that are left, and whose the key was.
    let mut seen = HashSet::new();
    let mut open = vec![(all, None)];
    while let Some((left, owner)) = open.pop() {
        let of = |n: &usize| left & (1 << n) != 0;
        let is_needed = |n: &usize| !matches!(calls[*n].asked, Asked::Unanswered(_));
        let left_calls: Vec<_> = (0..calls.len()).filter(of).collect();
        if !left_calls.iter().any(is_needed) {
            return true;
        }
        if !seen.insert((left, owner)) {
            continue;
        }
        let first_end = left_calls.iter().map(|n| calls[*n].ended).min().unwrap_or(u64::MAX);
        for n in left_calls.into_iter().filter(|n| calls[*n].begun <= first_end) {
            if let Some(owner) = after(owner, calls[n].asked) {
                open.push((left & !(1 << n), owner));
            }
        }
    }
    false
}

#[test]
fn the_search_finds_an_order_where_there_is_one_and_none_where_there_is_none() {
    let ids = [1u8, 2].map(|n| QueueId::from_bytes([n; 16]));
    let call = |asked, begun, ended| Call { asked, begun, ended };
    let (first, second) = (Asked::Queued(ids[0]), Asked::Queued(ids[1]));
    let forgot = Asked::Forgot(Some(ids[0]));
    assert!(has_an_order(&[call(second, 0, 9), call(first, 1, 2), call(forgot, 3, 4)]));
    assert!(!has_an_order(&[call(second, 0, 9), call(first, 1, 2)]), "two under one key");
    assert!(!has_an_order(&[call(first, 0, 1), call(Asked::Found(None), 2, 3)]), "forgotten by itself");
    assert!(has_an_order(&[call(first, 0, 2), call(Asked::Found(None), 1, 3)]));
    let lost = call(Asked::Unanswered(ids[0]), 0, u64::MAX);
    assert!(has_an_order(&[lost, call(second, 1, 2)]));
    assert!(has_an_order(&[lost, call(Asked::Existing(ids[0]), 5, 6)]));
    assert!(!has_an_order(&[lost, call(second, 1, 2), call(Asked::Existing(ids[0]), 3, 4)]));
}
