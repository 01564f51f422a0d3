//! The memory layout of a packed matrix.

use super::encoding::Encoding;
use super::panel::Packed;
use super::{Dtype, Weights, blocks};
use crate::aligned::{Aligned, cast, cast_mut};
use crate::vector::{Element, MOST_LANES, PANEL, Vector, Work};
use crate::{Cpu, scratch};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Outputs from the gate in each panel of a gated matrix; the other half comes from up.
pub(crate) const HALF: usize = PANEL / 2;

/// Bytes of panels after which their source may let go of what it was read from: else the pages of a file would stand
/// beside the panels until the last is packed.
const AT_ONCE: usize = 16 << 20;

/// Which outputs share a panel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// 32 consecutive outputs.
    Rows,
    /// 16 from the first half of all outputs, and the corresponding 16 from the second.
    Gated,
}

/// The outputs in half a panel.
pub(crate) struct HalfPanel {
    /// The first output.
    pub(crate) start: usize,
    /// How many there are; the rest of the half is zero.
    pub(crate) count: usize,
}

/// The position of each weight.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) dtype: Dtype,
    order: Order,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

impl Layout {
    /// Outputs in order.
    pub(super) fn rows(dtype: Dtype, outputs: usize, inputs: usize) -> Layout {
        Layout { dtype, order: Order::Rows, outputs, inputs }
    }

    /// The outputs of gate and up, `neurons` each, in shared panels.
    ///
    /// # Panics
    /// If no memory can hold so many.
    pub(super) fn gated(dtype: Dtype, neurons: usize, inputs: usize) -> Layout {
        let Some(outputs) = neurons.checked_mul(2) else { panic!("{neurons} neurons overflow memory") };
        Layout { dtype, order: Order::Gated, outputs, inputs }
    }

    pub(super) fn is_gated(&self) -> bool {
        self.order == Order::Gated
    }

    /// Packs all panels in parallel. A panel keeps the stored encoding if all its weights share it and products can
    /// read it.
    ///
    /// # Panics
    /// If no memory can hold them.
    pub(super) fn pack<E: Send>(&self, cpu: &Cpu, weights: &impl Weights<E>) -> Result<Packed, E> {
        let starts = self.starts(weights);
        let end = starts.last().map_or(0, |(_, end)| *end);
        let mut bytes = Aligned::zeroed(end);
        self.fill_panels(cpu, &starts, &mut bytes.values_mut()[..end], weights)?;
        let is_decoded = starts.iter().any(|(encoding, _)| *encoding != self.dtype.into());
        Ok(Packed { bytes, starts, is_decoded })
    }

    /// The encoding of each panel and where it begins among the bytes of all; behind the last, where that ends.
    ///
    /// # Panics
    /// If no memory can hold so many bytes.
    pub(super) fn starts<E>(&self, weights: &impl Weights<E>) -> Vec<(Encoding, usize)> {
        let mut starts = Vec::with_capacity(self.n_panels() + 1);
        let mut end = 0_usize;
        for panel in 0..self.n_panels() {
            let encoding = self.encoding(panel, weights);
            starts.push((encoding, end));
            let bytes = encoding.panel_bytes(self.inputs).and_then(|bytes| end.checked_add(bytes));
            let Some(bytes) = bytes else {
                panic!("{} outputs of {} inputs overflow memory", self.outputs, self.inputs)
            };
            end = bytes;
        }
        starts.push((self.dtype.into(), end));
        starts
    }

    /// The encoding of a panel in memory.
    fn encoding<E>(&self, panel: usize, weights: &impl Weights<E>) -> Encoding {
        let own = self.dtype.into();
        if self.dtype != Dtype::F32 {
            return own;
        }
        let mut outputs = self.halves(panel).into_iter().flat_map(|half| half.start..half.start + half.count);
        let Some(encoding) = outputs.next().map(|output| weights.encoding(output)) else { return own };
        let is_whole = self.inputs.is_multiple_of(encoding.block_len());
        if is_whole && outputs.all(|output| weights.encoding(output) == encoding) { encoding } else { own }
    }

