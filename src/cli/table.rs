//! Tables for people: columns that fit the terminal, never wrapped, and never longer than it is wide.
//!
//! Where a terminal is too narrow, columns that say least go first, then wide ones are cut. Where there is no terminal,
//! nothing is cut. The widths are settled by the first page, so a list of any length is printed as it comes.

use super::paper::{Paint, Paper};
use super::text::{cut, escaped, width};

/// Cells between two columns.
const GAP: usize = 2;
/// What a column may grow to when more pages follow that nobody has seen yet.
const EXPECTED: usize = 32;

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    is_number: bool,
    /// It is cut to no fewer cells before other columns go; absent: never cut.
    at_least: Option<usize>,
    /// The greater, the sooner it goes; 0: never.
    goes: u8,
}

impl Column {
    /// Text that is always shown whole.
    pub(super) const fn whole(title: &'static str) -> Self {
        Self { title, is_number: false, at_least: None, goes: 0 }
    }

    /// A number, at the right of its column.
    pub(super) const fn number(title: &'static str) -> Self {
        Self { title, is_number: true, at_least: None, goes: 0 }
    }

    /// Text that may be cut, but not below so many cells.
    pub(super) const fn cut(title: &'static str, at_least: usize) -> Self {
        Self { title, is_number: false, at_least: Some(at_least), goes: 0 }
    }

    /// Goes when there is no room; those with greater numbers first.
    pub(super) const fn goes(self, goes: u8) -> Self {
        Self { goes, ..self }
    }
}

/// What stands in one place. Hostile characters are escaped on the way in.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    /// Plain text.
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self { text: escaped(text.as_ref()), paint: Paint::Plain }
    }

    /// The same with a colour.
    pub(super) fn painted(text: impl AsRef<str>, paint: Paint) -> Self {
        Self { text: escaped(text.as_ref()), paint }
    }
}

/// A bit of a line and its colour.
pub(super) type Piece = (String, Paint);

/// A table under way.
pub(super) struct Table<'a> {
    columns: &'a [Column],
    paper: Paper,
    /// Widths of the columns that are shown, once they are settled.
    widths: Option<Vec<Option<usize>>>,
}

impl<'a> Table<'a> {
    pub(super) fn new(columns: &'a [Column], paper: Paper) -> Self {
        Self { columns, paper, widths: None }
    }

    /// The lines of one page; the first comes with the titles. `more`: other pages follow.
    pub(super) fn page(&mut self, rows: &[Vec<Cell>], more: bool) -> String {
        let mut text = String::new();
        if self.widths.is_none() {
            self.widths = Some(self.settle(rows, more));
            self.line(&self.titles(), &mut text);
        }
        for row in rows {
            self.line(row, &mut text);
        }
        text
    }

    fn settle(&self, rows: &[Vec<Cell>], more: bool) -> Vec<Option<usize>> {
        let natural = self.columns.iter().enumerate().map(|(index, column)| {
            let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| width(&cell.text));
            let widest = cells.max().unwrap_or(0).max(width(column.title));
            if more && column.at_least.is_some() { widest.max(EXPECTED) } else { widest }
        });
        let natural: Vec<_> = natural.collect();
        match self.paper.width {
            Some(room) => fit(self.columns, &natural, room),
            None => natural.into_iter().map(Some).collect(),
        }
    }

    /// The first `most` lines as pieces for a screen, the titles first.
    pub(super) fn pieces(mut self, rows: &[Vec<Cell>], most: usize) -> Vec<Vec<Piece>> {
        self.widths = Some(self.settle(rows, false));
        let titles = self.titles();
        let lines = std::iter::once(&titles).chain(rows);
        lines.take(most).map(|row| self.cells(row)).collect()
    }

    fn titles(&self) -> Vec<Cell> {
        self.columns.iter().map(|column| Cell::painted(column.title, Paint::Title)).collect()
    }

    fn line(&self, row: &[Cell], text: &mut String) {
        for (content, paint) in self.cells(row) {
            self.paper.paint(text, &content, paint);
        }
        text.push('\n');
    }

    fn cells(&self, row: &[Cell]) -> Vec<Piece> {
        let widths = self.widths.as_deref().unwrap_or_default();
        let shown: Vec<_> = self.columns.iter().zip(row).zip(widths).collect();
        let last = shown.iter().rposition(|(_, width)| width.is_some()).unwrap_or(0);
        let mut pieces = Vec::new();
        let mut used = 0;
        let room = self.paper.width.unwrap_or(usize::MAX);
        for (index, ((column, cell), cells)) in shown.into_iter().enumerate() {
            let Some(cells) = *cells else { continue };
            let gap = if used > 0 { GAP.min(room.saturating_sub(used)) } else { 0 };
            used += gap;
            let left = room.saturating_sub(used);
            let most = if self.paper.width.is_some() { cells.min(left) } else { usize::MAX };
            let content = cut(&cell.text, most);
            let content_width = width(&content);
            let padding = cells.min(most).saturating_sub(content_width);
            let (before, after) = if column.is_number { (padding, 0) } else { (0, padding) };
            // Nothing stands behind the last column, not even spaces.
            let after = if index == last { 0 } else { after };
            used += before + content_width + after;
            pieces.push((" ".repeat(gap + before), Paint::Plain));
            pieces.push((content, cell.paint));
            pieces.push((" ".repeat(after), Paint::Plain));
        }
        pieces
    }
}

