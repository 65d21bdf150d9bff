//! What the listeners count: connections, TLS, AUTH, and everything that was refused. Clients and users have no names
//! here.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::door::Full;
use super::tls::Certificate;
use crate::metrics::{
    Collector, Count, DescriptorEncoder, Named, Registry, Tally, counters, gauges, label, one_counter,
    one_gauge,
};
use crate::smtp::Reply;
use crate::smtp::session::Verdict;

label! {
    /// Why a client was turned away before it could say anything.
    pub(super) Refusal as "reason" {
        /// `limits.connections`.
        Full = "full",
        /// `limits.connections_per_ip`.
        PerClient = "per_ip",
        /// More messages wait for their commit than are answered in good time.
        Busy = "busy",
        /// `allow` of the listener.
        Network = "network",
        /// A trusted proxy that did not say for whom it connects.
        Proxy = "proxy",
    }
}

label! {
    /// How a TLS handshake ended.
    pub(super) Handshake as "version" {
        /// RFC 5246.
        Tls12 = "TLSv1.2",
        /// RFC 8446.
        Tls13 = "TLSv1.3",
        /// Whatever rustls may know one day.
        Other = "other",
        /// There is no encryption.
        Failed = "failed",
    }
}

label! {
    /// What came of AUTH.
    pub(super) Login as "result" {
        /// The password was right.
        Succeeded = "succeeded",
        /// It was not.
        Failed = "failed",
        /// The client had failed too often (`limits.auth_failures`).
        Blocked = "blocked",
        /// It could not be found out.
        Unavailable = "unavailable",
    }
}

label! {
    /// Why a recipient was refused by a check.
    pub(super) Objection as "reason" {
        /// It refused mail for good before.
        Suppressed = "suppressed",
        /// `verify.disposable_file`.
        Disposable = "disposable",
        /// The form of its domain.
        Syntax = "syntax",
        /// Its domain does not exist, or has no mail hosts.
        NoMailHost = "no_mail_host",
        /// Its domain says that it takes no mail (RFC 7505).
        NullMx = "null_mx",
        /// Anything else.
        Other = "other",
    }
}

label! {
    /// The codes of replies that refuse something: those that we say, and one for what may be added.
    Code as "code" {
        C421 = "421",
        C450 = "450",
        C451 = "451",
        C452 = "452",
        C454 = "454",
        C500 = "500",
        C501 = "501",
        C502 = "502",
        C503 = "503",
        C504 = "504",
        C521 = "521",
        C530 = "530",
        C535 = "535",
        C538 = "538",
        C550 = "550",
        C552 = "552",
        C553 = "553",
        C554 = "554",
        C555 = "555",
        C556 = "556",
        Other = "other",
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct SubmissionMetrics {
    listeners: Named<ListenerMetrics>,
    turned_away: Tally<Refusal>,
    handshakes: Tally<Handshake>,
    logins: Tally<Login>,
    rejections: Tally<Code>,
    objections: Tally<Objection>,
    unverified: Count,
    /// Asked for its end when somebody wants to know.
    certificate: Mutex<Option<Arc<Certificate>>>,
}

/// What one listener counts.
#[derive(Debug, Default)]
pub(super) struct ListenerMetrics {
    connections: Count,
    open: Count,
}

impl SubmissionMetrics {
    /// Clients that are connected now.
    pub fn clients(&self) -> u64 {
        self.listeners.all().iter().map(|(_, listener)| listener.open.get()).sum()
    }

    /// Has everything shown.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    pub(super) fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        self.listeners.of(name)
    }

    /// Has the end of this certificate shown.
    pub(super) fn watch(&self, certificate: Arc<Certificate>) {
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate);
    }

    /// Nothing is shown where there is no certificate: a zero would look like one that has ended.
    fn encode_certificate(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let certificate = self.certificate.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(end) = certificate.and_then(|certificate| certificate.not_after()) else { return Ok(()) };
        let about = (
            "tls_certificate_not_after_seconds",
            "Until when the listeners' certificate is valid, since 1970.",
        );
        one_gauge(encoder, about, end.as_secs() as f64)
    }

    pub(super) fn turned_away(&self, refusal: Refusal) {
        self.turned_away.add_one(refusal);
        match refusal {
            Refusal::Network => self.rejections.add_one(Code::C554),
            Refusal::Full | Refusal::PerClient | Refusal::Busy => self.rejections.add_one(Code::C421),
            // Nothing is said to it.
            Refusal::Proxy => {}
        }
    }

    /// `tls` as [`describe`](super::tls::describe) has it; `None` for a handshake that failed.
    pub(super) fn handshake(&self, tls: Option<&str>) {
        self.handshakes.add_one(match tls.map(|tls| tls.split(' ').next().unwrap_or_default()) {
            Some("TLSv1.2") => Handshake::Tls12,
            Some("TLSv1.3") => Handshake::Tls13,
            Some(_) => Handshake::Other,
            None => Handshake::Failed,
        });
    }

    pub(super) fn login(&self, verdict: Verdict) {
        self.logins.add_one(match verdict {
            Verdict::Right => Login::Succeeded,
            Verdict::Wrong => Login::Failed,
            Verdict::TooManyFailures => Login::Blocked,
            Verdict::Unknown => Login::Unavailable,
        });
    }

    /// Counts a reply that refuses something; others cost nothing.
    pub(super) fn said(&self, reply: &Reply) {
        if reply.code >= 400 {
            self.rejections.add_one(code(reply.code));
        }
    }

    pub(super) fn recipient_refused(&self, reply: &Reply) {
        self.objections.add_one(objection(reply));
    }

    pub(super) fn recipient_unverified(&self) {
        self.unverified.add_one();
    }
}

