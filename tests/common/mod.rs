//! Parts that several promises share.

pub mod admin_server;
pub mod certificates;
pub mod client;
pub mod command;
pub mod dns_server;
pub mod eventually;
pub mod far_side;
pub mod faulty_files;
pub mod gated;
pub mod history;
pub mod https_server;
pub mod intake;
pub mod listener;
pub mod log;
pub mod memory_disk;
pub mod openmetrics;
pub mod outcomes;
pub mod platter;
pub mod program;
pub mod pseudo_terminal;
pub mod relay_rig;
pub mod store_bed;
pub mod watched_store;
pub mod whole;
