//! A query string as named values. A name that means nothing, a value that does not fit or is empty, and a name that is
//! there twice are refused, each with a sentence that says what is allowed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use percent_encoding::percent_decode_str;

use super::refusal::Refusal;

/// Nothing that is asked for is longer, in bytes: an address has 320, a key 1024.
const MAX_VALUE: usize = 2048;

/// See the module.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<&'static str, String>);

impl Parameters {
    /// Reads a query, in which only these names may be.
    ///
    /// # Errors
    /// 400 with the name that is wrong.
    pub fn read(query: Option<&str>, known: &[&'static str]) -> Result<Self, Refusal> {
        let mut values = BTreeMap::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name).ok_or_else(|| Refusal::bad("a name in the query is not UTF-8 text"))?;
            let Some(known) = known.iter().find(|known| **known == name) else {
                return Err(unknown(&name, known));
            };
            let value = decoded(value)
                .filter(|value| value.len() <= MAX_VALUE && !value.chars().any(char::is_control))
                .ok_or_else(|| {
                    Refusal::bad(format!(
                        "`{known}` is UTF-8 text of at most {MAX_VALUE} bytes without control characters"
                    ))
                })?;
            if value.is_empty() {
                // Who has forgotten to say which user does not mean all of them.
                return Err(Refusal::bad(format!("`{known}` is empty: say one, or leave it out")));
            }
            if values.insert(*known, value.into_owned()).is_some() {
                return Err(Refusal::bad(format!("`{known}` is there twice")));
            }
        }
        Ok(Self(values))
    }

    /// A text, if it is there; never an empty one.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// 400 when it is not.
    pub fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name).ok_or_else(|| Refusal::bad(format!("`{name}` is missing")))
    }

    /// A whole number within `range`.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn number(
        &self,
        name: &str,
        default: usize,
        range: &RangeInclusive<usize>,
    ) -> Result<usize, Refusal> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let is_digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|number| is_digits && range.contains(number));
        number.ok_or_else(|| {
            Refusal::bad(format!("`{name}` is a whole number from {} to {}", range.start(), range.end()))
        })
    }

    /// One of `choices`.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn choice<T: Copy>(&self, name: &str, default: T, choices: &[(&str, T)]) -> Result<T, Refusal> {
        self.text(name).map_or(Ok(default), |text| one_of(name, text, choices))
    }

    /// Some of `choices`, with commas between them.
    ///
    /// # Errors
    /// 400 when one is none of them.
    pub fn choices<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Vec<T>, Refusal> {
        self.text(name)
            .into_iter()
            .flat_map(|text| text.split(','))
            .map(|text| one_of(name, text, choices))
            .collect()
    }
}

fn one_of<T: Copy>(name: &str, text: &str, choices: &[(&str, T)]) -> Result<T, Refusal> {
    let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        Refusal::bad(format!("`{name}` can be {}", words.join(", ")))
    })
}

fn unknown(name: &str, known: &[&str]) -> Refusal {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
    Refusal::bad(match known {
        [] => format!("`{shown}`: this takes no query"),
        _ => format!("`{shown}` is unknown here: known are {}", known.join(", ")),
    })
}

/// `application/x-www-form-urlencoded`.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8().ok();
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["limit", "state", "to"];

    fn detail(query: &str) -> String {
        let read = Parameters::read(Some(query), KNOWN);
        let judged = read.and_then(|it| {
            it.number("limit", 50, &(1..=500))?;
            it.choices("state", &[("held", 1), ("queued", 2)])
        });
        judged.unwrap_err().problem().detail.unwrap()
    }

    #[test]
    fn values_are_decoded() {
        let read = Parameters::read(Some("to=a%2Bb%40x.example&limit=7&state=held,queued"), KNOWN).unwrap();
        assert_eq!(read.text("to"), Some("a+b@x.example"));
        assert_eq!(read.number("limit", 50, &(1..=500)), Ok(7));
        assert_eq!(read.choices("state", &[("held", 1), ("queued", 2)]), Ok(vec![1, 2]));
        assert_eq!(Parameters::read(Some("to=order+1"), KNOWN).unwrap().text("to"), Some("order 1"));
    }

    #[test]
    fn each_mistake_is_named_with_what_is_allowed() {
        assert_eq!(detail("limit=501"), "`limit` is a whole number from 1 to 500");
        for wrong in ["limit=0", "limit=-1", "limit=%2B5", "limit=1e2", "limit=99999999999999999999"] {
            assert_eq!(detail(wrong), "`limit` is a whole number from 1 to 500", "{wrong}");
        }
        assert_eq!(detail("state=lost"), "`state` can be held, queued");
        assert_eq!(detail("sate=held"), "`sate` is unknown here: known are limit, state, to");
        assert_eq!(detail("to=a&to=b"), "`to` is there twice");
        assert_eq!(detail("to="), "`to` is empty: say one, or leave it out");
        assert_eq!(detail("limit"), "`limit` is empty: say one, or leave it out");
        assert!(detail("to=%ff").starts_with("`to` is UTF-8"));
        assert!(detail("to=a%00b").starts_with("`to` is UTF-8"));
        assert!(detail(&format!("to={}", "a".repeat(3000))).starts_with("`to` is UTF-8"));
    }
}
