//! Tables looked up row by row.

use std::ops::Range;
use std::sync::Arc;

use easyroutine_kernels::Encoding;

use super::checkpoint::Checkpoint;
use super::tensor::TensorRows;
use crate::adapter::LowRank;

/// The rows of an embedding or unembedding as stored, each with an adapter's update. A table is read by row in many
/// places (look-ups, lenses, directions), so its update is added to the rows and needs no separate product.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) rows: TensorRows,
    pub(super) update: Option<LowRank>,
    pub(super) count: usize,
    /// Marks the files as still in use.
    pub(super) _files: Arc<Checkpoint>,
}

impl Table {
    /// Number of rows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Decodes one row, which must exist and be as long as `out`.
    pub(crate) fn read(&self, row: usize, out: &mut [f32]) {
        self.rows.read(row, out);
        if let Some(update) = &self.update {
            update.add_row(row, out);
        }
    }

    /// The encoding of a row, if products can use it.
    pub(super) fn encoding(&self, row: usize) -> Encoding {
        if self.update.is_some() { Encoding::F32 } else { self.rows.encoding(row) }
    }

    pub(super) fn drop_pages(&self, rows: &Range<usize>) {
        self.rows.drop_pages(rows);
    }

    pub(super) fn soon(&self, rows: &Range<usize>) {
        self.rows.soon(rows);
    }
}
