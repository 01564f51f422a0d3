//! One encoder with its decoder.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use easyroutine::{Cpu, Dtype, Error, ErrorKind, Result};
use easyroutine_kernels::{PackedMatrix, Rows, RowsMut};

use crate::activation::{Activation, Choice};
use crate::features::{Features, check_feature};
use crate::norm::{Norm, Undo};
use crate::place::Place;
use crate::tensors::Matrix;

/// Features multiplied at a time.
const CHUNK: usize = 4096;
/// Limit on the numbers of the array between product and selection.
const BLOCK: usize = 1 << 22;
/// Limit on the numbers of an encoder kept packed, 1 GiB; each call reads a larger one from its file.
const KEPT: usize = 1 << 28;

/// An encoder at one place and its decoder: a sparse autoencoder, or, if it writes elsewhere, a transcoder.
#[derive(Debug)]
pub struct Layer {
    pub(crate) reads: Place,
    pub(crate) writes: Place,
    /// By features: `[F', D_in]`.
    pub(crate) encoder: Matrix,
    /// `[F']`, or empty.
    pub(crate) encoder_bias: Vec<f32>,
    /// By features: `[F', parts · D_out]`, with one part per layer that it writes to.
    pub(crate) decoder: Matrix,
    /// The layers of the set that the parts belong to.
    pub(crate) parts: Range<usize>,
    /// `[D_out]`
    pub(crate) decoder_bias: Vec<f32>,
    /// Whether the decoder's bias is subtracted from the input.
    pub(crate) subtracts_bias: bool,
    pub(crate) norm: Norm,
    /// Whether the norm is undone after decoding.
    pub(crate) undoes_norm: bool,
    pub(crate) activation: Activation,
    /// Features are h·‖decoder row‖, and decoding divides by that.
    pub(crate) rescales: bool,
    /// `[D_out, D_in]`: the direct contribution of x.
    pub(crate) skip: Option<Matrix>,
    pub(crate) packed: Mutex<Vec<Option<Arc<PackedMatrix>>>>,
    pub(crate) packed_skip: OnceLock<PackedMatrix>,
    pub(crate) row_norms: OnceLock<Vec<f32>>,
}

impl Layer {
    /// Where it reads.
    pub fn reads(&self) -> &Place {
        &self.reads
    }

    /// Where it writes: the same place, except for a transcoder.
    pub fn writes(&self) -> &Place {
        &self.writes
    }

    /// Whether it writes elsewhere than it reads.
    pub fn is_transcoder(&self) -> bool {
        self.reads != self.writes
    }

    /// Width of its input.
    pub fn d_in(&self) -> usize {
        self.encoder.width()
    }

    /// Width of its output.
    pub fn d_out(&self) -> usize {
        self.decoder.width() / self.parts.len().max(1)
    }

    /// Number of features, F'.
    pub fn n_features(&self) -> usize {
        self.encoder.features()
    }

    /// The activation function of the encoder's outputs.
    pub fn activation(&self) -> &Activation {
        &self.activation
    }

    /// The normalisation before encoding.
    pub fn norm(&self) -> Norm {
        self.norm
    }

