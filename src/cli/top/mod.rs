//! `oncemail top`: the state of things, live and full-screen.
//!
//! What is known is in `state`, which neither draws nor asks; `view` draws it; `feed` asks the server. The terminal is given
//! back as it was however this ends: by a key, a signal, a failure, or a panic.

mod feed;
mod state;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::feed::{News, Wish};
use self::state::{Step, Top};
use super::client::Client;
use super::failure::Failure;
use super::logging::no_colour;
use crate::admin::model::Overview;

pub(super) const EXAMPLES: &str = "\
Keys:
  q, Esc        leave
  ↑ ↓, j k      select a line; PgUp PgDn, Home End go further
  Tab           the other table
  p             pause, and go on
  r             reset the selected destination: close its breakers, try what waits
  ?             help

In a script use: oncemail status --json";

/// How often the keyboard thread looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(200);
/// Keys and answers that wait to be dealt with.
const WAITING: usize = 64;

/// Runs until somebody leaves.
pub(super) async fn run(client: &mut Client, json: bool) -> Result<(), Failure> {
    if json || !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        let what = "top needs a terminal; for a program there is: oncemail status --json";
        return Err(Failure::Usage(what.to_owned()));
    }
    let start = Instant::now();
    // A server that is not there is told on the terminal as it is.
    let first = client.get::<Overview>("/api/v1/overview").await?.document;
    let mut top = Top::new(!no_colour());
    top.hear(News::Overview(Box::new(first)), start.elapsed());
    let (tell, news) = mpsc::channel(WAITING);
    let (wish, wishes) = mpsc::channel(WAITING);
    let failed = |error: io::Error| Failure::Failed(format!("the terminal cannot be used: {error}"));
    tokio::select! {
        result = interact(top, start, news, wish) => result.map_err(failed),
        () = feed::run(client, wishes, tell) => Ok(()),
    }
}

async fn interact(
    mut top: Top,
    start: Instant,
    mut news: mpsc::Receiver<News>,
    wish: mpsc::Sender<Wish>,
) -> io::Result<()> {
    let mut signals = Signals::new()?;
    let mut screen = Screen::open()?;
    let mut events = keyboard();
    loop {
        screen.terminal.draw(|frame| view::draw(frame, &mut top))?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => match top.press(key) {
                    Step::Stay => {}
                    Step::Leave => return Ok(()),
                    // Somebody who asks faster than the server answers is not heard.
                    Step::Ask(wanted) => drop(wish.try_send(wanted)),
                },
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            Some(heard) = news.recv() => top.hear(heard, start.elapsed()),
            () = signals.any() => return Ok(()),
        }
    }
}

/// The keyboard has no other way than to be waited for; the thread ends soon after nobody listens any more.
fn keyboard() -> mpsc::Receiver<io::Result<Event>> {
    let (tell, events) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        while !tell.is_closed() {
            let event = match event::poll(LOOK) {
                Ok(true) => event::read(),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            let is_over = event.is_err();
            if tell.blocking_send(event).is_err() || is_over {
                break;
            }
        }
    });
    events
}

/// The terminal while it is ours.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Takes it; a panic gives it back before it is told (`ratatui::try_init`).
    fn open() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                // It may have gone half of the way.
                let _ = ratatui::try_restore();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = ratatui::try_restore();
        let _ = self.terminal.show_cursor();
    }
}

/// Those that would end the process with the terminal still ours.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
