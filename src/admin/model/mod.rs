//! The API's documents: what goes over the wire as JSON, for the server, the command line and the dashboard alike.
//!
//! Times are RFC 3339 in UTC (`2026-11-22T10:30:00Z`), durations whole or decimal seconds, sizes octets. A field that is
//! not known, or means nothing here, is left out. `docs/api.md` tells what each is for.

mod messages;
mod outward;
mod process;

pub use messages::*;
pub use outward::*;
pub use process::*;
