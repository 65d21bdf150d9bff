//! `oncemail destinations`: where mail waits, and which far sides are left alone.

use clap::{Args, Subcommand};

use super::client::{Client, Remote};
use super::failure::Failure;
use super::paper::{Paint, Paper, say, say_json};
use super::table::{Cell, Column, Table};
use super::words::{self, counted, distance, grouped};
use crate::admin::model::{BreakerState, Destination, Destinations, ResetRequest, ResetResult};
use crate::clock::Timestamp;

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail destinations --open               only what is paused or has a breaker that is not closed
  oncemail destinations --route provider
  oncemail destinations reset world example.com

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such route or destination";

/// See the commands.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) remote: Remote,

    /// Only those of this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only those that are paused, or have a breaker that is not closed
    #[arg(long)]
    open: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Close breakers and end pauses: what waits is tried now
    Reset {
        /// The route
        route: String,
        /// Only this destination of it
        destination: Option<String>,
    },
}

const COLUMNS: [Column; 10] = [
    Column::cut("ROUTE", 6),
    Column::cut("DESTINATION", 12),
    Column::whole("BREAKER"),
    Column::number("WAITING"),
    Column::number("CONNS").goes(4),
    Column::number("PER MIN").goes(5),
    Column::number("DELIVERED").goes(6),
    Column::number("DEFERRED").goes(7),
    Column::whole("PAUSED").goes(3),
    Column::cut("LAST TROUBLE", 14).goes(1),
];

/// Runs it.
pub(super) async fn run(client: &mut Client, arguments: Arguments) -> Result<(), Failure> {
    let json = arguments.remote.json;
    if let Some(Command::Reset { route, destination }) = arguments.command {
        let request = ResetRequest { route, destination };
        let answer = client.post::<ResetResult>("/api/v1/destinations/reset", &request).await?;
        return if json { say_json(&answer.text) } else { say(&was_reset(&answer.document)) };
    }
    let answer = client.get::<Destinations>("/api/v1/destinations").await?;
    let is_meant = |destination: &Destination| {
        arguments.route.as_ref().is_none_or(|route| *route == destination.route)
            && (!arguments.open || is_open(destination))
    };
    let is_everything = arguments.route.is_none() && !arguments.open;
    if json && is_everything {
        return say_json(&answer.text);
    }
    let Destinations { destinations, total } = answer.document;
    let known = destinations.len() as u64;
    let meant: Vec<_> = destinations.into_iter().filter(is_meant).collect();
    if json {
        let total = if is_everything { total } else { meant.len() as u64 };
        let document = serde_json::to_string(&Destinations { destinations: meant, total });
        return say_json(&document.map_err(|error| Failure::Failed(error.to_string()))?);
    }
    say(&table(&meant, words::now(), Paper::detect()))?;
    if total > known {
        say(&format!(
            "Of {} only the {} with most waiting are looked at.\n",
            counted(total, "destination"),
            grouped(known)
        ))?;
    }
    Ok(())
}

/// Something keeps mail from it.
pub(super) fn is_open(destination: &Destination) -> bool {
    destination.breaker != BreakerState::Closed || destination.paused_until.is_some()
}

fn was_reset(result: &ResetResult) -> String {
    if *result == (ResetResult { breakers: 0, destinations: 0 }) {
        return "All breakers were closed, and nothing was paused.\n".to_owned();
    }
    format!(
        "{} closed; {} no longer paused.\n",
        counted(result.breakers, "breaker"),
        counted(result.destinations, "destination")
    )
}

fn table(destinations: &[Destination], now: Timestamp, paper: Paper) -> String {
    if destinations.is_empty() {
        return "No destination matches.\n".to_owned();
    }
    let rows: Vec<_> = destinations.iter().map(|destination| row(destination, now)).collect();
    Table::new(&COLUMNS, paper).page(&rows, false)
}

fn row(destination: &Destination, now: Timestamp) -> Vec<Cell> {
    let (breaker, paint) = words::breaker(destination.breaker);
    vec![
        Cell::text(&destination.route),
        Cell::text(named(destination)),
        Cell::painted(breaker, paint),
        Cell::text(grouped(destination.waiting)),
        Cell::text(format!("{}/{}", destination.connections, destination.connection_limit)),
        Cell::text(format!("{:.0}", destination.rate_per_minute)),
        Cell::text(grouped(destination.delivered)),
        Cell::text(grouped(destination.deferred)),
        Cell::painted(pause(destination, now), Paint::Warning),
        Cell::text(destination.last_trouble.as_deref().unwrap_or("-")),
    ]
}

/// The domain, or what stands for it on a route that has only one line.
pub(super) fn named(destination: &Destination) -> String {
    if destination.destination.is_empty() {
        format!("({})", destination.transport)
    } else {
        destination.destination.clone()
    }
}

/// Until when nothing is tried there.
fn pause(destination: &Destination, now: Timestamp) -> String {
    let hosts = destination.hosts.iter().filter_map(|host| host.open_until.as_deref());
    let until = destination.paused_until.as_deref().or_else(|| hosts.min());
    until.map_or_else(|| "-".to_owned(), |until| distance(until, now))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin::model::HostState;
    use crate::cli::text::width;

    pub(in crate::cli) fn example(destination: &str, breaker: BreakerState) -> Destination {
        let is_open = breaker != BreakerState::Closed;
        Destination {
            route: "world".into(),
            transport: "mx".into(),
            destination: destination.into(),
            breaker,
            waiting: 1_234,
            connections: 2,
            connection_limit: 20,
            paused_until: None,
            delivered: 100,
            deferred: 7,
            failed: 1,
            rate_per_minute: 12.4,
            last_trouble: is_open.then(|| "421 4.7.0 \x1b[31mtoo many connections\u{202e}".into()),
            hosts: vec![HostState {
                host: "mx1.example:25".into(),
                breaker,
                open_until: is_open.then(|| "2026-11-22T10:35:00Z".into()),
            }],
        }
    }

    #[test]
    fn the_table_shows_who_is_left_alone_and_why() {
        let now = words::time("2026-11-22T10:30:00Z").unwrap();
        let list = [example("例え.example", BreakerState::Open), example("", BreakerState::Closed)];
        let expected = "\
ROUTE  DESTINATION   BREAKER  WAITING  CONNS  PAUSED    LAST TROUBLE
world  例え.example  open       1,234   2/20  in 5 min  421 4.7.0 \\u{1b}[31mt…
world  (mx)          closed     1,234   2/20  -         -
";
        let printed = table(&list, now, Paper { width: Some(78), colours: false });
        assert_eq!(printed, expected);
        for room in 10..200 {
            let printed = table(&list, now, Paper { width: Some(room), colours: false });
            assert!(printed.lines().all(|line| width(line) <= room && !line.contains('\x1b')), "{room}");
        }
        assert_eq!(table(&[], now, Paper { width: None, colours: false }), "No destination matches.\n");
    }

    #[test]
    fn open_means_that_something_keeps_mail_away() {
        assert!(is_open(&example("a", BreakerState::HalfOpen)));
        assert!(!is_open(&example("a", BreakerState::Closed)));
        let paused = Destination { paused_until: Some(String::new()), ..example("a", BreakerState::Closed) };
        assert!(is_open(&paused));
        assert!(was_reset(&ResetResult { breakers: 0, destinations: 0 }).contains("nothing was paused"));
        let reset = was_reset(&ResetResult { breakers: 1, destinations: 2 });
        assert_eq!(reset, "1 breaker closed; 2 destinations no longer paused.\n");
    }
}
