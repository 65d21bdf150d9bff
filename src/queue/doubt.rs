//! R1, for routes that rather hold a message than send it twice: what may be at the next hop is journalled before the
//! final dot is written, so that even a crash leaves it held.
//!
//! The store has such a recipient as held from then on. This process knows better until it ends: its own progress still
//! says *queued*, the outcome of the attempt is written into that, and whatever another leg of the message saves
//! meanwhile has the recipient as held ([`Doubts::mark`]). So an outcome leaves no trace of the doubt before it, a save
//! that failed changes nothing here, and only a recipient of this very attempt ever comes back from *in doubt*.

use std::collections::BTreeMap;

use super::lease::Lease;
use super::notices;
use crate::clock::Timestamp;
use crate::mail::{AttemptReply, HoldCause, Progress, RecipientState};
use crate::store::StoreError;

/// How the text of a reply starts that stands for one that never came; its code is 0.
pub const IN_DOUBT: &str = "in doubt: ";

/// Recipients that the store has as held in doubt, and whose attempt is still under way here: what was journalled.
#[derive(Default)]
pub(super) struct Doubts(BTreeMap<usize, AttemptReply>);

impl Doubts {
    /// The outcome of this recipient is known.
    pub(super) fn resolve(&mut self, recipient: usize) {
        self.0.remove(&recipient);
    }

    /// Writes the doubt into a progress that is about to be saved, or that is all that is left of the attempt.
    pub(super) fn mark(&self, progress: &mut Progress) {
        for (number, reply) in &self.0 {
            let recipient = progress.recipients.get_mut(*number);
            if let Some(recipient) = recipient.filter(|recipient| recipient.state == RecipientState::Queued) {
                recipient.attempts = recipient.attempts.saturating_add(1);
                recipient.note(reply.clone());
                recipient.state = RecipientState::Held(HoldCause::InDoubt);
            }
        }
    }

    /// By number.
    pub(super) fn recipients(&self) -> impl Iterator<Item = usize> {
        self.0.keys().copied()
    }

    /// Whether nobody but these is queued in `progress`, and somebody is.
    pub(super) fn are_all_of(&self, progress: &Progress) -> bool {
        let mut queued =
            progress.recipients.iter().enumerate().filter(|(_, r)| r.state == RecipientState::Queued);
        !self.0.is_empty() && queued.all(|(number, _)| self.0.contains_key(&number))
    }
}

impl Lease {
    /// The time, for what is said about an attempt.
    pub fn now(&self) -> Timestamp {
        self.queue.clock.now()
    }

    /// Makes it durable that the message is about to be sent to these recipients: after a crash they are held, with
    /// `reply`, and never offered again. An outcome of the same attempt takes its place.
    ///
    /// Unlike an outcome it does not wait for room on a full disk: nothing has happened that must not be forgotten.
    ///
    /// # Errors
    /// The final dot must not be written: it is not durable. Everything is as it was.
    ///
    /// # Cancel safety
    /// Must not be dropped: the store may have the recipients as held, while nothing was sent.
    pub async fn doubt(&self, recipients: &[usize], reply: AttemptReply) -> Result<(), StoreError> {
        let mut current = self.progress.lock().await;
        if current.progress.is_none() {
            drop(current);
            self.open().await.map_err(|error| StoreError::Read(error.to_string()))?;
            current = self.progress.lock().await;
        }
        let Some(progress) = &current.progress else {
            return Err(StoreError::Read("the message's progress is not known".to_owned()));
        };
        let store = self.queue.store().ok_or(StoreError::Closed)?;
        let new = || recipients.iter().map(|number| (*number, reply.clone()));
        let mut progress = progress.clone();
        Doubts(current.doubts.0.clone().into_iter().chain(new()).collect()).mark(&mut progress);
        let progress = notices::until_told(&progress, &self.queue.options()).unwrap_or(progress);
        // Under the lock: of two saves the later one must be the newer one.
        store.save(self.id, progress).await?;
        current.doubts.0.extend(new());
        // The progress here must not be read again from the store, which now has them as held.
        current.tried = true;
        Ok(())
    }

    /// The far side has said that it has not taken the message for these recipients: they are not in doubt any more, even
    /// if nobody ever tells of an outcome. What it has taken stays in doubt until its outcome is saved.
    pub async fn not_taken(&self, recipients: &[usize]) {
        let mut current = self.progress.lock().await;
        recipients.iter().for_each(|number| current.doubts.resolve(*number));
    }
}