    /// Encodes vectors. A vector's features have the same bits whatever other vectors come with it.
    ///
    /// # Shapes
    /// x: `[T, D_in]`; result: T tokens of F' features.
    ///
    /// # Errors
    /// If vectors have another width, or vectors or weights are not finite.
    pub fn encode(&self, cpu: &Cpu, x: Rows<'_>) -> Result<Features> {
        let (n, width) = (x.n_rows(), self.d_in());
        self.check_width(x, width)?;
        let mut read = vec![0.0; n * width];
        for (row, out) in read.chunks_exact_mut(width).enumerate() {
            if x.row(row).iter().any(|x| !x.is_finite()) {
                return Err(Error::input(format!(
                    "vector {row} at `{}` holds NaN or infinity",
                    self.reads.text()
                )));
            }
            self.norm.apply(x.row(row), out)?;
            if self.subtracts_bias {
                out.iter_mut().zip(&self.decoder_bias).for_each(|(x, bias)| *x -= bias);
            }
        }
        let norms = if self.rescales { self.row_norms()? } else { &[] };
        let choices: Vec<Mutex<Choice>> = (0..n).map(|_| Mutex::default()).collect();
        for start in (0..self.n_features()).step_by(CHUNK) {
            let chunk = start..self.n_features().min(start + CHUNK);
            let weights = self.pack(cpu, chunk.clone())?;
            let bias = self.encoder_bias.get(chunk.clone());
            for rows in pieces(n, (BLOCK / chunk.len()).max(1)) {
                let mut h = vec![0.0; rows.len() * chunk.len()];
                let x = Rows::dense(&read[rows.start * width..rows.end * width], rows.len(), width);
                cpu.matmul(x, &weights, bias, RowsMut::dense(&mut h, rows.len(), chunk.len()));
                cpu.for_each(rows.len(), |row| {
                    let mut choice = choices[rows.start + row].lock().unwrap_or_else(PoisonError::into_inner);
                    let h = &h[row * chunk.len()..][..chunk.len()];
                    if norms.is_empty() {
                        choice.take(&self.activation, self.n_features(), chunk.start, h);
                    } else {
                        let h: Vec<f32> =
                            h.iter().zip(&norms[chunk.clone()]).map(|(h, norm)| h * norm).collect();
                        choice.take(&self.activation, self.n_features(), chunk.start, &h);
                    }
                });
            }
        }
        let mut features = Features::new(self.n_features());
        for choice in choices {
            features.push(choice.into_inner().unwrap_or_else(PoisonError::into_inner).finish());
        }
        Ok(features)
    }

