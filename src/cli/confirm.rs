//! Asks before many things are changed at once.
//!
//! Without a terminal nobody can answer, and silence is no consent: a script has to say `--yes`.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use super::failure::Failure;

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Consent {
    /// It was given in advance.
    Given,
    /// Somebody is there who can be asked.
    Ask,
    /// Nobody is.
    Refuse,
}

/// A longer answer is no "yes", in bytes.
const MAX_ANSWER: u64 = 64;

/// Whether there is, or can be, consent; asked before anything is sent.
///
/// # Errors
/// [`Failure::Usage`] when nobody can be asked.
pub(super) fn possible(yes: bool) -> Result<(), Failure> {
    match consent(yes, is_terminal()) {
        Consent::Given | Consent::Ask => Ok(()),
        Consent::Refuse => Err(Failure::Usage(
            "this changes more than what is named: nobody is there to confirm it (standard input and standard error \
             are no terminal)\nsee what it would do with --dry-run, then say --yes"
                .to_owned(),
        )),
    }
}

/// Shows `question` on standard error and waits for an answer, unless `yes` was said.
///
/// # Errors
/// [`Failure::Usage`] when the answer is not yes.
pub(super) fn ask(yes: bool, question: &str) -> Result<(), Failure> {
    possible(yes)?;
    if consent(yes, is_terminal()) == Consent::Given {
        return Ok(());
    }
    let mut out = io::stderr();
    let _ = write!(out, "{question} [y/N] ").and_then(|()| out.flush());
    let mut line = String::new();
    let _ = io::stdin().lock().take(MAX_ANSWER).read_line(&mut line);
    if is_yes(&line) { Ok(()) } else { Err(Failure::Usage("not confirmed: nothing was changed".to_owned())) }
}

fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn consent(yes: bool, is_terminal: bool) -> Consent {
    match (yes, is_terminal) {
        (true, _) => Consent::Given,
        (false, true) => Consent::Ask,
        (false, false) => Consent::Refuse,
    }
}

fn is_yes(line: &str) -> bool {
    ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_no_consent() {
        assert_eq!(consent(true, true), Consent::Given);
        assert_eq!(consent(true, false), Consent::Given);
        assert_eq!(consent(false, true), Consent::Ask);
        assert_eq!(consent(false, false), Consent::Refuse);
        for no in ["", "\n", "n\n", "yess", "no", "y y"] {
            assert!(!is_yes(no), "{no}");
        }
        for yes in ["y\n", "YES\r\n", " yes "] {
            assert!(is_yes(yes), "{yes}");
        }
    }
}
