//! Every order in which those who share a question can come, get their answer, and go away without it (loom).

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use hickory_resolver::proto::rr::RecordType;
use loom::sync;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

#[allow(clippy::duplicate_mod, reason = "the same source once more, over the locks of the model")]
#[path = "flights.rs"]
mod flights;

use flights::Flights;

type Shared = sync::Arc<(Flights<u32>, AtomicUsize)>;

/// Asks, and looks at most so many times whether the answer is there.
fn share(shared: &Shared, looks: usize) -> Option<u32> {
    let (flights, asked) = &**shared;
    let ask = async {
        asked.fetch_add(1, Ordering::SeqCst);
        let mut is_out = false;
        let once = std::future::poll_fn(|_| match std::mem::replace(&mut is_out, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        once.await;
        7
    };
    let mut answer = pin!(flights.share("x.example", RecordType::A, ask));
    // Nobody is woken: whoever wants to know looks again, when another one has had a turn.
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..looks {
        if let Poll::Ready(answer) = answer.as_mut().poll(&mut context) {
            return Some(answer);
        }
        thread::yield_now();
    }
    None
}

/// Two share a question, with so much patience each.
fn model(patience: [usize; 2]) {
    loom::model(move || {
        let shared = Shared::new((Flights::default(), AtomicUsize::new(0)));
        let other = thread::spawn({
            let shared = shared.clone();
            move || share(&shared, patience[0])
        });
        let answers = [share(&shared, patience[1]), other.join().unwrap()];
        for (answer, patience) in answers.into_iter().zip([patience[1], patience[0]]) {
            assert!(answer == Some(7) || (answer.is_none() && patience < usize::MAX), "{answer:?}");
        }
        let (flights, asked) = &*shared;
        assert!(flights.waiting().is_empty(), "nobody waits: {:?}", flights.waiting());
        assert!((1..=2).contains(&asked.load(Ordering::SeqCst)));
    });
}

#[test]
fn s2_two_that_go_away_at_once_leave_nothing_behind() {
    model([1, 1]);
}

#[test]
fn whoever_stays_gets_an_answer_though_the_one_who_asked_goes_away() {
    model([1, usize::MAX]);
}

#[test]
fn two_that_stay_share_one_answer() {
    model([usize::MAX, usize::MAX]);
}
