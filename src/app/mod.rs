//! Starts the parts in order, and stops them in order.

pub mod health;
pub mod signals;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;

use anyhow::Context;

use crate::config::Config;
use health::{Health, HealthSocket};

/// Runs until a signal comes.
///
/// # Errors
/// When a part cannot start.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = signals::install().context("cannot listen for signals")?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .with_context(|| format!("cannot make the directory {}", config.data_dir.display()))?;
    let health = HealthSocket::bind(&config.data_dir).await?;
    tracing::info!(hostname = config.submission.hostname, "oncemail is running");
    health.serve(|| Health { ready: true, reasons: Vec::new() }, shutdown).await;
    tracing::info!("oncemail has stopped");
    Ok(())
}
