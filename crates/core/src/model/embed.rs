//! Token ids to the first residual stream.

use std::sync::Arc;

use easyroutine_kernels::{Cpu, RowsMut};

use super::buffer::Buffer;
use crate::batch::Batch;
use crate::error::Result;
use crate::weights::{Checkpoint, Norm, Projection};

/// The embedding with its weights.
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) table: Table,
    pub(crate) width: usize,
    pub(crate) scale: Option<f32>,
    pub(crate) project: Option<Projection>,
    pub(crate) norm: Option<Norm>,
    pub(crate) positions: Option<Positions>,
}

/// Where rows of the token embedding are read.
#[derive(Debug)]
pub(crate) enum Table {
    /// From the packed unembedding, which is tied to it.
    Packed { matrix: Arc<Projection>, rows: usize },
    /// From the mapped file: a run needs few rows, so no copy is held.
    File { checkpoint: Arc<Checkpoint>, prefix: &'static str, name: String, rows: usize },
}

/// Learned positions.
#[derive(Debug)]
pub(crate) struct Positions {
    /// Rows by `d_model`.
    pub(crate) table: Vec<f32>,
    pub(crate) offset: usize,
}

impl Embedding {
    /// Ids that have a row.
    pub(crate) fn vocabulary(&self) -> usize {
        match &self.table {
            Table::Packed { rows, .. } | Table::File { rows, .. } => *rows,
        }
    }

    /// Writes the first residual stream.
    ///
    /// # Shapes
    /// `out`: tokens by `d_model`.
    pub(crate) fn apply(&self, cpu: &Cpu, batch: &Batch, mut out: RowsMut<'_>) -> Result<()> {
        match &self.project {
            None => self.look_up(batch, out.reborrow())?,
            Some(project) => {
                let mut looked_up = Buffer::default();
                looked_up.resize(batch.n_tokens(), self.width);
                self.look_up(batch, looked_up.rows_mut())?;
                project.apply(cpu, looked_up.rows(), out.reborrow());
            }
        }
        if let Some(positions) = &self.positions {
            let width = out.n_columns();
            for row in 0..batch.n_rows() {
                let first = positions.offset + batch.first(row);
                for (i, token) in batch.span(row).enumerate() {
                    let row = &positions.table[(first + i) * width..][..width];
                    out.row_mut(token).iter_mut().zip(row).for_each(|(x, p)| *x += p);
                }
            }
        }
        if let Some(norm) = &self.norm {
            norm.apply_in_place(cpu, out.reborrow(), self.width);
        }
        Ok(())
    }

    fn look_up(&self, batch: &Batch, mut out: RowsMut<'_>) -> Result<()> {
        match &self.table {
            Table::Packed { matrix, .. } => {
                for (token, id) in batch.ids().iter().enumerate() {
                    matrix.matrix.read_row(*id as usize, out.row_mut(token));
                }
            }
            Table::File { checkpoint, prefix, name, rows } => {
                let tensor = checkpoint.tensor(prefix, name, &[*rows, self.width])?;
                for (token, id) in batch.ids().iter().enumerate() {
                    tensor.read_row(*id as usize, out.row_mut(token))?;
                }
            }
        }
        if let Some(factor) = self.scale {
            (0..out.n_rows()).for_each(|i| out.row_mut(i).iter_mut().for_each(|x| *x *= factor));
        }
        Ok(())
    }
}