/// Which columns are shown, and how wide.
fn fit(columns: &[Column], natural: &[usize], room: usize) -> Vec<Option<usize>> {
    let least = |column: &Column, natural: usize| column.at_least.map_or(natural, |least| least.min(natural));
    let mut shown: Vec<_> =
        columns.iter().zip(natural).map(|(column, &natural)| Some(least(column, natural))).collect();
    while total(&shown) > room {
        let candidates = columns.iter().zip(&shown).enumerate();
        let candidates = candidates.filter(|(_, (column, cells))| column.goes > 0 && cells.is_some());
        let Some((index, _)) = candidates.max_by_key(|(_, (column, _))| column.goes) else { break };
        if let Some(cells) = shown.get_mut(index) {
            *cells = None;
        }
    }
    // What is left over goes to those that want more, one cell each in turn.
    let mut left = room.saturating_sub(total(&shown));
    while left > 0 {
        let before = left;
        for (cells, &natural) in shown.iter_mut().zip(natural) {
            if let Some(cells) = cells.as_mut().filter(|cells| **cells < natural && left > 0) {
                *cells += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    shown
}

fn total(shown: &[Option<usize>]) -> usize {
    let gaps = shown.iter().flatten().count().saturating_sub(1) * GAP;
    shown.iter().flatten().sum::<usize>() + gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::whole("ID"),
        Column::number("SIZE").goes(1),
        Column::cut("FROM", 6).goes(2),
        Column::cut("TO", 6),
    ];

    fn rows() -> Vec<Vec<Cell>> {
        [
            ["1", "10", "shop@example.com", "世界@example.org"],
            ["22", "9", "<>", "\x1b[31mred\u{202e}"],
            ["3", "1234567", "a", "b"],
        ]
        .into_iter()
        .map(|row| row.into_iter().map(Cell::text).collect())
        .collect()
    }

    fn printed(width: Option<usize>) -> String {
        Table::new(&COLUMNS, Paper { width, colours: false }).page(&rows(), false)
    }

    #[test]
    fn without_a_terminal_nothing_is_cut() {
        let expected = "\
ID     SIZE  FROM              TO
1        10  shop@example.com  世界@example.org
22        9  <>                \\u{1b}[31mred\\u{202e}
3   1234567  a                 b
";
        assert_eq!(printed(None), expected);
    }

    #[test]
    fn a_narrow_terminal_cuts_and_then_drops_columns() {
        let expected = "\
ID     SIZE  FROM        TO
1        10  shop@exam…  世界@exam…
22        9  <>          \\u{1b}[31…
3   1234567  a           b
";
        assert_eq!(printed(Some(35)), expected);
        let expected = "\
ID  TO
1   世界@exam…
22  \\u{1b}[31…
3   b
";
        assert_eq!(printed(Some(14)), expected);
    }

    #[test]
    fn no_line_is_ever_longer_than_the_terminal() {
        for room in 1..60 {
            for line in printed(Some(room)).lines() {
                assert!(width(line) <= room, "{room}: {line:?}");
            }
        }
    }

    #[test]
    fn later_pages_keep_to_the_widths_of_the_first() {
        let mut table = Table::new(&COLUMNS, Paper { width: Some(60), colours: false });
        let small = [vec![Cell::text("1"), Cell::text("1"), Cell::text("a"), Cell::text("b")]];
        let first = table.page(&small, true);
        let second = table.page(&rows(), false);
        assert!(first.starts_with("ID  SIZE  FROM"));
        assert!(!second.contains("ID"));
        assert!(second.lines().all(|line| width(line) <= 60), "{second}");
        // What was not seen yet has room.
        assert!(second.contains("shop@example.com") && second.contains("世界@example.org"), "{second}");
    }

    #[test]
    fn an_empty_list_has_its_titles_and_colours_do_not_count_as_width() {
        let paper = Paper { width: Some(35), colours: true };
        assert_eq!(
            Table::new(&COLUMNS, Paper { colours: false, ..paper }).page(&[], false),
            "ID  SIZE  FROM  TO\n"
        );
        let coloured = Table::new(&COLUMNS, paper).page(&rows(), false);
        let plain = coloured.replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert_eq!(plain, printed(Some(35)));
        assert_ne!(coloured, plain);
    }
}
