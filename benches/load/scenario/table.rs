//! The figures, one a row, beside what they should be.

use serde::Serialize;

use crate::report::Report;
use crate::tally::Verdict;

/// What a figure should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Not less.
    AtLeast(f64),
    /// Less.
    Below(f64),
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Whose figure it is.
    pub subject: String,
    /// In which scenario.
    pub scenario: String,
    /// What was measured.
    pub figure: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What oncemail should reach.
    pub goal: Option<Goal>,
    /// Whether it is a proof that failed.
    pub broken: bool,
}

/// All rows of a run.
#[derive(Default)]
pub struct Table {
    /// In order of measurement.
    pub rows: Vec<Row>,
}

/// The rows of one scenario.
pub struct Section<'a> {
    table: &'a mut Table,
    subject: String,
    scenario: String,
}

impl Table {
    /// Rows for this relay in this scenario.
    pub fn section(&mut self, subject: &str, scenario: &str) -> Section<'_> {
        Section { table: self, subject: subject.to_owned(), scenario: scenario.to_owned() }
    }

    /// Whether no proof failed.
    pub fn is_clean(&self) -> bool {
        self.rows.iter().all(|row| !row.broken)
    }

    /// On standard output.
    pub fn print(&self) {
        println!("{:<9} {:<10} {:<44} {:>12} {:<10} goal", "relay", "scenario", "figure", "value", "unit");
        for row in &self.rows {
            let Row { subject, scenario, figure, value, unit, goal, broken } = row;
            let decimals = if *value >= 100.0 || value.fract() == 0.0 { 0 } else { 3 };
            let mut verdict = match goal {
                Some(Goal::AtLeast(goal)) => format!("≥ {goal} {}", met(*value >= *goal)),
                Some(Goal::Below(goal)) => format!("< {goal} {}", met(*value < *goal)),
                None => String::new(),
            };
            if *broken {
                verdict.push_str("BROKEN");
            }
            println!("{subject:<9} {scenario:<10} {figure:<44} {value:>12.decimals$} {unit:<10} {verdict}");
        }
    }
}

impl Section<'_> {
    /// One figure; only oncemail has goals.
    pub fn add(&mut self, figure: impl Into<String>, value: f64, unit: &'static str, goal: Option<Goal>) {
        let goal = goal.filter(|_| self.subject == "oncemail");
        self.push(figure.into(), value, unit, goal, false);
    }

    /// One figure that is a proof, and whether it failed.
    pub fn add_proof(&mut self, figure: impl Into<String>, value: f64, unit: &'static str, broken: bool) {
        self.push(figure.into(), value, unit, None, broken);
    }

    /// Whatever a generator was told other than success, and why connections failed.
    pub fn add_troubles(&mut self, report: &Report) {
        for (text, count) in &report.replies {
            if !text.starts_with('2') {
                self.push(format!("reply: {text}"), *count as f64, "replies", None, false);
            }
        }
        for (reason, count) in &report.errors {
            self.push(format!("error: {reason}"), *count as f64, "errors", None, false);
        }
    }

    /// What the sink has of what was acknowledged.
    pub fn add_verdict(&mut self, verdict: &Verdict) {
        self.push(
            "acknowledged".to_owned(),
            verdict.accepted as f64,
            "messages",
            None,
            verdict.accepted == 0,
        );
        self.push(
            "missing at the sink".to_owned(),
            verdict.missing as f64,
            "messages",
            None,
            verdict.missing > 0,
        );
        let doubled = verdict.duplicated;
        self.push("more than once at the sink".to_owned(), doubled as f64, "messages", None, doubled > 0);
        if self.subject == "oncemail" {
            let keyed = verdict.keyed;
            self.push("still with its key at the sink".to_owned(), keyed as f64, "messages", None, keyed > 0);
        }
        if verdict.unacknowledged > 0 {
            let count = verdict.unacknowledged as f64;
            self.push("at the sink, not acknowledged".to_owned(), count, "messages", None, false);
        }
    }

    fn push(&mut self, figure: String, value: f64, unit: &'static str, goal: Option<Goal>, broken: bool) {
        let (subject, scenario) = (self.subject.clone(), self.scenario.clone());
        self.table.rows.push(Row { subject, scenario, figure, value, unit, goal, broken });
    }
}

fn met(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
