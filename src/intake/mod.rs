//! The only way in, for every protocol: finds the key, decides whether this is a first submission or a retry, and has
//! the store make it durable.
//!
//! It must never say "queued" before the store has said so (D1), and never keep a claim on a key longer than the
//! submission that made it (I4). When the store fails the client hears 451 or 452 and nothing is remembered; a store
//! that cannot write but can read still answers retries of what it knows.

mod arrival;
mod charset;
mod claims;
#[cfg(test)]
mod claims_model;
#[cfg(test)]
mod claims_tests;
mod encoded_word;
mod examine;
mod fingerprint;
mod fixup;
mod key;
pub mod metrics;
pub mod options;
mod replays;
pub mod submission;
mod turns;
#[cfg(test)]
mod turns_tests;

pub use fingerprint::VERSION as FINGERPRINT_VERSION;
pub use options::{Fallback, Options};
pub use replays::Replays;
pub use submission::{Decision, KeyFault, Receipt, Submission, Trace};

// `claims` finds it as `super::sync`, and its model puts another in its place.
use std::sync::{self, Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::mail::{KeyKind, QueueId, Scope, ScopedKey};
use crate::smtp::Reply;
use crate::store::history::History;
use crate::store::{Acceptance, KeyClaim, KeyRecord, Status, Store, StoreError};
use arrival::Arrival;
use claims::{Claim, Claims};
use examine::{Examined, Fault, Keyed};
use fingerprint::Comparison;
use metrics::IntakeMetrics;
use turns::Turns;

/// Decides about submissions.
pub struct Intake {
    store: Arc<dyn Store>,
    options: ArcSwap<Options>,
    clock: Clock,
    claims: Arc<Claims>,
    turns: Turns,
    metrics: Arc<IntakeMetrics>,
    /// Where replays are remembered.
    history: OnceLock<Arc<History>>,
    /// Who wants to know of replays.
    replays: OnceLock<Arc<dyn Replays>>,
}

/// What a key says about a submission.
enum Ruling {
    /// The decision, by the contract.
    Decided(Decision),
    /// The key is not this message's: it is queued under none.
    NotItsKey,
}

/// A key that a message is queued under, and the claim that keeps others from doing the same.
struct Under {
    key: ScopedKey,
    remember: KeyClaim,
    claim: Claim,
}

impl Intake {
    /// An intake in front of `store`.
    pub fn new(store: Arc<dyn Store>, options: Options, clock: Clock) -> Self {
        let (claims, turns, metrics) = Default::default();
        let (history, replays) = Default::default();
        let options = ArcSwap::from_pointee(options);
        Self { store, options, clock, claims, turns, metrics, history, replays }
    }

    /// Has other options in force from the next submission on; each is decided by those that it began with.
    pub fn change(&self, options: Options) {
        self.options.store(Arc::new(options));
    }

    /// Remembers in `history` each retry that is answered with the first id. A second call does nothing.
    pub fn remember_into(&self, history: Arc<History>) {
        let _ = self.history.set(history);
    }

    /// Whether new mail can be taken; asked at MAIL, before anything is received.
    pub fn status(&self) -> Status {
        self.store.status()
    }

    /// How long the store's commits take at present.
    pub fn commit_time(&self) -> Duration {
        self.store.commit_time()
    }

    /// How many submissions `observe` has let through, since the start, that would have been suppressed.
    pub fn observed(&self) -> u64 {
        self.metrics.observed().get()
    }

    /// What is counted here.
    pub fn metrics(&self) -> &Arc<IntakeMetrics> {
        &self.metrics
    }

    /// What the client hears of a decision.
    pub fn reply(&self, decision: &Decision) -> Reply {
        decision.reply_about(&self.options.load().header)
    }

    /// Decides about one submission.
    ///
    /// # Cancel safety
    /// A dropped future leaves the decision to go on by itself: the message is queued or not, and the claim on its
    /// key ends with it.
    pub async fn accept(&self, submission: Submission) -> Receipt {
        let began = Instant::now();
        let (bytes, recipients) = (submission.content.len(), submission.envelope.recipients.len());
        let (scope, client) = (submission.scope.clone(), submission.origin.client);
        let mut arrival = Arrival::new(submission, self.clock.now(), self.options.load_full());
        arrival.turn = self.turns.take(bytes).await.map(Arc::new);
        let receipt = match arrival.examine().await {
            Some(examined) => {
                let decision = self.decide(&mut arrival, &examined, scope.clone()).await;
                arrival.turn = None;
                if let Decision::Replayed(first) = decision {
                    self.tell_replay(first, &arrival, &examined, &scope).await;
                }
                receipt(&arrival, examined, decision)
            }
            None => Receipt {
                decision: Decision::StoreFailed,
                key: None,
                message_id: String::new(),
                traceparent: None,
            },
        };
        if matches!(receipt.decision, Decision::Queued(_)) {
            self.metrics.accepted(bytes, recipients);
        }
        if let (Decision::Replayed(first), Some(history)) = (&receipt.decision, self.history.get()) {
            history.replayed(*first, client);
        }
        self.metrics.decided(&receipt.decision, began.elapsed());
        receipt
    }

    async fn decide(&self, arrival: &mut Arrival, examined: &Examined, scope: Scope) -> Decision {
        let ruling = match &examined.verdict {
            Err(Fault::Hops) => Ruling::Decided(Decision::TooManyHops),
            Err(Fault::Key(fault)) => Ruling::Decided(Decision::InvalidKey(*fault)),
            Ok(None) => Ruling::NotItsKey,
            Ok(Some(keyed)) => self.rule(arrival, examined, keyed, scope).await,
        };
        match ruling {
            Ruling::Decided(decision) => decision,
            Ruling::NotItsKey => match self.append(arrival, examined, None).await {
                Ok(Acceptance::Queued) => Decision::Queued(arrival.id),
                // There was no key to be found; whatever it means, nothing was queued.
                Ok(Acceptance::Existing(_)) => Decision::StoreFailed,
                Err(refusal) => refusal,
            },
        }
    }

    /// I2: claims the key, looks it up, and queues the message under it if it is new.
    async fn rule(&self, arrival: &mut Arrival, examined: &Examined, keyed: &Keyed, scope: Scope) -> Ruling {
        let key = ScopedKey { scope, kind: keyed.kind, key: keyed.key.clone() };
        let claim = match self.claims.take(&key, arrival.id) {
            Ok(claim) => claim,
            Err(holder) if arrival.only_observes(keyed) => return self.let_through(arrival.id, holder),
            Err(_) => return self.beside_another(arrival, keyed, &key).await,
        };
        let record = match self.store.find_key(&key).await {
            Ok(Some(record)) => record,
            Ok(None) => {
                let expires_at = arrival.at.plus(arrival.options.ttl);
                let remember = KeyClaim { fingerprint: keyed.fingerprint, expires_at };
                let under = Under { key, remember, claim };
                match self.append(arrival, examined, Some(under)).await {
                    Ok(Acceptance::Queued) => return Ruling::Decided(Decision::Queued(arrival.id)),
                    Ok(Acceptance::Existing(record)) => {
                        return Ruling::Decided(self.lost(arrival, keyed, &record));
                    }
                    Err(refusal) => return Ruling::Decided(refusal),
                }
            }
            Err(error) => return Ruling::Decided(refused(arrival.id, &error)),
        };
        self.judge(arrival, keyed, &record).await
    }

    /// Somebody else is being decided about under this key. That may be a retry like this one: what is durable already
    /// is answered all the same, only what is not has to wait.
    async fn beside_another(&self, arrival: &Arrival, keyed: &Keyed, key: &ScopedKey) -> Ruling {
        match self.store.find_key(key).await {
            Ok(Some(record)) => self.judge(arrival, keyed, &record).await,
            Ok(None) => Ruling::Decided(Decision::InFlight),
            Err(error) => Ruling::Decided(refused(arrival.id, &error)),
        }
    }

    /// I1: what a known key means for this submission.
    async fn judge(&self, arrival: &Arrival, keyed: &Keyed, record: &KeyRecord) -> Ruling {
        let is_explicit = keyed.kind == KeyKind::Header;
        let Some(comparison) = arrival.compare(keyed.fingerprint, record.fingerprint).await else {
            return Ruling::Decided(Decision::StoreFailed);
        };
        match comparison {
            Comparison::Same if arrival.only_observes(keyed) => self.let_through(arrival.id, record.id),
            Comparison::Same => Ruling::Decided(Decision::Replayed(record.id)),
            Comparison::OtherContent if is_explicit => Ruling::Decided(Decision::DifferentBody),
            Comparison::OtherEnvelope if is_explicit => Ruling::Decided(Decision::DifferentEnvelope),
            Comparison::OtherContent | Comparison::OtherEnvelope => Ruling::NotItsKey,
            Comparison::UnknownRules => {
                // A replay might lose this mail and a first submission might double it: neither can be undone.
                let version = record.fingerprint.version;
                tracing::error!(id = %arrival.id, first = %record.id, version, "key of an unknown version");
                Ruling::Decided(Decision::StoreFailed)
            }
        }
    }

    /// I2: another node took the key in this very moment. The content is spent by now: where its hashes alone do not
    /// decide, the client comes again and finds the record.
    fn lost(&self, arrival: &Arrival, keyed: &Keyed, record: &KeyRecord) -> Decision {
        let is_explicit = keyed.kind == KeyKind::Header;
        let comparison = fingerprint::compare_hashes(&record.fingerprint, &keyed.fingerprint);
        match comparison.map(|comparison| arrival.despite_refusals(comparison, &record.fingerprint)) {
            Some(Comparison::Same) if !arrival.only_observes(keyed) => Decision::Replayed(record.id),
            Some(Comparison::OtherContent) if is_explicit => Decision::DifferentBody,
            Some(Comparison::OtherEnvelope) if is_explicit => Decision::DifferentEnvelope,
            _ => Decision::StoreFailed,
        }
    }

    /// D1: only the store's own word makes a message queued. The arrival's content is spent by it. The commit goes on when
    /// this future is dropped, and the claim lives exactly as long as it (I2, I4).
    ///
    /// # Errors
    /// What the client hears when nothing was queued.
    async fn append(
        &self,
        arrival: &mut Arrival,
        examined: &Examined,
        under: Option<Under>,
    ) -> Result<Acceptance, Decision> {
        let message_id = arrival.relayed_message_id(examined);
        let key = under.as_ref().map(|under| under.key.clone());
        let message = arrival.message(key, message_id).await.ok_or(Decision::StoreFailed)?;
        let store = self.store.clone();
        let commit = tokio::spawn(async move {
            let (remember, claim) = under.map(|under| (under.remember, under.claim)).unzip();
            let outcome = store.accept(Arc::new(message), remember).await;
            drop::<Option<Claim>>(claim);
            outcome
        });
        match commit.await {
            Ok(outcome) => outcome.map_err(|error| refused(arrival.id, &error)),
            // Whatever a commit that panicked has done, it is not known to be durable.
            Err(error) => {
                tracing::error!(id = %arrival.id, %error, "the commit ended without an answer");
                Err(Decision::StoreFailed)
            }
        }
    }

    /// `observe`: says what would have been suppressed, and does not.
    fn let_through(&self, id: QueueId, first: QueueId) -> Ruling {
        self.metrics.observed().add_one();
        tracing::info!(%id, %first, "would have been suppressed: the same message as the first");
        Ruling::NotItsKey
    }
}

fn receipt(arrival: &Arrival, examined: Examined, decision: Decision) -> Receipt {
    let message_id = match &decision {
        Decision::Queued(_) => arrival.relayed_message_id(&examined),
        _ => examined.message_id.unwrap_or_default(),
    };
    let traceparent = examined.traceparent;
    let keyed = examined.verdict.ok().flatten().filter(|keyed| keyed.kind == KeyKind::Header);
    Receipt { decision, key: keyed.map(|keyed| keyed.key), message_id, traceparent }
}

/// I4: the client is told to come again, and nothing is remembered.
fn refused(id: QueueId, error: &StoreError) -> Decision {
    tracing::warn!(%id, %error, "not accepted");
    match error {
        StoreError::LowDisk { .. } => Decision::LowDisk,
        _ => Decision::StoreFailed,
    }
}
