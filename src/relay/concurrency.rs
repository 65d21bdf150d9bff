//! How many connections a destination gets: few at first, one more for each success, half as many when it objects.
//!
//! Pure. Many attempts that fail together have met one obstacle, so only what began after the last cut can cut again;
//! otherwise twenty time-outs in one second would leave a single connection.

/// The limit of one destination.
#[derive(Debug)]
pub(super) struct Concurrency {
    limit: usize,
    most: usize,
    cuts: u32,
}

/// When an attempt began, counted in cuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Epoch(u32);

/// What the end of an attempt says about the number of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Load {
    /// The far side can have more.
    More,
    /// Nothing.
    Same,
    /// It is too much: 421, 432, a connection that was not made, a time-out.
    Less,
}

impl Concurrency {
    /// Starts with `start` connections and never goes beyond `most`; both at least 1.
    pub(super) fn new(start: usize, most: usize) -> Self {
        let most = most.max(1);
        Self { limit: start.clamp(1, most), most, cuts: 0 }
    }

    /// Always `connections`.
    pub(super) fn fixed(connections: usize) -> Self {
        Self::new(connections, connections)
    }

    /// How many connections there may be now.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// What an attempt that begins now has to remember.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.cuts)
    }

    /// Takes account of an attempt that began in `begun` and ended while there were `in_use` connections.
    pub(super) fn note(&mut self, load: Load, begun: Epoch, in_use: usize) {
        if begun != self.epoch() {
            return;
        }
        match load {
            Load::More => self.limit = (self.limit + 1).min(self.most),
            Load::Same => {}
            Load::Less => {
                self.limit = (self.limit.min(in_use) / 2).max(1);
                self.cuts = self.cuts.wrapping_add(1);
            }
        }
    }
}

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_destination_has_all_its_connections_within_a_few_dozen_successes() {
        let mut concurrency = Concurrency::new(4, 20);
        let mut successes = 0;
        while concurrency.limit() < 20 {
            concurrency.note(Load::More, concurrency.epoch(), 20);
            successes += 1;
        }
        assert_eq!(successes, 16);
        concurrency.note(Load::More, concurrency.epoch(), 20);
        assert_eq!(concurrency.limit(), 20);
    }

    #[test]
    fn it_halves_what_is_in_use_and_never_ends_at_nothing() {
        let mut concurrency = Concurrency::fixed(20);
        concurrency.note(Load::Less, concurrency.epoch(), 20);
        assert_eq!(concurrency.limit(), 10);
        concurrency.note(Load::Less, concurrency.epoch(), 3);
        assert_eq!(concurrency.limit(), 1);
        concurrency.note(Load::Less, concurrency.epoch(), 1);
        assert_eq!(concurrency.limit(), 1);
    }

    #[test]
    fn failures_of_one_moment_cut_once_and_old_successes_do_not_make_good_for_it() {
        let mut concurrency = Concurrency::fixed(20);
        let together = concurrency.epoch();
        (0..20).for_each(|_| concurrency.note(Load::Less, together, 20));
        concurrency.note(Load::More, together, 20);
        assert_eq!(concurrency.limit(), 10);
        concurrency.note(Load::More, concurrency.epoch(), 10);
        assert_eq!(concurrency.limit(), 11);
    }

    #[test]
    fn limits_that_make_no_sense_become_one() {
        assert_eq!(Concurrency::new(4, 0).limit(), 1);
        assert_eq!(Concurrency::new(0, 7).limit(), 1);
        assert_eq!(Concurrency::new(4, 2).limit(), 2);
    }
}
