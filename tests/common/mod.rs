//! Parts that several promises share.

pub mod client;
pub mod listener;
pub mod intake;
//! What several promises share.

pub mod faulty_files;
pub mod history;
pub mod recording_files;
