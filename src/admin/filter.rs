//! Which messages somebody means: the API's words as the queue's and the history's.

use std::time::Duration;

use super::model::{Filter, Kind, State};
use super::parameters::Parameters;
use super::refusal::Refusal;
use crate::clock::Timestamp;
use crate::mail::{Address, RecipientState};
use crate::queue::{Standing, Wanted};
use crate::store::history::PastWanted;

/// What a filter has in a query, and what a list has beside it.
pub(super) const LIST: &[&str] =
    &["state", "kind", "to", "to_domain", "from", "user", "route", "older", "newer", "limit", "after"];

/// The words for states.
const STATES: &[(&str, State)] = &[
    ("queued", State::Queued),
    ("active", State::Active),
    ("held", State::Held),
    ("delivered", State::Delivered),
    ("bounced", State::Bounced),
    ("discarded", State::Discarded),
];
/// The words for kinds.
const KINDS: &[(&str, Kind)] = &[("mail", Kind::Mail), ("notice", Kind::Notice), ("event", Kind::Event)];
/// No user or route has a longer name, in bytes.
const MAX_NAME: usize = 255;

/// A filter that was understood.
#[derive(Clone, Debug)]
pub(super) struct Meant {
    /// In the queue; `None`: no message there is meant.
    pub queue: Option<Wanted>,
    /// Among those that are over; `None`: none is meant.
    pub past: Option<PastWanted>,
    /// What they are.
    pub kinds: Vec<Kind>,
}

/// Reads a filter from a query.
///
/// # Errors
/// 400 with the name of what cannot be understood.
pub(super) fn from_query(query: &Parameters) -> Result<Filter, Refusal> {
    let text = |name| query.text(name).map(str::to_owned);
    Ok(Filter {
        state: query.choices("state", STATES)?,
        kind: query.choices("kind", KINDS)?,
        to: text("to"),
        to_domain: text("to_domain"),
        from: text("from"),
        user: text("user"),
        route: text("route"),
        older: text("older"),
        newer: text("newer"),
    })
}

/// A standing in the API's words.
pub(super) fn state(standing: Standing) -> State {
    match standing {
        Standing::Queued => State::Queued,
        Standing::Active => State::Active,
        Standing::Held => State::Held,
    }
}

impl Meant {
    /// What `filter` means at `now`.
    ///
    /// # Errors
    /// 400 with the name of what cannot be understood.
    pub fn new(filter: &Filter, now: Timestamp) -> Result<Self, Refusal> {
        let states = match filter.state.as_slice() {
            [] => &[State::Queued, State::Active, State::Held],
            states => states,
        };
        let kinds = match filter.kind.as_slice() {
            [] => &[Kind::Mail, Kind::Notice],
            kinds => kinds,
        };
        let standings: Vec<_> = states.iter().filter_map(|state| standing(*state)).collect();
        let ends: Vec<_> = states.iter().filter_map(|state| end(*state)).collect();
        let to = filter.to.as_deref().map(|text| address("to", text)).transpose()?;
        let to_domain = filter.to_domain.as_deref().map(to_domain).transpose()?;
        let from = filter.from.as_deref().map(from).transpose()?;
        let (user, route) = (name("user", filter.user.as_ref())?, name("route", filter.route.as_ref())?);
        let ago = |name, text: Option<&String>| {
            text.map(|text| age(name, text).map(|age| before(now, age))).transpose()
        };
        let accepted_before = ago("older", filter.older.as_ref())?;
        let accepted_from = ago("newer", filter.newer.as_ref())?;
        let past = PastWanted {
            states: ends,
            to: to.clone(),
            to_domain: to_domain.clone(),
            from: from.clone(),
            user: user.clone(),
            route: route.clone(),
            accepted_before,
            accepted_from,
        };
        let queue = Wanted {
            standings,
            kinds: kinds.iter().map(|kind| queue_kind(*kind)).collect(),
            to,
            to_domain,
            from,
            user,
            route,
            accepted_before,
            accepted_from,
        };
        Ok(Self {
            queue: (!queue.standings.is_empty()).then_some(queue),
            // Nothing is remembered of events that are over.
            past: (!past.states.is_empty() && kinds != [Kind::Event]).then_some(past),
            kinds: kinds.to_vec(),
        })
    }
}

fn standing(state: State) -> Option<Standing> {
    match state {
        State::Queued => Some(Standing::Queued),
        State::Active => Some(Standing::Active),
        State::Held => Some(Standing::Held),
        State::Delivered | State::Bounced | State::Discarded => None,
    }
}

fn end(state: State) -> Option<RecipientState> {
    match state {
        State::Queued | State::Active | State::Held => None,
        State::Delivered => Some(RecipientState::Delivered),
        State::Bounced => Some(RecipientState::Bounced),
        State::Discarded => Some(RecipientState::Discarded),
    }
}

fn queue_kind(kind: Kind) -> crate::queue::Kind {
    match kind {
        Kind::Mail => crate::queue::Kind::Mail,
        Kind::Notice => crate::queue::Kind::Notice,
        Kind::Event => crate::queue::Kind::Event,
    }
}

