//! Stored projections, and the rows of several as one matrix.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use easyroutine_kernels::{Encoding, Source};
use half::{bf16, f16};

use super::checkpoint::Checkpoint;
use super::load::Place;
use super::mxfp4::Mxfp4;
use super::table::Table;
use super::tensor::{TensorRows, spans};
use crate::adapter::LowRank;

/// One stored projection.
#[derive(Debug)]
pub(crate) struct Part {
    pub(super) weight: PartRows,
    pub(super) bias: Option<Vec<f32>>,
    /// An adapter's update.
    pub(super) update: Option<LowRank>,
}

impl Part {
    /// The projection times a factor, including biases and updates.
    pub(crate) fn times(mut self, factor: Option<f32>) -> Part {
        let Some(factor) = factor else { return self };
        let times = |values: &mut Vec<f32>| values.iter_mut().for_each(|x| *x *= factor);
        self.bias.iter_mut().for_each(times);
        if let Some(update) = &mut self.update {
            times(&mut update.b);
            update.bias.iter_mut().for_each(times);
        }
        if !self.weight.is_missing() {
            self.weight = PartRows::Times(Box::new(self.weight), factor);
        }
        self
    }

    /// The biases: the stored one, and an adapter's.
    pub(super) fn biases(&self) -> impl Iterator<Item = &Vec<f32>> {
        self.bias.iter().chain(self.update.iter().flat_map(|update| &update.bias))
    }
}

#[derive(Debug)]
pub(super) enum PartRows {
    /// Stored `[outputs, inputs]`.
    Stored(TensorRows),
    /// The same, from this row on.
    From(TensorRows, usize),
    /// Stored `[inputs, outputs]`.
    Columns(Columns),
    /// A table looked up by row.
    Table(Table),
    /// Blocks of 32 four-bit numbers with a common scale.
    Mxfp4(Mxfp4),
    /// Other rows times a factor.
    Times(Box<PartRows>, f32),
    /// Recorded as a fault: no model is built from it.
    Missing,
}

impl PartRows {
    pub(super) fn is_missing(&self) -> bool {
        match self {
            PartRows::Missing => true,
            PartRows::Stored(rows) | PartRows::From(rows, _) => rows.is_missing(),
            PartRows::Times(rows, _) => rows.is_missing(),
            PartRows::Columns(_) | PartRows::Table(_) | PartRows::Mxfp4(_) => false,
        }
    }

    /// Decodes one row.
    fn read(&self, files: &Checkpoint, row: usize, weights: &mut [f32]) {
        match self {
            PartRows::Stored(rows) => rows.read(row, weights),
            PartRows::From(rows, first) => rows.read(first + row, weights),
            PartRows::Table(table) => table.read(row, weights),
            PartRows::Columns(columns) => {
                let values = columns.values();
                weights.iter_mut().zip(columns.column(&values, row)).for_each(|(x, v)| *x = *v);
            }
            PartRows::Mxfp4(blocks) => blocks.read(files, row, weights),
            PartRows::Times(rows, factor) => {
                rows.read(files, row, weights);
                weights.iter_mut().for_each(|x| *x *= factor);
            }
            PartRows::Missing => {}
        }
    }

    /// The encoding of a row, if products can use it.
    fn encoding(&self, row: usize) -> Encoding {
        match self {
            PartRows::Stored(rows) => rows.encoding(row),
            PartRows::From(rows, first) => rows.encoding(first + row),
            PartRows::Table(table) => table.encoding(row),
            PartRows::Columns(columns) => columns.encoding(),
            PartRows::Mxfp4(_) | PartRows::Times(..) | PartRows::Missing => Encoding::F32,
        }
    }

    /// One row as stored.
    fn read_stored(&self, row: usize, bytes: &mut [u8]) {
        match self {
            PartRows::Stored(rows) | PartRows::Table(Table { rows, .. }) => rows.read_stored(row, bytes),
            PartRows::From(rows, first) => rows.read_stored(first + row, bytes),
            PartRows::Columns(columns) => {
                let values = columns.values();
                for (bytes, value) in bytes.chunks_exact_mut(2).zip(columns.column(&values, row)) {
                    bytes.copy_from_slice(&match columns.encoding() {
                        Encoding::F16 => f16::from_f32(*value).to_le_bytes(),
                        _ => bf16::from_f32(*value).to_le_bytes(),
                    });
                }
            }
            PartRows::Mxfp4(_) | PartRows::Times(..) | PartRows::Missing => {}
        }
    }

