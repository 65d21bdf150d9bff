//! What strangers said, wherever it is shown: both forms of the log, the API, the event file, the command line, the
//! history. The real binary, through a day of hostile words.

use std::path::Path;

use oncemail::admin::socket::{ADMIN_SOCKET, connect};
use serde_json::Value;

use super::is_hostile;
use crate::api::rig::{exchange, text};
use crate::common::client::Client;
use crate::common::far_side::{Act, FarSide};
use crate::common::program::{Relay, Setup, oncemail};

/// What a terminal obeys, what turns text around, and what forges a field or a line.
const EVIL: &str = "\u{202e}\u{2066}x\u{2028}\u{200b} outcome=delivered queue_id=FORGED \"code\":250";
/// In the form of a Message-ID, encoded so that controls come out of it.
const MESSAGE_ID: &str =
    "=?utf-8?q?<1=1B[2J=0D=0A=C2=9B2J=E2=80=AE_outcome=3Ddelivered_queue_id=3DFORGED@x>?=";
const REPLY: &[u8] = b"550 5.1.1 \x1b[2J\x9b2J \xc2\x9b2J \xe2\x80\xae\xe2\x80\xa8 outcome=delivered queue_id=FORGED \"code\":250\r\n";

fn setup(far: &FarSide) -> Setup {
    Setup::with_route(&format!(
        "transport = \"smarthost\"\nhosts = [\"{}\"]\ntls = \"none\"\n\
         [events]\nfile = \"{{base}}/events.jsonl\"\n\
         [suppression]\non_hard_bounce = true\n",
        far.address
    ))
}

/// A relay, and where it listens, from a log of either form.
async fn serve(setup: &Setup, format: &str) -> (Relay, std::net::SocketAddr) {
    let mut command = setup.command();
    command.env("ONCEMAIL__LOG__FORMAT", format).env("ONCEMAIL__LOG__LEVEL", "debug");
    let mut relay = Relay::start(command);
    loop {
        let line = relay.line().await;
        let Some(at) = line.find("127.0.0.1:").filter(|_| line.contains("listening")) else { continue };
        let digits = |c: char| c.is_ascii_digit() || ".:".contains(c);
        let end = line[at..].find(|c| !digits(c)).map_or(line.len(), |end| at + end);
        return (relay, line[at..end].parse().unwrap());
    }
}

/// One message with a hostile word in every place that a client fills; gives back its queue id.
async fn submit(address: std::net::SocketAddr) -> String {
    let (mut client, _) = Client::greeted(address).await;
    let local = "a\u{202e}\u{2028}outcome=delivered";
    // What is refused is logged too.
    assert!(client.ask(&format!("MAIL FROM:<{local}\u{9b}@x.example> SMTPUTF8")).await.starts_with("500 "));
    // `\0<evil>\0x`
    let name = format!("\0{EVIL}\0x");
    let credentials = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, name);
    assert!(client.ask(&format!("AUTH PLAIN {credentials}")).await.starts_with("50"));
    assert!(client.ask(&format!("MAIL FROM:<{local}@x.example> SMTPUTF8")).await.starts_with("250 "));
    let quoted = "\"b outcome=delivered queue_id=FORGED\u{202e}\"@x.example";
    assert!(client.ask(&format!("RCPT TO:<{quoted}>")).await.starts_with("250 "));
    assert!(client.ask("DATA").await.starts_with("354 "));
    let content = format!(
        "X-Idempotency-Key: {EVIL}\r\nMessage-ID: {MESSAGE_ID}\r\nSubject: {EVIL}\r\nFrom: {EVIL} <a@x.example>\r\n\r\n{EVIL}\r\n."
    );
    let reply = client.ask(&content).await;
    reply.strip_prefix("250 2.0.0 OK Message queued as ").unwrap_or_else(|| panic!("{reply}")).to_owned()
}

/// Waits until the far side has the report, or at least the refusal is through.
async fn refused(far: &FarSide) {
    far.wait(|log| log.said("MAIL FROM:<>") >= 1).await;
}

async fn api(setup: &Setup, path: &str) -> Value {
    let stream = connect(&setup.data_dir(), ADMIN_SOCKET).await.unwrap();
    let answer =
        exchange(stream, &text(&format!("GET /api/v1/{path}"), &["Host: localhost".into()], "")).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?} {}", String::from_utf8_lossy(&answer.body));
    assert!(!answer.head.contains("FORGED") && answer.head.is_ascii());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{}", answer.head);
    answer.json()
}

