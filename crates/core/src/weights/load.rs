//! Projections and norms as the kernels take them: vectors are read at once, matrices when products need them.

use std::sync::Arc;

use easyroutine_kernels::{Cpu, Dtype, Out, PackedMatrix, Rows, RowsMut, Source};

use super::checkpoint::{Checkpoint, TensorRows};
use super::projection::Projection;
use crate::arch::{self, Bias};
use crate::error::Result;
use crate::names::{Axes, Linear, Names};

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
    pub(crate) checkpoint: &'a Arc<Checkpoint>,
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
        Ok(self.fused(vec![self.part(prefix, linear, outputs, inputs)?], inputs, outputs, |n| (0, n)))
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
    pub(crate) fn part(&self, prefix: &str, linear: Linear, outputs: usize, inputs: usize) -> Result<Part> {
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
    ) -> Result<Part> {
        let name = |end: &str| format!("{prefix}{module}.{end}");
        let weight = match linear.axes {
            Axes::OutIn => {
                let tensor = self.checkpoint.tensor(self.base, &name("weight"), &[outputs, inputs])?;
                PartRows::Stored(tensor.lasting()?)
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
        parts: Vec<Part>,
        inputs: usize,
        outputs: usize,
        place: impl Fn(usize) -> Place + Send + Sync + 'static,
    ) -> Projection {
        self.joined(parts, outputs, place, |rows| PackedMatrix::later(self.dtype, outputs, inputs, rows))
    }

    /// Gate and up as one, interleaved for the kernel's epilogue; outputs `0..neurons` are gates.
    pub(crate) fn gated(
        &self,
        parts: Vec<Part>,
        inputs: usize,
        neurons: usize,
        place: impl Fn(usize) -> Place + Send + Sync + 'static,
    ) -> Projection {
        let later = |rows| PackedMatrix::gated_later(self.dtype, neurons, inputs, rows);
        self.joined(parts, 2 * neurons, place, later)
    }

    fn joined(
        &self,
        parts: Vec<Part>,
        outputs: usize,
        place: impl Fn(usize) -> Place + Send + Sync + 'static,
        later: impl FnOnce(Arc<dyn Source>) -> PackedMatrix,
    ) -> Projection {
        let has_bias = parts.iter().any(|part| part.bias.is_some());
        let bias = has_bias.then(|| {
            let of = |(part, row): Place| parts[part].bias.as_ref().map_or(0.0, |b| b[row]);
            (0..outputs).map(|n| of(place(n))).collect()
        });
        let parts: Vec<PartRows> = parts.into_iter().map(|part| part.weight).collect();
        // Decoded values are a second copy, which should not wait.
        let decoded = parts.iter().any(|part| matches!(part, PartRows::Columns { .. }));
        let place = Box::new(place);
        let matrix = later(Arc::new(JoinedRows { parts, place, _files: Arc::clone(self.checkpoint) }));
        if decoded {
            matrix.pack_now(self.cpu);
        }
        Projection::new(matrix, bias)
    }
}

/// One stored projection.
#[derive(Debug)]
pub(crate) struct Part {
    weight: PartRows,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum PartRows {
    /// Stored `[outputs, inputs]`.
    Stored(TensorRows),
    /// Stored `[inputs, outputs]`, decoded as a whole because rows are columns there.
    Columns { values: Vec<f32>, outputs: usize },
}

/// The rows of several stored projections as one matrix.
struct JoinedRows {
    parts: Vec<PartRows>,
    place: Box<dyn Fn(usize) -> Place + Send + Sync>,
    /// Says that the files are still read.
    _files: Arc<Checkpoint>,
}

impl Source for JoinedRows {
    fn read(&self, output: usize, weights: &mut [f32]) {
        let (part, row) = (self.place)(output);
        match &self.parts[part] {
            PartRows::Stored(rows) => rows.read(row, weights),
            PartRows::Columns { values, outputs } => {
                let column = values[row..].iter().step_by(*outputs);
                weights.iter_mut().zip(column).for_each(|(x, v)| *x = *v);
            }
        }
    }

    fn done(&self) {
        for part in &self.parts {
            if let PartRows::Stored(rows) = part {
                rows.drop_pages();
            }
        }
    }
}
