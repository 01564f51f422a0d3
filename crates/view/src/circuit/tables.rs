//! A circuit as lines, largest edge first.

use std::fmt::Write as _;

use super::CircuitReport;
use crate::table::{Cell, Table};
use crate::text::{self, columns, fit, printable};

/// One row per edge.
#[must_use]
pub fn table(report: &CircuitReport) -> Table<'_> {
    let rows = report.by_size().into_iter().map(|edge| {
        let [from, to] = [&edge.from, &edge.to].map(Cell::exact);
        vec![Cell::exact(edge.name()), from, to, Cell::optional(edge.input), Cell::exact(edge.score)]
    });
    Table::new(&["edge", "from", "to", "input", "score"], rows)
}

/// A Markdown table of edges.
#[must_use]
pub fn markdown(report: &CircuitReport) -> String {
    let code = |text: &str| text::markdown(&printable(text));
    let mut out = String::new();
    for line in report.shown_lines() {
        let parts: Vec<String> = line.split(" · ").map(text::markdown).collect();
        let _ = writeln!(out, "{}  ", parts.join(" · "));
    }
    for (what, prompt) in &report.prompts {
        let _ = writeln!(out, "{}: {}  ", code(what), code(prompt));
    }
    out.push('\n');
    let rows = report.by_size().into_iter().map(|edge| vec![Cell::token(&edge.name()), signed(edge.score)]);
    out + &Table::new(&["edge", "score"], rows).markdown()
}

fn signed(score: f64) -> Cell {
    Cell::new(format!("{score:+.5}"), score)
}

/// The `most` largest edges as a table for a terminal of `width` columns.
#[must_use]
pub fn terminal(report: &CircuitReport, width: usize, most: usize) -> String {
    let mut out = format!("{}\n", printable(&report.title));
    for line in report.shown_lines() {
        let _ = writeln!(out, "{line}");
    }
    for (what, prompt) in &report.prompts {
        let what = printable(what);
        let room = width.saturating_sub(columns(&what) + 2).max(8);
        let _ = writeln!(out, "{what}  {}", fit(&printable(prompt), room));
    }
    let _ = writeln!(
        out,
        "positive: {} · negative: {}\n",
        printable(&report.meaning[0]),
        printable(&report.meaning[1])
    );
    let edges = report.by_size();
    let names: Vec<String> = edges.iter().take(most).map(|edge| printable(&edge.name())).collect();
    let widest = names.iter().map(|name| columns(name)).max().unwrap_or(0);
    let room = width.saturating_sub(widest + 12).clamp(4, 40);
    for (edge, name) in edges.iter().zip(&names) {
        let length = (edge.score.abs() / report.reach() * room as f64).round() as usize;
        let bar = if edge.score < 0.0 { "-" } else { "+" }.repeat(length);
        let blanks = " ".repeat(widest - columns(name));
        let _ = writeln!(out, "{}", format!("{name}{blanks}  {:>+9.5}  {bar}", edge.score).trim_end());
    }
    if edges.len() > most {
        let _ = writeln!(out, "{most} of {} edges; the whole: -o circuit.html", edges.len());
    }
    out
}
