//! Weight matrices laid out once, in the order in which products read them.

mod blocks;
mod decode;
mod encoding;
mod layout;
mod panel;
mod row;
mod transposed;

use crate::{Cpu, bf16};
pub(crate) use decode::Decode;
pub use encoding::Encoding;
use layout::Layout;
pub(crate) use layout::{HALF, HalfPanel};
pub(crate) use panel::{Packed, Panel};
pub(crate) use row::MultiplyRow;
use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// The type that products multiply. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// f32. Weights stored in fewer bits stay so in memory: see [`Source::encoding`].
    F32,
    /// bf16: 8 bits of precision. Weights are stored as bf16, and inputs are rounded to it.
    Bf16,
}

impl From<Dtype> for Encoding {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Encoding::F32,
            Dtype::Bf16 => Encoding::Bf16,
        }
    }
}

impl Dtype {
    /// Bytes per value.
    pub(crate) fn size(self) -> usize {
        match self {
            Dtype::F32 => size_of::<f32>(),
            Dtype::Bf16 => size_of::<u16>(),
        }
    }
}

/// Products of few rows that a matrix serves before it is packed. Packing costs as much as four to seven more of them:
/// a model that runs once or twice never pays for it, and one that runs often loses little.
const PASSES: usize = 2;

/// A weight matrix, packed for products.
///
/// # Shapes
/// `[outputs, inputs]`. In memory `[panels, inputs, 32]` (for bf16 `[panels, inputs / 2, 32, 2]`, for blocks see
/// [`Encoding`]); zeros pad the last panel and the last pair.
pub struct PackedMatrix {
    layout: Layout,
    state: RwLock<State>,
}

enum State {
    Packed {
        panels: Arc<Packed>,
        /// Where the weights are read again, of a matrix that can be let go.
        source: Option<Arc<dyn Source>>,
    },
    Waiting {
        source: Arc<dyn Source>,
        /// Products served so far.
        passes: AtomicUsize,
    },
}

/// Weights that a matrix reads on demand.
pub trait Source: Send + Sync {
    /// Writes one output's weights over arbitrary contents. Called from any thread, any number of times.
    ///
    /// # Shapes
    /// weights: `[inputs]`.
    fn read(&self, output: usize, weights: &mut [f32]);

    /// As [`Source::read`], for consecutive outputs from `first` on.
    ///
    /// # Shapes
    /// weights: `[outputs, inputs]`, at least one input.
    fn read_rows(&self, first: usize, inputs: usize, weights: &mut [f32]) {
        (first..).zip(weights.chunks_exact_mut(inputs)).for_each(|(output, row)| self.read(output, row));
    }

    /// How one output's weights are stored; they may stay so in memory. [`Encoding::F32`] if only [`Source::read`] can
    /// deliver them.
    fn encoding(&self, _output: usize) -> Encoding {
        Encoding::F32
    }

    /// Writes one output's weights in their stored encoding, little-endian; never called for [`Encoding::F32`].
    /// Decoded, they equal what [`Source::read`] gives.
    ///
    /// # Shapes
    /// bytes: [`Encoding::bytes_of`] of the inputs.
    fn read_stored(&self, _output: usize, _bytes: &mut [u8]) {}

    /// Called when these outputs are packed: they will not be read again soon, or never where the source
    /// [is read once](Source::is_read_again).
    fn done(&self, _outputs: Range<usize>) {}

    /// Called when all weights will be read soon.
    fn soon(&self) {}

    /// Whether the matrix can be let go once it is packed, as it can be read again. It then keeps its source.
    fn is_read_again(&self) -> bool {
        false
    }
}

/// A matrix's panels during one product.
pub(crate) enum Panels {
    Packed(Arc<Packed>),
    /// Each panel is laid out when the product reaches it, then dropped.
    Passing(Arc<dyn Source>),
}

impl Panels {
    /// Whether any are widened before they are multiplied.
    pub(crate) fn are_decoded(&self) -> bool {
        matches!(self, Panels::Packed(packed) if packed.is_decoded)
    }
}

