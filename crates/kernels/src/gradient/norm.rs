//! The gradient of a norm's input.

use crate::norm::{sum, sum_of_squares};
use crate::vector::{Vector, Work};
use crate::{Cpu, NormKind, Rows, RowsMut};

/// Whether a norm's divisor depends on its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// It depends on the input.
    Moves,
    /// It is held constant (RelP, arXiv 2508.21258). A LayerNorm's mean is not.
    Stays,
}

impl Cpu {
    /// Adds to `out` the gradient of x from that of y = norm(x) · weight + bias, the norm of every `group` columns.
    ///
    /// With x̂ = (x - mean) / σ and h = g · weight: (h - mean(h) - x̂ · mean(h · x̂)) / σ, without the means of x and h
    /// for an RMS norm, and without the last term for a constant divisor.
    ///
    /// # Shapes
    /// x, g, out: `[rows, cols]`; weight: `[group]` or `[cols]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
    pub fn norm_back(
        &self,
        kind: NormKind,
        scale: Scale,
        x: Rows<'_>,
        group: usize,
        weight: Option<&[f32]>,
        eps: f32,
        g: Rows<'_>,
        out: RowsMut<'_>,
    ) {
        let shape = (x.n_rows(), x.n_columns());
        assert_eq!((g.n_rows(), g.n_columns()), shape, "values and gradients of a norm");
        assert_eq!((out.n_rows(), out.n_columns()), shape, "gradients on both sides of a norm");
        assert!(group > 0 && shape.1.is_multiple_of(group), "{} columns in groups of {group}", shape.1);
        let fits = |weight: &[f32]| weight.len() == group || weight.len() == shape.1;
        assert!(weight.is_none_or(fits), "weights of a norm");
        self.for_each_row(out, |row, out| {
            let mut weighted = g.row(row).to_vec();
            if let Some(weight) = weight {
                weighted.iter_mut().zip(weight.iter().cycle()).for_each(|(g, w)| *g *= w);
            }
            let groups = weighted.chunks_exact(group).zip(x.row(row).chunks_exact(group));
            for ((weighted, x), out) in groups.zip(out.chunks_exact_mut(group)) {
                self.run(NormBack { kind, scale, eps, x, weighted, out });
            }
        });
    }
}

/// The work of one group.
struct NormBack<'a> {
    kind: NormKind,
    scale: Scale,
    eps: f32,
    x: &'a [f32],
    /// The gradient times the norm's weight.
    weighted: &'a [f32],
    out: &'a mut [f32],
}

impl Work for NormBack<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let NormBack { kind, scale, eps, x, weighted, out } = self;
        let n = x.len() as f32;
        let (mean, mean_of_gradients) = match kind {
            NormKind::Layer => (sum(v, x) / n, sum(v, weighted) / n),
            NormKind::Rms => (0.0, 0.0),
        };
        let inverse = 1.0 / (sum_of_squares(v, x, mean) / n + eps).sqrt();
        let along = match scale {
            Scale::Moves => product_sum(v, weighted, x, mean) * inverse * inverse / n,
            Scale::Stays => 0.0,
        };
        for ((out, h), x) in out.iter_mut().zip(weighted).zip(x) {
            *out += inverse * (h - mean_of_gradients - (x - mean) * along);
        }
    }
}

/// The sum of g · (x - mean).
#[inline(always)]
fn product_sum<V: Vector>(v: V, g: &[f32], x: &[f32], mean: f32) -> f32 {
    let means = v.splat(mean);
    let mut sums = v.splat(0.0);
    let mut start = 0;
    while start < x.len() {
        let end = x.len().min(start + V::LANES);
        // A lane without a value adds nothing.
        let difference = v.sub(v.load_or(&x[start..end], mean), means);
        sums = v.mul_add(v.load_or(&g[start..end], 0.0), difference, sums);
        start = end;
    }
    v.sum(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Matrix, bits, cpus, values};
    use proptest::prelude::*;

    /// The norm in f64, times g, summed; with a given divisor, or its own.
    fn of(kind: NormKind, x: &[f64], w: &[f64], g: &[f64], eps: f64, divisor: Option<f64>) -> f64 {
        let n = x.len() as f64;
        let mean = if kind == NormKind::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
        let own = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + eps).sqrt();
        let divisor = divisor.unwrap_or(own);
        x.iter().zip(w).zip(g).map(|((x, w), g)| (x - mean) / divisor * w * g).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn gradients_of_norms_are_central_differences_and_the_same_alone(
            layer in any::<bool>(), stays in any::<bool>(), group in 2_usize..70, groups in 1_usize..3, rows in 1_usize..5,
        ) {
            let kind = if layer { NormKind::Layer } else { NormKind::Rms };
            let scale = if stays { Scale::Stays } else { Scale::Moves };
            let cols = group * groups;
            let (x, g) = (Matrix::random(1, rows, cols, cols + 1), Matrix::random(2, rows, cols, cols));
            let weight = values(3, group);
            let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
            for cpu in cpus() {
                let mut out = Matrix { values: vec![0.0; rows * cols], rows, cols, stride: cols };
                cpu.norm_back(kind, scale, x.view(), group, Some(&weight), 1e-2, g.view(), out.view_mut());
                for row in 0..rows {
                    let mut alone = vec![0.0; cols];
                    let one = RowsMut::dense(&mut alone, 1, cols);
                    let (x, g) = (x.view().rows(row..row + 1), g.view().rows(row..row + 1));
                    cpu.norm_back(kind, scale, x, group, Some(&weight), 1e-2, g, one);
                    prop_assert_eq!(bits(&alone), bits(out.view().row(row)));
                    for start in (0..cols).step_by(group) {
                        let part = |values: Rows<'_>| wide(&values.row(0)[start..start + group]);
                        let (x, g, w) = (part(x), part(g), wide(&weight));
                        let n = group as f64;
                        let mean = if layer { x.iter().sum::<f64>() / n } else { 0.0 };
                        let own = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + 1e-2).sqrt();
                        for i in 0..group {
                            let moved = |by: f64| {
                                let mut x = x.clone();
                                x[i] += by;
                                of(kind, &x, &w, &g, 1e-2, stays.then_some(own))
                            };
                            let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                            let found = f64::from(alone[start + i]);
                            prop_assert!((found - expected).abs() < 2e-4, "{found} {expected}");
                        }
                    }
                }
            }
        }
    }
}
