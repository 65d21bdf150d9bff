//! What was said, and where: the file and the environment as one tree in which every node knows its place.
//!
//! Nothing in here knows a key of the configuration, and no node is ever printed: it may hold a secret, and so every text
//! is wiped when the tree goes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::errors::{Place, Problem};

/// A value and where it stands.
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// A value before anybody has asked what it means.
pub(super) enum Value {
    /// A string of a file.
    Text(Zeroizing<String>),
    /// The text of an environment variable: read as whatever the key wants, lists separated by commas.
    Loose(Zeroizing<String>),
    /// `None`: beyond 64 bits.
    Integer(Option<i64>),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// A float or a date: no key wants one.
    Other(&'static str),
}

impl Value {
    /// A text, as a file would have it.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(Zeroizing::new(text.into()))
    }

    /// A text, as the environment has it.
    pub fn loose(text: impl Into<String>) -> Self {
        Self::Loose(Zeroizing::new(text.into()))
    }

    /// What it is, for "not a …".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Loose(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a section",
            Self::Other(kind) => kind,
        }
    }
}

/// A section.
pub(super) struct Table {
    pub place: Place,
    /// Each entry with the place of its key; the node inside has that of its value.
    entries: BTreeMap<String, (Place, Node)>,
}

impl Table {
    /// A section that says nothing yet.
    pub fn new(place: Place) -> Self {
        Self { place, entries: BTreeMap::new() }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.get(key).map(|(_, node)| node)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Every key, where it stands, and its node.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Place, &Node)> {
        self.entries.iter().map(|(key, (place, node))| (key.as_str(), place, node))
    }

    /// Says `key` anew, in the words of an environment variable or another source outside the file.
    pub fn set(&mut self, key: &str, place: &Place, value: Value) {
        let node = Node { place: place.clone(), value };
        self.entries.insert(key.to_owned(), (place.clone(), node));
    }

    pub fn remove(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// The section `key`, made when it is not there; `None` when `key` is something else.
    pub fn section_mut(&mut self, key: &str, place: &Place) -> Option<&mut Self> {
        if !self.contains(key) {
            self.set(key, place, Value::Table(Self::new(place.clone())));
        }
        match self.entries.get_mut(key) {
            Some((_, Node { value: Value::Table(table), .. })) => Some(table),
            _ => None,
        }
    }

    /// The list `key`, made when it is not there; `None` when `key` is something else.
    pub fn list_mut(&mut self, key: &str, place: &Place) -> Option<&mut Vec<Node>> {
        if !self.contains(key) {
            self.set(key, place, Value::List(Vec::new()));
        }
        match self.entries.get_mut(key) {
            Some((_, Node { value: Value::List(list), .. })) => Some(list),
            _ => None,
        }
    }
}

/// Reads a file's text. A syntax error is one problem: what follows it cannot be trusted.
pub(super) fn parse(text: &str, source: &Arc<str>) -> Result<Table, Problem> {
    let places = Places { text, source };
    match DeTable::parse(text) {
        Ok(document) => Ok(places.table(document.get_ref(), Place::whole(Arc::clone(source)))),
        Err(error) => {
            let place = error.span().map_or_else(|| Place::whole(Arc::clone(source)), |span| places.of(span));
            Err(Problem { place, what: format!("not valid TOML: {}", error.message()), hint: None })
        }
    }
}

/// Turns byte offsets into places.
struct Places<'a> {
    text: &'a str,
    source: &'a Arc<str>,
}

impl Places<'_> {
    fn of(&self, span: Range<usize>) -> Place {
        let mut end = span.start.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = self.text.get(..end).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        Place::at(Arc::clone(self.source), line, column)
    }

    fn table(&self, table: &DeTable<'_>, place: Place) -> Table {
        let entries = table
            .iter()
            .map(|(key, value)| {
                let key_place = self.of(key.span());
                // The value of a `[section]` header has no place of its own worth telling: the key's is the header's.
                let value_place = match value.get_ref() {
                    DeValue::Table(_) => key_place.clone(),
                    _ => self.of(value.span()),
                };
                let node = Node { value: self.value(value.get_ref(), &value_place), place: value_place };
                (key.get_ref().to_string(), (key_place, node))
            })
            .collect();
        Table { place, entries }
    }

    fn value(&self, value: &DeValue<'_>, place: &Place) -> Value {
        match value {
            DeValue::String(text) => Value::text(&**text),
            DeValue::Integer(digits) => {
                let digits_only = digits.as_str().replace('_', "");
                Value::Integer(i64::from_str_radix(&digits_only, digits.radix()).ok())
            }
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Table(table) => Value::Table(self.table(table, place.clone())),
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| {
                        let place = self.of(item.span());
                        Node { value: self.value(item.get_ref(), &place), place }
                    })
                    .collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(place: &Place) -> Option<usize> {
        place.line()
    }

    #[test]
    fn every_node_knows_its_line() {
        let text = "a = 1\n\n[b]\nc = \"x\"\n\n[[d]]\ne = [\n  true,\n]\n[[d]]\n";
        let root = parse(text, &Arc::from("f")).unwrap_or_else(|problem| panic!("{problem}"));
        let Some(Node { value: Value::List(items), .. }) = root.get("d") else { panic!("d is a list") };
        assert_eq!(items.iter().map(|item| line(&item.place)).collect::<Vec<_>>(), [Some(6), Some(10)]);
        let Some(Node { value: Value::Table(b), .. }) = root.get("b") else { panic!("b is a table") };
        assert_eq!((line(&b.place), b.get("c").and_then(|c| line(&c.place))), (Some(3), Some(4)));
    }

    #[test]
    fn a_syntax_error_is_one_problem_with_its_line() {
        let problem = parse("a = 1\nb = = 2\nc = = 3\n", &Arc::from("f")).err().expect("an error");
        assert_eq!(line(&problem.place), Some(2));
    }
}
