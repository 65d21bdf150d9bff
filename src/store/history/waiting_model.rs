//! Every order in which records can be put down, taken and refused at the end (loom). Its condition variable never times
//! out: a wake-up that is lost shows as a thread that waits for ever.

use std::time::Duration;

use loom::sync;
use loom::thread;

#[expect(dead_code, reason = "the model does without some of it")]
#[allow(clippy::duplicate_mod, reason = "the same source once more, over the locks of the model")]
#[path = "waiting.rs"]
mod waiting;

use waiting::Waiting;

/// What the history's thread does, until the end or until `enough` bytes are there.
fn write(waiting: &Waiting, enough: usize) -> Vec<u8> {
    let mut written = Vec::new();
    while written.len() < enough {
        let is_closed = waiting.wait(Duration::ZERO);
        written.extend(waiting.take(Vec::new()));
        if is_closed {
            break;
        }
    }
    written.sort_unstable();
    written
}

fn put(waiting: &Waiting, record: u8) -> bool {
    waiting.add(|records| {
        records.push(record);
        true
    })
}

/// All orders in which a thread is interrupted at most twice where it need not be; `LOOM_MAX_PREEMPTIONS` says otherwise.
fn model(orders: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(orders);
}

fn share(waiting: Waiting) -> sync::Arc<Waiting> {
    sync::Arc::new(waiting)
}

#[test]
fn what_was_taken_in_is_written_however_the_end_comes() {
    model(|| {
        let waiting = share(Waiting::new(2, 3));
        let writer = thread::spawn({
            let waiting = waiting.clone();
            move || write(&waiting, usize::MAX)
        });
        let adder = thread::spawn({
            let waiting = waiting.clone();
            move || [1, 2].into_iter().filter(|record| put(&waiting, *record)).collect::<Vec<u8>>()
        });
        let mut taken: Vec<u8> = [3].into_iter().filter(|record| put(&waiting, *record)).collect();
        waiting.close();
        assert!(!put(&waiting, 4));
        taken.extend(adder.join().unwrap());
        taken.sort_unstable();
        assert_eq!(writer.join().unwrap(), taken);
    });
}

#[test]
fn the_thread_is_woken_when_much_waits_though_nobody_ends_it() {
    model(|| {
        let waiting = share(Waiting::new(2, 3));
        let adders: Vec<_> = [1, 2]
            .map(|record| {
                let waiting = waiting.clone();
                thread::spawn(move || assert!(put(&waiting, record)))
            })
            .into_iter()
            .collect();
        assert_eq!(write(&waiting, 2), [1, 2]);
        adders.into_iter().for_each(|adder| adder.join().unwrap());
    });
}
