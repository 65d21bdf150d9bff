//! Why a command ends without having done what it was asked: one sentence, and an exit code.

use std::process::ExitCode;

use super::{USAGE, complain};
use crate::cli::text::escaped;

/// What was asked for does not exist.
const NOT_FOUND: u8 = 3;

/// How a command ends early.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The command line, the configuration, or a value in them is wrong.
    Usage(String),
    /// There is no such message, key, route.
    NotFound(String),
    /// It was tried.
    Failed(String),
    /// The output has told it already.
    Told(Outcome),
    /// Whoever read the output has gone: nothing is wrong.
    ReaderGone,
}

/// How several things went, the worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Outcome {
    /// All is done.
    #[default]
    Done,
    /// Something was not there.
    NotFound,
    /// Something went wrong.
    Failed,
}

impl Outcome {
    /// The end of a command that has told everything.
    pub(super) fn finish(self) -> Result<(), Failure> {
        if self == Self::Done { Ok(()) } else { Err(Failure::Told(self)) }
    }
}

impl Failure {
    /// Says it on standard error, what a server said in a form that is harmless to a terminal.
    pub(super) fn tell(&self) -> ExitCode {
        if let Self::Usage(text) | Self::NotFound(text) | Self::Failed(text) = self {
            let lines: Vec<_> = text.lines().map(escaped).collect();
            complain(&lines.join("\n"));
        }
        self.exit()
    }

    fn exit(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(USAGE),
            Self::NotFound(_) | Self::Told(Outcome::NotFound) => ExitCode::from(NOT_FOUND),
            Self::Failed(_) | Self::Told(Outcome::Failed) => ExitCode::FAILURE,
            Self::Told(Outcome::Done) | Self::ReaderGone => ExitCode::SUCCESS,
        }
    }
}
