//! Whether the hosts of a route can be used, tried without a message: connect, greeting, EHLO, TLS, AUTH, QUIT.
//!
//! It goes the way of an attempt, with the same code, and outside of any relay: no breaker hears of it, nothing is
//! counted. Nothing is ever sent but what comes before MAIL. A password that was refused is not tried at the route's
//! other hosts, because that may lock the account.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;

use super::SetupError;
use super::dkim::Signers;
use super::options::{Host, Options, Route};
use super::routing::Builder;
use super::surroundings::Surroundings;
use super::way::Transport;
use crate::clock::Clock;
use crate::dns::Dns;
use crate::smtp::capabilities::Size;

/// Tries routes.
pub struct Prober {
    builder: Builder,
    options: Options,
    dns: Arc<Dns>,
}

/// One host of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probed {
    /// Name and port.
    pub host: Host,
    /// What became of it.
    pub end: Result<Usable, Unusable>,
}

/// A host that takes mail from us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usable {
    /// At which address.
    pub address: std::net::SocketAddr,
    /// `TLSv1.3 verified` and the like; empty: in clear.
    pub tls: String,
    /// Its certificate, in DER.
    pub certificate: Option<CertificateDer<'static>>,
    /// Whether AUTH was asked of us, and went well.
    pub authenticated: bool,
    /// The largest message that it takes.
    pub size: Size,
}

/// Why a host cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// It was tried. The text comes from the far side in parts.
    Trouble {
        /// Reply with its code, or error, with the step in which it came.
        text: String,
        /// Name or password were refused.
        is_about_password: bool,
    },
    /// It was not tried, after the password was refused by a host before it.
    Spared,
}

impl Prober {
    /// Tries nothing yet.
    pub fn new(options: Options, dns: Arc<Dns>, clock: Clock) -> Self {
        let signers = Arc::new(ArcSwap::from_pointee(Signers::none()));
        let builder = Builder { system: Arc::default(), surroundings: Surroundings::new(clock), signers };
        Self { builder, options, dns }
    }

    /// Tries every configured host of a route, one after the other; none where the recipient's domain says which they
    /// are, or the route is not one over SMTP. Reads the route's files, which blocks for a moment.
    ///
    /// # Errors
    /// A file of the route cannot be used.
    ///
    /// # Cancel safety
    /// Connections are dropped.
    pub async fn try_route(&self, route: &Route) -> Result<Vec<Probed>, SetupError> {
        if !matches!(route.transport, super::options::Transport::Smtp(_)) {
            return Ok(Vec::new());
        }
        match self.builder.transport(route, &self.options, &self.dns)? {
            Transport::Smarthost(smarthost) => Ok(smarthost.probe().await),
            _ => Ok(Vec::new()),
        }
    }
}
