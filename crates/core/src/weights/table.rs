//! Tables whose rows are looked up one at a time.

use std::sync::Arc;

use easyroutine_kernels::Encoding;

use super::checkpoint::Checkpoint;
use super::tensor::TensorRows;
use crate::adapter::LowRank;

/// The rows of an embedding or unembedding as the file has them, each with what an adapter adds to it. A table is read by
/// row in many places (look-ups, lenses, directions), so its update joins the rows and needs no product of its own.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) rows: TensorRows,
    pub(super) update: Option<LowRank>,
    pub(super) count: usize,
    /// Says that the files are still read.
    pub(super) _files: Arc<Checkpoint>,
}

impl Table {
    /// Number of rows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Decodes one row, which must be there and as long as `out`.
    pub(crate) fn read(&self, row: usize, out: &mut [f32]) {
        self.rows.read(row, out);
        if let Some(update) = &self.update {
            update.add_row(row, out);
        }
    }

    /// How the rows are written, where a product can take them so.
    pub(super) fn encoding(&self) -> Encoding {
        if self.update.is_some() { Encoding::F32 } else { self.rows.encoding() }
    }

    pub(super) fn drop_pages(&self) {
        self.rows.drop_pages();
    }
}