fn far_side() -> crate::common::far_side::FarSideBuilder {
    FarSide::new()
        .offers(&["PIPELINING", "8BITMIME", "SMTPUTF8"])
        .on("RCPT TO:<\"b ", Act::Bytes(REPLY.to_vec()))
        .on("MAIL FROM:<>", Act::Say("250 2.1.0 ok".into()))
}

/// What the command line prints of it, on either stream.
fn printed(setup: &Setup, arguments: &[&str]) -> String {
    let output = oncemail(&[&["--config", &setup.config()], arguments].concat()).output().unwrap();
    let all = [output.stdout, output.stderr].concat();
    String::from_utf8(all).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_strangers_said_speaks_to_a_terminal_or_forges_an_entry() {
    let far = far_side().start().await;
    let setup = setup(&far);
    let (mut relay, address) = serve(&setup, "json").await;
    let id = submit(address).await;
    refused(&far).await;
    let story = api(&setup, &format!("messages/{id}")).await;
    assert!(story.to_string().contains("FORGED"), "nothing of it is lost: {story}");
    for path in ["messages", "overview", "destinations", "suppressions"] {
        api(&setup, path).await;
    }
    // The words are there, and harmless.
    let mut shown = String::new();
    for arguments in [
        &["queue", "list", "--all"][..],
        &["queue", "list", "--all", "--json"],
        &["queue", "show", &id],
        &["queue", "show", &id, "--json"],
        &["key", "show", EVIL],
        &["status"],
        &["destinations"],
        &["suppressions", "list", "--all"],
        &["explain", "\"b\u{202e}\u{1b}[2J\"@x.example"],
        &["explain", "b@x\u{202e}.example"],
        &["suppressions", "remove", "\"b\u{202e}\"@x.example"],
    ] {
        let said = printed(&setup, arguments);
        assert!(!said.contains(is_hostile), "{arguments:?}: {said:?}");
        shown.push_str(&said);
    }
    assert!(shown.contains("\\u{202e}") && shown.contains("FORGED"), "{shown}");
    relay.stop().await;
    // JSON: one object a line, and no field but in its place.
    let log = relay.log().await;
    let mut deliveries = 0;
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_ne!(event["queue_id"], "FORGED", "{line}");
        deliveries += usize::from(event["message"] == "delivery" && event["queue_id"] == id.as_str());
        if event["queue_id"] == id.as_str() && event["outcome"].is_string() {
            assert_eq!(event["outcome"], "bounced", "{line}");
        }
    }
    assert_eq!(deliveries, 1);
    // The event file: one object a line.
    let events = std::fs::read_to_string(Path::new(setup.dir.path()).join("events.jsonl")).unwrap();
    assert!(events.ends_with('\n'));
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(event["type"] != "delivered" || event["message"]["id"] != id.as_str(), "{line}");
        assert_ne!(event["message"]["id"], "FORGED");
    }
    assert!(events.contains(&id), "{events}");
}

/// `time LEVEL words name=value …`, as a program would take it apart: a value in quotes goes to its closing quote.
fn fields(line: &str) -> Vec<(String, String)> {
    let (mut found, mut rest) = (Vec::new(), line);
    while let Some(at) = rest.find('=') {
        let name = rest[..at].rsplit(' ').next().unwrap().to_owned();
        let value = &rest[at + 1..];
        let mut escaped = false;
        let end = match value.strip_prefix('"') {
            None => value.find(' ').unwrap_or(value.len()),
            Some(inner) => inner
                .find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                })
                .map_or(value.len(), |end| end + 2),
        };
        found.push((name, value[..end].to_owned()));
        rest = &value[end..];
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_of_the_log_for_people_has_the_fields_that_we_wrote_and_no_others() {
    let far = far_side().start().await;
    let setup = setup(&far);
    let (mut relay, address) = serve(&setup, "text").await;
    let id = submit(address).await;
    refused(&far).await;
    relay.stop().await;
    let log = relay.log().await;
    let mut delivery = None;
    for line in log.lines() {
        assert!(!line.contains(is_hostile), "{line:?}");
        let (time, _) = line.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "a line of somebody else's: {line:?}");
        let fields = fields(line);
        assert!(!fields.iter().any(|(name, value)| name == "queue_id" && value.contains("FORGED")), "{line}");
        let mut names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), fields.len(), "a field twice: {line}");
        if line.contains(" delivery ") && line.contains(&id) {
            delivery = Some(fields);
        }
    }
    let delivery = delivery.expect("the attempt is in the log");
    let value = |name: &str| delivery.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    assert_eq!(value("outcome"), Some("bounced"));
    assert_eq!(value("queue_id"), Some(id.as_str()));
}
