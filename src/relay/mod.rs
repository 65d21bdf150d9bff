//! Takes due messages to their next hop and turns what the far side says into outcomes.

pub mod options;
