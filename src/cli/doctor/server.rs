//! The running server, if there is one.

use std::path::PathBuf;

use super::report::Check;
use crate::app::health::{self, Health, HealthError};

/// Asks it whether it is ready, over its socket in the data directory.
pub(super) async fn running(data_dir: PathBuf) -> Vec<Check> {
    let what = "server";
    let advice = "see its log";
    vec![match health::ask(&data_dir).await {
        Ok(Health { ready: true, reasons }) if reasons.is_empty() => Check::ok(what, "ready".to_owned()),
        Ok(Health { ready: true, reasons }) => Check::warn(what, reasons.join("; "), advice),
        Ok(Health { reasons, .. }) => Check::fail(what, format!("not ready: {}", reasons.join("; ")), advice),
        Err(error @ HealthError::NotRunning { .. }) => Check::skip(what, error.to_string()),
        Err(error) => Check::fail(what, error.to_string(), advice),
    }]
}
