//! Commands that lead to no message: NOOP, RSET, VRFY, EHLO, a MAIL that is refused, an empty chunk. Each costs an answer,
//! and nothing else would ever end them.
//!
//! A hundred may come at once, and one a second for ever: whoever keeps a connection open with a NOOP now and then is no
//! flood. A message that may be sent forgives all; there are no more of those than MAILMAX. A clock that is set back or
//! forward keeps nobody out.

use std::time::Duration;

use crate::clock::Timestamp;

/// So many may come at once.
const AT_ONCE: u32 = 100;

/// Counts them. See the module.
#[derive(Debug, Default)]
pub(super) struct Idling {
    count: u32,
    /// Up to when one a second has been taken off.
    forgiven_at: Timestamp,
}

impl Idling {
    /// Takes note of one more; whether it is too many.
    pub(super) fn is_too_much(&mut self, now: Timestamp) -> bool {
        let forgiven = now.since(self.forgiven_at).as_secs();
        self.count = self.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        self.forgiven_at = self.forgiven_at.plus(Duration::from_secs(forgiven)).min(now);
        self.count = self.count.saturating_add(1);
        self.count > AT_ONCE
    }

    /// A message may be sent.
    pub(super) fn forgive(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_795_343_400_000);

    fn seconds(from: Timestamp, seconds: u64) -> Timestamp {
        from.plus(Duration::from_secs(seconds))
    }

    /// How many come before one is too many.
    fn borne(idling: &mut Idling, now: Timestamp) -> usize {
        (0..1_000).take_while(|_| !idling.is_too_much(now)).count()
    }

    #[test]
    fn s2_a_hundred_at_once_are_borne_and_one_a_second_for_ever() {
        let mut idling = Idling::default();
        assert_eq!(borne(&mut idling, START), 100);
        // The one that was too many counts as well; what is forgiven meanwhile is not saved up beyond a hundred.
        assert_eq!(borne(&mut idling, seconds(START, 11)), 10);
        assert_eq!(borne(&mut idling, seconds(START, 86_400)), 100);
        idling.forgive();
        assert_eq!(borne(&mut idling, seconds(START, 86_400)), 100);
        for pace in [1, 60, 600] {
            let mut idling = Idling::default();
            assert!((0..86_400).step_by(pace).all(|second| !idling.is_too_much(seconds(START, second))));
        }
        // Fractions of a second are not lost.
        let mut idling = Idling::default();
        let at = |number: u64| START.plus(Duration::from_millis(number * 1_999 / 2 + number));
        assert!((0..10_000).all(|number| !idling.is_too_much(at(number))));
        let mut idling = Idling::default();
        let at = |number: u64| START.plus(Duration::from_millis(number * 500));
        assert!((0..1_000).any(|number| idling.is_too_much(at(number))));
    }

    #[test]
    fn a_clock_that_is_set_back_or_forward_keeps_nobody_out() {
        let day = 86_400;
        let mut idling = Idling::default();
        for second in 0..day {
            assert!(!idling.is_too_much(seconds(START, second)));
        }
        // A day back, then on at the same pace.
        for second in 0..1_000 {
            assert!(!idling.is_too_much(seconds(START, second)), "{second} s after it was set back");
        }
        assert!(!idling.is_too_much(seconds(START, 365 * day)));
        // And it is no way around the limit.
        assert_eq!(borne(&mut idling, START), 99);
    }
}
