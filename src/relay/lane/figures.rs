//! What a destination has shown of itself, for whoever looks. Bounded: a few words for each lane (S2).

use std::time::Duration;

use tokio::time::Instant;

use crate::queue::{End, Outcome};
use crate::relay::options::Host;

/// Over which the rate is taken.
const MINUTE: Duration = Duration::from_secs(60);
/// Hosts that are remembered for a lane.
const MOST_HOSTS: usize = 4;
/// Longer words of a far side are cut, octets.
const LONGEST_TROUBLE: usize = 300;

/// See the module.
#[derive(Default)]
pub(in crate::relay) struct Figures {
    pub(in crate::relay) delivered: u64,
    pub(in crate::relay) deferred: u64,
    pub(in crate::relay) failed: u64,
    pub(in crate::relay) last_trouble: Option<Box<str>>,
    /// Those that were asked last, as they are written in a reply.
    pub(in crate::relay) hosts: Vec<Box<str>>,
    pace: Pace,
}

/// Deliveries of this minute and the one before it.
#[derive(Default)]
struct Pace {
    began: Option<Instant>,
    before: u32,
    now: u32,
}

impl Figures {
    pub(super) fn note(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome.end {
                End::Delivered => self.delivered += 1,
                End::Deferred => self.deferred += 1,
                End::Failed => self.failed += 1,
                End::InDoubt => {}
            }
            if outcome.end == End::Delivered {
                self.pace.count(Instant::now());
            }
        }
        // Of a long list the last says as much as all.
        if let Some(outcome) = outcomes.last().filter(|outcome| !outcome.reply.host.is_empty()) {
            self.asked(&outcome.reply.host);
        }
        if let Some(trouble) = outcomes.iter().rev().find(|outcome| outcome.end != End::Delivered) {
            let reply = &trouble.reply;
            let mut text = match reply.code {
                0 => reply.text.clone(),
                code => format!("{code} {}", reply.text),
            };
            text.truncate(text.floor_char_boundary(LONGEST_TROUBLE));
            self.last_trouble = Some(text.into());
        }
    }

    /// Recipients a minute, over the last minute or so.
    pub(in crate::relay) fn rate_per_minute(&self) -> f64 {
        self.pace.rate(Instant::now())
    }

    /// An attempt has found all of these left alone.
    pub(super) fn would_ask(&mut self, hosts: &[Host]) {
        hosts.iter().take(MOST_HOSTS).for_each(|host| self.asked(&host.to_string()));
    }

    fn asked(&mut self, host: &str) {
        if self.hosts.iter().any(|known| &**known == host) {
            return;
        }
        if self.hosts.len() >= MOST_HOSTS {
            self.hosts.remove(0);
        }
        self.hosts.push(host.into());
    }
}

impl Pace {
    fn count(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let since = now.saturating_duration_since(began);
        if since >= MINUTE {
            self.before = if since < 2 * MINUTE { self.now } else { 0 };
            self.now = 0;
            // The minutes go on from where they began, so that a pause shows.
            let minutes = u32::try_from(since.as_secs() / MINUTE.as_secs()).unwrap_or(u32::MAX);
            self.began = began.checked_add(MINUTE.saturating_mul(minutes)).or(Some(now));
        }
        self.now = self.now.saturating_add(1);
    }

    fn rate(&self, now: Instant) -> f64 {
        let Some(began) = self.began else { return 0.0 };
        let since = now.saturating_duration_since(began);
        let part = since.as_secs_f64() / MINUTE.as_secs_f64();
        match part {
            part if part < 1.0 => f64::from(self.before) * (1.0 - part) + f64::from(self.now),
            part if part < 2.0 => f64::from(self.now) * (2.0 - part),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_fades_when_nothing_comes_any_more() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        assert!(pace.rate(begin).abs() < f64::EPSILON);
        (0..60).for_each(|second| pace.count(at(second)));
        assert!((pace.rate(at(59)) - 60.0).abs() < 0.1);
        (60..90).for_each(|second| pace.count(at(second)));
        assert!((pace.rate(at(90)) - 60.0).abs() < 1.0, "{}", pace.rate(at(90)));
        assert!((pace.rate(at(150)) - 15.0).abs() < 0.1, "{}", pace.rate(at(150)));
        assert!(pace.rate(at(200)).abs() < f64::EPSILON);
    }

    #[test]
    fn s2_few_hosts_are_remembered_the_latest() {
        let mut figures = Figures::default();
        (0..100).for_each(|n| figures.asked(&format!("h{n}:25")));
        figures.asked("h99:25");
        assert_eq!(
            figures.hosts.iter().map(|host| &**host).collect::<Vec<_>>(),
            ["h96:25", "h97:25", "h98:25", "h99:25"]
        );
    }
}
