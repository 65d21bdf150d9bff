//! What new connections are told; exchanged as a whole while others go on.
//!
//! A connection keeps what it began with: its client was told the limits at EHLO. Only users are always those of now, so
//! that a changed password counts at the next AUTH and a user that is gone sends nothing more. What is counted (open
//! connections, memory in use, failed logins, messages of a user's rate) is counted on. A listener whose address is not the
//! same any more stays as it is until a restart: what the new one would be allowed may be wrong where the old one is.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::accounts::Accounts;
use super::admission::attend_stream;
use super::door::Door;
use super::metrics::SubmissionMetrics;
use super::options::{Limits, Listener, Options, TlsMode};
use super::pressure::Pressure;
use super::recipients::{Checks, Recipients};
use super::server::BindError;
use super::tls::Certificate;
use super::visit::{Entrance, Shared};
use crate::clock::Clock;
use crate::intake::Intake;
use crate::smtp::content::Budget;

/// What the next connection of one listener begins with.
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) entrance: Arc<Entrance>,
}

/// What was read for an [`Options`], and may not have been readable.
pub(super) struct Furnishing {
    pub(super) options: Options,
    pub(super) certificate: Option<Arc<Certificate>>,
    checks: Arc<Checks>,
}

/// The listeners' settings. Clones share them.
#[derive(Clone)]
pub struct Reception(Arc<Inner>);

struct Inner {
    /// One per listener, in the order of the first configuration.
    places: Vec<Arc<ArcSwap<Place>>>,
    intake: Arc<Intake>,
    accounts: Arc<ArcSwap<Accounts>>,
    budget: Budget,
    door: Door,
    pressure: Pressure,
    clock: Clock,
    metrics: Arc<SubmissionMetrics>,
}

/// Settings that are ready to be brought into force.
pub struct Prepared {
    places: Vec<Place>,
    accounts: Accounts,
    limits: Limits,
    certificate: Option<Arc<Certificate>>,
}

impl Furnishing {
    /// Reads the certificate and the file of disposable domains.
    ///
    /// # Errors
    /// Names the file.
    pub(super) fn new(options: Options, recipients: Recipients, clock: &Clock) -> Result<Self, BindError> {
        let certificate = match &options.tls {
            Some(tls) => Some(Arc::new(Certificate::load(tls.clone(), clock.clone())?)),
            None => None,
        };
        let checks = Checks::new(&options.verify, recipients, clock).map_err(|source| {
            let file = options.verify.disposable_file.clone().unwrap_or_default();
            BindError::DisposableFile { file, source }
        })?;
        Ok(Self { options, certificate, checks: Arc::new(checks) })
    }

    fn entrance(
        &self,
        listener: Listener,
        certificate: Option<Arc<Certificate>>,
        metrics: &SubmissionMetrics,
    ) -> Entrance {
        let Options { hostname, limits, .. } = &self.options;
        Entrance::new(hostname, limits, listener, certificate, self.checks.any(), metrics)
    }
}

impl Reception {
    /// For the listeners of `furnishing`, in their order.
    ///
    /// # Errors
    /// Names the user whose password hash cannot be used.
    pub(super) fn open(furnishing: Furnishing, intake: Arc<Intake>, clock: Clock) -> Result<Self, BindError> {
        let Options { users, limits, listeners, .. } = &furnishing.options;
        let accounts = Accounts::new(users, limits, &clock)
            .map_err(|(user, source)| BindError::PasswordHash { user, source })?;
        let mut inner = Inner {
            places: Vec::new(),
            intake,
            accounts: Arc::new(ArcSwap::from_pointee(accounts)),
            budget: Budget::new(limits.receive_memory),
            door: Door::new(limits.connections, limits.connections_per_ip),
            pressure: Pressure::default(),
            clock,
            metrics: Arc::default(),
        };
        inner.watch(furnishing.certificate.as_ref());
        let shared = inner.shared(&furnishing);
        inner.places = listeners
            .iter()
            .map(|listener| {
                let entrance =
                    furnishing.entrance(listener.clone(), furnishing.certificate.clone(), &inner.metrics);
                Arc::new(ArcSwap::from_pointee(Place { shared: shared.clone(), entrance: entrance.into() }))
            })
            .collect();
        Ok(Self(Arc::new(inner)))
    }