impl PackedMatrix {
    /// Packs a matrix, in parallel. `fill` writes one output's weights; it is called once for each output, from any
    /// thread, with arbitrary contents.
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

    /// Packs gate and up together, so that [`Cpu::matmul_gated`] needs no array for either.
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
        let panels = layout.pack(cpu, &Fill(fill))?;
        let state = State::Packed { panels: Arc::new(panels), source: None };
        Ok(PackedMatrix { layout, state: RwLock::new(state) })
    }

    /// A matrix packed only once that pays: its first products, if of few rows, lay out each panel in the cache alone.
    /// The bits are the same.
    ///
    /// # Shapes
    /// `[outputs, inputs]`.
    pub fn later(dtype: Dtype, outputs: usize, inputs: usize, source: Arc<dyn Source>) -> PackedMatrix {
        PackedMatrix::waiting(Layout::rows(dtype, outputs, inputs), source)
    }

    /// As [`PackedMatrix::later`], in the layout of [`PackedMatrix::pack_gated`].
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

    /// Packs the matrix unless it is packed already.
    ///
    /// # Panics
    /// If no memory can hold it.
    pub fn pack_now(&self, cpu: &Cpu) {
        self.packed(cpu);
    }

    /// Lets go of the panels, where the source [can be read again](Source::is_read_again): the next product reads it.
    /// Products that are under way keep theirs.
    pub fn release(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let source = match &*state {
            State::Packed { source: Some(source), .. } | State::Waiting { source, .. }
                if source.is_read_again() =>
            {
                Arc::clone(source)
            }
            State::Packed { .. } | State::Waiting { .. } => return,
        };
        // A product of few rows read it without packing.
        source.done(0..self.outputs());
        *state = State::Waiting { source, passes: AtomicUsize::new(0) };
    }

    /// Says that the matrix will be used soon: the system may read its file meanwhile.
    pub fn soon(&self) {
        if let State::Waiting { source, .. } = &*self.state() {
            source.soon();
        }
    }

    /// Number of outputs; gate and up both count.
    pub fn outputs(&self) -> usize {
        self.layout.outputs
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.layout.inputs
    }

    /// The type that products multiply. In memory, f32 weights may keep the encoding of their file.
    pub fn dtype(&self) -> Dtype {
        self.layout.dtype
    }

    /// The weights of one output as products multiply them, rounded for a bf16 matrix.
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
            (State::Packed { panels, .. }, _) => {
                let (panel, column) = self.layout.locate(output);
                panels.panel(panel).read_column(column, out);
            }
            (State::Waiting { source, .. }, Dtype::F32) => source.read(output, out),
            (State::Waiting { source, .. }, Dtype::Bf16) => {
                source.read(output, out);
                out.iter_mut().for_each(|weight| *weight = bf16::widen(bf16::round(*weight)));
            }
        }
    }

    /// Bytes of the panels, once the matrix is packed.
    pub fn packed_bytes(&self) -> Option<usize> {
        match &*self.state() {
            State::Packed { panels, .. } => Some(panels.panels().map(|panel| panel.bytes.len()).sum()),
            State::Waiting { .. } => None,
        }
    }

    /// Bytes of the panels, whether the matrix is packed or not.
    pub fn full_bytes(&self) -> usize {
        match &*self.state() {
            State::Packed { panels, .. } => panels.panels().map(|panel| panel.bytes.len()).sum(),
            State::Waiting { source, .. } => {
                self.layout.starts::<Infallible>(&&**source).last().map_or(0, |(_, end)| *end)
            }
        }
    }

    /// Whether [`PackedMatrix::release`] lets go of it.
    pub fn is_released(&self) -> bool {
        match &*self.state() {
            State::Packed { source, .. } => source.is_some(),
            State::Waiting { source, .. } => source.is_read_again(),
        }
    }

    /// Whether any panels are widened before they are multiplied; `false` until the matrix is packed.
    pub(crate) fn is_decoded(&self) -> bool {
        matches!(&*self.state(), State::Packed { panels, .. } if panels.is_decoded)
    }

    /// The panels for one product. `few`: the product uses each panel once.
    pub(crate) fn panels(&self, cpu: &Cpu, few: bool) -> Panels {
        match &*self.state() {
            State::Packed { panels, .. } => return Panels::Packed(Arc::clone(panels)),
            State::Waiting { source, passes } => {
                if few && passes.fetch_add(1, Ordering::Relaxed) < PASSES {
                    return Panels::Passing(Arc::clone(source));
                }
            }
        }
        Panels::Packed(self.packed(cpu))
    }

    /// Packs the matrix unless it is packed already; concurrent callers wait.
    fn packed(&self, cpu: &Cpu) -> Arc<Packed> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let (panels, source) = match &*state {
            State::Packed { panels, .. } => return Arc::clone(panels),
            State::Waiting { source, .. } => {
                let Ok(panels) = self.layout.pack::<Infallible>(cpu, &&**source);
                (Arc::new(panels), source.is_read_again().then(|| Arc::clone(source)))
            }
        };
        *state = State::Packed { panels: Arc::clone(&panels), source };
        panels
    }

    /// A poisoned state is still valid: it changes in a single step.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_gated(&self) -> bool {
        self.layout.is_gated()
    }

    pub(crate) fn n_panels(&self) -> usize {
        self.layout.n_panels()
    }

    /// Inputs, including the padding of the last pair.
    pub(crate) fn depth(&self) -> usize {
        self.layout.depth()
    }

    /// Bytes of a panel in the matrix's type.
    pub(crate) fn panel_bytes(&self) -> usize {
        self.layout.panel_bytes()
    }

    /// The outputs in the two halves of a panel.
    pub(crate) fn halves(&self, panel: usize) -> [HalfPanel; 2] {
        self.layout.halves(panel)
    }

    /// Lays out one panel in the matrix's type.
    pub(crate) fn lay_out(&self, cpu: &Cpu, source: &dyn Source, panel: usize, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.layout.has_gaps(panel) {
            bytes.fill(0);
        }
        let Ok(()) = self.layout.fill_panel::<Infallible>(cpu, panel, bytes, &source);
    }
}

