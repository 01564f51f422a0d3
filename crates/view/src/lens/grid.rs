//! The report as a table: the row and column of each cell, and whether it agrees with the final layer.

use std::collections::HashMap;

use super::report::{LayerPosition, LayerRow, LensReport, Token};

pub(crate) struct Grid<'a> {
    /// In the order of the prompt.
    pub(crate) columns: Vec<Column<'a>>,
    /// Final layer first, embedding last.
    pub(crate) rows: Vec<Row<'a>>,
}

pub(crate) struct Column<'a> {
    pub(crate) position: usize,
    /// The token read.
    pub(crate) token: Option<&'a Token>,
    /// The token that actually comes next.
    pub(crate) next: Option<&'a Token>,
    /// The model's own top token, id and text, if known.
    pub(crate) final_top: Option<(u32, &'a str)>,
    /// Whether that is the next token; `None` if either is unknown.
    pub(crate) right: Option<bool>,
}

pub(crate) struct Row<'a> {
    /// `29`, `emb`, `L5H3`.
    pub(crate) label: String,
    pub(crate) layer: &'a LayerRow,
    /// One per column.
    pub(crate) cells: Vec<Option<Cell<'a>>>,
}

#[derive(Clone, Copy)]
pub(crate) struct Cell<'a> {
    pub(crate) at: &'a LayerPosition,
    /// Whether its top token is the final layer's.
    pub(crate) agrees: bool,
}

impl<'a> Grid<'a> {
    pub(crate) fn new(report: &'a LensReport) -> Self {
        let tokens: HashMap<usize, &Token> = report.tokens.iter().map(|t| (t.position, t)).collect();
        let finals = final_tops(report);
        let positions = report.layers.first().map_or(&[][..], |row| &row.positions);
        let columns = positions
            .iter()
            .map(|at| {
                let next = at.position.checked_add(1).and_then(|p| tokens.get(&p).copied());
                let final_top = finals.get(&at.position).copied();
                let right = next.zip(final_top).map(|(next, top)| top.0 == next.id);
                Column {
                    position: at.position,
                    token: tokens.get(&at.position).copied(),
                    next,
                    final_top,
                    right,
                }
            })
            .collect::<Vec<_>>();
        let mut layers: Vec<&LayerRow> = report.layers.iter().collect();
        layers.sort_by_key(|row| row.layer);
        let rows = layers
            .into_iter()
            .rev()
            .map(|layer| Row { label: label(layer, report), layer, cells: cells(layer, &columns) })
            .collect();
        Self { columns, rows }
    }
}

fn cells<'a>(row: &'a LayerRow, columns: &[Column<'_>]) -> Vec<Option<Cell<'a>>> {
    let by_position: HashMap<usize, &LayerPosition> =
        row.positions.iter().map(|at| (at.position, at)).collect();
    let cell = |column: &Column<'_>| {
        let at = *by_position.get(&column.position)?;
        Some(Cell { at, agrees: agrees(at, column.final_top.map(|top| top.0)) })
    };
    columns.iter().map(cell).collect()
}

/// By id if the final layer's token is known; else by its log-probability, which is then the cell's largest.
fn agrees(at: &LayerPosition, final_id: Option<u32>) -> bool {
    match (at.top.first(), final_id) {
        (None, _) => false,
        (Some(top), _) if top.logprob.is_nan() => false,
        (Some(top), Some(id)) => top.id == id,
        (Some(top), None) => top.logprob == at.logprob_of_final_top,
    }
}

/// The model's own top token by position.
fn final_tops(report: &LensReport) -> HashMap<usize, (u32, &str)> {
    let last = report.model.n_layers as i64 - 1;
    let is_final = |row: &&LayerRow| row.layer == last && row.name.starts_with("resid_out");
    let mut tops = HashMap::new();
    for at in report.layers.iter().find(is_final).map_or(&[][..], |row| &row.positions) {
        if let Some(top) = at.top.first().filter(|top| !top.logprob.is_nan()) {
            tops.insert(at.position, (top.id, top.text.as_str()));
        }
    }
    tops.extend(report.final_top.iter().map(|top| (top.position, (top.id, top.text.as_str()))));
    tops
}

fn label(row: &LayerRow, report: &LensReport) -> String {
    let component = report.settings.component.as_str();
    let part = row.name.strip_prefix(component).and_then(|rest| rest.strip_prefix('_'));
    match part {
        _ if row.layer < 0 => "emb".into(),
        // A head or an expert: the layer alone would not distinguish rows.
        Some(part) if part.contains(['L', 'E']) && part.len() <= 12 => crate::text::printable(part),
        _ => row.layer.to_string(),
    }
}
