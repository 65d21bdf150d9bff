//! `oncemail key`: what became of order 123, and how to let it be sent anew.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Client, Remote, path_with};
use super::failure::Failure;
use super::paper::{Paint, Paper, say, say_json};
use super::text::escaped;
use super::words::{self, counted, distance};
use super::{confirm, story};
use crate::admin::model::KeyStory;
use crate::clock::Timestamp;

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail key show order-123 --user shop
  oncemail key show order-123                a client that did not authenticate
  oncemail key forget order-123 --scope shop --yes

A key belongs to a scope: the user that submitted under it, or the scope that is configured for that user.
Exit codes: 0 done, 1 failed, 2 wrong usage or not confirmed, 3 no such key";

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
    /// Tell what became of a key: its message, every attempt, and every replay
    Show {
        #[command(flatten)]
        key: Key,
    },
    /// Forget a key: what comes under it next is a first submission, and is sent
    Forget {
        #[command(flatten)]
        key: Key,
        /// Do not ask: for scripts
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
struct Key {
    /// The key, as the client sent it
    #[arg(value_name = "KEY", allow_hyphen_values = true)]
    key: String,
    /// Whose it is: a scope
    #[arg(long, value_name = "SCOPE", conflicts_with = "user")]
    scope: Option<String>,
    /// Whose it is: the scope of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Where the key came from
    #[arg(long, value_name = "KIND", default_value = "header",
          value_parser = PossibleValuesParser::new(["header", "message-id", "content"]))]
    kind: String,
}

/// Runs it.
pub(super) async fn run(client: &mut Client, arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Show { key } => {
            let path = path(client, &key).await?;
            let answer = client.get::<KeyStory>(path).await?;
            if arguments.remote.json {
                return say_json(&answer.text);
            }
            say(&told(&answer.document, words::now(), Paper::detect()))
        }
        Command::Forget { key, yes } => {
            confirm::possible(yes)?;
            let path = path(client, &key).await?;
            let story = client.get::<KeyStory>(path.clone()).await?.document;
            if !yes {
                super::complain(&about(&story, words::now()));
                confirm::ask(yes, "Forget the key? A retry under it will then be sent.")?;
            }
            client.delete(path).await?;
            if arguments.remote.json { Ok(()) } else { say(&format!("Forgotten: {}\n", escaped(&story.key))) }
        }
    }
}

async fn path(client: &mut Client, key: &Key) -> Result<String, Failure> {
    let scope = match (&key.scope, &key.user) {
        (Some(scope), _) => Some(scope.clone()),
        (None, Some(user)) => Some(scope_of(client, user).await?),
        (None, None) => None,
    };
    let mut query = vec![("key", key.key.as_str())];
    query.extend(scope.as_deref().map(|scope| ("scope", scope)));
    if key.kind != "header" {
        query.push(("kind", &key.kind));
    }
    Ok(path_with("/api/v1/keys", &query))
}

/// A user's scope is its name, unless the configuration in force says otherwise.
async fn scope_of(client: &mut Client, user: &str) -> Result<String, Failure> {
    let config = client.get::<Value>("/api/v1/config").await?.document;
    Ok(configured_scope(&config, user).unwrap_or(user).to_owned())
}

fn configured_scope<'a>(config: &'a Value, user: &str) -> Option<&'a str> {
    let users = config.get("user")?.as_array()?;
    let entry = users.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(user))?;
    entry.get("scope")?.as_str()
}

fn told(key: &KeyStory, now: Timestamp, paper: Paper) -> String {
    let mut text = String::new();
    paper.paint(&mut text, &escaped(&key.key), Paint::Title);
    text.push('\n');
    let mut fact = |name: &str, value: &str| story::named(name, value, paper, &mut text);
    fact("Scope", key.scope.as_deref().unwrap_or("clients that did not authenticate"));
    fact("Queue id", &key.id);
    fact("Accepted", &format!("{} ({})", key.accepted_at, distance(&key.accepted_at, now)));
    fact("Replays", &replays(key, now));
    fact("Expires", &format!("{} ({})", key.expires_at, distance(&key.expires_at, now)));
    text.push('\n');
    match &key.message {
        Some(message) => text.push_str(&story::told(message, now, paper)),
        None => text.push_str("The message is over, and its story is no longer kept.\n"),
    }
    text
}

fn replays(key: &KeyStory, now: Timestamp) -> String {
    match (key.replays, &key.last_replay_at) {
        (0, _) => "none: nobody has retried".to_owned(),
        (count, Some(last)) => format!("{}, the last one {}", words::grouped(count), distance(last, now)),
        (count, None) => words::grouped(count),
    }
}

/// What somebody should know before it is forgotten.
fn about(key: &KeyStory, now: Timestamp) -> String {
    let state = key.message.as_ref().map_or("over", |message| words::state(message.summary.state).0);
    format!(
        "{}: message {} was accepted {} and is {state}; {}",
        escaped(&key.key),
        escaped(&key.id),
        escaped(&distance(&key.accepted_at, now)),
        counted(key.replays, "replay")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn example() -> KeyStory {
        KeyStory {
            key: "order-123\x1b[2J".into(),
            scope: Some("shop".into()),
            id: "01KAQ3V8ZK5T9M2W7X4N6R1C0D".into(),
            accepted_at: "2026-11-22T08:30:00Z".into(),
            expires_at: "2026-11-23T08:30:00Z".into(),
            replays: 2,
            last_replay_at: Some("2026-11-22T10:00:00Z".into()),
            message: None,
        }
    }

    #[test]
    fn a_key_says_what_became_of_it() {
        let now = words::time("2026-11-22T10:30:00Z").unwrap();
        let expected = "\
order-123\\u{1b}[2J
  Scope         shop
  Queue id      01KAQ3V8ZK5T9M2W7X4N6R1C0D
  Accepted      2026-11-22T08:30:00Z (2 h ago)
  Replays       2, the last one 30 min ago
  Expires       2026-11-23T08:30:00Z (in 22 h)

The message is over, and its story is no longer kept.
";
        let paper = Paper { width: Some(80), colours: false };
        assert_eq!(told(&example(), now, paper), expected);
        let with = KeyStory { message: Some(story::tests::example()), ..example() };
        assert!(told(&with, now, paper).contains("Time line (UTC)\n"));
        let about = about(&with, now);
        assert!(
            about.ends_with("was accepted 2 h ago and is queued; 2 replays") && !about.contains('\x1b'),
            "{about}"
        );
        let anonymous = KeyStory { scope: None, replays: 0, ..example() };
        assert!(told(&anonymous, now, paper).contains("clients that did not authenticate\n"));
    }

    #[test]
    fn a_users_scope_is_its_name_unless_it_is_configured() {
        let config = json!({"user": [{"name": "shop"}, {"name": "till", "scope": "shop"}]});
        assert_eq!(configured_scope(&config, "till"), Some("shop"));
        assert_eq!(configured_scope(&config, "shop"), None);
        assert_eq!(configured_scope(&json!([]), "shop"), None);
    }
}
