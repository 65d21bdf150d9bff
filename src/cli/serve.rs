//! `oncemail serve`: runs the relay. Prints nothing but the log.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::{self, Runtime};

use super::log_privacy::Privacy;
use super::{complain, environment, load, logging};
use crate::app::{self, reload::Source, systemd};
use crate::config::{Config, LogAddresses};
use crate::store::files::RealFiles;

/// How long threads that nobody waits for may take to end.
const STRAGGLERS: Duration = Duration::from_secs(1);

/// Loads the configuration and runs until a signal comes.
pub(super) fn run(path: Option<&Path>) -> ExitCode {
    let is_kept_to_itself = app::dumps::forbid();
    let config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let privacy = match privacy(&config) {
        Ok(privacy) => privacy,
        Err(error) => {
            complain(&format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let set_level = Box::new(logging::start(&config.log, privacy));
    if let Err(error) = is_kept_to_itself {
        tracing::warn!(%error, "core dumps could not be forbidden; one would hold passwords and mail");
    }
    // Before there are other threads.
    let sockets = match systemd::sockets() {
        Ok(sockets) => sockets,
        Err(error) => {
            tracing::error!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let supervisor = systemd::Supervisor::from_environment();
    let told = supervisor.clone();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let source = Source {
        path: path.map(Path::to_owned),
        environment: || environment().collect(),
        set_level,
        tell: Box::new(move |begins| told.reloading(begins)),
    };
    let result = runtime.block_on(app::run(config, source, supervisor, sockets));
    // Everything that matters has been waited for: a name lookup that still hangs does not hold up the end.
    runtime.shutdown_timeout(STRAGGLERS);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What other threads wake, first of all the one that commits, comes before what clients send next: who has been decided
/// about is told, however many others want something. Otherwise an overloaded worker would look at those only now and then.
fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_multi_thread().global_queue_interval(1).enable_all().build()
}

/// A log that is to name nobody does not begin without the key that it takes for that.
fn privacy(config: &Config) -> anyhow::Result<Privacy> {
    match config.log.addresses {
        LogAddresses::Full => Ok(Privacy::Full),
        LogAddresses::Hashed => app::log_key::load(&config.data_dir, &RealFiles).map(Privacy::hashed),
    }
}
