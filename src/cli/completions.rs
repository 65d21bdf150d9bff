//! `oncemail completions`: for the shell.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, print};

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail completions bash > ~/.local/share/bash-completion/completions/oncemail
  oncemail completions zsh > \"${fpath[1]}/_oncemail\"
  oncemail completions fish > ~/.config/fish/completions/oncemail.fish";

/// Prints the completions of `shell`.
pub(super) fn run(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "oncemail", &mut script);
    print(&String::from_utf8_lossy(&script))
}
