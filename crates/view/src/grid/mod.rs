//! A grid of effects of many changes: layers by positions, heads, sites or experts; features by positions.

mod html;
mod picture;
mod tables;
mod terminal;

use crate::text::{facts, printable};

pub use html::html;
pub use picture::{png, svg};
pub use tables::{markdown, table};
pub use terminal::terminal;

/// The contents of a picture of a grid.
#[derive(Debug, Clone, PartialEq)]
pub struct GridReport {
    /// What was done: `Activation patching`.
    pub title: String,
    /// The model, the change, the metric in words: one line each, with parts joined by ` · `.
    pub lines: Vec<String>,
    /// Prompts with their roles: `base`, `target`.
    pub prompts: Vec<(String, String)>,
    /// The meaning of positive and negative numbers; empty if there is none.
    pub meaning: [String; 2],
    /// Column headings, from left to right.
    pub columns: Vec<GridColumn>,
    /// What a row is: `layer`, `feature`.
    pub row_kind: &'static str,
    /// Rows from the first layer up, of which pictures have the last on top; features from the first down.
    pub rows: Vec<GridRow>,
}

/// The heading of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GridColumn {
    /// `3`, `head 2`, `mlp_out`, `E5`.
    pub label: String,
    /// The token at a position: untrusted text.
    pub token: Option<String>,
}

/// One layer, or one feature.
#[derive(Debug, Clone, PartialEq)]
pub struct GridRow {
    /// `layer 5`, `features_sae:12`.
    pub label: String,
    /// One cell per column.
    pub cells: Vec<GridCell>,
}

/// The effect of one change.
#[derive(Debug, Clone, PartialEq)]
pub struct GridCell {
    /// The changed activation; empty where the layer has none, and the cell stays empty.
    pub activation: String,
    /// The metric with the change.
    pub value: f64,
    /// The metric with the change minus the metric without it.
    pub effect: f64,
    /// Of an expert, the number of changed tokens that go through it; where none does, pictures have a mark in place of
    /// the number.
    pub routed: Option<usize>,
}

impl GridCell {
    /// Whether the layer has no such activation.
    fn is_empty(&self) -> bool {
        self.activation.is_empty()
    }
}

/// The meaning of positive and negative numbers, after these words; a sign that no number has is omitted.
fn meaning(report: &GridReport, words: [&str; 2]) -> String {
    let meant = words.into_iter().zip(&report.meaning).filter(|(_, meaning)| !meaning.is_empty());
    meant.map(|(word, meaning)| format!("{word}: {}", printable(meaning))).collect::<Vec<_>>().join(" · ")
}

impl GridReport {
    /// The largest absolute effect, at the end of the colour scale; 1 if nothing has any effect.
    fn reach(&self) -> f64 {
        let effects = self.rows.iter().flat_map(|row| &row.cells).map(|cell| cell.effect.abs());
        let largest = effects.filter(|x| x.is_finite()).fold(0.0, f64::max);
        if largest > 0.0 { largest } else { 1.0 }
    }

    /// An effect with its sign, and as many decimals as the largest needs.
    fn number(&self, effect: f64) -> String {
        if effect.is_nan() {
            return "NaN".to_owned();
        }
        let decimals = match self.reach() {
            x if x >= 100.0 => 0,
            x if x >= 10.0 => 1,
            x if x >= 0.1 => 2,
            _ => 4,
        };
        let text = format!("{effect:+.decimals$}");
        // Zero has no sign.
        if text[1..].bytes().all(|b| matches!(b, b'0' | b'.')) { text[1..].to_owned() } else { text }
    }

    /// A cell's effect, or the mark of a change that nothing goes through; nothing where there is no activation.
    fn text(&self, cell: &GridCell) -> String {
        match cell.routed {
            _ if cell.is_empty() => String::new(),
            Some(0) => "-".to_owned(),
            _ => self.number(cell.effect),
        }
    }

    /// The lines about model, change and metric, ready for display. ` · ` separates parts here; otherwise it would be
    /// the sign for a space.
    fn shown_lines(&self) -> impl Iterator<Item = String> {
        self.lines.iter().map(|line| facts(line))
    }

    /// Rows in the order of pictures: the last layer on top, features as they come.
    fn rows_downwards(&self) -> impl Iterator<Item = &GridRow> {
        let n = self.rows.len();
        let is_upwards = self.row_kind == "layer";
        (0..n).map(move |row| &self.rows[if is_upwards { n - 1 - row } else { row }])
    }
}
