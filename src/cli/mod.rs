//! The command line: one file per subcommand.
//!
//! Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration, 3 no such message, key or route. Results go to standard output, problems
//! to standard error; a closed output never makes a panic.

mod check_config;
mod client;
mod completions;
mod confirm;
mod destinations;
mod doctor;
mod explain;
mod failure;
mod hash_password;
mod health;
mod json_log;
mod key;
mod log_fields;
mod log_privacy;
mod logging;
mod man;
mod paper;
mod queue;
mod reload;
mod serve;
mod status;
mod story;
mod suppressions;
mod table;
mod text;
mod text_log;
mod top;
mod words;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand};

use self::client::{Client, Remote};
use self::failure::Failure;
use crate::config::Errors;

/// Wrong usage or configuration; clap uses the same.
const USAGE: u8 = 2;

/// An SMTP submission relay that accepts each message once.
///
/// An application sends mail with the header X-Idempotency-Key and retries as often as it likes: the mail is queued
/// once, and each retry gets the first reply again.
#[derive(Parser, Debug)]
#[command(name = "oncemail", version, arg_required_else_help = true, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// The configuration file; without one, the configuration comes from ONCEMAIL_… variables alone
    // clap's own parser of paths would refuse an empty one.
    #[arg(long, short, global = true, env = "ONCEMAIL_CONFIG", value_name = "FILE",
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  Try it out: listens on 127.0.0.1:2525, delivers into ./mail/
    oncemail serve --config config/local.toml

  Say everything that is wrong with a configuration
    oncemail check-config --config /etc/oncemail/oncemail.toml

  From the environment alone, as in a container
    ONCEMAIL_SMARTHOST=smtp+starttls://user@smtp.example.com:587 \\
    ONCEMAIL_SMARTHOST_PASSWORD_FILE=/run/secrets/smarthost oncemail serve

  Change one key for one start
    ONCEMAIL__LOG__LEVEL=debug oncemail serve --config config/local.toml

Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration, 3 not found";

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the relay until SIGTERM or SIGINT; a second signal stops it at once
    Serve,
    /// Check the configuration and say what would run; all problems are told at once
    CheckConfig,
    /// Make a password_hash (argon2id) from a prompt, or from a line of standard input
    #[command(after_help = hash_password::EXAMPLES)]
    HashPassword,
    /// Ask the running server whether it is ready: exit code 0 when it is, 1 when it is not
    Health,
    /// Say in ten lines how the server is: readiness, queue, counts, latencies
    #[command(after_help = status::EXAMPLES)]
    Status(Remote),
    /// Watch the server live, on the whole terminal
    #[command(after_help = top::EXAMPLES)]
    Top(Remote),
    /// List, show and steer messages
    #[command(after_help = queue::EXAMPLES)]
    Queue(queue::Arguments),
    /// Tell what became of an idempotency key, or forget it
    #[command(after_help = key::EXAMPLES)]
    Key(key::Arguments),
    /// List where mail waits, with breakers and rates; close breakers
    #[command(after_help = destinations::EXAMPLES)]
    Destinations(destinations::Arguments),
    /// List, add or remove addresses that no mail is taken for
    #[command(after_help = suppressions::EXAMPLES)]
    Suppressions(suppressions::Arguments),
    /// Say what would happen to a message for an address now: route, hosts, TLS, limits, retries
    #[command(after_help = explain::EXAMPLES)]
    Explain(explain::Arguments),
    /// Look at everything that this relay needs, and say what to do: disk, certificates, DNS, every smarthost's login
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Arguments),
    /// Have the running server read its configuration again: all of it is taken, or nothing
    #[command(after_help = reload::EXAMPLES)]
    Reload(Remote),
    /// Print shell completions
    #[command(after_help = completions::EXAMPLES)]
    Completions {
        /// The shell to print them for
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each subcommand
    #[command(after_help = man::EXAMPLES)]
    Man {
        /// Write all pages into this directory
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Runs the command that the arguments ask for.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    // `ONCEMAIL_CONFIG=` in a compose file means "not set".
    let config = cli.config.as_deref().filter(|path| !path.as_os_str().is_empty());
    match cli.command {
        Command::Serve => serve::run(config),
        Command::CheckConfig => check_config::run(config),
        Command::HashPassword => hash_password::run(),
        Command::Health => health::run(config),
        Command::Doctor(arguments) => doctor::run(config, &arguments),
        Command::Status(remote) => {
            ask(&remote, config, async |client| status::run(client, remote.json).await)
        }
        Command::Top(remote) => ask(&remote, config, async |client| top::run(client, remote.json).await),
        Command::Queue(arguments) => {
            ask(&arguments.remote.clone(), config, async |client| queue::run(client, arguments).await)
        }
        Command::Key(arguments) => {
            ask(&arguments.remote.clone(), config, async |client| key::run(client, arguments).await)
        }
        Command::Destinations(arguments) => {
            ask(&arguments.remote.clone(), config, async |client| destinations::run(client, arguments).await)
        }
        Command::Suppressions(arguments) => {
            ask(&arguments.remote.clone(), config, async |client| suppressions::run(client, arguments).await)
        }
        Command::Explain(arguments) => {
            ask(&arguments.remote.clone(), config, async |client| explain::run(client, arguments).await)
        }
        Command::Reload(remote) => {
            ask(&remote, config, async |client| reload::run(client, remote.json).await)
        }
        Command::Man { out } => man::run(out.as_deref()),
        Command::Completions { shell } => completions::run(shell),
    }
}

/// Runs a command that talks to a server.
fn ask(
    remote: &Remote,
    config: Option<&Path>,
    command: impl AsyncFnOnce(&mut Client) -> Result<(), Failure>,
) -> ExitCode {
    let result = Client::new(remote, config).and_then(|mut client| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
        let result = runtime.block_on(command(&mut client));
        runtime.shutdown_background();
        result
    });
    result.map_or_else(|failure| failure.tell(), |()| ExitCode::SUCCESS)
}

/// The environment as the configuration reads it. What is not UTF-8 is not hidden: its broken text is refused there.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

fn load(path: Option<&Path>) -> Result<crate::config::Config, ExitCode> {
    crate::config::load(path, environment()).map_err(|errors| refuse(&errors))
}

/// Tells what is wrong with the configuration.
fn refuse(errors: &Errors) -> ExitCode {
    complain(&errors.to_string());
    ExitCode::from(USAGE)
}

/// Writes to standard error; when nobody listens there, the exit code alone has to do.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes a result to standard output. A reader that has gone away is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
