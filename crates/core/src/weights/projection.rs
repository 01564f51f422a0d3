//! Linear maps as the forward pass applies them.

use std::convert::Infallible;
use std::sync::OnceLock;

use easyroutine_kernels::{Activation, Cpu, Finish, Left, Out, PackedMatrix, Rows, RowsMut, Terms};

/// A linear map, packed.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) matrix: PackedMatrix,
    pub(crate) bias: Option<Vec<f32>>,
    /// The matrix cut into equal parts of its inputs, once they are asked for.
    parts: OnceLock<Vec<PackedMatrix>>,
}

impl Projection {
    pub(crate) fn new(matrix: PackedMatrix, bias: Option<Vec<f32>>) -> Self {
        Projection { matrix, bias, parts: OnceLock::new() }
    }

    /// Number of inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.matrix.inputs()
    }

    /// Number of outputs, gate and up counted each.
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

    /// `out += x W^T + b`, the same bits as [`Projection::apply`] added afterwards.
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

    /// `out = act(gate) * up`, with gate and up the two halves of `x W^T + b`. The matrix must be a gated one.
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
        let terms = Terms { bias: self.bias.as_deref(), addend: None };
        cpu.matmul_then(x, &self.matrix, terms, finish, out);
    }

    /// `out = x W_part^T`: what one of equal parts of the inputs gives, such as one head's, without the bias. The parts are
    /// packed at the first call, beside the whole.
    ///
    /// # Shapes
    /// `x`: tokens by inputs of the part; `out`: tokens by outputs.
    pub(crate) fn apply_part(&self, cpu: &Cpu, x: Rows<'_>, part: usize, out: RowsMut<'_>) {
        let parts = self.parts.get_or_init(|| pack_parts(cpu, &self.matrix, x.n_columns()));
        cpu.matmul(x, &parts[part], None, out);
    }
}

/// A matrix cut into parts of `width` inputs.
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
