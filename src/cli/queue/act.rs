//! `oncemail queue retry|hold|release|bounce|discard`: on messages by their ids, or on all that match a filter.
//!
//! An order for a filter is first asked for as a dry run. A person sees how many messages match and a few of them, and
//! has to agree; what comes to the queue in between may match too.

use super::filter::Which;
use super::list;
use crate::admin::model::{
    Action, ActionRequest, ActionResult, BulkRequest, BulkResult, Effect, Filter, Story, Summary,
};
use crate::cli::client::{Client, segment};
use crate::cli::confirm;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::paper::{Paper, say, say_json};
use crate::cli::text::escaped;
use crate::cli::words::{self, counted, grouped};
use crate::mail::QueueId;

/// Characters of a reason.
const MAX_REASON: usize = 200;
/// Messages that a question shows.
const SHOWN: usize = 10;

/// What to do it on, and how.
#[derive(clap::Args, Debug)]
pub(super) struct Order {
    /// Queue ids; or say which messages with the options below
    #[arg(value_name = "ID")]
    ids: Vec<QueueId>,
    #[command(flatten)]
    which: Which,
    /// All messages that this can be done with
    #[arg(long, help_heading = "Which messages")]
    all: bool,
    /// Why; kept with the message, at most 200 characters
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask: for scripts
    #[arg(long, short)]
    yes: bool,
}

fn reason(text: &str) -> Result<String, String> {
    match text.chars().count() {
        0..=MAX_REASON => Ok(text.to_owned()),
        count => Err(format!("{count} characters; at most {MAX_REASON}")),
    }
}

/// What an order is for.
#[derive(Debug)]
enum Extent {
    These(Vec<QueueId>),
    Matching(Filter),
}

fn extent(ids: Vec<QueueId>, which: &Which, all: bool) -> Result<Extent, String> {
    match (ids.is_empty(), which.is_empty(), all) {
        (false, true, false) => Ok(Extent::These(ids)),
        (true, false, false) => Ok(Extent::Matching(which.filter())),
        (true, true, true) => Ok(Extent::Matching(Filter::default())),
        (true, true, false) => {
            Err("which messages? name queue ids, say which with options such as --to-domain, or say --all"
                .into())
        }
        (false, ..) => Err("queue ids and a filter are two different things: give one of them".into()),
        (true, false, true) => Err("--all is for all messages: leave it out, or the conditions".into()),
    }
}

/// Does it.
pub(super) async fn run(
    client: &mut Client,
    action: Action,
    order: Order,
    json: bool,
) -> Result<(), Failure> {
    let Order { ids, which, all, reason, dry_run, yes } = order;
    match extent(ids, &which, all).map_err(Failure::Usage)? {
        Extent::These(ids) if dry_run => preview(client, action, &ids, json).await,
        Extent::These(ids) => on_these(client, &ActionRequest { action, reason }, &ids, json).await,
        Extent::Matching(filter) => {
            let request = BulkRequest { action, filter, dry_run, reason };
            on_matching(client, request, yes, json).await
        }
    }
}

