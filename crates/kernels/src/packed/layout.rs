//! How a packed matrix lies in memory.

use super::Dtype;
use crate::aligned::{Aligned, words_mut};
use crate::vector::{Element, MOST_LANES, PANEL, Vector, Work};
use crate::{Cpu, scratch};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The outputs of a panel that come from the gate, in a gated matrix; the other half comes from up.
pub(crate) const HALF: usize = PANEL / 2;

/// Which outputs share a panel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// 32 outputs in a row.
    Rows,
    /// 16 of the first half of all outputs, and the same 16 of the second.
    Gated,
}

/// Where outputs come from that a half of a panel holds.
pub(crate) struct HalfPanel {
    /// The first output.
    pub(crate) start: usize,
    /// How many; the rest of the half is zero.
    pub(crate) count: usize,
}

/// Which weight stands where.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) dtype: Dtype,
    order: Order,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

impl Layout {
    /// Outputs in their order.
    pub(super) fn rows(dtype: Dtype, outputs: usize, inputs: usize) -> Layout {
        Layout { dtype, order: Order::Rows, outputs, inputs }
    }

    /// The outputs of gate and up, so many each, in shared panels.
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

    /// All panels, in parallel. `fill` writes one output's weights, on values that are not zeroed.
    ///
    /// # Panics
    /// If no memory can hold them.
    pub(super) fn pack<E: Send>(
        &self,
        cpu: &Cpu,
        fill: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Aligned, E> {
        let per_panel = self.depth().checked_mul(PANEL * self.dtype.size());
        let bytes = per_panel.and_then(|bytes| bytes.checked_mul(self.n_panels()));
        let Some(bytes) = bytes else {
            panic!("{} outputs of {} inputs overflow memory", self.outputs, self.inputs)
        };
        let mut panels = Aligned::zeroed(bytes);
        match self.dtype {
            Dtype::F32 => self.fill_panels(cpu, panels.values_mut::<f32>(), fill)?,
            Dtype::Bf16 => self.fill_panels(cpu, panels.values_mut::<u16>(), fill)?,
        }
        Ok(panels)
    }

    fn fill_panels<T: Element, E: Send>(
        &self,
        cpu: &Cpu,
        values: &mut [T],
        fill: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        if self.inputs == 0 {
            return (0..self.outputs).try_for_each(|output| fill(output, &mut []));
        }
        // Each panel is taken by one task; a lock a panel is the plain way to say so.
        let panels: Vec<Mutex<&mut [T]>> =
            values.chunks_exact_mut(self.panel_len()).map(Mutex::new).collect();
        let error = Mutex::new(None);
        cpu.for_each(self.n_panels(), |panel| {
            if lock(&error).is_some() {
                return;
            }
            let result = self.fill_panel(cpu, panel, &mut lock(&panels[panel]), &fill);
            if let Err(first) = result {
                lock(&error).get_or_insert(first);
            }
        });
        error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Writes one panel's weights; what fills it up beside them is left as it is.
    pub(super) fn fill_panel<T: Element, E>(
        &self,
        cpu: &Cpu,
        panel: usize,
        values: &mut [T],
        fill: &impl Fn(usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        scratch::with(HALF * self.inputs, |rows: &mut [f32]| {
            for (half, HalfPanel { start, count }) in self.halves(panel).into_iter().enumerate() {
                let rows = &mut rows[..count * self.inputs];
                for (index, row) in rows.chunks_exact_mut(self.inputs).enumerate() {
                    fill(start + index, row)?;
                }
                T::in_words(cpu, rows, self.inputs, |rows| {
                    let words = self.depth() / T::TOGETHER;
                    cpu.run(Turn { rows, words, column: half * HALF, panel: words_mut(values) });
                });
            }
            Ok(())
        })
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

    /// Inputs with the one that fills up the last pair.
    pub(super) fn depth(&self) -> usize {
        match self.dtype {
            Dtype::F32 => self.inputs,
            Dtype::Bf16 => self.inputs.saturating_add(self.inputs % 2),
        }
    }

    pub(super) fn panel_len(&self) -> usize {
        self.depth() * PANEL
    }

    /// Whether a panel has places that no weight fills.
    pub(super) fn has_gaps(&self, panel: usize) -> bool {
        self.depth() > self.inputs || self.halves(panel).iter().any(|half| half.count < HALF)
    }

    /// Which outputs the two halves of a panel hold.
    pub(super) fn halves(&self, panel: usize) -> [HalfPanel; 2] {
        let part = |start: usize, end: usize| HalfPanel { start, count: HALF.min(end.saturating_sub(start)) };
        let neurons = self.outputs / 2;
        match self.order {
            Order::Rows => [0, HALF].map(|offset| part(panel * PANEL + offset, self.outputs)),
            Order::Gated => [part(panel * HALF, neurons), part(neurons + panel * HALF, self.outputs)],
        }
    }
}

/// Where in a panel the weight of an input for the panel's output `column` stands.
#[inline(always)]
pub(super) fn place<T: Element>(input: usize, column: usize) -> usize {
    (input / T::TOGETHER * PANEL + column) * T::TOGETHER + input % T::TOGETHER
}

/// The work of writing rows into columns of a panel.
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

/// A square of as many rows as there are lanes, with rows and columns exchanged. Zipping the rows of the first half with
/// those of the second moves the highest bit of each value's row to be the lowest of its lane: done for every bit of a
/// row's number, rows and lanes have changed places.
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
