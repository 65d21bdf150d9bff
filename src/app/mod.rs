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

mod administration;
pub mod dumps;
pub mod health;
pub mod log_key;
pub mod metrics;
pub mod open_files;
mod opening;
mod outward;
mod parts;
mod process;
pub mod reload;
mod replays;
pub mod signals;
pub mod systemd;

use std::sync::{Arc, OnceLock};

use anyhow::{Context, anyhow};
use tokio_util::sync::CancellationToken;

use crate::admin::ports::Readiness;
use crate::admin::{self, Admin};
use crate::clock::Clock;
use crate::config::Config;
use crate::dns::Dns;
use crate::intake::Intake;
use crate::mail::{KeyKind, Scope, ScopedKey};
use crate::queue::Queue;
use crate::relay::Relay;
use crate::relay::options::WEBHOOK_CONNECTIONS;
use crate::store::history::History;
use crate::store::metrics::register_figures;
use crate::store::{EmbeddedStore, Store};
use crate::submission::{Inherited, Recipients, Server};
use administration::{Administration, Ready};
use health::{Health, HealthSocket};
use opening::{open_history, open_store, open_suppressions};
use outward::Outward;
use parts::Parts;
use reload::{Handles, Reloader, Source};
use replays::Announce;
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
    if recovery.is_sound() {
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
    let admin_options = config.admin.clone();
    let socket_dir = config.data_dir.clone();
    let (server, handles, reloader) =
        set_up(config, store, (queue, history), clock.clone(), source, sockets).await?;
    let relay = handles.relay.clone();
    let socket = HealthSocket::bind(&socket_dir).await?;

    let mut parts = Parts::new(shutdown);
    let state = parts.state();
    let ready = Ready { store: store.clone(), relay: relay.clone(), state: state.clone() };
    let admin = administration(&admin_options, &handles, &server, ready.clone(), &reloader, &clock).await?;
    // Only now: whoever waits for these lines finds everything there.
    for (listener, address) in server.addresses() {
        tracing::info!(listener, %address, "listening");
    }
    if let Some(address) = admin.address() {
        tracing::info!(%address, "the HTTP API is listening");
    }
    let stop = state.stop();
    let status = {
        let ready = ready.clone();
        move || said(&ready.ask())
    };
    let report = move || {
        let Readiness { ready, reasons } = ready.ask();
        Health { ready, reasons }
    };
    let mut health = tokio::spawn(socket.serve(report, gone.clone()));
    supervisor.ready();
    let asked = store.clone();
    parts.start(
        "the supervisor's watch",
        supervisor.follow(move || answer(asked.clone()), status, stop.clone()),
    );
    // Ends by itself, or with the store.
    tokio::spawn({
        let queue = handles.queue.clone();
        async move { queue.read_register().await }
    });
    let (one, other, grace) = (reloader.clone(), reloader.clone(), reloader.grace());
    parts.start("the relay", relay.run_within(stop.clone(), move || one.grace()));
    parts.start("submission", server.run_within(stop.clone(), move || other.grace()));
    parts.start("administration", admin.run(stop.clone(), grace));
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
) -> anyhow::Result<(Server, Handles, Reloader)> {
    let dns = Arc::new(Dns::new(config.dns.clone()));
    let suppressions = match config.suppression {
        Some(ttl) => Some(open_suppressions(&config.data_dir, ttl, clock.clone()).await?),
        None => None,
    };
    if let Some(list) = &suppressions {
        queue.suppress_into(list.clone());
    }
    let intake = Arc::new(Intake::new(store.clone(), config.intake.clone(), clock.clone()));
    queue.announce_to(Some(config.announcer.clone()));
    intake.remember_into(history.clone());
    intake.announce_to(Arc::new(Announce(queue.clone())));
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
        admin: Arc::default(),
        own_addresses,
    };
    Ok((server, handles.clone(), Reloader::new(source, handles, config)))
}

/// Makes the HTTP API over the parts, and the metrics of them all.
async fn administration(
    options: &admin::Options,
    handles: &Handles,
    server: &Server,
    ready: Ready,
    reloader: &Reloader,
    clock: &Clock,
) -> anyhow::Result<Admin> {
    let Handles { queue, intake, history, store, suppressions, relay, dns, .. } = handles;
    let config = reloader.config();
    let sources = metrics::Sources {
        intake: intake.metrics().clone(),
        submission: server.metrics(),
        queue: queue.clone(),
        relay: relay.counters(),
        dns: dns.clone(),
        store: store.clone(),
        data_dir: config.data_dir.clone(),
        min_free: config.min_free,
        ready: Arc::new({
            let ready = ready.clone();
            move || ready.ask().ready
        }),
        clock: clock.clone(),
    };
    let metrics = OnceLock::new();
    let process = Arc::new(Administration { ready, reloader: reloader.clone(), metrics });
    let outbound = Outward { relay: relay.clone(), queue: queue.clone(), suppressions: suppressions.clone() };
    let parts = admin::Parts {
        queue: queue.clone(),
        store: store.clone(),
        history: Some(history.clone()),
        suppressions: suppressions.clone(),
        outbound: Arc::new(outbound),
        process: process.clone(),
        clock: clock.clone(),
    };
    let admin = Admin::bind(options.clone(), parts).await?;
    let metrics = metrics::Metrics::new(sources, |registry| {
        store.metrics().register(registry);
        let ttl = config.intake.ttl;
        let known: Arc<dyn Store> = store.clone();
        register_figures(registry, known, Some(history.clone()), ttl, clock.clone());
        admin.register(registry);
    });
    let _ = process.metrics.set(metrics);
    let _ = handles.admin.set(admin.control());
    Ok(admin)
}

/// Makes room for all that the configuration allows, or allows less.
fn fit_open_files(config: &mut Config) -> anyhow::Result<()> {
    let limit = open_files::raise();
    let wanted = config.submission.limits.connections;
    let to_sinks = config.relay.sinks.len().saturating_mul(WEBHOOK_CONNECTIONS);
    let for_others = limit.saturating_sub(u64::try_from(to_sinks).unwrap_or(u64::MAX));
    let connections = open_files::fit(wanted, &config.relay.routes, for_others).ok_or_else(|| {
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

/// A readiness in a few words.
fn said(health: &Readiness) -> String {
    if health.ready { "takes and relays mail".to_owned() } else { health.reasons.join("; ") }
}

/// Comes when the store has answered something, whatever it is.
async fn answer(store: Arc<EmbeddedStore>) {
    // No client's: a header's key is never empty.
    let key = ScopedKey { scope: Scope::anonymous(), kind: KeyKind::Header, key: String::new() };
    let _ = store.find_key(&key).await;
}
