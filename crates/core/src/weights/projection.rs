//! Linear maps as the forward pass applies them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use easyroutine_kernels::{
    Activation, Cpu, Finish, Left, Out, PackedMatrix, Rows, RowsMut, Terms, give_back, large_values,
};

/// Outputs over which a gradient is one sum, where they are as many as a vocabulary has.
const SUMMED_TOGETHER: usize = 2048;

/// A packed linear map: `x W^T + b`, or with an adapter's low-rank update `x W^T + b + (x A^T) B^T`.
///
/// The update is a separate product, as in peft: W keeps its stored values, and in bf16 the update is not lost in the
/// rounding of W.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) matrix: PackedMatrix,
    pub(crate) bias: Option<Vec<f32>>,
    update: Option<Box<Update>>,
    /// The map divided into equal parts of its inputs, once requested.
    parts: Mutex<Option<Arc<[Part]>>>,
}

/// A low-rank update, with its scale in `up`.
#[derive(Debug)]
pub(crate) struct Update {
    /// A, rank by inputs.
    pub(crate) down: PackedMatrix,
    /// B, outputs by rank.
    pub(crate) up: PackedMatrix,
}

/// A map's matrices in the other direction, from outputs to inputs.
#[derive(Debug)]
pub(crate) struct Transposed {
    matrix: PackedMatrix,
    /// Of the update, B and A.
    update: Option<[PackedMatrix; 2]>,
}

/// The map of a range of inputs, without the bias.
#[derive(Debug)]
struct Part {
    matrix: PackedMatrix,
    /// A of the update.
    down: Option<PackedMatrix>,
}

impl Projection {
    pub(crate) fn new(matrix: PackedMatrix, bias: Option<Vec<f32>>) -> Self {
        Projection { matrix, bias, update: None, parts: Mutex::default() }
    }

    /// The same map with an update.
    #[must_use]
    pub(crate) fn updated(self, update: Option<Update>) -> Self {
        Projection { update: update.map(Box::new), ..self }
    }

