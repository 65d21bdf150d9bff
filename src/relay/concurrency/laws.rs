//! The limit against its rules written down once more.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn it_is_never_nothing_nor_too_much_and_one_moment_cuts_once(
        start in 0..40usize,
        most in 0..40usize,
        events in prop::collection::vec((any::<bool>(), any::<usize>(), 0..3u8, 0..60usize), 0..80),
    ) {
        let mut concurrency = Concurrency::new(start, most);
        let most = most.max(1);
        let (mut limit, mut cuts) = (start.clamp(1, most), 0);
        // Attempts that are out, each with how many cuts there had been when it began.
        let mut out = Vec::new();
        for (begins, which, load, in_use) in events {
            if begins || out.is_empty() {
                out.push((concurrency.epoch(), cuts));
                continue;
            }
            let (epoch, begun) = out.swap_remove(which % out.len());
            let load = [Load::More, Load::Same, Load::Less][usize::from(load)];
            concurrency.note(load, epoch, in_use);
            match load {
                Load::More if begun == cuts => limit = most.min(limit + 1),
                Load::Less if begun == cuts => (limit, cuts) = ((limit.min(in_use) / 2).max(1), cuts + 1),
                _ => {}
            }
            prop_assert_eq!(concurrency.limit(), limit);
            prop_assert!((1..=most).contains(&limit));
        }
    }
}
