//! One tensor of a checkpoint, in its safetensors form.

use std::ops::Range;

use easyroutine_files::{Encoding, LastingRows, StoredTensor};
use easyroutine_kernels as kernels;

use crate::error::Result;
use crate::names::{Axes, ColumnGroups, RowOrder, StoredValues};

/// One tensor as the checkpoint would have it.
#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    /// The stored tensors that hold it: at least one.
    pub(super) parts: Vec<StoredTensor<'a>>,
    pub(super) shape: Vec<usize>,
    pub(super) order: RowOrder,
    pub(super) axes: Axes,
    pub(super) values: StoredValues,
    pub(super) columns: Option<ColumnGroups>,
}

impl<'a> Tensor<'a> {
    /// One that is stored as it is.
    pub(super) fn plain(stored: StoredTensor<'a>) -> Self {
        let shape = stored.shape().to_vec();
        let (order, axes, values) = (RowOrder::AsStored, Axes::OutIn, StoredValues::Same);
        Tensor { parts: vec![stored], shape, order, axes, values, columns: None }
    }

    /// The container's name of the first stored tensor.
    pub(super) fn name(&self) -> &'a str {
        self.parts[0].name()
    }

    /// Decodes one row (all axes but the last counted together).
    pub(crate) fn read_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        if self.axes == Axes::InOut {
            // The container has it as a column.
            let (inputs, outputs) = self.matrix();
            let (matrix, column) = (row / inputs, row % inputs);
            let mut stored = vec![0.0; inputs];
            for (output, x) in out.iter_mut().enumerate() {
                self.read_stored(matrix * outputs + output, &mut stored)?;
                *x = stored[column];
            }
        } else if self.is_of_numbers() {
            self.read_numbers(row * out.len(), out)?;
        } else {
            self.read_stored(row, out)?;
        }
        self.values.undo(out);
        Ok(())
    }

    /// Decodes everything, row by row.
    pub(crate) fn read_all(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.shape.iter().product()];
        if self.axes == Axes::InOut {
            let (inputs, outputs) = self.matrix();
            let mut stored = vec![0.0; inputs];
            for (m, matrix) in values.chunks_exact_mut((inputs * outputs).max(1)).enumerate() {
                for output in 0..outputs {
                    self.read_stored(m * outputs + output, &mut stored)?;
                    let column = matrix[output..].iter_mut().step_by(outputs);
                    column.zip(&stored).for_each(|(x, v)| *x = *v);
                }
            }
        } else if self.is_of_numbers() {
            self.read_numbers(0, &mut values)?;
        } else {
            for (row, out) in values.chunks_exact_mut(self.row_len().max(1)).enumerate() {
                self.read_stored(row, out)?;
            }
        }
        self.values.undo(&mut values);
        Ok(values)
    }

    /// Calls `each` with every row and its number.
    pub(crate) fn each_row(&self, mut each: impl FnMut(usize, &[f32])) -> Result<()> {
        let (rows, length) = self.rows();
        if self.axes == Axes::InOut {
            let all = self.read_all()?;
            all.chunks_exact(length.max(1)).enumerate().for_each(|(i, row)| each(i, row));
            return Ok(());
        }
        let mut row = vec![0.0; length];
        for i in 0..rows {
            self.read_row(i, &mut row)?;
            each(i, &row);
        }
        Ok(())
    }

    /// A row in the container's order of axes.
    fn read_stored(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let (part, row) = self.order.place(row, self.parts.len());
        self.parts[part].read_row(row, out)?;
        if let Some(columns) = self.columns {
            columns.undo(out);
        }
        Ok(())
    }

    /// Numbers from the `first` on, where each has a place of its own.
    fn read_numbers(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let places = |part: usize| {
            let all = (first..first + out.len()).map(|i| self.order.place(i, self.parts.len()));
            all.enumerate().filter(move |(_, (of, _))| *of == part).map(|(i, (_, place))| (i, place))
        };
        let mut found = Vec::new();
        for (number, part) in self.parts.iter().enumerate() {
            let length = part.row_len().max(1);
            let (least, most) = places(number).fold((usize::MAX, 0), |(a, b), (_, p)| (a.min(p), b.max(p)));
            if least > most {
                continue;
            }
            let rows = least / length..most / length + 1;
            let mut values = vec![0.0; rows.len() * length];
            part.read_rows(rows.clone(), &mut values)?;
            found.extend(places(number).map(|(i, place)| (i, values[place - rows.start * length])));
        }
        found.into_iter().for_each(|(i, value)| out[i] = value);
        Ok(())
    }

    /// Whether each number has a place of its own: in vectors, and where the order says so.
    pub(super) fn is_of_numbers(&self) -> bool {
        self.order.is_of_numbers() || self.shape.len() == 1 && self.order != RowOrder::AsStored
    }

    /// The last two axes.
    fn matrix(&self) -> (usize, usize) {
        match self.shape.as_slice() {
            [.., inputs, outputs] => (*inputs, *outputs),
            _ => (1, self.shape.iter().product()),
        }
    }

    /// Whether a row is stored as one, of numbers.
    pub(crate) fn is_read_by_rows(&self) -> bool {
        self.axes == Axes::OutIn && !self.is_of_numbers() && self.is_of_floats()
    }

    /// Whether it holds numbers rather than bytes of blocks.
    pub(crate) fn is_of_floats(&self) -> bool {
        self.encoding().is_decoded()
    }

    /// Whether another tensor is stored with the same bytes.
    pub(crate) fn same_as(&self, other: &Tensor<'_>) -> bool {
        let bytes = |one: &StoredTensor<'_>, other: &StoredTensor<'_>| {
            one.encoding() == other.encoding() && one.bytes() == other.bytes()
        };
        self.parts.len() == other.parts.len() && self.parts.iter().zip(&other.parts).all(|(a, b)| bytes(a, b))
    }

    /// Sizes of its axes.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The encoding of its numbers.
    pub(crate) fn encoding(&self) -> Encoding {
        self.parts[0].encoding()
    }

    /// Bytes that it takes when packed.
    pub(crate) fn packed_bytes(&self, dtype: kernels::Dtype) -> u64 {
        let encoding = self.encoding();
        let elements = self.shape.iter().product::<usize>() as u64;
        // A byte of MXFP4 holds two numbers.
        let values = elements * if encoding == Encoding::U8 { 2 } else { 1 };
        let stored = elements * encoding.block_bytes() as u64 / encoding.block_len() as u64;
        let multiplied = match keeps_blocks(self.columns, self.row_len(), encoding) {
            true => as_multiplied(encoding),
            false => kernels::Encoding::F32,
        };
        match (dtype, multiplied) {
            (kernels::Dtype::Bf16, _) => 2 * values,
            (kernels::Dtype::F32, kernels::Encoding::F32) => 4 * values,
            // Their scales of 6 bits take a byte each.
            (kernels::Dtype::F32, kernels::Encoding::Q4K | kernels::Encoding::Q5K) => stored + values / 64,
            (kernels::Dtype::F32, _) => stored,
        }
    }

    /// Number of rows (all axes except the last count together), and their length.
    pub(crate) fn rows(&self) -> (usize, usize) {
        let outer = self.shape.split_last().map_or(&[][..], |(_, outer)| outer);
        (outer.iter().product(), self.row_len())
    }

    fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Its rows by themselves, in the container's order of axes, to be read when they are needed.
    pub(super) fn lasting(&self) -> Result<TensorRows> {
        if self.is_of_numbers() {
            return Ok(TensorRows::Decoded { values: self.read_all()?, width: self.row_len() });
        }
        let parts = self.parts.iter().map(StoredTensor::lasting).collect::<std::result::Result<_, _>>()?;
        let (order, values, columns) = (self.order.clone(), self.values, self.columns);
        Ok(TensorRows::Stored { parts, order, values, columns, width: self.row_len() })
    }

    /// Releases the file's pages.
    pub(crate) fn drop_pages(&self) {
        self.parts.iter().for_each(StoredTensor::drop_pages);
    }
}

