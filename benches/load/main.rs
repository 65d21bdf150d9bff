//! Load for SMTP relays on this machine: a generator, a sink that counts copies, scenarios that run a relay
//! between the two, and a probe of the disk.
//!
//! It must never be the limit of what it measures, never talk to anything but loopback, and always end by itself.
//! It fails with a sentence and exit code 1; a scenario whose mail was lost or copied fails too, whatever its rate.
//! `docs/performance.md` says which command measures which figure.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command line tool that measures real time and writes scratch files; nothing here is part of the relay"
)]

mod attack;
mod client;
mod disk;
mod generate;
mod message;
mod open_loop;
mod report;
mod scenario;
mod sink;
mod tally;
mod target;
mod usage;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Measures SMTP relays on loopback.
#[derive(Parser)]
#[command(name = "load", bin_name = "cargo bench --bench load --")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Submits messages as fast as the target takes them.
    Generate(generate::Cli),
    /// Accepts everything and counts the copies of each message; reads commands from standard input.
    Sink(sink::Cli),
    /// Runs a relay between generator and sink, and prints one table.
    Scenario(scenario::Cli),
    /// Durable commits per second of a directory: write and fdatasync.
    Disk(disk::Cli),
}

fn main() -> ExitCode {
    // `cargo bench` adds `--bench` to the arguments of every bench.
    let arguments: Vec<_> = std::env::args_os().filter(|argument| argument != "--bench").collect();
    // `cargo bench` or `cargo test --all-targets` runs every bench, and nobody asked for load.
    if arguments.len() < 2 {
        let _ = Cli::command().print_help();
        return ExitCode::SUCCESS;
    }
    let ended = match Cli::parse_from(arguments).command {
        Command::Generate(cli) => generate::main(&cli),
        Command::Sink(cli) => sink::main(&cli),
        Command::Scenario(cli) => scenario::main(&cli),
        Command::Disk(cli) => disk::main(&cli),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
