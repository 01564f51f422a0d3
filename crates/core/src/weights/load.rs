//! Projections and norms in the kernels' form: vectors are read at once, matrices on demand.

use std::convert::Infallible;
use std::sync::Arc;

use easyroutine_kernels::{Cpu, Dtype, Encoding, Out, PackedMatrix, Rows, RowsMut, Scale, Source};
use half::{bf16, f16};

use super::checkpoint::Checkpoint;
use super::mxfp4::Mxfp4;
use super::projection::{Projection, Update};
use super::table::Table;
use super::tensor::{Tensor, TensorRows};
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
}

/// The source of one row of a packed matrix: part and row.
type Place = (usize, usize);

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
            Axes::InOut => match self.checkpoint.tensor(self.base, &name("weight"), &[inputs, outputs])? {
                // The container has it the other way round: as products read it.
                Some(tensor) if tensor.axes == Axes::InOut => PartRows::Stored(tensor.lasting()?),
                Some(tensor) => {
                    let values = tensor.read_all()?;
                    tensor.drop_pages();
                    PartRows::Columns { values, outputs, encoding: narrow(&tensor) }
                }
                None => PartRows::Missing,
            },
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
            false => match self.checkpoint.tensor(self.base, name, &[count, inputs, outputs])? {
                Some(tensor) if tensor.axes == Axes::InOut => {
                    PartRows::From(tensor.lasting()?, expert * outputs)
                }
                Some(tensor) => {
                    let mut values = vec![0.0; inputs * outputs];
                    for (input, row) in values.chunks_exact_mut(outputs).enumerate() {
                        tensor.read_row(expert * inputs + input, row)?;
                    }
                    PartRows::Columns { values, outputs, encoding: narrow(&tensor) }
                }
                None => PartRows::Missing,
            },
        };
        Ok(Part { weight, bias, update: None })
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
        let decoded = parts.iter().any(|part| matches!(part, PartRows::Columns { .. }));
        let place = Box::new(place);
        let matrix = later(Arc::new(JoinedRows { parts, place, files: Arc::clone(self.checkpoint) }));
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

/// One stored projection.
#[derive(Debug)]
pub(crate) struct Part {
    weight: PartRows,
    bias: Option<Vec<f32>>,
    /// An adapter's update.
    update: Option<LowRank>,
}

impl Part {
    /// The projection times a factor, including biases and updates.
    pub(crate) fn times(mut self, factor: Option<f32>) -> Part {
        let Some(factor) = factor else { return self };
        let times = |values: &mut Vec<f32>| values.iter_mut().for_each(|x| *x *= factor);
        self.bias.iter_mut().for_each(times);
        if let Some(update) = &mut self.update {
            times(&mut update.b);
            update.bias.iter_mut().for_each(times);
        }
        if !self.weight.is_missing() {
            self.weight = PartRows::Times(Box::new(self.weight), factor);
        }
        self
    }

    /// The biases: the stored one, and an adapter's.
    fn biases(&self) -> impl Iterator<Item = &Vec<f32>> {
        self.bias.iter().chain(self.update.iter().flat_map(|update| &update.bias))
    }
}

#[derive(Debug)]
enum PartRows {
    /// Stored `[outputs, inputs]`.
    Stored(TensorRows),
    /// The same, from this row on.
    From(TensorRows, usize),
    /// Stored `[inputs, outputs]`, decoded completely because rows are columns there. Values of f16 and bf16 are kept
    /// in their type.
    Columns { values: Vec<f32>, outputs: usize, encoding: Encoding },
    /// A table looked up by row.
    Table(Table),
    /// Blocks of 32 four-bit numbers with a common scale.
    Mxfp4(Mxfp4),
    /// Other rows times a factor.
    Times(Box<PartRows>, f32),
    /// Recorded as a fault: no model is built from it.
    Missing,
}

