//! Projections and norms, packed for the kernels.

use std::convert::Infallible;
use std::sync::OnceLock;

use easyroutine_kernels::{Cpu, Dtype, Left, Out, PackedMatrix, Rows, RowsMut};

use super::checkpoint::{Checkpoint, Tensor};
use crate::arch::{self, Bias};
use crate::error::Result;
use crate::names::{Axes, Linear, Names};

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

    /// `out = x W^T + b`
    ///
    /// # Shapes
    /// `x`: tokens by inputs; `out`: tokens by outputs.
    pub(crate) fn apply<'a>(&self, cpu: &Cpu, x: impl Into<Left<'a>>, out: RowsMut<'_>) {
        cpu.matmul(x, &self.matrix, self.bias.as_deref(), out);
    }

    /// `out += x W^T + b`, the same bits as [`Projection::apply`] added afterwards.
    ///
    /// # Shapes
    /// As [`Projection::apply`].
    pub(crate) fn add<'a>(&self, cpu: &Cpu, x: impl Into<Left<'a>>, out: RowsMut<'_>) {
        cpu.matmul_add(x, &self.matrix, self.bias.as_deref(), out);
    }

    /// `out = x W_part^T`: what one of equal parts of the inputs gives, such as one head's, without the bias. The parts are
    /// packed at the first call, beside the whole.
    ///
    /// # Shapes
    /// `x`: tokens by inputs of the part; `out`: tokens by outputs.
    pub(crate) fn apply_part(&self, cpu: &Cpu, x: Rows<'_>, part: usize, out: RowsMut<'_>) {
        let parts = self.parts.get_or_init(|| self.pack_parts(cpu, x.n_columns()));
        cpu.matmul(x, &parts[part], None, out);
    }

    fn pack_parts(&self, cpu: &Cpu, width: usize) -> Vec<PackedMatrix> {
        let matrix = &self.matrix;
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
}

/// A norm with its parameters.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) kind: easyroutine_kernels::NormKind,
    pub(crate) eps: f32,
    pub(crate) weight: Option<Vec<f32>>,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Norm {
    /// Norms each row of `x` into `out`.
    ///
    /// # Shapes
    /// Both: tokens by width of the norm.
    pub(crate) fn apply<'a>(&self, cpu: &Cpu, x: Rows<'_>, out: impl Into<Out<'a>>) {
        let (weight, bias) = (self.weight.as_deref(), self.bias.as_deref());
        cpu.norm(self.kind, x, x.n_columns(), weight, bias, self.eps, out);
    }

    /// Norms groups of `group` columns in place.
    pub(crate) fn apply_in_place(&self, cpu: &Cpu, x: RowsMut<'_>, group: usize) {
        cpu.norm_in_place(self.kind, x, group, self.weight.as_deref(), self.bias.as_deref(), self.eps);
    }

    /// Whether the mean is removed.
    pub(crate) fn removes_mean(&self) -> bool {
        self.kind == easyroutine_kernels::NormKind::Layer
    }
}

/// Reads weights by the names of a family.
#[derive(Debug)]
pub(crate) struct Loader<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) names: &'a Names,
    /// What stands before a name in most files: the base model's own.
    pub(crate) base: &'a str,
    pub(crate) cpu: &'a Cpu,
    pub(crate) dtype: Dtype,
}

/// Where one row of a packed matrix comes from.
type Place = (usize, usize);

