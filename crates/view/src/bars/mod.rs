//! Signed bars: the contribution of each part or head of each layer to a number, with the running sum.

mod picture;

use crate::page::around;
use crate::svg::escape;
use crate::text::{facts, printable};
pub use picture::{png, svg};

/// The contents of a picture of bars.
#[derive(Debug, Clone, PartialEq)]
pub struct BarsReport {
    /// `Direct logit attribution`.
    pub title: String,
    /// The model, the number, its decomposition: one line each, with parts joined by ` · `.
    pub lines: Vec<String>,
    /// Prompts with their roles.
    pub prompts: Vec<(String, String)>,
    /// The meaning of positive and negative numbers.
    pub meaning: [String; 2],
    /// Column headings.
    pub columns: Vec<String>,
    /// Rows from the first layer up; pictures have the last on top.
    pub rows: Vec<BarRow>,
    /// What the running sum on the right adds up; `None` if sums have no meaning.
    pub sum: Option<String>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct BarRow {
    /// `layer 5`.
    pub label: String,
    /// One value per column; `None` if the layer lacks the part.
    pub values: Vec<Option<f64>>,
    /// The sum of all values up to this row.
    pub sum: f64,
}

impl BarsReport {
    fn shown_lines(&self) -> impl Iterator<Item = String> {
        self.lines.iter().map(|line| facts(line))
    }
}

/// The report as one HTML page around its picture: no script, no requests. Hovering over a bar shows its value.
#[must_use]
pub fn html(report: &BarsReport) -> String {
    around(&escape(&printable(&report.title)), &svg(report), &picture::style())
}
