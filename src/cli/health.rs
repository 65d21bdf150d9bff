//! `oncemail health`: asks the running server, for a container's health check.

use std::path::Path;
use std::process::ExitCode;

use super::{complain, environment, print, refuse};
use crate::app::health::{self, Health};
use crate::config;

/// Asks over the socket in the data directory.
pub(super) fn run(path: Option<&Path>) -> ExitCode {
    let data_dir = match config::data_dir(path, environment()) {
        Ok(data_dir) => data_dir,
        Err(errors) => return refuse(&errors),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return unhealthy(&error.to_string()),
    };
    match runtime.block_on(health::ask(&data_dir)) {
        Ok(Health { ready: true, .. }) => print("ready\n"),
        Ok(Health { reasons, .. }) => unhealthy(&format!("not ready: {}", reasons.join("; "))),
        Err(error) => unhealthy(&error.to_string()),
    }
}

fn unhealthy(reason: &str) -> ExitCode {
    complain(reason);
    ExitCode::FAILURE
}
