//! What is opened in the data directory before anything else: the store, the history, the list of suppressed addresses.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::clock::Clock;
use crate::queue::Queue;
use crate::store::files::{Files as _, RealFiles};
use crate::store::history::{self, History};
use crate::store::suppression::Suppressions;
use crate::store::{EmbeddedStore, Recovery, embedded};

/// Opens the embedded store, with what arrives going straight to the queue.
pub(super) async fn open_store(
    data_dir: &Path,
    min_free: u64,
    clock: Clock,
    queue: Arc<Queue>,
) -> anyhow::Result<(Arc<EmbeddedStore>, Recovery)> {
    // Mail is private: nobody but us reads the directory.
    RealFiles
        .create_dir(data_dir)
        .with_context(|| format!("cannot make the directory {}", data_dir.display()))?;
    let options = embedded::Options { min_free, ..embedded::Options::new(data_dir) };
    let open = move || EmbeddedStore::open(options, Arc::new(RealFiles), clock, queue);
    let opened = tokio::task::spawn_blocking(open).await.context("opening the store ended by a panic")?;
    let (store, recovery) =
        opened.with_context(|| format!("cannot open the store in {}", data_dir.display()))?;
    Ok((Arc::new(store), recovery))
}

/// Opens what is remembered of earlier messages.
pub(super) async fn open_history(
    data_dir: &Path,
    options: history::Options,
    clock: Clock,
) -> anyhow::Result<Arc<History>> {
    let dir = data_dir.to_owned();
    let open = move || History::open(Arc::new(RealFiles), &dir, options, clock);
    let opened = tokio::task::spawn_blocking(open).await.context("opening the history ended by a panic")?;
    opened.with_context(|| format!("cannot open the history in {}", data_dir.display()))
}

/// Opens the list of addresses that refused mail for good.
pub(super) async fn open_suppressions(
    data_dir: &Path,
    ttl: Duration,
    clock: Clock,
) -> anyhow::Result<Arc<Suppressions>> {
    let dir = data_dir.to_owned();
    let open = move || Suppressions::open(Arc::new(RealFiles), &dir, ttl, clock);
    let opened = tokio::task::spawn_blocking(open).await.context("opening the list ended by a panic")?;
    opened.with_context(|| format!("cannot open the list of suppressed addresses in {}", data_dir.display()))
}
