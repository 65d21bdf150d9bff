//! What the register knows of one message, in 64 bytes. Pure.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

use super::names::{Name, Names};
use super::{Kind, Standing};
use crate::mail::{Address, Envelope, Handling, Origin, Progress, QueueId, RecipientState, domain};

/// The due time of a message that is handed out in the order of arrival.
pub(in crate::queue) const AT_ONCE: u64 = u64::MAX;
/// In [`Mailbox::domain`]: nothing is left to do for this recipient.
const OVER: u32 = 1 << Name::BITS;

/// See the module.
#[derive(Debug)]
pub(in crate::queue) struct Entry {
    pub(super) id: [u8; 16],
    /// When it is due, or was before it was leased, by the queue's own clock.
    pub(in crate::queue) due_ms: u64,
    pub(super) from: Mailbox,
    pub(super) to: Recipients,
    pub(super) user: Name,
    pub(super) listener: Name,
    pub(in crate::queue) standing: Standing,
    /// `None`: nobody has read yet what it is.
    pub(super) kind: Option<Kind>,
    pub(in crate::queue) priority: i8,
    /// An outcome of it could not be saved; this process leaves it alone.
    pub(in crate::queue) is_stranded: bool,
}

/// A mailbox, or the null sender.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Mailbox {
    /// The number of its domain, and in the last bit a mark.
    domain: u32,
    /// Of the whole address; zero for the null sender.
    pub(super) hash: u32,
}

/// Mostly one.
#[derive(Debug)]
pub(super) enum Recipients {
    One(Mailbox),
    Many(Box<[Mailbox]>),
}

/// What is registered of a message, before its names have numbers.
pub(in crate::queue) struct Facts<'a> {
    kind: Kind,
    from: Spelled<'a>,
    to: Vec<(Spelled<'a>, bool)>,
    user: Option<&'a str>,
    listener: &'a str,
}

/// A mailbox as it is compared.
#[derive(Default)]
pub(super) struct Spelled<'a> {
    pub(super) domain: Option<Cow<'a, str>>,
    pub(super) hash: u32,
}

impl<'a> Spelled<'a> {
    pub(super) fn new(address: &'a Address, hashing: &RandomState) -> Self {
        let domain = address.domain().map(domain::canonical);
        let hash = match &domain {
            Some(domain) => hashing.hash_one((address.local_part(), domain)),
            None => hashing.hash_one(address.canonical()),
        };
        // Zero stands for the null sender.
        Self { domain, hash: u32::try_from(hash >> 32).unwrap_or(1).max(1) }
    }
}

impl<'a> Facts<'a> {
    /// Of a message that was read, or that nobody has tried yet.
    pub(in crate::queue) fn new(
        envelope: &'a Envelope,
        origin: &'a Origin,
        progress: Option<&Progress>,
        hashing: &RandomState,
    ) -> Self {
        let is_over = |number: usize| {
            let recipient = progress.and_then(|progress| progress.recipients.get(number));
            recipient.is_some_and(|recipient| is_over(recipient.state))
        };
        let to = envelope.recipients.iter().enumerate();
        let to = to.map(|(n, one)| (Spelled::new(&one.forward_path, hashing), is_over(n))).collect();
        let from = envelope.reverse_path.mailbox().map(|mailbox| Spelled::new(mailbox, hashing));
        Self {
            kind: Kind::of(origin),
            from: from.unwrap_or_default(),
            to,
            user: origin.user.as_deref(),
            listener: &origin.listener,
        }
    }
}

impl Entry {
    /// A message of which only the id is known.
    pub(super) fn unread(id: QueueId, standing: Standing, due_ms: u64, priority: i8) -> Self {
        Self {
            id: id.to_bytes(),
            due_ms,
            from: Mailbox::default(),
            to: Recipients::Many(Box::default()),
            user: Name::NONE,
            listener: Name::NONE,
            standing,
            kind: None,
            priority,
            is_stranded: false,
        }
    }

    /// Writes down what is known of it now.
    pub(super) fn fill(&mut self, facts: &Facts<'_>, names: &mut Names) {
        self.kind = Some(facts.kind);
        self.from = Mailbox::new(&facts.from, names);
        let mut to = facts.to.iter().map(|(one, is_over)| {
            let mut mailbox = Mailbox::new(one, names);
            mailbox.mark(*is_over);
            mailbox
        });
        self.to = match (to.next(), facts.to.len()) {
            (Some(one), 1) => Recipients::One(one),
            (first, _) => Recipients::Many(first.into_iter().chain(to).collect()),
        };
        self.user = names.take(facts.user);
        self.listener = names.take(Some(facts.listener).filter(|name| !name.is_empty()));
    }

    /// Lets go of its names.
    pub(super) fn clear(&self, names: &mut Names) {
        names.give_back(self.from.domain());
        self.recipients().iter().for_each(|mailbox| names.give_back(mailbox.domain()));
        names.give_back(self.user);
        names.give_back(self.listener);
    }

    pub(super) fn recipients(&self) -> &[Mailbox] {
        match &self.to {
            Recipients::One(one) => std::slice::from_ref(one),
            Recipients::Many(all) => all,
        }
    }

    /// Notes for whom nothing is left to do.
    pub(super) fn note(&mut self, progress: &Progress) {
        let mailboxes = match &mut self.to {
            Recipients::One(one) => std::slice::from_mut(one),
            Recipients::Many(all) => &mut **all,
        };
        for (mailbox, recipient) in mailboxes.iter_mut().zip(&progress.recipients) {
            mailbox.mark(is_over(recipient.state));
        }
    }

    /// Known also of what is unread: no mail has the priority of events.
    pub(super) fn is_event(&self) -> bool {
        match self.kind {
            Some(kind) => kind == Kind::Event,
            None => self.priority == Handling::EVENT_PRIORITY,
        }
    }

    /// Whether the queue is as old as this message, at least.
    pub(super) fn counts_for_age(&self) -> bool {
        self.standing != Standing::Held && !self.is_event()
    }
}

impl Mailbox {
    fn new(spelled: &Spelled<'_>, names: &mut Names) -> Self {
        Self { domain: names.take(spelled.domain.as_deref()).bits(), hash: spelled.hash }
    }

    pub(super) fn domain(self) -> Name {
        Name::from_bits(self.domain & !OVER)
    }

    pub(super) fn is_over(self) -> bool {
        self.domain & OVER != 0
    }

    fn mark(&mut self, is_over: bool) {
        self.domain = if is_over { self.domain | OVER } else { self.domain & !OVER };
    }
}

impl Kind {
    /// What came in this way.
    pub fn of(origin: &Origin) -> Self {
        match origin {
            origin if origin.is_event() => Self::Event,
            origin if origin.listener.is_empty() => Self::Notice,
            _ => Self::Mail,
        }
    }
}

fn is_over(state: RecipientState) -> bool {
    !matches!(state, RecipientState::Queued | RecipientState::Held(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_an_entry_takes_64_bytes() {
        assert_eq!(size_of::<Entry>(), 64);
    }
}
