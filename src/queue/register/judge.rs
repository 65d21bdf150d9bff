//! Whether a message is one of those that are wanted. Pure, but that it asks for routes.
//!
//! It is shown entries while the queue is locked, and asks for routes while it is not: whoever knows them has locks of
//! their own.

use std::collections::HashMap;
use std::collections::hash_map;
use std::hash::RandomState;
use std::sync::Arc;

use super::entry::{Entry, Mailbox, Spelled};
use super::names::{Name, Names};
use super::{Found, Kind, Routes, Standing, Wanted};
use crate::mail::{Address, Envelope, Origin, QueueId, domain};

/// See the module.
pub(super) struct Judge<'a> {
    wanted: &'a Wanted,
    to: Option<Target>,
    to_domain: Option<Domains>,
    from: Option<Target>,
    user: Option<Target>,
    /// Domains that were looked at for a pattern.
    under: HashMap<Name, bool>,
    /// Whether such a recipient takes the wanted route; `None`: to be asked.
    routes: HashMap<Way, Option<bool>>,
    to_ask: Vec<(Way, [Option<Arc<str>>; 4])>,
    /// What was found in this part.
    part: Vec<(QueueId, Standing, Vec<Way>)>,
    page: Page,
}

/// What an address condition means in numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Nobody here has it.
    Nobody,
    /// The null sender.
    Null,
    /// Any address with this domain, or this user.
    Name(Name),
    /// This address.
    Mailbox(Name, u32),
}

enum Domains {
    One(Target),
    Under(String),
}

/// What decides about a recipient's route.
type Way = [Name; 4];

/// What is given back in the end.
struct Page {
    after: Option<QueueId>,
    most: usize,
    found: Found,
    is_last: bool,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        wanted: &'a Wanted,
        names: &Names,
        hashing: &RandomState,
        after: Option<QueueId>,
        most: usize,
    ) -> Self {
        let one_of = |text: &str| names.find(text).map_or(Target::Nobody, Target::Name);
        let mailbox = |text: &str| {
            let Ok(address) = Address::parse(text) else { return Target::Nobody };
            let Spelled { domain, hash } = Spelled::new(&address, hashing);
            match domain.map(|domain| names.find(&domain)) {
                None => Target::Mailbox(Name::NONE, hash),
                Some(None) => Target::Nobody,
                Some(Some(name)) => Target::Mailbox(name, hash),
            }
        };
        let from = |text: &str| match text.strip_prefix('@') {
            Some(domain) => one_of(&domain::canonical(domain)),
            None if text == "<>" => Target::Null,
            None => mailbox(text),
        };
        let to_domain = |text: &str| match text.strip_prefix("*.") {
            Some(suffix) => Domains::Under(domain::canonical(suffix).into_owned()),
            None => Domains::One(one_of(&domain::canonical(text))),
        };
        Self {
            wanted,
            to: wanted.to.as_deref().map(mailbox),
            to_domain: wanted.to_domain.as_deref().map(to_domain),
            from: wanted.from.as_deref().map(from),
            user: wanted.user.as_deref().map(one_of),
            under: HashMap::new(),
            routes: HashMap::new(),
            to_ask: Vec::new(),
            part: Vec::new(),
            page: Page { after, most, found: Found::default(), is_last: true },
        }
    }

    /// Looks at an entry.
    pub(super) fn see(&mut self, entry: &Entry, names: &Names) {
        let id = QueueId::from_bytes(entry.id);
        let wanted = self.wanted;
        let accepted_at = id.accepted_at();
        let stands = wanted.standings.is_empty() || wanted.standings.contains(&entry.standing);
        let is_of_age = wanted.accepted_before.is_none_or(|before| accepted_at < before)
            && wanted.accepted_from.is_none_or(|from| accepted_at >= from);
        if !stands || !is_of_age {
            return;
        }
        let Some(kind) = entry.kind else {
            return match wanted.is_met_unread(entry.is_event()) {
                Some(true) => self.page.add(id, entry.standing),
                Some(false) => {}
                None => self.page.found.unread += 1,
            };
        };
        let is_kind = wanted.kinds.is_empty() || wanted.kinds.contains(&kind);
        if !is_kind || !self.is_from(entry) || !self.is_to(entry, names) {
            return;
        }
        if wanted.route.is_none() {
            return self.page.add(id, entry.standing);
        }
        if let Some(ways) = self.ways(entry, names) {
            self.part.push((id, entry.standing, ways));
        }
    }

    fn is_from(&self, entry: &Entry) -> bool {
        let is_from = self.from.is_none_or(|target| target.is(entry.from));
        is_from && self.user.is_none_or(|target| target == Target::Name(entry.user))
    }

    fn is_to(&mut self, entry: &Entry, names: &Names) -> bool {
        if let Some(target) = self.to
            && !entry.recipients().iter().any(|mailbox| target.is(*mailbox))
        {
            return false;
        }
        match &self.to_domain {
            None => true,
            Some(Domains::One(target)) => entry.recipients().iter().any(|mailbox| target.is(*mailbox)),
            Some(Domains::Under(suffix)) => entry.recipients().iter().any(|mailbox| {
                let name = mailbox.domain();
                let text = || names.text(name).is_some_and(|text| is_under(text, suffix));
                *self.under.entry(name).or_insert_with(text)
            }),
        }
    }

    /// The ways of which one has to lead over the wanted route, as far as that is not known yet; `None` when none does, and
    /// no way at all when one does.
    fn ways(&mut self, entry: &Entry, names: &Names) -> Option<Vec<Way>> {
        let mut unknown = Vec::new();
        for mailbox in entry.recipients().iter().filter(|mailbox| !mailbox.is_over()) {
            let way = [mailbox.domain(), entry.from.domain(), entry.user, entry.listener];
            match self.routes.entry(way) {
                hash_map::Entry::Occupied(known) => match known.get() {
                    Some(true) => return Some(Vec::new()),
                    Some(false) => {}
                    None => unknown.push(way),
                },
                hash_map::Entry::Vacant(new) => {
                    new.insert(None);
                    self.to_ask.push((way, way.map(|name| names.text(name).cloned())));
                    unknown.push(way);
                }
            }
        }
        (!unknown.is_empty()).then_some(unknown)
    }

    /// Asks for the routes that have come up, and takes what has been found by them.
    pub(super) fn ask(&mut self, routes: &dyn Routes) {
        for (way, [to, from, user, listener]) in self.to_ask.drain(..) {
            let listener = listener.as_deref().unwrap_or_default();
            let route = routes.route(to.as_deref(), from.as_deref(), user.as_deref(), listener);
            let is_it = route.is_some_and(|route| Some(&*route) == self.wanted.route.as_deref());
            self.routes.insert(way, Some(is_it));
        }
        for (id, standing, ways) in self.part.drain(..) {
            let is_it = |way: &Way| self.routes.get(way).copied().flatten() == Some(true);
            if ways.is_empty() || ways.iter().any(is_it) {
                self.page.add(id, standing);
            }
        }
    }

    pub(super) fn found(self) -> Found {
        let Page { mut found, is_last, .. } = self.page;
        if !is_last {
            found.next = found.messages.last().map(|(id, _)| *id);
        }
        found
    }
}

