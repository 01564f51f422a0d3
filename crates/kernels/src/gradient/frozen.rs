//! Norms with a constant divisor, which makes them linear in their input.

use crate::norm::sum;
use crate::scratch;
use crate::vector::{Vector, Work};
use crate::{Cpu, NormKind, Rows, RowsMut};

/// A norm with the divisors it had on a batch of tokens.
#[derive(Clone, Copy, Debug)]
pub struct FrozenNorm<'a> {
    /// Whether a mean is subtracted first.
    pub kind: NormKind,
    /// 1 / σ of each token, `[T]`.
    pub inverse: &'a [f32],
    /// Factors, `[D]`.
    pub weight: Option<&'a [f32]>,
}

impl Cpu {
    /// out = (x - mean) / σ · weight + bias, with the stored σ; an RMS norm has no mean.
    ///
    /// # Shapes
    /// x, out: `[n · T, D]`, n copies of the tokens one after another; bias: `[D]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn norm_frozen(&self, norm: FrozenNorm<'_>, bias: Option<&[f32]>, x: Rows<'_>, out: RowsMut<'_>) {
        norm.check([x.n_rows(), x.n_columns()], [out.n_rows(), out.n_columns()]);
        assert!(bias.is_none_or(|bias| bias.len() == x.n_columns()), "the bias of a norm");
        self.for_each_row(out, |row, out| {
            let inverse = norm.inverse[row % norm.inverse.len()];
            self.run(Normed { norm, inverse, x: x.row(row), out });
            if let Some(bias) = bias {
                out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        });
    }

    /// Adds to `out` the gradient of x from that of y: with h = g · weight, (h - mean(h)) / σ.
    ///
    /// # Shapes
    /// g, out: as of [`Cpu::norm_frozen`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn norm_frozen_back(&self, norm: FrozenNorm<'_>, g: Rows<'_>, out: RowsMut<'_>) {
        norm.check([g.n_rows(), g.n_columns()], [out.n_rows(), out.n_columns()]);
        self.for_each_row(out, |row, out| {
            let inverse = norm.inverse[row % norm.inverse.len()];
            let Some(weight) = norm.weight else {
                return self.run(Back { kind: norm.kind, inverse, weighted: g.row(row), out });
            };
            scratch::with(weight.len(), |weighted: &mut [f32]| {
                weighted.iter_mut().zip(g.row(row)).zip(weight).for_each(|((to, g), w)| *to = g * w);
                self.run(Back { kind: norm.kind, inverse, weighted, out });
            });
        });
    }
}

impl FrozenNorm<'_> {
    fn check(&self, read: [usize; 2], written: [usize; 2]) {
        assert_eq!(read, written, "both sides of a norm");
        assert!(
            !self.inverse.is_empty() && read[0].is_multiple_of(self.inverse.len()),
            "{} rows of {} tokens",
            read[0],
            self.inverse.len()
        );
        assert!(self.weight.is_none_or(|weight| weight.len() == read[1]), "weights of a norm");
    }
}

/// The mean that a norm takes off.
#[inline(always)]
fn taken_off<V: Vector>(v: V, kind: NormKind, x: &[f32]) -> f32 {
    match kind {
        NormKind::Layer => sum(v, x) / x.len() as f32,
        NormKind::Rms => 0.0,
    }
}

struct Normed<'a> {
    norm: FrozenNorm<'a>,
    inverse: f32,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Work for Normed<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let mean = taken_off(v, self.norm.kind, self.x);
        self.out.iter_mut().zip(self.x).for_each(|(out, x)| *out = (x - mean) * self.inverse);
        if let Some(weight) = self.norm.weight {
            self.out.iter_mut().zip(weight).for_each(|(out, w)| *out *= w);
        }
    }
}

struct Back<'a> {
    kind: NormKind,
    inverse: f32,
    weighted: &'a [f32],
    out: &'a mut [f32],
}

impl Work for Back<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let mean = taken_off(v, self.kind, self.weighted);
        self.out.iter_mut().zip(self.weighted).for_each(|(out, h)| *out += self.inverse * (h - mean));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Matrix, cpus, values};
    use proptest::prelude::*;

    proptest! {
        /// Σ g · A x = Σ x · Aᵀ g.
        #[test]
        fn both_directions_are_one_linear_map(
            tokens in 1usize..4, copies in 1usize..3, width in 1usize..40, layer in any::<bool>(), seed in any::<u64>(),
        ) {
            let kind = if layer { NormKind::Layer } else { NormKind::Rms };
            let rows = tokens * copies;
            let (x, g) = (Matrix::random(seed, rows, width, width + 3), Matrix::random(seed ^ 1, rows, width, width));
            let weight = values(seed ^ 2, width);
            let inverse: Vec<f32> = values(seed ^ 3, tokens).iter().map(|x| x.abs() + 0.1).collect();
            for cpu in cpus() {
                let norm = FrozenNorm { kind, inverse: &inverse, weight: Some(&weight) };
                let mut y = vec![0.0; rows * width];
                cpu.norm_frozen(norm, None, x.view(), RowsMut::dense(&mut y, rows, width));
                let mut back = vec![0.0; rows * width];
                cpu.norm_frozen_back(norm, g.view(), RowsMut::dense(&mut back, rows, width));
                let dot = |a: &[f32], of: &Matrix| -> f64 {
                    (0..rows).flat_map(|row| of.view().row(row).to_vec()).zip(a)
                        .map(|(x, y)| f64::from(x) * f64::from(*y)).sum()
                };
                let (forward, backward) = (dot(&y, &g), dot(&back, &x));
                let scale = y.iter().fold(1.0f64, |most, y| most.max(f64::from(y.abs()))) * (rows * width) as f64;
                prop_assert!((forward - backward).abs() <= 1e-5 * scale, "{forward} {backward}");
            }
        }
    }
}
