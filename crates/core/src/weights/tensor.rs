//! One tensor of a checkpoint, in its safetensors form.

use easyroutine_files::{Encoding, LastingRows, StoredTensor};
use easyroutine_kernels as kernels;

use crate::error::Result;
use crate::names::StorageQuirk;

/// One stored tensor in its checkpoint form.
#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    pub(super) stored: StoredTensor<'a>,
    pub(super) quirk: StorageQuirk,
}

impl Tensor<'_> {
    /// Decodes one row (all axes except the last count together).
    pub(crate) fn read_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        self.stored.read_row(self.quirk.stored_row(row, self.stored.rows()), out)?;
        self.quirk.undo(out);
        Ok(())
    }

    /// Decodes everything, row by row.
    pub(crate) fn read_all(&self) -> Result<Vec<f32>> {
        let width = self.stored.row_len();
        let mut values = vec![0.0; self.stored.elements()];
        for (row, out) in values.chunks_exact_mut(width.max(1)).enumerate() {
            self.read_row(row, out)?;
        }
        Ok(values)
    }

    /// Whether another tensor is stored in the same bytes.
    pub(crate) fn same_as(&self, other: &Tensor<'_>) -> bool {
        self.stored.encoding() == other.stored.encoding() && self.stored.bytes() == other.stored.bytes()
    }

    /// Sizes of its axes.
    pub(crate) fn shape(&self) -> &[usize] {
        self.stored.shape()
    }

    /// The encoding of its numbers.
    pub(crate) fn encoding(&self) -> Encoding {
        self.stored.encoding()
    }

    /// Bytes that it takes when packed.
    pub(crate) fn packed_bytes(&self, dtype: kernels::Dtype) -> u64 {
        let encoding = self.encoding();
        // A byte of MXFP4 holds two numbers.
        let values = self.stored.elements() as u64 * if encoding == Encoding::U8 { 2 } else { 1 };
        match (dtype, as_multiplied(encoding)) {
            (kernels::Dtype::Bf16, _) => 2 * values,
            (kernels::Dtype::F32, kernels::Encoding::F32) => 4 * values,
            // Their 6-bit scales take a byte each.
            (kernels::Dtype::F32, kernels::Encoding::Q4K | kernels::Encoding::Q5K) => {
                self.stored.bytes().len() as u64 + values / 64
            }
            (kernels::Dtype::F32, _) => self.stored.bytes().len() as u64,
        }
    }

    /// Number of rows (all axes except the last count together), and their length.
    pub(crate) fn rows(&self) -> (usize, usize) {
        (self.stored.rows(), self.stored.row_len())
    }

    /// Releases the file's pages.
    pub(crate) fn drop_pages(&self) {
        self.stored.drop_pages();
    }
}

/// The rows of one stored tensor in checkpoint form. They keep its file mapped.
#[derive(Debug)]
pub(crate) struct TensorRows {
    /// `None` if there is no such tensor: then no model is built from it.
    pub(super) stored: Option<LastingRows>,
    pub(super) quirk: StorageQuirk,
}

impl TensorRows {
    /// Whether the tensor is missing.
    pub(crate) fn is_missing(&self) -> bool {
        self.stored.is_none()
    }

    /// Decodes one row, which must exist and be as long as `out`.
    pub(crate) fn read(&self, row: usize, out: &mut [f32]) {
        let Some(stored) = &self.stored else { return };
        stored.read(self.quirk.stored_row(row, stored.len()), out);
        self.quirk.undo(out);
    }

    /// The encoding of the rows, if products can use it: its values are those of [`TensorRows::read`].
    pub(crate) fn encoding(&self) -> kernels::Encoding {
        match &self.stored {
            Some(stored) if self.quirk != StorageQuirk::PlusOne => as_multiplied(stored.encoding()),
            _ => kernels::Encoding::F32,
        }
    }

    /// One row as stored.
    pub(crate) fn read_stored(&self, row: usize, bytes: &mut [u8]) {
        let Some(stored) = &self.stored else { return };
        bytes.copy_from_slice(stored.bytes(self.quirk.stored_row(row, stored.len())));
    }

    /// Releases the file's pages.
    pub(crate) fn drop_pages(&self) {
        self.stored.iter().for_each(LastingRows::drop_pages);
    }
}

/// The products' name for a file encoding; encodings unknown to them are widened to f32.
fn as_multiplied(encoding: Encoding) -> kernels::Encoding {
    match encoding {
        Encoding::F16 => kernels::Encoding::F16,
        Encoding::Bf16 => kernels::Encoding::Bf16,
        Encoding::Q4_0 => kernels::Encoding::Q4_0,
        Encoding::Q4_1 => kernels::Encoding::Q4_1,
        Encoding::Q5_0 => kernels::Encoding::Q5_0,
        Encoding::Q5_1 => kernels::Encoding::Q5_1,
        Encoding::Q8_0 => kernels::Encoding::Q8_0,
        Encoding::Q4K => kernels::Encoding::Q4K,
        Encoding::Q5K => kernels::Encoding::Q5K,
        Encoding::Q6K => kernels::Encoding::Q6K,
        _ => kernels::Encoding::F32,
    }
}

impl StorageQuirk {
    /// The index of a row among the stored ones.
    fn stored_row(self, row: usize, rows: usize) -> usize {
        let StorageQuirk::InterleavedRows { heads } = self else { return row };
        let d_head = rows / heads;
        let (head, within) = (row / d_head, row % d_head);
        let half = d_head / 2;
        head * d_head + 2 * (within % half) + within / half
    }

    /// Turns a stored row's values back into the checkpoint's.
    fn undo(self, values: &mut [f32]) {
        if self == StorageQuirk::PlusOne {
            values.iter_mut().for_each(|x| *x -= 1.0);
        }
    }
}
