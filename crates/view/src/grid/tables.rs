//! The grid as lines and as a Markdown table.

use std::fmt::Write as _;

use super::GridReport;
use crate::fields::{csv_line, tsv_line};
use crate::text::{self, cell, printable};

const HEADER: [&str; 6] = ["layer", "column", "token", "activation", "value", "effect"];

/// One line per cell, tab-separated, with a header line. Escapes in texts are reversible.
#[must_use]
pub fn tsv(report: &GridReport) -> String {
    lines(report, tsv_line)
}

/// [`tsv`] with commas; every text that needs it is quoted (RFC 4180).
#[must_use]
pub fn csv(report: &GridReport) -> String {
    lines(report, csv_line)
}

fn lines(report: &GridReport, line: impl Fn(&mut String, &[String])) -> String {
    let mut out = String::new();
    line(&mut out, &HEADER.map(str::to_owned));
    for row in &report.rows {
        for (column, found) in report.columns.iter().zip(&row.cells) {
            let token = column.token.as_deref().map(cell).unwrap_or_default();
            let texts = [cell(&row.label), cell(&column.label), token, cell(&found.activation)];
            line(&mut out, &[&texts[..], &[found.value.to_string(), found.effect.to_string()]].concat());
        }
    }
    out
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
    out += "\n| layer |";
    for column in &report.columns {
        let _ = write!(out, " {} |", code(column.token.as_ref().unwrap_or(&column.label)));
    }
    out += "\n|---:|";
    out += &"---:|".repeat(report.columns.len());
    for row in report.rows_downwards() {
        let _ = write!(out, "\n| {} |", code(&row.label));
        for cell in &row.cells {
            let _ = write!(out, " {} |", report.number(cell.effect));
        }
    }
    out + "\n"
}