/// An address in the form in which addresses are compared.
///
/// # Errors
/// 400 with what is wrong with it.
pub(super) fn address(name: &str, text: &str) -> Result<String, Refusal> {
    let address =
        Address::parse(text).map_err(|error| Refusal::bad(format!("`{name}` is no address: {error}")))?;
    Ok(address.canonical())
}

fn to_domain(text: &str) -> Result<String, Refusal> {
    is_domain(text.strip_prefix("*.").unwrap_or(text))
        .then(|| text.to_lowercase())
        .ok_or_else(|| Refusal::bad("`to_domain` is a domain, or *.example.com for all below it"))
}

fn from(text: &str) -> Result<String, Refusal> {
    let refusal =
        || Refusal::bad("`from` is an address, @example.com for all of a domain, or <> for the null sender");
    match text.strip_prefix('@') {
        _ if text == "<>" => Ok(text.to_owned()),
        Some(domain) => is_domain(domain).then(|| text.to_lowercase()).ok_or_else(refusal),
        None => Address::parse(text).map(|address| address.canonical()).map_err(|_| refusal()),
    }
}

fn is_domain(text: &str) -> bool {
    Address::parse(&format!("x@{text}")).is_ok()
}

fn name(what: &str, text: Option<&String>) -> Result<Option<String>, Refusal> {
    match text {
        Some(text) if text.is_empty() || text.len() > MAX_NAME || text.chars().any(char::is_control) => {
            Err(Refusal::bad(format!("`{what}` is a name of 1 to {MAX_NAME} bytes")))
        }
        text => Ok(text.cloned()),
    }
}

/// One number with one unit, and nothing that needs explaining: no `0` and no `1month`.
fn age(name: &str, text: &str) -> Result<Duration, Refusal> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_plain = unit.len() < text.len() && matches!(unit, "ms" | "s" | "m" | "h" | "d" | "w");
    let age = humantime::parse_duration(text).ok().filter(|_| is_plain);
    age.ok_or_else(|| Refusal::bad(format!("`{name}` is a number with a unit: 90s, 15m, 2h, 3d")))
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp::default().plus(now.since(Timestamp::default()).saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(change: impl FnOnce(&mut Filter)) -> Result<Meant, String> {
        let mut filter = Filter::default();
        change(&mut filter);
        let now = Timestamp::from_millis(1_795_343_400_000);
        Meant::new(&filter, now).map_err(|refusal| refusal.problem().detail.unwrap())
    }

    #[test]
    fn no_condition_means_mail_and_notices_in_the_queue() {
        let meant = meant(|_| {}).unwrap();
        let queue = meant.queue.unwrap();
        assert_eq!(queue.standings, [Standing::Queued, Standing::Active, Standing::Held]);
        assert_eq!(queue.kinds, [crate::queue::Kind::Mail, crate::queue::Kind::Notice]);
        assert!(meant.past.is_none());
    }

    #[test]
    fn states_decide_between_queue_and_history() {
        let over = meant(|filter| filter.state = vec![State::Bounced]).unwrap();
        assert!(
            over.queue.is_none() && over.past.is_some_and(|past| past.states == [RecipientState::Bounced])
        );
        let both = meant(|filter| filter.state = vec![State::Held, State::Delivered]).unwrap();
        assert!(both.queue.is_some() && both.past.is_some());
    }

    #[test]
    fn conditions_are_brought_into_the_form_in_which_they_are_compared() {
        let meant = meant(|filter| {
            filter.to = Some("Anna@EXAMPLE.com".to_owned());
            filter.to_domain = Some("*.Example.COM".to_owned());
            filter.from = Some("@Shop.EXAMPLE".to_owned());
            filter.older = Some("1h".to_owned());
        });
        let queue = meant.unwrap().queue.unwrap();
        assert_eq!(queue.to.as_deref(), Some("Anna@example.com"));
        assert_eq!(queue.to_domain.as_deref(), Some("*.example.com"));
        assert_eq!(queue.from.as_deref(), Some("@shop.example"));
        assert_eq!(queue.accepted_before, Some(Timestamp::from_millis(1_795_339_800_000)));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        let said = |change: fn(&mut Filter)| meant(change).unwrap_err();
        assert!(said(|filter| filter.to = Some("nobody".to_owned())).starts_with("`to` is no address"));
        assert!(
            said(|filter| filter.to_domain = Some("a b".to_owned())).starts_with("`to_domain` is a domain")
        );
        assert!(said(|filter| filter.from = Some("@".to_owned())).starts_with("`from` is an address"));
        assert!(
            said(|filter| filter.older = Some("2".to_owned())).starts_with("`older` is a number with a unit")
        );
        for wrong in ["0", "1h30m", "1 d", "1month", "h", "99999999999999999999999s"] {
            assert!(age("older", wrong).is_err(), "{wrong}");
        }
        assert_eq!(age("older", "2w"), Ok(Duration::from_secs(14 * 86_400)));
        assert!(said(|filter| filter.newer = Some("soon".to_owned())).starts_with("`newer` is a number"));
        assert!(said(|filter| filter.user = Some(String::new())).starts_with("`user` is a name"));
    }
}
