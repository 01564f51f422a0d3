//! One encoder with its decoder.

use std::ops::Range;
use std::sync::OnceLock;

use easyroutine::{Cpu, Dtype, Error, ErrorKind, Result};
use easyroutine_kernels::{PackedMatrix, Rows, RowsMut};

use crate::activation::Activation;
use crate::encode::PackedEncoder;
use crate::features::check_feature;
use crate::norm::{Norm, Undo};
use crate::place::Place;
use crate::tensors::Matrix;

/// Numbers of a matrix that are checked together.
const BLOCK: usize = 1 << 22;

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
    pub(crate) packed: PackedEncoder,
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
                let packed = pack(cpu, Dtype::F32, matrix, 0..matrix.features())?;
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
}

/// A range of a matrix's rows, packed for products.
pub(crate) fn pack(cpu: &Cpu, dtype: Dtype, matrix: &Matrix, features: Range<usize>) -> Result<PackedMatrix> {
    let width = matrix.width();
    let mut block = vec![0.0; features.len() * width];
    matrix.read_block(features.clone(), &mut block)?;
    PackedMatrix::pack(cpu, dtype, features.len(), width, |output, row: &mut [f32]| {
        row.copy_from_slice(&block[output * width..][..width]);
        Ok(())
    })
}

/// Ranges of at most `size` that cover `0..n`.
pub(crate) fn pieces(n: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(size).map(move |start| start..n.min(start + size))
}
