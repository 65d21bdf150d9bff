//! How long a deferred message waits, and when it has waited too long. Pure.

use std::time::Duration;

use super::options::{Jitter, Options};
use crate::chance;
use crate::clock::Timestamp;
use crate::mail::{HoldCause, Progress, RecipientState};

/// `min(cap, base·2ⁿ)` after `attempts` attempts; `spread`, from 0 to 1, is where in the jitter's range it falls.
pub(super) fn backoff(options: &Options, attempts: u32, spread: f64) -> Duration {
    let exponent = attempts.saturating_sub(1);
    let factor = 1u32.checked_shl(exponent).unwrap_or(u32::MAX);
    let wait = options.base.saturating_mul(factor).min(options.cap);
    match options.jitter {
        Jitter::Full => wait.mul_f64(spread.clamp(0.0, 1.0)),
        Jitter::None => wait,
    }
}

/// When the first attempts of a message are made at the latest, from when it is due, up to its expiry; at most `most`.
pub(super) fn latest(options: &Options, most: usize) -> Vec<Duration> {
    let mut at = Duration::ZERO;
    let mut times = vec![at];
    for attempts in 1.. {
        at = at.saturating_add(backoff(options, attempts, 1.0));
        if times.len() >= most || at >= options.expire_after {
            break;
        }
        times.push(at);
    }
    times
}

/// Closes an attempt: says how long to wait for the next one, or that there is none, and writes it into the progress.
///
/// The age counts from `due_at`. `untried` is the wait when nothing about the message was learnt (a breaker was open): that costs no attempt.
pub(super) fn close(
    progress: &mut Progress,
    due_at: Timestamp,
    now: Timestamp,
    options: &Options,
    untried: Option<Duration>,
) -> Option<Duration> {
    let wait = match untried {
        Some(wait) => wait,
        None => {
            progress.attempts = progress.attempts.saturating_add(1);
            backoff(options, progress.attempts, chance::random())
        }
    };
    if !progress.is_queued() {
        return None;
    }
    let expires_at = due_at.plus(options.expire_after);
    if now >= expires_at {
        expire(progress);
        return None;
    }
    // The last wait is cut short, so that the last attempt is made in time.
    progress.next_attempt = now.plus(wait).min(expires_at);
    Some(progress.next_attempt.since(now))
}

/// What is still queued is held from now on.
pub(super) fn expire(progress: &mut Progress) {
    for recipient in &mut progress.recipients {
        if recipient.state == RecipientState::Queued {
            recipient.state = RecipientState::Held(HoldCause::Expired);
        }
    }
}

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use super::super::options::OnFailure;
    use super::*;

    fn options() -> Options {
        Options {
            base: Duration::from_secs(60),
            cap: Duration::from_secs(3600),
            jitter: Jitter::Full,
            expire_after: Duration::from_secs(5 * 86_400),
            on_failure: OnFailure::Hold,
            ..Options::default()
        }
    }

    #[test]
    fn waits_double_up_to_the_cap_and_jitter_stays_within() {
        let options = options();
        let longest = |attempts| backoff(&options, attempts, 1.0).as_secs();
        assert_eq!([1, 2, 3, 4].map(longest), [60, 120, 240, 480]);
        assert_eq!([7, 32, 33, 34, u32::MAX].map(longest), [3600; 5]);
        assert_eq!(backoff(&options, 3, 0.0), Duration::ZERO);
        assert_eq!(backoff(&options, 3, 0.5).as_secs(), 120);
        let plain = Options { jitter: Jitter::None, ..options };
        assert_eq!(backoff(&plain, 1, 0.0).as_secs(), 60);
    }

    #[test]
    fn the_last_attempt_is_made_when_the_message_expires_and_then_it_is_held() {
        let mut options = options();
        options.jitter = Jitter::None;
        options.expire_after = Duration::from_secs(90);
        let start = Timestamp::from_millis(0);
        let mut progress = Progress::fresh(2, start);
        let at = |secs: u64| Timestamp::from_millis(secs * 1000);
        assert_eq!(close(&mut progress, start, at(0), &options, None), Some(Duration::from_secs(60)));
        assert_eq!(close(&mut progress, start, at(60), &options, None), Some(Duration::from_secs(30)));
        assert_eq!(progress.next_attempt, at(90));
        progress.recipients[0].state = RecipientState::Delivered;
        assert_eq!(close(&mut progress, start, at(90), &options, None), None);
        assert_eq!(progress.recipients[0].state, RecipientState::Delivered);
        assert_eq!(progress.recipients[1].state, RecipientState::Held(HoldCause::Expired));
    }

    #[test]
    fn an_untried_message_waits_without_an_attempt() {
        let start = Timestamp::from_millis(0);
        let mut progress = Progress::fresh(1, start);
        let wait = Duration::from_secs(7);
        assert_eq!(close(&mut progress, start, start, &options(), Some(wait)), Some(wait));
        assert_eq!(progress.attempts, 0);
    }
}
