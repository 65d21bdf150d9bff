//! What `top` knows, and what a key makes of it. Neither draws nor asks.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::feed::{News, Wish};
use crate::admin::model::{Destination, Overview, Summary};

/// Depths that are remembered, one a second.
const DEPTHS: usize = 600;
/// Rates are taken over so long, so that a burst is seen and a number can be read.
const SPAN: Duration = Duration::from_secs(5);
/// Overviews that are remembered for that.
const SAMPLES: usize = 64;
/// Lines that a page key moves by.
const PAGE: usize = 10;

/// See the module.
pub(super) struct Top {
    pub(super) colours: bool,
    pub(super) overview: Overview,
    pub(super) depths: VecDeque<u64>,
    pub(super) destinations: Vec<Destination>,
    pub(super) destinations_total: u64,
    /// The newest messages that something was said about.
    pub(super) troubled: Vec<Summary>,
    pub(super) selected: usize,
    pub(super) troubled_selected: usize,
    pub(super) pane: Pane,
    pub(super) mode: Mode,
    pub(super) is_paused: bool,
    /// Why the server does not answer at the moment.
    pub(super) trouble: Option<String>,
    /// What became of the last wish.
    pub(super) notice: Option<String>,
    samples: VecDeque<(Duration, Overview)>,
}

/// Which table the arrows move in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pane {
    Destinations,
    Troubled,
}

/// What the keyboard is for at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Look,
    Help,
    Confirm(Wish),
}

/// What comes of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Stay,
    Leave,
    Ask(Wish),
}

/// Things a second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Rates {
    pub(super) accepted: f64,
    pub(super) replayed: f64,
    pub(super) refused: f64,
    pub(super) delivered: f64,
    pub(super) deferred: f64,
    pub(super) failed: f64,
}

impl Top {
    pub(super) fn new(colours: bool) -> Self {
        Self {
            colours,
            overview: Overview::default(),
            depths: VecDeque::new(),
            destinations: Vec::new(),
            destinations_total: 0,
            troubled: Vec::new(),
            selected: 0,
            troubled_selected: 0,
            pane: Pane::Destinations,
            mode: Mode::Look,
            is_paused: false,
            trouble: None,
            notice: None,
            samples: VecDeque::new(),
        }
    }

    /// Takes in what has come, `at` so long after the start.
    pub(super) fn hear(&mut self, news: News, at: Duration) {
        match news {
            News::Trouble(what) => self.trouble = Some(what),
            News::Done(what) => self.notice = Some(what),
            News::Overview(overview) => self.look(*overview, at),
            _ if self.is_paused => {}
            News::Destinations(list) => {
                self.keep_selection(&list.destinations);
                self.destinations = list.destinations;
                self.destinations_total = list.total;
            }
            News::Messages(page) => {
                self.troubled =
                    page.messages.into_iter().filter(|message| message.last_reply.is_some()).collect();
            }
        }
    }

    fn look(&mut self, overview: Overview, at: Duration) {
        self.trouble = None;
        // A server that was started anew counts from nothing.
        if self.samples.back().is_some_and(|(_, last)| last.uptime_seconds > overview.uptime_seconds) {
            self.samples.clear();
        }
        push(&mut self.samples, (at, overview.clone()), SAMPLES);
        while self.samples.get(1).is_some_and(|(second, _)| at.saturating_sub(*second) >= SPAN) {
            self.samples.pop_front();
        }
        push(&mut self.depths, overview.queued, DEPTHS);
        if !self.is_paused {
            self.overview = overview;
        }
    }

    /// The selected destination stays selected when the order changes.
    fn keep_selection(&mut self, new: &[Destination]) {
        let Some(old) = self.destinations.get(self.selected) else { return };
        let is_same = |other: &Destination| other.route == old.route && other.destination == old.destination;
        if let Some(index) = new.iter().position(is_same) {
            self.selected = index;
        }
    }