async fn on_these(
    client: &mut Client,
    request: &ActionRequest,
    ids: &[QueueId],
    json: bool,
) -> Result<(), Failure> {
    let mut worst = Outcome::Done;
    for id in ids {
        let path = format!("/api/v1/messages/{}/actions", segment(&id.to_string()));
        let result = match client.post::<ActionResult>(path, request).await {
            Ok(answer) if json => {
                say_json(&answer.text)?;
                answer.document
            }
            Ok(answer) => {
                say(&format!("{}\n", told(request.action, &answer.document)))?;
                answer.document
            }
            // The others are still to be done.
            Err(failure @ Failure::NotFound(_)) => {
                failure.tell();
                worst = worst.max(Outcome::NotFound);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        worst = worst.max(match result.effect {
            Effect::Done | Effect::Pending | Effect::Unchanged => Outcome::Done,
            Effect::Gone => Outcome::NotFound,
            Effect::Failed => Outcome::Failed,
        });
    }
    worst.finish()
}

fn told(action: Action, result: &ActionResult) -> String {
    let words = match result.effect {
        Effect::Done => past(action),
        Effect::Pending => "an attempt is under way: it happens with that attempt's outcome",
        Effect::Unchanged => "unchanged",
        Effect::Gone => "not in the queue any more",
        Effect::Failed => "failed, nothing was changed",
    };
    let detail = result.detail.as_deref().map(|detail| format!(": {}", escaped(detail))).unwrap_or_default();
    format!("{}  {words}{detail}", escaped(&result.id))
}

/// The API has no dry run for single messages: this shows where they stand.
async fn preview(client: &mut Client, action: Action, ids: &[QueueId], json: bool) -> Result<(), Failure> {
    let mut found: Vec<Summary> = Vec::new();
    for id in ids {
        let answer = client.get::<Story>(format!("/api/v1/messages/{}", segment(&id.to_string()))).await?;
        if json {
            say_json(&answer.text)?;
        }
        found.push(answer.document.summary);
    }
    if json {
        return Ok(());
    }
    say(&list::sample(&found, words::now(), Paper::detect()))?;
    say(&format!("Would {} {}. Nothing was changed.\n", verb(action), counted(found.len() as u64, "message")))
}

async fn on_matching(
    client: &mut Client,
    request: BulkRequest,
    yes: bool,
    json: bool,
) -> Result<(), Failure> {
    const PATH: &str = "/api/v1/messages/actions";
    if !request.dry_run {
        confirm::possible(yes)?;
    }
    let action = request.action;
    let first = client.post::<BulkResult>(PATH, &BulkRequest { dry_run: true, ..request.clone() }).await?;
    if request.dry_run {
        return if json {
            say_json(&first.text)
        } else {
            say(&dry(action, &first.document, Paper::detect()))
        };
    }
    if first.document.matched == 0 {
        return if json {
            say_json(&first.text)
        } else {
            say(&format!("No message matches: nothing to do.\n{}", list::unread_note(first.document.unread)))
        };
    }
    if !yes {
        // On standard error, like the question: the output may go elsewhere.
        let paper = Paper::detect();
        crate::cli::complain(sample_of(&first.document, paper).trim_end());
        let question = format!("{} {}?", capital(verb(action)), counted(first.document.matched, "message"));
        confirm::ask(yes, &question)?;
    }
    let answer = client.post::<BulkResult>(PATH, &request).await?;
    if json {
        say_json(&answer.text)?
    } else {
        say(&done(action, &answer.document))?
    }
    if answer.document.failed > 0 { Outcome::Failed.finish() } else { Ok(()) }
}

fn sample_of(result: &BulkResult, paper: Paper) -> String {
    let some = result.sample.get(..SHOWN).unwrap_or(&result.sample);
    let mut text = list::sample(some, words::now(), paper);
    let more = result.matched.saturating_sub(some.len() as u64);
    if more > 0 {
        text.push_str(&format!("… and {} more\n", grouped(more)));
    }
    text
}

fn dry(action: Action, result: &BulkResult, paper: Paper) -> String {
    if result.matched == 0 {
        return format!("No message matches: nothing would be done.\n{}", list::unread_note(result.unread));
    }
    let what = counted(result.matched, "message");
    let unread = list::unread_note(result.unread);
    format!("{}Would {} {what}. Nothing was changed.\n{unread}", sample_of(result, paper), verb(action))
}

fn done(action: Action, result: &BulkResult) -> String {
    let mut text = format!("{}: {}\n", counted(result.done, "message"), past(action));
    for (count, what) in [
        (result.pending, "an attempt is under way: it happens with that attempt's outcome"),
        (result.unchanged, "unchanged, or gone"),
        (result.failed, "failed, nothing was changed"),
    ] {
        if count > 0 {
            text.push_str(&format!("{}: {what}\n", counted(count, "message")));
        }
    }
    text.push_str(&list::unread_note(result.unread));
    text
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Retry => "retry",
        Action::Hold => "hold",
        Action::Release => "release",
        Action::Bounce => "bounce",
        Action::Discard => "discard",
    }
}

fn past(action: Action) -> &'static str {
    match action {
        Action::Retry => "tried now",
        Action::Hold => "held",
        Action::Release => "released",
        Action::Bounce => "bounced",
        Action::Discard => "discarded",
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_which_messages_it_is_for() {
        let id = "01KAQ3V8ZK5T9M2W7X4N6R1C0D".parse::<QueueId>().unwrap();
        let none = Which::default();
        assert!(matches!(extent(vec![id], &none, false), Ok(Extent::These(_))));
        assert!(
            matches!(extent(vec![], &none, true), Ok(Extent::Matching(filter)) if filter == Filter::default())
        );
        assert!(extent(vec![], &none, false).is_err_and(|what| what.contains("--all")));
        assert!(extent(vec![id], &none, true).is_err());
    }

    #[test]
    fn what_was_done_is_counted_by_what_became_of_it() {
        let result =
            BulkResult { matched: 1_003, done: 1_000, pending: 1, failed: 2, ..BulkResult::default() };
        assert_eq!(
            done(Action::Hold, &result),
            "1,000 messages: held\n\
             1 message: an attempt is under way: it happens with that attempt's outcome\n\
             2 messages: failed, nothing was changed\n"
        );
        let paper = Paper { width: None, colours: false };
        assert!(
            dry(Action::Bounce, &result, paper)
                .ends_with("Would bounce 1,003 messages. Nothing was changed.\n")
        );
        assert!(dry(Action::Bounce, &BulkResult::default(), paper).starts_with("No message matches"));
        let unread = BulkResult { unread: 7, ..BulkResult::default() };
        let note = "7 messages from before the start not read yet: ask again soon\n";
        assert!(
            done(Action::Hold, &unread).ends_with(note) && dry(Action::Hold, &unread, paper).ends_with(note)
        );
        let one =
            ActionResult { id: "X".into(), effect: Effect::Unchanged, detail: Some("it is\x1b held".into()) };
        assert_eq!(told(Action::Hold, &one), "X  unchanged: it is\\u{1b} held");
    }

    #[test]
    fn a_reason_is_short() {
        assert!(reason(&"ü".repeat(200)).is_ok());
        assert!(reason(&"ü".repeat(201)).is_err());
    }
}
