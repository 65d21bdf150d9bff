//! The configuration: whatever a file says, it is taken or every mistake is told with its place. Never a panic.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use oncemail::config;
use tempfile::TempDir;

use crate::dice::Dice;

/// Whether the environment speaks too, then the file.
pub fn run(input: &[u8]) {
    let mut dice = Dice::new(input);
    let env = environment(&mut dice);
    let text = dice.rest();
    // A configuration names files; devices and the system's own are not for a test to read.
    if [&b"/dev"[..], b"/proc", b"/sys", b"\\u"]
        .iter()
        .any(|name| text.windows(name.len()).any(|at| at == *name))
    {
        return;
    }
    let file = file();
    fs::write(&file, text).expect("a file in a directory for it");
    let lines = text.iter().filter(|b| **b == b'\n').count() + 1;
    match config::load(Some(&file), env.clone().into_iter()) {
        Ok(config) => {
            let again = config::load(Some(&file), env.into_iter()).expect("it was taken a moment ago");
            assert_eq!(config.data_dir, again.data_dir);
        }
        Err(errors) => {
            assert!(!errors.problems().is_empty());
            for problem in errors.problems() {
                let line = problem.place.line();
                assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{problem}: of {lines} lines");
                assert!(!problem.place.to_string().is_empty() && !problem.what.is_empty());
            }
            assert!(errors.to_string().contains("in the configuration"));
            assert!(config::load(Some(&file), env.into_iter()).is_err_and(|again| again == errors));
        }
    }
    let _ = config::data_dir(Some(&file), std::iter::empty());
}

/// Sometimes a few variables.
fn environment(dice: &mut Dice<'_>) -> Vec<(String, String)> {
    const NAMES: [&str; 6] = [
        "ONCEMAIL__HOSTNAME",
        "ONCEMAIL__LISTENER__0__ADDRESS",
        "ONCEMAIL__LIMITS__MESSAGE_SIZE",
        "ONCEMAIL_SMARTHOST",
        "ONCEMAIL__ROUTE__1__HOSTS",
        "ONCEMAIL__IDEMPOTENCY__TTL",
    ];
    let count = dice.below(16).saturating_sub(12);
    let mut variable = |_| {
        let name = dice.pick(&NAMES).to_owned();
        (name, String::from_utf8_lossy(dice.bytes(40)).replace("/dev", ""))
    };
    (0..count).map(&mut variable).collect()
}

/// One file for each process. `run.sh` says where, and removes it.
fn file() -> PathBuf {
    static PLACE: OnceLock<TempDir> = OnceLock::new();
    PLACE.get_or_init(|| TempDir::new().expect("a directory for one file")).path().join("oncemail.toml")
}
