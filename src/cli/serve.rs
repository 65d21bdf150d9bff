//! `oncemail serve`: runs the relay. Prints nothing but the log.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{complain, environment, load, logging};
use crate::app::{self, reload::Source, systemd};

/// How long threads that nobody waits for may take to end.
const STRAGGLERS: Duration = Duration::from_secs(1);

/// Loads the configuration and runs until a signal comes.
pub(super) fn run(path: Option<&Path>) -> ExitCode {
    let config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let set_level = Box::new(logging::start(&config.log));
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
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
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
