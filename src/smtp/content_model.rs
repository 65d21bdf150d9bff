//! Every order in which messages can take from the budget and give back, while it is resized (loom).

use loom::sync;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::reply;

#[expect(dead_code, reason = "the model is of the budget alone")]
#[allow(clippy::duplicate_mod, reason = "the same source once more, over the locks of the model")]
#[path = "content.rs"]
mod content;

use content::{Budget, Reservation};

/// All orders in which a thread is interrupted at most twice where it need not be; `LOOM_MAX_PREEMPTIONS` says otherwise.
fn model(orders: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(orders);
}

#[test]
fn s2_no_order_takes_more_than_there_is_or_loses_any_of_it() {
    model(|| {
        let (budget, taken) = (Budget::new(5), sync::Arc::new(AtomicUsize::new(0)));
        let take = |octets: usize| {
            let (budget, taken) = (budget.clone(), taken.clone());
            move || {
                let mut mine = Reservation::empty(&budget);
                if mine.grow(octets) {
                    let all = taken.fetch_add(octets, Ordering::SeqCst) + octets;
                    assert!(all <= 5, "{all} of 5 are taken");
                    taken.fetch_sub(octets, Ordering::SeqCst);
                }
            }
        };
        let other = thread::spawn(take(3));
        take(3)();
        other.join().unwrap();
        assert_eq!(budget.free(), 5);
    });
}

#[test]
fn s2_a_budget_that_is_resized_while_it_is_used_ends_as_large_as_it_was_made() {
    model(|| {
        let budget = Budget::new(5);
        let other = thread::spawn({
            let budget = budget.clone();
            move || {
                let mut mine = Reservation::empty(&budget);
                let _ = mine.grow(4);
                mine.release();
                let _ = mine.grow(2);
            }
        });
        budget.resize(1);
        budget.resize(3);
        other.join().unwrap();
        assert_eq!(budget.free(), 3);
    });
}
