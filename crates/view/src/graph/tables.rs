//! A graph as lines, largest edge first.

use std::fmt::Write as _;

use super::{GraphEdge, GraphReport, NodeKind};
use crate::table::{Cell, Table};
use crate::text::{self, columns, fit, printable};

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

/// One row per edge.
#[must_use]
pub fn table(report: &GraphReport) -> Table<'_> {
    let end = |number: usize| {
        let node = &report.nodes[number];
        let has_layer = matches!(node.kind, NodeKind::Feature | NodeKind::Error);
        [
            Cell::exact(node.kind.name()),
            Cell::optional(has_layer.then_some(node.layer)),
            Cell::exact(node.position),
            Cell::exact(&node.name),
            Cell::optional(node.value),
        ]
    };
    let rows = report.by_size().into_iter().map(move |edge| {
        let weight = Cell::exact(edge.weight);
        end(edge.from).into_iter().chain(end(edge.to)).chain([weight]).collect()
    });
    Table::new(&HEADER, rows)
}

/// A Markdown table of edges.
#[must_use]
pub fn markdown(report: &GraphReport) -> String {
    let mut out = String::new();
    for line in report.shown_lines() {
        let parts: Vec<String> = line.split(" · ").map(text::markdown).collect();
        let _ = writeln!(out, "{}  ", parts.join(" · "));
    }
    out.push('\n');
    let rows = report.by_size().into_iter().map(|edge| {
        let [from, to] = titles(report, edge).map(|title| Cell::token(&title));
        vec![from, to, Cell::new(format!("{:+.5}", edge.weight), edge.weight)]
    });
    out + &Table::new(&["from", "to", "weight"], rows).markdown()
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
