//! Parts that several promises share.

pub mod client;
pub mod faulty_files;
pub mod gated;
pub mod history;
pub mod intake;
pub mod listener;
pub mod recording_files;
