//! What is printed on: how wide it is, whether it takes colours, and whether somebody still reads it.

use std::io::{self, IsTerminal, Write};

use ratatui::crossterm::terminal;

use super::failure::Failure;
use super::logging::no_colour;
use super::text::escaped_json;

/// Standard output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Paper {
    /// Cells in a line; `None`: not a terminal, lines may have any length.
    pub(super) width: Option<usize>,
    /// Whether colours are wanted.
    pub(super) colours: bool,
}

/// What a text is to a reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Paint {
    /// Nothing special.
    Plain,
    /// A heading.
    Title,
    /// All is well.
    Good,
    /// Needs a look.
    Warning,
    /// Is wrong.
    Bad,
    /// Less important than the rest.
    Aside,
}

/// What a terminal has that does not say how wide it is.
const USUAL_WIDTH: usize = 80;
/// Lines of a text that nobody limits are wrapped there.
const READABLE_WIDTH: usize = 110;

impl Paper {
    /// Standard output as it is.
    pub(super) fn detect() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let told =
            || terminal::size().ok().map(|(columns, _)| usize::from(columns)).filter(|width| *width > 0);
        Self {
            width: is_terminal.then(|| told().unwrap_or(USUAL_WIDTH)),
            colours: is_terminal && !no_colour(),
        }
    }

    /// Where text is wrapped.
    pub(super) fn text_width(self) -> usize {
        self.width.unwrap_or(READABLE_WIDTH)
    }

    /// Adds a text that is clean already.
    pub(super) fn paint(self, to: &mut String, clean: &str, paint: Paint) {
        let colour = match paint {
            Paint::Plain => "",
            Paint::Title => "\x1b[1m",
            Paint::Good => "\x1b[32m",
            Paint::Warning => "\x1b[33m",
            Paint::Bad => "\x1b[31m",
            Paint::Aside => "\x1b[2m",
        };
        if !self.colours || colour.is_empty() || clean.is_empty() {
            to.push_str(clean);
        } else {
            to.push_str(colour);
            to.push_str(clean);
            to.push_str("\x1b[0m");
        }
    }
}

/// Writes to standard output at once.
///
/// # Errors
/// [`Failure::ReaderGone`] when nobody reads any more.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::ReaderGone
        } else {
            Failure::Failed(format!("cannot write to standard output: {error}"))
        }
    })
}

/// Writes a document of the API as it came, on a line of its own.
///
/// # Errors
/// As [`say`].
pub(super) fn say_json(document: &str) -> Result<(), Failure> {
    say(&format!("{}\n", escaped_json(document.trim_end())))
}
