//! What holds of every wait, whatever the options, the number of attempts and the clock say.

use proptest::prelude::*;

use super::*;

const YEAR: u64 = 366 * 86_400_000;

/// Anything a configuration can say.
fn options() -> impl Strategy<Value = Options> {
    let millis = prop_oneof![0..=7 * 86_400_000u64, 0..=60_000u64];
    let jitter = prop_oneof![Just(Jitter::Full), Just(Jitter::None)];
    (millis.clone(), millis, jitter, 1..=YEAR).prop_map(|(base, cap, jitter, expire)| Options {
        base: Duration::from_millis(base),
        cap: Duration::from_millis(cap),
        jitter,
        expire_after: Duration::from_millis(expire),
        ..Options::default()
    })
}

/// Few attempts mostly, and as many as there can be.
fn attempts() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..40u32, 1 => any::<u32>(), 1 => Just(u32::MAX)]
}

/// `min(cap, base·2ⁿ)` once more, in milliseconds and without a trick.
fn longest(options: &Options, attempts: u32) -> u128 {
    let (base, cap) = (options.base.as_millis(), options.cap.as_millis());
    let doubled = (1..attempts).try_fold(base, |wait, _| {
        let twice = wait * 2;
        (0 < wait && twice < cap).then_some(twice)
    });
    // Once it is not below the cap any more it never is again, and nothing doubled stays nothing.
    doubled.unwrap_or(if base == 0 { 0 } else { cap }).min(cap)
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

proptest! {
    #[test]
    fn a_wait_is_never_longer_than_the_doubled_base_or_the_cap(
        options in options(), attempts in attempts(), spread in 0.0..=1.0f64,
    ) {
        let most = Duration::from_millis(u64::try_from(longest(&options, attempts)).unwrap());
        let wait = backoff(&options, attempts, spread);
        // Seconds as floating point are not exact beyond some years.
        let inexact = most / 1_000_000_000 + Duration::from_nanos(1);
        match options.jitter {
            Jitter::None => prop_assert_eq!(wait, most),
            Jitter::Full => prop_assert!(wait <= most.saturating_add(inexact), "{wait:?} > {most:?}"),
        }
        if options.jitter == Jitter::Full && most < Duration::from_secs(86_400 * 366) {
            let expected = most.as_secs_f64() * spread;
            prop_assert!((wait.as_secs_f64() - expected).abs() < 1e-6 + expected * 1e-9);
        }
    }

    #[test]
    fn no_wait_is_shorter_than_the_one_before_it(options in options(), n in attempts()) {
        let options = Options { jitter: Jitter::None, ..options };
        prop_assert!(backoff(&options, n, 1.0) <= backoff(&options, n.saturating_add(1), 1.0));
    }

    #[test]
    fn the_first_attempts_are_in_order_and_before_the_expiry(options in options(), most in 1..30usize) {
        let times = latest(&options, most);
        prop_assert!(!times.is_empty() && times.len() <= most && times[0].is_zero());
        prop_assert!(times.is_sorted());
        prop_assert!(times.iter().all(|at| *at < options.expire_after));
    }

    /// Whatever the clock does between two attempts: it may be set back, or far ahead.
    #[test]
    fn nothing_is_tried_after_its_expiry_and_no_wait_is_longer_than_the_backoff(
        options in options(),
        due in 0..2 * YEAR,
        clocks in prop::collection::vec(0..4 * YEAR, 1..20),
        untried in prop::option::of(0..YEAR),
    ) {
        let (due, expires) = (at(due), at(due).plus(options.expire_after));
        let mut progress = Progress::fresh(2, due);
        let mut counted = 0;
        for now in clocks.into_iter().map(at) {
            let untried = untried.map(Duration::from_millis);
            let wait = close(&mut progress, due, now, &options, untried);
            counted += u32::from(untried.is_none());
            prop_assert_eq!(progress.attempts, counted);
            let Some(wait) = wait else {
                prop_assert!(now >= expires, "given up before its time");
                let states = progress.recipients.iter().map(|recipient| recipient.state);
                prop_assert!(states.into_iter().all(|s| s == RecipientState::Held(HoldCause::Expired)));
                break;
            };
            prop_assert!(now < expires && progress.next_attempt <= expires);
            prop_assert_eq!(progress.next_attempt.since(now), wait);
            prop_assert!(progress.is_queued());
            let most = untried.map_or(longest(&options, counted), |wait| wait.as_millis());
            prop_assert!(wait.as_millis() <= most + most / 1_000_000_000 + 1, "{wait:?} is more than {most} ms");
        }
    }
}

/// The jitter is spread over the whole range: each tenth of it gets its share.
#[test]
fn jitter_covers_the_range_evenly() {
    let options = Options {
        base: Duration::from_secs(100),
        cap: Duration::from_secs(100),
        jitter: Jitter::Full,
        ..Options::default()
    };
    let mut tenths = [0u32; 10];
    for _ in 0..10_000 {
        let mut progress = Progress::fresh(1, at(0));
        let wait = close(&mut progress, at(0), at(0), &options, None).unwrap();
        tenths[usize::try_from(wait.as_millis() / 10_000).unwrap().min(9)] += 1;
    }
    // A share is 1,000 with a deviation of 30: ten of those are never seen.
    assert!(tenths.iter().all(|count| (700..1_300).contains(count)), "{tenths:?}");
}
