//! SMTP submission: listeners, connections, TLS and AUTH around the pure session of `smtp`.
//!
//! The protocol's rules are in `smtp::session`; here is what needs the world: sockets, clocks, password hashes,
//! certificate files, limits on clients. It must never answer 250 to a message before the intake has (D1), never read
//! a byte from before a handshake after it (S1), and never hold more than the configuration allows (S2). A session
//! that fails or panics ends alone; the listeners go on.

pub mod options;

mod accounts;
mod acquaintances;
mod admission;
mod connection;
mod domain_list;
mod door;
mod failures;
pub mod metrics;
mod passwords;
mod pressure;
pub mod proxy;
mod received;
mod reception;
mod recipients;
mod record;
mod server;
pub mod tls;
pub mod validity;
mod visit;

pub use metrics::SubmissionMetrics;
pub use options::Options;
pub use reception::{Prepared, Reception};
pub use recipients::Recipients;
pub use server::{BindError, Inherited, Server};
pub use tls::TlsError;
