//! Lists of any length: page by page, and only as far as somebody reads.

use std::io::{BufRead, BufReader};

use oncemail::admin::model::{Kind, Messages, State, Summary, Suppression, SuppressionList};

use super::{run, stderr, stdout};
use crate::common::admin_server::{AdminServer, line, ok};
use crate::common::https_server::Asked;
use crate::common::program::{Setup, oncemail};

/// Messages in the queue.
const COUNT: u64 = 10_000;

fn summary(number: u64) -> Summary {
    Summary {
        id: format!("01KAQ3V8ZK5T9M2W7X4N{number:06}"),
        state: State::Queued,
        kind: Kind::Mail,
        accepted_at: "2026-11-22T10:00:00Z".into(),
        age_seconds: number,
        from: "shop@shop.example".into(),
        to: vec![format!("customer{number}@example.com")],
        recipients: 1,
        user: None,
        listener: None,
        key: None,
        route: None,
        size: 1_000,
        attempts: 1,
        next_attempt: None,
        last_reply: Some("451 4.7.1 \u{9b}2Jlater".into()),
    }
}

/// A value of a query string.
pub fn parameter(asked: &Asked, name: &str) -> Option<String> {
    let line = line(asked);
    let query = line.split_once('?')?.1;
    query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")).map(str::to_owned))
}

/// As the server does it; one page in the middle is empty, which is allowed.
fn page(asked: &Asked) -> Vec<u8> {
    let limit: u64 = parameter(asked, "limit").unwrap().parse().unwrap();
    let after =
        parameter(asked, "after").map_or(0, |after| after.trim_start_matches("q%3A").parse().unwrap());
    if after == 5_000 {
        return ok(&Messages { next: Some("q:05000".into()), matched: COUNT, ..Messages::default() });
    }
    let end = (after + limit).min(COUNT);
    let next = (end < COUNT).then(|| format!("q:{end}"));
    ok(&Messages { messages: (after..end).map(summary).collect(), next, matched: COUNT, unread: 0 })
}

#[test]
fn all_of_a_long_list_is_read_page_by_page() {
    let setup = Setup::new();
    let server = AdminServer::start(&setup.data_dir(), |asked| {
        // Text and number are the same place, and another cursor.
        if parameter(asked, "after").is_some_and(|after| after == "q%3A05000") {
            let messages = (5_000..5_500).map(summary).collect();
            return ok(&Messages { messages, next: Some("q:5500".into()), matched: COUNT, unread: 0 });
        }
        page(asked)
    });
    let output =
        run(&setup, &["queue", "list", "--all", "--to-domain", "*.example.com", "--state", "queued,held"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 1 + 10_000 + 1);
    assert!(text.ends_with("\n10,000 messages\n"), "{}", text.lines().last().unwrap());
    assert!(text.contains("customer9999@example.com") && !text.contains('\u{9b}'));
    let asked = server.asked();
    assert_eq!(asked.len(), 21);
    for asked in &asked {
        assert_eq!(parameter(asked, "to_domain").unwrap(), "%2A.example.com");
        assert_eq!(parameter(asked, "state").unwrap(), "queued%2Cheld");
        assert_eq!(parameter(asked, "limit").unwrap(), "500");
    }
}

#[test]
fn a_limit_is_kept_and_documents_come_as_they_are() {
    let setup = Setup::new();
    let server = AdminServer::start(&setup.data_dir(), page);
    let output = run(&setup, &["queue", "list", "--limit", "600", "--json"]);
    let documents: Vec<Messages> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(documents.iter().map(|page| page.messages.len()).collect::<Vec<_>>(), [500, 100]);
    // A control character stays in the document, and not on the terminal.
    assert_eq!(documents[0].messages[0], summary(0));
    assert!(!stdout(&output).contains('\u{9b}'));
    assert_eq!(parameter(&server.asked()[1], "limit").unwrap(), "100");
    let text = stdout(&run(&setup, &["queue", "list"]));
    assert!(text.ends_with("50 of 10,000 messages; more with --limit or --all\n"));
}

#[test]
fn nothing_found_is_no_failure() {
    let setup = Setup::new();
    let _server = AdminServer::start(&setup.data_dir(), |_| ok(&Messages::default()));
    let output = run(&setup, &["queue", "list", "--older", "2h"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "No message matches.\n".to_owned()));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let setup = Setup::new();
    // It never ends by itself.
    let server = AdminServer::start(&setup.data_dir(), |asked| {
        let from =
            parameter(asked, "after").map_or(0, |after| after.trim_start_matches("q%3A").parse().unwrap());
        let messages = (from..from + 500).map(summary).collect();
        ok(&Messages { messages, next: Some(format!("q:{}", from + 500)), matched: u64::MAX, unread: 0 })
    });
    let mut child = oncemail(&["--config", &setup.config(), "queue", "list", "--all"]).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    assert!(first.starts_with("ID "), "{first}");
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert!(server.asked().len() < 100);
}

#[test]
fn suppressed_addresses_are_listed_added_and_removed() {
    let setup = Setup::new();
    let server = AdminServer::start(&setup.data_dir(), |asked| {
        let one = |address: &str| Suppression { address: address.into(), since: None, reason: "gone".into() };
        match line(asked).split([' ', '?']).next().unwrap() {
            "POST" => ok(&one("gone@example.com")),
            "DELETE" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            _ if parameter(asked, "after").is_some() => {
                ok(&SuppressionList { suppressions: vec![one("b@x.example")], next: None, total: 2 })
            }
            _ => ok(&SuppressionList {
                suppressions: vec![one("a@x.example")],
                next: Some("a@x.example".into()),
                total: 2,
            }),
        }
    });
    let listed = stdout(&run(&setup, &["suppressions", "list", "--all"]));
    assert!(listed.contains("a@x.example") && listed.ends_with("2 addresses\n"), "{listed}");
    let added = run(&setup, &["suppressions", "add", "gone@example.com", "--reason", "asked"]);
    assert_eq!(stdout(&added), "gone@example.com: no mail is taken for it\n", "{}", stderr(&added));
    let removed = run(&setup, &["suppressions", "remove", "a+b@example.com"]);
    assert_eq!(stdout(&removed), "a+b@example.com: mail is taken for it again\n", "{}", stderr(&removed));
    let lines = server.lines();
    assert_eq!(lines[1], "GET /api/v1/suppressions?limit=500&after=a%40x.example");
    assert_eq!(lines[2], "POST /api/v1/suppressions");
    assert_eq!(server.asked()[2].body, r#"{"address":"gone@example.com","reason":"asked"}"#);
    assert_eq!(lines[3], "DELETE /api/v1/suppressions?address=a%2Bb%40example.com");
}
