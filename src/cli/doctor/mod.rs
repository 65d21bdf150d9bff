//! `oncemail doctor`: looks at everything that this relay needs, and says in one line each what is so and what to do.
//!
//! It changes nothing but a probe file in the data directory, which it removes; it sends no mail, and goes nowhere but
//! where the configuration leads. All looks run at the same time, each with its own time limit: a part that is broken, or
//! hangs, costs no other its answer. What far sides say is shown in a form that is harmless to a terminal.

mod certificates;
mod machine;
mod names;
mod report;
mod routes;
mod server;
mod signing;
mod storage;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::environment;
use super::failure::{Failure, Outcome};
use super::paper::{Paper, say, say_json};
use crate::clock::Clock;
use crate::config::{self, Config, Errors};
use crate::dns::Dns;
use crate::relay::options::Timeouts;
use report::{Check, Report};

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail doctor
  oncemail doctor --offline          looks at this machine only, and connects to nobody
  oncemail doctor --json | jq '.checks[] | select(.status == \"fail\")'

Run it as the user that the server runs as: what may be read and written depends on that.

Exit codes: 0 nothing is wrong (there may be warnings), 1 something is";

/// No look takes longer; most take no second.
const LIMIT: Duration = Duration::from_secs(60);
/// Of a far side: shorter than those of a delivery, because somebody waits.
const CONNECT: Duration = Duration::from_secs(10);
const REPLY: Duration = Duration::from_secs(15);

/// What is asked for.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// Connect to nobody: no name servers, no far sides
    #[arg(long)]
    offline: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A group of checks that runs on its own.
struct Look {
    about: &'static str,
    task: JoinHandle<Vec<Check>>,
}

/// Looks, and prints what was found.
pub(super) fn run(path: Option<&Path>, arguments: &Arguments) -> ExitCode {
    let result = examine(path, arguments.offline).and_then(|report| {
        if arguments.json {
            say_json(&report.json())?;
        } else {
            say(&report.text(Paper::detect()))?;
        }
        if report.has_failed() { Outcome::Failed.finish() } else { Ok(()) }
    });
    result.map_or_else(|failure| failure.tell(), |()| ExitCode::SUCCESS)
}

fn examine(path: Option<&Path>, offline: bool) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let report = runtime.block_on(async {
        let begun = machine::Moment::now();
        let mut checks = match config::load(path, environment()) {
            Ok(config) => everything(config, offline).await,
            Err(errors) => without_configuration(path, &errors).await,
        };
        checks.push(machine::clock(&begun, &machine::Moment::now()));
        Report { checks }
    });
    // A look that hangs in the system does not hold up the answer.
    runtime.shutdown_background();
    Ok(report)
}

/// What can be said without one: where the data would be is mostly known all the same.
async fn without_configuration(path: Option<&Path>, errors: &Errors) -> Vec<Check> {
    let mut checks: Vec<_> = errors
        .problems()
        .iter()
        .map(|problem| {
            let advice = "correct it; `oncemail check-config` says the same";
            Check::fail("configuration", problem.to_string().replace('\n', " "), advice)
        })
        .collect();
    if let Ok(data_dir) = config::data_dir(path, environment()) {
        let looks = vec![disk(data_dir.clone(), 0), running(data_dir)];
        checks.extend(gather(looks, LIMIT).await);
    }
    checks
}

async fn everything(config: Config, offline: bool) -> Vec<Check> {
    let config = Arc::new(config);
    let places = format!(
        "{}, {}",
        counted(config.submission.listeners.len(), "listener"),
        counted(config.relay.routes.len(), "route")
    );
    let mut looks = vec![disk(config.data_dir.clone(), config.min_free), running(config.data_dir.clone())];
    let shared = config.clone();
    looks.push(blocking("machine", move || machine::open_files(&shared)));
    let shared = config.clone();
    looks.push(blocking("certificate", move || certificates::listeners(&shared, Clock::system().now())));
    let shared = config.clone();
    looks.push(blocking("directory", move || routes::directories(&shared)));
    if !offline {
        let dns = Arc::new(Dns::new(config.dns.clone()));
        looks.push(look("name servers", names::servers(config.clone())));
        looks.push(look("own name", names::own(config.clone())));
        looks.push(look("DKIM", signing::keys(config.clone(), dns.clone())));
        for number in 0..config.relay.routes.len() {
            looks.push(look("route", routes::route(config.clone(), number, dns.clone())));
        }
    }
    let mut checks = vec![Check::ok("configuration", format!("valid: {places}"))];
    checks.extend(gather(looks, LIMIT).await);
    if offline {
        checks.push(Check::skip("network", "not looked at, as --offline asks".to_owned()));
    }
    checks
}

fn disk(data_dir: PathBuf, min_free: u64) -> Look {
    blocking("data directory", move || storage::directory(&data_dir, min_free))
}

fn running(data_dir: PathBuf) -> Look {
    look("server", server::running(data_dir))
}

fn look(about: &'static str, checks: impl Future<Output = Vec<Check>> + Send + 'static) -> Look {
    Look { about, task: tokio::spawn(checks) }
}

fn blocking(about: &'static str, checks: impl FnOnce() -> Vec<Check> + Send + 'static) -> Look {
    Look { about, task: tokio::task::spawn_blocking(checks) }
}

/// All answers, in the order of the looks; a look without one says so.
async fn gather(looks: Vec<Look>, limit: Duration) -> Vec<Check> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut checks = Vec::new();
    for Look { about, task } in looks {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        match timeout(left, task).await {
            Ok(Ok(found)) => checks.extend(found),
            Ok(Err(error)) => {
                let advice = "report it as an error of oncemail";
                checks.push(Check::fail(about, format!("looking ended by a panic: {error}"), advice));
            }
            Err(_) => {
                let finding = format!("no answer within {} s", limit.as_secs());
                checks.push(Check::fail(
                    about,
                    finding,
                    "something hangs: a disk, a name server, a far side",
                ));
            }
        }
    }
    checks
}

/// Somebody waits at a terminal.
fn impatient(timeouts: Timeouts) -> Timeouts {
    Timeouts { connect: timeouts.connect.min(CONNECT), command: timeouts.command.min(REPLY), ..timeouts }
}

/// `1 route`, `2 routes`.
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::report::Status;
    use super::*;

    #[tokio::test]
    async fn a_look_that_breaks_down_costs_no_other_its_answer() {
        let panics = look("one", async { panic!("in a test") });
        let answers = blocking("other", || vec![Check::ok("other", "well".to_owned())]);
        let checks = gather(vec![panics, answers], LIMIT).await;
        let [Check { status: Status::Fail, .. }, Check { status: Status::Ok, .. }] = checks.as_slice() else {
            panic!("{checks:?}")
        };
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_not_waited_for() {
        let hangs = look("one", std::future::pending());
        let answers = look("other", async { vec![Check::ok("other", "well".to_owned())] });
        let checks = gather(vec![hangs, answers], Duration::from_millis(1100)).await;
        assert!(checks[0].finding.contains("no answer within 1 s"), "{checks:?}");
        assert_eq!(checks[1].finding, "well");
    }
}
