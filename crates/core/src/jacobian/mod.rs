//! Fits Jacobian lenses: the mean over prompts of the last stream's derivative with respect to each layer's output.
//!
//! J = mean over prompts of 1/|V| Σ_{t in V} Σ_{t' in V} ∂ last_t' / ∂ resid_out_t, with V the positions except the
//! first few and the last (Gurnee et al. 2026, transformer-circuits.pub/2026/workspace). A row of J is one
//! vector-Jacobian product: a unit vector at every position of V of the last stream, back to every layer at once. A
//! prompt runs forward once for all rows.
//!
//! Sums are kept as integers in units of 2^-40, so that addition is exact: prompts in any order, in any parts, give the
//! same bits.

mod file;
mod fit;

use easyroutine_kernels::{Rows, RowsMut};

use crate::arch::Arch;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::model::{Model, Repeated};
use crate::stop::Stop;
pub use file::JacobianFile;
pub use fit::{JacobianFit, Part};

/// Tokens run at a time.
const TOKENS: usize = 1024;
/// Gradient values that wait between two blocks: 256 MiB.
const WAITING: usize = 64 << 20;
/// The unit of sums.
const UNIT: f64 = 1.0 / (1u64 << 40) as f64;
/// The unit of sums of squares.
const SQUARE: f64 = 1.0 / (1u64 << 20) as f64;

/// Options of a fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FitOptions {
    /// Positions at the start of each prompt to ignore; published lenses ignore 16.
    pub skip_first: usize,
    /// Positions at the end to ignore.
    pub skip_last: usize,
}

impl FitOptions {
    /// The length of the shortest prompt that counts, tokens.
    pub fn shortest(self) -> usize {
        self.skip_first + self.skip_last + 1
    }
}

impl Default for FitOptions {
    fn default() -> Self {
        FitOptions { skip_first: 16, skip_last: 1 }
    }
}

/// The sums of a fit so far.
#[derive(Debug, Clone, PartialEq)]
pub struct JacobianSums {
    /// Which positions count.
    pub options: FitOptions,
    /// Width of the stream, D.
    pub d_model: usize,
    /// For each layer except the last, in units of 2^-40.
    ///
    /// # Shapes
    /// D by D: a row per coordinate of the last stream, a column per coordinate of `resid_out`.
    sums: Vec<Vec<i64>>,
    /// Prompts summed.
    pub n_prompts: usize,
    /// Prompts that were too short to count.
    pub n_short: usize,
    /// For each layer, the sum of ‖J of a prompt‖², in units of 2^-20; `None` if some prompts were summed by a program
    /// that did not record it.
    squares: Option<Vec<i64>>,
}

impl JacobianSums {
    /// Empty sums.
    ///
    /// # Errors
    /// If the model has one layer, whose only stream is the last.
    pub fn new(arch: &Arch, options: FitOptions) -> Result<Self> {
        let (layers, d_model) = (arch.layers.len(), arch.d_model);
        if layers < 2 {
            return Err(Error::input("a model of one layer has no layer before the last to fit a lens for"));
        }
        let sums = vec![vec![0; d_model * d_model]; layers - 1];
        let squares = Some(vec![0; layers - 1]);
        Ok(JacobianSums { options, d_model, sums, squares, n_prompts: 0, n_short: 0 })
    }

    /// Number of fitted layers: all except the last.
    pub fn n_layers(&self) -> usize {
        self.sums.len()
    }

    /// The mean matrix of a layer.
    ///
    /// # Shapes
    /// D by D: a row per coordinate of the last stream, a column per coordinate of `resid_out`.
    pub fn matrix(&self, layer: usize) -> Vec<f32> {
        let n = self.n_prompts.max(1) as f64;
        self.sums[layer].iter().map(|sum| (*sum as f64 * UNIT / n) as f32).collect()
    }

    /// Adds a prompt. A prompt without counted positions is skipped. `progress` gets the number of matrix rows done and
    /// in total.
    ///
    /// # Errors
    /// As [`gradients`](crate::gradients::gradients); if a matrix is not finite or too large to be summed, or
    /// `progress` fails.
    pub fn add(
        &mut self,
        model: &Model,
        ids: &[u32],
        stop: Stop<'_>,
        progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        let FitOptions { skip_first, skip_last } = self.options;
        let end = ids.len().saturating_sub(skip_last);
        if end <= skip_first {
            self.n_short += 1;
            return Ok(());
        }
        let own = self.of_prompt(model, ids, skip_first..end, stop, progress)?;
        for (square, own) in self.squares.iter_mut().flatten().zip(&own) {
            let norm: f64 = own.iter().map(|x| (*x as f64 * UNIT).powi(2)).sum();
            *square = square.checked_add((norm / SQUARE).round() as i64).ok_or_else(too_large)?;
        }
        for (sums, own) in self.sums.iter_mut().zip(&own) {
            for (sum, x) in sums.iter_mut().zip(own) {
                *sum = sum.checked_add(*x).ok_or_else(too_large)?;
            }
        }
        self.n_prompts += 1;
        Ok(())
    }

