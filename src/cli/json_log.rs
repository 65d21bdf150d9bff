//! The log for programs: timestamp (RFC 3339), level, fields and target side by side in one flat object.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use super::log_fields::{Fields, Value};
use super::log_privacy::Privacy;

/// One object an event.
pub(super) struct Objects {
    pub(super) privacy: Privacy,
}

impl<S, N> FormatEvent<S, N> for Objects
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
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let object = Object {
            timestamp,
            level: metadata.level().as_str(),
            target: metadata.target(),
            fields: Fields::of(event, &self.privacy),
        };
        let line = serde_json::to_string(&object).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

struct Object<'a> {
    timestamp: String,
    level: &'a str,
    target: &'a str,
    fields: Fields,
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        map.serialize_entry("level", self.level)?;
        for (name, value) in &self.fields.list {
            match value {
                Value::Text(text) | Value::Shown(text) => map.serialize_entry(name, text)?,
                Value::Plain(plain) => map.serialize_entry(name, plain)?,
            }
        }
        map.serialize_entry("target", self.target)?;
        map.end()
    }
}
