//! The command line asks a running server over its API, and says what the server says: exit codes, documents, questions,
//! and a terminal that is given back as it was.

mod orders;
mod pages;
mod terminal;

use std::fs;
use std::process::Output;

use oncemail::admin::model::{Overview, Reloaded, ResetResult};

use crate::common::admin_server::{AdminServer, ok, problem};
use crate::common::https_server::{Asked, HttpsServer, http};
use crate::common::program::{Setup, oncemail};

/// A command that knows its server by the configuration.
fn run(setup: &Setup, arguments: &[&str]) -> Output {
    let config = setup.config();
    oncemail(&[&["--config", &config], arguments].concat()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn overview(ready: bool) -> Overview {
    Overview {
        hostname: "relay.example".into(),
        version: "0.1.0".into(),
        ready,
        queued: 12_345,
        ..Overview::default()
    }
}

#[test]
fn status_says_how_the_server_is_and_its_exit_code_says_whether_it_is_well() {
    let setup = Setup::new();
    let server = AdminServer::start(&setup.data_dir(), |_| ok(&overview(true)));
    let output = run(&setup, &["status"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert!(
        stdout(&output).contains("queue       12,345 messages, the oldest for 0 s\n"),
        "{}",
        stdout(&output)
    );
    let document = run(&setup, &["status", "--json"]);
    assert_eq!(stdout(&document), format!("{}\n", serde_json::to_string(&overview(true)).unwrap()));
    let asked = server.asked();
    assert!(asked[0].head.starts_with("GET /api/v1/overview HTTP/1.1\r\n"), "{}", asked[0].head);
    drop(server);
    fs::remove_dir_all(setup.data_dir()).unwrap();
    let _not_ready = AdminServer::start(&setup.data_dir(), |_| ok(&overview(false)));
    let output = run(&setup, &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("NOT READY"));
}

#[test]
fn a_server_that_is_not_there_is_told_with_its_socket_and_what_to_do() {
    let setup = Setup::new();
    let socket = setup.data_dir().join("admin.sock");
    for is_left_over in [false, true] {
        if is_left_over {
            fs::create_dir_all(setup.data_dir()).unwrap();
            drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        }
        for command in [&["status"] as &[&str], &["queue", "list"], &["destinations"], &["reload"]] {
            let output = run(&setup, command);
            assert_eq!(output.status.code(), Some(1));
            let told = stderr(&output);
            assert!(told.contains(&format!("no oncemail is running on {}", socket.display())), "{told}");
            assert!(told.contains("oncemail serve") && told.contains("--server"), "{told}");
        }
    }
    let nothing = oncemail(&["status"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2));
    assert!(stderr(&nothing).contains("which server?"), "{}", stderr(&nothing));
}

#[test]
fn a_data_directory_with_a_long_path_is_reachable() {
    let setup = Setup::new();
    let deep = setup.data_dir().join("d".repeat(100)).join("e".repeat(100));
    let _server = AdminServer::start(&deep, |_| ok(&overview(true)));
    let output =
        oncemail(&["--config", &setup.config(), "status"]).env("ONCEMAIL__DATA_DIR", &deep).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn what_the_server_refuses_becomes_a_sentence_and_an_exit_code() {
    let cases: [(&str, &str, i32, &str); 6] = [
        ("404 Not Found", "there is no message \u{1b}[2JX", 3, "there is no message \\u{1b}[2JX\n"),
        ("400 Bad Request", "`older`: 3 parsecs is no time", 2, "`older`: 3 parsecs is no time\n"),
        ("401 Unauthorized", "a token is needed", 1, "--token-file"),
        ("403 Forbidden", "the token may only read", 1, "the token may only read\n"),
        ("503 Service Unavailable", "busy", 1, "busy\n"),
        ("500 Internal Server Error", "", 1, ""),
    ];
    for (status, detail, exit, expected) in cases {
        let setup = Setup::new();
        let (said, text) = (status.to_owned(), detail.to_owned());
        let _server = AdminServer::start(&setup.data_dir(), move |_| problem(&said, &text));
        let output = run(&setup, &["queue", "show", "01KAQ3V8ZK5T9M2W7X4N6R1C0D"]);
        assert_eq!(output.status.code(), Some(exit), "{status}");
        assert!(stderr(&output).contains(expected) && output.stdout.is_empty(), "{}", stderr(&output));
        assert!(!stderr(&output).contains('\u{1b}'));
    }
}

#[test]
fn an_answer_that_is_none_is_told_and_nothing_panics() {
    for answer in [
        b"".to_vec(),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
        http("200 OK", "application/json", "{\"messages\":7}"),
        http("200 OK", "text/html", "<html>\u{1b}]0;owned\u{7}</html>"),
        http("200 OK", "application/json", "[[[[").into_iter().take(60).collect(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{".to_vec(),
    ] {
        let setup = Setup::new();
        let given = answer.clone();
        let _server = AdminServer::start(&setup.data_dir(), move |_| given.clone());
        let output = run(&setup, &["queue", "list"]);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(!told.contains("panicked") && !told.contains('\u{1b}') && !told.is_empty(), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_is_asked_with_a_token_that_no_argument_shows() {
    let server = HttpsServer::start(false, &[], |_, _| ok(&overview(true))).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    fs::write(&file, "s3cret\n").unwrap();
    let url = format!("http://{}/relay/", server.address);
    let ask = |name: &str, value: &str| {
        let output = oncemail(&["status", "--server", &url]).env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    };
    ask("ONCEMAIL_ADMIN_TOKEN_FILE", file.to_str().unwrap());
    ask("ONCEMAIL_ADMIN_TOKEN", "other");
    let asked = server.wait(2).await;
    let field =
        |asked: &Asked, field: &str| asked.head.to_ascii_lowercase().contains(&format!("{field}\r\n"));
    assert!(asked[0].head.starts_with("GET /relay/api/v1/overview HTTP/1.1"), "{}", asked[0].head);
    assert!(field(&asked[0], "authorization: bearer s3cret"), "{}", asked[0].head);
    assert!(field(&asked[0], &format!("host: {}", server.address)));
    assert!(field(&asked[1], "authorization: bearer other"));
    // The variables are the command line's: no configuration stumbles over them.
    let setup = Setup::new();
    let output = oncemail(&["check-config", "--config", &setup.config()])
        .env("ONCEMAIL_SERVER", &url)
        .env("ONCEMAIL_ADMIN_TOKEN", "x")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_the_system_does_not_trust_gets_no_token() {
    let server = HttpsServer::start(true, &[], |_, _| ok(&overview(true))).await;
    let url = format!("https://localhost:{}", server.address.port());
    let ask = |trusted: bool| {
        let mut command = oncemail(&["status", "--server", &url]);
        command.env("ONCEMAIL_ADMIN_TOKEN", "s3cret");
        if trusted {
            command.env("SSL_CERT_FILE", &server.ca_file);
        }
        command.output().unwrap()
    };
    let output = ask(false);
    assert_eq!(output.status.code(), Some(1));
    assert!(server.asked().is_empty(), "{}", stderr(&output));
    let output = ask(true);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_reload_that_is_refused_names_every_mistake() {
    let setup = Setup::new();
    let refusal = serde_json::json!({"type": "urn:oncemail:configuration", "title": "Unprocessable Content",
        "status": 422, "detail": "the configuration was not taken, and nothing has changed",
        "errors": ["oncemail.toml:3: one", "oncemail.toml:9: two"]});
    let server = AdminServer::start(&setup.data_dir(), move |_| {
        http("422 Unprocessable Content", "application/problem+json", &refusal.to_string())
    });
    let output = run(&setup, &["reload"]);
    assert_eq!(output.status.code(), Some(2));
    let told = stderr(&output);
    assert!(told.contains("nothing has changed\n  oncemail.toml:3: one\n  oncemail.toml:9: two\n"), "{told}");
    let asked = &server.asked()[0];
    assert!(asked.head.starts_with("POST /api/v1/reload") && asked.body == "{}", "{asked:?}");
    assert!(asked.head.to_ascii_lowercase().contains("content-type: application/json\r\n"));
    drop(server);
    fs::remove_dir_all(setup.data_dir()).unwrap();
    let reloaded = Reloaded { changed: vec!["route \"out\"".into()], needs_restart: Vec::new() };
    let _server = AdminServer::start(&setup.data_dir(), move |_| ok(&reloaded));
    assert_eq!(stdout(&run(&setup, &["reload"])), "In force now:\n  route \"out\"\n");
}

#[test]
fn a_destination_is_reset_by_its_name() {
    let setup = Setup::new();
    let server = AdminServer::start(&setup.data_dir(), |asked| match asked.body.contains("nowhere") {
        true => problem("404 Not Found", "there is no route \"nowhere\""),
        false => ok(&ResetResult { breakers: 2, destinations: 1 }),
    });
    let output = run(&setup, &["destinations", "reset", "world", "example.com"]);
    assert_eq!(stdout(&output), "2 breakers closed; 1 destination no longer paused.\n");
    assert_eq!(server.asked()[0].body, r#"{"route":"world","destination":"example.com"}"#);
    assert_eq!(run(&setup, &["destinations", "reset", "nowhere"]).status.code(), Some(3));
    assert_eq!(server.lines()[1], "POST /api/v1/destinations/reset");
}

#[test]
fn a_manual_page_is_written_for_each_subcommand() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("share/man1");
    let output = oncemail(&["man", "--out", out.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    for (page, expected) in [
        ("oncemail.1", "idempotency key"),
        ("oncemail-queue-list.1", "to\\-domain"),
        ("oncemail-top.1", "Watch the server live"),
        ("oncemail-key-forget.1", "first submission"),
        ("oncemail-serve.1", "SIGTERM"),
    ] {
        let text = fs::read_to_string(out.join(page)).unwrap();
        assert!(text.contains(expected), "{page}: {text}");
    }
    let printed = oncemail(&["man"]).output().unwrap();
    assert!(stdout(&printed).contains(".TH oncemail 1"));
}

#[test]
fn top_without_a_terminal_says_what_to_use_instead() {
    let setup = Setup::new();
    let server = AdminServer::start(&setup.data_dir(), |_| ok(&overview(true)));
    let output = run(&setup, &["top"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("oncemail status --json"));
    assert!(server.asked().is_empty());
}
