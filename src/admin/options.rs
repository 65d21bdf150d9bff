//! What the administration is told by the configuration.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[admin]` and `[[admin_token]]`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where HTTP is served; `None`: on the unix socket only.
    pub address: Option<SocketAddr>,
    /// Where the unix socket is made.
    pub data_dir: PathBuf,
    /// Our name.
    pub hostname: String,
    /// Who may come in over the network. None at all: everybody who reaches `address`, which is then a loopback one.
    pub tokens: Vec<Token>,
}

/// What a caller may do; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Look.
    Read,
    /// Look and act.
    Operate,
}

impl Role {
    /// As the configuration and the API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

/// A secret that somebody comes in with.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Who that is; in the log of everything that is done with it.
    pub name: String,
    /// What may be done with it.
    pub role: Role,
    /// Whether contents and subjects may be read with it.
    pub contents: bool,
    /// BLAKE3 of the secret: the secret itself is not kept.
    digest: blake3::Hash,
}

impl Token {
    /// The token with this secret.
    pub fn new(name: impl Into<String>, secret: &str, role: Role, contents: bool) -> Self {
        Self { name: name.into(), role, contents, digest: digest(secret) }
    }

    /// What stands for the secret.
    pub fn digest(&self) -> blake3::Hash {
        self.digest
    }
}

/// What a secret is compared by. Hashes have equal lengths, and `blake3::Hash` compares in constant time.
pub(super) fn digest(secret: &str) -> blake3::Hash {
    blake3::hash(secret.as_bytes())
}

impl fmt::Debug for Token {
    /// Without the hash: a weak secret could be guessed from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("contents", &self.contents)
            .finish_non_exhaustive()
    }
}
