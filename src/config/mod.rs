//! From a file and the environment to a validated [`Config`], or to everything that is wrong with it.
//!
//! A configuration is taken whole or not at all: no key is ignored, no value is repaired, and one run names every
//! problem with its place and a hint. Secrets are never printed. Only `cli` and `app` import this module; every other
//! part receives its own options.
//!
//! # Sources
//! 1. The file that `--config` or `ONCEMAIL_CONFIG` names.
//! 2. The short variables of a container: `ONCEMAIL_SMARTHOST`, `ONCEMAIL_SMARTHOST_PASSWORD` or `…_PASSWORD_FILE`,
//!    `ONCEMAIL_USERS_FILE` (see `container.rs` for what they stand for, and for the defaults without a file).
//! 3. `ONCEMAIL__SECTION__KEY` for any single key; `ONCEMAIL__ROUTE__0__KEY` where sections repeat. These win.
//!
//! Relative paths are relative to the directory that the command is started in. An empty variable counts as not set.

mod admin;
mod container;
mod credentials;
mod dkim;
mod dns;
mod environment;
mod errors;
mod files;
mod history;
mod keys;
mod listeners;
mod log;
mod presets;
mod recipients;
mod routes;
mod said;
#[cfg(test)]
mod secrecy;
mod section;
mod settings;
mod smtp;
mod tree;
mod units;
mod users;
mod webhooks;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use errors::{Errors, Place, Problem};
pub use log::{Log, LogAddresses, LogFormat};
pub use said::{Difference, Said};

use crate::{intake, queue, relay, store, submission};
use environment::Variables;
use errors::Problems;
use section::Section;
use tree::Table;

/// Where mail is kept unless the configuration says otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/oncemail";
/// How long a shutdown waits for what is under way, unless the configuration says otherwise.
const DEFAULT_SHUTDOWN_GRACE: Duration = Duration::from_secs(30);

/// Everything that a running relay is told, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where mail, keys and the health socket are.
    pub data_dir: PathBuf,
    /// `limits.min_free`: new mail is refused while less is free on the disk, in bytes.
    pub min_free: u64,
    /// For the listeners.
    pub submission: submission::options::Options,
    /// For the intake.
    pub intake: intake::Options,
    /// For the queue.
    pub queue: queue::options::Options,
    /// For the relay.
    pub relay: relay::options::Options,
    /// `[dns]`.
    pub dns: crate::dns::Options,
    /// `[suppression]`: how long an address that bounced is remembered; `None`: not at all.
    pub suppression: Option<Duration>,
    /// `[history]`: for how long ends and replays are remembered.
    pub history: store::history::Options,
    /// `[[webhook]]` and `[events]`: who is told of what.
    pub announcer: queue::Announcer,
    /// `[admin]`.
    pub admin: crate::admin::Options,
    /// For the log.
    pub log: Log,
    /// How long a shutdown waits for transactions and in-doubt attempts.
    pub shutdown_grace: Duration,
    /// All of it as it was written, to be compared and shown.
    pub said: Said,
}

/// Loads the configuration from `path`, if there is one, and `env`.
///
/// # Errors
/// Every problem that was found.
pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Config, Errors> {
    let problems = Problems::default();
    let root = read_tree(path, env, &problems)?;
    keys::check(&root, &problems);
    let config = read_config(&root, &problems);
    problems.finish(config, &root.place)
}

/// Only the data directory, for a command that talks to a server that is running already: what else has become wrong
/// with the configuration since does not matter to it.
///
/// # Errors
/// When the file cannot be read, or `data_dir` is wrong.
pub fn data_dir(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<PathBuf, Errors> {
    let root = read_tree(path, env, &Problems::default())?;
    let problems = Problems::default();
    let data_dir = read_data_dir(&Section::top(&root, &problems));
    problems.finish(Some(data_dir), &root.place)
}

/// File and environment as one tree. Without a file the environment must say something.
fn read_tree(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    problems: &Problems,
) -> Result<Table, Errors> {
    let variables = Variables::collect(env);
    let mut root = match path {
        Some(path) => read_file(path)?,
        None if variables.is_empty() => return Err(nothing_given().into()),
        None => Table::new(Place::whole("environment")),
    };
    container::apply(&mut root, &variables, path.is_some(), problems);
    environment::apply(&mut root, &variables, problems);
    Ok(root)
}

fn read_file(path: &Path) -> Result<Table, Problem> {
    let source: Arc<str> = path.display().to_string().into();
    let text = files::text(path).map_err(|what| Problem {
        place: Place::whole(Arc::clone(&source)),
        what,
        hint: Some("a configuration to start with is config/local.toml".to_owned()),
    })?;
    tree::parse(&text, &source)
}

fn nothing_given() -> Problem {
    Problem {
        place: Place::whole("oncemail"),
        what: "no configuration is given".to_owned(),
        hint: Some(
            "to try it out: --config config/local.toml; in a container set ONCEMAIL_SMARTHOST, \
             for example smtp+starttls://user@smtp.example.com:587"
                .to_owned(),
        ),
    }
}

fn read_config(root: &Table, problems: &Problems) -> Option<Config> {
    let top = Section::top(root, problems);
    let hostname = read_hostname(&top);
    let limits = settings::limits(root, problems);
    let users = users::users(root, problems);
    let submission = listeners::submission(root, problems, hostname.clone(), users, limits.submission);
    let dns = dns::read(root, problems);
    let around = routes::Around { submission: &submission, dnssec: dns.dnssec };
    let (sinks, announcer) = webhooks::read(root, problems);
    let relay = relay::options::Options {
        hostname: hostname.clone(),
        routes: routes::routes(root, problems, &around),
        breaker: settings::breaker(root, problems),
        timeouts: relay::options::Timeouts::default(),
        dkim: dkim::keys(root, problems),
        own_addresses: submission.listeners.iter().map(|listener| listener.address).collect(),
        sinks,
    };
    settings::store(root, problems);
    let data_dir = read_data_dir(&top);
    Some(Config {
        admin: admin::read(root, problems, data_dir.clone(), hostname.clone()),
        data_dir,
        min_free: limits.min_free,
        intake: settings::intake(root, problems, hostname.clone()),
        queue: settings::queue(root, problems, hostname, limits.queue_memory),
        history: history::read(root, problems, limits.min_free),
        log: log::read(root, problems),
        shutdown_grace: top.duration(
            "shutdown_grace",
            DEFAULT_SHUTDOWN_GRACE,
            &(Duration::from_secs(1)..=Duration::from_secs(3600)),
        ),
        submission,
        relay,
        announcer,
        dns,
        suppression: recipients::suppression(root, problems),
        said: Said::of(root),
    })
}

fn read_data_dir(top: &Section<'_>) -> PathBuf {
    let path = top.path("data_dir").unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
    if path.exists() && !path.is_dir() {
        let what = format!("`data_dir`: {} is not a directory", path.display());
        top.problem("data_dir", what, "it is made when it is not there");
    }
    path
}

/// The configured name, or the system's when that is one.
fn read_hostname(top: &Section<'_>) -> String {
    if top.has("hostname") {
        return top.parsed("hostname", units::machine).unwrap_or_default();
    }
    let system = rustix::system::uname().nodename().to_string_lossy().into_owned();
    units::machine(&system).unwrap_or_else(|_| {
        let what = format!("the system's name {system:?} is no domain name");
        top.problem("hostname", what, "set it: hostname = \"relay.example.com\"");
        String::new()
    })
}
