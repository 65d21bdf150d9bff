//! Starts the parts in order, and stops them in order.
//!
//! Start: store (recovers), queue, relay, listeners. A part that cannot start ends the process before any client has
//! been answered. Stop: listeners take nothing new and let sessions finish, then the relay waits for attempts that are
//! in doubt (R1), then the store makes a clean end. Each wait is bounded by `shutdown_grace`; what is not finished by
//! then is found again at the next start, so that an early end loses nothing that was acknowledged (D1).

mod descriptors;
pub mod health;
pub mod signals;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::intake::Intake;
use crate::queue::Queue;
use crate::relay::Relay;
use crate::store::files::RealFiles;
use crate::store::{EmbeddedStore, Recovery, Status, Store, embedded};
use crate::submission::Server;
use health::{Health, HealthSocket};

/// Runs until a signal comes.
///
/// # Errors
/// When a part cannot start, or the store cannot make a clean end.
pub async fn run(mut config: Config) -> anyhow::Result<()> {
    let connections = &mut config.submission.limits.connections;
    *connections = descriptors::make_room(*connections);
    let shutdown = signals::install().context("cannot listen for signals")?;
    let grace = config.shutdown_grace;
    let clock = Clock::system();
    let queue = Queue::new(config.queue, clock.clone());
    let (store, recovery) =
        open_store(&config.data_dir, config.min_free, clock.clone(), queue.clone()).await?;
    tracing::info!("{recovery}");
    queue.start(store.clone(), recovery.messages);
    let relay = Relay::new(config.relay, queue, clock.clone()).context("cannot set up the relay")?;
    let intake = Arc::new(Intake::new(store.clone(), config.intake, clock.clone()));
    let server = Server::bind(config.submission, intake, clock).await?;
    let health = HealthSocket::bind(&config.data_dir).await?;
    for (listener, address) in server.addresses() {
        tracing::info!(listener, %address, "listening");
    }

    let ended = CancellationToken::new();
    let asked = store.clone();
    let health = tokio::spawn(health.serve(move || readiness(&asked.status()), ended.clone()));
    let stop_relay = CancellationToken::new();
    let relay = tokio::spawn(relay.run(stop_relay.clone(), grace));
    server.run(shutdown, grace).await;
    stop_relay.cancel();
    let relayed = relay.await.context("the relay ended by a panic");
    let closed = store.close().await.context("the store made no clean end; the next start recovers");
    ended.cancel();
    health.await.context("the health socket ended by a panic")?;
    relayed.and(closed)?;
    tracing::info!("oncemail has stopped");
    Ok(())
}

/// Opens the embedded store, with what arrives going straight to the queue.
async fn open_store(
    data_dir: &Path,
    min_free: u64,
    clock: Clock,
    queue: Arc<Queue>,
) -> anyhow::Result<(Arc<dyn Store>, Recovery)> {
    // Mail is private: nobody but us reads the directory.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("cannot make the directory {}", data_dir.display()))?;
    let options = embedded::Options { min_free, ..embedded::Options::new(data_dir) };
    let open = move || EmbeddedStore::open(options, Arc::new(RealFiles), clock, queue);
    let opened = tokio::task::spawn_blocking(open).await.context("opening the store ended by a panic")?;
    let (store, recovery) =
        opened.with_context(|| format!("cannot open the store in {}", data_dir.display()))?;
    Ok((Arc::new(store), recovery))
}

/// D3: a latched store is not ready.
fn readiness(status: &Status) -> Health {
    let reason = match status {
        Status::Ready => return Health { ready: true, reasons: Vec::new() },
        Status::LowDisk { free_bytes } => {
            format!("new mail is refused: only {free_bytes} bytes are free (limits.min_free)")
        }
        Status::Latched { reason } => format!("the store has stopped writing until a restart: {reason}"),
        Status::Closed => "the store is closed".to_owned(),
    };
    Health { ready: false, reasons: vec![reason] }
}
