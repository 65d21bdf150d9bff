//! The SMTP protocol with no I/O: what bytes mean, and which bytes to answer.
//!
//! Everything in here is a pure function or a pure state machine over bytes that are already there, so that it can be
//! tested and fuzzed without a socket. It imports `mail` for addresses and nothing else of this crate.

pub mod capabilities;
pub mod command;
pub mod content;
#[cfg(test)]
mod content_model;
#[cfg(test)]
mod content_tests;
pub mod data;
pub mod date_time;
pub mod dot_writer;
#[cfg(test)]
mod laws;
pub mod line;
pub mod parameters;
pub mod reply;
pub mod reply_reader;
pub mod sasl;
pub mod session;
pub mod transaction;

// `content` finds it as `super::sync`, and its model puts another in its place.
use std::sync;

pub use reply::{EnhancedCode, Reply};
