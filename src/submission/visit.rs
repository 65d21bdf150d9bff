//! What a connection knows of the world around it.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::accounts::Accounts;
use super::door::Door;
use super::metrics::{ListenerMetrics, SubmissionMetrics};
use super::options::{AuthMode, Limits, Listener, TlsMode};
use super::pressure::Pressure;
use super::recipients::Checks;
use super::tls::Certificate;
use crate::clock::Clock;
use crate::intake::Intake;
use crate::mail::{ReversePath, Scope};
use crate::smtp::Reply;
use crate::smtp::content::Budget;
use crate::smtp::session::{AuthPolicy, Session, Settings};
use crate::store::Status;

/// What all connections share that began under one configuration.
pub(super) struct Shared {
    pub(super) intake: Arc<Intake>,
    pub(super) limits: Limits,
    /// Those of now, whenever the connection began.
    pub(super) accounts: Arc<ArcSwap<Accounts>>,
    pub(super) checks: Arc<Checks>,
    /// `limits.receive_memory`, of which each visit sees its client's part.
    pub(super) budget: Budget,
    pub(super) door: Door,
    pub(super) pressure: Pressure,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<SubmissionMetrics>,
}

/// What the connections of one listener share.
pub(super) struct Entrance {
    pub(super) listener: Listener,
    pub(super) settings: Arc<Settings>,
    /// Present when the listener offers TLS.
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) metrics: Arc<ListenerMetrics>,
}

/// What a message hears that had better come later: RFC 3463, system congestion.
pub(super) fn too_busy() -> Reply {
    Reply::new(451, (4, 4, 5), "Too busy; retry later")
}

/// One connection's surroundings.
#[derive(Clone)]
pub(super) struct Visit {
    pub(super) shared: Arc<Shared>,
    pub(super) entrance: Arc<Entrance>,
    /// The client's address, or the one that a trusted proxy has told.
    pub(super) client: IpAddr,
    /// Whether it comes through a proxy. What is for this machine's own clients is not for it, whatever its address.
    pub(super) is_proxied: bool,
    /// What the messages of this client may take.
    pub(super) budget: Budget,
    /// Cancelled when the server shuts down.
    pub(super) shutdown: CancellationToken,
}

impl Entrance {
    pub(super) fn new(
        hostname: &str,
        limits: &Limits,
        listener: Listener,
        certificate: Option<Arc<Certificate>>,
        checks_recipients: bool,
        metrics: &SubmissionMetrics,
    ) -> Self {
        let metrics = metrics.listener(&listener.name);
        let settings = Settings {
            hostname: hostname.to_owned(),
            message_size: limits.message_size,
            recipients: limits.recipients,
            transactions: limits.messages_per_connection,
            starttls: listener.tls == TlsMode::StartTls,
            auth: match listener.auth {
                AuthMode::Required => AuthPolicy::Required,
                AuthMode::Optional => AuthPolicy::Optional,
                AuthMode::None => AuthPolicy::Off,
            },
            checks_recipients,
        };
        Self { listener, settings: Arc::new(settings), certificate, metrics }
    }
}

impl Visit {
    /// A session that has not begun; `tls` describes the encryption when there is some from the start.
    pub(super) fn session(&self, tls: Option<String>) -> Session {
        let loopback = self.client.is_loopback() && !self.is_proxied;
        Session::new(self.entrance.settings.clone(), self.budget.clone(), loopback, tls)
    }

    /// Whether a message may be started now: is there room, and may this user. Gives back whose keys it uses.
    ///
    /// # Errors
    /// The reply that refuses it.
    pub(super) fn may_send(&self, user: Option<&str>, reverse_path: &ReversePath) -> Result<Scope, Reply> {
        match self.shared.intake.status() {
            Status::Ready => self.shared.accounts.load().may_send(user, reverse_path),
            Status::LowDisk { .. } => {
                Err(Reply::new(452, (4, 3, 1), "Insufficient system storage; retry later"))
            }
            Status::Latched { .. } | Status::Closed => {
                Err(Reply::new(451, (4, 3, 0), "Messages cannot be stored now; retry later"))
            }
        }
    }
}
