//! When the system allows few file descriptors: the real binary, with its limit lowered.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::common::client::Client;
use crate::common::listener::write;

const PATIENCE: Duration = Duration::from_secs(20);

struct Relay {
    child: Child,
    address: SocketAddr,
    /// Each line of the log from "listening" on, and all before it in `start`.
    log: mpsc::UnboundedReceiver<serde_json::Value>,
    start: Vec<serde_json::Value>,
}

impl Relay {
    /// Runs the shell command `limit` first, in the same process.
    async fn start(directory: &Path, limit: &str) -> Self {
        let config = directory.join("oncemail.toml");
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
auth = "none"
[[route]]
name = "files"
transport = "directory"
path = "{0}/mail"
"#,
            directory.display()
        );
        write(&config, &text);
        let mut child = Command::new("sh")
            .args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_oncemail"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, mut log) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        let mut start: Vec<serde_json::Value> = Vec::new();
        while start.last().is_none_or(|event| event["message"] != "listening") {
            let event = timeout(PATIENCE, log.recv()).await.expect("it listens in time");
            start.push(event.expect("it does not end before it listens"));
        }
        let address = start.last().unwrap()["address"].as_str().unwrap().parse().unwrap();
        Self { child, address, log, start }
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Sets the soft limit of the running process.
    fn allow(&self, descriptors: u64) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        // As it is: not everybody may raise it again.
        let maximum = self.limits().1.parse().ok();
        prlimit(pid, Resource::Nofile, Rlimit { current: Some(descriptors), maximum }).unwrap();
    }

    /// Soft and hard, as the system tells them.
    fn limits(&self) -> (String, String) {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.pid())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        (words[3].to_owned(), words[4].to_owned())
    }

    async fn says(&mut self, message: &str) {
        while timeout(PATIENCE, self.log.recv()).await.unwrap().unwrap()["message"] != message {}
    }
}

/// Hands over one message.
async fn submit(client: &mut Client) -> String {
    client.ask("EHLO client.example").await;
    client.ask("MAIL FROM:<a@example.com>").await;
    client.ask("RCPT TO:<b@example.org>").await;
    client.ask("DATA").await;
    client.ask("Subject: x\r\n\r\n.").await
}

#[tokio::test]
async fn s2_without_descriptors_clients_wait_and_then_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(directory.path(), "true").await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", relay.pid())).unwrap().count() as u64;
    relay.allow(open + 3);
    let mut served = Vec::new();
    let unsure = loop {
        let mut client = Client::connect(relay.address).await;
        tokio::select! {
            biased;
            () = relay.says("accept failed") => break client,
            greeting = client.reply() => assert!(greeting.starts_with("220"), "{greeting}"),
        }
        served.push(client);
        assert!(served.len() < 50, "the limit is not felt");
    };
    // The system looks for a descriptor first and for a client second, so that the last one may be in or not.
    let mut waiting = Client::connect(relay.address).await;
    // Those that are in are served on; whoever waits comes in when they go.
    assert!(served[0].ask("NOOP").await.starts_with("250"));
    drop((served, unsure));
    assert!(waiting.reply().await.starts_with("220"));
    relay.allow(open + 100);
    let reply = submit(&mut waiting).await;
    assert!(reply.starts_with("250 2.0.0 OK Message queued"), "{reply}");
}

#[tokio::test]
async fn the_limit_of_descriptors_is_raised_as_far_as_it_goes() {
    let directory = tempfile::tempdir().unwrap();
    let relay = Relay::start(directory.path(), "ulimit -S -n 200").await;
    let (soft, hard) = relay.limits();
    assert_eq!(soft, hard);
}

#[tokio::test]
async fn s2_clients_cannot_take_the_descriptors_that_the_store_needs() {
    let directory = tempfile::tempdir().unwrap();
    let relay = Relay::start(directory.path(), "ulimit -n 300").await;
    let warning = relay.start.iter().find(|event| event["room"] == 150);
    assert!(warning.is_some_and(|event| event["level"] == "WARN"), "{:?}", relay.start);
    let mut clients = Vec::new();
    for _ in 0..150 {
        let mut client = Client::connect(relay.address).await;
        assert!(client.reply().await.starts_with("220"));
        clients.push(client);
    }
    let mut one_more = Client::connect(relay.address).await;
    assert!(one_more.reply().await.starts_with("421 4.3.2"));
    let reply = submit(&mut clients[0]).await;
    assert!(reply.starts_with("250 2.0.0 OK Message queued"), "{reply}");
}
