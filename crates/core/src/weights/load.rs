//! Projections and norms in the kernels' form: vectors are read at once, matrices on demand.

use std::convert::Infallible;
use std::sync::Arc;

use easyroutine_kernels::{Cpu, Dtype, Encoding, Out, PackedMatrix, Rows, RowsMut, Scale, Source};

use super::checkpoint::Checkpoint;
use super::mxfp4::Mxfp4;
use super::parts::{Columns, JoinedRows, Part, PartRows};
use super::projection::{Projection, Update};
use super::table::Table;
use super::tensor::Tensor;
use crate::adapter::LowRank;
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

    /// Adds to `out` the gradient of the input of a norm over groups of `group` columns.
    ///
    /// # Shapes
    /// `x`, its input; `g`, the gradient of its output; `out`: tokens by columns.
    pub(crate) fn back(
        &self,
        cpu: &Cpu,
        scale: Scale,
        x: Rows<'_>,
        group: usize,
        g: Rows<'_>,
        out: RowsMut<'_>,
    ) {
        cpu.norm_back(self.kind, scale, x, group, self.weight.as_deref(), self.eps, g, out);
    }

    /// Whether the mean is removed.
    pub(crate) fn removes_mean(&self) -> bool {
        self.kind == easyroutine_kernels::NormKind::Layer
    }
}

/// Reads weights by a family's names.
#[derive(Debug)]
pub(crate) struct Loader<'a> {
    pub(crate) checkpoint: &'a Arc<Checkpoint>,
    pub(crate) names: &'a Names,
    /// The prefix of most names: the base model's own.
    pub(crate) base: &'a str,
    pub(crate) cpu: &'a Cpu,
    pub(crate) dtype: Dtype,
    /// Whether packed matrices are let go and read again: memory does not hold them all.
    pub(crate) by_layer: bool,
}

/// The source of one row of a packed matrix: part and row.
pub(super) type Place = (usize, usize);