    /// For listeners that nobody binds: connections come by [`Reception::attend`]. Reads the files that `options` names.
    ///
    /// # Errors
    /// Names the file, or the user whose password hash cannot be used.
    pub fn unbound(
        options: Options,
        intake: Arc<Intake>,
        clock: Clock,
        recipients: Recipients,
    ) -> Result<Self, BindError> {
        Self::open(Furnishing::new(options, recipients, &clock)?, intake, clock)
    }

    /// Serves a client that comes over any stream to the first listener, as one that comes over a socket is served, until it
    /// has gone or `shutdown` has ended its session.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection; what the intake decides goes on.
    pub async fn attend<S>(&self, stream: S, peer: SocketAddr, shutdown: &CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(place) = self.0.places.first() else { return };
        let place = place.load_full();
        attend_stream(&place, stream, peer, shutdown).await;
    }

    pub(super) fn metrics(&self) -> Arc<SubmissionMetrics> {
        self.0.metrics.clone()
    }

    pub(super) fn places(&self) -> Vec<Arc<ArcSwap<Place>>> {
        self.0.places.clone()
    }

    /// Makes everything that other options need, and changes nothing. Blocks while it reads files. Listeners that are not
    /// bound, or not there, are left out; the caller says so. What was prepared must be brought into force before anything
    /// else is prepared.
    ///
    /// # Errors
    /// Names the file, the user or the listener.
    pub fn prepare(&self, options: Options, recipients: Recipients) -> Result<Prepared, BindError> {
        let inner = &self.0;
        let accounts = inner
            .accounts
            .load()
            .replaced_by(&options.users)
            .map_err(|(user, source)| BindError::PasswordHash { user, source })?;
        let furnishing = Furnishing::new(options, recipients, &inner.clock)?;
        let shared = inner.shared(&furnishing);
        let place = |place: &Arc<ArcSwap<Place>>| {
            let before = place.load();
            let entrance = Arc::new(entrance(&before.entrance, &furnishing, &inner.metrics)?);
            Ok(Place { shared: shared.clone(), entrance })
        };
        let places = inner.places.iter().map(place).collect::<Result<_, BindError>>()?;
        Ok(Prepared {
            places,
            accounts,
            limits: furnishing.options.limits,
            certificate: furnishing.certificate,
        })
    }

    /// Brings into force what was prepared, for connections that begin from now on.
    pub fn commit(&self, prepared: Prepared) {
        let Prepared { places, accounts, limits, certificate } = prepared;
        let inner = &self.0;
        inner.watch(certificate.as_ref());
        inner.budget.resize(limits.receive_memory);
        inner.door.resize(limits.connections, limits.connections_per_ip);
        accounts.limit_failures(&limits);
        inner.accounts.store(Arc::new(accounts));
        for (place, next) in inner.places.iter().zip(places) {
            place.store(Arc::new(next));
        }
    }
}

/// What a listener tells from now on: the new settings, or, where they are not for its address, its own.
fn entrance(
    before: &Entrance,
    furnishing: &Furnishing,
    metrics: &SubmissionMetrics,
) -> Result<Entrance, BindError> {
    let Listener { name, address, .. } = &before.listener;
    let same = |listener: &&Listener| listener.name == *name && listener.address == *address;
    let Some(listener) = furnishing.options.listeners.iter().find(same) else {
        return Ok(furnishing.entrance(before.listener.clone(), before.certificate.clone(), metrics));
    };
    if listener.tls != TlsMode::None && furnishing.certificate.is_none() {
        return Err(BindError::TlsMissing { listener: name.clone() });
    }
    Ok(furnishing.entrance(listener.clone(), furnishing.certificate.clone(), metrics))
}

impl Inner {
    fn shared(&self, furnishing: &Furnishing) -> Arc<Shared> {
        Arc::new(Shared {
            intake: self.intake.clone(),
            limits: furnishing.options.limits.clone(),
            accounts: self.accounts.clone(),
            checks: furnishing.checks.clone(),
            budget: self.budget.clone(),
            door: self.door.clone(),
            pressure: self.pressure.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        })
    }

    /// Has the end of the certificate in force shown.
    fn watch(&self, certificate: Option<&Arc<Certificate>>) {
        if let Some(certificate) = certificate {
            self.metrics.watch(certificate.clone());
        }
    }
}
