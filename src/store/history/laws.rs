//! Looking through what has ended against a list of it that is looked through from its end.

use proptest::prelude::*;

use super::tests::Bed;
use super::*;
use crate::mail::{Address, RecipientState};

const TO: [&str; 4] = ["u@x.example", "v@sub.x.example", "V@sub.x.example", "w@y.example"];
const FROM: [&str; 3] = ["", "a@x.example", "b@y.example"];
const USERS: [&str; 2] = ["shop", "app"];
const ROUTES: [&str; 2] = ["out", "direct"];

/// A message that has ended.
#[derive(Clone, Debug)]
struct One {
    from: usize,
    user: usize,
    /// Which of [`TO`], how it ended, and over which route.
    to: Vec<(usize, RecipientState, usize)>,
    /// Seconds since the one before it.
    later: u64,
    /// The history is opened anew before it.
    restarts: bool,
}

fn state() -> impl Strategy<Value = RecipientState> {
    prop::sample::select(vec![RecipientState::Delivered, RecipientState::Bounced, RecipientState::Discarded])
}

fn one() -> impl Strategy<Value = One> {
    let to = prop::collection::vec((0..TO.len(), state(), 0..ROUTES.len()), 1..4);
    (0..FROM.len(), 0..USERS.len(), to, 0..3u64, prop::bool::weighted(0.1))
        .prop_map(|(from, user, to, later, restarts)| One { from, user, to, later, restarts })
}

fn wanted() -> impl Strategy<Value = PastWanted> {
    let some = |texts: &[&'static str]| {
        prop::option::of(prop::sample::select(texts.to_vec()).prop_map(str::to_owned))
    };
    let times = (prop::option::of(0..30u64), prop::option::of(0..30u64));
    (
        prop::collection::vec(state(), 0..2),
        some(&["u@X.example", "V@sub.x.example", "nobody@x.example"]),
        some(&["x.example", "*.x.example", "SUB.x.example"]),
        some(&["<>", "a@X.example", "@y.example"]),
        some(&USERS),
        some(&ROUTES),
        times,
    )
        .prop_map(|(states, to, to_domain, from, user, route, (before, after))| PastWanted {
            states,
            to,
            to_domain,
            from,
            user,
            route,
            accepted_before: before.map(at),
            accepted_from: after.map(at),
        })
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(1_795_343_400_000 + secs * 1000)
}

/// The filter once more, in so many words.
fn is_wanted(one: &One, accepted_at: Timestamp, wanted: &PastWanted) -> bool {
    let of_recipient = |(to, state, route): &(usize, RecipientState, usize)| {
        let (local, domain) = TO[*to].split_once('@').unwrap();
        (wanted.states.is_empty() || wanted.states.contains(state))
            && wanted.route.as_deref().is_none_or(|wanted| wanted == ROUTES[*route])
            && wanted.to.as_deref().is_none_or(|to| {
                let (wanted_local, wanted_domain) = to.split_once('@').unwrap();
                local == wanted_local && domain.eq_ignore_ascii_case(wanted_domain)
            })
            && match wanted.to_domain.as_deref() {
                None => true,
                Some("*.x.example") => domain == "sub.x.example",
                Some(exactly) => domain.eq_ignore_ascii_case(exactly),
            }
    };
    wanted.accepted_before.is_none_or(|before| accepted_at < before)
        && wanted.accepted_from.is_none_or(|from| accepted_at >= from)
        && wanted.user.as_deref().is_none_or(|user| user == USERS[one.user])
        && match wanted.from.as_deref() {
            None => true,
            Some("<>") => FROM[one.from].is_empty(),
            Some("@y.example") => FROM[one.from].ends_with("@y.example"),
            Some(_) => FROM[one.from] == "a@x.example",
        }
        && one.to.iter().any(of_recipient)
}

/// Lets it end; gives back its id and when it was accepted.
fn end(bed: &Bed, history: &History, one: &One) -> (QueueId, Timestamp) {
    bed.clock.advance(Duration::from_secs(one.later));
    let to: Vec<_> = one.to.iter().map(|(to, ..)| TO[*to]).collect();
    let mut message = Message::clone(&bed.message(&to));
    message.envelope.reverse_path = match FROM[one.from] {
        "" => ReversePath::Null,
        from => ReversePath::Mailbox(Address::parse(from).unwrap()),
    };
    message.origin.user = Some(USERS[one.user].to_owned());
    let states: Vec<_> = one.to.iter().map(|(_, state, _)| *state).collect();
    let mut progress = bed.progress(&states);
    for (recipient, (.., route)) in progress.recipients.iter_mut().zip(&one.to) {
        recipient.note(bed.reply(ROUTES[*route], "251 another word"));
    }
    history.ended(&Arc::new(message.clone()), &progress);
    (message.id, message.accepted_at)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_search_finds_what_a_look_at_each_would_newest_first_in_pages_of_any_size(
        all in prop::collection::vec(one(), 0..25), wanted in prop::collection::vec(wanted(), 1..4), most in 1..9usize,
    ) {
        let bed = Bed::new();
        let mut history = Some(bed.open());
        let mut model = Vec::new();
        for one in all {
            if one.restarts {
                drop(history.take());
            }
            let (id, accepted_at) = end(&bed, history.get_or_insert_with(|| bed.open()), &one);
            model.push((id, accepted_at, one));
        }
        let history = history.unwrap();
        for wanted in wanted.iter().chain([&PastWanted::default()]) {
            let expected = model.iter().rev().filter(|(_, accepted_at, one)| is_wanted(one, *accepted_at, wanted));
            prop_assert_eq!(Bed::all(&history, wanted, most), expected.map(|(id, ..)| *id).collect::<Vec<_>>());
        }
    }
}
