//! Questions that are shared, over tokio.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::rr::RecordType;
use tokio::sync::Notify;

use super::flights::Flights;

#[tokio::test]
async fn who_waits_for_the_same_answer_shares_one_question_and_outlives_who_asked() {
    let (flights, asked, answer) =
        (Arc::new(Flights::<u32>::default()), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let spawn = || {
        let (flights, asked, answer) = (flights.clone(), asked.clone(), answer.clone());
        tokio::spawn(async move {
            let ask = async {
                asked.fetch_add(1, Ordering::SeqCst);
                answer.notified().await;
                7
            };
            flights.share("x.example", RecordType::A, ask).await
        })
    };
    let until_asked = async |times: usize| {
        while asked.load(Ordering::SeqCst) < times {
            tokio::task::yield_now().await;
        }
    };
    let first = spawn();
    until_asked(1).await;
    let waiting: Vec<_> = (0..10).map(|_| spawn()).collect();
    while flights.waiting() != [11] {
        tokio::task::yield_now().await;
    }
    first.abort();
    until_asked(2).await;
    answer.notify_one();
    for one in waiting {
        assert_eq!(one.await.unwrap(), 7);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert!(flights.waiting().is_empty());
}
