//! The real binary as a child process, and a configuration for it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use oncemail::app::health;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually::eventually;

/// Nothing in here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn oncemail(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncemail"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ONCEMAIL") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A configuration that listens where the system likes, in a directory of its own.
pub struct Setup {
    pub dir: TempDir,
}

impl Setup {
    pub fn new() -> Self {
        Self::with_route("transport = \"directory\"\npath = \"{base}/mail\"")
    }

    /// The same with another route; `{base}` stands for the directory.
    #[expect(clippy::disallowed_methods, reason = "a test's own files")]
    pub fn with_route(route: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().display();
        let route = route.replace("{base}", &base.to_string());
        let config = format!(
            "hostname = \"relay.example\"\ndata_dir = \"{base}/var\"\n\
             [[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n\
             [[route]]\nname = \"out\"\n{route}\n\
             [retry]\nbase = \"10ms\"\ncap = \"10ms\"\n\
             [limits]\nmin_free = \"1MB\"\n"
        );
        std::fs::write(dir.path().join("oncemail.toml"), config).unwrap();
        Self { dir }
    }

    pub fn config(&self) -> String {
        self.dir.path().join("oncemail.toml").display().to_string()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("var")
    }

    pub fn serve(&self) -> Server {
        Server::start(oncemail(&["serve", "--config", &self.config()]))
    }
}

/// A running server; killed when the test ends early.
pub struct Server {
    pub pid: Pid,
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
    log: Option<JoinHandle<Vec<String>>>,
    ended: Receiver<ExitStatus>,
    is_running: bool,
}

impl Server {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (tell, ended) = mpsc::channel();
        let (pid, stdout, stderr) = (Pid::from_child(&child), child.stdout.take(), child.stderr.take());
        std::thread::spawn(move || tell.send(child.wait().unwrap()));
        Self { pid, stdout, stderr, log: None, ended, is_running: true }
    }

    /// Where it listens; its log is read from here on.
    pub fn address(&mut self) -> SocketAddr {
        let (tell, address) = mpsc::channel();
        let lines = BufReader::new(self.stdout.take().unwrap()).lines();
        self.log = Some(std::thread::spawn(move || {
            let note = |line: std::io::Result<String>| {
                let line = line.unwrap();
                let event: serde_json::Value = serde_json::from_str(&line).unwrap();
                if event["message"] == "listening" {
                    let _ = tell.send(event["address"].as_str().unwrap().parse().unwrap());
                }
                line
            };
            lines.map(note).collect()
        }));
        address.recv_timeout(PATIENCE).expect("the server listens")
    }

    /// What it has logged, once it has ended; only after [`Server::address`].
    pub fn log(&mut self) -> String {
        self.log.take().unwrap().join().unwrap().join("\n")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Waits for the end, as long as patience lasts.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.ended.recv_timeout(PATIENCE).expect("the server ends");
        self.is_running = false;
        status
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_running {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

/// Waits until the server on `data_dir` is ready.
pub fn wait_until_ready(data_dir: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ready = async || health::ask(data_dir).await.ok().filter(|health| health.ready);
    runtime.block_on(eventually("the server is ready", ready));
}
