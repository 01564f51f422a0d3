//! The linear steps of a pass.

use easyroutine_kernels::{Attention, Cpu, Dtype, FrozenNorm, NormKind, PackedMatrix, Rows};
use easyroutine_sites::Point;

use super::Scales;
use crate::error::{Error, Result};
use crate::pass::Reg;
use crate::weights::{Norm, Projection};

/// One linear step. Registers hold rows of all copies.
#[derive(Debug)]
pub(super) enum Piece {
    /// A visitor's turn.
    Visit { point: Point, reg: Reg, width: usize },
    /// to = from
    Copy { from: Reg, to: Reg },
    /// to = (from - mean) / σ · weight + bias
    Norm { scales: Scales, from: Reg, to: Reg },
    /// The same in place.
    NormInPlace { scales: Scales, reg: Reg },
    /// to = from Wᵀ + b, or to += that.
    Map { map: Map, from: Reg, to: Reg, adds: bool },
    /// z = pattern · values
    Attend { spec: Attention, patterns: Vec<Vec<f32>> },
    /// reg *= by
    Scale { reg: Reg, by: f32 },
    /// to += from
    Add { from: Reg, to: Reg },
}

/// A matrix, packed for both directions.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) forward: PackedMatrix,
    pub(super) backward: PackedMatrix,
    pub(super) bias: Option<Vec<f32>>,
}

impl Map {
    /// A range of a projection's outputs, including an adapter's update.
    pub(super) fn of(cpu: &Cpu, projection: &Projection, outputs: std::ops::Range<usize>) -> Result<Map> {
        let (n_in, n_out) = (projection.inputs(), outputs.len());
        let forward = PackedMatrix::pack(cpu, Dtype::F32, n_out, n_in, |n, row| {
            projection.read_row(outputs.start + n, row);
            Ok::<(), Error>(())
        })?;
        let backward = forward.transposed(cpu);
        let bias = projection.bias.as_ref().map(|bias| bias[outputs].to_vec());
        Ok(Map { forward, backward, bias })
    }
}

impl Scales {
    /// The scales of a norm for its input. Sums are in f64.
    pub(super) fn of(norm: &Norm, x: Rows<'_>) -> Scales {
        let inverse = (0..x.n_rows()).map(|token| {
            let (x, n) = (x.row(token), x.n_columns() as f64);
            let mean = match norm.kind {
                NormKind::Layer => x.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
                NormKind::Rms => 0.0,
            };
            let squares = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
            (1.0 / (squares / n + f64::from(norm.eps)).sqrt()) as f32
        });
        let (weight, bias) = (norm.weight.clone(), norm.bias.clone());
        Scales { kind: norm.kind, inverse: inverse.collect(), weight, bias }
    }

    pub(super) fn norm(&self) -> FrozenNorm<'_> {
        FrozenNorm { kind: self.kind, inverse: &self.inverse, weight: self.weight.as_deref() }
    }
}
