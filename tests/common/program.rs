//! The real program: its command line, a configuration for it, and the relay as a child process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use oncemail::app::health;
use oncemail::clock::Clock;
use oncemail::mail::Progress;
use oncemail::store::Store;
use oncemail::store::files::RealFiles;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::command::command;
use super::eventually::eventually;
use super::history;
use super::listener::write;

/// Nothing in here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_oncemail");

/// The program with these arguments, and its streams for whoever starts it.
pub fn oncemail(arguments: &[&str]) -> Command {
    piped(command(Path::new(PROGRAM)), arguments)
}

/// The same, once the shell has done something else in the same process.
pub fn oncemail_after(shell: &str, arguments: &[&str]) -> Command {
    let mut command = command(Path::new("sh"));
    command.args(["-c", &format!("{shell}; exec \"$0\" \"$@\""), PROGRAM]);
    piped(command, arguments)
}

fn piped(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Everything is written into a directory.
const INTO_FILES: &str = "transport = \"directory\"\npath = \"{base}/mail\"";

/// A configuration in a directory of its own: plain, open, and where the system likes.
pub struct Setup {
    pub dir: TempDir,
}

impl Setup {
    pub fn new() -> Self {
        Self::with_route(INTO_FILES)
    }

    /// With `more` besides the route.
    pub fn and(more: &str) -> Self {
        Self::with(&format!("[[route]]\nname = \"files\"\n{INTO_FILES}\n{more}"))
    }

    /// The same with another route, and with attempts that follow each other fast.
    pub fn with_route(route: &str) -> Self {
        let retry = "[retry]\nbase = \"10ms\"\ncap = \"10ms\"\n";
        Self::with(&format!("[[route]]\nname = \"out\"\n{route}\n{retry}"))
    }

    /// With `more` behind the listener; `{base}` stands for the directory.
    pub fn with(more: &str) -> Self {
        let setup = Self { dir: tempfile::tempdir().unwrap() };
        setup.write(more);
        setup
    }

    /// With something else from now on.
    pub fn write(&self, more: &str) {
        let text = format!(
            r#"
hostname = "relay.example"
data_dir = "{{base}}/var"
[log]
format = "json"
[limits]
min_free = "1MB"
connections_per_ip = 1000
[[listener]]
name = "in"
address = "127.0.0.1:0"
tls = "none"
auth = "none"
{more}
"#
        );
        write(Path::new(&self.config()), &text.replace("{base}", &self.dir.path().display().to_string()));
    }

    pub fn config(&self) -> String {
        self.dir.path().join("oncemail.toml").display().to_string()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("var")
    }

    /// The command line of the relay.
    pub fn command(&self) -> Command {
        oncemail(&["serve", "--config", &self.config()])
    }

    /// The same, once the shell has done something else in the same process.
    pub fn command_after(&self, shell: &str) -> Command {
        oncemail_after(shell, &["serve", "--config", &self.config()])
    }

    /// A relay that listens.
    pub async fn serve(&self) -> Relay {
        let mut relay = Relay::start(self.command());
        relay.listens().await;
        relay
    }

    /// Waits until the relay is ready.
    pub async fn is_ready(&self) {
        let ready = async || health::ask(&self.data_dir()).await.ok().filter(|health| health.ready);
        eventually("the relay is ready", ready).await;
    }

    /// The progress of every message that a relay has left, when it has ended.
    pub async fn left(&self) -> Vec<Progress> {
        let (store, recovery) =
            history::open(&self.data_dir(), Arc::new(RealFiles), &Clock::system()).unwrap();
        let mut left = Vec::new();
        for message in recovery.messages {
            left.extend(store.load(message.id).await.unwrap().map(|(_, progress)| progress));
        }
        left
    }
}

/// How a relay has ended.
#[derive(Clone)]
struct End {
    status: ExitStatus,
    /// What it said there, which should be nothing.
    stderr: String,
}

/// A running relay; killed when the test ends early.
pub struct Relay {
    pid: Pid,
    /// Of the first listener.
    address: Option<SocketAddr>,
    /// Each line of the log that nobody has asked for yet, and those before.
    lines: mpsc::UnboundedReceiver<String>,
    heard: Vec<String>,
    end: watch::Receiver<Option<End>>,
}

impl Relay {
    /// Need not come to listen. The streams of `command` that are piped are read.
    #[expect(clippy::print_stderr, reason = "what a relay says there is shown with the test that fails")]
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let pid = Pid::from_child(&child);
        let (tell, lines) = mpsc::unbounded_channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                BufReader::new(stdout).lines().for_each(|line| drop(tell.send(line.unwrap())));
            });
        }
        let (ended, end) = watch::channel(None);
        std::thread::spawn(move || {
            let mut stderr = String::new();
            if let Some(mut said) = child.stderr.take() {
                said.read_to_string(&mut stderr).unwrap();
            }
            eprint!("{stderr}");
            ended.send_replace(Some(End { status: child.wait().unwrap(), stderr }));
        });
        Self { pid, address: None, lines, heard: Vec::new(), end }
    }

    /// With a configuration of the caller's.
    pub async fn serve(config: &Path) -> Self {
        let mut relay = Self::start(oncemail(&["serve", "--config", &config.display().to_string()]));
        relay.listens().await;
        relay
    }

    /// Waits until its first listener listens, or the one after those that are known.
    pub async fn listens(&mut self) -> SocketAddr {
        let event = self.says("listening").await;
        let address = event["address"].as_str().unwrap().parse().unwrap();
        self.address.get_or_insert(address);
        address
    }

    /// Where it listens, as it has said.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("it was waited for")
    }

    /// Waits for an event of the log.
    pub async fn says(&mut self, message: &str) -> Value {
        loop {
            let event: Value = serde_json::from_str(&self.line().await).unwrap();
            if event["message"] == message {
                return event;
            }
        }
    }

    /// Waits for the next line of the log.
    pub async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.recv()).await.expect("it says so in time");
        self.heard.push(line.expect("it does not end before it says so"));
        self.heard.last().unwrap().clone()
    }

    /// All of its log, when it has ended.
    pub async fn log(&mut self) -> String {
        while let Some(line) = timeout(PATIENCE, self.lines.recv()).await.expect("its log ends in time") {
            self.heard.push(line);
        }
        self.heard.join("\n")
    }

    /// What it has said elsewhere, when it has ended.
    pub fn stderr(&self) -> String {
        self.end.borrow().as_ref().expect("it has ended").stderr.clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ends().await;
    }

    /// SIGTERM; gives back the exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ends().await.code()
    }

    /// Waits for its end.
    pub async fn ends(&mut self) -> ExitStatus {
        let end =
            timeout(PATIENCE, self.end.wait_for(Option::is_some)).await.expect("it ends in time").unwrap();
        end.as_ref().unwrap().status
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sets the soft limit of descriptors of the running process.
    pub fn allow(&self, descriptors: u64) {
        // The hard limit stays as it is: not everybody may raise it again.
        let maximum = self.limit("Max open files").1.parse().ok();
        prlimit(Some(self.pid), Resource::Nofile, Rlimit { current: Some(descriptors), maximum }).unwrap();
    }

    /// A limit, soft and hard, as the system tells it.
    pub fn limit(&self, name: &str) -> (String, String) {
        let limits = self.told_by_the_system("limits");
        let mut words = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap().split_whitespace();
        (words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
    }

    /// Resident memory, octets.
    pub fn memory(&self) -> u64 {
        let status = self.told_by_the_system("status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    fn told_by_the_system(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.end.borrow().is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}
