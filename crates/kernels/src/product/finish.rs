//! What happens to a tile's sums before they leave the cache.

use crate::packed::HALF;
use crate::shared::SharedRows;
use crate::vector::{PANEL, Vector};
use crate::{Activation, PackedMatrix};
use std::ops::Range;

/// What becomes of the sums, after the bias.
#[derive(Clone, Copy)]
pub(super) enum Finish {
    /// They are the result.
    Store,
    /// They are added to what is there.
    Add,
    /// Their function is the result.
    Activate(Activation),
    /// The function of the first half times the second half is the result.
    Gate(Activation),
}

impl Finish {
    /// Columns of the result of a matrix with so many outputs.
    pub(super) fn columns(self, outputs: usize) -> usize {
        match self {
            Finish::Gate(_) => outputs / 2,
            Finish::Store | Finish::Add | Finish::Activate(_) => outputs,
        }
    }
}

/// Where the results go.
pub(super) struct Target<'a> {
    pub(super) out: &'a SharedRows<'a>,
    /// The row and the column of the product that stand first in `out`.
    pub(super) origin: (usize, usize),
    pub(super) bias: Option<&'a [f32]>,
    pub(super) finish: Finish,
}

impl Target<'_> {
    /// Finishes the sums of a panel's outputs for some rows, and writes them.
    ///
    /// That no one else accesses them is the promise of the caller of `block::run`.
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
        for (row, sums) in rows.zip(sums.chunks_exact_mut(PANEL)) {
            let (first, second) = sums.split_at_mut(HALF);
            for (half, sums) in halves.iter().zip([&mut *first, &mut *second]) {
                if let Some(bias) = self.bias {
                    add(&bias[half.start.min(bias.len())..][..half.count], sums);
                }
            }
            if let Finish::Gate(activation) = self.finish {
                activation.replace(v, first);
                for (gate, up) in first.iter_mut().zip(second) {
                    *gate *= *up;
                }
                self.write(row, halves[0].start, &first[..halves[0].count]);
                continue;
            }
            for (half, sums) in halves.iter().zip([first, second]) {
                if let Finish::Activate(activation) = self.finish {
                    activation.replace(v, sums);
                }
                self.write(row, half.start, &sums[..half.count]);
            }
        }
    }

    #[inline(always)]
    fn write(&self, row: usize, column: usize, values: &[f32]) {
        if values.is_empty() {
            return;
        }
        let (row, column) = (row - self.origin.0, column - self.origin.1);
        // SAFETY: by the promise of the caller of `block::run`.
        let out = unsafe { self.out.part(row, column..column + values.len()) };
        match self.finish {
            Finish::Add => add(values, out),
            Finish::Store | Finish::Activate(_) | Finish::Gate(_) => out.copy_from_slice(values),
        }
    }
}

#[inline(always)]
fn add(values: &[f32], to: &mut [f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += value;
    }
}