    fn fill_panels<E: Send>(
        &self,
        cpu: &Cpu,
        starts: &[(Encoding, usize)],
        mut bytes: &mut [u8],
        weights: &impl Weights<E>,
    ) -> Result<(), E> {
        if self.inputs == 0 {
            (0..self.outputs).try_for_each(|output| weights.read(output, &mut []))?;
            weights.done(0..self.outputs);
            return Ok(());
        }
        // Each panel belongs to one task; a lock per panel is the plain way to say so.
        let mut panels = Vec::with_capacity(self.n_panels());
        for ends in starts.windows(2) {
            let (panel, rest) = bytes.split_at_mut(ends[1].1 - ends[0].1);
            panels.push(Mutex::new((ends[0].0, panel)));
            bytes = rest;
        }
        let error = Mutex::new(None);
        let fill = |panel: usize| {
            if lock(&error).is_some() {
                return;
            }
            let mut place = lock(&panels[panel]);
            let (encoding, bytes) = &mut *place;
            let result = if *encoding == self.dtype.into() {
                self.fill_panel(cpu, panel, bytes, weights)
            } else {
                self.copy_panel(cpu, panel, *encoding, bytes, weights);
                Ok(())
            };
            if let Err(first) = result {
                lock(&error).get_or_insert(first);
            }
        };
        let mut first = 0;
        while first < self.n_panels() {
            let start = starts[first].1;
            let within = starts[first + 1..].partition_point(|(_, end)| end - start <= AT_ONCE);
            let panels = first..first + within.max(1);
            cpu.for_each(panels.len(), |i| fill(first + i));
            self.outputs_of(&panels).into_iter().for_each(|outputs| weights.done(outputs));
            first = panels.end;
        }
        error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// The outputs that some panels hold, those of up apart from those of gate.
    fn outputs_of(&self, panels: &Range<usize>) -> [Range<usize>; 2] {
        let neurons = self.outputs / 2;
        match self.order {
            Order::Rows => {
                let end = self.outputs;
                [(panels.start * PANEL).min(end)..(panels.end * PANEL).min(end), end..end]
            }
            Order::Gated => {
                let gates = (panels.start * HALF).min(neurons)..(panels.end * HALF).min(neurons);
                [gates.clone(), neurons + gates.start..neurons + gates.end]
            }
        }
    }

    /// Writes one panel's weights in the matrix's type and leaves the padding unchanged.
    pub(super) fn fill_panel<E>(
        &self,
        cpu: &Cpu,
        panel: usize,
        bytes: &mut [u8],
        weights: &impl Weights<E>,
    ) -> Result<(), E> {
        match self.dtype {
            Dtype::F32 => self.fill_panel_of::<f32, E>(cpu, panel, bytes, weights),
            Dtype::Bf16 => self.fill_panel_of::<u16, E>(cpu, panel, bytes, weights),
        }
    }

    fn fill_panel_of<T: Element, E>(
        &self,
        cpu: &Cpu,
        panel: usize,
        bytes: &mut [u8],
        weights: &impl Weights<E>,
    ) -> Result<(), E> {
        scratch::with(HALF * self.inputs, |rows: &mut [f32]| {
            for (half, HalfPanel { start, count }) in self.halves(panel).into_iter().enumerate() {
                let rows = &mut rows[..count * self.inputs];
                weights.read_rows(start, self.inputs, rows)?;
                T::in_words(cpu, rows, self.inputs, |rows| {
                    let words = self.depth() / T::TOGETHER;
                    cpu.run(Turn { rows, words, column: half * HALF, panel: cast_mut(bytes) });
                });
            }
            Ok(())
        })
    }

    /// Writes one panel's weights in their stored encoding.
    fn copy_panel<E>(
        &self,
        cpu: &Cpu,
        panel: usize,
        encoding: Encoding,
        bytes: &mut [u8],
        weights: &impl Weights<E>,
    ) {
        let row_bytes = encoding.bytes_of(self.inputs);
        // Whole words, for pairs of bf16.
        let stride = row_bytes.next_multiple_of(4);
        scratch::with(HALF * stride, |rows: &mut [u8]| {
            for (half, HalfPanel { start, count }) in self.halves(panel).into_iter().enumerate() {
                let rows = &mut rows[..count * stride];
                for (index, row) in rows.chunks_exact_mut(stride).enumerate() {
                    let (row, rest) = row.split_at_mut(row_bytes);
                    weights.read_stored(start + index, row);
                    rest.fill(0);
                }
                let first = half * HALF;
                match (encoding, encoding.blocks()) {
                    (_, Some(blocks)) => blocks::lay_out(encoding, blocks, rows, stride, first, bytes),
                    (Encoding::Bf16, _) => {
                        cpu.run(Turn {
                            rows: cast(rows),
                            words: stride / 4,
                            column: first,
                            panel: cast_mut(bytes),
                        });
                    }
                    _ => turn_halves(rows, stride, first, bytes),
                }
            }
        });
    }

    /// The panel of an output, and its column there.
    pub(super) fn locate(&self, output: usize) -> (usize, usize) {
        let neurons = self.outputs / 2;
        match self.order {
            Order::Rows => (output / PANEL, output % PANEL),
            Order::Gated if output < neurons => (output / HALF, output % HALF),
            Order::Gated => ((output - neurons) / HALF, HALF + (output - neurons) % HALF),
        }
    }

    pub(super) fn n_panels(&self) -> usize {
        match self.order {
            Order::Rows => self.outputs.div_ceil(PANEL),
            Order::Gated => (self.outputs / 2).div_ceil(HALF),
        }
    }

    /// Inputs, including the padding of the last pair.
    pub(super) fn depth(&self) -> usize {
        match self.dtype {
            Dtype::F32 => self.inputs,
            Dtype::Bf16 => self.inputs.saturating_add(self.inputs % 2),
        }
    }

    /// Bytes of a panel in the matrix's type.
    ///
    /// # Panics
    /// If no memory can hold it.
    pub(super) fn panel_bytes(&self) -> usize {
        let bytes = Encoding::from(self.dtype).panel_bytes(self.inputs);
        let Some(bytes) = bytes else { panic!("{} inputs overflow memory", self.inputs) };
        bytes
    }

    /// Whether a panel has padding.
    pub(super) fn has_gaps(&self, panel: usize) -> bool {
        self.depth() > self.inputs || self.halves(panel).iter().any(|half| half.count < HALF)
    }

    /// The outputs in the two halves of a panel.
    pub(super) fn halves(&self, panel: usize) -> [HalfPanel; 2] {
        let part = |start: usize, end: usize| HalfPanel { start, count: HALF.min(end.saturating_sub(start)) };
        let neurons = self.outputs / 2;
        match self.order {
            Order::Rows => [0, HALF].map(|offset| part(panel * PANEL + offset, self.outputs)),
            Order::Gated => [part(panel * HALF, neurons), part(neurons + panel * HALF, self.outputs)],
        }
    }
}

/// Writes rows of f16 into a panel's columns, from `first` on.
fn turn_halves(rows: &[u8], stride: usize, first: usize, panel: &mut [u8]) {
    let columns = rows.len() / stride;
    for (input, out) in panel.chunks_exact_mut(2 * PANEL).enumerate() {
        for column in 0..columns {
            let half = &rows[column * stride + 2 * input..][..2];
            out[2 * (first + column)..][..2].copy_from_slice(half);
        }
    }
}

/// The work of writing rows into a panel's columns.
struct Turn<'a> {
    /// # Shapes
    /// `[at most HALF, words]`.
    rows: &'a [f32],
    words: usize,
    /// The column of the first row.
    column: usize,
    /// # Shapes
    /// `[words, PANEL]`.
    panel: &'a mut [f32],
}

