//! Starts the parts in order, and stops them in order.
//!
//! Start: store (recovers), queue, relay, listeners. A part that cannot start ends the process before any client has
//! been answered. Stop: listeners take nothing new and let messages that are being received come to their end, and at
//! the same time the relay starts no attempt any more and waits for those that are in doubt (R1); then the store makes
//! a clean end. Both waits together last no longer than `shutdown_grace`; what is not finished by then is found again
//! at the next start, so that an early end loses nothing that was acknowledged (D1).
//!
//! In between the configuration may be read again (`reload.rs`).
//!
//! A part that ends while it should run takes the others with it (`parts.rs`): nothing here runs half.

pub mod health;
pub mod metrics;
mod open_files;
mod outward;
mod parts;
mod process;
pub mod reload;
pub mod signals;
pub mod systemd;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::dns::Dns;
use crate::intake::Intake;
use crate::mail::{KeyKind, Scope, ScopedKey};
use crate::queue::Queue;
use crate::relay::Relay;
use crate::store::files::RealFiles;
use crate::store::history::{self, History};
use crate::store::suppression::Suppressions;
use crate::store::{EmbeddedStore, Recovery, Status, Store, embedded};
use crate::submission::{Inherited, Recipients, Server};
use health::{Health, HealthSocket};
use parts::Parts;
use reload::{Handles, Reloader, Source};
use signals::Hangups;
use systemd::Supervisor;

/// Runs until a signal comes, or a part fails.
///
/// # Errors
/// When a part cannot start or has failed, or the store cannot make a clean end.
pub async fn run(
    mut config: Config,
    source: Source,
    supervisor: Supervisor,
    sockets: Inherited,
) -> anyhow::Result<()> {
    let shutdown = signals::install().context("cannot listen for signals")?;
    let hangups = signals::hangups().context("cannot listen for signals")?;
    fit_open_files(&mut config)?;
    let clock = Clock::system();
    let queue = Queue::new(config.queue.clone(), clock.clone());
    let (store, recovery) =
        open_store(&config.data_dir, config.min_free, clock.clone(), queue.clone()).await?;
    if recovery.set_aside.is_empty() && recovery.missing_segments.is_empty() {
        tracing::info!("{recovery}");
    } else {
        tracing::error!("{recovery}");
    }
    let history = open_history(&config.data_dir, config.history.clone(), clock.clone()).await?;
    queue.remember_into(history.clone());
    queue.start(store.clone(), recovery.messages);
    let socket_gone = CancellationToken::new();
    let history_kept = history.clone();
    let around = Around { queue, history: history_kept, clock, source, hangups, supervisor, sockets };
    let served = serve(config, &store, around, &shutdown, &socket_gone).await;
    // Before the store, which gives the directory free.
    if let Err(error) = tokio::task::spawn_blocking(move || history.close()).await {
        tracing::error!(%error, "closing the history ended by a panic");
    }
    // Also when a part could not start: the next start is then quicker.
    let closed = store.close().await.context("the store made no clean end; the next start recovers");
    socket_gone.cancel();
    let health = served?;
    closed?;
    health.await.context("the health socket ended by a panic")?;
    tracing::info!("oncemail has stopped");
    Ok(())
}

/// What there is before the parts around the store are.
struct Around {
    queue: Arc<Queue>,
    history: Arc<History>,
    clock: Clock,
    source: Source,
    hangups: Hangups,
    supervisor: Supervisor,
    sockets: Inherited,
}

/// Starts everything in front of and behind the store, and waits for the end of it all. Gives back the health socket's
/// task, which answers until `gone` is cancelled.
async fn serve(
    config: Config,
    store: &Arc<EmbeddedStore>,
    around: Around,
    shutdown: &CancellationToken,
    gone: &CancellationToken,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let Around { queue, history, clock, source, hangups, supervisor, sockets } = around;
    let socket_dir = config.data_dir.clone();
    let (server, relay, reloader) = set_up(config, store, (queue, history), clock, source, sockets).await?;
    let socket = HealthSocket::bind(&socket_dir).await?;
    for (listener, address) in server.addresses() {
        tracing::info!(listener, %address, "listening");
    }

    let mut parts = Parts::new(shutdown);
    let state = parts.state();
    let (stop, asked, told) = (state.stop(), store.clone(), state.clone());
    let report = move || readiness(&asked.status(), told.stopping());
    let status = report.clone();
    let mut health = tokio::spawn(socket.serve(report, gone.clone()));
    supervisor.ready();
    let (asked, status) = (store.clone(), move || said(&status()));
    parts.start(
        "the supervisor's watch",
        supervisor.follow(move || answer(asked.clone()), status, stop.clone()),
    );
    let (one, other) = (reloader.clone(), reloader.clone());
    parts.start("the relay", relay.run_within(stop.clone(), move || one.grace()));
    parts.start("submission", server.run_within(stop.clone(), move || other.grace()));
    parts.start("reloading", reloader.follow(hangups, stop.clone()));
    tokio::select! {
        ended = parts.wait() => ended.map(|()| health),
        _ = &mut health => {
            stop.cancel();
            parts.wait().await.and(Err(anyhow!("the health socket has ended")))
        }
    }
}

