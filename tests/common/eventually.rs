//! How a test waits for what has no event of its own: another process's memory or files, a figure that is only shown.
//!
//! It looks, again and again, until it is so. Whatever can be waited for as an event is waited for there instead: a line of
//! the log, the far side's or the store's record of what they saw.

use std::time::Duration;

/// A bound in looks, not in time: a machine that is busy with something else has as many.
const LOOKS: u64 = 500;
/// Between two looks, once they are many; the first follow each other faster.
const PAUSE: u64 = 50;

/// Looks until there is something, and gives it back. `what` says what was waited for, when it never came.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    found(look).await.unwrap_or_else(|| panic!("not in {LOOKS} looks: {what}"))
}

/// The same where there is nothing to be given back.
pub async fn eventually_so(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, async || is_so().then_some(())).await;
}

/// The same for who has more to say when it never comes.
pub async fn found<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    for number in 0..LOOKS {
        if let Some(found) = look().await {
            return Some(found);
        }
        // A thread of its own, so that it is real time even where a test has stopped the clock.
        let pause = Duration::from_millis(number.min(PAUSE));
        tokio::task::spawn_blocking(move || std::thread::sleep(pause)).await.unwrap();
    }
    None
}