impl PartRows {
    fn is_missing(&self) -> bool {
        match self {
            PartRows::Missing => true,
            PartRows::Stored(rows) | PartRows::From(rows, _) => rows.is_missing(),
            PartRows::Times(rows, _) => rows.is_missing(),
            PartRows::Columns { .. } | PartRows::Table(_) | PartRows::Mxfp4(_) => false,
        }
    }

    /// Decodes one row.
    fn read(&self, files: &Checkpoint, row: usize, weights: &mut [f32]) {
        match self {
            PartRows::Stored(rows) => rows.read(row, weights),
            PartRows::From(rows, first) => rows.read(first + row, weights),
            PartRows::Table(table) => table.read(row, weights),
            PartRows::Columns { values, outputs, .. } => {
                let column = values[row..].iter().step_by(*outputs);
                weights.iter_mut().zip(column).for_each(|(x, v)| *x = *v);
            }
            PartRows::Mxfp4(blocks) => blocks.read(files, row, weights),
            PartRows::Times(rows, factor) => {
                rows.read(files, row, weights);
                weights.iter_mut().for_each(|x| *x *= factor);
            }
            PartRows::Missing => {}
        }
    }

    /// The encoding of a row, if products can use it.
    fn encoding(&self, row: usize) -> Encoding {
        match self {
            PartRows::Stored(rows) => rows.encoding(row),
            PartRows::From(rows, first) => rows.encoding(first + row),
            PartRows::Table(table) => table.encoding(row),
            PartRows::Columns { encoding, .. } => *encoding,
            PartRows::Mxfp4(_) | PartRows::Times(..) | PartRows::Missing => Encoding::F32,
        }
    }

    /// One row as stored.
    fn read_stored(&self, row: usize, bytes: &mut [u8]) {
        match self {
            PartRows::Stored(rows) | PartRows::Table(Table { rows, .. }) => rows.read_stored(row, bytes),
            PartRows::From(rows, first) => rows.read_stored(first + row, bytes),
            PartRows::Columns { values, outputs, encoding } => {
                let column = values[row..].iter().step_by(*outputs);
                for (bytes, value) in bytes.chunks_exact_mut(2).zip(column) {
                    bytes.copy_from_slice(&match encoding {
                        Encoding::F16 => f16::from_f32(*value).to_le_bytes(),
                        _ => bf16::from_f32(*value).to_le_bytes(),
                    });
                }
            }
            PartRows::Mxfp4(_) | PartRows::Times(..) | PartRows::Missing => {}
        }
    }

    /// Releases the file's pages.
    fn drop_pages(&self) {
        match self {
            PartRows::Stored(rows) | PartRows::From(rows, _) => rows.drop_pages(),
            PartRows::Table(table) => table.drop_pages(),
            PartRows::Times(rows, _) => rows.drop_pages(),
            PartRows::Columns { .. } | PartRows::Mxfp4(_) | PartRows::Missing => {}
        }
    }
}

/// The encoding of a tensor of 16-bit floats, in which its values can be kept; f32 for others.
fn narrow(tensor: &Tensor<'_>) -> Encoding {
    match tensor.encoding() {
        easyroutine_files::Encoding::F16 => Encoding::F16,
        easyroutine_files::Encoding::Bf16 => Encoding::Bf16,
        _ => Encoding::F32,
    }
}

/// The rows of several stored projections as one matrix.
struct JoinedRows {
    parts: Vec<PartRows>,
    place: Box<dyn Fn(usize) -> Place + Send + Sync>,
    /// Marks the files as still in use.
    files: Arc<Checkpoint>,
}

impl Source for JoinedRows {
    fn read(&self, output: usize, weights: &mut [f32]) {
        let (part, row) = (self.place)(output);
        self.parts[part].read(&self.files, row, weights);
    }

    fn encoding(&self, output: usize) -> Encoding {
        let (part, row) = (self.place)(output);
        self.parts[part].encoding(row)
    }

    fn read_stored(&self, output: usize, bytes: &mut [u8]) {
        let (part, row) = (self.place)(output);
        self.parts[part].read_stored(row, bytes);
    }

    fn done(&self) {
        for part in &self.parts {
            part.drop_pages();
        }
    }
}