impl Page {
    fn add(&mut self, id: QueueId, standing: Standing) {
        self.found.matched += 1;
        if self.after.is_some_and(|after| id >= after) {
            return;
        }
        if self.found.messages.len() < self.most {
            self.found.messages.push((id, standing));
        } else {
            self.is_last = false;
        }
    }
}

impl Target {
    fn is(self, mailbox: Mailbox) -> bool {
        match self {
            Self::Nobody => false,
            Self::Null => mailbox.hash == 0,
            Self::Name(domain) => mailbox.domain() == domain,
            Self::Mailbox(domain, hash) => mailbox.domain() == domain && mailbox.hash == hash,
        }
    }
}

impl Wanted {
    /// Whether a message that nobody has read yet is wanted, as far as its kind and the rest of it are asked for; `None`: it
    /// has to be read to know it. Whether it is an event is known, but not a notice from mail.
    fn is_met_unread(&self, is_event: bool) -> Option<bool> {
        let Self {
            standings: _,
            accepted_before: _,
            accepted_from: _,
            kinds,
            to,
            to_domain,
            from,
            user,
            route,
        } = self;
        let is_kind = |kind| kinds.is_empty() || kinds.contains(&kind);
        let can_be = if is_event { [Kind::Event; 2] } else { [Kind::Mail, Kind::Notice] }.map(is_kind);
        match can_be {
            [false, false] => Some(false),
            [true, true] => {
                let is_more_asked = [to, to_domain, from, user, route].iter().any(|asked| asked.is_some());
                (!is_more_asked).then_some(true)
            }
            _ => None,
        }
    }

    /// Whether what is asked of addresses, of the user and of the kind is really so: the register knows addresses only
    /// by a short number, and what is to be changed must be the right message.
    pub fn is_met_by(&self, envelope: &Envelope, origin: &Origin) -> bool {
        // The key is another one each time, so that no two addresses have the same number in both.
        let (hashing, mut names) = (RandomState::new(), Names::default());
        let facts = super::entry::Facts::new(envelope, origin, None, &hashing);
        let id = QueueId::from_bytes([0; 16]);
        let mut entry = Entry::unread(id, Standing::Queued, 0, 0);
        entry.fill(&facts, &mut names);
        let addressed = Self {
            to: self.to.clone(),
            to_domain: self.to_domain.clone(),
            from: self.from.clone(),
            user: self.user.clone(),
            kinds: self.kinds.clone(),
            ..Self::default()
        };
        let mut judge = Judge::new(&addressed, &names, &hashing, None, 0);
        judge.see(&entry, &names);
        judge.page.found.matched == 1
    }
}

fn is_under(domain: &str, suffix: &str) -> bool {
    let above = domain.strip_suffix(suffix).and_then(|above| above.strip_suffix('.'));
    above.is_some_and(|above| !above.is_empty())
}
