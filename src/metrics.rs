//! What parts measure of themselves, in the form in which it is shown.
//!
//! Each part has the counters that it needs, made by itself and registered by `app` (`fn register(&self, &mut Registry)`);
//! there is no global registry. Names follow Prometheus' conventions: `oncemail_` in front, base units, `_total` behind
//! what only grows. No label may have values that a client, a message or a far side makes up.

pub use prometheus_client::registry::Registry;
