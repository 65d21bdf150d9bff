//! The `oncemail` binary: an exit code, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    oncemail::cli::run()
}
