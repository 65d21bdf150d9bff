//! The hosts of one attempt: who is asked in which order, and what each has said. Pure but for its dice.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::classify::is_crowded;
use super::concurrency::Load;
use super::opening::Trouble;
use super::options::Host;
use super::security::Candidate;
use super::smarthost::Attempt;
use super::transaction::{Answer, By};
use crate::queue::End;

/// A host that loses this many connections in one attempt is not asked again in it.
const LOSSES_PER_HOST: u32 = 3;

/// What one attempt knows of its hosts.
#[derive(Default)]
pub(super) struct Tally {
    /// Whom to ask, best first; `None` until somebody has to be asked who is not connected.
    pub(super) plan: Option<Vec<Candidate>>,
    losses: Vec<(Host, u32)>,
    /// When the first host was asked.
    began: Option<Instant>,
    deferred: Option<(Host, Trouble)>,
    failed: Option<(By, Vec<Answer>)>,
}

impl Tally {
    /// The candidates that may be asked, the ones with the fewest losses first, then in their order.
    pub(super) fn order(&self) -> Vec<Candidate> {
        let planned = self.plan.as_deref().unwrap_or_default();
        let mut order: Vec<_> = planned.iter().filter(|candidate| !self.is_out(&candidate.host)).collect();
        order.sort_by_key(|candidate| self.losses_of(&candidate.host));
        order.into_iter().cloned().collect()
    }

    /// Whether another host may be asked: an attempt must not go on for hours because each of many hosts says nothing.
    pub(super) fn is_in_time(&mut self, now: Instant, limit: Duration) -> bool {
        now.saturating_duration_since(*self.began.get_or_insert(now)) < limit
    }

    /// Whether a host has had its chances.
    pub(super) fn is_out(&self, host: &Host) -> bool {
        self.losses_of(host) >= LOSSES_PER_HOST
    }

    /// The connection died before anything was decided.
    pub(super) fn lost(&mut self, host: &Host, trouble: Trouble) {
        self.add(host, 1);
        self.deferred = Some((host.clone(), trouble));
    }

    /// The host will not do now.
    pub(super) fn exhausted(&mut self, host: &Host, trouble: Trouble) {
        self.add(host, LOSSES_PER_HOST);
        self.deferred = Some((host.clone(), trouble));
    }

    /// The host will never do for this message.
    pub(super) fn unfit(&mut self, by: By, host: &Host, answers: Vec<Answer>) {
        self.add(host, LOSSES_PER_HOST);
        self.failed = Some((by, answers));
    }

    /// The end, when nobody is left: `reopens` says when a host may be asked that is left alone now.
    pub(super) fn conclude(self, reopens: Option<Instant>, recipients: usize) -> Attempt {
        if let Some((host, trouble)) = self.deferred {
            if is_crowded(trouble.code, &trouble.text) {
                tracing::info!(target: "oncemail::relay", %host, reply = %trouble.text,
                    "the far side has too many of our connections");
                return Attempt::Crowded;
            }
            let answer = Answer { code: trouble.code, ..Answer::local(End::Deferred, trouble.text) };
            let answers = vec![answer; recipients];
            return Attempt::Answered { by: By::name(host.to_string()), answers, load: Load::Less };
        }
        match (self.failed, reopens) {
            (Some((by, answers)), None) => Attempt::Answered { by, answers, load: Load::Same },
            // The one that is left alone may take it.
            (Some((by, answers)), Some(_)) => {
                let later = |answer| Answer { end: End::Deferred, hard_bounce: false, ..answer };
                let answers = answers.into_iter().map(later).collect();
                Attempt::Answered { by, answers, load: Load::Same }
            }
            (None, Some(until)) => {
                let hosts = self.plan.into_iter().flatten().map(|candidate| candidate.host).collect();
                Attempt::Blocked { until, hosts }
            }
            (None, None) => {
                let answer = Answer::local(End::Deferred, "4.4.4 there is no host to ask");
                Attempt::Answered { by: By::default(), answers: vec![answer; recipients], load: Load::Same }
            }
        }
    }

    fn losses_of(&self, host: &Host) -> u32 {
        self.losses.iter().find(|(known, _)| known == host).map_or(0, |(_, losses)| *losses)
    }

