//! Draws what `top` knows, on a screen of any size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, RenderDirection, Sparkline};

use super::feed::Wish;
use super::state::{Mode, Pane, Top};
use crate::admin::model::{Destination, Summary};
use crate::cli::destinations;
use crate::cli::paper::{Paint, Paper};
use crate::cli::table::{Cell, Column, Piece, Table};
use crate::cli::text::{cut, escaped, width};
use crate::cli::words::{self, grouped, latency, long, short};

/// Lines of the head, of the curve with its title, and of the foot.
const HEAD: u16 = 5;
const CURVE: u16 = 4;
const FOOT: u16 = 1;
/// A screen that is lower shows no curve.
const LOW: u16 = 20;

const DESTINATIONS: [Column; 7] = [
    Column::cut("ROUTE", 6),
    Column::cut("DESTINATION", 12),
    Column::whole("BREAKER"),
    Column::number("WAITING"),
    Column::number("CONNS").goes(2),
    Column::number("PER MIN").goes(3),
    Column::cut("LAST TROUBLE", 12).goes(1),
];
const TROUBLED: [Column; 5] = [
    Column::whole("ID").goes(1),
    Column::number("AGE"),
    Column::number("TRIES").goes(2),
    Column::cut("TO", 12),
    Column::cut("LAST REPLY", 12),
];

/// The whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, top: &mut Top) {
    let area = frame.area();
    let curve = if area.height < LOW { 0 } else { CURVE };
    let [head, line, upper, lower, foot] = Layout::vertical([
        Constraint::Max(HEAD),
        Constraint::Length(curve),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Length(FOOT),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(heading(top, head.width)), head);
    depth(frame, top, line);
    let rows: Vec<_> = top.destinations.iter().map(destination).collect();
    let title = match top.destinations_total {
        total if total > rows.len() as u64 => format!("Destinations ({} of {})", rows.len(), grouped(total)),
        total => format!("Destinations ({})", grouped(total)),
    };
    let is_chosen = top.pane == Pane::Destinations;
    list(frame, top.colours, upper, &title, &DESTINATIONS, &rows, (top.selected, is_chosen));
    let rows: Vec<_> = top.troubled.iter().map(message).collect();
    let title = format!("Newest messages with trouble ({})", rows.len());
    list(frame, top.colours, lower, &title, &TROUBLED, &rows, (top.troubled_selected, !is_chosen));
    frame.render_widget(Paragraph::new(footer(top, foot.width)), foot);
    if top.mode == Mode::Help {
        help(frame, area);
    }
}

fn style(paint: Paint, colours: bool) -> Style {
    let plain = Style::new();
    match paint {
        Paint::Title => plain.add_modifier(Modifier::BOLD),
        Paint::Aside => plain.add_modifier(Modifier::DIM),
        Paint::Good if colours => plain.fg(Color::Green),
        Paint::Warning if colours => plain.fg(Color::Yellow),
        Paint::Bad if colours => plain.fg(Color::Red),
        Paint::Bad => plain.add_modifier(Modifier::BOLD),
        Paint::Plain | Paint::Good | Paint::Warning => plain,
    }
}

/// Five lines; the last is what should be known.
fn heading(top: &Top, room: u16) -> Vec<Line<'static>> {
    let (o, rates, room) = (&top.overview, top.rates(), usize::from(room));
    let (word, paint) = match (&top.trouble, top.is_paused, o.ready) {
        (Some(_), ..) => ("NO ANSWER", Paint::Bad),
        (None, true, _) => ("PAUSED", Paint::Warning),
        (None, false, true) => ("READY", Paint::Good),
        (None, false, false) => ("NOT READY", Paint::Bad),
    };
    let name = escaped(&format!("oncemail {}  {}  up {}", o.version, o.hostname, long(o.uptime_seconds)));
    let name = cut(&name, room.saturating_sub(word.len() + 2));
    let gap = room.saturating_sub(width(&name) + word.len());
    let first = Line::from(vec![
        Span::styled(name, style(Paint::Title, top.colours)),
        Span::raw(" ".repeat(gap)),
        Span::styled(word, style(paint, top.colours).add_modifier(Modifier::BOLD)),
    ]);
    let plain = |text: String| Line::raw(cut(&text, room));
    let incoming = format!(
        "in  {:>6.1}/s queued    {:>5.1}/s replayed {:>5.1}/s refused  {}, 99 % {}",
        rates.accepted,
        rates.replayed,
        rates.refused,
        latency(o.accept_p50_seconds),
        latency(o.accept_p99_seconds)
    );
    let outgoing = format!(
        "out {:>6.1}/s delivered {:>5.1}/s deferred {:>5.1}/s failed   {}, 99 % {}",
        rates.delivered,
        rates.deferred,
        rates.failed,
        latency(o.deliver_p50_seconds),
        latency(o.deliver_p99_seconds)
    );
    let oldest = if o.queued == 0 { String::new() } else { format!(", oldest {}", short(o.oldest_seconds)) };
    let standing = format!(
        "queue {}{oldest}  held {}  events {}  clients {}  conns {}  breakers {} open",
        grouped(o.queued),
        grouped(o.held),
        grouped(o.events),
        grouped(o.clients),
        grouped(o.connections),
        grouped(o.open_breakers)
    );
    let known = top.trouble.clone().unwrap_or_else(|| o.reasons.join("; "));
    let paint = if top.trouble.is_some() || !o.ready { Paint::Bad } else { Paint::Warning };
    let last = Line::styled(cut(&escaped(&known), room), style(paint, top.colours));
    vec![first, plain(incoming), plain(outgoing), plain(standing), last]
}

