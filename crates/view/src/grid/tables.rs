//! The grid as lines and as a Markdown table.

use std::fmt::Write as _;

use super::GridReport;
use crate::table::{Cell, Table};
use crate::text::{self, printable};

/// One row per cell that has an activation.
#[must_use]
pub fn table(report: &GridReport) -> Table<'_> {
    let is_routed = report.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.routed.is_some());
    let rows = report.rows.iter().flat_map(move |row| {
        let there = report.columns.iter().zip(&row.cells).filter(|(_, found)| !found.is_empty());
        there.map(move |(column, found)| {
            let mut cells = vec![
                Cell::exact(&row.label),
                Cell::exact(&column.label),
                Cell::optional(column.token.as_ref()),
                Cell::exact(&found.activation),
                Cell::exact(found.value),
                Cell::exact(found.effect),
            ];
            cells.extend(is_routed.then(|| Cell::optional(found.routed)));
            cells
        })
    });
    let header = [report.row_kind, "column", "token", "activation", "value", "effect", "routed"];
    Table::new(if is_routed { &header } else { &header[..6] }, rows)
}

/// A Markdown table of effects, the last layer on top.
#[must_use]
pub fn markdown(report: &GridReport) -> String {
    let code = |text: &str| text::markdown(&printable(text));
    let mut out = String::new();
    for line in &report.lines {
        let parts: Vec<String> = line.split(" · ").map(code).collect();
        let _ = writeln!(out, "{}  ", parts.join(" · "));
    }
    for (what, prompt) in &report.prompts {
        let _ = writeln!(out, "{}: {}  ", code(what), code(prompt));
    }
    out.push('\n');
    let tokens =
        report.columns.iter().map(|column| Cell::token(column.token.as_ref().unwrap_or(&column.label)));
    let rows = report.rows_downwards().map(|row| {
        let effects = row.cells.iter().map(|cell| Cell::new(report.text(cell), cell.effect));
        std::iter::once(Cell::token(&row.label)).chain(effects).collect()
    });
    out + &Table::of_cells(std::iter::once(Cell::exact(report.row_kind)).chain(tokens).collect(), rows)
        .markdown()
}