    /// What a feature with value 1 adds at the place, used for steering: the decoder's row, divided by s for a
    /// dictionary that reads x·s. A norm by each vector's own statistics, and a scale by the rows' norms, are ignored.
    /// For a cross-layer transcoder, the row for one layer of the set.
    ///
    /// # Shapes
    /// `[D_out]`.
    ///
    /// # Errors
    /// If there is no such feature, it does not write to the layer, or weights are not finite.
    pub fn direction(&self, feature: usize, target: usize) -> Result<Vec<f32>> {
        check_feature(feature, self.n_features())?;
        let columns = self
            .columns(target)
            .ok_or_else(|| Error::input(format!("feature {feature} writes nothing there")))?;
        let mut row = vec![0.0; self.d_out()];
        self.decoder.read(feature, columns, &mut row)?;
        if let (Norm::Scale { undo, .. }, true) = (self.norm, self.undoes_norm) {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / undo) as f32);
        }
        Ok(row)
    }

    /// The encoder's row of a feature.
    ///
    /// # Shapes
    /// `[D_in]`.
    ///
    /// # Errors
    /// If there is no such feature, or weights are not finite.
    pub fn encoder_row(&self, feature: usize) -> Result<Vec<f32>> {
        check_feature(feature, self.n_features())?;
        let mut row = vec![0.0; self.d_in()];
        self.encoder.read(feature, 0..self.d_in(), &mut row)?;
        Ok(row)
    }

    /// Adds Σ f·(decoder row) to a sum, features in ascending order.
    ///
    /// # Shapes
    /// sum: `[D_out]`.
    pub(crate) fn add_decoded(
        &self,
        target: usize,
        features: impl Iterator<Item = (u32, f64)>,
        sum: &mut [f64],
    ) -> Result<()> {
        let Some(columns) = self.columns(target) else { return Ok(()) };
        let norms = if self.rescales { self.row_norms()? } else { &[] };
        let mut row = vec![0.0; self.d_out()];
        for (number, value) in features {
            let number = number as usize;
            self.decoder.read(number, columns.clone(), &mut row)?;
            let value = norms.get(number).map_or(value, |norm| value / f64::from(*norm));
            sum.iter_mut().zip(&row).for_each(|(sum, weight)| *sum += value * f64::from(*weight));
        }
        Ok(())
    }

    /// How this vector's norm is undone.
    pub(crate) fn undo(&self, x: &[f32]) -> Result<Undo> {
        if self.undoes_norm {
            self.norm.apply(x, &mut vec![0.0; x.len()])
        } else {
            Ok(Undo { scale: 1.0, shift: 0.0 })
        }
    }

    /// x W_skipᵀ, if there is a skip connection.
    ///
    /// # Shapes
    /// x: `[T, D_in]`; result: `[T, D_out]`.
    pub(crate) fn skipped(&self, cpu: &Cpu, x: Rows<'_>) -> Result<Option<Vec<f32>>> {
        let Some(matrix) = &self.skip else { return Ok(None) };
        let weights = match self.packed_skip.get() {
            Some(weights) => weights,
            None => {
                let packed = pack(cpu, matrix, 0..matrix.features())?;
                // If another thread was faster, its result is the same.
                self.packed_skip.get_or_init(|| packed)
            }
        };
        let mut out = vec![0.0; x.n_rows() * matrix.features()];
        cpu.matmul(x, weights, None, RowsMut::dense(&mut out, x.n_rows(), matrix.features()));
        Ok(Some(out))
    }

    /// Reads every number once.
    ///
    /// # Errors
    /// If one is not finite.
    pub(crate) fn check_numbers(&self) -> Result<()> {
        for matrix in [Some(&self.encoder), Some(&self.decoder), self.skip.as_ref()].into_iter().flatten() {
            let rows = (BLOCK / matrix.width().max(1)).max(1);
            let mut block = Vec::new();
            for features in pieces(matrix.features(), rows) {
                block.resize(features.len() * matrix.width(), 0.0);
                matrix.read_block(features, &mut block)?;
            }
        }
        Ok(())
    }

    pub(crate) fn check_width(&self, x: Rows<'_>, width: usize) -> Result<()> {
        if x.n_columns() == width {
            return Ok(());
        }
        Err(Error::input(format!("the dictionary reads vectors of {width}, not of {}", x.n_columns())))
    }

    /// The decoder's columns that write to a layer of the set.
    fn columns(&self, target: usize) -> Option<Range<usize>> {
        let part = target.checked_sub(self.parts.start).filter(|_| self.parts.contains(&target))?;
        Some(part * self.d_out()..(part + 1) * self.d_out())
    }

    /// ‖row‖ of every row of the decoder.
    pub(crate) fn row_norms(&self) -> Result<&[f32]> {
        if let Some(norms) = self.row_norms.get() {
            return Ok(norms);
        }
        let mut row = vec![0.0; self.decoder.width()];
        let norms = (0..self.n_features()).map(|feature| {
            self.decoder.read(feature, 0..row.len(), &mut row)?;
            let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            if norm == 0.0 {
                let what = format!(
                    "the decoder's row of feature {feature} is zero, by whose norm features are scaled"
                );
                return Err(Error::new(ErrorKind::Weights, what));
            }
            Ok(norm as f32)
        });
        let norms = norms.collect::<Result<Vec<_>>>()?;
        Ok(self.row_norms.get_or_init(|| norms))
    }

    /// The encoder of a range of features, packed.
    fn pack(&self, cpu: &Cpu, features: Range<usize>) -> Result<Arc<PackedMatrix>> {
        let keeps = self.n_features().saturating_mul(self.d_in()) <= KEPT;
        if !keeps {
            return pack(cpu, &self.encoder, features).map(Arc::new);
        }
        let mut kept = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        let at = features.start / CHUNK;
        if kept.len() <= at {
            kept.resize(at + 1, None);
        }
        if let Some(packed) = &kept[at] {
            return Ok(Arc::clone(packed));
        }
        let packed = Arc::new(pack(cpu, &self.encoder, features)?);
        kept[at] = Some(Arc::clone(&packed));
        Ok(packed)
    }
}

/// A range of a matrix's rows, packed for products.
fn pack(cpu: &Cpu, matrix: &Matrix, features: Range<usize>) -> Result<PackedMatrix> {
    let width = matrix.width();
    let mut block = vec![0.0; features.len() * width];
    matrix.read_block(features.clone(), &mut block)?;
    PackedMatrix::pack(cpu, Dtype::F32, features.len(), width, |output, row: &mut [f32]| {
        row.copy_from_slice(&block[output * width..][..width]);
        Ok(())
    })
}

/// Ranges of at most `size` that cover `0..n`.
fn pieces(n: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(size).map(move |start| start..n.min(start + size))
}
