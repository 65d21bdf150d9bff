//! The list against a map that is looked through each time, over restarts.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::store::files::RealFiles;

const TTL: Duration = Duration::from_secs(100);

#[derive(Clone, Debug)]
enum Step {
    Add(u8, String),
    Remove(u8),
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u8, "[a-z \"\\\\\r\n\t\u{e9}\u{2028}]{0,12}|é{99,102}").prop_map(|(n, reason)| Step::Add(n, reason)),
        2 => (0..6u8).prop_map(Step::Remove),
        2 => (0..60u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// Some differ in the case of the local part alone.
fn address(n: u8) -> Address {
    let names =
        ["a@x.example", "A@x.example", "é@x.example", "\"a b\"@x.example", "postmaster", "a@é.example"];
    Address::parse(names[usize::from(n)]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_remembers_what_a_map_would(steps in prop::collection::vec(step(), 1..30)) {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(Timestamp::from_millis(1_795_343_400_000)));
        let open = || Suppressions::open(Arc::new(RealFiles), dir.path(), TTL, clock.clone()).unwrap();
        let mut list = Some(open());
        // Since when, when last, and why; in the order of the last refusals.
        let mut model: HashMap<u8, (Timestamp, Timestamp, usize, String)> = HashMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            let now = clock.now();
            let lives = |(_, last, ..): &(Timestamp, Timestamp, usize, String)| now < last.plus(TTL);
            match step {
                Step::Add(n, reason) => {
                    list.as_ref().unwrap().add(&address(n), &reason);
                    let since = model.get(&n).filter(|entry| lives(entry)).map_or(now, |(since, ..)| *since);
                    let mut kept = String::new();
                    reason.chars().take_while(|c| {
                        let fits = kept.len() + c.len_utf8() <= MAX_REASON;
                        if fits { kept.push(*c); }
                        fits
                    }).for_each(drop);
                    model.insert(n, (since, now, number, kept));
                }
                Step::Remove(n) => {
                    let expected = model.remove(&n).is_some_and(|entry| lives(&entry));
                    prop_assert_eq!(list.as_ref().unwrap().remove(&address(n)), expected);
                }
                Step::Wait(secs) => clock.advance(Duration::from_secs(secs)),
                Step::Restart => {
                    drop(list.take());
                    list = Some(open());
                }
            }
            let (list, now) = (list.as_ref().unwrap(), clock.now());
            model.retain(|_, (_, last, ..)| now < last.plus(TTL));
            for n in 0..6 {
                let expected = model.get(&n).map(|(since, _, _, reason)| Suppressed { since: *since, reason: reason.clone() });
                prop_assert_eq!(list.find(&address(n)), expected);
            }
            let mut all: Vec<_> = model.iter().collect();
            all.sort_by_key(|(_, (_, _, number, _))| *number);
            let all: Vec<_> = all.into_iter().map(|(n, _)| address(*n).canonical()).collect();
            prop_assert_eq!(list.entries().into_iter().map(|(address, _)| address).collect::<Vec<_>>(), all);
        }
    }
}
