//! Weight matrices laid out once, as products read them.

use crate::aligned::Aligned;
use crate::vector::{Element, PANEL, Vector, Work};
use crate::{Cpu, scratch};
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// How weights are stored, and what products multiply. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// f32.
    F32,
    /// bf16: half the memory, 8 bits of precision. Inputs are rounded to bf16 too.
    Bf16,
}

impl Dtype {
    /// Bytes of a value.
    pub(crate) fn size(self) -> usize {
        match self {
            Dtype::F32 => size_of::<f32>(),
            Dtype::Bf16 => size_of::<u16>(),
        }
    }
}

/// The outputs of a panel that come from the gate, in a gated matrix; the other half comes from up.
pub(crate) const HALF: usize = PANEL / 2;

/// A weight matrix, packed for products.
///
/// # Shapes
/// `[outputs, inputs]`. In memory `[panels, inputs, 32]` (for bf16 `[panels, inputs / 2, 32, 2]`), with zeros for the
/// outputs and inputs that fill up the last panel and the last pair.
pub struct PackedMatrix {
    dtype: Dtype,
    order: Order,
    outputs: usize,
    inputs: usize,
    panels: Aligned,
}

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

impl PackedMatrix {
    /// Packs a matrix, in parallel. `fill` writes one output's weights; it is called once for each output, from any
    /// thread, on values that are not zeroed.
    ///
    /// # Shapes
    /// `[outputs, inputs]`; `fill(output, weights)` with weights: `[inputs]`.
    ///
    /// # Errors
    /// The first error of `fill`, after which it is not called for further panels.
    ///
    /// # Panics
    /// If no memory can hold the matrix.
    pub fn pack<E: Send>(
        cpu: &Cpu,
        dtype: Dtype,
        outputs: usize,
        inputs: usize,
        fill: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<PackedMatrix, E> {
        PackedMatrix::pack_in(cpu, dtype, Order::Rows, outputs, inputs, fill)
    }

    /// Packs the matrices of gate and up together, so that [`Cpu::matmul_gated`] needs no array for either.
    ///
    /// # Shapes
    /// `[2 * neurons, inputs]`: `fill` is asked for the gate's weights as outputs 0 to `neurons`, for up's as the rest.
    ///
    /// # Errors
    /// As for [`PackedMatrix::pack`].
    ///
    /// # Panics
    /// If no memory can hold the matrix.
    pub fn pack_gated<E: Send>(
        cpu: &Cpu,
        dtype: Dtype,
        neurons: usize,
        inputs: usize,
        fill: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<PackedMatrix, E> {
        let Some(outputs) = neurons.checked_mul(2) else { panic!("{neurons} neurons overflow memory") };
        PackedMatrix::pack_in(cpu, dtype, Order::Gated, outputs, inputs, fill)
    }

    fn pack_in<E: Send>(
        cpu: &Cpu,
        dtype: Dtype,
        order: Order,
        outputs: usize,
        inputs: usize,
        fill: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<PackedMatrix, E> {
        let mut packed = PackedMatrix { dtype, order, outputs, inputs, panels: Aligned::zeroed(0) };
        let per_panel = packed.depth().checked_mul(PANEL * dtype.size());
        let bytes = per_panel.and_then(|bytes| bytes.checked_mul(packed.n_panels()));
        let Some(bytes) = bytes else { panic!("{outputs} outputs of {inputs} inputs overflow memory") };
        let mut panels = Aligned::zeroed(bytes);
        match dtype {
            Dtype::F32 => packed.fill_panels(cpu, panels.values_mut::<f32>(), fill)?,
            Dtype::Bf16 => packed.fill_panels(cpu, panels.values_mut::<u16>(), fill)?,
        }
        packed.panels = panels;
        Ok(packed)
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

    fn fill_panel<T: Element, E>(
        &self,
        cpu: &Cpu,
        panel: usize,
        values: &mut [T],
        fill: &impl Fn(usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        scratch::with(PANEL * self.inputs, |rows: &mut [f32]| {
            for (half, HalfPanel { start, count }) in self.halves(panel).into_iter().enumerate() {
                let rows = &mut rows[..count * self.inputs];
                for (index, row) in rows.chunks_exact_mut(self.inputs).enumerate() {
                    fill(start + index, row)?;
                }
                let (inputs, column) = (self.inputs, half * HALF);
                cpu.run(LayOut { rows, inputs, column, panel: values });
            }
            Ok(())
        })
    }

    /// Number of outputs, gate and up counted each.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How the weights are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// The weights of one output as they are stored, rounded to bf16 if that is the type.
    ///
    /// # Shapes
    /// out: `[inputs]`.
    ///
    /// # Panics
    /// If there is no such output, or `out` has another length.
    pub fn read_row(&self, output: usize, out: &mut [f32]) {
        assert!(output < self.outputs, "output {output} of {}", self.outputs);
        assert_eq!(out.len(), self.inputs, "inputs of a row");
        let (panel, column) = self.locate(output);
        match self.dtype {
            Dtype::F32 => self.read::<f32>(panel, column, out),
            Dtype::Bf16 => self.read::<u16>(panel, column, out),
        }
    }

    fn read<T: Element>(&self, panel: usize, column: usize, out: &mut [f32]) {
        let weights = self.panel::<T>(panel);
        for (input, out) in out.iter_mut().enumerate() {
            *out = weights[place::<T>(input, column)].widened();
        }
    }

    fn locate(&self, output: usize) -> (usize, usize) {
        let neurons = self.outputs / 2;
        match self.order {
            Order::Rows => (output / PANEL, output % PANEL),
            Order::Gated if output < neurons => (output / HALF, output % HALF),
            Order::Gated => ((output - neurons) / HALF, HALF + (output - neurons) % HALF),
        }
    }

    pub(crate) fn is_gated(&self) -> bool {
        self.order == Order::Gated
    }

    pub(crate) fn n_panels(&self) -> usize {
        match self.order {
            Order::Rows => self.outputs.div_ceil(PANEL),
            Order::Gated => (self.outputs / 2).div_ceil(HALF),
        }
    }

    /// Inputs with the one that fills up the last pair.
    pub(crate) fn depth(&self) -> usize {
        match self.dtype {
            Dtype::F32 => self.inputs,
            Dtype::Bf16 => self.inputs.saturating_add(self.inputs % 2),
        }
    }

    fn panel_len(&self) -> usize {
        self.depth() * PANEL
    }

    /// One panel's weights, for a `T` that is the matrix' type.
    pub(crate) fn panel<T: Element>(&self, panel: usize) -> &[T] {
        &self.panels.values()[panel * self.panel_len()..][..self.panel_len()]
    }

    /// Which outputs the two halves of a panel hold.
    pub(crate) fn halves(&self, panel: usize) -> [HalfPanel; 2] {
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
fn place<T: Element>(input: usize, column: usize) -> usize {
    (input / T::TOGETHER * PANEL + column) * T::TOGETHER + input % T::TOGETHER
}

/// Inputs that are laid out at once: a cache line of each row.
const BLOCK: usize = 16;

/// The work of writing some outputs' weights into the columns of a panel.
struct LayOut<'a, T> {
    /// # Shapes
    /// `[at most HALF, inputs]`.
    rows: &'a [f32],
    inputs: usize,
    /// The column of the first row.
    column: usize,
    panel: &'a mut [T],
}

impl<T: Element> Work for LayOut<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        let (blocks, _) = self.panel.as_chunks_mut::<{ BLOCK * PANEL }>();
        let whole = self.inputs / BLOCK;
        for (index, block) in blocks[..whole].iter_mut().enumerate() {
            for (number, row) in self.rows.chunks_exact(self.inputs).enumerate() {
                let column = (self.column + number) % PANEL;
                let (values, _) = row[index * BLOCK..].as_chunks::<BLOCK>();
                let mut nearest = [T::nearest(0.0); BLOCK];
                for i in 0..BLOCK {
                    nearest[i] = T::nearest(values[0][i]);
                }
                for i in 0..BLOCK {
                    block[place::<T>(i, column)] = nearest[i];
                }
            }
        }
        for (number, row) in self.rows.chunks_exact(self.inputs).enumerate() {
            for (input, weight) in row.iter().enumerate().skip(whole * BLOCK) {
                self.panel[place::<T>(input, self.column + number)] = T::nearest(*weight);
            }
        }
    }
}

impl fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedMatrix[{} outputs, {} inputs, {:?}]", self.outputs(), self.inputs(), self.dtype())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Simd, bf16};
    use std::convert::Infallible;

    fn weight(output: usize, input: usize) -> f32 {
        (output * 1000 + input) as f32 / 7.0
    }

    fn fill(output: usize, weights: &mut [f32]) -> Result<(), Infallible> {
        weights.iter_mut().enumerate().for_each(|(input, out)| *out = weight(output, input));
        Ok(())
    }

    #[test]
    fn every_row_is_read_back_as_it_was_rounded() {
        let cpu = Cpu::new(Simd::Portable, 2);
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for neurons in [0, 1, 15, 16, 17, 50] {
                for inputs in [0, 1, 2, 7, 64] {
                    let plain = PackedMatrix::pack(&cpu, dtype, 2 * neurons, inputs, fill);
                    let gated = PackedMatrix::pack_gated(&cpu, dtype, neurons, inputs, fill);
                    for packed in [plain.unwrap(), gated.unwrap()] {
                        assert_eq!(
                            (packed.outputs(), packed.inputs(), packed.dtype()),
                            (2 * neurons, inputs, dtype)
                        );
                        for output in 0..2 * neurons {
                            let mut row = vec![0.0; inputs];
                            packed.read_row(output, &mut row);
                            let exact = (0..inputs).map(|input| weight(output, input));
                            let stored: Vec<f32> = match dtype {
                                Dtype::F32 => exact.collect(),
                                Dtype::Bf16 => exact.map(|weight| bf16::widen(bf16::round(weight))).collect(),
                            };
                            assert_eq!(row, stored);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_error_of_fill_is_returned() {
        let cpu = Cpu::new(Simd::Portable, 3);
        for bad in [0, 99, 199] {
            let fill = |output: usize, _: &mut [f32]| if output == bad { Err(output) } else { Ok(()) };
            assert_eq!(PackedMatrix::pack(&cpu, Dtype::F32, 200, 5, fill).err(), Some(bad));
            assert_eq!(PackedMatrix::pack_gated(&cpu, Dtype::Bf16, 100, 5, fill).err(), Some(bad));
        }
    }
}
