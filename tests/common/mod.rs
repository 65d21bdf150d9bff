//! What several promises share.

pub mod faulty_files;
pub mod history;
pub mod recording_files;
