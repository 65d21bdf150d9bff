//! The end of an attempt: the sender is told, the outcomes and what it is told are saved in one commit, and the message
//! is scheduled again, held or forgotten.
//!
//! It must never save what a sender is told without the progress that says so, nor the other way round (D2). What cannot
//! be told because the message cannot be read stays held (D6).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::events::{self, Change, Known};
use super::lease::{Current, Lease, Settled, numbers_queued};
use super::notices::{self, Notices, Telling};
use super::{Next, OnFailure, Options, retry};
use crate::clock::Timestamp;
use crate::mail::{Address, HoldCause, Message, Progress, RecipientState};

impl Lease {
    /// The last leg has ended: tells the sender, saves, and schedules, holds or forgets the message.
    pub(super) async fn close(&self, current: &mut Current) -> Option<Settled> {
        let now = self.queue.clock.now();
        let untried = (!current.tried).then_some(current.untried);
        let Some(progress) = &mut current.progress else {
            self.closed.store(true, Ordering::SeqCst);
            // Never opened, so nothing has changed.
            if !current.unsaved {
                self.queue.put_back(self.id, self.priority, current.untried);
            }
            return None;
        };
        // R1: what nobody has found out by now, nobody will.
        current.doubts.mark(progress);
        current.newly_held.extend(current.doubts.recipients());
        let had_ended = numbers_ended(progress);
        let mut told = Notices::default();
        // Before anything expires: what was queued when an order came is what it is meant for.
        let obeyed = self.obey(current, now, &mut told).await;
        let progress = current.progress.as_mut()?;
        let was_queued = numbers_queued(progress);
        // Nothing expires because a clock was set forward, and the wait is counted by the same clock.
        let settled = self.queue.clock.settled();
        let mut wait = retry::close(progress, self.due_at(), settled, &self.queue.options(), untried);
        let expired = now_expired(&was_queued, progress);
        if obeyed.is_due && wait.is_some() {
            progress.next_attempt = now;
            wait = Some(Duration::ZERO);
        }
        // What fails of an event is never kept; an operator may still hold one.
        let was_discarded = self.is_event() && events::discard_failed(progress);
        let has_changed = self.tell_close(current, now, &mut told).await | obeyed.has_changed | was_discarded;
        self.tell_success(current, &mut told).await;
        if let (Some(wait), Some(_), false) = (wait, untried, has_changed) {
            self.closed.store(true, Ordering::SeqCst);
            obeyed.answer(&Ok(()));
            self.queue.put_back(self.id, self.priority, wait);
            return None;
        }
        let ending = self.ending(current).await;
        let mut settled = current.save(self, told, expired).await?;
        obeyed.answer(&settled.saved);
        settled.ended = numbers_ended(&settled.progress);
        settled.ended.retain(|number| had_ended.binary_search(number).is_err());
        self.closed.store(true, Ordering::SeqCst);
        if !current.unsaved {
            if let (Some(message), Some(past)) = (&ending, self.queue.past()) {
                past.ended(message, &settled.progress);
            }
            let next = match wait {
                Some(wait) => Next::Again(wait),
                None if settled.progress.is_held() => Next::Held,
                None => Next::Finished,
            };
            self.queue.conclude(self.id, self.priority, next);
        }
        Some(settled)
    }

    /// The message, when it ends here and its end is remembered: after the save it is gone from the store.
    async fn ending(&self, current: &Current) -> Option<Arc<Message>> {
        self.queue.past()?;
        current.progress.as_ref().filter(|progress| progress.is_finished())?;
        let message = self.message().await;
        message
            .inspect_err(|error| {
                tracing::warn!(target: "oncemail::queue", queue_id = %self.id, %error,
                    "the message cannot be read to remember its end");
            })
            .ok()
    }

