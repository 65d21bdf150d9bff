//! `oncemail queue list`: page by page, so that it begins at once and needs no memory for a queue of any length.

use super::filter::query;
use crate::admin::model::{Filter, Messages, State, Summary};
use crate::cli::client::{Client, path_with};
use crate::cli::failure::Failure;
use crate::cli::paper::{Paint, Paper, say, say_json};
use crate::cli::table::{Cell, Column, Table};
use crate::cli::words::{self, counted, grouped, short};
use crate::clock::Timestamp;

/// No page of the API is longer.
const PAGE: u64 = 500;

const COLUMNS: [Column; 10] = [
    Column::whole("ID"),
    Column::whole("STATE"),
    Column::number("AGE"),
    Column::number("TRIES").goes(4),
    Column::number("NEXT").goes(2),
    Column::number("SIZE").goes(6),
    Column::cut("FROM", 16).goes(3),
    Column::cut("TO", 16),
    Column::cut("ROUTE", 8).goes(5),
    Column::cut("LAST REPLY", 14).goes(1),
];

/// Prints up to `limit` messages.
pub(super) async fn run(client: &mut Client, filter: &Filter, limit: u64, json: bool) -> Result<(), Failure> {
    let mut table = Table::new(&COLUMNS, Paper::detect());
    let (mut shown, mut after) = (0, None::<String>);
    loop {
        let wanted = (limit - shown).min(PAGE);
        let answer = client.get::<Messages>(path(filter, wanted, after.as_deref())).await?;
        let page = answer.document;
        shown = (shown + page.messages.len() as u64).min(limit);
        // A page may be empty and not the last; one that leads to itself must not hold anybody up.
        after = page.next.filter(|next| shown < limit && Some(next) != after.as_ref());
        let more = after.is_some();
        if json {
            say_json(&answer.text)?;
        } else if !page.messages.is_empty() {
            say(&table.page(&rows(&page.messages, words::now()), more))?;
        }
        match (more, json, shown) {
            (true, ..) => {}
            (false, true, _) => return Ok(()),
            (false, false, 0) => return say(&nothing(page.unread)),
            (false, false, _) => return say(&footer(shown, page.matched, page.unread)),
        }
    }
}

fn path(filter: &Filter, limit: u64, after: Option<&str>) -> String {
    let mut pairs = query(filter);
    pairs.push(("limit", limit.to_string()));
    pairs.extend(after.map(|after| ("after", after.to_owned())));
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    path_with("/api/v1/messages", &pairs)
}

fn nothing(unread: u64) -> String {
    format!("No message matches.\n{}", unread_note(unread))
}

fn footer(shown: u64, matched: u64, unread: u64) -> String {
    let of = if matched > shown {
        format!("{} of {}; more with --limit or --all\n", grouped(shown), counted(matched, "message"))
    } else {
        format!("{}\n", counted(shown, "message"))
    };
    of + &unread_note(unread)
}

/// What a list cannot know yet.
pub(super) fn unread_note(unread: u64) -> String {
    match unread {
        0 => String::new(),
        unread => {
            format!("{} from before the start not read yet: ask again soon\n", counted(unread, "message"))
        }
    }
}

/// The lines of a table of messages.
fn rows(messages: &[Summary], now: Timestamp) -> Vec<Vec<Cell>> {
    messages.iter().map(|message| row(message, now)).collect()
}

fn row(message: &Summary, now: Timestamp) -> Vec<Cell> {
    let (state, paint) = words::state(message.state);
    let reply = message.last_reply.as_deref().unwrap_or_default();
    let is_trouble = !matches!(message.state, State::Delivered);
    vec![
        Cell::text(&message.id),
        Cell::painted(state, paint),
        Cell::text(short(message.age_seconds)),
        Cell::text(message.attempts.to_string()),
        Cell::text(words::until(message.next_attempt.as_deref(), now)),
        Cell::text(words::size(message.size)),
        Cell::text(words::sender(&message.from)),
        Cell::text(words::recipients(&message.to, message.recipients)),
        Cell::text(message.route.as_deref().unwrap_or("-")),
        Cell::painted(reply, if is_trouble { Paint::Plain } else { Paint::Aside }),
    ]
}

/// The same table for a few messages, as a sample of many.
pub(super) fn sample(messages: &[Summary], now: Timestamp, paper: Paper) -> String {
    Table::new(&COLUMNS, paper).page(&rows(messages, now), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::model::Kind;
    use crate::cli::text::width;

    fn message(to: &str, reply: &str) -> Summary {
        Summary {
            id: "01KAQ3V8ZK5T9M2W7X4N6R1C0D".into(),
            state: State::Queued,
            kind: Kind::Mail,
            accepted_at: "2026-11-22T10:00:00Z".into(),
            age_seconds: 1_830,
            from: "shop@shop.example".into(),
            to: vec![to.into()],
            recipients: 3,
            user: None,
            listener: None,
            key: None,
            route: Some("provider".into()),
            size: 1_234,
            attempts: 4,
            next_attempt: Some("2026-11-22T10:35:00Z".into()),
            last_reply: Some(reply.into()),
        }
    }

    fn printed(room: Option<usize>) -> String {
        let messages = [
            message("kunde@例え.example", "451 4.7.1 try again later"),
            message("x\x1b[2J@y.example", "550 \u{202e}evil\r\n250 ok"),
        ];
        let now = words::time("2026-11-22T10:30:30Z").unwrap();
        sample(&messages, now, Paper { width: room, colours: false })
    }

    #[test]
    fn a_list_fits_the_terminal_and_the_most_important_stays() {
        let expected = "\
ID                          STATE   AGE  NEXT  TO                 LAST REPLY
01KAQ3V8ZK5T9M2W7X4N6R1C0D  queued  30m    4m  kunde@例え.examp…  451 4.7.1 try…
01KAQ3V8ZK5T9M2W7X4N6R1C0D  queued  30m    4m  x\\u{1b}[2J@y.exa…  550 \\u{202e}e…
";
        assert_eq!(printed(Some(80)), expected);
        for room in 20..200 {
            assert!(printed(Some(room)).lines().all(|line| width(line) <= room), "{room}");
        }
        let whole = printed(None);
        assert!(whole.contains("shop@shop.example  kunde@例え.example +2"), "{whole}");
        assert!(whole.contains("550 \\u{202e}evil\\r\\n250 ok\n"), "{whole}");
        assert_eq!(whole.lines().count(), 3);
    }

    #[test]
    fn the_end_of_a_list_says_what_is_not_shown() {
        assert_eq!(footer(50, 12_345, 0), "50 of 12,345 messages; more with --limit or --all\n");
        assert_eq!(footer(1, 1, 0), "1 message\n");
        assert!(nothing(7).contains("7 messages from before the start not read yet"));
        // What is found in the history is not counted there.
        assert_eq!(footer(3, 0, 0), "3 messages\n");
    }

    #[test]
    fn a_page_is_asked_for_with_all_conditions() {
        let filter = Filter { to_domain: Some("*.example.com".into()), ..Filter::default() };
        assert_eq!(
            path(&filter, 500, Some("q:01/2")),
            "/api/v1/messages?to_domain=%2A.example.com&limit=500&after=q%3A01%2F2"
        );
    }
}
