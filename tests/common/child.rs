//! The real binary as a child process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::listener::write;

const PATIENCE: Duration = Duration::from_secs(20);

pub struct Relay {
    child: Child,
    /// Of the first listener.
    pub address: SocketAddr,
    /// Each line of the log after "listening".
    log: mpsc::UnboundedReceiver<serde_json::Value>,
}

impl Relay {
    /// Plain and open, with `more` of a configuration. Runs the shell command `limit` first, in the same process.
    pub async fn start(directory: &Path, more: &str, limit: &str) -> Self {
        let config = directory.join("oncemail.toml");
        let text = format!(
            r#"
hostname = "relay.example"
data_dir = "{0}/var"
[log]
format = "json"
[limits]
min_free = "1MB"
connections_per_ip = 1000
[[listener]]
name = "submission"
address = "127.0.0.1:0"
tls = "none"
auth = "none"
[[route]]
name = "files"
transport = "directory"
path = "{0}/mail"
{more}
"#,
            directory.display()
        );
        write(&config, &text);
        Self::serve(&config, limit).await
    }

    /// With a configuration of the caller's. Runs the shell command `limit` first, in the same process.
    pub async fn serve(config: &Path, limit: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_oncemail"))
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, mut log) = mpsc::unbounded_channel::<serde_json::Value>();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        let listening = loop {
            let event = timeout(PATIENCE, log.recv()).await.expect("it listens in time");
            let event = event.expect("it does not end before it listens");
            if event["message"] == "listening" {
                break event;
            }
        };
        let address = listening["address"].as_str().unwrap().parse().unwrap();
        Self { child, address, log }
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        kill_process(Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap(), Signal::HUP).unwrap();
    }

    /// SIGTERM; gives back the exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        kill_process(Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap(), Signal::TERM).unwrap();
        timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").unwrap().code()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Sets the soft limit of the running process.
    pub fn allow(&self, descriptors: u64) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        // As it is: not everybody may raise it again.
        let maximum = self.limits().1.parse().ok();
        prlimit(pid, Resource::Nofile, Rlimit { current: Some(descriptors), maximum }).unwrap();
    }

    /// Soft and hard, as the system tells them.
    pub fn limits(&self) -> (String, String) {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.pid())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        (words[3].to_owned(), words[4].to_owned())
    }

    /// Waits for an event of the log.
    pub async fn says(&mut self, message: &str) -> serde_json::Value {
        loop {
            let event = timeout(PATIENCE, self.log.recv()).await.expect("it says so in time");
            let event = event.expect("it does not end before it says so");
            if event["message"] == message {
                return event;
            }
        }
    }
    /// Of the listener after those that are known.
    pub async fn next_address(&mut self) -> SocketAddr {
        let event = self.says("listening").await;
        event["address"].as_str().unwrap().parse().unwrap()
    }

    /// Resident memory, octets.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}
