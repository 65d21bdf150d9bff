//! What was found, for people and for programs.

use serde::Serialize;

use crate::cli::paper::{Paint, Paper};
use crate::cli::text::escaped;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// It was not looked at, and why.
    Skip,
    /// It works, and may not go on to.
    Warn,
    /// Mail is not taken, not relayed, or not safe.
    Fail,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Check {
    pub(super) status: Status,
    /// What was looked at.
    pub(super) what: String,
    /// What is so; may hold what a far side has said.
    pub(super) finding: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) checks: Vec<Check>,
}

#[derive(Serialize)]
struct Document<'a> {
    failed: usize,
    warnings: usize,
    checks: &'a [Check],
}

impl Check {
    pub(super) fn ok(what: impl Into<String>, finding: String) -> Self {
        Self { status: Status::Ok, what: what.into(), finding, advice: None }
    }

    pub(super) fn skip(what: impl Into<String>, finding: String) -> Self {
        Self { status: Status::Skip, ..Self::ok(what, finding) }
    }

    pub(super) fn warn(what: impl Into<String>, finding: String, advice: &str) -> Self {
        Self { status: Status::Warn, advice: Some(advice.to_owned()), ..Self::ok(what, finding) }
    }

    pub(super) fn fail(what: impl Into<String>, finding: String, advice: &str) -> Self {
        Self { status: Status::Fail, ..Self::warn(what, finding, advice) }
    }
}

impl Report {
    pub(super) fn has_failed(&self) -> bool {
        self.count(Status::Fail) > 0
    }

    fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// One line for each, and one for all.
    pub(super) fn text(&self, paper: Paper) -> String {
        let mut text = String::new();
        for Check { status, what, finding, advice } in &self.checks {
            let (word, paint) = match status {
                Status::Ok => ("ok", Paint::Good),
                Status::Skip => ("skip", Paint::Aside),
                Status::Warn => ("warn", Paint::Warning),
                Status::Fail => ("FAIL", Paint::Bad),
            };
            paper.paint(&mut text, &format!("{word:<4}"), paint);
            text.push_str(&format!("  {}: {}", escaped(what), escaped(finding)));
            if let Some(advice) = advice {
                paper.paint(&mut text, &format!("  → {}", escaped(advice)), Paint::Title);
            }
            text.push('\n');
        }
        let (failed, warnings) = (self.count(Status::Fail), self.count(Status::Warn));
        let sum = match (failed, warnings) {
            (0, 0) => "all is well\n".to_owned(),
            _ => format!("{failed} failed, {}\n", super::counted(warnings, "warning")),
        };
        text.push_str(&sum);
        text
    }

    /// One document.
    pub(super) fn json(&self) -> String {
        let (failed, warnings) = (self.count(Status::Fail), self.count(Status::Warn));
        let document = Document { failed, warnings, checks: &self.checks };
        serde_json::to_string_pretty(&document).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_far_side_says_stays_on_its_line_and_off_the_terminal() {
        let checks = vec![
            Check::ok("a", "well".to_owned()),
            Check::fail("b", "554 \u{1b}[2J\nok    c: forged".to_owned(), "do something"),
        ];
        let report = Report { checks };
        let text = report.text(Paper { width: None, colours: false });
        assert_eq!(
            text,
            "ok    a: well\nFAIL  b: 554 \\u{1b}[2J\\nok    c: forged  → do something\n1 failed, 0 warnings\n"
        );
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json["failed"], &json["checks"][1]["status"]), (&1.into(), &"fail".into()));
        assert!(json["checks"][0].get("advice").is_none());
    }
}