    /// Number of inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.matrix.inputs()
    }

    /// Number of outputs; gate and up both count.
    pub(crate) fn outputs(&self) -> usize {
        self.matrix.outputs()
    }

    /// `out = x W^T + b`
    ///
    /// # Shapes
    /// `x`: tokens by inputs; `out`: tokens by outputs.
    pub(crate) fn apply<'a>(&self, cpu: &Cpu, x: impl Into<Left<'a>>, out: RowsMut<'_>) {
        self.multiply(cpu, x.into(), Finish::Store, out.into());
    }

    /// `out = x W^T`
    ///
    /// # Shapes
    /// As [`Projection::apply`].
    pub(crate) fn apply_unbiased<'a>(&self, cpu: &Cpu, x: impl Into<Left<'a>>, out: RowsMut<'_>) {
        let down = self.update.as_ref().map(|update| &update.down);
        self.multiply_by(cpu, x.into(), (&self.matrix, down), None, Finish::Store, out.into());
    }

    /// `out += x W^T + b`, with the bits of [`Projection::apply`] followed by an addition.
    ///
    /// # Shapes
    /// As [`Projection::apply`].
    pub(crate) fn add<'a>(&self, cpu: &Cpu, x: impl Into<Left<'a>>, out: RowsMut<'_>) {
        self.multiply(cpu, x.into(), Finish::Add, out.into());
    }

    /// `out = act(x W^T + b)`
    ///
    /// # Shapes
    /// As [`Projection::apply`].
    pub(crate) fn apply_activated<'a>(
        &self,
        cpu: &Cpu,
        x: impl Into<Left<'a>>,
        act: Activation,
        out: impl Into<Out<'a>>,
    ) {
        self.multiply(cpu, x.into(), Finish::Activate(act), out.into());
    }

    /// `out = act(gate) * up`, with gate and up the two halves of `x W^T + b`. The matrix must be gated.
    ///
    /// # Shapes
    /// `x`: tokens by inputs; `out`: tokens by half the outputs.
    pub(crate) fn apply_gated<'a>(
        &self,
        cpu: &Cpu,
        x: impl Into<Left<'a>>,
        act: Activation,
        out: impl Into<Out<'a>>,
    ) {
        self.multiply(cpu, x.into(), Finish::Gate(act), out.into());
    }

    fn multiply(&self, cpu: &Cpu, x: Left<'_>, finish: Finish, out: Out<'_>) {
        let down = self.update.as_ref().map(|update| &update.down);
        self.multiply_by(cpu, x, (&self.matrix, down), self.bias.as_deref(), finish, out);
    }

    /// A product with a matrix and the update's A, both whole or both divided.
    fn multiply_by(
        &self,
        cpu: &Cpu,
        x: Left<'_>,
        (matrix, down): (&PackedMatrix, Option<&PackedMatrix>),
        bias: Option<&[f32]>,
        finish: Finish,
        out: Out<'_>,
    ) {
        let (Some(Update { up, .. }), Some(down)) = (self.update.as_deref(), down) else {
            return cpu.matmul_then(x, matrix, Terms { bias, addend: None }, finish, out);
        };
        let (tokens, outputs, rank) = (x.n_rows(), up.outputs(), up.inputs());
        let mut reduced = large_values(tokens * rank);
        cpu.matmul(x, down, None, RowsMut::dense(&mut reduced, tokens, rank));
        let mut addend = large_values(tokens * outputs);
        let reduced_rows = Rows::dense(&reduced, tokens, rank);
        cpu.matmul(reduced_rows, up, None, RowsMut::dense(&mut addend, tokens, outputs));
        let terms = Terms { bias, addend: Some(Rows::dense(&addend, tokens, outputs)) };
        cpu.matmul_then(x, matrix, terms, finish, out);
        give_back(reduced);
        give_back(addend);
    }

    /// `out = x W_part^T`: the contribution of one of equal parts of the inputs, such as one head's, without the bias
    /// but with the update. The parts are packed at the first call, in addition to the whole.
    ///
    /// # Shapes
    /// `x`: tokens by inputs of the part; `out`: tokens by outputs.
    pub(crate) fn apply_part(&self, cpu: &Cpu, x: Rows<'_>, part: usize, out: RowsMut<'_>) {
        let Part { matrix, down } = &self.parts(cpu, x.n_columns())[part];
        self.multiply_by(cpu, x.into(), (matrix, down.as_ref()), None, Finish::Store, out.into());
    }

    /// The gradient of the map's input from that of its output: `g W`, stored or added.
    ///
    /// # Shapes
    /// `g`: tokens by outputs; `out`: tokens by inputs.
    pub(crate) fn back(&self, cpu: &Cpu, g: Rows<'_>, finish: Finish, out: RowsMut<'_>) {
        self.transposed(cpu).back(cpu, g, finish, out);
    }

    /// As [`Projection::back`], stored, where outputs are very many: one sum for each [`SUMMED_TOGETHER`] of them, then the sum of
    /// those.
    ///
    /// # Shapes
    /// As [`Projection::back`].
    pub(crate) fn back_in_parts(&self, cpu: &Cpu, g: Rows<'_>, mut out: RowsMut<'_>) {
        for (outputs, matrix) in self.matrix.transposed_parts(cpu, SUMMED_TOGETHER) {
            let finish = if outputs.start == 0 { Finish::Store } else { Finish::Add };
            cpu.matmul_then(g.columns(outputs), &matrix, Terms::default(), finish, out.reborrow());
        }
        if let Some(Update { down, up }) = self.update.as_deref() {
            back_of_update(cpu, [up, down].map(|matrix| matrix.transposed(cpu)).each_ref(), g, out);
        }
    }

    /// The matrices for [`Transposed::back`], laid out once for all its calls.
    pub(crate) fn transposed(&self, cpu: &Cpu) -> Transposed {
        let down = self.update.as_ref().map(|update| &update.down);
        self.transposed_by(cpu, &self.matrix, down)
    }

    /// As [`Projection::back`], added, for the input of [`Projection::apply_part`], with parts of `width` inputs.
    ///
    /// # Shapes
    /// `g`: tokens by outputs; `out`: tokens by inputs of the part.
    pub(crate) fn part_back(&self, cpu: &Cpu, width: usize, part: usize, g: Rows<'_>, out: RowsMut<'_>) {
        let Part { matrix, down } = &self.parts(cpu, width)[part];
        self.transposed_by(cpu, matrix, down.as_ref()).back(cpu, g, Finish::Add, out);
    }

    fn transposed_by(&self, cpu: &Cpu, matrix: &PackedMatrix, down: Option<&PackedMatrix>) -> Transposed {
        let update = self.update.as_ref().zip(down);
        Transposed {
            matrix: matrix.transposed(cpu),
            update: update.map(|(update, down)| [&update.up, down].map(|matrix| matrix.transposed(cpu))),
        }
    }

    /// The weights of one output, including the update.
    ///
    /// # Shapes
    /// `row`: inputs.
    pub(crate) fn read_row(&self, output: usize, row: &mut [f32]) {
        self.matrix.read_row(output, row);
        let Some(Update { down, up }) = self.update.as_deref() else { return };
        let (mut factors, mut through) = (vec![0.0; up.inputs()], vec![0.0; down.inputs()]);
        up.read_row(output, &mut factors);
        for (n, factor) in factors.iter().enumerate() {
            down.read_row(n, &mut through);
            row.iter_mut().zip(&through).for_each(|(x, more)| *x += factor * more);
        }
    }

    /// The low-rank update of an adapter.
    pub(crate) fn update(&self) -> Option<&Update> {
        self.update.as_deref()
    }

    /// Whether an adapter changes it.
    pub(crate) fn is_updated(&self) -> bool {
        self.update.is_some()
    }

    /// Lets go of what is packed, where it can be read again.
    pub(crate) fn release(&self) {
        self.matrix.release();
        if self.matrix.is_released() {
            *self.parts.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// The parts of `width` inputs, cut at the first call.
    fn parts(&self, cpu: &Cpu, width: usize) -> Arc<[Part]> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(parts.get_or_insert_with(|| self.cut(cpu, width).into()))
    }

    fn cut(&self, cpu: &Cpu, width: usize) -> Vec<Part> {
        let matrices = pack_parts(cpu, &self.matrix, width);
        let mut downs = self.update.as_ref().map(|update| pack_parts(cpu, &update.down, width).into_iter());
        let part = |matrix| Part { matrix, down: downs.as_mut().and_then(Iterator::next) };
        matrices.into_iter().map(part).collect()
    }
}

