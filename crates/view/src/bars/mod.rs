//! Signed bars: what each part or head of each layer gives to a number, with the running sum.

mod picture;

use crate::page::around;
use crate::svg::escape;
use crate::text::{facts, printable};
pub use picture::{png, svg};

/// Everything that a picture of bars shows.
#[derive(Debug, Clone, PartialEq)]
pub struct BarsReport {
    /// `Direct logit attribution`.
    pub title: String,
    /// The model, the number, what it is cut into: one line each, its parts joined by ` · `.
    pub lines: Vec<String>,
    /// Prompts with what they are.
    pub prompts: Vec<(String, String)>,
    /// What a positive and a negative number mean.
    pub meaning: [String; 2],
    /// Heads of the columns.
    pub columns: Vec<String>,
    /// Rows from the first layer up; pictures have the last on top.
    pub rows: Vec<BarRow>,
    /// What the running sum at the right is of; none where sums mean nothing.
    pub sum: Option<String>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct BarRow {
    /// `layer 5`.
    pub label: String,
    /// One value a column; none where the layer has no such part.
    pub values: Vec<Option<f64>>,
    /// The sum of all values up to this row.
    pub sum: f64,
}

impl BarsReport {
    fn shown_lines(&self) -> impl Iterator<Item = String> {
        self.lines.iter().map(|line| facts(line))
    }
}

/// The report as one HTML page around its picture: no script, no request. A pointer that rests on a bar shows its value.
#[must_use]
pub fn html(report: &BarsReport) -> String {
    around(&escape(&printable(&report.title)), &svg(report), &picture::style())
}
