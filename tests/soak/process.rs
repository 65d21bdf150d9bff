//! The relay as a child process: each start has a number, which is in the name by which it greets, so that both sides
//! know for certain whom they talk to.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::book::{Book, End};
use crate::command::command;

/// A start that takes longer hangs. A shutdown has its grace, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// In a line of the log at WARN: mere kills damage nothing.
const NEVER_SAID: [&str; 6] =
    ["damaged", "missing", "set aside", "made again", "cannot be used", "cannot be read"];

/// Where the relay listens, and which process it is.
pub type Door = Option<(SocketAddr, u64)>;

/// How to start one.
pub struct Starter {
    pub program: PathBuf,
    pub config: PathBuf,
    pub stderr: PathBuf,
    pub book: Arc<Book>,
    pub door: watch::Sender<Door>,
    /// Who runs now.
    pub pid: watch::Sender<Option<u32>>,
    pub started: u64,
    /// Logs that are read to their end.
    pub logs: Vec<JoinHandle<()>>,
}

/// A running one.
pub struct Process {
    number: u64,
    child: Child,
    pid: Pid,
    stopped: Duration,
}

impl Starter {
    /// Starts one; it does not listen yet.
    pub fn start(&mut self) -> Result<Process> {
        self.started += 1;
        let number = self.started;
        let stderr = File::options().append(true).create(true).open(&self.stderr)?;
        let mut child = Command::from(command(&self.program))
            .args(["serve", "--config"])
            .arg(&self.config)
            .env("ONCEMAIL__HOSTNAME", format!("relay-{number}.soak.example"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| self.program.display().to_string())?;
        let log = child.stdout.take().context("its log")?;
        let id = child.id().context("its number")?;
        self.pid.send_replace(Some(id));
        self.logs.push(tokio::spawn(follow(log, number, self.book.clone(), self.door.clone())));
        let pid = Pid::from_raw(i32::try_from(id)?).context("its number")?;
        Ok(Process { number, child, pid, stopped: Duration::ZERO })
    }

    /// Waits until `process` listens.
    pub async fn listens(&self, process: &mut Process) -> Result<()> {
        let mut door = self.door.subscribe();
        let number = process.number;
        tokio::select! {
            opened = timeout(PATIENCE, door.wait_for(|door| door.is_some_and(|(_, n)| n == number))) => {
                if opened.is_err() {
                    bail!("the relay, start {number}, does not listen after {PATIENCE:?}");
                }
                Ok(())
            }
            status = process.child.wait() => {
                bail!("the relay, start {number}, ended with {} before it listened: see {}", status?, self.stderr.display())
            }
        }
    }

    /// Reads the logs of all that have ended.
    pub async fn read_logs(&mut self) -> Result<()> {
        // The last one may still run.
        let running = self.pid.borrow().is_some();
        let ended = self.logs.len() - usize::from(running);
        for log in self.logs.drain(..ended) {
            timeout(PATIENCE, log).await.context("a log that does not end")??;
        }
        Ok(())
    }

    /// kill -9; does not wait for the process to be gone when `at_once`.
    pub async fn kill(&mut self, mut process: Process, at_once: bool) -> Result<()> {
        self.ended(&process, true);
        kill_process(process.pid, Signal::KILL)?;
        self.door.send_replace(None);
        if at_once {
            tokio::spawn(async move { process.child.wait().await });
            return Ok(());
        }
        timeout(PATIENCE, process.child.wait()).await.context("a killed process does not end")??;
        Ok(())
    }

    /// SIGTERM, and its end.
    pub async fn stop(&mut self, mut process: Process) -> Result<()> {
        process.signal(Signal::TERM)?;
        let status = timeout(PATIENCE, process.child.wait()).await.context("SIGTERM does not end it")??;
        self.ended(&process, false);
        self.door.send_replace(None);
        if !status.success() {
            self.book.fault(format!("start {} ended with {status} after SIGTERM", process.number));
        }
        Ok(())
    }

    fn ended(&self, process: &Process, is_killed: bool) {
        self.pid.send_replace(None);
        let end = End { at: Instant::now(), is_killed, stopped: process.stopped };
        self.book.lock().ends.insert(process.number, end);
    }
}

impl Process {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    /// How it has ended by itself, if it has.
    pub fn has_ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// SIGSTOP; the caller lets it go on, or kills it.
    pub async fn freeze(&mut self, time: Duration) -> Result<()> {
        self.signal(Signal::STOP)?;
        tokio::time::sleep(time).await;
        self.stopped += time;
        Ok(())
    }
}

/// Where the data directory is, beside the configuration.
pub fn data_dir(config: &Path) -> PathBuf {
    config.with_file_name("var")
}

/// Reads a log to its end. The last line may be cut off, by a kill.
async fn follow(log: ChildStdout, number: u64, book: Arc<Book>, door: watch::Sender<Door>) {
    let mut lines = BufReader::new(log).lines();
    let mut torn = None;
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(torn) = torn.take() {
            book.fault(format!("start {number}: not a line of the log: {torn}"));
        }
        match serde_json::from_str::<Value>(&line) {
            Ok(event) => note(&event, &line, number, &book, &door),
            Err(_) => torn = Some(line),
        }
    }
}

fn note(event: &Value, line: &str, number: u64, book: &Book, door: &watch::Sender<Door>) {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let (message, level) = (text("message"), text("level"));
    match message {
        "listening" => {
            if let Ok(address) = text("address").parse() {
                // The log of one that was killed may be read late.
                door.send_if_modified(|door| {
                    let is_newer = door.is_none_or(|(_, known)| known < number);
                    if is_newer {
                        *door = Some((address, number));
                    }
                    is_newer
                });
            }
        }
        "delivery" if text("outcome") == "delivered" => {
            let said = (text("queue_id").to_owned(), text("recipient").to_owned());
            if book.lock().delivered.insert(said, number).is_some() {
                book.fault(format!("start {number}: delivered, and delivered again: {line}"));
            }
        }
        _ => {}
    }
    if level == "ERROR" || (level == "WARN" && NEVER_SAID.iter().any(|word| line.contains(word))) {
        book.fault(format!("start {number}: {line}"));
    } else if level == "WARN" {
        *book.lock().warnings.entry(message.to_owned()).or_default() += 1;
    }
}
