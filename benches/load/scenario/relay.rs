//! The relay under test: oncemail as a child with a data directory of its own, or a server that runs already.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::message::DEAD_DOMAIN;
use crate::usage;

/// From start to greeting, recovery included.
const START_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// As much of a log as helps to see why a relay ended.
const LOG_TAIL: usize = 4000;

/// A relay that takes mail and sends it to the sink.
pub struct Relay {
    /// Where it takes mail.
    pub address: SocketAddr,
    pid: Option<u32>,
    child: Option<OwnChild>,
}

/// An oncemail that we started; killed when this is dropped.
struct OwnChild {
    binary: PathBuf,
    home: TempDir,
    child: Child,
    environment: Vec<(&'static str, &'static str)>,
}

/// Where the relay sends.
#[derive(Clone, Copy, Debug)]
pub enum Ways {
    /// Everything to this sink.
    Sink(SocketAddr),
    /// Everything to the first, but for [`DEAD_DOMAIN`], which goes to the second.
    Beside(SocketAddr, SocketAddr),
    /// To the hosts of each recipient's domain, at this port.
    Hosts(u16),
}

impl Relay {
    /// Starts oncemail with an empty data directory below `directory`, and waits for its greeting.
    ///
    /// # Errors
    /// When it ends, or does not greet in time; the end of its log is part of the error.
    pub fn start(binary: &Path, directory: &Path, ways: Ways) -> Result<Self> {
        Self::start_with(binary, directory, ways, "")
    }

    /// The same, with further sections in its configuration.
    ///
    /// # Errors
    /// As above.
    pub fn start_with(binary: &Path, directory: &Path, ways: Ways, further: &str) -> Result<Self> {
        Self::start_as(binary, directory, ways, further, &[])
    }

    /// The same, with an environment of its own.
    ///
    /// # Errors
    /// As above.
    pub fn start_as(
        binary: &Path,
        directory: &Path,
        ways: Ways,
        further: &str,
        environment: &[(&'static str, &'static str)],
    ) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("oncemail-load-").tempdir_in(directory)?;
        // The port is free a moment before it is used; nothing else on a machine that measures takes ports.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        fs::write(home.path().join("oncemail.toml"), configuration(home.path(), address, ways) + further)?;
        let environment = environment.to_vec();
        let child = spawn(binary, home.path(), &environment)?;
        let pid = Some(child.id());
        let own = OwnChild { binary: binary.to_owned(), home, child, environment };
        let mut relay = Self { address, pid, child: Some(own) };
        relay.wait_until_it_greets()?;
        Ok(relay)
    }

    /// A server that somebody else started.
    pub fn running(address: SocketAddr, pid: Option<u32>) -> Self {
        Self { address, pid, child: None }
    }

    /// Kills it without warning, and starts it again on the same directory once `between` is done.
    ///
    /// # Errors
    /// When it is not ours, or does not start again.
    pub fn crash(&mut self, between: impl FnOnce()) -> Result<Instant> {
        let own = self.child.as_mut().context("not ours to kill")?;
        own.child.kill()?;
        let killed = Instant::now();
        own.child.wait()?;
        between();
        own.child = spawn(&own.binary, own.home.path(), &own.environment)?;
        self.pid = Some(own.child.id());
        Ok(killed)
    }

    /// Waits for the greeting.
    ///
    /// # Errors
    /// When the child has ended, or the limit passed.
    pub fn wait_until_it_greets(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if greets(self.address) {
                return Ok(());
            }
            if let Some(own) = &mut self.child
                && let Some(status) = own.child.try_wait()?
            {
                bail!("the relay ended at start ({status}):\n{}", log_tail(own.home.path()));
            }
            if Instant::now() >= deadline {
                bail!("no greeting from {} within {START_LIMIT:?}", self.address);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// CPU time since it started, where its process is known.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn cpu(&self) -> Result<Option<Duration>> {
        self.pid.map(usage::tree_cpu).transpose()
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When its process is not known, or has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        usage::resident_bytes(self.pid.context("unknown process")?)
    }

    /// Its open descriptors.
    ///
    /// # Errors
    /// When its process is not known, or has ended.
    pub fn descriptors(&self) -> Result<u64> {
        let pid = self.pid.context("unknown process")?;
        Ok(fs::read_dir(format!("/proc/{pid}/fd")).context("the relay has ended")?.count() as u64)
    }

    /// The end of what it logged.
    pub fn log_tail(&self) -> String {
        self.child.as_ref().map(|own| log_tail(own.home.path())).unwrap_or_default()
    }
}

impl Drop for OwnChild {
    fn drop(&mut self) {
        // It has ended already, or it ends now; either way nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(binary: &Path, home: &Path, environment: &[(&str, &str)]) -> Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(home.join("log"))?;
    Command::new(binary)
        .args(["serve", "--config"])
        .arg(home.join("oncemail.toml"))
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{} (cargo build --release makes it)", binary.display()))
}

fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut greeting = [0; 3];
    stream.set_read_timeout(Some(START_LIMIT)).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"220"
}

fn log_tail(home: &Path) -> String {
    let log = fs::read_to_string(home.join("log")).unwrap_or_default();
    let start = log.len().saturating_sub(LOG_TAIL);
    log.get(log.ceil_char_boundary(start)..).unwrap_or_default().to_owned()
}

/// Open to loopback, limits out of the way. `ONCEMAIL__SECTION__KEY` in the environment overrides it, as always.
fn configuration(home: &Path, address: SocketAddr, ways: Ways) -> String {
    let routes = match ways {
        Ways::Sink(sink) => smarthost("sink", "", sink),
        Ways::Beside(sink, dead) => {
            let selector = format!("recipient_domains = [\"{DEAD_DOMAIN}\"]\n");
            smarthost("dead", &selector, dead) + &smarthost("sink", "", sink)
        }
        Ways::Hosts(port) => format!(
            "[[route]]\nname = \"world\"\ntransport = \"mx\"\nport = {port}\nallow_private_addresses = true\n\
             mta_sts = false\ntls = \"none\"\n"
        ),
    };
    format!(
        r#"hostname = "relay.load.invalid"
data_dir = "{}"

[[listener]]
name = "load"
address = "{address}"
tls = "none"
auth = "none"

[limits]
connections = 5000
connections_per_ip = 5000
messages_per_connection = 1000000
min_free = "100MB"

[retry]
on_failure = "hold"

{routes}
[log]
format = "json"
level = "warn"
"#,
        home.join("var").display()
    )
}

fn smarthost(name: &str, selector: &str, host: SocketAddr) -> String {
    format!(
        "[[route]]\nname = \"{name}\"\n{selector}transport = \"smarthost\"\nhosts = [\"{host}\"]\ntls = \"none\"\n\
         connections = 20\nmessages_per_connection = 10000\n"
    )
}
