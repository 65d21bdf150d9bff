//! The configuration is read again, and what can be is brought into force while everything runs.
//!
//! All of it or nothing: every part first *prepares* (files are read, certificates and keys loaded, directories made) and
//! then, when all have, *commits*, which exchanges values and cannot fail. A reload that fails changes nothing and says
//! what `check-config` says. What only a restart can change stays as it is, and is named. One reload at a time.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::fit_open_files;
use super::signals::Hangups;
use crate::admin::Control;
use crate::admin::model::Reloaded;
use crate::config::{self, Config, Difference, Said};
use crate::dns::Dns;
use crate::intake::Intake;
use crate::queue::Queue;
use crate::relay::{self, Relay};
use crate::store::EmbeddedStore;
use crate::store::history::History;
use crate::store::suppression::Suppressions;
use crate::submission::{self, Reception, Recipients};

/// Where the configuration comes from, and whom to tell that `app` does not know.
pub struct Source {
    /// The file, if there is one.
    pub path: Option<PathBuf>,
    /// The environment.
    pub environment: fn() -> Vec<(String, String)>,
    /// Brings `log.level` into force, which is valid.
    pub set_level: Box<dyn Fn(&str) + Send + Sync>,
    /// Told when a reload begins (`true`), and when it has ended in either way (`false`).
    pub tell: Box<dyn Fn(bool) + Send + Sync>,
}

/// The parts that can be told anew.
#[derive(Clone)]
pub(super) struct Handles {
    pub(super) queue: Arc<Queue>,
    pub(super) intake: Arc<Intake>,
    pub(super) history: Arc<History>,
    pub(super) store: Arc<EmbeddedStore>,
    pub(super) suppressions: Option<Arc<Suppressions>>,
    pub(super) relay: Arc<Relay>,
    pub(super) reception: Reception,
    pub(super) dns: Arc<Dns>,
    /// Set when the API is there.
    pub(super) admin: Arc<OnceLock<Control>>,
    /// Where the listeners really are.
    pub(super) own_addresses: Vec<SocketAddr>,
}

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct Reloader(Arc<Inner>);

struct Inner {
    source: Source,
    handles: Handles,
    in_force: Mutex<InForce>,
    turn: tokio::sync::Mutex<()>,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

#[derive(Clone)]
struct InForce {
    config: Arc<Config>,
    dns: Arc<Dns>,
}

/// Everything that a new configuration needs, ready to be brought into force.
struct Prepared {
    in_force: InForce,
    relay: relay::Prepared,
    submission: submission::Prepared,
    reloaded: Reloaded,
}

impl Reloader {
    /// For the parts that were started with `config`.
    pub(super) fn new(source: Source, handles: Handles, config: Config) -> Self {
        let in_force = InForce { config: Arc::new(config), dns: handles.dns.clone() };
        let (succeeded, failed) = Default::default();
        let turn = tokio::sync::Mutex::new(());
        Self(Arc::new(Inner { source, handles, in_force: Mutex::new(in_force), turn, succeeded, failed }))
    }

    /// Reads the configuration again and brings into force what can be. `by` is for the log.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the words of `check-config`; nothing has changed.
    ///
    /// # Cancel safety
    /// A dropped future has changed everything or nothing.
    pub async fn reload(&self, by: &str) -> Result<Reloaded, Vec<String>> {
        let inner = self.0.clone();
        let _turn = inner.turn.lock().await;
        let _telling = Telling::begin(&inner.source);
        let reading = self.0.clone();
        let prepared = match tokio::task::spawn_blocking(move || reading.prepare()).await {
            Ok(prepared) => prepared,
            Err(error) => Err(vec![format!("the configuration could not be read: {error}")]),
        };
        match prepared {
            Ok(prepared) => {
                let (kept, history) =
                    (prepared.in_force.config.history.clone(), inner.handles.history.clone());
                let reloaded = inner.commit(prepared);
                // It writes and removes files, which no connection has to wait for.
                let kept = tokio::task::spawn_blocking(move || history.set_options(kept)).await;
                if let Err(error) = kept {
                    tracing::error!(%error, "the history keeps its old limits");
                }
                inner.succeeded.fetch_add(1, Ordering::Relaxed);
                let (changed, needs_restart) =
                    (reloaded.changed.join(", "), reloaded.needs_restart.join(", "));
                tracing::info!(by, changed, needs_restart, "the configuration was read again");
                Ok(reloaded)
            }
            Err(problems) => {
                inner.failed.fetch_add(1, Ordering::Relaxed);
                for problem in &problems {
                    tracing::error!(by, problem, "the configuration stays as it was: the new one is wrong");
                }
                Err(problems)
            }
        }
    }

