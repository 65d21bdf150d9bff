//! Parts that several promises share.

pub mod far_side;
pub mod relay_rig;
pub mod watched_store;
