//! What is wrong with a configuration: all of it at once, each with its place and a hint.
//!
//! A text in here may quote names and harmless values, but never a secret.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

/// Where something was said: a file with line and column, a whole file, or an environment variable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    source: Arc<str>,
    position: Option<(usize, usize)>,
}

impl Place {
    /// A file, a variable, or another source as a whole.
    pub fn whole(source: impl Into<Arc<str>>) -> Self {
        Self { source: source.into(), position: None }
    }

    /// Line and column, both counted from 1, the column in characters.
    pub fn at(source: impl Into<Arc<str>>, line: usize, column: usize) -> Self {
        Self { source: source.into(), position: Some((line, column)) }
    }

    /// The line, counted from 1, when the place has one.
    pub fn line(&self) -> Option<usize> {
        self.position.map(|(line, _)| line)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        match self.position {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, in one sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Errors(Vec<Problem>);

impl Errors {
    /// Each problem, in the order of its place.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl From<Problem> for Errors {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 problem in the configuration"),
            n => write!(f, "{n} problems in the configuration"),
        }
    }
}

impl std::error::Error for Errors {}

/// Collects problems behind a shared reference, so that every reader of a section can add to the same list.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Adds a problem with nothing to hint at.
    pub fn add(&self, place: &Place, what: impl Into<String>) {
        self.push(place, what.into(), None);
    }

    /// Adds a problem and what to do about it.
    pub fn hint(&self, place: &Place, what: impl Into<String>, hint: impl Into<String>) {
        self.push(place, what.into(), Some(hint.into()));
    }

    fn push(&self, place: &Place, what: String, hint: Option<String>) {
        self.0.borrow_mut().push(Problem { place: place.clone(), what, hint });
    }

    /// `value` when nothing was wrong.
    pub fn finish<T>(self, value: Option<T>, whole: &Place) -> Result<T, Errors> {
        let mut problems = self.0.into_inner();
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        problems.dedup();
        match (value, problems.is_empty()) {
            (Some(value), true) => Ok(value),
            (None, true) => {
                Err(Problem { place: whole.clone(), what: "nothing is configured".into(), hint: None }.into())
            }
            (_, false) => Err(Errors(problems)),
        }
    }
}

/// The candidate that `word` was most likely meant to be.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this likeness a suggestion would be a guess.
    const LIKENESS: f64 = 0.75;
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word.to_ascii_lowercase(), candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_place_what_and_hint() {
        let problems = Problems::default();
        problems.hint(&Place::at("a.toml", 7, 1), "unknown key `adress`", "did you mean `address`?");
        problems.add(&Place::at("a.toml", 2, 3), "bad");
        let errors = problems.finish(Some(()), &Place::whole("a.toml")).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "a.toml:2:3: bad\na.toml:7:1: unknown key `adress`\n    hint: did you mean `address`?\n\
             2 problems in the configuration"
        );
    }

    #[test]
    fn only_a_likely_word_is_suggested() {
        assert_eq!(nearest("adress", ["address", "auth"]), Some("address"));
        assert_eq!(nearest("ADDRESS", ["address", "auth"]), Some("address"));
        assert_eq!(nearest("zzz", ["address", "auth"]), None);
    }
}
