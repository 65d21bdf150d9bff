//! The reckoning: what both sides have seen, held against what the relay says is left. Pure: nothing here waits.
//!
//! Every recipient of every message that was acknowledged must be in exactly one state. Every copy too many must have an
//! excuse that the relay cannot be blamed for: between its final dot and its durable outcome the far side broke off, or
//! the process was killed. A log line that calls the recipient delivered ends that window.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::api::Waiting;
use crate::book::{Copy, Pages, Reply};
use crate::message::Route;
use crate::operator::Hold;

/// Between the far side's reply and the kill, the time for which the process stood still not counted: an outcome that
/// is not durable by then is late beyond all reason.
const MOST_IN_DOUBT: Duration = Duration::from_secs(10);

/// What became of the recipients of all acknowledged messages, and what else was found.
#[derive(Default)]
pub struct Account {
    pub messages: u64,
    pub recipients: u64,
    pub delivered: u64,
    pub queued: u64,
    pub held: u64,
    pub bounced: u64,
    /// Copies beyond the first of a recipient of one queue id, by route.
    pub duplicates: BTreeMap<Route, Duplicates>,
    /// Held, and never seen by the far side; held, and taken.
    pub held_unsent: u64,
    pub held_taken: u64,
    pub keys: u64,
    /// Messages without a key that are there more than once, because their reply was lost.
    pub unkeyed_again: u64,
    pub reports: u64,
    /// Of outcomes, in the file; lines that are there again, and lines that a kill has cut off.
    pub events: u64,
    pub events_again: u64,
    pub events_torn: u64,
    /// The longest time between a reply and the kill that excused its copy.
    pub longest_doubt: Duration,
}

/// Copies too many, by excuse.
#[derive(Default, Clone, Copy)]
pub struct Duplicates {
    pub after_kill: u64,
    pub after_cut: u64,
    pub unexplained: u64,
}

/// What an operator does about a held message.
pub struct Order {
    pub id: String,
    pub action: &'static str,
    pub recipients: Vec<String>,
}

/// Recipients by queue id and address.
type Seen<'a> = HashMap<(&'a str, &'a str), Vec<&'a Copy>>;

/// Reckons up one round. Faults go into the book; gives back the account, and what is to be done about held messages:
/// what was taken is discarded, what was never sent is released.
pub fn reckon(pages: &mut Pages, waiting: &[Waiting]) -> (Account, Vec<Order>) {
    let mut account = Account::default();
    let mut faults = Vec::new();
    let orders;
    {
        let mut seen: Seen = HashMap::new();
        for copy in &pages.copies {
            for recipient in &copy.recipients {
                seen.entry((&copy.id, recipient)).or_default().push(copy);
            }
        }
        let pages: &Pages = pages;
        account.events = pages.events.told.values().map(|ids| ids.len() as u64).sum();
        account.events_again = pages.events.again;
        account.events_torn = pages.events.torn;
        let mut round = Round { pages, seen: &seen, account: &mut account, faults: &mut faults };
        round.ids();
        round.copies();
        round.holds();
        let reported = round.reports();
        round.recipients(waiting, &reported);
        orders = round.held(waiting);
    }
    for fault in faults {
        pages.fault(fault);
    }
    (account, orders)
}

struct Round<'a> {
    pages: &'a Pages,
    seen: &'a Seen<'a>,
    account: &'a mut Account,
    faults: &'a mut Vec<String>,
}

impl<'a> Round<'a> {
    /// I1, I2: one id for each key, at most one "queued", and no other id at a far side.
    fn ids(&mut self) {
        let mut arrived: HashMap<&str, HashSet<&str>> = HashMap::new();
        for copy in &self.pages.copies {
            let Some(uid) = &copy.uid else { continue };
            arrived.entry(uid).or_default().insert(&copy.id);
            match self.pages.submissions.get(uid) {
                None => {
                    self.faults.push(format!("{uid} came again after it was accounted for, as {}", copy.id))
                }
                Some(submission) if submission.draft.is_keyed && submission.variant != copy.variant => {
                    self.faults.push(format!(
                        "{uid}: {:?} was acknowledged, {:?} arrived",
                        submission.variant, copy.variant
                    ));
                }
                Some(_) => {}
            }
        }
        for (uid, submission) in &self.pages.submissions {
            let at_far_sides = arrived.get(uid.as_str()).cloned().unwrap_or_default();
            let others = at_far_sides.iter().filter(|id| !submission.ids.contains(**id)).count();
            if submission.ids.len() != 1 {
                self.faults.push(format!("{uid} has the ids {:?}", submission.ids));
            }
            if submission.draft.is_keyed {
                self.account.keys += 1;
                if submission.fresh > 1 || others > 0 {
                    let (fresh, ids) = (submission.fresh, &submission.ids);
                    self.faults.push(format!(
                        "{uid}: queued {fresh} times, told {ids:?}, arrived as {at_far_sides:?}"
                    ));
                }
            } else {
                self.account.unkeyed_again += others as u64;
                if others > submission.unanswered as usize || submission.replays > 0 {
                    let lost = submission.unanswered;
                    self.faults.push(format!(
                        "{uid}, without a key: {lost} unanswered, arrived as {at_far_sides:?}"
                    ));
                }
            }
        }
    }

