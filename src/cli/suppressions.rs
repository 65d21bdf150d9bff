//! `oncemail suppressions`: addresses that no mail is taken for.

use clap::{Args, Subcommand};

use super::client::{Client, Remote, path_with};
use super::failure::{Failure, Outcome};
use super::paper::{Paper, say, say_json};
use super::table::{Cell, Column, Table};
use super::text::escaped;
use super::words::{grouped, plain_time};
use crate::admin::model::{Suppression, SuppressionList};

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail suppressions list --all
  oncemail suppressions add gone@example.com --reason 'asked to be left alone'
  oncemail suppressions remove back@example.com

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such address";

/// No page of the API is longer.
const PAGE: u64 = 500;

/// See the commands.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) remote: Remote,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List addresses, in their order
    List {
        /// Show so many
        #[arg(long, default_value_t = 100, value_name = "N", conflicts_with = "all",
              value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Show all of them, page by page
        #[arg(long)]
        all: bool,
    },
    /// Take no more mail for an address
    Add {
        /// Addresses
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<String>,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Take mail for an address again
    Remove {
        /// Addresses
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<String>,
    },
}

const COLUMNS: [Column; 3] =
    [Column::cut("ADDRESS", 20), Column::whole("SINCE (UTC)"), Column::cut("REASON", 10)];

/// Runs it.
pub(super) async fn run(client: &mut Client, arguments: Arguments) -> Result<(), Failure> {
    let json = arguments.remote.json;
    match arguments.command {
        Command::List { limit, all } => list(client, if all { u64::MAX } else { limit }, json).await,
        Command::Add { addresses, reason } => {
            for address in addresses {
                let entry = Suppression { address, since: None, reason: reason.clone() };
                let answer = client.post::<Suppression>("/api/v1/suppressions", &entry).await?;
                let done = format!("{}: no mail is taken for it\n", escaped(&answer.document.address));
                if json { say_json(&answer.text)? } else { say(&done)? }
            }
            Ok(())
        }
        Command::Remove { addresses } => remove(client, &addresses, json).await,
    }
}

async fn remove(client: &mut Client, addresses: &[String], json: bool) -> Result<(), Failure> {
    let mut worst = Outcome::Done;
    for address in addresses {
        match client.delete(path_with("/api/v1/suppressions", &[("address", address)])).await {
            Ok(()) if json => {}
            Ok(()) => say(&format!("{}: mail is taken for it again\n", escaped(address)))?,
            // The others are still to be done.
            Err(failure @ Failure::NotFound(_)) => {
                failure.tell();
                worst = worst.max(Outcome::NotFound);
            }
            Err(failure) => return Err(failure),
        }
    }
    worst.finish()
}

async fn list(client: &mut Client, limit: u64, json: bool) -> Result<(), Failure> {
    let mut table = Table::new(&COLUMNS, Paper::detect());
    let (mut shown, mut after) = (0, None::<String>);
    loop {
        let wanted = (limit - shown).min(PAGE).to_string();
        let mut query = vec![("limit", wanted.as_str())];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let answer = client.get::<SuppressionList>(path_with("/api/v1/suppressions", &query)).await?;
        let page = answer.document;
        shown = (shown + page.suppressions.len() as u64).min(limit);
        // One that leads to itself must not hold anybody up.
        after = page.next.filter(|next| shown < limit && Some(next) != after.as_ref());
        if json {
            say_json(&answer.text)?;
        } else if !page.suppressions.is_empty() {
            say(&table.page(&rows(&page.suppressions), after.is_some()))?;
        }
        if after.is_none() {
            return if json { Ok(()) } else { say(&footer(shown, page.total)) };
        }
    }
}

fn rows(entries: &[Suppression]) -> Vec<Vec<Cell>> {
    let row = |entry: &Suppression| {
        let since = entry.since.as_deref().map_or_else(|| "-".to_owned(), plain_time);
        vec![Cell::text(&entry.address), Cell::text(since), Cell::text(&entry.reason)]
    };
    entries.iter().map(row).collect()
}

fn footer(shown: u64, total: u64) -> String {
    match (shown, total) {
        (0, _) => "No address is suppressed.\n".to_owned(),
        (shown, total) if total > shown => {
            format!("{} of {} addresses; more with --limit or --all\n", grouped(shown), grouped(total))
        }
        (1, _) => "1 address\n".to_owned(),
        (shown, _) => format!("{} addresses\n", grouped(shown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_listed_with_their_reasons() {
        let entries = [
            Suppression {
                address: "a@example.com".into(),
                since: Some("2026-11-22T10:30:00Z".into()),
                reason: "550 5.1.1 no such user\x1b[2J".into(),
            },
            Suppression { address: "b@例え.example".into(), since: None, reason: "gone".into() },
        ];
        let printed =
            Table::new(&COLUMNS, Paper { width: Some(70), colours: false }).page(&rows(&entries), false);
        let expected = "\
ADDRESS         SINCE (UTC)          REASON
a@example.com   2026-11-22 10:30:00  550 5.1.1 no such user\\u{1b}[2J
b@例え.example  -                    gone
";
        assert_eq!(printed, expected);
        assert_eq!(footer(0, 0), "No address is suppressed.\n");
        assert_eq!((footer(1, 1), footer(2, 2)), ("1 address\n".into(), "2 addresses\n".into()));
        assert!(footer(100, 1_000).starts_with("100 of 1,000 addresses"));
    }
}