    /// The uncertainty of each layer's mean: its standard error over its norm, √((mean ‖J of a prompt‖² - ‖J‖²) / (n -
    /// 1)) / ‖J‖. `None` for fewer than two prompts, and if the sums include another program's checkpoint, which does
    /// not say how much its prompts vary.
    pub fn uncertainty(&self) -> Option<Vec<f64>> {
        let n = self.n_prompts as f64;
        let of = |(sums, square): (&Vec<i64>, &i64)| {
            let mean: f64 = sums.iter().map(|x| (*x as f64 * UNIT / n).powi(2)).sum();
            let spread = (*square as f64 * SQUARE / n - mean).max(0.0) / (n - 1.0);
            if mean > 0.0 { (spread / mean).sqrt() } else { 0.0 }
        };
        let squares = self.squares.as_ref().filter(|_| self.n_prompts > 1)?;
        Some(self.sums.iter().zip(squares).map(of).collect())
    }

    /// Adds the sums of another part.
    ///
    /// # Errors
    /// If the sums belong to another model or other options.
    pub fn merge(&mut self, other: &JacobianSums) -> Result<()> {
        if (self.options, self.d_model, self.sums.len()) != (other.options, other.d_model, other.sums.len()) {
            return Err(Error::input("these sums are of another model, or of other positions")
                .hint("merge parts that one model and the same options gave"));
        }
        for (ours, theirs) in self.sums.iter_mut().flatten().zip(other.sums.iter().flatten()) {
            *ours = ours.checked_add(*theirs).ok_or_else(too_large)?;
        }
        self.n_prompts += other.n_prompts;
        match &other.squares {
            None => self.squares = None,
            Some(theirs) => {
                for (ours, theirs) in self.squares.iter_mut().flatten().zip(theirs) {
                    *ours = ours.checked_add(*theirs).ok_or_else(too_large)?;
                }
            }
        }
        self.n_short += other.n_short;
        Ok(())
    }

    /// The matrices of one prompt, in units of a sum.
    fn of_prompt(
        &self,
        model: &Model,
        ids: &[u32],
        counted: std::ops::Range<usize>,
        stop: Stop<'_>,
        mut progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<Vec<i64>>> {
        let (d, last) = (self.d_model, self.sums.len());
        let mut own = vec![vec![0; d * d]; last];
        let copies = (TOKENS / ids.len()).clamp(1, d);
        let batch = Batch::new(&vec![ids; copies])?;
        let row_of = |copy: usize| copy * ids.len() + counted.start..copy * ids.len() + counted.end;
        let tokens: Vec<usize> = (0..copies).flat_map(row_of).collect();
        // As many unit vectors as there is room for their gradients: each pass over the model serves all of them.
        let of_pass = (WAITING / (tokens.len() * d)).max(1) * copies;
        let of_copy = |copy: usize| copy * counted.len()..(copy + 1) * counted.len();
        progress(0, d)?;
        for first in (0..d).step_by(of_pass) {
            let n = of_pass.min(d - first);
            let of_time = |time: usize| time * copies..n.min((time + 1) * copies);
            let mut give = |time: usize, mut rows: RowsMut<'_>| {
                for (copy, unit) in of_time(time).enumerate() {
                    of_copy(copy).for_each(|row| rows.row_mut(row)[first + unit] = 1.0);
                }
            };
            let mut take = |time: usize, layer: usize, rows: Rows<'_>| {
                for (copy, unit) in of_time(time).enumerate() {
                    let mut sums = vec![0f64; d];
                    for row in of_copy(copy) {
                        sums.iter_mut().zip(rows.row(row)).for_each(|(sum, x)| *sum += f64::from(*x));
                    }
                    let at = (first + unit) * d;
                    for (to, sum) in own[layer - 1][at..at + d].iter_mut().zip(sums) {
                        *to = in_units(sum / counted.len() as f64)?;
                    }
                }
                // The last block walked is the model's first.
                if layer == 1 { progress(first + of_time(time).end, d) } else { Ok(()) }
            };
            let (blocks, times) = (1..last + 1, n.div_ceil(copies));
            let (give, take) = (&mut give, &mut take);
            let repeated = &mut Repeated { blocks, times, tokens: &tokens, give, take, stop };
            model.reverse_repeated(&batch, repeated)?;
        }
        Ok(own)
    }
}

/// An entry in units of a sum.
fn in_units(entry: f64) -> Result<i64> {
    if !entry.is_finite() {
        return Err(Error::input("the Jacobian of a prompt is not finite")
            .hint("weights or the prompt overflow f32 in this run"));
    }
    let units = entry / UNIT;
    match units.abs() < (1u64 << 62) as f64 {
        true => Ok(units.round() as i64),
        false => Err(too_large()),
    }
}

fn too_large() -> Error {
    Error::input("the Jacobians of this model are too large to be summed exactly: an entry beyond 8 million")
}
