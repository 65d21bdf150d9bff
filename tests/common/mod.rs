//! Parts that several promises share.

pub mod gated;
pub mod intake;
