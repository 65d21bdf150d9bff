//! Parts that several promises share.

pub mod client;
pub mod listener;
pub mod intake;
