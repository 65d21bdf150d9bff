//! The real binary: what became of mail, as its API and its command line tell it, and what an operator does about it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;

use oncemail::admin::socket::{ADMIN_SOCKET, connect};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::rig::{Answer, exchange, text};
use crate::common::client::{AUTH, Client};
use crate::common::eventually::eventually;
use crate::common::listener::{PASSWORD_HASH, write};
use crate::common::program::{Relay, oncemail};

const ADMIN: &str = "admin-0123456789abcdef";
const WATCHER: &str = "watcher-0123456789abcdef";

/// A relay with a user whose scope has another name; mail for later.example finds nobody, the rest is delivered.
struct Steered {
    directory: TempDir,
    relay: Relay,
    http: SocketAddr,
    client: Client,
}

impl Steered {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("oncemail.toml");
        let text = format!(
            r#"
hostname = "relay.example"
data_dir = "{0}/var"
[log]
format = "json"
[limits]
min_free = "1MB"
[[listener]]
name = "submission"
address = "127.0.0.1:0"
tls = "none"
auth = "optional"
[[user]]
name = "ann"
scope = "shop"
password_hash = "{1}"
[admin]
address = "127.0.0.1:0"
token = "{ADMIN}"
[[admin_token]]
name = "watcher"
token = "{WATCHER}"
[suppression]
on_hard_bounce = true
[[route]]
name = "later"
recipient_domains = ["later.example"]
transport = "smarthost"
hosts = ["127.0.0.1:1"]
tls = "none"
[[route]]
name = "files"
transport = "directory"
path = "{0}/mail"
"#,
            directory.path().display(),
            &*PASSWORD_HASH,
        );
        write(&config, &text);
        let mut relay = Relay::serve(&config).await;
        let http = relay.says("the HTTP API is listening").await;
        let http = http["address"].as_str().unwrap().parse().unwrap();
        let (mut client, _) = Client::greeted(relay.address()).await;
        assert!(client.ask(AUTH).await.starts_with("235 "));
        Self { directory, relay, http, client }
    }

    fn data_dir(&self) -> PathBuf {
        self.directory.path().join("var")
    }

    /// Submits a message under a key; the reply to the final dot.
    async fn submit(&mut self, key: &str, to: &str) -> String {
        let client = &mut self.client;
        client.send(format!("MAIL FROM:<shop@sender.example>\r\nRCPT TO:<{to}>\r\nDATA\r\n")).await;
        assert!(client.reply().await.starts_with("250 ") && client.reply().await.starts_with("250 "));
        assert!(client.reply().await.starts_with("354"));
        let content = format!("X-Idempotency-Key: {key}\r\nSubject: Order of {key}\r\n\r\nHello\r\n.\r\n");
        client.send(content).await;
        client.reply().await
    }

    /// The same for one that is new; its queue id.
    async fn queued(&mut self, key: &str, to: &str) -> String {
        let reply = self.submit(key, to).await;
        reply.strip_prefix("250 2.0.0 OK Message queued as ").expect(&reply).to_owned()
    }

    async fn ask(&self, token: &str, request: &str, body: &str) -> Answer {
        let fields = [
            format!("Host: {}", self.http),
            format!("Authorization: Bearer {token}"),
            "Content-Type: application/json".to_owned(),
        ];
        exchange(TcpStream::connect(self.http).await.unwrap(), &text(request, &fields, body)).await
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(WATCHER, &format!("GET /api/v1/{path}"), "").await.ok()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.ask(ADMIN, &format!("POST /api/v1/{path}"), &body.to_string()).await.ok()
    }

    /// Ids on the only page of a list.
    async fn list(&self, query: &str) -> BTreeSet<String> {
        let page = self.get(&format!("messages?{query}")).await;
        assert_eq!(page.get("next"), None, "{query}: {page}");
        ids(&page)
    }

    /// Asks until the message's story has this state; the story.
    async fn until(&self, id: &str, state: &str) -> Value {
        let story = async || {
            let answer = self.ask(WATCHER, &format!("GET /api/v1/messages/{id}"), "").await;
            // Between the queue and the history it is for a moment in neither.
            (answer.status == 200).then(|| answer.json()).filter(|story| story["state"] == state)
        };
        eventually(&format!("{id} is {state}"), story).await
    }

    /// The command line, over the socket that the configuration names.
    async fn command(&self, arguments: &[&str]) -> Output {
        let config = self.directory.path().join("oncemail.toml").display().to_string();
        self.run(&[&["--config", &config], arguments].concat(), &[]).await
    }

    /// The same over the network, with a token.
    async fn remote(&self, token: &str, arguments: &[&str]) -> Output {
        let url = format!("http://{}", self.http);
        self.run(arguments, &[("ONCEMAIL_SERVER", &url), ("ONCEMAIL_ADMIN_TOKEN", token)]).await
    }

    async fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = oncemail(arguments);
        command.envs(variables.iter().copied());
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }
}

