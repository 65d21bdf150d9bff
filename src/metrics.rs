//! What parts measure of themselves, in the form in which it is shown.
//!
//! Each part has the counters that it needs, made by itself and registered by `app` (`fn register(&self, &mut Registry)`);
//! there is no global registry. Names follow Prometheus' conventions: `oncemail_` in front, base units, `_total` behind
//! what only grows. No label may have values that a client, a message or a far side makes up.
//!
//! To count is an atomic add or two: no lock, no memory, whatever is being shown meanwhile. So a counter has all values
//! of its label from the start ([`Tally`]), and what is named by the configuration (routes, listeners) is looked up when
//! it is set up and not when it is counted ([`Named`]). What is counted lives as long as the process.

mod latency;
mod show;

pub use latency::Latency;
pub use prometheus_client::collector::Collector;
pub use prometheus_client::encoding::DescriptorEncoder;
pub use prometheus_client::registry::Registry;
pub use show::{Sample, counters, gauges, latencies, one_counter, one_gauge, one_latency};

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A label whose values are known when the program is built.
pub trait Label: Copy + 'static {
    /// What it is called.
    const NAME: &'static str;
    /// All values, as they are shown.
    const VALUES: &'static [&'static str];

    /// Its place in [`Label::VALUES`].
    fn index(self) -> usize;
}

/// Something that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, many: u64) {
        self.0.fetch_add(many, Ordering::Relaxed);
    }

    /// So many fewer, for what is there now and not what has been.
    pub fn take(&self, many: u64) {
        self.0.fetch_sub(many, Ordering::Relaxed);
    }

    /// Now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts something while it is there: one less when this is dropped.
#[derive(Debug)]
pub struct Present<T: AsRef<Count>>(Arc<T>);

impl<T: AsRef<Count>> Present<T> {
    /// One more, from now on.
    pub fn new(of: Arc<T>) -> Self {
        T::as_ref(&of).add_one();
        Self(of)
    }
}

impl<T: AsRef<Count>> Drop for Present<T> {
    fn drop(&mut self) {
        T::as_ref(&self.0).take(1);
    }
}

impl AsRef<Self> for Count {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// One counter, or whatever else is measured, for each value of a label.
#[derive(Debug)]
pub struct Tally<L: Label, T = Count> {
    of: Box<[T]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, T: Default> Default for Tally<L, T> {
    fn default() -> Self {
        Self { of: L::VALUES.iter().map(|_| T::default()).collect(), label: PhantomData }
    }
}

impl<L: Label, T> Tally<L, T> {
    /// What is measured for this value.
    pub fn of(&self, value: L) -> Option<&T> {
        self.of.get(value.index())
    }

    /// Every value.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &T)> {
        L::VALUES.iter().copied().zip(&self.of)
    }

    /// Every value with its label, to be shown.
    pub fn labelled(&self) -> impl Iterator<Item = ([(&'static str, &'static str); 1], &T)> {
        self.each().map(|(value, one)| ([(L::NAME, value)], one))
    }
}

impl<L: Label> Tally<L> {
    /// One more of this value.
    pub fn add_one(&self, value: L) {
        self.add(value, 1);
    }

    /// So many more of this value.
    pub fn add(&self, value: L, many: u64) {
        if let Some(count) = self.of(value) {
            count.add(many);
        }
    }

    /// How many there were of this value.
    pub fn get(&self, value: L) -> u64 {
        self.of(value).map_or(0, Count::get)
    }

    /// How many there were of all.
    pub fn sum(&self) -> u64 {
        self.of.iter().map(Count::get).sum()
    }

    /// Every value with its label, to be shown.
    pub fn samples(&self) -> impl Iterator<Item = Sample<'static, 1>> {
        self.labelled().map(|(labels, count)| (labels, count.get()))
    }
}

/// What is measured of each thing that the configuration names, such as a route. A name that is gone stays, with what
/// was counted, so that nothing ever shrinks.
#[derive(Debug)]
pub struct Named<T>(Mutex<BTreeMap<Arc<str>, Arc<T>>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Default> Named<T> {
    /// The one of this name. Takes a lock: for setting up, and not for counting.
    pub fn of(&self, name: &str) -> Arc<T> {
        self.known().entry(name.into()).or_default().clone()
    }
}

impl<T> Named<T> {
    /// All of them by name, in order.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<T>)> {
        self.known().iter().map(|(name, one)| (name.clone(), one.clone())).collect()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the lines of a [`Label`]: its values, and which of them each variant is.
macro_rules! label {
    ($(#[$meta:meta])* $visible:vis $name:ident as $label:literal { $($(#[$doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $visible enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $crate::metrics::Label for $name {
            const NAME: &'static str = $label;
            const VALUES: &'static [&'static str] = &[$($value,)+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

pub(crate) use label;

#[cfg(test)]
mod tests {
    use super::*;

    label! {
        /// For the test.
        Colour as "colour" {
            /// One.
            Red = "red",
            /// Another.
            Blue = "blue",
        }
    }

    #[test]
    fn a_tally_has_every_value_from_the_start_and_counts_each_alone() {
        let tally = Tally::<Colour>::default();
        tally.add_one(Colour::Blue);
        let all: Vec<_> = tally.samples().collect();
        assert_eq!(all, [([("colour", "red")], 0), ([("colour", "blue")], 1)]);
        assert_eq!((tally.get(Colour::Blue), tally.get(Colour::Red), tally.sum()), (1, 0, 1));
    }

    #[test]
    fn what_is_present_is_counted_until_it_is_dropped() {
        let count = Arc::<Count>::default();
        let here = Present::new(count.clone());
        assert_eq!(count.get(), 1);
        drop(here);
        assert_eq!(count.get(), 0);
    }

    #[test]
    fn a_name_keeps_what_was_counted_for_it() {
        let named = Named::<Count>::default();
        named.of("a").add(2);
        named.of("a").add_one();
        named.of("b");
        let all: Vec<_> =
            named.all().into_iter().map(|(name, count)| (name.to_string(), count.get())).collect();
        assert_eq!(all, [("a".to_owned(), 3), ("b".to_owned(), 0)]);
    }
}
