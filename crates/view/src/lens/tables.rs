//! The report for other programs: JSON, one line per cell, or a Markdown table.

use std::fmt::Write as _;

use super::grid::{Cell, Grid};
use super::metric::{Metric, Value};
use super::report::LensReport;
use super::words;
use crate::error::{Error, ErrorKind};
use crate::fields::{csv_line, tsv_line};
use crate::text::{self, cell, printable};

/// Names of the columns of [`tsv`] and [`csv`].
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

/// One line per cell, tab-separated, final layer first, with a header line.
///
/// In texts, `\t`, `
/// `, `\r`, `\\` and `\u{..}` escape characters that would break a line or be invisible. Missing numbers are empty;
/// others that are not finite are `NaN`.
#[must_use]
pub fn tsv(report: &LensReport) -> String {
    lines(report, tsv_line)
}

/// [`tsv`] with commas; every text is quoted (RFC 4180).
#[must_use]
pub fn csv(report: &LensReport) -> String {
    lines(report, csv_line)
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
    let row = |out: &mut String, label: &str, cells: &mut dyn Iterator<Item = String>| {
        let _ = write!(out, "| {label} |");
        cells.for_each(|cell| {
            let _ = write!(out, " {cell} |");
        });
        out.push('\n');
    };
    let code = |text: &str| text::markdown(&printable(text));
    row(
        &mut out,
        "layer",
        &mut grid.columns.iter().map(|c| c.token.map_or(String::new(), |t| code(&t.text))),
    );
    row(&mut out, "---:", &mut grid.columns.iter().map(|_| "---".to_owned()));
    row(
        &mut out,
        "*next*",
        &mut grid.columns.iter().map(|c| {
            let star = if c.right == Some(true) { "\\*" } else { "" };
            c.next.map_or(String::new(), |t| format!("{star}*{}*", code(&t.text)))
        }),
    );
    for r in &grid.rows {
        row(&mut out, &r.label, &mut r.cells.iter().map(|cell| markdown_cell(*cell, report, metric)));
    }
    out
}

fn markdown_cell(cell: Option<Cell<'_>>, report: &LensReport, metric: Metric) -> String {
    let Some(cell) = cell else { return String::new() };
    let value = metric.value(cell.at, report);
    let token = cell.at.top.first().map_or(String::new(), |top| text::markdown(&printable(&top.text)));
    let number = if value == Value::Absent { String::new() } else { text::markdown(&metric.format(value)) };
    if cell.agrees { format!("**{token}** {number}") } else { format!("{token} {number}") }
}

fn lines(report: &LensReport, line: impl Fn(&mut String, &[String])) -> String {
    let grid = Grid::new(report);
    let mut out = String::new();
    line(&mut out, &HEADER.map(str::to_owned));
    for row in &grid.rows {
        for (column, in_column) in grid.columns.iter().zip(&row.cells) {
            let Some(Cell { at, agrees }) = in_column else { continue };
            let top = at.top.first();
            line(
                &mut out,
                &[
                    row.layer.layer.to_string(),
                    cell(&row.layer.name),
                    column.position.to_string(),
                    column.token.map_or(String::new(), |t| cell(&t.text)),
                    column.next.map_or(String::new(), |t| cell(&t.text)),
                    top.map_or(String::new(), |t| t.id.to_string()),
                    top.map_or(String::new(), |t| cell(&t.text)),
                    top.map_or(String::new(), |t| t.logprob.to_string()),
                    u8::from(*agrees).to_string(),
                    at.logprob_of_final_top.to_string(),
                    at.entropy.to_string(),
                    at.kl_to_final.to_string(),
                    at.rank_of_next.map_or(String::new(), |rank| rank.to_string()),
                    at.tracked.map_or(String::new(), |logprob| logprob.to_string()),
                ],
            );
        }
    }
    out
}