impl Loader<'_> {
    /// A vector; empty if it is missing, which the checkpoint records.
    pub(crate) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        self.checkpoint.values(self.base, name, &[length])
    }

    /// A norm of `shape`, a width or heads by a width; `module` is its name without `.weight`.
    pub(crate) fn norm_shaped(&self, module: &str, norm: arch::Norm, shape: &[usize]) -> Result<Norm> {
        let read = |end: &str| self.checkpoint.values(self.base, &format!("{module}.{end}"), shape);
        self.norm_of(norm, || read("weight"), || read("bias"))
    }

    /// A norm of `width` columns; `module` is its name without `.weight`.
    pub(crate) fn norm(&self, module: &str, norm: arch::Norm, width: usize) -> Result<Norm> {
        self.norm_shaped(module, norm, &[width])
    }

    /// A norm whose parameters, if its kind has them, are read by the given functions.
    pub(crate) fn norm_of(
        &self,
        norm: arch::Norm,
        weight: impl FnOnce() -> Result<Vec<f32>>,
        bias: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Norm> {
        let mut weight = if norm.kind.has_weight() { Some(weight()?) } else { None };
        if norm.kind.adds_one() {
            weight.iter_mut().flatten().for_each(|w| *w += 1.0);
        }
        let bias = if norm.kind.has_bias() { Some(bias()?) } else { None };
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

    /// One projection that stays in f32 whatever the compute dtype (a router: rounding must not change its choices).
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
                PartRows::Stored(self.checkpoint.rows(self.base, &name("weight"), &[outputs, inputs])?)
            }
            Axes::InOut => self.columns(&name("weight"), &[inputs, outputs], 0)?,
        };
        let bias = match linear.bias {
            Bias::Stored => Some(self.vector(&name("bias"), outputs)?).filter(|bias| !bias.is_empty()),
            Bias::Absent => None,
        };
        let update = self.checkpoint.low_rank(self.base, &format!("{prefix}{module}"), outputs, inputs)?;
        Ok(Part { weight, bias, update })
    }

    /// All experts' projections in one tensor, `[experts, outputs, inputs]`: its rows are the outputs of one expert
    /// after another.
    pub(crate) fn stacked_part(&self, name: &str, shape: [usize; 3]) -> Result<Part> {
        let weight = PartRows::Stored(self.checkpoint.rows(self.base, name, &shape)?);
        Ok(Part { weight, bias: None, update: None })
    }

    /// One expert's projection from a tensor `[experts, inputs, outputs]`.
    pub(crate) fn turned_part(
        &self,
        name: &str,
        expert: usize,
        [count, outputs, inputs]: [usize; 3],
    ) -> Result<Part> {
        let weight = self.columns(name, &[count, inputs, outputs], expert)?;
        Ok(Part { weight, bias: None, update: None })
    }

    /// One expert's projection from a tensor `[experts, inputs, outputs]`, or from blocks of MXFP4, with its bias.
    pub(crate) fn biased_part(
        &self,
        name: &str,
        expert: usize,
        [count, outputs, inputs]: [usize; 3],
    ) -> Result<Part> {
        let biases = self.checkpoint.tensor(self.base, &format!("{name}_bias"), &[count, outputs])?;
        let row = |biases: Tensor<'_>| {
            let mut bias = vec![0.0; outputs];
            biases.read_row(expert, &mut bias).map(|()| bias)
        };
        let bias = biases.map(row).transpose()?;
        let blocks = format!("{name}_blocks");
        let is_packed = inputs.is_multiple_of(32) && self.checkpoint.has(self.base, &blocks);
        let weight = match is_packed {
            true => {
                let scales = format!("{name}_scales");
                let blocks = self.checkpoint.bytes(self.base, &blocks, &[count, outputs, inputs / 32, 16])?;
                let scales = self.checkpoint.bytes(self.base, &scales, &[count, outputs, inputs / 32])?;
                match (blocks, scales) {
                    (Some(blocks), Some(scales)) => {
                        PartRows::Mxfp4(Mxfp4 { blocks, scales, first: expert * outputs })
                    }
                    _ => PartRows::Missing,
                }
            }
            false => self.columns(name, &[count, inputs, outputs], expert)?,
        };
        Ok(Part { weight, bias, update: None })
    }

    /// One matrix of a tensor that has inputs before outputs, and maybe several such matrices.
    fn columns(&self, name: &str, shape: &[usize], matrix: usize) -> Result<PartRows> {
        let (Some(tensor), &[.., inputs, outputs]) = (self.checkpoint.tensor(self.base, name, shape)?, shape)
        else {
            return Ok(PartRows::Missing);
        };
        if tensor.axes == Axes::InOut {
            // The container has it the other way round: as products read it.
            let rows = self.checkpoint.rows(self.base, name, shape)?;
            return Ok(PartRows::From(rows, matrix * outputs));
        }
        let columns = Columns::new(tensor.lasting()?, matrix * inputs..(matrix + 1) * inputs, outputs);
        if columns.encoding() == Encoding::F32 {
            self.checkpoint.widens(self.base, name, "stored with inputs first, and turned");
        }
        Ok(PartRows::Columns(columns))
    }

    /// A table looked up by row: tensor `name`, with an adapter's update of `module`. Each has its own prefix, since a
    /// tied pair shares one tensor.
    pub(crate) fn table(
        &self,
        base: &str,
        name: &str,
        (module_base, module): (&str, &str),
        rows: usize,
        width: usize,
    ) -> Result<Table> {
        let stored = self.checkpoint.rows(base, name, &[rows, width])?;
        let update = self.checkpoint.low_rank_of_table(module_base, module, rows, width)?;
        if update.is_some() {
            self.checkpoint.widens(base, name, "an adapter changes its rows");
        }
        Ok(Table { rows: stored, update, count: rows, _files: Arc::clone(self.checkpoint) })
    }

    /// The same rows as a projection from the table's width to its number of rows.
    pub(crate) fn of_table(&self, table: Table, width: usize) -> Projection {
        let outputs = table.count();
        let bias = table.update.as_ref().and_then(|update| update.bias.clone());
        let part = Part { weight: PartRows::Table(table), bias, update: None };
        self.fused(vec![part], width, outputs, |n| (0, n))
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

    /// Gate and up as one, interleaved for the kernel's epilogue; outputs `0..neurons` are the gate's.
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
        // If a part is missing, no model is built, and the sizes may be anything.
        let is_whole = !parts.iter().any(|part| part.weight.is_missing());
        let has_bias = is_whole && parts.iter().any(|part| part.biases().next().is_some());
        let bias = has_bias.then(|| {
            let of = |(part, row): Place| parts[part].biases().map(|bias| bias[row]).sum();
            (0..outputs).map(|n| of(place(n))).collect()
        });
        let update = self.update(&parts, outputs, &place);
        let parts: Vec<PartRows> = parts.into_iter().map(|part| part.weight).collect();
        // Decoded values are a second copy, so packing should not wait.
        let decoded = parts.iter().any(|part| matches!(part, PartRows::Columns(_))) && !self.by_layer;
        let place = Box::new(place);
        let (again, files) = (self.by_layer, Arc::clone(self.checkpoint));
        let matrix = later(Arc::new(JoinedRows { parts, place, outputs, again, files }));
        if decoded {
            matrix.pack_now(self.cpu);
        }
        Projection::new(matrix, bias).updated(update)
    }

    /// The updates of several parts as one: ranks side by side, with each part's outputs reading its own.
    fn update(
        &self,
        parts: &[Part],
        outputs: usize,
        place: &(impl Fn(usize) -> Place + Sync),
    ) -> Option<Update> {
        let mut firsts = Vec::with_capacity(parts.len());
        let (mut rank, mut rows): (usize, Vec<&[f32]>) = (0, Vec::new());
        for part in parts {
            firsts.push(rank);
            if let Some(update) = &part.update {
                rank += update.rank;
                rows.extend(update.a.chunks_exact(update.a.len() / update.rank));
            }
        }
        let inputs = rows.first()?.len();
        let Ok(down) = PackedMatrix::pack(self.cpu, self.dtype, rank, inputs, |n, row| {
            row.copy_from_slice(rows[n]);
            Ok::<(), Infallible>(())
        });
        // Few numbers, with sums as inputs: no reason to round them.
        let Ok(up) = PackedMatrix::pack(self.cpu, Dtype::F32, outputs, rank, |n, row| {
            row.fill(0.0);
            let (part, output) = place(n);
            if let Some(LowRank { rank, b, .. }) = &parts[part].update {
                row[firsts[part]..][..*rank].copy_from_slice(&b[output * rank..][..*rank]);
            }
            Ok::<(), Infallible>(())
        });
        Some(Update { down, up })
    }
}
