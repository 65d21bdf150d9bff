//! The log for people: time, level, what happened, and the fields that say something.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::log_fields::{Fields, MESSAGE, Value};
use super::log_privacy::Privacy;
use super::text::is_hostile;
use crate::clock::Clock;

/// One line an event.
pub(super) struct Lines {
    pub(super) privacy: Privacy,
    pub(super) clock: Clock,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let (colour, plain) = if writer.has_ansi_escapes() { (colour(*level), "\x1b[0m") } else { ("", "") };
        write!(writer, "{} {colour}{level:>5}{plain}", self.clock.now())?;
        // Where our own events come from, their words say.
        if !target.starts_with("oncemail") {
            write!(writer, " {target}:")?;
        }
        for (name, value) in &Fields::of(event, &self.privacy).list {
            match value {
                Value::Text(text) => write_field(&mut writer, name, &format!("{text:?}"))?,
                Value::Shown(text) if *name == MESSAGE || is_quoted(text) => {
                    write_field(&mut writer, name, text)?;
                }
                Value::Shown(text) => write_field(&mut writer, name, &format!("{text:?}"))?,
                Value::Plain(plain) => write_field(&mut writer, name, &plain.to_string())?,
            }
        }
        writeln!(writer)
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    }
}

/// Whether a text is one string in quotes already, with nothing behind its end.
fn is_quoted(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return false };
    let mut escaped = false;
    let ends_early = inner.chars().any(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    !ends_early && !escaped
}

/// ` name=value`, without quotes where they are not needed, and nothing for a field that is empty.
fn write_field(writer: &mut Writer<'_>, name: &str, value: &str) -> fmt::Result {
    if value == "\"\"" {
        return Ok(());
    }
    let bare = value.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(value);
    let value = if bare.contains([' ', '"', '\\']) { value } else { bare };
    match name {
        MESSAGE => writer.write_char(' ')?,
        _ if writer.has_ansi_escapes() => write!(writer, " \x1b[2m{name}=\x1b[0m")?,
        _ => write!(writer, " {name}=")?,
    }
    // What comes from outside must neither make a line of its own nor speak to the terminal.
    for c in value.chars() {
        if is_hostile(c) { write!(writer, "{}", c.escape_default())? } else { writer.write_char(c)? }
    }
    Ok(())
}
