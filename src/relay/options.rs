//! What the relay can be told.

mod password;
mod sinks;

pub use password::Password;
pub use sinks::{EventFile, Sink, SinkTransport, WEBHOOK_CONNECTIONS, Webhook};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use governor::Quota;

use crate::dns;

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
    /// `[[dkim]]`.
    pub dkim: Vec<DkimKey>,
    /// Where our own listeners are: delivery to them would be a loop (RFC 5321 §6.3).
    pub own_addresses: Vec<SocketAddr>,
    /// `[[webhook]]` and `[events]`.
    pub sinks: Vec<Sink>,
}

/// One `[[route]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Its name in logs and records.
    pub name: String,
    /// When it applies.
    pub matches: Matches,
    /// Where it leads.
    pub transport: Transport,
    /// R1: what becomes of a message that is in doubt.
    pub in_doubt: InDoubt,
    /// The field under which the next hop is told the message's key, where it understands one.
    pub forward_key_as: Option<String>,
}

/// When a route applies: every list that is not empty must contain the message. All empty: always.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
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

/// `in_doubt` of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InDoubt {
    /// It is sent again (RFC 1047): rather two copies than none.
    #[default]
    Resend,
    /// It is held, over a crash too: rather an operator's look than two copies.
    Hold,
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "a handful of routes, read once at the start")]
pub enum Transport {
    /// SMTP, to configured hosts or to those of the recipient's domain.
    Smtp(Smtp),
    /// One `.eml` and one `.json` per message, in this directory.
    Directory(PathBuf),
    /// Nowhere: delivered, and gone.
    Discard,
}

/// SMTP to other hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Smtp {
    /// Which hosts.
    pub hosts: Hosts,
    /// What TLS must achieve.
    pub tls: TlsPolicy,
    /// PEM file with the only certificate authorities to trust; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// What we show of ourselves in a TLS handshake, when asked.
    pub client_certificate: Option<ClientCertificate>,
    /// AUTH, only ever over TLS or to loopback.
    pub auth: Option<Auth>,
    /// Most connections at a time to one destination, at least 1.
    pub connections: usize,
    /// A connection is closed after this many transactions, at least 1.
    pub messages_per_connection: u32,
    /// An unused connection is closed after this.
    pub idle_timeout: Duration,
    /// A connection is closed after this, between two transactions.
    pub connection_lifetime: Duration,
    /// Messages to one destination; beyond it they wait.
    pub rate: Option<Quota>,
    /// `recipients_per_transaction`, at least 1.
    pub recipients_per_transaction: usize,
    /// Local addresses to connect from, by turns, those of the far side's family; empty: the system's choice.
    pub source_addresses: Vec<IpAddr>,
    /// What is known of the provider.
    pub preset: Preset,
}

impl Smtp {
    /// A route to `hosts` as it is when nothing else is said.
    pub fn new(hosts: Hosts) -> Self {
        Self {
            hosts,
            tls: TlsPolicy::Required,
            ca_file: None,
            client_certificate: None,
            auth: None,
            connections: 20,
            messages_per_connection: 100,
            idle_timeout: Duration::from_secs(30),
            connection_lifetime: Duration::from_secs(300),
            rate: None,
            recipients_per_transaction: 100,
            source_addresses: Vec::new(),
            preset: Preset::None,
        }
    }
}

/// Most connections at a time to all destinations of MX routes together: their number is not the operator's to choose.
pub const MX_CONNECTIONS: usize = 1_000;

impl Hosts {
    /// Hosts that are tried in their order.
    pub fn in_order(hosts: Vec<Host>) -> Self {
        Self::Fixed { hosts, weights: Vec::new() }
    }
}

/// Which hosts a route leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hosts {
    /// Configured ones.
    Fixed {
        /// At least one.
        hosts: Vec<Host>,
        /// Shares of the connections, and with them of the messages, one per host, at least 1 each; empty: the hosts are
        /// tried in their order.
        weights: Vec<u32>,
    },
    /// Those that the recipient's domain names (RFC 5321 §5.1).
    Mx(Mx),
}

/// Delivery to the hosts of the recipient's domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mx {
    /// 25, but for tests.
    pub port: u16,
    /// Whether MX hosts may have private, loopback and link-local addresses.
    pub allow_private: bool,
    /// Whether MTA-STS policies (RFC 8461) are looked for and kept to.
    pub mta_sts: bool,
    /// Where they are fetched: 443, but for tests.
    pub mta_sts_port: u16,
    /// Which addresses are used.
    pub family: dns::Family,
}

/// PEM files with our certificate (and what signed it) and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificate {
    /// The chain, our own first.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// `preset` of a route: what a provider's documentation says about it that no other key can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Preset {
    /// Nothing.
    #[default]
    None,
    /// Microsoft 365, SMTP AUTH client submission.
    Microsoft365,
    /// Google Workspace SMTP relay and Gmail.
    Google,
    /// Amazon SES.
    Ses,
}

/// One `[[dkim]]`.
#[derive(Clone)]
pub struct DkimKey {
    /// The sender's domain, lower case; also `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// PEM (PKCS#8, or PKCS#1 for RSA) as read; never printed.
    pub key: zeroize::Zeroizing<Vec<u8>>,
}

impl fmt::Debug for DkimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, selector, .. } = self;
        f.debug_struct("DkimKey").field("domain", domain).field("selector", selector).finish_non_exhaustive()
    }
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
    /// STARTTLS where it is offered, whatever the certificate; plain where it is not, or fails (RFC 7435).
    Opportunistic,
    /// As `Opportunistic`, but where the host has usable TLSA records they decide (RFC 7672).
    Dane,
    /// TLS from the first byte, verified.
    Implicit,
    /// Never.
    None,
}

/// AUTH at a smarthost.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// With what.
    pub with: Secret,
}

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A password, by the best mechanism of PLAIN and LOGIN that is offered; never printed.
    Password(Password),
    /// XOAUTH2, with tokens from the provider.
    OAuth2(OAuth2),
}

/// OAuth 2 client credentials (RFC 6749 §4.4).
#[derive(Clone, PartialEq, Eq)]
pub struct OAuth2 {
    /// `https://…`; plain `http` only to loopback.
    pub token_url: String,
    /// Client id.
    pub client_id: String,
    /// Client secret; never printed.
    pub client_secret: zeroize::Zeroizing<String>,
    /// `scope`, where the provider wants one.
    pub scope: Option<String>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
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
