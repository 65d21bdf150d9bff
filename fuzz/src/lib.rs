//! What the fuzz targets check. Each module has one function `run`, which takes the fuzzer's input and panics when the
//! product does something that it must not do.
//!
//! Only public functions of the product are called, so what is found here can happen. Where it makes sense a slow and
//! simple reader stands beside the product's fast one, written from the RFC or from `docs/` and not from the code.
//! Nothing here depends on chance or on the clock: an input that fails, fails again.

pub mod address;
pub mod command;
pub mod config;
pub mod data;
pub mod dice;
pub mod fingerprint;
pub mod header;
pub mod history;
pub mod intake;
pub mod journal;
pub mod mails;
pub mod memory_files;
pub mod proxy_protocol;
pub mod recovery;
pub mod rendering;
pub mod reply;
pub mod session;