/// The source of a layout's weights: see [`Source`].
trait Weights<E>: Sync {
    fn read(&self, output: usize, weights: &mut [f32]) -> Result<(), E>;

    fn read_rows(&self, first: usize, inputs: usize, weights: &mut [f32]) -> Result<(), E> {
        let mut rows = (first..).zip(weights.chunks_exact_mut(inputs));
        rows.try_for_each(|(output, row)| self.read(output, row))
    }

    fn encoding(&self, _output: usize) -> Encoding {
        Encoding::F32
    }

    fn read_stored(&self, _output: usize, _bytes: &mut [u8]) {}

    fn done(&self, _outputs: Range<usize>) {}
}

/// A function that writes one output's weights.
struct Fill<F>(F);

impl<E, F: Fn(usize, &mut [f32]) -> Result<(), E> + Sync> Weights<E> for Fill<F> {
    fn read(&self, output: usize, weights: &mut [f32]) -> Result<(), E> {
        self.0(output, weights)
    }
}

impl Weights<Infallible> for &dyn Source {
    fn read(&self, output: usize, weights: &mut [f32]) -> Result<(), Infallible> {
        Source::read(*self, output, weights);
        Ok(())
    }

    fn read_rows(&self, first: usize, inputs: usize, weights: &mut [f32]) -> Result<(), Infallible> {
        Source::read_rows(*self, first, inputs, weights);
        Ok(())
    }

    fn encoding(&self, output: usize) -> Encoding {
        Source::encoding(*self, output)
    }

    fn read_stored(&self, output: usize, bytes: &mut [u8]) {
        Source::read_stored(*self, output, bytes);
    }

    fn done(&self, outputs: Range<usize>) {
        Source::done(*self, outputs);
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