    /// What is told in one save: by one set of options, whatever comes into force meanwhile.
    pub(super) fn telling<'a>(
        &self,
        message: &'a Message,
        options: Arc<Options>,
        now: Timestamp,
    ) -> Telling<'a> {
        Telling { message, options, due_at: self.due_at(), now }
    }

    /// Tells of failures and of a long wait; gives back whether that has changed the progress.
    pub(super) async fn tell_close(&self, current: &mut Current, now: Timestamp, told: &mut Notices) -> bool {
        let options = self.queue.options.load_full();
        let Some(progress) = &mut current.progress else { return false };
        let has_failed = notices::has_failed(progress, &options);
        // What is told cannot be taken back: a clock that was set forward is not believed.
        let is_late = notices::is_late(progress, self.due_at(), self.queue.clock.settled(), &options);
        if !has_failed && !is_late {
            return false;
        }
        let message = match self.message().await {
            Ok(message) => message,
            Err(error) => {
                // D6: what nobody could be told of stays, with its replies.
                tracing::error!(target: "oncemail::queue", queue_id = %self.id, %error,
                    "the message cannot be read to tell its sender; what has failed of it is held");
                return false;
            }
        };
        let telling = self.telling(&message, options, now);
        if has_failed {
            telling.failures(progress, told);
        }
        if is_late {
            telling.delay(progress, told);
        }
        has_failed || !told.messages.is_empty()
    }

    /// Tells of deliveries, where the sender wanted to know and nobody further on will say.
    pub(super) async fn tell_success(&self, current: &mut Current, told: &mut Notices) {
        let passed_on = current.found.as_ref().map(|found| found.passed_on.as_slice()).unwrap_or_default();
        if passed_on.is_empty() {
            return;
        }
        let message = match self.message().await {
            Ok(message) => message,
            Err(error) => {
                return tracing::error!(target: "oncemail::queue", queue_id = %self.id, %error,
                    "the message cannot be read to tell its sender of its delivery");
            }
        };
        let telling = self.telling(&message, self.queue.options.load_full(), self.queue.clock.now());
        if let Some(progress) = &current.progress {
            telling.successes(passed_on, progress, told);
        }
    }
}

impl Current {
    /// Saves what has been found out while the attempt goes on, and tells of deliveries.
    pub(super) async fn save_so_far(&mut self, lease: &Lease) -> Option<Settled> {
        let mut told = Notices::default();
        lease.tell_success(self, &mut told).await;
        self.announce(lease, &mut told, &[], false).await;
        let progress = self.with_doubts()?;
        let instead = notices::until_told(&progress, &lease.queue.options());
        self.save_as(progress, instead, lease, told, Vec::new()).await
    }

    /// Saves the end of an attempt, and what the sender is told of it.
    pub(super) async fn save(
        &mut self,
        lease: &Lease,
        mut told: Notices,
        expired: Vec<usize>,
    ) -> Option<Settled> {
        self.announce(lease, &mut told, &expired, true).await;
        let progress = self.with_doubts()?;
        self.save_as(progress, None, lease, told, expired).await
    }

    /// Adds the events of this save. What is only in doubt while it is under way is nobody's business yet, and what has
    /// failed is told of when it is decided what becomes of it: at the end of the attempt.
    async fn announce(&self, lease: &Lease, told: &mut Notices, expired: &[usize], is_end: bool) {
        let (Some(before), Some(progress)) = (&self.known, &self.progress) else { return };
        let is_decided = is_end || lease.queue.options().on_failure == OnFailure::Hold;
        let known = if is_decided { Known::of(progress) } else { Known::undecided(progress) };
        if known == *before {
            return;
        }
        match lease.message().await {
            Ok(message) => {
                let now = lease.queue.clock.now();
                let by_operator = &told.by_operator;
                let (message, announced) = (&*message, &known);
                let change =
                    Change { message, before, after: progress, announced, expired, by_operator, now };
                told.events = lease.queue.events_of(&change);
            }
            Err(error) => tracing::error!(target: "oncemail::events", queue_id = %lease.id, %error,
                "the message cannot be read, and nobody can be told what became of it"),
        }
        told.announced = Some(known);
    }

    fn with_doubts(&self) -> Option<Progress> {
        let mut progress = self.progress.clone()?;
        self.doubts.mark(&mut progress);
        Some(progress)
    }

    async fn save_as(
        &mut self,
        progress: Progress,
        instead: Option<Progress>,
        lease: &Lease,
        told: Notices,
        expired: Vec<usize>,
    ) -> Option<Settled> {
        let stored = instead.as_ref().unwrap_or(&progress);
        // Looked for before the save: a finished message is gone from the store after it.
        let refused = self.refused(lease).await;
        let saved = match lease.is_for_attempts() {
            true => lease.queue.save(lease.id, stored, &told.all()).await,
            false => lease.queue.save_at_once(lease.id, stored, &told.all()).await,
        };
        self.unsaved |= saved.is_err();
        if saved.is_ok() {
            self.found = None;
            lease.queue.register_progress(lease.id, stored);
            told.log(lease.id);
            if told.announced.is_some() {
                self.known = told.announced;
            }
            if let Some(list) = lease.queue.suppressions.get() {
                refused.iter().for_each(|(address, reason)| list.add(address, reason));
            }
        }
        Some(Settled { progress, saved, expired, ended: Vec::new() })
    }