impl Transposed {
    /// As [`Projection::back`].
    ///
    /// # Shapes
    /// `g`: tokens by outputs; `out`: tokens by inputs.
    pub(crate) fn back(&self, cpu: &Cpu, g: Rows<'_>, finish: Finish, mut out: RowsMut<'_>) {
        cpu.matmul_then(g, &self.matrix, Terms::default(), finish, out.reborrow());
        if let Some(update) = &self.update {
            back_of_update(cpu, update.each_ref(), g, out);
        }
    }
}

/// Adds an update's share of a gradient.
fn back_of_update(cpu: &Cpu, [up, down]: [&PackedMatrix; 2], g: Rows<'_>, out: RowsMut<'_>) {
    let rank = up.outputs();
    let mut reduced = large_values(g.n_rows() * rank);
    cpu.matmul(g, up, None, RowsMut::dense(&mut reduced, g.n_rows(), rank));
    cpu.matmul_add(Rows::dense(&reduced, g.n_rows(), rank), down, None, out);
    give_back(reduced);
}

/// Divides a matrix into parts of `width` inputs.
fn pack_parts(cpu: &Cpu, matrix: &PackedMatrix, width: usize) -> Vec<PackedMatrix> {
    let mut whole = vec![0.0; matrix.outputs() * matrix.inputs()];
    let rows = whole.chunks_exact_mut(matrix.inputs());
    rows.enumerate().for_each(|(n, row)| matrix.read_row(n, row));
    let part = |start: usize| {
        let packed = PackedMatrix::pack(cpu, matrix.dtype(), matrix.outputs(), width, |n, row| {
            let start = n * matrix.inputs() + start;
            row.copy_from_slice(&whole[start..start + width]);
            Ok::<(), Infallible>(())
        });
        let Ok(packed) = packed;
        packed
    };
    (0..matrix.inputs()).step_by(width).map(part).collect()
}
