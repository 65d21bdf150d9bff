//! Takes due messages to their next hop and turns what the far side says into outcomes.
#![allow(dead_code)]

mod breaker;
mod classify;
mod commands;
mod opening;
pub mod options;
mod resolver;
mod route;
mod tls;
mod wire;

pub use options::Options;