/// The rows of one tensor as the checkpoint would have them.
#[derive(Debug)]
pub(crate) enum TensorRows {
    /// There is no such tensor: then no model is built of it.
    Missing,
    /// In files, which they keep mapped.
    Stored {
        parts: Vec<LastingRows>,
        order: RowOrder,
        values: StoredValues,
        columns: Option<ColumnGroups>,
        /// Columns of a row.
        width: usize,
    },
    /// In memory, because no row is stored as one.
    Decoded { values: Vec<f32>, width: usize },
}

impl TensorRows {
    /// Whether the tensor is missing.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, TensorRows::Missing)
    }

    /// Decodes one row, which must exist and be as long as `out`.
    pub(crate) fn read(&self, row: usize, out: &mut [f32]) {
        match self {
            TensorRows::Missing => {}
            TensorRows::Stored { parts, order, values, columns, .. } => {
                let (part, row) = order.place(row, parts.len());
                parts[part].read(row, out);
                if let Some(columns) = columns {
                    columns.undo(out);
                }
                values.undo(out);
            }
            TensorRows::Decoded { values, width } => out.copy_from_slice(&values[row * width..][..*width]),
        }
    }

    /// Whether no product takes some of the rows as they are stored.
    pub(crate) fn is_widened(&self) -> bool {
        match self {
            TensorRows::Missing => false,
            TensorRows::Stored { parts, values, columns, width, .. } => {
                let is_decoded = |part: &LastingRows| {
                    as_multiplied(part.encoding()) == kernels::Encoding::F32
                        || !keeps_blocks(*columns, *width, part.encoding())
                };
                *values != StoredValues::Same || parts.iter().any(is_decoded)
            }
            TensorRows::Decoded { .. } => true,
        }
    }

    /// How a row is written, where a product can take it so: the values are those of [`TensorRows::read`].
    pub(crate) fn encoding(&self, row: usize) -> kernels::Encoding {
        match self {
            TensorRows::Stored { parts, order, values: StoredValues::Same, columns, width } => {
                match parts[order.place(row, parts.len()).0].encoding() {
                    encoding if keeps_blocks(*columns, *width, encoding) => as_multiplied(encoding),
                    _ => kernels::Encoding::F32,
                }
            }
            _ => kernels::Encoding::F32,
        }
    }

    /// One row as stored.
    pub(crate) fn read_stored(&self, row: usize, bytes: &mut [u8]) {
        if let TensorRows::Stored { parts, order, columns, .. } = self {
            let (part, row) = order.place(row, parts.len());
            bytes.copy_from_slice(parts[part].bytes(row));
            if let Some(columns) = columns {
                columns.undo(bytes);
            }
        }
    }

    /// Releases the file's pages of some rows.
    pub(crate) fn drop_pages(&self, rows: &Range<usize>) {
        self.each_span(rows, LastingRows::drop_pages);
    }

    /// Says that some rows will be read soon.
    pub(crate) fn soon(&self, rows: &Range<usize>) {
        self.each_span(rows, LastingRows::soon);
    }

    /// Calls `act` with the stored rows among which some rows stand, for each stored tensor that has any.
    fn each_span(&self, rows: &Range<usize>, act: impl Fn(&LastingRows, Range<usize>)) {
        let TensorRows::Stored { parts, order, .. } = self else { return };
        let spans = spans(parts.len(), rows.clone().map(|row| order.place(row, parts.len())));
        parts.iter().zip(spans).for_each(|(part, span)| span.into_iter().for_each(|span| act(part, span)));
    }
}

/// Whether the checkpoint's order of columns leaves the blocks of an encoding whole.
fn keeps_blocks(columns: Option<ColumnGroups>, width: usize, encoding: Encoding) -> bool {
    columns.is_none_or(|columns| columns.width(width).is_multiple_of(encoding.block_len()))
}

/// For each part, the smallest range that holds all of its places.
pub(super) fn spans(parts: usize, places: impl Iterator<Item = (usize, usize)>) -> Vec<Option<Range<usize>>> {
    let mut spans: Vec<Option<Range<usize>>> = vec![None; parts];
    for (part, row) in places {
        let span = spans[part].get_or_insert(row..row + 1);
        *span = span.start.min(row)..span.end.max(row + 1);
    }
    spans
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
