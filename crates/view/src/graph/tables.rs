//! A graph as lines, largest edge first.

use std::fmt::Write as _;

use super::{GraphEdge, GraphReport};
use crate::fields::{csv_line, tsv_line};
use crate::text::{self, cell, columns, fit, printable};

/// One line per edge, tab-separated, with a header line.
#[must_use]
pub fn tsv(report: &GraphReport) -> String {
    lines(report, tsv_line)
}

/// [`tsv`] with commas (RFC 4180).
#[must_use]
pub fn csv(report: &GraphReport) -> String {
    lines(report, csv_line)
}

const HEADER: [&str; 11] = [
    "source_kind",
    "source_layer",
    "source_position",
    "source",
    "source_value",
    "target_kind",
    "target_layer",
    "target_position",
    "target",
    "target_value",
    "weight",
];

fn lines(report: &GraphReport, line: impl Fn(&mut String, &[String])) -> String {
    let mut out = String::new();
    line(&mut out, &HEADER.map(str::to_owned));
    for edge in report.by_size() {
        let mut fields = Vec::with_capacity(HEADER.len());
        for number in [edge.from, edge.to] {
            let node = &report.nodes[number];
            let layer = match node.kind {
                super::NodeKind::Feature | super::NodeKind::Error => node.layer.to_string(),
                _ => String::new(),
            };
            let value = node.value.map_or(String::new(), |value| value.to_string());
            fields.extend([
                node.kind.name().to_owned(),
                layer,
                node.position.to_string(),
                cell(&node.name),
                value,
            ]);
        }
        fields.push(edge.weight.to_string());
        line(&mut out, &fields);
    }
    out
}

/// A Markdown table of edges.
#[must_use]
pub fn markdown(report: &GraphReport) -> String {
    let code = |text: &str| text::markdown(&printable(text));
    let mut out = String::new();
    for line in report.shown_lines() {
        let parts: Vec<String> = line.split(" · ").map(text::markdown).collect();
        let _ = writeln!(out, "{}  ", parts.join(" · "));
    }
    out += "\n| from | to | weight |\n|---|---|---:|\n";
    for edge in report.by_size() {
        let [from, to] = titles(report, edge);
        let _ = writeln!(out, "| {} | {} | {:+.5} |", code(&from), code(&to), edge.weight);
    }
    out
}

/// The `most` largest edges as a table for a terminal of `width` columns.
#[must_use]
pub fn terminal(report: &GraphReport, width: usize, most: usize) -> String {
    let mut out = format!("{}\n", printable(&report.title));
    for line in report.shown_lines() {
        let _ = writeln!(out, "{line}");
    }
    out.push('\n');
    let edges = report.by_size();
    let shown: Vec<[String; 2]> =
        edges.iter().take(most).map(|edge| titles(report, edge).map(|title| printable(&title))).collect();
    let widest = |side: usize| shown.iter().map(|pair| columns(&pair[side])).max().unwrap_or(0);
    let room = width.saturating_sub(14) / 2;
    let (left, right) = (widest(0).min(room), widest(1).min(room));
    for (edge, [from, to]) in edges.iter().zip(&shown) {
        let (from, to) = (fit(from, left), fit(to, right));
        let blanks = |text: &str, room: usize| " ".repeat(room.saturating_sub(columns(text)));
        let line =
            format!("{from}{} → {to}{}  {:>+9.5}", blanks(&from, left), blanks(&to, right), edge.weight);
        let _ = writeln!(out, "{line}");
    }
    if edges.len() > most {
        let _ = writeln!(out, "{most} of {} edges; the whole: -o graph.html", edges.len());
    }
    out
}

fn titles(report: &GraphReport, edge: &GraphEdge) -> [String; 2] {
    [edge.from, edge.to].map(|number| report.nodes[number].title())
}