impl Loader<'_> {
    /// A vector.
    pub(crate) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        self.checkpoint.tensor(self.base, name, &[length])?.read_all()
    }

    /// A norm of `width` columns; `module` is its name without `.weight`.
    pub(crate) fn norm(&self, module: &str, norm: arch::Norm, width: usize) -> Result<Norm> {
        self.norm_of(
            norm,
            || self.vector(&format!("{module}.weight"), width),
            || self.vector(&format!("{module}.bias"), width),
        )
    }

    /// A norm whose parameters are read by the given functions where its kind has them.
    pub(crate) fn norm_of(
        &self,
        norm: arch::Norm,
        weight: impl FnOnce() -> Result<Vec<f32>>,
        bias: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Norm> {
        use crate::arch::NormKind;
        let mut weight = if norm.kind == NormKind::LayerNoParams { None } else { Some(weight()?) };
        if norm.kind == NormKind::RmsOffset {
            weight.iter_mut().flatten().for_each(|w| *w += 1.0);
        }
        let bias = if norm.kind == NormKind::Layer { Some(bias()?) } else { None };
        let kind = if norm.kind.is_layer_norm() {
            easyroutine_kernels::NormKind::Layer
        } else {
            easyroutine_kernels::NormKind::Rms
        };
        Ok(Norm { kind, eps: norm.eps, weight, bias })
    }

    /// One projection.
    pub(crate) fn linear(
        &self,
        prefix: &str,
        linear: Linear,
        outputs: usize,
        inputs: usize,
    ) -> Result<Projection> {
        self.fused(&[self.part(prefix, linear, outputs, inputs)?], inputs, outputs, |n| (0, n))
    }

    /// One projection that stays in f32 whatever the compute dtype (a router: its choices must not flip).
    pub(crate) fn linear_f32(
        &self,
        prefix: &str,
        linear: Linear,
        outputs: usize,
        inputs: usize,
    ) -> Result<Projection> {
        Loader { dtype: Dtype::F32, ..*self }.linear(prefix, linear, outputs, inputs)
    }

    /// One stored projection, to be fused with others.
    pub(crate) fn part(
        &self,
        prefix: &str,
        linear: Linear,
        outputs: usize,
        inputs: usize,
    ) -> Result<Part<'_>> {
        self.part_named(prefix, linear.name, linear, outputs, inputs)
    }

    /// As [`Loader::part`], under another module name (one expert's).
    pub(crate) fn part_named(
        &self,
        prefix: &str,
        module: &str,
        linear: Linear,
        outputs: usize,
        inputs: usize,
    ) -> Result<Part<'_>> {
        let name = |end: &str| format!("{prefix}{module}.{end}");
        let weight = match linear.axes {
            Axes::OutIn => {
                PartRows::Stored(self.checkpoint.tensor(self.base, &name("weight"), &[outputs, inputs])?)
            }
            Axes::InOut => {
                let tensor = self.checkpoint.tensor(self.base, &name("weight"), &[inputs, outputs])?;
                let values = tensor.read_all()?;
                tensor.drop_pages();
                PartRows::Columns { values, outputs }
            }
        };
        let bias = match linear.bias {
            Bias::Stored => Some(self.vector(&name("bias"), outputs)?),
            Bias::Absent => None,
        };
        Ok(Part { weight, bias })
    }

    /// Several stored projections as one: output `n` is row `place(n).1` of part `place(n).0`.
    pub(crate) fn fused(
        &self,
        parts: &[Part<'_>],
        inputs: usize,
        outputs: usize,
        place: impl Fn(usize) -> Place + Sync,
    ) -> Result<Projection> {
        let matrix = PackedMatrix::pack(self.cpu, self.dtype, outputs, inputs, |n, row| {
            let (part, from) = place(n);
            parts[part].weight.read(from, row)
        })?;
        Ok(self.finish(parts, matrix, outputs, place))
    }

    /// Gate and up as one, interleaved for the kernel's epilogue; outputs `0..neurons` are gates.
    pub(crate) fn gated(
        &self,
        parts: &[Part<'_>],
        inputs: usize,
        neurons: usize,
        place: impl Fn(usize) -> Place + Sync,
    ) -> Result<Projection> {
        let matrix = PackedMatrix::pack_gated(self.cpu, self.dtype, neurons, inputs, |n, row| {
            let (part, from) = place(n);
            parts[part].weight.read(from, row)
        })?;
        Ok(self.finish(parts, matrix, 2 * neurons, place))
    }

    fn finish(
        &self,
        parts: &[Part<'_>],
        matrix: PackedMatrix,
        outputs: usize,
        place: impl Fn(usize) -> Place,
    ) -> Projection {
        parts.iter().for_each(|part| part.weight.drop_pages());
        let has_bias = parts.iter().any(|part| part.bias.is_some());
        let bias = has_bias.then(|| {
            let of = |(part, row): Place| parts[part].bias.as_ref().map_or(0.0, |b| b[row]);
            (0..outputs).map(|n| of(place(n))).collect()
        });
        Projection::new(matrix, bias)
    }
}

/// One stored projection.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    weight: PartRows<'a>,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum PartRows<'a> {
    /// Stored `[outputs, inputs]`.
    Stored(Tensor<'a>),
    /// Stored `[inputs, outputs]`, decoded as a whole because rows are columns there.
    Columns { values: Vec<f32>, outputs: usize },
}

impl PartRows<'_> {
    fn read(&self, row: usize, out: &mut [f32]) -> Result<()> {
        match self {
            PartRows::Stored(tensor) => tensor.read_row(row, out),
            PartRows::Columns { values, outputs } => {
                let column = values[row..].iter().step_by(*outputs);
                out.iter_mut().zip(column).for_each(|(x, v)| *x = *v);
                Ok(())
            }
        }
    }

    fn drop_pages(&self) {
        if let PartRows::Stored(tensor) = self {
            tensor.drop_pages();
        }
    }
}
