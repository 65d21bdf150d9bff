//! What one event of the log says, field by field: the one place that every line passes before it is written.

use std::fmt;

use serde_json::{Number, Value as Json};
use tracing::Event;
use tracing::field::{Field, Visit};

use super::log_privacy::Privacy;

/// The field that holds an event's own words.
pub(super) const MESSAGE: &str = "message";

/// Names and values in the order in which they were written.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) list: Vec<(&'static str, Value)>,
}

/// One value.
#[derive(Debug, PartialEq)]
pub(super) enum Value {
    /// A text.
    Text(String),
    /// Something in the form in which it shows itself.
    Shown(String),
    /// A number or a truth, which names nobody.
    Plain(Json),
}

impl Fields {
    /// Those of an event, with as much of its addresses as `privacy` lets through.
    pub(super) fn of(event: &Event<'_>, privacy: &Privacy) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        privacy.apply(&mut fields);
        fields
    }

    fn push(&mut self, field: &Field, value: Value) {
        self.list.push((field.name().trim_start_matches("r#"), value));
    }
}

impl Value {
    /// The text, whoever wrote it.
    pub(super) fn text_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Text(text) | Self::Shown(text) => Some(text),
            Self::Plain(_) => None,
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let number = Number::from_f64(value);
        // Infinity and the like are no numbers of JSON.
        self.push(field, number.map_or_else(|| Value::Shown(value.to_string()), |n| Value::Plain(n.into())));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Plain(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Plain(value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Plain(value.into()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::Text(value.to_owned()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, Value::Shown(value.to_string()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Value::Shown(format!("{value:?}")));
    }
}
