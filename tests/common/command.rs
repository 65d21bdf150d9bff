//! The command line of the program under test; also for the soak test, which is a target of its own.

use std::path::Path;
use std::process::Command;

/// Runs `program` with none of the settings that whoever runs the tests may have in the environment.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ONCEMAIL") {
            command.env_remove(name);
        }
    }
    command
}
