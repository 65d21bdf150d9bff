//! The log: one event a line on standard output, as JSON or for people.
//!
//! An output that is closed or on a full disk loses lines, never the server: nothing in here panics or stops on a
//! failed write. What a line says of people is decided in `log_privacy.rs`, for every line. A pipe that is full because its reader has stopped reading holds the server up until it goes on.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use super::json_log::Objects;
use super::log_privacy::Privacy;
use super::text_log::Lines;
use crate::clock::Clock;
use crate::config::{Log, LogFormat};

/// Crates that tell more than an operator wants; `log.level` may still ask for them by name.
const NOISY: [&str; 4] = ["hickory_resolver", "hickory_proto", "hickory_net", "rustls"];

/// Starts the log for the whole process; gives back what changes its level. A second call changes nothing.
pub(super) fn start(log: &Log, privacy: Privacy) -> impl Fn(&str) + Send + Sync + 'static {
    let is_terminal = io::stdout().is_terminal();
    let is_json = match log.format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let layer = if is_json {
        json(io::stdout, privacy)
    } else {
        text(io::stdout, is_terminal && !no_colour(), privacy)
    };
    let (filter, handle) = reload::Layer::new(filter(&log.level));
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    // It fails only when the log is gone.
    move |level| drop(handle.reload(self::filter(level)))
}

/// The `NO_COLOR` convention: set to anything but nothing.
pub(super) fn no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn json<W>(writer: W, privacy: Privacy) -> BoxedLayer
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fmt::layer()
        .event_format(Objects { privacy })
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(writer)
        .boxed()
}

fn text<W>(writer: W, with_colours: bool, privacy: Privacy) -> BoxedLayer
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fmt::layer()
        .event_format(Lines { privacy, clock: Clock::system() })
        .with_ansi(with_colours)
        .log_internal_errors(false)
        .with_writer(writer)
        .boxed()
}

fn filter(level: &str) -> EnvFilter {
    EnvFilter::new(directives(level))
}

/// The operator's directives, after those that keep noisy crates at `warn` where the general level would show more.
fn directives(level: &str) -> String {
    let general = level.split(',').map(str::trim).rfind(|directive| !directive.contains('='));
    let is_quiet =
        general.is_some_and(|level| ["error", "warn", "off"].contains(&level.to_ascii_lowercase().as_str()));
    if is_quiet {
        return level.to_owned();
    }
    let quiet: String = NOISY.iter().map(|name| format!("{name}=warn,")).collect();
    format!("{quiet}{level}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text::is_hostile;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    fn logged(level: &str, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = json(move || writer.clone(), Privacy::Full).with_filter(filter(level));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_json_line_is_one_flat_object() {
        let line = logged("info", || tracing::info!(queue_id = "01X", "message queued"));
        let object: serde_json::Value = serde_json::from_str(line.trim_end()).unwrap();
        assert_eq!((&object["level"], &object["message"]), (&"INFO".into(), &"message queued".into()));
        assert_eq!(object["queue_id"], "01X");
        assert!(object["target"].as_str().unwrap().contains("logging"));
        assert!(humantime::parse_rfc3339(object["timestamp"].as_str().unwrap()).is_ok(), "{line}");
    }

    #[test]
    fn a_text_line_is_short_and_a_client_cannot_forge_another() {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = text(move || writer.clone(), false, Privacy::Full);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let (key, nothing) = (Some("order-1001"), None::<&str>);
            tracing::info!(target: "oncemail::relay", key, nothing, empty = "", client = %"\u{1b}[2J\n", "delivery");
            tracing::warn!(target: "hickory_proto", text = "two words", "trouble");
        });
        let lines = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = lines.lines().map(|line| line.split_once(' ').unwrap()).collect();
        let [(time, first), (_, second)] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        assert_eq!(*first, r#" INFO delivery key=order-1001 client="\u{1b}[2J\n""#);
        assert_eq!(*second, r#" WARN hickory_proto: trouble text="two words""#);
    }

    #[test]
    fn a_stranger_cannot_write_another_field_into_a_text_line() {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = text(move || writer.clone(), false, Privacy::Full);
        let forged = [
            "<1@x> outcome=delivered",
            "\"1\" outcome=delivered code=\"250\"",
            "\"a outcome=delivered\"@x.example",
            "x\\\" outcome=delivered",
            "\u{202e}x\u{2028}outcome=delivered",
        ];
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for forged in forged {
                tracing::info!(target: "oncemail::relay", shown = %forged, text = forged, "delivery");
            }
        });
        let lines = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.lines().count(), forged.len());
        for (line, forged) in lines.lines().zip(forged) {
            // As a reader of such lines takes them apart: a value in quotes goes to its closing quote.
            let values = line.split_once(" delivery ").unwrap().1;
            assert_eq!(values, format!("shown={forged:?} text={forged:?}"));
            assert!(!line.chars().any(is_hostile), "{line}");
        }
    }

    #[test]
    fn noisy_crates_are_quiet_unless_they_are_asked_for() {
        let noise = || tracing::info!(target: "rustls::client", "noise");
        assert_eq!(logged("debug", noise), "");
        assert!(logged("info,rustls=trace", noise).contains("noise"));
        let warning = || tracing::warn!(target: "rustls", "trouble");
        assert!(logged("info", warning).contains("trouble"));
        assert_eq!(logged("error", warning), "");
    }

    #[test]
    fn the_level_can_be_changed_while_it_runs() {
        let sink = Sink::default();
        let writer = sink.clone();
        let (level, handle) = reload::Layer::new(filter("warn"));
        let layer = json(move || writer.clone(), Privacy::Full).with_filter(level);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for level in ["debug", "error"] {
                tracing::info!("at {}", if level == "debug" { "first" } else { "last" });
                handle.reload(filter(level)).unwrap();
            }
            tracing::info!("never");
        });
        let lines = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(lines.contains("at last") && lines.lines().count() == 1, "{lines}");
    }

    #[test]
    fn an_output_that_is_closed_does_no_harm() {
        let layer = json(|| Closed, Privacy::Full);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!("nobody listens");
        });
    }

    #[test]
    fn no_line_of_either_form_names_anybody_where_that_is_not_wanted() {
        let sink = Sink::default();
        for is_json in [true, false] {
            let (writer, privacy) = (sink.clone(), Privacy::hashed([1; 32]));
            let layer = if is_json {
                json(move || writer.clone(), privacy)
            } else {
                text(move || writer.clone(), false, privacy)
            };
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                let error = io::Error::other("alice: \"alice@x.example\" is full");
                tracing::info!(target: "another::library", count = 3, ?error, "from alice@x.example");
            });
        }
        let lines = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(!lines.contains("alice") && lines.matches("@x.example").count() == 4, "{lines}");
    }
}
