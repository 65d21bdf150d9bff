//! Every promise of oncemail, one file each, in one binary.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod cli;
mod common;
mod config;
mod crash;
mod descriptors;
mod destinations;
mod dialogs;
mod idempotency;
mod kill;
mod layers;
mod mail_hosts;
mod mx;
mod oauth;
mod process;
mod queue;
mod relay;
mod shutdown;
mod store;
mod store_damage;
mod store_model;
mod submission;
mod tls;
