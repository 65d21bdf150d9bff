//! What the relay can be told.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use governor::Quota;

/// Everything the relay needs; routes are asked in order, the first match wins.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our name in EHLO.
    pub hostname: String,
    /// `[[route]]`, at least one.
    pub routes: Vec<Route>,
    /// `[breaker]`, for every destination.
    pub breaker: Breaker,
    /// Time-outs of the far side's replies.
    pub timeouts: Timeouts,
}

/// One `[[route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name in logs and records.
    pub name: String,
    /// When it applies.
    pub matches: Matches,
    /// Where it leads.
    pub transport: Transport,
}

/// When a route applies: every list that is not empty must contain the message. All empty: always.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// Exact domains or `*.suffix`, lower case.
    pub recipient_domains: Vec<String>,
    /// Exact domains or `*.suffix` of the reverse-path, lower case; a null sender has none.
    pub sender_domains: Vec<String>,
    /// Names of authenticated users.
    pub users: Vec<String>,
    /// Names of listeners.
    pub listeners: Vec<String>,
}

/// Where a route leads.
#[derive(Clone, Debug)]
pub enum Transport {
    /// SMTP to configured hosts.
    Smarthost(Smarthost),
    /// One `.eml` and one `.json` per message, in this directory.
    Directory(PathBuf),
}

/// SMTP to configured hosts.
#[derive(Clone, Debug)]
pub struct Smarthost {
    /// Tried in order.
    pub hosts: Vec<Host>,
    /// What TLS must achieve.
    pub tls: TlsPolicy,
    /// PEM file with the only certificate authorities to trust; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// AUTH, only ever over TLS or to loopback.
    pub credentials: Option<Credentials>,
    /// Most connections at a time, at least 1.
    pub connections: usize,
    /// A connection is closed after this many transactions, at least 1.
    pub messages_per_connection: u32,
    /// An unused connection is closed after this.
    pub idle_timeout: Duration,
    /// Messages; beyond it they wait.
    pub rate: Option<Quota>,
    /// `recipients_per_transaction`, at least 1.
    pub recipients_per_transaction: usize,
}

/// `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Host {
    /// DNS name or address, without brackets.
    pub name: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// `tls` of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsPolicy {
    /// STARTTLS with a verified certificate, or no delivery.
    #[default]
    Required,
    /// TLS from the first byte, verified.
    Implicit,
    /// Never.
    None,
}

/// AUTH at a smarthost.
#[derive(Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password; never printed.
    pub password: zeroize::Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// `[breaker]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Breaker {
    /// This many failures …
    pub failures: u32,
    /// … within this time open it …
    pub window: Duration,
    /// … for this long.
    pub open_for: Duration,
    /// Then at most this many probes at a time are let through …
    pub probes: u32,
    /// … and this many successes close it.
    pub successes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { failures: 5, window: minute, open_for: minute, probes: 3, successes: 2 }
    }
}

/// How long to wait for the far side (RFC 5321 §4.5.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP and TLS.
    pub connect: Duration,
    /// Greeting (§4.5.3.2.1), EHLO, MAIL (§4.5.3.2.2), RCPT (§4.5.3.2.3), RSET.
    pub command: Duration,
    /// The 354 (§4.5.3.2.4).
    pub data_initiation: Duration,
    /// Each block of the message (§4.5.3.2.5).
    pub data_block: Duration,
    /// The reply to the final dot (§4.5.3.2.6).
    pub data_termination: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            connect: Duration::from_secs(30),
            command: minutes(5),
            data_initiation: minutes(2),
            data_block: minutes(3),
            data_termination: minutes(10),
        }
    }
}
