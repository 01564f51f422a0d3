//! What happens to a tile's sums before they leave the cache.

use crate::packed::{HALF, HalfPanel};
use crate::shared::SharedRows;
use crate::vector::{Element, PANEL, Vector};
use crate::{Activation, PackedMatrix, Rows};
use std::ops::Range;

/// Terms added to a product's sums before [`Finish`].
///
/// # Shapes
/// bias: `[outputs]`; addend: `[rows, outputs]`; for a gated matrix the gate's columns come first.
#[derive(Clone, Copy, Default)]
pub struct Terms<'a> {
    /// Added to every row.
    pub bias: Option<&'a [f32]>,
    /// Added after the bias, row by row: the result of another product, such as a low-rank update of the weights.
    pub addend: Option<Rows<'a>>,
}

/// What becomes of the sums once the terms are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Store them.
    Store,
    /// Add them to the output.
    Add,
    /// Store their activation.
    Activate(Activation),
    /// Store the activation of the first half times the second half.
    Gate(Activation),
}

impl Finish {
    /// Columns of the result of a matrix with `outputs` outputs.
    pub(super) fn columns(self, outputs: usize) -> usize {
        match self {
            Finish::Gate(_) => outputs / 2,
            Finish::Store | Finish::Add | Finish::Activate(_) => outputs,
        }
    }
}

/// Where the results go, rounded to `O`.
pub(super) struct Target<'a, O> {
    pub(super) out: &'a SharedRows<'a, O>,
    /// The product's row and column at the start of `out`.
    pub(super) origin: (usize, usize),
    pub(super) terms: Terms<'a>,
    pub(super) finish: Finish,
}

/// Sums of half a panel. Arrays, since a copy of known length compiles to a few vector moves instead of a call.
type Half = [f32; HALF];

impl<O: Element> Target<'_, O> {
    /// Finishes the sums of a panel's outputs for a range of rows, and writes them.
    ///
    /// The caller of `block::run` promises exclusive access to the output.
    #[inline(always)]
    pub(super) fn finish<V: Vector>(
        &self,
        v: V,
        w: &PackedMatrix,
        panel: usize,
        rows: Range<usize>,
        sums: &mut [f32],
    ) {
        let halves = w.halves(panel);
        let bias = self.terms.bias.map(|bias| [half_of(bias, &halves[0]), half_of(bias, &halves[1])]);
        let (sums, _) = sums.as_chunks_mut::<HALF>();
        let (sums, _) = sums.as_chunks_mut::<2>();
        for (row, sums) in rows.zip(sums) {
            if let Some(bias) = &bias {
                for i in 0..HALF {
                    sums[0][i] += bias[0][i];
                    sums[1][i] += bias[1][i];
                }
            }
            if let Some(addend) = &self.terms.addend {
                add(addend.row(row), &halves[0], &mut sums[0]);
                add(addend.row(row), &halves[1], &mut sums[1]);
            }
            let [first, second] = sums;
            match self.finish {
                Finish::Gate(activation) => {
                    activation.replace(v, first);
                    for i in 0..HALF {
                        first[i] *= second[i];
                    }
                    self.write(v, row, &halves[0], first);
                    continue;
                }
                Finish::Activate(activation) => {
                    activation.replace(v, first);
                    activation.replace(v, second);
                }
                Finish::Store | Finish::Add => {}
            }
            self.write(v, row, &halves[0], first);
            self.write(v, row, &halves[1], second);
        }
        const { assert!(2 * HALF == PANEL) };
    }

    #[inline(always)]
    fn write<V: Vector>(&self, v: V, row: usize, half: &HalfPanel, values: &Half) {
        if half.count == 0 {
            return;
        }
        let (row, column) = (row - self.origin.0, half.start - self.origin.1);
        // SAFETY: the caller of `block::run` promises exclusive access.
        let out = unsafe { self.out.part(row, column..column + half.count) };
        match (self.finish, out.first_chunk_mut::<HALF>()) {
            (Finish::Add, Some(out)) => {
                for i in 0..HALF {
                    out[i] = O::nearest(out[i].widened() + values[i]);
                }
            }
            (_, Some(out)) => {
                let mut start = 0;
                while start < HALF {
                    O::store(v, v.load(&values[start..]), &mut out[start..]);
                    start += V::LANES;
                }
            }
            (Finish::Add, None) => {
                for (out, value) in out.iter_mut().zip(values) {
                    *out = O::nearest(out.widened() + value);
                }
            }
            (_, None) => {
                for (out, value) in out.iter_mut().zip(values) {
                    *out = O::nearest(*value);
                }
            }
        }
    }
}

/// Adds one row's values to the sums of half a panel.
#[inline(always)]
fn add(values: &[f32], half: &HalfPanel, sums: &mut Half) {
    let values = &values[half.start.min(values.len())..][..half.count];
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// The biases of half a panel, zero where it has no outputs.
#[inline(always)]
fn half_of(bias: &[f32], half: &HalfPanel) -> Half {
    let mut values = [0.0; HALF];
    values[..half.count].copy_from_slice(&bias[half.start.min(bias.len())..][..half.count]);
    values
}
