//! The report for other programs: JSON, a table, or one in Markdown for people.

use std::fmt::Write as _;

use super::grid::{self, Column, Grid};
use super::metric::{Metric, Value};
use super::report::{LayerRow, LensReport, Token};
use super::words;
use crate::error::{Error, ErrorKind};
use crate::table::{Cell, Table};
use crate::text::{self, printable};

/// Names of the columns of [`table`].
pub(super) const HEADER: [&str; 14] = [
    "layer",
    "name",
    "position",
    "token",
    "next",
    "top_id",
    "top",
    "logprob",
    "same_as_final",
    "logprob_of_final_top",
    "entropy",
    "kl_to_final",
    "rank_of_next",
    "tracked",
];

/// The report as JSON of schema [`super::SCHEMA`], on one line.
///
/// # Errors
/// Never for a report that fits into memory.
pub fn json(report: &LensReport) -> Result<String, Error> {
    serde_json::to_string(report).map_err(|e| Error::new(ErrorKind::Draw, format!("report as JSON: {e}")))
}

/// One row per layer and position, final layer first. Missing numbers are empty; others that are not finite are `NaN`.
#[must_use]
pub fn table(report: &LensReport) -> Table<'_> {
    let Grid { columns, rows } = Grid::new(report);
    let rows = rows.into_iter().flat_map(move |row| {
        let pairs = columns.iter().zip(row.cells);
        let found = pairs.filter_map(|(column, cell)| Some(fields(row.layer, column, cell?)));
        found.collect::<Vec<_>>()
    });
    Table::new(&HEADER, rows)
}

fn fields(layer: &LayerRow, column: &Column<'_>, grid::Cell { at, agrees }: grid::Cell<'_>) -> Vec<Cell> {
    let top = at.top.first();
    let text = |token: Option<&Token>| Cell::optional(token.map(|token| &token.text));
    vec![
        Cell::exact(layer.layer),
        Cell::exact(&layer.name),
        Cell::exact(column.position),
        text(column.token),
        text(column.next),
        Cell::optional(top.map(|top| top.id)),
        Cell::optional(top.map(|top| &top.text)),
        Cell::optional(top.map(|top| top.logprob)),
        Cell::exact(u8::from(agrees)),
        Cell::exact(at.logprob_of_final_top),
        Cell::exact(at.entropy),
        Cell::exact(at.kl_to_final),
        Cell::optional(at.rank_of_next),
        Cell::optional(at.tracked),
    ]
}

/// A Markdown table: one row per layer, each cell its top token and the number of `metric`. Bold if the token is the
/// final layer's.
#[must_use]
pub fn markdown(report: &LensReport, metric: Metric) -> String {
    let grid = Grid::new(report);
    let mut out = String::new();
    for line in words::lines(report) {
        let _ = writeln!(out, "{}  ", text::markdown(&line));
    }
    let _ = writeln!(
        out,
        "Number: {}. Bold: same token as the model predicts. \\*: the model's top token is the actual next one.\n",
        text::markdown(&metric.words(report))
    );
    let tokens =
        grid.columns.iter().map(|column| column.token.map_or(Cell::exact(""), |t| Cell::token(&t.text)));
    let next = grid.columns.iter().map(|column| {
        let star = if column.right == Some(true) { "\\*" } else { "" };
        Cell::marked(column.next.map_or(String::new(), |t| format!("{star}*{}*", code(&t.text))))
    });
    let header = [Cell::exact("layer")].into_iter().chain(tokens).collect();
    let next = [Cell::marked("*next*")].into_iter().chain(next).collect();
    let layers = grid.rows.iter().map(|row| {
        let cells = row.cells.iter().map(|cell| markdown_cell(*cell, report, metric));
        [Cell::exact(&row.label)].into_iter().chain(cells).collect()
    });
    out + &Table::of_cells(header, [next].into_iter().chain(layers)).markdown()
}

fn markdown_cell(cell: Option<grid::Cell<'_>>, report: &LensReport, metric: Metric) -> Cell {
    let Some(cell) = cell else { return Cell::exact("") };
    let value = metric.value(cell.at, report);
    let token = cell.at.top.first().map_or(String::new(), |top| code(&top.text));
    let number = if value == Value::Absent { String::new() } else { text::markdown(&metric.format(value)) };
    Cell::marked(if cell.agrees { format!("**{token}** {number}") } else { format!("{token} {number}") })
}

fn code(text: &str) -> String {
    text::markdown(&printable(text))
}
