//! Tables: one type behind TSV, CSV, Markdown and plain text for a terminal.

use crate::fields::{csv_line, tsv_line};
use crate::text::{self, columns, one_line, printable};

/// One value of a table: exact for programs (TSV, CSV), readable for people (Markdown, terminal).
#[derive(Debug, Clone)]
pub struct Cell {
    exact: String,
    /// `None`: `exact` with signs for its invisible characters.
    shown: Option<String>,
    /// `None`: `shown`, with everything escaped that Markdown would take as markup.
    marked: Option<String>,
}

impl Cell {
    /// A value that is rounded, or has a unit, when shown to people.
    pub fn new(shown: impl Into<String>, exact: impl ToString) -> Self {
        Cell { exact: exact.to_string(), shown: Some(shown.into()), marked: None }
    }

    /// A number in full, or a word of the program's own.
    pub fn exact(value: impl ToString) -> Self {
        Cell { exact: value.to_string(), shown: None, marked: None }
    }

    /// [`Cell::exact`], empty if there is no value.
    pub fn optional(value: Option<impl ToString>) -> Self {
        Cell::exact(value.map_or(String::new(), |value| value.to_string()))
    }

    /// A token's text: with signs for invisible characters, or with reversible escapes.
    #[must_use]
    pub fn token(text: &str) -> Self {
        Cell::new(printable(text), text)
    }

    /// Text that has markup of its own in Markdown. Nothing in it is escaped.
    pub(crate) fn marked(markdown: impl Into<String>) -> Self {
        Cell { exact: String::new(), shown: None, marked: Some(markdown.into()) }
    }

    fn shown(&self) -> String {
        self.shown.clone().unwrap_or_else(|| one_line(&self.exact))
    }

    fn markdown(&self) -> String {
        if let Some(marked) = &self.marked {
            return marked.clone();
        }
        let shown = self.shown();
        // Markdown takes no number as markup, not even with a plus sign.
        if is_number(&shown) { shown } else { text::markdown(&shown) }
    }
}

/// Text from outside. Its spaces stay spaces.
impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::exact(text)
    }
}

/// A header and rows, in any of the formats of tables. Rows are made one at a time: a table of all attention weights
/// does not fit into memory twice.
pub struct Table<'r> {
    header: Vec<Cell>,
    rows: Box<dyn Iterator<Item = Vec<Cell>> + 'r>,
}

impl<'r> Table<'r> {
    /// A table of rows with one cell per name in `header`.
    pub fn new(header: &[&str], rows: impl Iterator<Item = Vec<Cell>> + 'r) -> Self {
        Table::of_cells(header.iter().map(Cell::exact).collect(), rows)
    }

    /// The same with any cells as its header.
    pub(crate) fn of_cells(header: Vec<Cell>, rows: impl Iterator<Item = Vec<Cell>> + 'r) -> Self {
        Table { header, rows: Box::new(rows) }
    }

    /// One line per row, tab-separated, with a header line.
    ///
    /// In texts, `\t`, `\n`, `\r`, `\\` and `\u{..}` escape characters that would break a line, be invisible or start a
    /// formula of a spreadsheet.
    #[must_use]
    pub fn tsv(self) -> String {
        self.lines(tsv_line)
    }

    /// [`Table::tsv`] with commas; every text that needs it is quoted (RFC 4180).
    #[must_use]
    pub fn csv(self) -> String {
        self.lines(csv_line)
    }

    /// A Markdown table, with columns of numbers to the right.
    #[must_use]
    pub fn markdown(self) -> String {
        let rows: Vec<Vec<Cell>> = self.rows.collect();
        let mut out = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = String>| {
            out.push('|');
            cells.for_each(|cell| out.extend([" ", &cell, " |"]));
            out.push('\n');
        };
        line(&mut self.header.iter().map(Cell::markdown));
        let rule = |numeric: bool| if numeric { "---:" } else { "---" }.to_owned();
        line(&mut numeric(&rows, self.header.len()).into_iter().map(rule));
        rows.iter().for_each(|row| line(&mut row.iter().map(Cell::markdown)));
        out
    }

    /// Aligned columns for a terminal, those of numbers to the right.
    #[must_use]
    pub fn terminal(self) -> String {
        let rows: Vec<Vec<Cell>> = self.rows.collect();
        let numeric = numeric(&rows, self.header.len());
        let lines: Vec<Vec<String>> = std::iter::once(&self.header)
            .chain(&rows)
            .map(|row| row.iter().map(Cell::shown).collect())
            .collect();
        let width =
            |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| columns(cell)).max();
        let widths: Vec<usize> = (0..self.header.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut out = String::new();
        for line in &lines {
            let cells = line.iter().zip(&widths).zip(&numeric).map(|((cell, width), numeric)| {
                let blanks = " ".repeat(width.saturating_sub(columns(cell)));
                if *numeric { format!("{blanks}{cell}") } else { format!("{cell}{blanks}") }
            });
            out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            out.push('\n');
        }
        out
    }

    fn lines(self, line: fn(&mut String, &[String])) -> String {
        let mut out = String::new();
        for row in std::iter::once(self.header).chain(self.rows) {
            let fields: Vec<String> = row.iter().map(|cell| text::cell(&cell.exact)).collect();
            line(&mut out, &fields);
        }
        out
    }
}

/// Which of `n` columns hold nothing but numbers.
fn numeric(rows: &[Vec<Cell>], n: usize) -> Vec<bool> {
    let holds = |row: &Vec<Cell>, column: usize| row.get(column).is_some_and(|cell| is_number(&cell.shown()));
    (0..n).map(|column| !rows.is_empty() && rows.iter().all(|row| holds(row, column))).collect()
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}
