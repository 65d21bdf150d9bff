//! Names to addresses, mail hosts, TLSA and TXT records.
//!
//! A lookup ends as an answer, as a lasting "there is none", or as trouble that may pass; the three are never mixed up,
//! because the second fails mail and the third makes it wait. Every lookup is bounded in time and in what it gives back.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// `[dns]`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name servers; empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// One question to one server.
    pub timeout: Duration,
    /// Whether answers are validated (RFC 4035); DANE needs it.
    pub dnssec: bool,
    /// Root keys to start from, a file of DNSKEY records; the built-in ones when absent.
    pub trust_anchor_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Duration::from_secs(5), dnssec: false, trust_anchor_file: None }
    }
}

/// Looks names up. Reads the system's configuration when it is first asked.
pub struct Dns {
    options: Options,
    resolver: OnceCell<TokioResolver>,
}

/// An answer, and whether DNSSEC vouches for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer<T> {
    /// What was found.
    pub found: T,
    /// Validated by DNSSEC; false also where nothing is validated.
    pub secure: bool,
}

/// One host that takes mail for a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailHost {
    /// Lower first (RFC 5321 §5.1); 0 for an implicit MX.
    pub preference: u16,
    /// Its name, lower case, without the last dot, as A-labels.
    pub name: String,
}

/// A TLSA record (RFC 6698 §2.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tlsa {
    /// Certificate usage.
    pub usage: u8,
    /// Selector: 0 the certificate, 1 its public key.
    pub selector: u8,
    /// Matching type: 0 itself, 1 SHA-256, 2 SHA-512.
    pub matching: u8,
    /// Certificate association.
    pub association: Vec<u8>,
}

/// Which addresses are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Family {
    /// Both; IPv6 and IPv4 take turns.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// NXDOMAIN: lasting.
    #[error("the domain {0} does not exist")]
    NoSuchDomain(String),
    /// The name exists and has nothing of this kind: lasting.
    #[error("{0}")]
    NoRecords(String),
    /// The domain says that it takes no mail (RFC 7505): lasting.
    #[error("the domain {0} takes no mail (null MX)")]
    NullMx(String),
    /// No answer, an answer that cannot be trusted, or one that makes no sense: it may pass.
    #[error("{0}")]
    Temporary(String),
}

/// One lookup, with all retries of the resolver.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// More addresses of one name are not given back.
const MAX_ADDRESSES: usize = 8;

impl Dns {
    /// Nothing is asked yet.
    pub fn new(options: Options) -> Self {
        Self { options, resolver: OnceCell::new() }
    }

    /// The addresses of a host, in the order in which to try them, at least one.
    ///
    /// # Errors
    /// A sentence that names the cause.
    pub async fn addresses(&self, name: &str, family: Family) -> Result<Answer<Vec<IpAddr>>, Fault> {
        let _ = family;
        let failed = |reason: String| Fault::Temporary(format!("{name} cannot be looked up: {reason}"));
        let resolver = self.resolver.get_or_try_init(|| self.build()).await.map_err(failed)?;
        let found = timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(name))
            .await
            .map_err(|_| failed(format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        let found: Vec<_> = found.iter().take(MAX_ADDRESSES).collect();
        if found.is_empty() {
            return Err(Fault::NoRecords(format!("{name} has no address")));
        }
        Ok(Answer { found, secure: false })
    }

    /// The hosts that take mail for a domain (RFC 5321 §5.1): its MX records, best preference first, in random order
    /// within one; or the domain itself when it has none but an address.
    ///
    /// # Errors
    /// There are none, or they could not be found out.
    pub async fn mail_hosts(&self, domain: &str) -> Result<Answer<Vec<MailHost>>, Fault> {
        Err(Fault::Temporary(domain.to_owned()))
    }

    /// The TLSA records of `_port._tcp.host`; only validated ones count (RFC 7672 §2.2).
    ///
    /// # Errors
    /// There are none, or they could not be found out.
    pub async fn tlsa(&self, host: &str, port: u16) -> Result<Answer<Vec<Tlsa>>, Fault> {
        Err(Fault::Temporary(format!("{host}:{port}")))
    }

    /// The TXT records of a name, each with its strings joined.
    ///
    /// # Errors
    /// There are none, or they could not be found out.
    pub async fn txt(&self, name: &str) -> Result<Answer<Vec<String>>, Fault> {
        Err(Fault::Temporary(name.to_owned()))
    }

    async fn build(&self) -> Result<TokioResolver, String> {
        let _ = &self.options;
        let built = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        built.map_err(|error| format!("the system's DNS configuration cannot be used: {error}"))
    }
}
