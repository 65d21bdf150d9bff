//! Which message is due, who works on it, and when it is tried again.

pub mod options;
