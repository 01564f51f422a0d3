//! Where a container keeps a tensor, if it is not as the safetensors checkpoint of the same model has it.

use std::sync::Arc;

use super::Axes;

/// Where a container keeps a tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The container's tensors that hold it: one, or several that the checkpoint joins.
    pub tensors: Vec<String>,
    /// Its shape in the checkpoint; `None` where it is the one stored tensor's.
    pub shape: Option<Vec<usize>>,
    /// Where its rows are. Of a vector each number counts as a row.
    pub order: RowOrder,
    /// [`Axes::InOut`] where the checkpoint has the last two axes the other way round: then `order` is about the container's.
    pub axes: Axes,
    /// What was done to the numbers.
    pub values: StoredValues,
    /// Where the columns are, if they have another order.
    pub columns: Option<ColumnGroups>,
}

impl Stored {
    /// A tensor that is stored as the checkpoint has it.
    pub fn plain(name: impl Into<String>) -> Self {
        Stored {
            tensors: vec![name.into()],
            shape: None,
            order: RowOrder::AsStored,
            axes: Axes::OutIn,
            values: StoredValues::Same,
            columns: None,
        }
    }
}

/// Blocks of columns in groups. The checkpoint has one group after another; the container has the first block of each
/// group, then the second of each, and so on (llama.cpp's converter, `_reorder_v_heads`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnGroups {
    /// Number of groups.
    pub groups: usize,
    /// Blocks of each.
    pub blocks: usize,
}

impl ColumnGroups {
    /// Where the container has a block of the checkpoint's.
    pub fn place(self, block: usize) -> usize {
        let (group, within) = (block / self.blocks, block % self.blocks);
        within * self.groups + group
    }

    /// Brings a row, of numbers or of their bytes, to the checkpoint's order.
    pub(crate) fn undo<T: Copy>(self, row: &mut [T]) {
        let stored = row.to_vec();
        let width = self.width(row.len()).max(1);
        for (block, columns) in row.chunks_exact_mut(width).enumerate() {
            columns.copy_from_slice(&stored[self.place(block) * width..][..width]);
        }
    }

    /// Columns of a block.
    pub(crate) fn width(self, columns: usize) -> usize {
        columns / (self.groups * self.blocks).max(1)
    }
}

/// Where the rows of a tensor are among those of the stored ones. All axes but the last are counted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowOrder {
    /// In their order.
    AsStored,
    /// The numbers are in their order, whatever the rows.
    AsNumbers,
    /// In their order, from this one on: one expert of all.
    From(usize),
    /// Row `2i + s` of a head holds row `i + s * d_head / 2` (llama.cpp's converter, `LlamaModel.permute`).
    Interleaved {
        /// Rows of a head.
        d_head: usize,
    },
    /// So many rows of each stored tensor in turn.
    InTurn(usize),
    /// In spans, the first of which begins at row 0, in ascending order.
    Spans(Arc<[Span]>),
    /// One number of each stored tensor in turn.
    NumbersInTurn,
    /// For each head its part of the keys, whose rows are the columns of a matrix of the first tensor, then its values, the
    /// rows of the second. Counts single numbers.
    KeysAndValues {
        /// Width of a head's part of the keys.
        keys: usize,
        /// Width of a head's values.
        values: usize,
        /// What both are read from.
        rank: usize,
    },
}

/// Rows that follow one another in a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first of them in the checkpoint.
    pub at: usize,
    /// Which stored tensor.
    pub tensor: usize,
    /// The first of them there.
    pub from: usize,
}

impl RowOrder {
    /// The stored tensor that has a row, and where it is there; so many stored tensors make up the one.
    pub fn place(&self, row: usize, tensors: usize) -> (usize, usize) {
        match self {
            RowOrder::AsStored | RowOrder::AsNumbers => (0, row),
            RowOrder::From(first) => (0, first + row),
            &RowOrder::Interleaved { d_head } => {
                let (head, within, half) = (row / d_head, row % d_head, d_head / 2);
                (0, head * d_head + 2 * (within % half) + within / half)
            }
            &RowOrder::InTurn(rows) => {
                let (turn, within) = (row / rows, row % rows);
                (turn % tensors, turn / tensors * rows + within)
            }
            RowOrder::NumbersInTurn => (row % tensors, row / tensors),
            RowOrder::Spans(spans) => {
                let after = spans.partition_point(|span| span.at <= row);
                let span = spans[after.saturating_sub(1)];
                (span.tensor, span.from + row - span.at)
            }
            &RowOrder::KeysAndValues { keys, values, rank } => {
                let (row, column) = (row / rank, row % rank);
                let (head, within) = (row / (keys + values), row % (keys + values));
                match within.checked_sub(keys) {
                    None => (0, (head * rank + column) * keys + within),
                    Some(value) => (1, (head * values + value) * rank + column),
                }
            }
        }
    }

    /// Whether it is about single numbers rather than rows of a matrix.
    pub fn is_of_numbers(&self) -> bool {
        matches!(self, RowOrder::AsNumbers | RowOrder::NumbersInTurn | RowOrder::KeysAndValues { .. })
    }
}

/// What a container did to the numbers of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredValues {
    /// Nothing.
    Same,
    /// Added 1 (norms of the Gemma family and others that multiply by `1 + weight`).
    PlusOne,
    /// Made the logarithm of a decay the decay: `-exp(x)`.
    MinusExp,
}

impl StoredValues {
    /// Brings numbers back to what the checkpoint has.
    pub(crate) fn undo(self, values: &mut [f32]) {
        match self {
            StoredValues::Same => {}
            StoredValues::PlusOne => values.iter_mut().for_each(|x| *x -= 1.0),
            StoredValues::MinusExp => values.iter_mut().for_each(|x| *x = (-*x).ln()),
        }
    }
}