    /// R1: every copy but the last needs an excuse.
    fn copies(&mut self) {
        for ((id, recipient), copies) in self.seen {
            let durable = self.pages.delivered.get(&((*id).to_owned(), (*recipient).to_owned()));
            // A far side may read what a killed process has sent after it has heard of the next one.
            let mut copies = copies.clone();
            copies.sort_by_key(|copy| copy.process);
            for (copy, next) in copies.iter().zip(copies.iter().skip(1)) {
                let counts = self.account.duplicates.entry(copy.route).or_default();
                match excuse(self.pages, copy, next, durable.copied()) {
                    Ok(Excuse::Kill(doubt)) => {
                        counts.after_kill += 1;
                        self.account.longest_doubt = self.account.longest_doubt.max(doubt);
                    }
                    Ok(Excuse::Cut) => counts.after_cut += 1,
                    Err(why) => {
                        counts.unexplained += 1;
                        self.faults.push(format!("{id} to {recipient} was sent again: {why}"));
                    }
                }
                if copy.route == Route::Hold {
                    self.faults.push(format!("{id} to {recipient} was sent twice on the hold route (R1)"));
                }
            }
        }
    }

    /// D6: what an operator has held is not sent.
    fn holds(&mut self) {
        let mut holds: HashMap<&str, Vec<&Hold>> = HashMap::new();
        for hold in &self.pages.holds {
            holds.entry(&hold.id).or_default().push(hold);
        }
        for copy in &self.pages.copies {
            for hold in holds.get(copy.id.as_str()).into_iter().flatten() {
                let is_within = copy.at > hold.from && hold.until.is_none_or(|until| copy.at < until);
                if is_within && copy.process >= hold.process {
                    let (id, process) = (&copy.id, copy.process);
                    self.faults
                        .push(format!("{id} was sent by start {process} while an operator had it held (D6)"));
                }
            }
        }
    }

    /// D2: who was told of which failure; nobody twice.
    fn reports(&mut self) -> HashSet<(&'a str, &'a str)> {
        let mut told: HashMap<(&str, &str), HashSet<&str>> = HashMap::new();
        for copy in &self.pages.copies {
            let Some((original, failed)) = &copy.report else { continue };
            for recipient in failed {
                told.entry((original, recipient)).or_default().insert(&copy.id);
            }
        }
        let different: HashSet<_> = told.values().flatten().collect();
        self.account.reports = different.len() as u64;
        for ((id, recipient), reports) in &told {
            if reports.len() > 1 {
                self.faults.push(format!("{id} to {recipient}: its sender was told by {reports:?} (D2)"));
            }
        }
        told.into_keys().collect()
    }

    /// D1, D6: each recipient of what was acknowledged is in exactly one state.
    fn recipients(&mut self, waiting: &[Waiting], reported: &HashSet<(&str, &str)>) {
        let waiting: HashMap<_, _> = waiting
            .iter()
            .map(|waiting| ((waiting.id.as_str(), waiting.address.as_str()), waiting))
            .collect();
        for submission in self.pages.submissions.values() {
            self.account.messages += submission.ids.len() as u64;
            let of_all =
                submission.ids.iter().flat_map(|id| submission.draft.recipients.iter().map(move |r| (id, r)));
            for (id, recipient) in of_all {
                let who = (id.as_str(), recipient.address.as_str());
                let (left, copies) = (waiting.get(&who), self.seen.get(&who).map_or(0, Vec::len));
                let is_reported = reported.contains(&who);
                let is_doomed = submission.draft.is_doomed(recipient);
                self.account.recipients += 1;
                let mut end = None;
                let wrong = match (left, copies > 0, is_reported) {
                    (Some(left), _, false) if left.state == "held" => {
                        self.account.held += 1;
                        *(if copies > 0 {
                            &mut self.account.held_taken
                        } else {
                            &mut self.account.held_unsent
                        }) += 1;
                        recipient.route != Route::Hold || left.cause != "in_doubt"
                    }
                    (Some(_), _, false) => {
                        self.account.queued += 1;
                        false
                    }
                    (None, true, false) => {
                        self.account.delivered += 1;
                        end = Some("delivered");
                        is_doomed
                    }
                    (None, false, true) => {
                        self.account.bounced += 1;
                        end = Some("bounced");
                        !is_doomed
                    }
                    _ => true,
                };
                self.faults.extend(self.pages.events.wrong(who.0, who.1, end));
                let is_said = self.pages.delivered.contains_key(&(id.clone(), recipient.address.clone()));
                if wrong || (is_said && copies == 0) {
                    let state = left.map(|left| (&left.state, &left.cause));
                    self.faults.push(format!(
                        "{who:?}: acknowledged, in the queue {state:?}, copies {copies}, called delivered {is_said}, \
                         reported {is_reported}, doomed {is_doomed} (D1, D6)"
                    ));
                }
            }
        }
    }

