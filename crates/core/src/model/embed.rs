//! Token ids to the first residual stream.

use std::sync::Arc;

use easyroutine_kernels::RowsMut;

use crate::batch::Batch;
use crate::error::Result;
use crate::weights::{self, Norm, Projection};

/// The embedding with its weights.
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) table: Table,
    pub(crate) width: usize,
    pub(crate) project: Option<Projection>,
    pub(crate) norm: Option<Norm>,
    /// Learned positions, rows by `d_model`; empty if the model has none.
    pub(crate) positions: Vec<f32>,
    /// Produces each layer's additional input.
    pub(crate) per_layer: Option<PerLayer>,
}

/// Weights of the layers' additional inputs.
#[derive(Debug)]
pub(crate) struct PerLayer {
    pub(crate) table: weights::Table,
    pub(crate) project: Projection,
    pub(crate) norm: Norm,
}

/// Where rows of the token embedding are read.
#[derive(Debug)]
pub(crate) enum Table {
    /// From the packed unembedding, to which it is tied.
    Packed { matrix: Arc<Projection>, rows: usize },
    /// From the mapped file: a run needs few rows, so no copy is kept.
    File(weights::Table),
}

impl Embedding {
    /// Number of ids that have a row.
    pub(crate) fn vocabulary(&self) -> usize {
        match &self.table {
            Table::Packed { rows, .. } => *rows,
            Table::File(table) => table.count(),
        }
    }

    /// Looks up ids.
    ///
    /// # Shapes
    /// `out`: tokens by the table's width.
    pub(crate) fn look_up(&self, batch: &Batch, factor: Option<f32>, mut out: RowsMut<'_>) -> Result<()> {
        match &self.table {
            Table::Packed { matrix, .. } => {
                for (token, id) in batch.ids().iter().enumerate() {
                    matrix.matrix.read_row(*id as usize, out.row_mut(token));
                }
            }
            Table::File(table) => {
                for (token, id) in batch.ids().iter().enumerate() {
                    table.read(*id as usize, out.row_mut(token));
                }
            }
        }
        if let Some(factor) = factor {
            (0..out.n_rows()).for_each(|i| out.row_mut(i).iter_mut().for_each(|x| *x *= factor));
        }
        Ok(())
    }

    /// Adds the ids' rows of the table, times a factor.
    ///
    /// # Shapes
    /// `out`: tokens by the inputs of all layers.
    pub(crate) fn add_per_layer(&self, batch: &Batch, factor: f32, mut out: RowsMut<'_>) {
        let Some(PerLayer { table, .. }) = &self.per_layer else { return };
        let mut row = vec![0.0; out.n_columns()];
        for (token, id) in batch.ids().iter().enumerate() {
            table.read(*id as usize, &mut row);
            out.row_mut(token).iter_mut().zip(&row).for_each(|(out, x)| *out += x * factor);
        }
    }

    /// Adds learned positions; position 0 takes the row `offset` of the table.
    ///
    /// # Shapes
    /// `out`: tokens by `d_model`.
    pub(crate) fn add_positions(&self, batch: &Batch, offset: usize, mut out: RowsMut<'_>) {
        let width = out.n_columns();
        for row in 0..batch.n_rows() {
            let first = offset + batch.first(row);
            for (i, token) in batch.span(row).enumerate() {
                let row = &self.positions[(first + i) * width..][..width];
                out.row_mut(token).iter_mut().zip(row).for_each(|(x, p)| *x += p);
            }
        }
    }
}

/// The nearest bfloat16, ties to even.
pub(crate) fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}