    /// Over the last seconds; zero until there are two looks.
    pub(super) fn rates(&self) -> Rates {
        let (Some((from, first)), Some((to, last))) = (self.samples.front(), self.samples.back()) else {
            return Rates::default();
        };
        let seconds = to.saturating_sub(*from).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let rate = |count: fn(&Overview) -> u64| count(last).saturating_sub(count(first)) as f64 / seconds;
        Rates {
            accepted: rate(|o| o.accepted),
            replayed: rate(|o| o.replayed),
            refused: rate(|o| o.refused),
            delivered: rate(|o| o.delivered),
            deferred: rate(|o| o.deferred),
            failed: rate(|o| o.failed),
        }
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Step {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Step::Leave } else { Step::Stay };
        }
        match std::mem::replace(&mut self.mode, Mode::Look) {
            // Any key closes it.
            Mode::Help => Step::Stay,
            Mode::Confirm(wish) if key.code == KeyCode::Char('y') => Step::Ask(wish),
            Mode::Confirm(_) => Step::Stay,
            Mode::Look => self.command(key.code),
        }
    }

    fn command(&mut self, key: KeyCode) -> Step {
        self.notice = None;
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Step::Leave,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('r') => self.want_reset(),
            KeyCode::Tab | KeyCode::BackTab => {
                self.pane = match self.pane {
                    Pane::Destinations => Pane::Troubled,
                    Pane::Troubled => Pane::Destinations,
                }
            }
            KeyCode::Up | KeyCode::Char('k') => self.go(|at| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.go(|at| at.saturating_add(1)),
            KeyCode::PageUp => self.go(|at| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.go(|at| at.saturating_add(PAGE)),
            KeyCode::Home | KeyCode::Char('g') => self.go(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.go(|_| usize::MAX),
            _ => {}
        }
        Step::Stay
    }

    fn go(&mut self, step: impl Fn(usize) -> usize) {
        let (at, count) = match self.pane {
            Pane::Destinations => (&mut self.selected, self.destinations.len()),
            Pane::Troubled => (&mut self.troubled_selected, self.troubled.len()),
        };
        *at = step(*at).min(count.saturating_sub(1));
    }

    fn want_reset(&mut self) {
        let Some(chosen) = self.destinations.get(self.selected).filter(|_| self.pane == Pane::Destinations)
        else {
            self.notice = Some("select a destination first (Tab, arrows)".to_owned());
            return;
        };
        let destination = Some(chosen.destination.clone()).filter(|destination| !destination.is_empty());
        self.mode = Mode::Confirm(Wish::Reset { route: chosen.route.clone(), destination });
    }
}

fn push<T>(list: &mut VecDeque<T>, item: T, most: usize) {
    if list.len() >= most {
        list.pop_front();
    }
    list.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::model::{BreakerState, Destinations};
    use crate::cli::destinations::tests::example;

    fn overview(accepted: u64, uptime_seconds: u64) -> News {
        News::Overview(Box::new(Overview {
            accepted,
            uptime_seconds,
            queued: accepted,
            ..Overview::default()
        }))
    }

    fn with_destinations() -> Top {
        let mut top = Top::new(false);
        let destinations = ["a.example", "b.example"].map(|name| example(name, BreakerState::Open)).to_vec();
        top.hear(News::Destinations(Destinations { destinations, total: 2 }), Duration::ZERO);
        top
    }

    fn press(top: &mut Top, code: KeyCode) -> Step {
        top.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn rates_are_differences_and_a_restart_is_no_negative_rate() {
        let mut top = Top::new(false);
        assert_eq!(top.rates(), Rates::default());
        for second in 0..20 {
            top.hear(overview(second * 10, 100 + second), Duration::from_secs(second));
        }
        assert!((top.rates().accepted - 10.0).abs() < 1e-9);
        top.hear(overview(3, 1), Duration::from_secs(21));
        assert_eq!(top.rates(), Rates::default());
        assert_eq!(top.depths.len(), 21);
        for second in 0..2_000 {
            top.hear(overview(second, second), Duration::from_secs(22 + second));
        }
        assert_eq!((top.depths.len(), top.samples.len() <= SAMPLES), (DEPTHS, true));
    }

    #[test]
    fn a_reset_happens_only_after_a_yes() {
        let mut top = with_destinations();
        press(&mut top, KeyCode::Down);
        let wish = Wish::Reset { route: "world".into(), destination: Some("b.example".into()) };
        assert_eq!(press(&mut top, KeyCode::Char('r')), Step::Stay);
        assert_eq!(top.mode, Mode::Confirm(wish.clone()));
        assert_eq!(press(&mut top, KeyCode::Char('n')), Step::Stay);
        assert_eq!(top.mode, Mode::Look);
        press(&mut top, KeyCode::Char('r'));
        assert_eq!(press(&mut top, KeyCode::Char('y')), Step::Ask(wish));
        // In the other table there is nothing to reset.
        press(&mut top, KeyCode::Tab);
        press(&mut top, KeyCode::Char('r'));
        assert_eq!(top.mode, Mode::Look);
    }

    #[test]
    fn the_selection_follows_its_destination() {
        let mut top = with_destinations();
        press(&mut top, KeyCode::End);
        let mut destinations = top.destinations.clone();
        destinations.reverse();
        top.hear(News::Destinations(Destinations { destinations, total: 2 }), Duration::ZERO);
        assert_eq!((top.selected, top.destinations[top.selected].destination.as_str()), (0, "b.example"));
        press(&mut top, KeyCode::PageDown);
        press(&mut top, KeyCode::Up);
        assert_eq!(top.selected, 0);
    }

    #[test]
    fn a_pause_keeps_what_is_shown_and_every_way_out_works() {
        let mut top = with_destinations();
        top.hear(overview(5, 1), Duration::ZERO);
        press(&mut top, KeyCode::Char('p'));
        top.hear(overview(50, 2), Duration::from_secs(1));
        assert_eq!(top.overview.accepted, 5);
        press(&mut top, KeyCode::Char('p'));
        top.hear(overview(51, 3), Duration::from_secs(2));
        assert_eq!(top.overview.accepted, 51);
        assert_eq!(press(&mut top, KeyCode::Char('q')), Step::Leave);
        assert_eq!(press(&mut top, KeyCode::Esc), Step::Leave);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut top, KeyCode::Char('?'));
        assert_eq!(top.press(interrupt), Step::Leave);
    }
}