fn depth(frame: &mut Frame<'_>, top: &Top, area: Rect) {
    let shown: Vec<u64> = top.depths.iter().rev().take(usize::from(area.width)).copied().collect();
    let highest = shown.iter().copied().max().unwrap_or(0);
    let title = format!("Queue depth, {}, at most {}", long(shown.len() as u64), grouped(highest));
    let title = Span::styled(cut(&title, usize::from(area.width)), style(Paint::Title, top.colours));
    let curve = Sparkline::default()
        .block(Block::new().title(title))
        .direction(RenderDirection::RightToLeft)
        .max(highest.max(1))
        .style(if top.colours { Style::new().fg(Color::Cyan) } else { Style::new() })
        .data(shown);
    frame.render_widget(curve, area);
}

/// A title, the names of the columns, and as many lines around the selected one as there is room for.
fn list(
    frame: &mut Frame<'_>,
    colours: bool,
    area: Rect,
    title: &str,
    columns: &[Column],
    rows: &[Vec<Cell>],
    (selected, is_chosen): (usize, bool),
) {
    let room = usize::from(area.width);
    let mark = if is_chosen { "▶ " } else { "  " };
    let mut lines = vec![Line::styled(cut(&format!("{mark}{title}"), room), style(Paint::Title, colours))];
    let most = usize::from(area.height).saturating_sub(2);
    let selected = selected.min(rows.len().saturating_sub(1));
    let from = selected.saturating_sub(most.saturating_sub(1));
    let shown = rows.get(from..).unwrap_or_default();
    let shown = shown.get(..most).unwrap_or(shown);
    let table = Table::new(columns, Paper { width: Some(room), colours: false });
    for (index, pieces) in table.pieces(shown, most + 1).into_iter().enumerate() {
        let is_selected = is_chosen && index > 0 && index - 1 + from == selected;
        lines.push(line(pieces, colours, is_selected, room));
    }
    if rows.is_empty() {
        lines.push(Line::styled(cut("none", room), style(Paint::Aside, colours)));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn line(pieces: Vec<Piece>, colours: bool, is_selected: bool, room: usize) -> Line<'static> {
    let used: usize = pieces.iter().map(|(text, _)| width(text)).sum();
    let mut spans: Vec<_> =
        pieces.into_iter().map(|(text, paint)| Span::styled(text, style(paint, colours))).collect();
    if is_selected {
        spans.push(Span::raw(" ".repeat(room.saturating_sub(used))));
        return Line::from(spans).style(Style::new().add_modifier(Modifier::REVERSED));
    }
    Line::from(spans)
}

fn destination(destination: &Destination) -> Vec<Cell> {
    let (breaker, paint) = words::breaker(destination.breaker);
    let word = if destination.paused_until.is_some() { "paused" } else { breaker };
    let paint =
        if destinations::is_open(destination) && paint == Paint::Good { Paint::Warning } else { paint };
    vec![
        Cell::text(&destination.route),
        Cell::text(destinations::named(destination)),
        Cell::painted(word, paint),
        Cell::text(grouped(destination.waiting)),
        Cell::text(format!("{}/{}", destination.connections, destination.connection_limit)),
        Cell::text(format!("{:.0}", destination.rate_per_minute)),
        Cell::text(destination.last_trouble.as_deref().unwrap_or("-")),
    ]
}

fn message(message: &Summary) -> Vec<Cell> {
    vec![
        Cell::text(&message.id),
        Cell::text(short(message.age_seconds)),
        Cell::text(message.attempts.to_string()),
        Cell::text(words::recipients(&message.to, message.recipients)),
        Cell::text(message.last_reply.as_deref().unwrap_or("-")),
    ]
}

fn footer(top: &Top, room: u16) -> Line<'static> {
    let (text, paint) = match (&top.mode, &top.notice) {
        (Mode::Confirm(Wish::Reset { route, destination }), _) => {
            let of = destination.as_deref().map(|destination| format!(" {destination}")).unwrap_or_default();
            (format!("Reset {route}{of}: close its breakers, and try what waits now? y/n"), Paint::Warning)
        }
        (_, Some(notice)) => (notice.clone(), Paint::Title),
        _ => ("q leave   ↑↓ select   Tab other table   p pause   r reset   ? help".to_owned(), Paint::Aside),
    };
    Line::styled(cut(&escaped(&text), usize::from(room)), style(paint, top.colours))
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<_> = super::EXAMPLES.lines().filter(|line| line.starts_with("  ")).collect();
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let inner = lines.iter().map(|line| width(line)).max().unwrap_or(0);
    let room = u16::try_from(inner).unwrap_or(u16::MAX).saturating_add(3);
    let [area] = Layout::vertical([Constraint::Max(height)]).flex(ratatui::layout::Flex::Center).areas(area);
    let [area] = Layout::horizontal([Constraint::Max(room)]).flex(ratatui::layout::Flex::Center).areas(area);
    let most = usize::from(area.width.saturating_sub(2));
    let lines: Vec<_> = lines.into_iter().map(|line| Line::raw(cut(line, most))).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Keys ")), area);
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
