//! `oncemail queue`: what waits, what became of it, and what an operator wants done with it.

mod act;
mod filter;
mod list;

use clap::Subcommand;

use self::act::Order;
use self::filter::Which;
use super::client::{Client, Remote, segment};
use super::failure::Failure;
use super::paper::{Paper, say, say_json};
use super::{story, words};
use crate::admin::model::{Action, Story};
use crate::mail::QueueId;

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail queue list --to-domain example.com --older 2h
  oncemail queue show 01KAQ3V8ZK5T9M2W7X4N6R1C0D
  oncemail queue retry --route provider --dry-run
  oncemail queue hold --from @shop.example --reason 'wrong prices'
  oncemail queue release --all --yes
  oncemail queue list --state bounced --newer 1d --json | jq -r '.messages[].id'

Times are 90s, 15m, 2h, 3d. What is done with a message is kept with it, and logged.
Exit codes: 0 done, 1 failed, 2 wrong usage or not confirmed, 3 no such message";

/// See the commands.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) remote: Remote,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List messages, newest first; without --state those that wait, are being sent, or are held
    List {
        #[command(flatten)]
        which: Which,
        /// Show so many
        #[arg(long, default_value_t = 50, value_name = "N", conflicts_with = "all",
              value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Show all of them, page by page
        #[arg(long)]
        all: bool,
    },
    /// Tell a message's whole story: every attempt, reply, replay, and what comes next
    Show {
        /// Queue ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<QueueId>,
    },
    /// Try queued recipients now
    Retry(Order),
    /// Hold queued recipients: nothing is tried until they are released
    Hold(Order),
    /// Queue held recipients again, with their time starting anew
    Release(Order),
    /// Give queued and held recipients up, and tell the sender
    Bounce(Order),
    /// Forget queued and held recipients, and tell nobody
    Discard(Order),
}

/// Runs it.
pub(super) async fn run(client: &mut Client, arguments: Arguments) -> Result<(), Failure> {
    let json = arguments.remote.json;
    match arguments.command {
        Command::List { which, limit, all } => {
            let limit = if all { u64::MAX } else { limit };
            list::run(client, &which.filter(), limit, json).await
        }
        Command::Show { ids } => show(client, &ids, json).await,
        Command::Retry(order) => act::run(client, Action::Retry, order, json).await,
        Command::Hold(order) => act::run(client, Action::Hold, order, json).await,
        Command::Release(order) => act::run(client, Action::Release, order, json).await,
        Command::Bounce(order) => act::run(client, Action::Bounce, order, json).await,
        Command::Discard(order) => act::run(client, Action::Discard, order, json).await,
    }
}

async fn show(client: &mut Client, ids: &[QueueId], json: bool) -> Result<(), Failure> {
    let paper = Paper::detect();
    for (index, id) in ids.iter().enumerate() {
        let answer = client.get::<Story>(format!("/api/v1/messages/{}", segment(&id.to_string()))).await?;
        if json {
            say_json(&answer.text)?;
            continue;
        }
        let gap = if index > 0 { "\n" } else { "" };
        say(&format!("{gap}{}", story::told(&answer.document, words::now(), paper)))?;
    }
    Ok(())
}