    fn add(&mut self, host: &Host, losses: u32) {
        match self.losses.iter_mut().find(|(known, _)| known == host) {
            Some((_, known)) => *known = known.saturating_add(losses),
            None => self.losses.push((host.clone(), losses)),
        }
    }
}

/// The configured hosts of a route: in their order, or, where they have weights, in a random one in which each stands first
/// as often as its weight says (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
pub(super) fn configured(hosts: &[Host], weights: &[u32], dice: &mut impl Rng) -> Vec<Candidate> {
    let candidate = |host: &Host| Candidate { host: host.clone(), secure: true };
    if weights.is_empty() {
        return hosts.iter().map(candidate).collect();
    }
    let weights = weights.iter().copied().chain(std::iter::repeat(1));
    let mut drawn: Vec<_> = hosts
        .iter()
        .zip(weights)
        .map(|(host, weight)| {
            // Never 0, whose logarithm is no number.
            let random = 1.0 - dice.random::<f64>();
            (-random.ln() / f64::from(weight.max(1)), host)
        })
        .collect();
    drawn.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    drawn.into_iter().map(|(_, host)| candidate(host)).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn hosts(count: u16) -> Vec<Host> {
        (0..count).map(|port| Host { name: "h".to_owned(), port }).collect()
    }

    fn ports(candidates: &[Candidate]) -> Vec<u16> {
        candidates.iter().map(|candidate| candidate.host.port).collect()
    }

    #[test]
    fn hosts_without_weights_keep_their_order() {
        let mut dice = StdRng::seed_from_u64(1);
        assert_eq!(ports(&configured(&hosts(4), &[], &mut dice)), [0, 1, 2, 3]);
    }

    #[test]
    fn weights_say_how_often_each_host_comes_first_and_none_comes_twice() {
        let mut dice = StdRng::seed_from_u64(7);
        let mut first = [0_u32; 3];
        for _ in 0..10_000 {
            let order = ports(&configured(&hosts(3), &[1, 2, 7], &mut dice));
            first[usize::from(order[0])] += 1;
            let mut sorted = order;
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2]);
        }
        for (share, weight) in first.iter().zip([1_000, 2_000, 7_000]) {
            assert!(share.abs_diff(weight) < 200, "{first:?}");
        }
    }

    #[test]
    fn a_host_that_loses_a_connection_comes_last_and_after_three_not_at_all() {
        let hosts = hosts(2);
        let mut tally =
            Tally { plan: Some(configured(&hosts, &[], &mut StdRng::seed_from_u64(1))), ..Tally::default() };
        let lost = || Trouble::local("closed");
        tally.lost(&hosts[0], lost());
        assert_eq!(ports(&tally.order()), [1, 0]);
        tally.exhausted(&hosts[1], lost());
        assert_eq!(ports(&tally.order()), [0]);
        (0..2).for_each(|_| tally.lost(&hosts[0], lost()));
        assert!(tally.order().is_empty());
    }

    #[tokio::test]
    async fn a_message_fails_only_when_every_host_says_so() {
        let hosts = hosts(2);
        let unfit = |tally: &mut Tally| {
            let answers = vec![Answer::local(End::Failed, "5.6.3 8-bit")];
            tally.unfit(By::name("h:0".to_owned()), &hosts[0], answers);
        };
        let end = |attempt| match attempt {
            Attempt::Answered { answers, .. } => answers[0].end,
            _ => panic!("not answered"),
        };
        let mut all = Tally::default();
        unfit(&mut all);
        assert_eq!(end(all.conclude(None, 1)), End::Failed);
        let mut one_is_away = Tally::default();
        unfit(&mut one_is_away);
        assert_eq!(end(one_is_away.conclude(Some(Instant::now()), 1)), End::Deferred);
        let mut one_is_down = Tally::default();
        unfit(&mut one_is_down);
        one_is_down.exhausted(&hosts[1], Trouble::local("refused"));
        assert_eq!(end(one_is_down.conclude(None, 1)), End::Deferred);
        assert!(matches!(Tally::default().conclude(Some(Instant::now()), 1), Attempt::Blocked { .. }));
    }
}