fn ids(page: &Value) -> BTreeSet<String> {
    page["messages"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

fn set(ids: &[&String]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).clone()).collect()
}

/// What a command that succeeded has printed.
#[track_caller]
fn printed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_mail_is_told_by_the_queue_and_then_by_the_history() {
    let mut steered = Steered::start().await;
    let gone = steered.queued("order-1", "anna@gone.example").await;
    let bounced = steered.queued("order-2", "ben@later.example").await;
    let discarded = steered.queued("order-3", "carl@later.example").await;
    let held = steered.queued("order-4", "dora@LATER.example").await;
    let queued = steered.queued("order-5", "Emil@later.example").await;
    assert!(steered.submit("order-1", "anna@gone.example").await.contains(&gone));

    // Every filter, in the queue …
    steered.until(&gone, "delivered").await;
    let later = set(&[&bounced, &discarded, &held, &queued]);
    for all in
        ["", "to_domain=later.example", "from=shop%40SENDER.example", "from=@sender.example", "user=ann"]
    {
        assert_eq!(steered.list(all).await, later, "{all}");
    }
    for all in ["route=later", "newer=1h", "kind=mail,notice", "state=queued,active", "to_domain=*.example"] {
        assert_eq!(steered.list(all).await, later, "{all}");
    }
    assert_eq!(steered.list("to=Emil%40LATER.example").await, set(&[&queued]));
    for none in
        ["to=emil%40later.example", "older=1h", "user=bob", "route=files", "kind=event", "from=%3C%3E"]
    {
        assert!(steered.list(none).await.is_empty(), "{none}");
    }
    // … and, once they are there, in the history.
    for over in
        ["", "&to=anna%40gone.example", "&to_domain=gone.example", "&user=ann", "&route=files", "&newer=1h"]
    {
        assert_eq!(steered.list(&format!("state=delivered{over}")).await, set(&[&gone]), "{over}");
    }
    assert!(steered.list("state=delivered&user=bob").await.is_empty());

    // Both together, page by page.
    let (mut found, mut after) = (BTreeSet::new(), String::new());
    for _ in 0..9 {
        let page = steered.get(&format!("messages?state=queued,active,delivered&limit=2{after}")).await;
        let more = ids(&page);
        assert!(more.len() <= 2 && found.is_disjoint(&more), "{page}");
        found.extend(more);
        let Some(next) = page.get("next") else { break };
        after = format!("&after={}", next.as_str().unwrap());
    }
    assert_eq!(found, &later | &set(&[&gone]));

    // One order of each kind, over the network.
    for (id, action, effect) in [
        (&bounced, json!({ "action": "bounce", "reason": "wrong price" }), "done"),
        (&discarded, json!({ "action": "discard" }), "done"),
        (&held, json!({ "action": "hold" }), "done"),
    ] {
        let told = steered.post(&format!("messages/{id}/actions"), action).await;
        assert_eq!(told["effect"], effect, "{told}");
    }
    for (id, state) in [(&bounced, "bounced"), (&discarded, "discarded"), (&held, "held")] {
        let story = steered.until(id, state).await;
        let replies = story["recipient_stories"][0]["replies"].as_array().unwrap();
        let last = replies.last().unwrap()["text"].as_str().unwrap();
        assert!(last.contains("admin"), "{story}");
        assert_eq!((&story["user"], &story["key_scope"]), (&json!("ann"), &json!("shop")));
        assert_eq!(story.get("finished_at").is_some(), state != "held", "{story}");
    }
    assert_eq!(steered.list("state=held").await, set(&[&held]));
    assert_eq!(steered.list("state=bounced,discarded").await, set(&[&bounced, &discarded]));
    // The sender was told, by a notice that has no listener.
    let notices = steered.get("messages?kind=notice&state=queued,active,delivered&from=%3C%3E").await;
    assert_eq!(notices["messages"].as_array().unwrap().len(), 1, "{notices}");
    assert_eq!(notices["messages"][0]["to"], json!(["shop@sender.example"]));

    // Contents and subjects are for those who may, and only while they are there.
    let content = format!("GET /api/v1/messages/{queued}/content");
    steered.ask(WATCHER, &content, "").await.problem(403);
    let read = steered.ask(ADMIN, &content, "").await;
    assert_eq!((read.status, read.header("content-type")), (200, Some("message/rfc822")));
    assert!(read.body.windows(16).any(|part| part == b"Order of order-5"));
    let story = steered.ask(ADMIN, &format!("GET /api/v1/messages/{queued}"), "").await.ok();
    assert_eq!(story["subject"], "Order of order-5");
    assert_eq!(steered.get(&format!("messages/{queued}")).await.get("subject"), None);
    steered.ask(ADMIN, &format!("GET /api/v1/messages/{gone}/content"), "").await.problem(404);

    // Each of them is in the log, with who it was.
    for (action, what) in
        [("bounce", &bounced), ("discard", &discarded), ("hold", &held), ("content", &queued)]
    {
        let line = steered.relay.says("operator").await;
        assert_eq!(
            (&line["action"], &line["what"], &line["by"]),
            (&json!(action), &json!(what), &json!("admin"))
        );
        assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    assert_eq!(steered.relay.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_for_many_is_shown_first_and_logged_with_who_gave_it() {
    let mut steered = Steered::start().await;
    let mut all = BTreeSet::new();
    for number in 0..30 {
        all.insert(steered.queued(&format!("order-{number}"), &format!("to-{number}@later.example")).await);
    }
    let order = |action: &str, filter: Value, dry_run: bool| json!({ "action": action, "filter": filter, "dry_run": dry_run });
    let later = json!({ "to_domain": "later.example" });
    let shown = steered.post("messages/actions", order("hold", later.clone(), true)).await;
    assert_eq!((&shown["matched"], &shown["done"]), (&json!(30), &json!(0)));
    assert_eq!(shown["sample"].as_array().unwrap().len(), 20);
    let one = json!({ "to": "to-7@later.example" });
    assert_eq!(steered.post("messages/actions", order("hold", one, true)).await["matched"], 1);
    assert!(steered.list("state=held").await.is_empty());
    let refused = order("hold", later.clone(), false).to_string();
    steered.ask(WATCHER, "POST /api/v1/messages/actions", &refused).await.problem(403);
    let done = steered.post("messages/actions", order("hold", later.clone(), false)).await;
    assert_eq!((&done["matched"], &done["failed"]), (&json!(30), &json!(0)), "{done}");
    let line = steered.relay.says("operator").await;
    assert_eq!(
        (&line["action"], &line["what"]),
        (&json!("hold"), &json!(r#"{"state":["queued","active"],"to_domain":"later.example"}"#))
    );

    // Over the unix socket it is whoever may open that.
    let stream = connect(&steered.data_dir(), ADMIN_SOCKET).await.unwrap();
    let fields = ["Host: localhost".to_owned(), "Content-Type: application/json".to_owned()];
    let body = order("discard", later, false).to_string();
    let done = exchange(stream, &text("POST /api/v1/messages/actions", &fields, &body)).await.ok();
    assert_eq!((&done["matched"], &done["done"]), (&json!(30), &json!(30)), "{done}");
    let line = steered.relay.says("operator").await;
    assert_eq!(
        (&line["action"], &line["by"], &line["client"]),
        (&json!("discard"), &json!("local"), &json!("unix socket"))
    );
    let result = line["result"].as_str().unwrap();
    assert!(result.starts_with("matched 30, done 30"), "{result}");
    assert_eq!(steered.relay.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_tells_its_replays_and_once_forgotten_it_is_new() {
    let mut steered = Steered::start().await;
    let id = steered.queued("order-123", "anna@later.example").await;
    for _ in 0..2 {
        let replayed = steered.submit("order-123", "anna@later.example").await;
        assert_eq!(replayed, format!("250 2.0.0 OK Message already queued as {id} (idempotent replay)"));
    }
    // It is the scope's, and the command line finds that out from the user's name.
    steered.ask(WATCHER, "GET /api/v1/keys?key=order-123", "").await.problem(404);
    steered.ask(WATCHER, "GET /api/v1/keys?key=order-123&scope=ann", "").await.problem(404);
    let story = steered.get("keys?key=order-123&scope=shop").await;
    assert_eq!((&story["id"], &story["replays"]), (&json!(id), &json!(2)));
    assert_eq!(story["message"]["replays"].as_array().unwrap().len(), 2);
    for output in [
        steered.command(&["key", "show", "order-123", "--user", "ann"]).await,
        steered.remote(WATCHER, &["key", "show", "order-123", "--user", "ann"]).await,
    ] {
        let told = printed(&output);
        assert!(told.contains(&id) && told.contains("Replays       2, the last one"), "{told}");
    }
    let unknown = steered.command(&["key", "show", "order-999", "--user", "ann"]).await;
    assert_eq!(unknown.status.code(), Some(3));
    let forbidden =
        steered.remote(WATCHER, &["key", "forget", "order-123", "--scope", "shop", "--yes"]).await;
    assert_eq!(forbidden.status.code(), Some(1));
    printed(&steered.command(&["key", "forget", "order-123", "--user", "ann", "--yes"]).await);
    let line = steered.relay.says("operator").await;
    assert_eq!((&line["action"], &line["by"]), (&json!("forget key"), &json!("local")));
    let other = steered.queued("order-123", "anna@later.example").await;
    assert_ne!(other, id);
    assert_eq!(steered.relay.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_the_same_over_the_socket_and_over_the_network() {
    let mut steered = Steered::start().await;
    let id = steered.queued("order-1", "anna@later.example").await;
    for arguments in [
        &["status"][..],
        &["queue", "list", "--to-domain", "later.example"],
        &["queue", "show", &id],
        &["destinations"],
        &["explain", "anna@later.example"],
        &["suppressions", "list"],
    ] {
        let (local, remote) = (steered.command(arguments).await, steered.remote(WATCHER, arguments).await);
        assert!(!printed(&local).is_empty() && !printed(&remote).is_empty(), "{arguments:?}");
        let json = steered.remote(WATCHER, &[arguments, &["--json"]].concat()).await;
        assert!(
            printed(&json).lines().all(|line| serde_json::from_str::<Value>(line).is_ok()),
            "{arguments:?}"
        );
    }
    let explained = printed(&steered.command(&["explain", "anna@later.example"]).await);
    assert!(explained.contains("later") && explained.contains("127.0.0.1:1"), "{explained}");

    for (arguments, said) in [
        (&["queue", "hold", &id, "--reason", "wrong price"][..], "hold"),
        (&["queue", "release", "--all", "--yes"], "release"),
        (&["queue", "retry", &id], "retry"),
        (&["suppressions", "add", "ben@later.example", "--reason", "asked"], "suppress"),
        (&["suppressions", "remove", "ben@later.example"], "unsuppress"),
        (&["destinations", "reset", "later"], "reset"),
        (&["queue", "bounce", &id, "--reason", "over"], "bounce"),
        (&["reload"], "reload"),
    ] {
        let refused = steered.remote(WATCHER, arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        printed(&steered.remote(ADMIN, arguments).await);
        let line = steered.relay.says("operator").await;
        assert_eq!((&line["action"], &line["by"]), (&json!(said), &json!("admin")), "{arguments:?}");
    }
    steered.until(&id, "bounced").await;
    let told = printed(&steered.command(&["queue", "show", &id]).await);
    assert!(told.contains("wrong price") && told.contains("over"), "{told}");
    let wrong = steered.remote("wrong-0123456789abcdef", &["status"]).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--token-file"));
    assert_eq!(steered.relay.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_tokens_at_the_login_has_to_wait() {
    let mut steered = Steered::start().await;
    let guess = json!({ "token": "guess-0123456789abcdef" }).to_string();
    let login = async |body: &str| {
        let fields = [format!("Host: {}", steered.http), "Content-Type: application/json".to_owned()];
        exchange(TcpStream::connect(steered.http).await.unwrap(), &text("POST /session", &fields, body)).await
    };
    for _ in 0..10 {
        login(&guess).await.problem(401);
    }
    let right = login(&json!({ "token": ADMIN }).to_string()).await;
    right.problem(429);
    assert!(right.header("retry-after").is_some() && right.header("set-cookie").is_none());
    printed(&steered.command(&["status"]).await);
    assert_eq!(steered.relay.stop().await, Some(0));
}
