//! `oncemail man`: a manual page for each subcommand, made from the same words as `--help`.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, complain, print};

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail man | man -l -
  oncemail man --out /usr/local/share/man/man1";

/// Writes every page into `out`, or prints the first.
pub(super) fn run(out: Option<&Path>) -> ExitCode {
    let command = Cli::command();
    let Some(out) = out else {
        let mut page = Vec::new();
        return match Man::new(command).render(&mut page) {
            Ok(()) => print(&String::from_utf8_lossy(&page)),
            Err(error) => failed("the manual page", &error),
        };
    };
    let written = std::fs::create_dir_all(out).and_then(|()| clap_mangen::generate_to(command, out));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&out.display().to_string(), &error),
    }
}

fn failed(what: &str, error: &std::io::Error) -> ExitCode {
    complain(&format!("cannot write {what}: {error}"));
    ExitCode::FAILURE
}
