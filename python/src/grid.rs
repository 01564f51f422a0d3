//! Pictures of a grid.

use easyroutine_view::drawing::Screen;
use easyroutine_view::grid::{GridCell, GridColumn, GridReport, GridRow};
use easyroutine_view::lens::ColourDepth;
use pyo3::prelude::*;

use crate::attention::drawn;
use crate::errors::Failure;

/// A grid as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct GridInput {
    title: String,
    words: Vec<String>,
    prompts: Vec<(String, String)>,
    meaning: [String; 2],
    /// Labels and tokens.
    columns: Vec<(String, Option<String>)>,
    layers: Vec<usize>,
    /// The feature of each row; empty where rows are layers.
    features: Vec<u32>,
    /// Tokens that go through each expert; empty where rows are not swept along experts.
    routed: Vec<Vec<usize>>,
    activations: Vec<Vec<String>>,
    values: Vec<Vec<f64>>,
    unchanged: f64,
}

/// The grid in one format: `html`, `svg`, `png`, `csv`, `markdown`, or `terminal`, which is `width` columns wide.
pub(crate) fn draw(grid: GridInput, format: &str, width: usize, colour: bool) -> Result<Vec<u8>, Failure> {
    let report = grid.report()?;
    let colour = if colour { ColourDepth::True } else { ColourDepth::None };
    drawn(&report, format, Screen { width, colour })
}

impl GridInput {
    fn report(self) -> Result<GridReport, Failure> {
        let (n_rows, n_columns) = (self.layers.len(), self.columns.len());
        let fits = |rows: &[usize]| rows.len() == n_rows && rows.iter().all(|n| *n == n_columns);
        let names: Vec<usize> = self.activations.iter().map(Vec::len).collect();
        let values: Vec<usize> = self.values.iter().map(Vec::len).collect();
        let routed: Vec<usize> = self.routed.iter().map(Vec::len).collect();
        let is_routed = routed.is_empty() || fits(&routed);
        if !fits(&names) || !fits(&values) || !is_routed || n_rows * n_columns == 0 {
            return Err(Failure::input(format!(
                "a grid of {n_rows} layers by {n_columns} columns has as many values"
            )));
        }
        let (unchanged, is_features) = (self.unchanged, !self.features.is_empty());
        let cell = |((value, activation), routed): ((f64, String), Option<usize>)| GridCell {
            activation,
            value,
            effect: value - unchanged,
            routed,
        };
        let mut routed = self.routed.into_iter();
        let row = |((layer, values), names): ((usize, Vec<f64>), Vec<String>)| GridRow {
            label: match (is_features, names.first()) {
                (true, Some(feature)) => feature.clone(),
                _ => format!("layer {layer}"),
            },
            cells: values
                .into_iter()
                .zip(names)
                .zip(routed.next().into_iter().flatten().map(Some).chain(std::iter::repeat(None)))
                .map(cell)
                .collect(),
        };
        let columns = self.columns.into_iter().map(|(label, token)| GridColumn { label, token });
        Ok(GridReport {
            row_kind: if is_features { "feature" } else { "layer" },
            title: self.title,
            lines: self.words,
            prompts: self.prompts,
            meaning: self.meaning,
            columns: columns.collect(),
            rows: self.layers.into_iter().zip(self.values).zip(self.activations).map(row).collect(),
        })
    }
}