/// Makes the parts around the store, and what tells them of a new configuration.
async fn set_up(
    mut config: Config,
    store: &Arc<EmbeddedStore>,
    (queue, history): (Arc<Queue>, Arc<History>),
    clock: Clock,
    source: Source,
    sockets: Inherited,
) -> anyhow::Result<(Server, Arc<Relay>, Reloader)> {
    let dns = Arc::new(Dns::new(config.dns.clone()));
    let suppressions = match config.suppression {
        Some(ttl) => Some(open_suppressions(&config.data_dir, ttl, clock.clone()).await?),
        None => None,
    };
    if let Some(list) = &suppressions {
        queue.suppress_into(list.clone());
    }
    let intake = Arc::new(Intake::new(store.clone(), config.intake.clone(), clock.clone()));
    intake.remember_into(history.clone());
    let recipients = Recipients { dns: dns.clone(), suppressions: suppressions.clone() };
    let (options, asked) = (config.submission.clone(), intake.clone());
    let server = Server::bind_with(options, sockets, asked, clock.clone(), recipients).await?;
    // Where the listeners really are is known only now; mail to them would come back.
    let own_addresses: Vec<_> = server.addresses().iter().map(|(_, address)| *address).collect();
    config.relay.own_addresses.clone_from(&own_addresses);
    let relay = Relay::new(config.relay.clone(), dns.clone(), queue.clone(), clock)
        .context("cannot set up the relay")?;
    let handles = Handles {
        queue,
        intake,
        history,
        store: store.clone(),
        suppressions,
        relay: relay.clone(),
        reception: server.reception(),
        dns,
        own_addresses,
    };
    Ok((server, relay, Reloader::new(source, handles, config)))
}

/// Makes room for all that the configuration allows, or allows less.
fn fit_open_files(config: &mut Config) -> anyhow::Result<()> {
    let limit = open_files::raise();
    let wanted = config.submission.limits.connections;
    let connections = open_files::fit(wanted, &config.relay.routes, limit).ok_or_else(|| {
        anyhow!("the system allows {limit} open files, which is too few: raise it (ulimit -n, LimitNOFILE)")
    })?;
    if connections < wanted {
        tracing::warn!(
            connections,
            open_files = limit,
            "limits.connections is lowered: the system allows too few open files (ulimit -n, LimitNOFILE)"
        );
        config.submission.limits.connections = connections;
    }
    Ok(())
}

/// Opens the embedded store, with what arrives going straight to the queue.
async fn open_store(
    data_dir: &Path,
    min_free: u64,
    clock: Clock,
    queue: Arc<Queue>,
) -> anyhow::Result<(Arc<EmbeddedStore>, Recovery)> {
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

/// Opens what is remembered of earlier messages.
async fn open_history(
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
async fn open_suppressions(
    data_dir: &Path,
    ttl: Duration,
    clock: Clock,
) -> anyhow::Result<Arc<Suppressions>> {
    let dir = data_dir.to_owned();
    let open = move || Suppressions::open(Arc::new(RealFiles), &dir, ttl, clock);
    let opened = tokio::task::spawn_blocking(open).await.context("opening the list ended by a panic")?;
    opened.with_context(|| format!("cannot open the list of suppressed addresses in {}", data_dir.display()))
}

/// A readiness in a few words.
fn said(health: &Health) -> String {
    if health.ready { "takes and relays mail".to_owned() } else { health.reasons.join("; ") }
}

/// Comes when the store has answered something, whatever it is.
async fn answer(store: Arc<EmbeddedStore>) {
    // No client's: a header's key is never empty.
    let key = ScopedKey { scope: Scope::anonymous(), kind: KeyKind::Header, key: String::new() };
    let _ = store.find_key(&key).await;
}

/// D3: a latched store is not ready; nor is anything that is about to stop.
fn readiness(status: &Status, stopping: Option<String>) -> Health {
    let store = match status {
        Status::Ready => None,
        Status::LowDisk { free_bytes } => {
            Some(format!("new mail is refused: only {free_bytes} bytes are free (limits.min_free)"))
        }
        Status::Latched { reason } => Some(format!("new mail is refused until a restart: {reason}")),
        Status::Closed => Some("the store is closed".to_owned()),
    };
    let reasons: Vec<_> = stopping.into_iter().chain(store).collect();
    Health { ready: reasons.is_empty(), reasons }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d3_whatever_keeps_mail_from_being_taken_is_not_ready_and_said() {
        assert_eq!(readiness(&Status::Ready, None), Health { ready: true, reasons: Vec::new() });
        let latched = Status::Latched { reason: "the disk is gone".to_owned() };
        let stopping = || Some("oncemail is stopping: the relay ended by a panic".to_owned());
        for (status, stopping, said) in [
            (Status::LowDisk { free_bytes: 17 }, None, "only 17 bytes are free"),
            (latched.clone(), None, "the disk is gone"),
            (Status::Closed, None, "closed"),
            (Status::Ready, stopping(), "the relay ended"),
            (latched, stopping(), "the relay ended"),
        ] {
            let health = readiness(&status, stopping);
            assert!(!health.ready && health.reasons.concat().contains(said), "{health:?}");
        }
    }
}
