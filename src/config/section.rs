//! Reads the keys of one section: each as the type it should be, or its default and a problem.
//!
//! Every reader goes on after a problem, so that one run names all of them.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use governor::Quota;
use zeroize::Zeroizing;

use super::errors::{Place, Problems, nearest};
use super::tree::{Node, Table, Value};
use super::{files, keys, said, units};

/// One section, or nothing where it is not written.
pub(super) struct Section<'a> {
    name: &'static str,
    table: Option<&'a Table>,
    place: Place,
    pub problems: &'a Problems,
}

/// A text of a list and where it stands.
pub(super) struct Item<'a> {
    pub place: &'a Place,
    pub text: &'a str,
}

impl<'a> Section<'a> {
    /// What stands before the first section.
    pub fn top(root: &'a Table, problems: &'a Problems) -> Self {
        Self { name: "", table: Some(root), place: root.place.clone(), problems }
    }

    /// The section `[name]`.
    pub fn once(root: &'a Table, name: &'static str, problems: &'a Problems) -> Self {
        let table = match root.get(name) {
            Some(Node { value: Value::Table(table), .. }) => Some(table),
            _ => None,
        };
        let place = table.map_or(&root.place, |table| &table.place).clone();
        Self { name, table, place, problems }
    }

    /// Every section `[[name]]`.
    pub fn repeated(root: &'a Table, name: &'static str, problems: &'a Problems) -> Vec<Self> {
        let items: &[Node] = match root.get(name) {
            Some(Node { value: Value::List(items), .. }) => items,
            _ => &[],
        };
        let section = |item: &'a Node| match &item.value {
            Value::Table(table) => {
                Some(Self { name, table: Some(table), place: item.place.clone(), problems })
            }
            _ => None,
        };
        items.iter().filter_map(section).collect()
    }

    /// Whether the section is written at all.
    pub fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Whether `key` is written.
    pub fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// Where `key` says what it says, or where the section stands.
    pub fn place(&self, key: &str) -> &Place {
        self.node(key).map_or(&self.place, |node| &node.place)
    }

    /// Notes a problem with `key`.
    pub fn problem(&self, key: &str, what: impl Into<String>, hint: impl Into<String>) {
        self.problems.hint(self.place(key), what, hint);
    }

    fn node(&self, key: &str) -> Option<&'a Node> {
        self.table?.get(key)
    }

    fn wrong_kind(&self, key: &str, node: &Node, wanted: &str) {
        self.problems.hint(
            &node.place,
            format!("`{key}` is {}", node.value.kind()),
            format!("it is {wanted}"),
        );
    }

    /// Whether `key` is exactly `word`; anything else is for the reader of the key to judge.
    pub fn says(&self, key: &str, word: &str) -> bool {
        let node = self.node(key).map(|node| &node.value);
        matches!(node, Some(Value::Text(text) | Value::Loose(text)) if text.as_str() == word)
    }

    /// A text as it stands.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        let node = self.node(key)?;
        match &node.value {
            Value::Text(text) | Value::Loose(text) => Some(text.as_str()),
            _ => {
                self.wrong_kind(key, node, "a text in quotes");
                None
            }
        }
    }

    /// A text that `parse` understands; its error is what the key wants.
    pub fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let node = self.node(key)?;
        let result = match &node.value {
            Value::Text(text) | Value::Loose(text) => {
                parse(text).map_err(|wanted| (said::quoted(key, text), wanted))
            }
            // What is no text at all still deserves the example.
            other => {
                Err((other.kind().to_owned(), parse("").err().unwrap_or_else(|| "a text in quotes".into())))
            }
        };
        match result {
            Ok(value) => Some(value),
            Err((said, wanted)) => {
                self.problem(key, format!("`{key}` is {said}"), format!("it is {wanted}"));
                None
            }
        }
    }

    /// A text that must not be empty or hold control characters.
    pub fn name(&self, key: &str) -> Option<String> {
        /// Longer names would only make log lines unreadable.
        const MAX_NAME: usize = 128;
        self.parsed(key, |text| {
            let is_name =
                !text.trim().is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control);
            is_name.then(|| text.to_owned()).ok_or_else(|| "a name of 1 to 128 bytes".to_owned())
        })
    }

    /// A duration within `range`.
    pub fn duration(&self, key: &str, default: Duration, range: &RangeInclusive<Duration>) -> Duration {
        let value = self.parsed(key, units::duration).unwrap_or(default);
        self.within(key, value, default, range, |value| units::show_duration(*value))
    }

    /// A size within `range`, in bytes.
    pub fn size(&self, key: &str, default: u64, range: &RangeInclusive<u64>) -> u64 {
        let value = self.parsed(key, units::size).unwrap_or(default);
        self.within(key, value, default, range, |value| units::show_size(*value))
    }

    /// A whole number within `range`.
    pub fn number<T>(&self, key: &str, default: T, range: &RangeInclusive<T>) -> T
    where
        T: Copy + PartialOrd + Display + TryFrom<i64> + std::str::FromStr,
    {
        let Some(node) = self.node(key) else { return default };
        let value = match &node.value {
            Value::Integer(number) => number.and_then(|number| T::try_from(number).ok()),
            Value::Loose(text) => text.trim().parse().ok(),
            _ => {
                self.wrong_kind(key, node, &format!("a whole number without quotes, such as {default}"));
                return default;
            }
        };
        match value {
            Some(value) => self.within(key, value, default, range, T::to_string),
            None => {
                let hint = format!("from {} to {}", range.start(), range.end());
                self.problem(key, format!("`{key}` is not a number that fits"), hint);
                default
            }
        }
    }

    fn within<T: Copy + PartialOrd>(
        &self,
        key: &str,
        value: T,
        default: T,
        range: &RangeInclusive<T>,
        show: impl Fn(&T) -> String,
    ) -> T {
        if range.contains(&value) {
            return value;
        }
        let what = format!("`{key}` is {}, which is out of range", show(&value));
        self.problem(key, what, format!("from {} to {}", show(range.start()), show(range.end())));
        default
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str, default: bool) -> bool {
        let Some(node) = self.node(key) else { return default };
        let value = match &node.value {
            Value::Boolean(value) => Some(*value),
            Value::Loose(text) => text.trim().to_ascii_lowercase().parse().ok(),
            _ => None,
        };
        value.unwrap_or_else(|| {
            self.wrong_kind(key, node, "true or false, without quotes");
            default
        })
    }

    /// One word of `choices`.
    pub fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let Some(text) = self.text(key) else { return default };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let words = || choices.iter().map(|(word, _)| *word);
        let all = words().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        if let Some(planned) = keys::planned_value(self.name, key, text) {
            let what = keys::not_built_yet(&format!("`{key} = \"{text}\"`"), planned);
            self.problem(key, what, format!("it can be {all}"));
            return default;
        }
        let hint = match nearest(text, words()) {
            Some(near) => format!("did you mean \"{near}\"? It can be {all}"),
            None => format!("it can be {all}"),
        };
        self.problem(key, format!("`{key}` is {text:?}"), hint);
        default
    }

    /// A rate, if one is written.
    pub fn rate(&self, key: &str) -> Option<Quota> {
        self.parsed(key, units::rate)
    }

    /// Whether `key` is written as a list with nothing in it.
    pub fn list_is_empty(&self, key: &str) -> bool {
        match self.node(key).map(|node| &node.value) {
            Some(Value::List(items)) => items.is_empty(),
            Some(Value::Loose(text)) => text.split(',').all(|text| text.trim().is_empty()),
            _ => false,
        }
    }

    /// A list of texts; `None` when it is not written.
    pub fn list(&self, key: &str) -> Option<Vec<Item<'a>>> {
        let node = self.node(key)?;
        match &node.value {
            Value::Loose(text) => {
                let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
                Some(texts.map(|text| Item { place: &node.place, text }).collect())
            }
            Value::List(items) => {
                let text = |item: &'a Node| match &item.value {
                    Value::Text(text) => Some(Item { place: &item.place, text: text.as_str() }),
                    _ => {
                        self.problems.hint(&item.place, format!("`{key}` is a list of texts"), "use quotes");
                        None
                    }
                };
                Some(items.iter().filter_map(text).collect())
            }
            _ => {
                self.wrong_kind(key, node, "a list of texts: [\"one\", \"two\"]");
                None
            }
        }
    }

    /// A list of which `parse` understands each text; what it does not understand is left out and noted.
    pub fn parsed_list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let items = self.list(key)?;
        let value = |item: &Item<'_>| match parse(item.text) {
            Ok(value) => Some(value),
            Err(wanted) => {
                let what = format!("`{key}` contains {:?}", item.text);
                self.problems.hint(item.place, what, format!("each is {wanted}"));
                None
            }
        };
        Some(items.iter().filter_map(value).collect())
    }

    /// A list of whole numbers within `range`; `None` when it is not written. What is no such number is noted, and
    /// stands as the lowest one, so that the length stays what was written.
    pub fn numbers(&self, key: &str, range: &RangeInclusive<u32>) -> Option<Vec<u32>> {
        let node = self.node(key)?;
        let wanted = || format!("each is a whole number from {} to {}", range.start(), range.end());
        let checked = |place: &Place, number: Option<u32>| {
            number.filter(|number| range.contains(number)).unwrap_or_else(|| {
                self.problems.hint(place, format!("`{key}` contains what is no number that fits"), wanted());
                *range.start()
            })
        };
        match &node.value {
            Value::Loose(text) => {
                let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
                Some(texts.map(|text| checked(&node.place, text.parse().ok())).collect())
            }
            Value::List(items) => {
                let number = |item: &Node| match &item.value {
                    Value::Integer(number) => number.and_then(|number| u32::try_from(number).ok()),
                    _ => None,
                };
                Some(items.iter().map(|item| checked(&item.place, number(item))).collect())
            }
            _ => {
                self.wrong_kind(key, node, "a list of whole numbers: [3, 1]");
                None
            }
        }
    }

    /// What a file that `key` names has, or `None` and a problem.
    pub fn noted<T>(&self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|error| self.problems.add(self.place(key), format!("`{key}`: {error}"))).ok()
    }

    /// A path that is not empty.
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        self.parsed(key, |text| {
            let is_path = !text.is_empty() && !text.contains('\0');
            is_path.then(|| PathBuf::from(text)).ok_or_else(|| "a path".to_owned())
        })
    }

    /// A secret: the text of `key`, or the content of the file that `<key>_file` names, one trailing line end
    /// removed.
    pub fn secret(&self, key: &str) -> Option<Zeroizing<String>> {
        let file_key = format!("{key}_file");
        if self.has(key) && self.has(&file_key) {
            self.problem(
                &file_key,
                format!("both `{key}` and `{file_key}` are given"),
                "leave one of them out",
            );
            return None;
        }
        let secret = match self.path(&file_key) {
            Some(path) => match files::secret(&path) {
                Ok(text) => Some(text),
                Err(error) => {
                    self.problems.add(self.place(&file_key), format!("`{file_key}`: {error}"));
                    None
                }
            },
            None => self.text(key).map(|text| Zeroizing::new(text.to_owned())),
        }?;
        if secret.is_empty() {
            let said = if self.has(key) { key } else { &file_key };
            self.problems.add(self.place(said), format!("`{said}` is empty"));
            return None;
        }
        Some(secret)
    }
}