    /// Reloads at every SIGHUP, until `stop`; one that has begun comes to its end.
    pub(super) async fn follow(self, mut hangups: Hangups, stop: CancellationToken) {
        while stop.run_until_cancelled(hangups.next()).await.is_some() {
            // Whatever is wrong has been logged.
            let _ = self.reload("SIGHUP").await;
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.0.in_force().config
    }

    /// The configuration in force as it was written, without secrets.
    pub fn shown(&self) -> serde_json::Value {
        self.config().said.shown()
    }

    /// How long a shutdown waits.
    pub(super) fn grace(&self) -> Duration {
        self.config().shutdown_grace
    }

    /// Reloads that have changed something or would have, and those that were refused, since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.0.succeeded.load(Ordering::Relaxed), self.0.failed.load(Ordering::Relaxed))
    }
}

impl Inner {
    /// Reads files; changes nothing.
    fn prepare(&self) -> Result<Prepared, Vec<String>> {
        let environment = (self.source.environment)().into_iter();
        let mut config = config::load(self.source.path.as_deref(), environment)
            .map_err(|errors| errors.problems().iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let before = self.in_force();
        let (said, difference) = before.config.said.followed_by(&config.said);
        keep(&mut config, &before.config, said);
        let wrong = |error: anyhow::Error| vec![format!("{error:#}")];
        fit_open_files(&mut config).map_err(wrong)?;
        let is_same_dns = config.dns == before.config.dns;
        let dns = if is_same_dns { before.dns.clone() } else { Arc::new(Dns::new(config.dns.clone())) };
        let recipients = Recipients { dns: dns.clone(), suppressions: self.handles.suppressions.clone() };
        let submission = self.handles.reception.prepare(config.submission.clone(), recipients);
        let submission = submission.map_err(|error| wrong(error.into()))?;
        config.relay.own_addresses.clone_from(&self.handles.own_addresses);
        // Webhooks and the event file are ways of the relay, and are prepared with it.
        let relay = self.handles.relay.prepare(config.relay.clone(), &dns);
        let relay = relay.map_err(|error| wrong(error.into()))?;
        keep_listeners(&mut config, &before.config);
        let Difference { changed, needs_restart } = difference;
        let in_force = InForce { config: Arc::new(config), dns };
        Ok(Prepared { in_force, relay, submission, reloaded: Reloaded { changed, needs_restart } })
    }

    /// Cannot fail, and waits for nothing.
    fn commit(&self, prepared: Prepared) -> Reloaded {
        let Prepared { in_force, relay, submission, reloaded } = prepared;
        let Handles { queue, intake, store, suppressions, relay: the_relay, reception, .. } = &self.handles;
        let config = &in_force.config;
        queue.change(config.queue.clone());
        intake.change(config.intake.clone());
        store.set_min_free(config.min_free);
        if let (Some(list), Some(ttl)) = (suppressions, config.suppression) {
            list.set_ttl(ttl);
        }
        reception.commit(submission);
        the_relay.commit(relay);
        // Only now: an event for a sink that has no way yet would have to wait.
        queue.announce_to(Some(config.announcer.clone()));
        if let Some(control) = self.handles.admin.get() {
            control.set_tokens(config.admin.tokens.clone());
        }
        (self.source.set_level)(&config.log.level);
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = in_force;
        reloaded
    }

    fn in_force(&self) -> InForce {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What only a restart can change stays as it is.
fn keep(config: &mut Config, before: &Config, said: Said) {
    config.said = said;
    config.data_dir.clone_from(&before.data_dir);
    (config.log.format, config.log.addresses) = (before.log.format, before.log.addresses);
    // Tokens that would leave an address open to everybody are not taken away.
    let is_local = before.admin.address.is_none_or(|address| address.ip().is_loopback());
    let tokens = std::mem::take(&mut config.admin.tokens);
    config.admin = before.admin.clone();
    if is_local || !tokens.is_empty() {
        config.admin.tokens = tokens;
    }
    for hostname in [
        &mut config.submission.hostname,
        &mut config.intake.hostname,
        &mut config.queue.hostname,
        &mut config.relay.hostname,
    ] {
        hostname.clone_from(&before.submission.hostname);
    }
    // Whether addresses are remembered at all is decided when the list is opened.
    config.suppression = before.suppression.map(|ttl| config.suppression.unwrap_or(ttl));
}

/// Listeners that are not where the new configuration has them stay where they are, with all that they say.
fn keep_listeners(config: &mut Config, before: &Config) {
    let next = std::mem::take(&mut config.submission.listeners);
    let kept = before.submission.listeners.iter().map(|own| {
        let same = next.iter().find(|other| other.name == own.name && other.address == own.address);
        same.unwrap_or(own).clone()
    });
    config.submission.listeners = kept.collect();
}

/// Says that it is over on whichever path that happens.
struct Telling<'a>(&'a Source);

impl<'a> Telling<'a> {
    fn begin(source: &'a Source) -> Self {
        (source.tell)(true);
        Self(source)
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        (self.0.tell)(false);
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}
