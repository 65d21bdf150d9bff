//! Where chance comes from that decides what happens: queue ids, waits, the order of hosts.
//!
//! The system's generator, unless a simulation has seeded its thread: then everything that is drawn on that thread is
//! the same for the same seed, and a run can be repeated. Secrets must never be drawn here: keys and salts ask the
//! generator themselves, so that no seed can foretell them.

use std::cell::RefCell;
use std::marker::PhantomData;

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// The thread's chance, as a generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chance;

/// The thread is seeded as long as this lives. It stays on its thread.
#[derive(Debug)]
pub struct Seeded(PhantomData<*const ()>);

/// Draws one value.
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    Chance.random()
}

/// Makes what this thread draws repeatable; for simulations.
#[must_use = "chance is the system's again when this is dropped"]
pub fn seed(seed: u64) -> Seeded {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
    Seeded(PhantomData)
}

impl Drop for Seeded {
    fn drop(&mut self) {
        SEEDED.set(None);
    }
}

impl RngCore for Chance {
    fn next_u32(&mut self) -> u32 {
        SEEDED.with_borrow_mut(|seeded| match seeded {
            Some(seeded) => seeded.next_u32(),
            None => rand::rng().next_u32(),
        })
    }

    fn next_u64(&mut self) -> u64 {
        SEEDED.with_borrow_mut(|seeded| match seeded {
            Some(seeded) => seeded.next_u64(),
            None => rand::rng().next_u64(),
        })
    }

    fn fill_bytes(&mut self, octets: &mut [u8]) {
        SEEDED.with_borrow_mut(|seeded| match seeded {
            Some(seeded) => seeded.fill_bytes(octets),
            None => rand::rng().fill_bytes(octets),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_repeated_on_its_thread_and_ends_with_its_guard() {
        let draw = || -> [u64; 4] { std::array::from_fn(|_| random()) };
        let seeded = |number| {
            let _guard = seed(number);
            draw()
        };
        assert_eq!(seeded(1), seeded(1));
        assert_ne!(seeded(1), seeded(2));
        assert_ne!(draw(), draw());
        let _guard = seed(1);
        let elsewhere = std::thread::spawn(draw).join().unwrap();
        assert_ne!(elsewhere, draw());
    }
}
