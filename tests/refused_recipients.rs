//! I1 where a check at RCPT time answers otherwise than it did the first time: an address has bounced and is suppressed, a
//! domain has gone. The retry names whom it named before, and is the same message.

use oncemail::intake::{Decision, Submission};
use oncemail::mail::Address;

use crate::common::intake::{Bench, envelope, keyed, options};

fn to(accepted: &[&str], refused: &[&str]) -> Submission {
    let mut submission = keyed("order-1", "hello");
    submission.envelope = envelope("shop@app.example", accepted);
    submission.refused = refused.iter().map(|address| Address::parse(address).unwrap()).collect();
    submission
}

#[tokio::test]
async fn i1_a_retry_is_replayed_although_recipients_are_refused_now_that_were_accepted_then() {
    let all = ["a@x.example", "b@x.example", "c@x.example"];
    for (first, retry, is_replayed) in [
        (to(&all, &[]), to(&all[..2], &all[2..]), true),
        (to(&all, &[]), to(&all[2..], &all[..2]), true),
        // One was refused both times, another only now.
        (to(&all[..2], &all[2..]), to(&all[..1], &all[1..]), true),
        (to(&all[..2], &all[2..]), to(&all[..2], &all[2..]), true),
        // The one that was refused is left out.
        (to(&all[..2], &all[2..]), to(&all[..2], &[]), true),
        // Somebody is new, or missing without a word: a replay would lose mail.
        (to(&all[..2], &[]), to(&["a@x.example", "d@x.example"], &["b@x.example"]), false),
        (to(&all, &[]), to(&all[..1], &all[1..2]), false),
        (to(&all[..2], &all[2..]), to(&all, &[]), false),
    ] {
        let bench = Bench::new(options());
        let said = (first.envelope.recipients.len(), retry.envelope.recipients.len(), retry.refused.len());
        let id = bench.send(first).await.decision.queue_id().unwrap();
        let expected = if is_replayed { Decision::Replayed(id) } else { Decision::DifferentEnvelope };
        assert_eq!(bench.decide(retry).await, expected, "{said:?}");
        assert_eq!(bench.queued().len(), 1);
    }
}

#[tokio::test]
async fn i1_many_recipients_that_are_all_refused_now_are_known_together() {
    let names: Vec<String> = (0..30).map(|n| format!("r{n}@x.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bench = Bench::new(options());
    let id = bench.send(to(&names, &[])).await.decision.queue_id().unwrap();
    assert_eq!(bench.decide(to(&names[..5], &names[5..])).await, Decision::Replayed(id));
    assert_eq!(bench.decide(to(&names[..5], &names[6..])).await, Decision::DifferentEnvelope);
}
