//! The command line: one file per subcommand.
//!
//! Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration. Results go to standard output, problems
//! to standard error; a closed output never makes a panic.

mod check_config;
mod completions;
mod hash_password;
mod health;
mod logging;
mod serve;
mod text_log;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand};

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

Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration";

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
    /// Print shell completions
    #[command(after_help = completions::EXAMPLES)]
    Completions {
        /// The shell to print them for
        shell: clap_complete::Shell,
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
        Command::Completions { shell } => completions::run(shell),
    }
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