    /// What an operator would do who has asked the far side. Nothing that is held may be unknown, or have a key of which
    /// somebody was told another id.
    fn held(&mut self, waiting: &[Waiting]) -> Vec<Order> {
        let mut taken: BTreeMap<&str, bool> = BTreeMap::new();
        for waiting in waiting.iter().filter(|waiting| waiting.state == "held") {
            let is_taken = self.seen.contains_key(&(waiting.id.as_str(), waiting.address.as_str()));
            *taken.entry(&waiting.id).or_default() |= is_taken;
            let uid = waiting.address.split('.').next().unwrap_or_default();
            match self.pages.submissions.get(uid) {
                Some(known) if known.ids.contains(&waiting.id) => {}
                Some(known) if !known.draft.is_keyed => {}
                _ => self.faults.push(format!("{} to {} is held, and nobody's", waiting.id, waiting.address)),
            }
        }
        let order = |(id, is_taken): (&str, bool)| Order {
            id: id.to_owned(),
            action: if is_taken { "discard" } else { "release" },
            recipients: waiting.iter().filter(|w| w.id == id).map(|w| w.address.clone()).collect(),
        };
        taken.into_iter().map(order).collect()
    }
}

/// After the orders were carried out: what was released has arrived once, unless the far side refuses it, and nothing is
/// left.
pub fn check_orders(pages: &mut Pages, orders: &[Order], left: &[Waiting]) {
    let mut copies: HashMap<(&str, &str), usize> = HashMap::new();
    for copy in &pages.copies {
        for recipient in &copy.recipients {
            *copies.entry((&copy.id, recipient)).or_default() += 1;
        }
    }
    let mut faults = Vec::new();
    for order in orders.iter().filter(|order| order.action == "release") {
        for recipient in &order.recipients {
            let copies = copies.get(&(order.id.as_str(), recipient.as_str())).copied().unwrap_or_default();
            let uid = recipient.split('.').next().unwrap_or_default();
            let known = pages.submissions.get(uid).map(|submission| &submission.draft);
            let is_doomed = known.is_some_and(|draft| {
                draft.recipients.iter().any(|one| one.address == *recipient && draft.is_doomed(one))
            });
            if copies != usize::from(!is_doomed) {
                faults.push(format!("{} to {recipient} was released, and arrived {copies} times", order.id));
            }
        }
    }
    let left = left
        .iter()
        .map(|left| format!("{} to {} is still {} after its order", left.id, left.address, left.state));
    faults.extend(left);
    for fault in faults {
        pages.fault(fault);
    }
}

/// Why the relay could not know that a copy was taken.
enum Excuse {
    /// It was killed, so long after the reply.
    Kill(Duration),
    /// The far side broke off instead of replying.
    Cut,
}

fn excuse(pages: &Pages, copy: &Copy, next: &Copy, durable: Option<u64>) -> Result<Excuse, String> {
    let process = copy.process;
    if let Some(durable) = durable.filter(|durable| *durable < next.process) {
        return Err(format!("start {durable} had called it delivered, start {} sent it", next.process));
    }
    if copy.reply == Reply::Withheld {
        return Ok(Excuse::Cut);
    }
    if next.process == process {
        return Err(format!("start {process} sent it twice, the reply was {:?}", copy.reply));
    }
    match (copy.reply, pages.ends.get(&process)) {
        (Reply::Written(at), Some(end)) if end.is_killed => {
            let doubt = end.at.saturating_duration_since(at).saturating_sub(end.stopped);
            if doubt > MOST_IN_DOUBT {
                return Err(format!("start {process} was killed {doubt:?} after the reply"));
            }
            Ok(Excuse::Kill(doubt))
        }
        (_, Some(end)) if end.is_killed => Ok(Excuse::Kill(Duration::ZERO)),
        (reply, end) => Err(format!("start {process} was not killed ({end:?}), the reply was {reply:?}")),
    }
}
