//! A circuit: which parts of a model read which others' outputs, and with what weight.

mod html;
mod json;
mod picture;
mod tables;

pub use html::{html, page_data};
pub use picture::{png, svg};
pub use tables::{markdown, table, terminal};

/// The contents of a picture of a circuit.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitReport {
    /// `Circuit`.
    pub title: String,
    /// The model, the method, the metric, its faithfulness: one line each, with parts joined by ` · `.
    pub lines: Vec<String>,
    /// Prompts with their roles: `clean`, `corrupted`.
    pub prompts: Vec<(String, String)>,
    /// The meaning of positive and negative numbers.
    pub meaning: [String; 2],
    /// Layers of the model.
    pub n_layers: usize,
    /// Heads per layer.
    pub n_heads: usize,
    /// The kept edges.
    pub edges: Vec<CircuitEdge>,
}

/// One edge.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitEdge {
    /// The writer: `input`, `a3.h2`, `m3`.
    pub from: String,
    /// The reader: `a3.h2`, `m3`, `logits`.
    pub to: String,
    /// The input of a head that reads: `q`, `k`, `v`.
    pub input: Option<char>,
    /// The score.
    pub score: f64,
}

impl CircuitEdge {
    /// `a3.h2->a5.h1<q>`
    pub fn name(&self) -> String {
        let input = self.input.map_or(String::new(), |input| format!("<{input}>"));
        format!("{}->{}{input}", self.from, self.to)
    }
}

/// The place of a node: its row from below, and its column from the left. MLPs have the last column to themselves.
pub(crate) fn place(name: &str, n_layers: usize, n_heads: usize) -> Option<(usize, f64)> {
    let middle = n_heads as f64 / 2.0;
    if name == "input" {
        return Some((0, middle));
    }
    if name == "logits" {
        return Some((2 * n_layers + 1, middle));
    }
    let below = |text: &str, end: usize| text.parse::<usize>().ok().filter(|number| *number < end);
    if let Some(layer) = name.strip_prefix('m') {
        return Some((2 * below(layer, n_layers)? + 2, n_heads as f64 + 0.75));
    }
    let (layer, head) = name.strip_prefix('a')?.split_once(".h")?;
    Some((2 * below(layer, n_layers)? + 1, below(head, n_heads)? as f64 + 0.5))
}

impl CircuitReport {
    /// The edges, largest absolute score first.
    pub(crate) fn by_size(&self) -> Vec<&CircuitEdge> {
        let mut edges: Vec<&CircuitEdge> = self.edges.iter().collect();
        edges.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()).then_with(|| a.name().cmp(&b.name())));
        edges
    }

    /// The largest absolute score; 1 if all are 0.
    pub(crate) fn reach(&self) -> f64 {
        let largest =
            self.edges.iter().map(|edge| edge.score.abs()).filter(|x| x.is_finite()).fold(0.0, f64::max);
        if largest > 0.0 { largest } else { 1.0 }
    }

    /// The nodes that have an edge, with their places.
    pub(crate) fn nodes(&self) -> Vec<(String, usize, f64)> {
        let mut names: Vec<&str> =
            self.edges.iter().flat_map(|edge| [edge.from.as_str(), edge.to.as_str()]).collect();
        names.extend(["input", "logits"]);
        names.sort_unstable();
        names.dedup();
        let mut nodes: Vec<(String, usize, f64)> = names
            .into_iter()
            .filter_map(|name| {
                let (row, column) = place(name, self.n_layers, self.n_heads)?;
                Some((name.to_owned(), row, column))
            })
            .collect();
        nodes.sort_by(|a, b| a.1.cmp(&b.1).then(a.2.total_cmp(&b.2)));
        nodes
    }

    /// The lines, ready for display.
    pub(crate) fn shown_lines(&self) -> impl Iterator<Item = String> {
        self.lines.iter().map(|line| crate::text::facts(line))
    }
}
