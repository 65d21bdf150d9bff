//! Parts that several promises share.

pub mod intake;