impl Work for Turn<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Turn { rows, words, column, panel } = self;
        let count = rows.len() / words;
        for first in (0..count).step_by(V::LANES) {
            let whole = if count - first < V::LANES { 0 } else { words / V::LANES * V::LANES };
            for word in (0..whole).step_by(V::LANES) {
                let square = turned(v, &rows[first * words + word..], words);
                for (i, lanes) in square.into_iter().enumerate().take(V::LANES) {
                    v.store(lanes, &mut panel[(word + i) * PANEL + column + first..]);
                }
            }
            for row in first..count.min(first + V::LANES) {
                for word in whole..words {
                    panel[word * PANEL + column + row] = rows[row * words + word];
                }
            }
        }
    }
}

/// Transposes a square of as many rows as there are lanes. Zipping the rows of the first half with those of the second
/// moves the highest bit of a value's row number to the lowest bit of its lane; once done for every bit, rows and lanes
/// have changed places.
#[inline(always)]
fn turned<V: Vector>(v: V, values: &[f32], stride: usize) -> [V::F; MOST_LANES] {
    let mut rows = [v.splat(0.0); MOST_LANES];
    for (i, row) in rows.iter_mut().enumerate().take(V::LANES) {
        *row = v.load(&values[i * stride..]);
    }
    let mut bit = 1;
    while bit < V::LANES {
        let before = rows;
        for i in 0..V::LANES / 2 {
            (rows[2 * i], rows[2 * i + 1]) = v.zip(before[i], before[i + V::LANES / 2]);
        }
        bit *= 2;
    }
    rows
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
