//! `oncemail reload`: the running server reads its configuration again; all of it is taken, or nothing.

use serde_json::json;

use super::client::Client;
use super::failure::Failure;
use super::paper::{say, say_json};
use super::text::escaped;
use crate::admin::model::Reloaded;

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail check-config && oncemail reload

The server reads its own file and the environment that it was started with.
Exit codes: 0 done, 1 failed, 2 the configuration is wrong, and nothing has changed";

/// Asks, and says what has changed.
pub(super) async fn run(client: &mut Client, json: bool) -> Result<(), Failure> {
    let answer = client.post::<Reloaded>("/api/v1/reload", &json!({})).await?;
    if json { say_json(&answer.text) } else { say(&told(&answer.document)) }
}

fn told(reloaded: &Reloaded) -> String {
    let Reloaded { changed, needs_restart } = reloaded;
    let mut text = match changed.as_slice() {
        [] if needs_restart.is_empty() => "Nothing has changed.\n".to_owned(),
        [] => String::new(),
        _ => list("In force now:", changed),
    };
    if !needs_restart.is_empty() {
        text.push_str(&list("Only after a restart:", needs_restart));
    }
    text
}

fn list(title: &str, names: &[String]) -> String {
    let lines: String = names.iter().map(|name| format!("  {}\n", escaped(name))).collect();
    format!("{title}\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_names_what_is_in_force_and_what_is_not() {
        assert_eq!(told(&Reloaded::default()), "Nothing has changed.\n");
        let both = Reloaded { changed: vec!["route \"a\"".into()], needs_restart: vec!["data_dir".into()] };
        assert_eq!(told(&both), "In force now:\n  route \"a\"\nOnly after a restart:\n  data_dir\n");
        let restart = Reloaded { changed: Vec::new(), ..both };
        assert_eq!(told(&restart), "Only after a restart:\n  data_dir\n");
    }
}
