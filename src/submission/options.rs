//! What submission can be told.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use governor::Quota;
use ipnet::IpNet;

use crate::mail::Scope;

/// Everything the listeners share.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our name in the greeting and EHLO's reply.
    pub hostname: String,
    /// `[[listener]]`, at least one.
    pub listeners: Vec<Listener>,
    /// `[tls]`; present when a listener offers TLS.
    pub tls: Option<Tls>,
    /// `[[user]]`.
    pub users: Vec<User>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[verify]`.
    pub verify: Verify,
}

/// `[verify]`: what is looked at when RCPT names a recipient.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verify {
    /// The domain has the form of one that mail can be sent to.
    pub syntax: bool,
    /// The domain has hosts that take mail. DNS in trouble accepts, and marks.
    pub mx: bool,
    /// Domains that are refused, one a line; read again when it changes.
    pub disposable_file: Option<PathBuf>,
}

/// One `[[listener]]`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name in logs and routes.
    pub name: String,
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// TLS on this port.
    pub tls: TlsMode,
    /// AUTH on this port.
    pub auth: AuthMode,
    /// Client networks; others get `554` as their greeting.
    pub allow: Vec<IpNet>,
    /// `proxy_protocol`: the load balancers that say for whom they connect, and the only ones that may connect. Empty:
    /// clients connect themselves.
    pub trusted_proxies: Vec<IpNet>,
}

/// `tls` of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsMode {
    /// Plain text only.
    None,
    /// STARTTLS is offered (RFC 3207).
    StartTls,
    /// TLS from the first byte (RFC 8314).
    Implicit,
}

/// `auth` of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthMode {
    /// MAIL is refused with 530 before AUTH.
    Required,
    /// Either way.
    Optional,
    /// AUTH is not offered.
    None,
}

/// `[tls]`.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM, leaf first; re-read when it changes.
    pub certificate_file: PathBuf,
    /// PEM; re-read when it changes.
    pub key_file: PathBuf,
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
}

/// Among `senders`: the null reverse-path, which bounces and automatic answers have. It is nobody's domain, so a user
/// with `senders` may use it only when it is named.
pub const NULL_SENDER: &str = "<>";

/// One `[[user]]`.
#[derive(Clone)]
pub struct User {
    /// The name it authenticates as.
    pub name: String,
    /// PHC string of argon2id, or a bcrypt hash.
    pub password_hash: String,
    /// Reverse-paths it may use: `user@domain`, `@domain` for all of a domain, or [`NULL_SENDER`]; empty: any.
    pub senders: Vec<String>,
    /// Whose keys it uses.
    pub scope: Scope,
    /// Messages; over it `451 4.7.1`.
    pub rate: Option<Quota>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// `[limits]`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Octets of one message, as SIZE counts them (RFC 1870).
    pub message_size: usize,
    /// Recipients of one message (RFC 9422 RCPTMAX).
    pub recipients: usize,
    /// Transactions on one connection (RFC 9422 MAILMAX); `421` after them.
    pub messages_per_connection: u32,
    /// Open connections; over it `421`.
    pub connections: usize,
    /// Open connections of one client address; over it `421`.
    pub connections_per_ip: usize,
    /// Octets of all messages being received; over it `452 4.3.1`.
    pub receive_memory: usize,
    /// Failed AUTH commands of one client address; over it `421 4.7.0`.
    pub auth_failures: Quota,
    /// Between two commands (RFC 5321 §4.5.3.2.7).
    pub command_timeout: Duration,
    /// From DATA to the final dot.
    pub data_timeout: Duration,
    /// Between two reads within DATA.
    pub data_block_timeout: Duration,
}
