//! `[log]`.

use tracing_subscriber::EnvFilter;

use super::errors::{Problems, nearest};
use super::section::Section;
use super::tree::Table;

/// The words for how much is logged.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// What the log looks like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// One event's form.
    pub format: LogFormat,
    /// A level, or a filter as `tracing_subscriber::EnvFilter` reads it: `info,oncemail::relay=debug`.
    pub level: String,
    /// How much of an address a line shows.
    pub addresses: LogAddresses,
}

/// `log.addresses`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogAddresses {
    /// All of it.
    #[default]
    Full,
    /// The domain, and a hash.
    Hashed,
}

/// `log.format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Reads `[log]`.
pub(super) fn read(root: &Table, problems: &Problems) -> Log {
    let section = Section::once(root, "log", problems);
    Log {
        format: section.choice(
            "format",
            LogFormat::Auto,
            &[("json", LogFormat::Json), ("text", LogFormat::Text)],
        ),
        level: section.parsed("level", level).unwrap_or_else(|| "info".to_owned()),
        addresses: section.choice(
            "addresses",
            LogAddresses::Full,
            &[("full", LogAddresses::Full), ("hashed", LogAddresses::Hashed)],
        ),
    }
}

/// A word that is no level would be taken for a module's name by the filter, and silently show nothing: it is refused.
fn level(text: &str) -> Result<String, String> {
    let wanted = |word: &str| match nearest(word, LEVELS) {
        Some(near) => format!("a level: did you mean \"{near}\"?"),
        None => format!("one of {}, or a filter such as \"info,oncemail::relay=debug\"", LEVELS.join(", ")),
    };
    for directive in text.split(',').map(str::trim) {
        let word = directive.rsplit('=').next().unwrap_or_default();
        if !LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
            return Err(wanted(word));
        }
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|_| wanted(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_or_a_filter_and_nothing_else() {
        assert!(level("debug").is_ok() && level("warn,oncemail::relay=debug").is_ok());
        assert_eq!(level("inof"), Err("a level: did you mean \"info\"?".to_owned()));
        assert!(level("").is_err() && level("oncemail=loud").is_err() && level("info,").is_err());
    }
}
