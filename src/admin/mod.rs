//! Seeing and steering: the HTTP API, the dashboard, metrics and health, for people and programs that look after mail.
//!
//! It must never be in the way of mail: it holds no lock for longer than a few thousand entries take, whatever it reads
//! from the disk is bounded by the page that was asked for, and a client that is slow or gone costs nothing but its own
//! connection. What changes something is durable before the answer says so, and the log says who did it. A wrong
//! request is answered with a problem document (RFC 9457), and changes nothing.
//!
//! What it knows of the ways in and out it is told through [`ports`], which `app` connects.

mod access;
mod actions;
mod counts;
mod crowd;
#[cfg(test)]
mod crowd_model;
#[cfg(test)]
mod crowd_tests;
pub mod dashboard;
mod filter;
mod gate;
mod guard;
mod keys;
mod live;
mod messages;
pub mod model;
pub mod options;
mod outward;
mod parameters;
mod patient;
pub mod ports;
mod refusal;
mod request;
mod routes;
mod sampler;
mod server;
mod session;
pub mod socket;
mod story;
mod suppressions;
mod system;

pub use options::{Options, Role, Token};
pub use server::{Admin, BindError, Control, Parts};

use std::fmt::Display;
// `crowd` finds it as `super::sync`, and its model puts another in its place.
use std::sync;

use access::{Caller, Peer};

/// One line in the log for each thing that somebody did.
fn audit(caller: &Caller, action: &str, what: &dyn Display, result: &str) {
    let client = match caller.peer {
        Peer::Local => "unix socket".to_owned(),
        Peer::Network(address) => address.to_string(),
    };
    tracing::info!(target: "oncemail::admin", action, %what, by = &*caller.name, client, result, "operator");
}