impl ListenerMetrics {
    pub(super) fn connected(&self) {
        self.connections.add_one();
    }
}

/// Counts open connections.
impl AsRef<Count> for ListenerMetrics {
    fn as_ref(&self) -> &Count {
        &self.open
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        match full {
            Full::Total => Self::Full,
            Full::Client => Self::PerClient,
        }
    }
}

impl Collector for SubmissionMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let listeners = self.listeners.all();
        let connections = ("connections", "Connections of clients that were let in.");
        let samples = listeners.iter().map(|(name, l)| ([("listener", &**name)], l.connections.get()));
        counters(encoder, connections, samples)?;
        let open = ("connections_open", "Clients that are connected now.");
        let samples = listeners.iter().map(|(name, l)| ([("listener", &**name)], l.open.get() as f64));
        gauges(encoder, open, samples)?;
        let refused = ("connections_refused", "Connections of clients that were turned away at once.");
        counters(encoder, refused, self.turned_away.samples())?;
        let handshakes = ("tls_handshakes", "TLS handshakes with clients, by version or as failed.");
        counters(encoder, handshakes, self.handshakes.samples())?;
        counters(encoder, ("auth", "AUTH commands, by what came of them."), self.logins.samples())?;
        let rejections = ("rejections", "Replies to clients that refuse something, by code.");
        counters(encoder, rejections, self.rejections.samples())?;
        let objections = ("recipients_refused", "Recipients that a check has refused.");
        counters(encoder, objections, self.objections.samples())?;
        let unverified = ("recipients_unverified", "Recipients accepted because a check was not possible.");
        one_counter(encoder, unverified, self.unverified.get())?;
        self.encode_certificate(encoder)
    }
}

fn code(code: u16) -> Code {
    match code {
        421 => Code::C421,
        450 => Code::C450,
        451 => Code::C451,
        452 => Code::C452,
        454 => Code::C454,
        500 => Code::C500,
        501 => Code::C501,
        502 => Code::C502,
        503 => Code::C503,
        504 => Code::C504,
        521 => Code::C521,
        530 => Code::C530,
        535 => Code::C535,
        538 => Code::C538,
        550 => Code::C550,
        552 => Code::C552,
        553 => Code::C553,
        554 => Code::C554,
        555 => Code::C555,
        556 => Code::C556,
        _ => Code::Other,
    }
}

/// The checks tell their reasons by the enhanced codes of their replies, which differ.
fn objection(reply: &Reply) -> Objection {
    match reply.enhanced.map(|code| (code.0, code.1, code.2)) {
        Some((5, 1, 1)) => Objection::Suppressed,
        Some((5, 7, 1)) => Objection::Disposable,
        Some((5, 1, 3)) => Objection::Syntax,
        Some((5, 1, 2)) => Objection::NoMailHost,
        Some((5, 1, 10)) => Objection::NullMx,
        _ => Objection::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Label;

    #[test]
    fn a_code_of_ours_is_shown_as_itself_and_any_other_as_other() {
        let metrics = SubmissionMetrics::default();
        for code in [250, 354, 421, 556, 599] {
            metrics.said(&Reply::bare(code, "x"));
        }
        let counted = metrics.rejections.each().filter(|(_, count)| count.get() > 0);
        let counted: Vec<_> = counted.map(|(code, _)| code).collect();
        assert_eq!(counted, ["421", "556", "other"]);
        for text in Code::VALUES.iter().filter(|text| **text != "other") {
            assert_eq!(Code::VALUES.get(code(text.parse().unwrap()).index()), Some(text));
        }
    }
}