    /// Addresses that do not exist, and what was said of them.
    async fn refused(&self, lease: &Lease) -> Vec<(Address, String)> {
        let Some(found) = self.found.as_ref().filter(|found| !found.refused.is_empty()) else {
            return Vec::new();
        };
        let Ok(message) = lease.message().await else { return Vec::new() };
        let address = |(number, reason): &(usize, String)| {
            let recipient = message.envelope.recipients.get(*number)?;
            Some((recipient.forward_path.clone(), reason.clone()))
        };
        found.refused.iter().filter_map(address).collect()
    }
}

/// Those that failed, and that are over: bounced or discarded.
fn numbers_ended(progress: &Progress) -> Vec<usize> {
    let recipients = progress.recipients.iter().enumerate();
    let is_over = |state| matches!(state, RecipientState::Bounced | RecipientState::Discarded);
    recipients.filter(|(_, r)| is_over(r.state)).map(|(number, _)| number).collect()
}

/// Those of `was_queued` that have expired since.
fn now_expired(was_queued: &[usize], progress: &Progress) -> Vec<usize> {
    let is_expired = |number: &&usize| {
        let recipient = progress.recipients.get(**number);
        recipient.is_some_and(|r| r.state == RecipientState::Held(HoldCause::Expired))
    };
    was_queued.iter().filter(is_expired).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::super::outcome::{End, Outcome};
    use super::super::{Options, Queue};
    use super::*;
    use crate::clock::Clock;
    use crate::mail::{AttemptReply, Body, Envelope, Handling, Origin, QueueId, Recipient, ReversePath};
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    fn message(now: Timestamp) -> Message {
        let recipient = |address: &str| Recipient {
            forward_path: Address::parse(address).unwrap(),
            notify: None,
            orcpt: None,
            unverified: false,
        };
        Message {
            id: QueueId::new(now),
            accepted_at: now,
            envelope: Envelope {
                reverse_path: ReversePath::Null,
                recipients: ["a@x.example", "b@x.example", "c@x.example"].map(recipient).into(),
                body: Body::SevenBit,
                smtputf8: false,
                ret: None,
                envid: None,
                handling: Handling::default(),
            },
            origin: Origin { listener: String::new(), user: None, client: None },
            key: None,
            message_id: String::new(),
            content: bytes::Bytes::from_static(b"\r\n"),
        }
    }

    fn refusal(recipient: usize, end: End, hard_bounce: bool) -> Outcome {
        let reply = AttemptReply {
            at: Timestamp::default(),
            route: String::new(),
            host: String::new(),
            code: 550,
            text: "5.1.1 no such user".into(),
            times: 1,
            tls: String::new(),
        };
        Outcome { recipient, end, in_doubt: false, hard_bounce, dsn_onward: false, reply }
    }

    #[tokio::test]
    async fn only_addresses_that_were_refused_for_good_are_suppressed_and_only_once_that_is_durable() {
        let clock = Clock::system();
        let queue = Queue::new(Options::default(), clock.clone());
        let store = Arc::new(MemoryStore::new(clock.clone(), Some(queue.clone())));
        queue.start(store.clone(), Vec::new());
        store.accept(Arc::new(message(clock.now())), None).await.unwrap();
        let lease = queue.next(1).await.remove(0);
        lease.open().await.unwrap();
        let mut current = lease.progress.lock().await;
        current.apply(&[
            refusal(0, End::Failed, true),
            refusal(1, End::Failed, false),
            refusal(2, End::Deferred, true),
        ]);
        let refused = vec![(Address::parse("a@x.example").unwrap(), "5.1.1 no such user".to_owned())];
        assert_eq!(current.refused(&lease).await, refused);
        store.fail_with(Some(crate::store::StoreError::Closed));
        current.save(&lease, Notices::default(), Vec::new()).await.unwrap().saved.unwrap_err();
        assert_eq!(current.refused(&lease).await, refused);
        store.fail_with(None);
        current.save(&lease, Notices::default(), Vec::new()).await.unwrap().saved.unwrap();
        assert_eq!(current.refused(&lease).await, []);
    }
}
