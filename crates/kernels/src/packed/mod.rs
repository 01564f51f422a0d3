//! Weight matrices laid out once, as products read them.

mod layout;
mod transposed;

use crate::aligned::Aligned;
use crate::vector::Element;
use crate::{Cpu, bf16};
pub(crate) use layout::{HALF, HalfPanel};
use layout::{Layout, place};
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

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

/// Products of few rows that a matrix serves before it is packed. Packing costs as much more as four to seven of them do:
/// who runs a model once or twice never pays for it, and who runs it often loses little.
const PASSES: usize = 2;

/// A weight matrix, packed for products.
///
/// # Shapes
/// `[outputs, inputs]`. In memory `[panels, inputs, 32]` (for bf16 `[panels, inputs / 2, 32, 2]`), with zeros for the
/// outputs and inputs that fill up the last panel and the last pair.
pub struct PackedMatrix {
    layout: Layout,
    state: RwLock<State>,
}

enum State {
    Packed(Arc<Aligned>),
    Waiting {
        source: Arc<dyn Source>,
        /// Products that were served.
        passes: AtomicUsize,
    },
}

/// Weights that a matrix reads when it needs them.
pub trait Source: Send + Sync {
    /// Writes one output's weights, on values that are not zeroed. Called from any thread, any number of times.
    ///
    /// # Shapes
    /// weights: `[inputs]`.
    fn read(&self, output: usize, weights: &mut [f32]);

    /// Called when all weights are packed and none will be read again.
    fn done(&self) {}
}

/// The panels of a matrix during one product.
pub(crate) enum Panels {
    Packed(Arc<Aligned>),
    /// Each is laid out when the product comes to it, and forgotten.
    Passing(Arc<dyn Source>),
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
        PackedMatrix::pack_as(Layout::rows(dtype, outputs, inputs), cpu, fill)
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
        PackedMatrix::pack_as(Layout::gated(dtype, neurons, inputs), cpu, fill)
    }

    fn pack_as<E: Send>(
        layout: Layout,
        cpu: &Cpu,
        fill: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<PackedMatrix, E> {
        let panels = layout.pack(cpu, fill)?;
        Ok(PackedMatrix { layout, state: RwLock::new(State::Packed(Arc::new(panels))) })
    }

    /// A matrix that is packed when that pays: its first products, if they are of few rows, lay out each panel in the
    /// cache alone. The bits are the same.
    ///
    /// # Shapes
    /// `[outputs, inputs]`.
    pub fn later(dtype: Dtype, outputs: usize, inputs: usize, source: Arc<dyn Source>) -> PackedMatrix {
        PackedMatrix::waiting(Layout::rows(dtype, outputs, inputs), source)
    }

    /// As [`PackedMatrix::later`], in the order of [`PackedMatrix::pack_gated`].
    ///
    /// # Shapes
    /// `[2 * neurons, inputs]`.
    ///
    /// # Panics
    /// If no memory can hold the matrix.
    pub fn gated_later(dtype: Dtype, neurons: usize, inputs: usize, source: Arc<dyn Source>) -> PackedMatrix {
        PackedMatrix::waiting(Layout::gated(dtype, neurons, inputs), source)
    }

    fn waiting(layout: Layout, source: Arc<dyn Source>) -> PackedMatrix {
        PackedMatrix { layout, state: RwLock::new(State::Waiting { source, passes: AtomicUsize::new(0) }) }
    }

    /// Packs the matrix if it is not yet.
    ///
    /// # Panics
    /// If no memory can hold it.
    pub fn pack_now(&self, cpu: &Cpu) {
        self.packed(cpu);
    }

    /// Number of outputs, gate and up counted each.
    pub fn outputs(&self) -> usize {
        self.layout.outputs
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.layout.inputs
    }

    /// How the weights are stored.
    pub fn dtype(&self) -> Dtype {
        self.layout.dtype
    }

    /// The weights of one output as they are stored, rounded to bf16 if that is the type.
    ///
    /// # Shapes
    /// out: `[inputs]`.
    ///
    /// # Panics
    /// If there is no such output, or `out` has another length.
    pub fn read_row(&self, output: usize, out: &mut [f32]) {
        assert!(output < self.outputs(), "output {output} of {}", self.outputs());
        assert_eq!(out.len(), self.inputs(), "inputs of a row");
        match (&*self.state(), self.dtype()) {
            (State::Packed(panels), Dtype::F32) => self.read::<f32>(panels, output, out),
            (State::Packed(panels), Dtype::Bf16) => self.read::<u16>(panels, output, out),
            (State::Waiting { source, .. }, Dtype::F32) => source.read(output, out),
            (State::Waiting { source, .. }, Dtype::Bf16) => {
                source.read(output, out);
                out.iter_mut().for_each(|weight| *weight = bf16::widen(bf16::round(*weight)));
            }
        }
    }

    fn read<T: Element>(&self, panels: &Aligned, output: usize, out: &mut [f32]) {
        let (panel, column) = self.layout.locate(output);
        let weights = &panels.values::<T>()[panel * self.layout.panel_len()..];
        for (input, out) in out.iter_mut().enumerate() {
            *out = weights[place::<T>(input, column)].widened();
        }
    }

    /// The panels for one product, `few` if it uses each of them once.
    pub(crate) fn panels(&self, cpu: &Cpu, few: bool) -> Panels {
        match &*self.state() {
            State::Packed(panels) => return Panels::Packed(Arc::clone(panels)),
            State::Waiting { source, passes } => {
                if few && passes.fetch_add(1, Ordering::Relaxed) < PASSES {
                    return Panels::Passing(Arc::clone(source));
                }
            }
        }
        Panels::Packed(self.packed(cpu))
    }

    /// Packs the matrix if it is not yet; others who need it wait.
    fn packed(&self, cpu: &Cpu) -> Arc<Aligned> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let panels = match &*state {
            State::Packed(panels) => return Arc::clone(panels),
            State::Waiting { source, .. } => {
                let Ok(panels) = self.layout.pack(cpu, reading(&**source));
                source.done();
                Arc::new(panels)
            }
        };
        *state = State::Packed(Arc::clone(&panels));
        panels
    }

    /// A poisoned state is still right: it changes in one step.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_gated(&self) -> bool {
        self.layout.is_gated()
    }

    pub(crate) fn n_panels(&self) -> usize {
        self.layout.n_panels()
    }

    /// Inputs with the one that fills up the last pair.
    pub(crate) fn depth(&self) -> usize {
        self.layout.depth()
    }

    /// Weights of a panel, with those that fill it up.
    pub(crate) fn panel_len(&self) -> usize {
        self.layout.panel_len()
    }

    /// Which outputs the two halves of a panel hold.
    pub(crate) fn halves(&self, panel: usize) -> [HalfPanel; 2] {
        self.layout.halves(panel)
    }

    /// Lays one panel out, for a `T` that is the matrix' type.
    pub(crate) fn lay_out<T: Element>(&self, cpu: &Cpu, source: &dyn Source, panel: usize, values: &mut [T]) {
        if values.is_empty() {
            return;
        }
        if self.layout.has_gaps(panel) {
            values.fill(T::nearest(0.0));
        }
        let Ok(()) = self.layout.fill_panel(cpu, panel, values, &reading(source));
    }
}

/// A source as a layout asks for weights.
fn reading(source: &dyn Source) -> impl Fn(usize, &mut [f32]) -> Result<(), Infallible> + Sync {
    |output, weights| {
        source.read(output, weights);
        Ok(())
    }
}

impl fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedMatrix[{} outputs, {} inputs, {:?}]", self.outputs(), self.inputs(), self.dtype())
    }
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