    /// Releases the file's pages of some rows.
    fn drop_pages(&self, range: &Range<usize>) {
        match self {
            PartRows::Stored(rows) => rows.drop_pages(range),
            PartRows::From(rows, first) => rows.drop_pages(&(first + range.start..first + range.end)),
            PartRows::Table(table) => table.drop_pages(range),
            PartRows::Times(rows, _) => rows.drop_pages(range),
            // Decoded as a whole, so kept until the last row is packed.
            PartRows::Columns(columns) if range.end < columns.outputs => {}
            PartRows::Columns(columns) => columns.forget(),
            PartRows::Mxfp4(_) | PartRows::Missing => {}
        }
    }

    /// Says that some rows will be read soon.
    fn soon(&self, range: &Range<usize>) {
        match self {
            PartRows::Stored(rows) => rows.soon(range),
            PartRows::From(rows, first) => rows.soon(&(first + range.start..first + range.end)),
            PartRows::Table(table) => table.soon(range),
            PartRows::Times(rows, _) => rows.soon(range),
            PartRows::Columns(columns) => columns.rows.soon(&columns.of),
            PartRows::Mxfp4(_) | PartRows::Missing => {}
        }
    }
}

/// A projection that is stored `[inputs, outputs]`: decoded as a whole when it is read, because rows are columns there.
/// Values of f16 and bf16 are packed as such again.
#[derive(Debug)]
pub(super) struct Columns {
    rows: TensorRows,
    /// Which of the rows: its inputs.
    of: Range<usize>,
    outputs: usize,
    /// The decoded values, while they are read.
    values: Mutex<Option<Arc<[f32]>>>,
}

impl Columns {
    pub(super) fn new(rows: TensorRows, of: Range<usize>, outputs: usize) -> Columns {
        Columns { rows, of, outputs, values: Mutex::default() }
    }

    /// How its values are packed.
    pub(super) fn encoding(&self) -> Encoding {
        match self.rows.encoding(self.of.start) {
            encoding @ (Encoding::F16 | Encoding::Bf16) => encoding,
            _ => Encoding::F32,
        }
    }

    fn values(&self) -> Arc<[f32]> {
        let mut held = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let decode = || {
            let mut values = vec![0.0; self.of.len() * self.outputs];
            let rows = values.chunks_exact_mut(self.outputs.max(1));
            self.of.clone().zip(rows).for_each(|(row, out)| self.rows.read(row, out));
            self.rows.drop_pages(&self.of);
            values.into()
        };
        Arc::clone(held.get_or_insert_with(decode))
    }

    /// One output's weights among all values.
    fn column<'a>(&self, values: &'a [f32], output: usize) -> impl Iterator<Item = &'a f32> + use<'a> {
        values[output..].iter().step_by(self.outputs)
    }

    fn forget(&self) {
        *self.values.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The rows of several stored projections as one matrix.
pub(super) struct JoinedRows {
    pub(super) parts: Vec<PartRows>,
    pub(super) place: Box<dyn Fn(usize) -> Place + Send + Sync>,
    pub(super) outputs: usize,
    /// Whether they are read again after they were packed.
    pub(super) again: bool,
    /// Marks the files as still in use.
    pub(super) files: Arc<Checkpoint>,
}

impl Source for JoinedRows {
    fn read(&self, output: usize, weights: &mut [f32]) {
        let (part, row) = (self.place)(output);
        self.parts[part].read(&self.files, row, weights);
    }

    fn encoding(&self, output: usize) -> Encoding {
        let (part, row) = (self.place)(output);
        self.parts[part].encoding(row)
    }

    fn read_stored(&self, output: usize, bytes: &mut [u8]) {
        let (part, row) = (self.place)(output);
        self.parts[part].read_stored(row, bytes);
    }

    fn done(&self, outputs: Range<usize>) {
        self.of_parts(outputs, PartRows::drop_pages);
    }

    fn soon(&self) {
        self.of_parts(0..self.outputs, PartRows::soon);
    }

    fn is_read_again(&self) -> bool {
        self.again
    }
}

impl JoinedRows {
    /// Does something with the rows of each part among which these outputs stand.
    fn of_parts(&self, outputs: Range<usize>, act: impl Fn(&PartRows, &Range<usize>)) {
        let spans = spans(self.parts.len(), outputs.map(|output| (self.place)(output)));
        for (part, span) in self.parts.iter().zip(&spans) {
            span.iter().for_each(|span| act(part, span));
        }
    }
}
