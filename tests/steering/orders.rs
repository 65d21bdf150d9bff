//! Orders: on messages by their ids, on all that match, and never on many without somebody's consent.

use oncemail::admin::model::{ActionResult, BulkRequest, BulkResult, Effect, KeyStory};

use super::{run, stderr, stdout};
use crate::common::admin_server::{AdminServer, line, ok, problem};
use crate::common::https_server::Asked;
use crate::common::program::Setup;

const ID: &str = "01KAQ3V8ZK5T9M2W7X4N6R1C0D";
const OTHER: &str = "01KAQ3V8ZK5T9M2W7X4N6R1C0E";

/// Says yes to everything.
pub fn willing(asked: &Asked) -> Vec<u8> {
    let request: BulkRequest = serde_json::from_str(&asked.body).unwrap();
    let done = if request.dry_run { 0 } else { 1_003 };
    ok(&BulkResult { dry_run: request.dry_run, matched: 1_003, done, ..BulkResult::default() })
}

fn requests(server: &AdminServer) -> Vec<BulkRequest> {
    server.asked().iter().map(|asked| serde_json::from_str(&asked.body).unwrap()).collect()
}

#[test]
fn nothing_is_asked_of_the_server_when_nobody_can_consent() {
    let setup = Setup::new();
    let server = AdminServer::start(&setup.data_dir(), willing);
    for order in
        [&["discard", "--to-domain", "example.com"] as &[&str], &["hold", "--all"], &["retry", "--all"]]
    {
        let output = run(&setup, &[&["queue"], order].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("--yes") && stderr(&output).contains("--dry-run"));
    }
    let output = run(&setup, &["key", "forget", "order-123"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(server.asked().is_empty());
}

#[test]
fn an_order_for_a_filter_is_given_after_a_dry_run_with_the_same_filter() {
    let setup = Setup::new();
    let server = AdminServer::start(&setup.data_dir(), willing);
    let order = ["queue", "hold", "--from", "@shop.example", "--older", "2h", "--reason", "wrong prices"];
    let output = run(&setup, &[&order as &[&str], &["--yes"]].concat());
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "1,003 messages: held\n".to_owned()));
    let [dry, real] = requests(&server).try_into().unwrap();
    assert!(dry.dry_run && !real.dry_run);
    assert_eq!(BulkRequest { dry_run: false, ..dry }, real);
    assert_eq!(
        (real.filter.from.as_deref(), real.filter.older.as_deref()),
        (Some("@shop.example"), Some("2h"))
    );
    assert_eq!(real.reason.as_deref(), Some("wrong prices"));
    // A dry run needs no consent, and stays one.
    let output = run(&setup, &[&order as &[&str], &["--dry-run"]].concat());
    assert!(
        stdout(&output).ends_with("Would hold 1,003 messages. Nothing was changed.\n"),
        "{}",
        stdout(&output)
    );
    let requests = requests(&server);
    assert_eq!(requests.iter().filter(|request| !request.dry_run).count(), 1);
    assert_eq!(requests.len(), 3);
}

#[test]
fn an_order_for_nothing_in_particular_is_wrong_usage() {
    let setup = Setup::new();
    for (order, hint) in [
        (&["queue", "discard", "--yes"] as &[&str], "--all"),
        (&["queue", "discard", ID, "--user", "shop"], "two different things"),
        (&["queue", "discard", "42"], "a queue id is 26 characters"),
        (&["queue", "list", "--state", "lost"], "possible values"),
    ] {
        let output = run(&setup, order);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(hint), "{}", stderr(&output));
    }
}

#[test]
fn each_message_that_is_named_gets_its_own_answer() {
    let setup = Setup::new();
    let server = AdminServer::start(&setup.data_dir(), |asked| {
        if line(asked).contains(OTHER) {
            return problem("404 Not Found", "it is not in the queue (any more)");
        }
        let detail = Some("an attempt is under way".to_owned());
        ok(&ActionResult { id: ID.into(), effect: Effect::Pending, detail })
    });
    let output = run(&setup, &["queue", "bounce", OTHER, ID, "--reason", "no"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("not in the queue"));
    assert!(stdout(&output).starts_with(&format!("{ID}  an attempt is under way")), "{}", stdout(&output));
    let asked = server.asked();
    assert_eq!(line(&asked[1]), format!("POST /api/v1/messages/{ID}/actions"));
    assert_eq!(asked[1].body, r#"{"action":"bounce","reason":"no"}"#);
}

#[test]
fn what_could_not_be_made_durable_is_a_failure() {
    let setup = Setup::new();
    let _server = AdminServer::start(&setup.data_dir(), |_| {
        ok(&BulkResult { matched: 3, done: 1, failed: 2, ..BulkResult::default() })
    });
    let output = run(&setup, &["queue", "release", "--all", "--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("2 messages: failed, nothing was changed\n"));
}

#[test]
fn a_key_is_shown_and_forgotten_in_its_users_scope() {
    let setup = Setup::new();
    let server = AdminServer::start(&setup.data_dir(), |asked| match line(asked) {
        line if line.contains("/config") => {
            ok(&serde_json::json!({"user": [{"name": "till", "scope": "shop"}]}))
        }
        line if line.starts_with("DELETE") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        line if line.contains("unknown") => problem("404 Not Found", "no such key"),
        _ => ok(&KeyStory {
            key: "order/1 & 2".into(),
            scope: Some("shop".into()),
            id: ID.into(),
            accepted_at: "2026-11-22T08:30:00Z".into(),
            expires_at: "2026-11-23T08:30:00Z".into(),
            replays: 0,
            last_replay_at: None,
            message: None,
        }),
    });
    let shown = run(&setup, &["key", "show", "order/1 & 2", "--user", "till"]);
    assert!(stdout(&shown).contains("none: nobody has retried"), "{}", stderr(&shown));
    let forgotten = run(&setup, &["key", "forget", "order/1 & 2", "--scope", "shop", "--yes"]);
    assert_eq!(stdout(&forgotten), "Forgotten: order/1 & 2\n", "{}", stderr(&forgotten));
    assert_eq!(run(&setup, &["key", "show", "unknown"]).status.code(), Some(3));
    let key = "/api/v1/keys?key=order%2F1%20%26%202&scope=shop";
    let expected = [
        "GET /api/v1/config".to_owned(),
        format!("GET {key}"),
        format!("GET {key}"),
        format!("DELETE {key}"),
        "GET /api/v1/keys?key=unknown".to_owned(),
    ];
    assert_eq!(server.lines(), expected);
}
