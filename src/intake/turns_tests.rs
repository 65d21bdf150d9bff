//! How many large messages are worked on at a time. Time stands still until nothing else can happen, so that whoever has
//! not had its turn then waits for somebody else's.

use std::thread;

use tokio::time::timeout;

use super::turns::{GIANT_BYTES, INLINE_BYTES, Turn, Turns};
use super::*;
use crate::clock::Timestamp;
use crate::mail::{Address, Body, Envelope, FingerprintMode, Handling, Origin, Recipient, ReversePath};
use crate::store::memory::MemoryStore;

const WAIT: Duration = Duration::from_secs(60);
const LARGE: usize = INLINE_BYTES + 1;
const GIANT: usize = GIANT_BYTES + 1;

async fn waits(turns: &Turns, octets: usize) -> bool {
    timeout(WAIT, turns.take(octets)).await.is_err()
}

/// All turns that there are.
async fn all(turns: &Turns) -> Vec<Turn> {
    let mut all = Vec::new();
    while let Ok(Some(turn)) = timeout(WAIT, turns.take(LARGE)).await {
        all.push(turn);
    }
    all
}

fn intake() -> Arc<Intake> {
    let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
    let options = Options {
        hostname: "relay.example".into(),
        header: "X-Idempotency-Key".into(),
        ttl: Duration::from_secs(60),
        fingerprint: FingerprintMode::Content,
        ignore_headers: Vec::new(),
        fallback: Fallback::None,
        observe: false,
        drop_bcc: false,
    };
    Arc::new(Intake::new(Arc::new(MemoryStore::new(clock.clone(), None)), options, clock))
}

fn submission(key: &str, octets: usize) -> Submission {
    let mut content = format!("X-Idempotency-Key: {key}\r\nSubject: x\r\n\r\n").into_bytes();
    content.resize(octets, b'x');
    Submission {
        origin: Origin { listener: "test".into(), user: None, client: None },
        trace: Trace { helo: "client.example".into(), with: "ESMTP", tls: None },
        scope: Scope::anonymous(),
        envelope: Envelope {
            reverse_path: ReversePath::Null,
            recipients: vec![Recipient {
                forward_path: Address::parse("b@example.org").unwrap(),
                notify: None,
                orcpt: None,
                unverified: false,
            }],
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
        },
        refused: Vec::new(),
        content,
    }
}

#[tokio::test(start_paused = true)]
async fn s2_giants_leave_a_turn_and_whoever_comes_first_is_first() {
    let turns = Arc::new(Turns::new(2));
    let giants = [turns.take(GIANT).await.unwrap(), turns.take(GIANT).await.unwrap()];
    assert!(waits(&turns, GIANT).await, "no more giants than processors");
    let attachment = turns.take(LARGE).await.unwrap();
    assert!(waits(&turns, LARGE).await, "and one more in all");
    assert!(turns.take(INLINE_BYTES).await.is_none(), "small messages need none");
    // Whoever has given up is not in the way of those who wait behind it.
    let first = tokio::spawn({
        let turns = turns.clone();
        async move { turns.take(LARGE).await }
    });
    tokio::task::yield_now().await;
    let mut second = tokio::spawn({
        let turns = turns.clone();
        async move { turns.take(LARGE).await }
    });
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(timeout(WAIT, &mut second).await.is_err());
    drop(attachment);
    let second = timeout(WAIT, second).await.unwrap().unwrap().unwrap();
    drop((giants, second));
    assert_eq!(all(&turns).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn s2_large_messages_wait_for_their_turn_and_small_ones_do_not() {
    let intake = intake();
    let most = thread::available_parallelism().unwrap().get() + 1;
    let mut held = all(&intake.turns).await;
    assert_eq!(held.len(), most);
    let accept = |key: &'static str, octets| {
        let intake = intake.clone();
        tokio::spawn(async move { intake.accept(submission(key, octets)).await.decision })
    };
    let mut large = accept("large", LARGE);
    let mut lost = accept("lost", GIANT);
    assert!(timeout(WAIT, &mut large).await.is_err() && timeout(WAIT, &mut lost).await.is_err());
    let small = timeout(WAIT, accept("small", INLINE_BYTES)).await;
    assert!(matches!(small, Ok(Ok(Decision::Queued(_)))), "{small:?}");
    lost.abort();
    assert!(lost.await.unwrap_err().is_cancelled());
    held.pop();
    let Ok(Ok(Decision::Queued(first))) = timeout(WAIT, large).await else { panic!("its turn has come") };
    // One turn is enough for all kinds of ends, one after the other.
    let again = timeout(WAIT, accept("large", LARGE)).await.unwrap().unwrap();
    assert_eq!(again, Decision::Replayed(first));
    let other = timeout(WAIT, accept("large", GIANT)).await.unwrap().unwrap();
    assert_eq!(other, Decision::DifferentBody);
    // I4: nothing was remembered of the one that was lost.
    let lost = timeout(WAIT, accept("lost", LARGE)).await.unwrap().unwrap();
    assert!(matches!(lost, Decision::Queued(_)), "{lost:?}");
    let bad = timeout(WAIT, accept(&"k".repeat(300).leak()[..], LARGE)).await.unwrap().unwrap();
    assert!(matches!(bad, Decision::InvalidKey(_)), "{bad:?}");
    drop(held);
    assert_eq!(all(&intake.turns).await.len(), most, "every turn was given back");
}
